"""Shared by all tests. Because it stands here, tests import `strategies` (random networks) by that name."""

from hypothesis import settings

# The examples' time depends on what else the machine does; the suite's total is what is budgeted.
settings.register_profile("snnc", deadline=None)
settings.load_profile("snnc")

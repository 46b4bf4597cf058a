"""Fixtures for the Lava back end."""

from __future__ import annotations

import os

import pytest

from toolchain.environment import Interpreter, find_lava
from toolchain.errors import ToolError


@pytest.fixture(scope="session")
def lava() -> Interpreter:
    """The interpreter that has Lava. `make test` sets SNNC_REQUIRE_LAVA, so that there a missing one is a failure."""
    try:
        return find_lava()
    except ToolError as error:
        if os.environ.get("SNNC_REQUIRE_LAVA"):
            raise
        pytest.skip(f"no Lava: {error.message}")

"""Shared by all tests. Because it stands here, tests import `strategies` (random networks) by that name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from toolchain.environment import Interpreter, find_lava
from toolchain.errors import ToolError

# The examples' time depends on what else the machine does; the suite's total is what is budgeted.
settings.register_profile("snnc", deadline=None)
settings.load_profile("snnc")


@pytest.fixture(scope="session")
def lava() -> Interpreter:
    """The interpreter that has Lava. `make test` sets SNNC_REQUIRE_LAVA, so that there a missing one is a failure."""
    try:
        return find_lava()
    except ToolError as error:
        if os.environ.get("SNNC_REQUIRE_LAVA"):
            raise
        pytest.skip(f"no Lava: {error.message}")


@pytest.fixture(scope="session")
def mnist() -> Path:
    """The folder with MNIST's four files: SNNC_DATA, or shared/data beside the repository."""
    folder = Path(os.environ.get("SNNC_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not any((folder / sub / "train-images-idx3-ubyte.gz").exists() for sub in ("", "mnist")):
        pytest.skip(f"no MNIST in {folder}: set SNNC_DATA to the folder that holds it")
    return folder

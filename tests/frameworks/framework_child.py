"""Runs tests where a framework can be imported."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import setup_frameworks

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def environment(name: str) -> dict[str, str]:
    """Variables with which a child process imports a framework; skips the test where it is not installed.

    `make test` sets SNNC_REQUIRE_FRAMEWORKS, so that there a missing one is a failure.
    """
    if not setup_frameworks.ready(name):
        why = f"{name} is not installed: `make frameworks`"
        pytest.fail(why) if os.environ.get("SNNC_REQUIRE_FRAMEWORKS") else pytest.skip(why)
    folder = setup_frameworks.TARGET / name
    if not any(folder.glob("*.dist-info")):
        pytest.skip(f"no version of {name} for Python {sys.version_info[0]}.{sys.version_info[1]}")
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(folder), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path.rstrip(os.pathsep), "SNNC_FRAMEWORK": name}


def inside(name: str, file: str) -> str:
    """Run the tests of a file in `inside/` where a framework can be imported; gives the report.

    A failure there fails the test, with what pytest printed. So does a skipped test: nothing there has a reason to be.
    """
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(
        [*command, "-c", str(HERE / "inside" / "pytest.ini"), str(HERE / "inside" / file)],
        env=environment(name),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    report = done.stdout + done.stderr
    assert done.returncode == 0, f"{name}, {file}:\n{report}"
    assert re.search(r"\b\d+ passed", report), report
    assert not re.search(r"\b\d+ (skipped|xfailed)", report), report
    return report

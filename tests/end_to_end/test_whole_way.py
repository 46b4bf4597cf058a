"""The whole way as the README shows it: train, compile, report, simulate, verify in Lava."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from toolchain.environment import LAVA_PYTHON, Interpreter

pytest.importorskip("torch")


def snnc(*arguments: object, lava: Interpreter | None = None) -> str:
    """Run the command in a process of its own; its output, once it has ended well."""
    environment = {**os.environ, **({} if lava is None else {LAVA_PYTHON: str(lava.path)})}
    command = [sys.executable, "-m", "toolchain.cli", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.lava
def test_the_demo(tmp_path: Path, lava: Interpreter) -> None:
    text = snnc("demo", "-o", tmp_path / "demo", lava=lava)
    for shown in ("accuracy", "1 core of 1 chip", "must be exact", "report.html"):
        assert shown in text
    rows = json.loads(snnc("verify", tmp_path / "demo" / "build", "--without-lava", "--samples", 360, "--json"))
    assert rows[-1]["name"] == "reference"
    assert rows[-1]["accuracy"] >= 0.95
    assert snnc("report", tmp_path / "demo" / "build", "--csv").count("\n") == 2


@pytest.mark.slow
@pytest.mark.lava
def test_mnist_as_deployed(tmp_path: Path, mnist: Path, lava: Interpreter) -> None:
    """Two epochs: enough to ask whether the integers lose accuracy, and whether Lava agrees on 1,000 images."""
    snnc(
        *("train", "models/mnist_mlp.toml", "--data", mnist, "--epochs", 2, "--connectivity", 0.05),
        *("-o", tmp_path / "run"),
    )
    snnc("compile", tmp_path / "run", "--target", "loihi", "-o", tmp_path / "build")
    verify = ("verify", tmp_path / "build", "--data", mnist, "--json", "--samples")
    rows = {row["name"]: row for row in json.loads(snnc(*verify, 10_000, "--without-lava"))}
    assert rows["reference"]["accuracy"] > 0.9
    assert abs(rows["reference"]["accuracy"] - rows["float"]["accuracy"]) <= 0.003
    rows = {row["name"]: row for row in json.loads(snnc(*verify, 1_000, lava=lava))}
    assert rows["lava"]["first_divergence"] is None
    assert rows["lava"]["agreement"] == 1.0

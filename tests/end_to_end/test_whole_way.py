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
    assert [row["name"] for row in rows[-2:]] == ["fast", "onnx"]
    assert all(row["first_divergence"] is None for row in rows[-2:])
    assert rows[-1]["accuracy"] >= 0.95
    assert snnc("report", tmp_path / "demo" / "build", "--csv").count("\n") == 2


@pytest.mark.slow
@pytest.mark.lava
def test_mnist_as_deployed(tmp_path: Path, mnist: Path, lava: Interpreter) -> None:
    """Two epochs: enough to ask whether the integers lose accuracy, and whether Lava agrees on all 10,000 images."""
    snnc(
        *("train", "models/mnist_mlp.toml", "--data", mnist, "--epochs", 2, "--connectivity", 0.05),
        *("-o", tmp_path / "run"),
    )
    snnc("compile", tmp_path / "run", "--target", "loihi", "-o", tmp_path / "build")
    verify = ("verify", tmp_path / "build", "--data", mnist, "--json", "--samples")
    rows = {row["name"]: row for row in json.loads(snnc(*verify, 10_000, lava=lava))}
    assert rows["reference"]["accuracy"] > 0.9
    assert abs(rows["reference"]["accuracy"] - rows["float"]["accuracy"]) <= 0.003
    assert rows["fast"]["first_divergence"] is None
    assert rows["onnx"]["first_divergence"] is None
    assert rows["lava"]["first_divergence"] is None
    assert rows["lava"]["agreement"] == 1.0
    (note,) = rows["lava"]["notes"]
    assert note.startswith("LAV002")
    assert "8 also by stock processes, every spike equal" in note


@pytest.mark.slow
@pytest.mark.lava
def test_a_convolutional_network(tmp_path: Path, lava: Interpreter) -> None:
    """Convolutions, batch norm, max pooling and soft reset, as trained: on cores, in the reference and in Lava."""
    run, build = tmp_path / "run", tmp_path / "build"
    trained = snnc("train", "models/digits_conv.toml", "--epochs", 3, "-o", run)
    snnc("compile", run, "--target", "loihi", "-o", build)
    text = snnc("report", build)
    for shown in ("max pool 2x2 (OR)", "8x4x4 -> 16x4x4", "all equal", "2 cores of 1 chip"):
        assert shown in text
    facts = json.loads(snnc("report", build, "--json"))
    conv2 = next(layer for layer in facts["layers"] if layer["name"] == "conv2")
    assert conv2["op"] == "conv 3x3 + LIF, soft reset"  # the text may break its lines anywhere
    assert conv2["synapses"] > 5 * conv2["stored_weights"]
    figures = json.loads(snnc("simulate", build, "--json"))
    assert f"accuracy {100 * figures['accuracy']:.2f} %" in trained  # trained in the chip's own integers
    assert figures["accuracy"] > 0.5
    rows = json.loads(snnc("verify", build, "--samples", 20, "--json", lava=lava))
    assert [row["name"] for row in rows] == ["float", "quantised", "reference", "fast", "onnx", "lava"]
    assert rows[-1]["first_divergence"] is None
    assert "conv2[3, 1, 2] is neuron 54 of 256" in snnc("inspect", build, "--neuron", "conv2:3,1,2")

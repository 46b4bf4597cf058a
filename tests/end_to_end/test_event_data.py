"""From a file of lava-dl and recordings of spikes to simulated samples, by the command."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from toolchain.backends import reference
from toolchain.build import load_build
from toolchain.cli import run

NET = Path(__file__).parents[1] / "data" / "netx"


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("events") / "build"
    assert run(["compile", str(NET / "recurrent.net"), "--target", "loihi", "--steps", "24", "-o", str(folder)]) == 0
    return folder


def digits(path: Path, *, labels: bool = True) -> np.ndarray:
    """Spike trains as the Heidelberg digits have them; the same as an array (samples, steps, units)."""
    random = np.random.default_rng(0)
    dense = (random.random((30, 24, 12)) < 0.1).astype(np.uint8)
    with h5py.File(path, "w") as file:
        times = file.create_dataset("spikes/times", 30, h5py.vlen_dtype("f2"))
        units = file.create_dataset("spikes/units", 30, h5py.vlen_dtype("u2"))
        for k, sample in enumerate(dense):
            steps, units[k] = np.nonzero(sample)
            times[k] = (steps + 0.5) * 0.01
        if labels:
            file["labels"] = random.integers(0, 5, 30)
    return dense


def test_simulated_from_the_file_as_from_an_array(build: Path, tmp_path: Path, capsys) -> None:
    dense = digits(tmp_path / "digits.h5")
    options = ["--events", str(tmp_path / "digits.h5"), "--dt", "10ms", "--json"]
    capsys.readouterr()
    assert run(["simulate", str(build), *options, "--save-spikes", str(tmp_path / "spikes.npz")]) == 0
    shown = capsys.readouterr()
    assert f"EVT001 {tmp_path / 'digits.h5'}: {dense.sum()} events of 30 samples" in shown.err.replace("\n", " ")
    assert "EVT002" not in shown.err
    wanted = reference.run(load_build(build).program, dense)
    with h5py.File(tmp_path / "digits.h5") as file:
        right = float(np.mean(wanted.decisions == file["labels"][()]))
    assert json.loads(shown.out)["accuracy"] == right
    with np.load(tmp_path / "spikes.npz") as found:
        assert set(found) == set(wanted.spikes)
        for name, spikes in wanted.spikes.items():
            assert np.array_equal(found[name], spikes)
            assert 0 < spikes.mean() < 1


def test_verified_with_and_without_labels(build: Path, tmp_path: Path, capsys) -> None:
    for labels in (True, False):
        digits(tmp_path / "digits.h5", labels=labels)
        options = ["--events", str(tmp_path / "digits.h5"), "--dt", "10ms", "--samples", "8", "--without-lava"]
        capsys.readouterr()
        assert run(["verify", str(build), *options, "--json"]) == 0
        rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
        assert {"float", "quantised", "reference", "fast", "onnx"} == set(rows)
        assert all((row["accuracy"] is not None) == labels for row in rows.values())
        assert rows["fast"]["first_divergence"] is None
        assert rows["onnx"]["first_divergence"] is None
    assert run(["simulate", str(build), *options[:4]]) == 0
    assert "no labels for 30 test samples" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], ("reads spikes of every step", "docs/events.md")),
        (["--dt", "1ms"], ("--events FILE",)),
        (["--events", "DIGITS", "--dt", "1"], ("--dt", "such as 1ms")),
        (["--events", "DIGITS", "--map", "2x3x3"], ("--map", "12 neurons")),
        (["--events", "DIGITS", "--map", "two"], ("no map",)),
        (["--events", "DIGITS", "--map", "1x3x4"], ("units without rows and columns",)),
        (["--events", "DIGITS", "--samples", "31"], ("1 to 30",)),
        (["--events", "NONE"], ("no such file",)),
    ],
)
def test_refused(build: Path, tmp_path: Path, capsys, options: list[str], words: tuple[str, ...]) -> None:
    digits(tmp_path / "digits.h5")
    names = {"DIGITS": str(tmp_path / "digits.h5"), "NONE": str(tmp_path / "none.h5")}
    assert run(["simulate", str(build), *(names.get(option, option) for option in options)]) in (1, 2)
    shown = capsys.readouterr().err.replace("\n", " ")
    for word in words:
        assert word in shown


def test_events_of_a_camera_into_a_convolution(tmp_path: Path, capsys) -> None:
    """The map is the network's own; a folder of N-MNIST's files, a folder for each label."""
    model = [str(NET / "conv.net"), "--target", "loihi", "--steps", "24", "-o", str(tmp_path / "build")]
    assert run(["compile", *model]) == 0
    random = np.random.default_rng(4)
    dense = (random.random((6, 24, 2, 9, 6)) < 0.1).astype(np.uint8)
    for k, sample in enumerate(dense):
        step, p, y, x = np.nonzero(sample)
        t = step * 500 + random.integers(0, 500, len(step))
        packed = np.stack([x, y, p << 7 | t >> 16, t >> 8 & 255, t & 255], axis=1).astype(np.uint8)
        folder = tmp_path / "recordings" / str(k)
        folder.mkdir(parents=True)
        packed.tofile(folder / "0001.bin")
    options = ["--events", str(tmp_path / "recordings"), "--dt", "500us", "--json"]
    capsys.readouterr()
    assert run(["simulate", str(tmp_path / "build"), *options, "--save-spikes", str(tmp_path / "spikes.npz")]) == 0
    wanted = reference.run(load_build(tmp_path / "build").program, dense.reshape(6, 24, -1))
    assert json.loads(capsys.readouterr().out)["accuracy"] == float(np.mean(wanted.decisions == np.arange(6)))
    with np.load(tmp_path / "spikes.npz") as found:
        for name, spikes in wanted.spikes.items():
            assert np.array_equal(found[name], spikes)


def test_events_for_a_network_of_images(tmp_path: Path, capsys) -> None:
    digits(tmp_path / "digits.h5")
    model = [str(NET / "dense.net"), "--target", "loihi", "--coding", "rate", "-o", str(tmp_path / "build")]
    assert run(["compile", *model]) == 0
    assert run(["simulate", str(tmp_path / "build"), "--events", str(tmp_path / "digits.h5")]) == 1
    assert "input coding 'rate'" in capsys.readouterr().err

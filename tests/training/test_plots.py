"""Pictures of runs."""

import json
import sys

import pytest

from toolchain.errors import SnncError
from toolchain.training.loop import train
from toolchain.training.plots import plot
from toolchain.training.progress import Silent

pytest.importorskip("matplotlib", reason="matplotlib is not installed")


def test_pictures_of_a_run(tmp_path, small):
    run = tmp_path / "run"
    train(small.resolve({"train.epochs": 4}), out_dir=run, reporter=Silent())
    written = plot(run)
    assert [path.name for path in written] == ["training.png", "layers.png", "weights.png"]
    for path in written:
        assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert path.stat().st_size > 5000
    (run / "model.pt").unlink()
    elsewhere = tmp_path / "pictures"
    assert [path.parent for path in plot(run, elsewhere)] == [elsewhere] * 2
    (run / "metrics.jsonl").write_text("")
    with pytest.raises(SnncError, match="no epoch"):
        plot(run)
    with pytest.raises(SnncError, match="no training run"):
        plot(tmp_path)


def test_tensorboard_says_what_is_missing(tmp_path, small, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(SnncError, match="tensorboard is not installed") as caught:
        train(small, out_dir=tmp_path / "run", reporter=Silent(), tensorboard=True)
    assert "snnc[tensorboard]" in str(caught.value)


def test_tensorboard_has_the_records(tmp_path, small):
    events = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed"
    )
    train(small.resolve({"train.epochs": 2}), out_dir=tmp_path / "run", reporter=Silent(), tensorboard=True)
    found = events.EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    logged = [event.value for event in found.Scalars("loss")]
    assert logged == pytest.approx([line["loss"] for line in lines if "epoch" in line])
    assert "connectivity_per_layer/fc1" in found.Tags()["scalars"]

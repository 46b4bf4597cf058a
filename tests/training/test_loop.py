"""Stops, failures and continuations of a run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from comparison import content

from toolchain.errors import Interrupted, SnncError
from toolchain.training import checkpoint, precision
from toolchain.training.loop import learning_rates, loss_of, train
from toolchain.training.progress import Bar, Lines, Silent, Status, automatic
from toolchain.training.recipe import Recipe, Train

CHILD = """
import sys, torch
torch.set_num_threads(1)
from toolchain.errors import SnncError
from toolchain.training.loop import train
from toolchain.training.recipe import Recipe
try:
    train(Recipe.load(sys.argv[1]), out_dir=sys.argv[2])
except SnncError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


def start_child(recipe, folder, epochs_to_wait_for):
    """A training process, once it has finished some epochs."""
    path = folder / "small.toml"
    path.write_text(recipe.to_toml())
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path), str(folder / "run")],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics = folder / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (metrics.exists() and len(metrics.read_text().splitlines()) >= epochs_to_wait_for):
        assert child.poll() is None, child.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return child


@pytest.fixture
def long(small) -> Recipe:
    return small.resolve({"train.epochs": 24})


@pytest.mark.slow
def test_a_killed_run_continues_to_the_same_bits(tmp_path, long):
    child = start_child(long, tmp_path, 4)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert not (tmp_path / "run" / "model.pt").exists()
    train(long, out_dir=tmp_path / "run", resume=True, reporter=Silent())
    train(long, out_dir=tmp_path / "whole", reporter=Silent())
    assert content(tmp_path / "run") == content(tmp_path / "whole")


@pytest.mark.slow
def test_ctrl_c_saves_says_how_to_continue_and_ends_cleanly(tmp_path, long):
    child = start_child(long, tmp_path, 2)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert child.returncode == Interrupted.exit_code
    assert "--resume" in said
    assert "Traceback" not in said
    files = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert files == ["checkpoint.pt", "metrics.jsonl", "recipe.toml"]
    train(long, out_dir=tmp_path / "run", resume=True, reporter=Silent())
    assert (tmp_path / "run" / "model.pt").exists()


class Full:
    """A file that takes a little and then fails as a full disk does."""

    def __init__(self, stream):
        self.stream, self.room = stream, 4000

    def write(self, chunk):
        self.stream.write(chunk[: self.room])
        if len(chunk) > self.room:
            raise OSError(28, "No space left on device")
        self.room -= len(chunk)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.stream.close()

    def __getattr__(self, name):
        return getattr(self.stream, name)


@pytest.fixture
def full_disk(monkeypatch):
    """Call it, and from then on the disk is nearly full."""
    real = os.fdopen
    return lambda: monkeypatch.setattr(os, "fdopen", lambda handle, mode: Full(real(handle, mode)))


def test_a_full_disk_leaves_no_half_file(tmp_path, small, full_disk):
    full_disk()
    with pytest.raises(SnncError) as caught:
        train(small, out_dir=tmp_path / "run", reporter=Silent())
    assert "could not write" in str(caught.value)
    assert "checkpoint.pt" in str(caught.value)
    assert "No space left" in str(caught.value)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["recipe.toml"]


def test_a_failed_write_keeps_the_checkpoint_before_it(tmp_path, full_disk):
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(path, {"format": "snnc-checkpoint", "version": 1, "x": torch.ones(3)})
    before = path.read_bytes()
    full_disk()
    with pytest.raises(SnncError, match="No space left"):
        checkpoint.save(path, {"format": "snnc-checkpoint", "version": 1, "x": torch.ones(3000)})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_folders_and_checkpoints_that_are_refused(tmp_path, small):
    short = small.resolve({"train.epochs": 1})
    run = tmp_path / "run"
    with pytest.raises(SnncError, match="no checkpoint"):
        train(short, out_dir=run, resume=True, reporter=Silent())
    assert not run.exists()
    train(short, out_dir=run, reporter=Silent())
    with pytest.raises(SnncError, match="exists already") as caught:
        train(short, out_dir=run, reporter=Silent())
    assert "--resume" in str(caught.value)
    with pytest.raises(SnncError, match="another recipe") as caught:
        train(short.resolve({"train.lr": 0.5, "seed": 9}), out_dir=run, resume=True, reporter=Silent())
    assert "differs in seed, train.lr" in str(caught.value)
    whole = (run / "checkpoint.pt").read_bytes()
    for damaged in (b"", whole[:-100], b"not a checkpoint"):
        (run / "checkpoint.pt").write_bytes(damaged)
        with pytest.raises(SnncError, match="damaged or no checkpoint"):
            train(short, out_dir=run, resume=True, reporter=Silent())
    checkpoint.save(run / "checkpoint.pt", {"format": "snnc-checkpoint", "version": 99})
    with pytest.raises(SnncError, match="another version"):
        train(short, out_dir=run, resume=True, reporter=Silent())
    checkpoint.save(run / "checkpoint.pt", {"format": "snnc-model"})
    with pytest.raises(SnncError, match="not a checkpoint"):
        train(short, out_dir=run, resume=True, reporter=Silent())


def test_resuming_a_finished_run_gives_its_result_again(tmp_path, small):
    short = small.resolve({"train.epochs": 2})
    first = train(short, out_dir=tmp_path / "run", reporter=Silent())
    before = content(tmp_path / "run")
    again = train(short, out_dir=tmp_path / "run", resume=True, reporter=Silent())
    assert again.metrics == first.metrics
    assert content(tmp_path / "run") == before


def test_a_loss_that_is_not_finite_is_an_error(tmp_path, small, monkeypatch):
    monkeypatch.setattr("toolchain.training.loop.loss_of", lambda *a: torch.tensor(float("nan"), requires_grad=True))
    with pytest.raises(SnncError, match="not finite") as caught:
        train(small, out_dir=tmp_path / "run", reporter=Silent())
    assert "lower [train] lr" in str(caught.value)


@pytest.mark.slow
def test_the_shipped_digits_recipe_learns(tmp_path):
    recipe = Recipe.load(Path(__file__).parents[2] / "models" / "digits.toml")
    result = train(recipe, out_dir=tmp_path / "run", reporter=Silent())
    assert result.metrics["accuracy"] >= recipe.promise.accuracy
    assert result.metrics["connectivity"] == pytest.approx(recipe.promise.connectivity, rel=0.05)


def test_the_model_is_plain_and_says_where_it_comes_from(tmp_path, small):
    result = train(small.resolve({"train.epochs": 1}), out_dir=tmp_path / "run", reporter=Silent())
    model = torch.load(result.model, weights_only=True)
    assert (model["format"], model["version"], model["name"], model["seed"]) == ("snnc-model", 2, "small", 0)
    assert model["steps"] == 4
    assert model["input"] == {"shape": [64], "coding": "rate", "scale": 1.0, "offset": 0.0, "threshold": 127}
    assert set(model["versions"]) == {"snnc", "torch", "python"}
    assert Recipe.from_dict(model["recipe"]) == result.recipe
    assert [layer["name"] for layer in model["layers"]] == ["fc1.weight", "fc1", "fc2.weight", "fc2"]
    assert [layer["inputs"] for layer in model["layers"]] == [["input"], ["fc1.weight"], ["fc1"], ["fc2.weight"]]
    neuron = {"threshold": 1.0, "gain": 0.5, "current_decay": 1.0, "voltage_decay": 0.5, "reset": "zero"}
    rest = {"op": "neuron", "refractory": 0, "recurrent": None}
    for layer in model["layers"][1::2]:
        assert {key: value for key, value in layer.items() if key not in ("name", "inputs")} == {**neuron, **rest}


@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
def test_losses(loss):
    rates = torch.tensor([[0.5, 0.25]])
    value = float(loss_of(Train(loss=loss, loss_scale=4.0), rates, torch.tensor([1])))
    expected = {"mse": (0.25 + 0.5625) / 2, "cross-entropy": 1.3132617}
    assert value == pytest.approx(expected[loss])


@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
def test_label_smoothing_mixes_the_label_with_all_classes_alike(loss):
    """0.2 of 4 classes: 0.85 for the label and 0.05 for each other, written out by hand."""
    rates = torch.tensor([[0.5, 0.25, 0.0, 1.0]])
    options = Train(loss=loss, loss_scale=2.0, label_smoothing=0.2)
    target = torch.tensor([0.05, 0.85, 0.05, 0.05])
    logits = 2.0 * rates[0]
    by_hand = {
        "mse": ((rates[0] - target) ** 2).mean(),
        "cross-entropy": -(target * (logits - logits.exp().sum().log())).sum(),
    }
    torch.testing.assert_close(loss_of(options, rates, torch.tensor([1])), by_hand[loss])


def test_learning_rates():
    assert learning_rates(Train(epochs=2, lr=0.1), 2) == (0.1, 0.1, 0.1, 0.1)
    rates = learning_rates(Train(epochs=4, lr=1.0, warmup=1, schedule="cosine", final_lr=0.1), 2)
    assert rates[:3] == (0.5, 1.0, 1.0)
    assert rates[5] == pytest.approx(0.55)
    late = learning_rates(Train(epochs=4, lr=1.0, schedule="cosine", decay_from=0.5), 2)
    assert late[:5] == (1.0,) * 5
    assert late[6] == pytest.approx(0.5)


def test_bfloat16_trains_and_is_not_used_where_it_is_slow(tmp_path, small, monkeypatch):
    recipe = small.resolve({"train.precision": "bfloat16", "train.epochs": 12})
    result = train(recipe, out_dir=tmp_path / "run", reporter=Silent())
    assert result.metrics["accuracy"] > 0.4
    for tiles, chosen in ((False, "float32"), (True, "bfloat16")):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda tiles=tiles: tiles, raising=False)
        assert precision.resolve("auto") == chosen
    assert precision.resolve("bfloat16") == "bfloat16"


def status(step):
    return Status(step, 20, step // 2, 10, 0.5, 0.91, 0.05)


def test_progress_as_lines_and_as_a_bar(tmp_path):
    class Terminal:
        def __init__(self):
            self.text = ""

        def write(self, text):
            self.text += text
            return len(text)

        def flush(self):
            pass

        def isatty(self):
            return self is terminal

    terminal, pipe = Terminal(), Terminal()
    assert isinstance(automatic(pipe), Lines)
    lines = automatic(pipe)
    for step in (2, 4, 20):
        lines.update(status(step), epoch_ended=True)
    lines.close()
    # The second came within the same second.
    assert [line.split("  ")[0] for line in pipe.text.splitlines()] == ["epoch 1/10", "epoch 10/10"]
    assert "loss 0.5000  accuracy 91.00%  connectivity 5.00%  0 s left" in pipe.text
    bar = automatic(terminal)
    assert isinstance(bar, Bar)
    bar.update(status(2), epoch_ended=True)
    bar.close()
    assert "epoch 1/10" in terminal.text


def test_metrics_are_json_lines_from_the_first_epoch_on(tmp_path, small):
    seen = []

    class Look(Silent):
        def update(self, status, *, epoch_ended):
            if epoch_ended:
                text = (tmp_path / "run" / "metrics.jsonl").read_text()
                seen.append([json.loads(line)["epoch"] for line in text.splitlines()])

    train(small.resolve({"train.epochs": 3}), out_dir=tmp_path / "run", reporter=Look())
    assert seen == [[1], [1, 2], [1, 2, 3]]

"""What every pruning method must keep, run through the whole table."""

import json
import threading

import pytest
import torch
from comparison import content

from toolchain.errors import Interrupted, SnncError
from toolchain.training.data import load
from toolchain.training.loop import Session, train
from toolchain.training.methods import METHODS, method_config
from toolchain.training.progress import Silent
from toolchain.training.recipe import Recipe


@pytest.fixture(params=sorted(METHODS))
def recipe(request, small) -> Recipe:
    return small.resolve({"method.name": request.param, "network.bias": True})


def test_the_mask_is_respected(tmp_path, recipe):
    result = train(recipe, out_dir=tmp_path / "run", reporter=Silent())
    model = torch.load(result.model, weights_only=True)
    total = alive = 0
    for layer in (layer for layer in model["layers"] if "mask" in layer):
        assert layer["mask"].dtype == torch.bool
        assert layer["mask"].shape == layer["weight"].shape
        # A synapse has a weight, and nothing else has.
        assert torch.equal(layer["weight"] != 0, layer["mask"])
        total, alive = total + layer["mask"].numel(), alive + int(layer["mask"].sum())
    assert result.metrics["connectivity"] == pytest.approx(alive / total)


def test_same_seed_same_result_and_another_seed_another(tmp_path, recipe):
    runs = [
        train(recipe.resolve({"seed": seed, "train.epochs": 3}), out_dir=tmp_path / str(i), reporter=Silent())
        for i, seed in enumerate((5, 5, 6))
    ]
    first, same, other = (content(run.model.parent) for run in runs)
    assert first == same
    assert first["layers"] != other["layers"]


class StopAt(Silent):
    """Asks for a stop after so many steps, as a signal does."""

    def __init__(self, stopped, step):
        self.stopped, self.step = stopped, step

    def update(self, status, *, epoch_ended):
        if status.step >= self.step:
            self.stopped.set()


@pytest.mark.parametrize("step", [10, 60, 150])
def test_resume_equals_not_having_stopped(tmp_path, recipe, step):
    # 30 steps are an epoch: stops within one, at the end of one, and after the mask is frozen.
    whole = train(recipe, out_dir=tmp_path / "whole", reporter=Silent())
    part = tmp_path / "part"
    part.mkdir()
    stopped = threading.Event()
    session = Session(recipe, load("digits"), part)
    with pytest.raises(Interrupted, match="--resume"):
        session.run(StopAt(stopped, step), stopped)
    assert not (part / "model.pt").exists()
    resumed = train(recipe, out_dir=part, resume=True, reporter=Silent())
    assert content(part) == content(tmp_path / "whole")
    assert resumed.metrics["accuracy"] == whole.metrics["accuracy"]


def test_the_metrics_say_what_was_promised(tmp_path, recipe):
    result = train(recipe, out_dir=tmp_path / "run", reporter=Silent())
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line.get("epoch") for line in lines[:-1]] == list(range(1, 7))
    assert lines[-1]["final"] is True
    for key in (
        "accuracy",
        "connectivity",
        "connectivity_per_layer",
        "spikes_per_neuron",
        "silent_neurons",
        "synaptic_operations",
    ):
        assert lines[-1][key] == result.metrics[key]
    assert Recipe.load(tmp_path / "run" / "recipe.toml") == result.recipe


def test_an_unknown_method_suggests_the_nearest():
    with pytest.raises(SnncError, match="did you mean 'grad-r'"):
        method_config("gradr")

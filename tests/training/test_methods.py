"""What every pruning method must keep, run through the whole table."""

import dataclasses
import json
import threading

import pytest
import torch
from comparison import StopAt, content

import hw_targets
from toolchain.backends import reference
from toolchain.errors import Interrupted, SnncError
from toolchain.frontends import load as load_model
from toolchain.pipeline import compile_graph
from toolchain.simulation import accuracy
from toolchain.training.data import load
from toolchain.training.loop import Session, train
from toolchain.training.methods import METHODS, method_config
from toolchain.training.progress import Silent
from toolchain.training.recipe import Recipe

TREE = [
    {"kind": "conv", "name": "stem", "channels": 3},
    {"kind": "conv", "name": "inner", "channels": 3},
    {"kind": "add", "name": "block", "from": ["stem", "inner"]},
    {"kind": "avg_pool"},
    {"kind": "dense", "name": "loop", "units": 12, "recurrent": True},
]


def of_method(recipe: Recipe, name: str) -> Recipe:
    """The recipe with another method, which moves synapses often and has a final set before the end."""
    often = {"interval": 7, "freeze": 0.3, "connectivity": 0.2}
    known = {field.name for field in dataclasses.fields(method_config(name))}
    return recipe.resolve({"method.name": name} | {f"method.{key}": often[key] for key in often if key in known})


@pytest.fixture(params=sorted(METHODS))
def recipe(request, small) -> Recipe:
    return of_method(small, request.param).resolve({"network.bias": True})


@pytest.fixture(params=sorted(METHODS))
def tree(request, small) -> Recipe:
    """Convolutions, a residual sum, recurrent weights and batch norms that are folded, in the chip's integers."""
    overrides = {"network.hidden": [], "network.layers": TREE, "network.batch_norm": True, "quantise.fold": 0.5}
    return of_method(small, request.param).resolve({**overrides, "train.epochs": 2})


def holds_what_it_promises(result) -> None:
    """A synapse has a weight, and nothing else has; there are as many as asked for."""
    model = torch.load(result.model, weights_only=True)
    total = alive = 0
    for layer in [*model["layers"], *(layer.get("recurrent") or {} for layer in model["layers"])]:
        if "mask" not in layer:
            continue
        assert layer["mask"].dtype == torch.bool
        assert layer["mask"].shape == layer["weight"].shape
        assert torch.equal(layer["weight"] != 0, layer["mask"])
        total, alive = total + layer["mask"].numel(), alive + int(layer["mask"].sum())
    assert result.metrics["connectivity"] == pytest.approx(alive / total)
    asked = getattr(result.recipe.method, "connectivity", 1.0)
    assert alive == round(asked * total)


def test_the_mask_is_respected_and_the_connectivity_reached(tmp_path, recipe):
    holds_what_it_promises(train(recipe, out_dir=tmp_path / "run", reporter=Silent()))


def test_a_map_network_with_recurrent_weights(tmp_path, tree):
    whole = train(tree, out_dir=tmp_path / "whole", reporter=Silent())
    holds_what_it_promises(whole)
    assert "loop.recurrent" in whole.metrics["connectivity_per_layer"]
    # 30 of 60 steps are done when the batch norms are folded: a stop before it.
    stopped_and_resumed(tree, tmp_path / "part", 20)
    assert content(tmp_path / "part") == content(tmp_path / "whole")


def test_in_floating_point(tmp_path, recipe):
    overrides = {"quantise.aware": False, "train.epochs": 2}
    holds_what_it_promises(train(recipe.resolve(overrides), out_dir=tmp_path / "run", reporter=Silent()))


def test_same_seed_same_result_and_another_seed_another(tmp_path, recipe):
    runs = [
        train(recipe.resolve({"seed": seed, "train.epochs": 3}), out_dir=tmp_path / str(i), reporter=Silent())
        for i, seed in enumerate((5, 5, 6))
    ]
    first, same, other = (content(run.model.parent) for run in runs)
    assert first == same
    assert first["layers"] != other["layers"]


def stopped_and_resumed(recipe, folder, step):
    folder.mkdir()
    stopped = threading.Event()
    session = Session(recipe, load("digits"), folder)
    with pytest.raises(Interrupted, match="--resume"):
        session.run(StopAt(stopped, step), stopped)
    assert not (folder / "model.pt").exists()
    return train(recipe, out_dir=folder, resume=True, reporter=Silent())


@pytest.mark.parametrize("step", [10, 60, 150])
def test_resume_equals_not_having_stopped(tmp_path, recipe, step):
    # 30 steps are an epoch: stops within one, at the end of one, and after the mask is frozen.
    whole = train(recipe, out_dir=tmp_path / "whole", reporter=Silent())
    resumed = stopped_and_resumed(recipe, tmp_path / "part", step)
    assert content(tmp_path / "part") == content(tmp_path / "whole")
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


WIDTHS = [*((name, 2) for name in sorted(METHODS)), *(("grad-r", bits) for bits in (3, 5, 8))]


@pytest.mark.parametrize(("name", "bits"), WIDTHS)
def test_weights_of_every_width_are_deployed_as_they_were_trained(tmp_path, small, name, bits):
    recipe = of_method(small, name).resolve({"quantise.bits": bits, "train.epochs": 1})
    result = train(recipe, out_dir=tmp_path / "run", reporter=Silent())
    holds_what_it_promises(result)
    data = load("digits")
    program = compile_graph(load_model(tmp_path / "run").graph, hw_targets.load("loihi")).program
    for connection in program.connections:
        # As many as a signed number of so many bits has, the lowest of a two's complement left out.
        assert abs(connection.synapses.mantissa).max() < 1 << (bits - 1)
    assert accuracy(reference.run(program, data.test_x), data.test_y) == result.metrics["accuracy"]

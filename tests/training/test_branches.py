"""Networks with branches, loops and delays: what training computes is what the compiled network computes."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from comparison import StopAt, content
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_map_training import deployed

from toolchain.backends import lava as lava_backend
from toolchain.environment import LAVA_PYTHON
from toolchain.errors import Interrupted, SnncError
from toolchain.training import checkpoint, quantise
from toolchain.training.data import load
from toolchain.training.loop import Session, train
from toolchain.training.modules import SpikingNetwork
from toolchain.training.progress import Silent
from toolchain.training.recipe import Recipe

MAP = (1, 8, 8)
SHIPPED = Path(__file__).parents[2] / "models" / "digits_residual.toml"


@st.composite
def networks(draw):
    """A stem, branches of one shape that are added or stand side by side, and dense layers behind, some recurrent."""

    def loops():
        return {"recurrent": True, "recurrent_delay": draw(st.integers(1, 3))} if draw(st.booleans()) else {}

    def conv(name, read, **more):
        return {"kind": "conv", "name": name, "channels": 3, "from": read, **more}

    layers = [conv("stem", "input", **loops())]
    for name in ("left", "right"):
        dilation = draw(st.sampled_from([1, 2]))
        groups = draw(st.sampled_from([1, 3]))
        layers.append(conv(name, "stem", dilation=dilation, groups=groups, delay=draw(st.integers(0, 3)), **loops()))
    joined = draw(st.sampled_from([["stem", "left", "right"], ["left", "right"]]))
    if len(joined) == 2:
        layers.append(conv("beside", "stem"))
        joined = [*joined, "beside"]
    layers.append({"kind": draw(st.sampled_from(["add", "concat"])), "name": "both", "from": joined})
    if draw(st.booleans()):
        layers.append({"kind": draw(st.sampled_from(["avg_pool", "sum_pool"]))})
    layers.append({"kind": "dense", "name": "last", "units": 12, "delay": draw(st.integers(0, 2)), **loops()})
    layers.append({"kind": "dense", "name": "skipping", "units": 12, "from": "right"})
    layers.append({"kind": "add", "from": ["last", "skipping"]})
    soft = draw(st.booleans())
    return {
        "name": "branches",
        "seed": draw(st.integers(0, 1000)),
        "data": {"dataset": "digits"},
        "network": {
            "layers": layers,
            "steps": 5,
            "neuron": draw(st.sampled_from(["lif", "if"])),
            "threshold": draw(st.sampled_from([0.2, 0.5])),
            "reset": "subtract" if soft else "zero",
            "refractory": 0 if soft else draw(st.integers(0, 2)),
            "current_decay": draw(st.sampled_from([1.0, 0.4])),
            "bias": draw(st.booleans()),
            "readout": draw(st.booleans()),
        },
        "input": draw(st.sampled_from([{"coding": "rate", "threshold": 127}, {"coding": "graded", "payload_bits": 6}])),
        "quantise": {"aware": True, "bits": draw(st.integers(4, 8))},
    }


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(networks(), st.floats(0.3, 1.0))
def test_a_trained_network_sends_what_the_compiled_one_sends(tmp_path, values, part):
    recipe = Recipe.from_dict(values)
    network = SpikingNetwork(recipe, MAP, 10)
    generator = torch.Generator().manual_seed(recipe.seed)
    masks = []
    for layer in network.layers:
        keep = torch.rand(layer.weight.shape, generator=generator) < part
        first = (0,) * keep.ndim
        keep[first] = True
        layer.weight.data.mul_(keep * 3)
        layer.weight.data[first] = 0.05
        masks.append(layer.weight.detach() != 0)
    network.fit_grids()
    path = tmp_path / "model.pt"
    checkpoint.save(path, checkpoint.model(network, masks, {}))
    x = load("digits").test_x[:30]
    _, trace = deployed(path, x, recipe.quantise.bits)
    tensor = torch.from_numpy(x)
    for sent in network.walk(tensor):
        if sent.stage is None:
            continue
        if sent.stage.name in trace.potentials:
            potentials = (sent.payload[0] * 1).numpy()
            assert np.array_equal(potentials, trace.potentials[sent.stage.name])
            continue
        payload = (
            sent.payload.permute(1, 0, 4, 2, 3).flatten(2) if sent.payload.ndim == 5 else sent.payload.transpose(0, 1)
        )
        assert np.array_equal(payload.numpy(), trace.spikes[sent.stage.name]), sent.stage.name
    if not recipe.network.readout:
        # The training pass, too, as long as no float32 rounds.
        assert torch.equal(network(tensor).detach(), network.simulate(tensor)[-1])


def test_the_shipped_recipe_trains_to_what_is_deployed(tmp_path):
    recipe = Recipe.load(SHIPPED).resolve({"train.epochs": 4, "train.precision": "float32"})
    result = train(recipe, out_dir=tmp_path / "run", reporter=Silent())
    data = load("digits")
    program, trace = deployed(result.model, data.test_x)
    assert result.metrics["accuracy"] == pytest.approx(float((trace.decisions == data.test_y).mean()), abs=1e-12)
    assert result.metrics["accuracy"] > 0.5
    assert result.metrics["connectivity"] == pytest.approx(0.3, abs=0.005)
    # Grad R rewires the recurrent weights like any others.
    assert 0 < result.metrics["connectivity_per_layer"]["loop.recurrent"] < 1
    delays = {(c.source, c.target): c.delay for c in program.connections}
    assert delays["loop", "loop"] == 1
    assert delays["inner", "far"] == delays["stem", "far"] == 1
    assert delays["inner", "near"] == delays["stem", "near"] == 0
    arrived = sum(
        (trace.spikes[c.source][:, : program.steps - c.delay].sum((0, 1)) @ c.synapses.connectivity.fan_out)
        for c in program.connections
    )
    assert result.metrics["synaptic_operations_total"] == pytest.approx(arrived / len(data.test_x))


@pytest.mark.parametrize("step", [30, 160])
def test_resume_equals_not_having_stopped(tmp_path, step):
    # 45 steps are an epoch, and 108 are done when the batch norms are folded.
    recipe = Recipe.load(SHIPPED).resolve({"train.epochs": 4, "train.precision": "float32"})
    whole = train(recipe, out_dir=tmp_path / "whole", reporter=Silent())
    (tmp_path / "part").mkdir()
    stopped = threading.Event()
    session = Session(recipe, load("digits"), tmp_path / "part")
    with pytest.raises(Interrupted):
        session.run(StopAt(stopped, step), stopped)
    train(recipe, out_dir=tmp_path / "part", resume=True, reporter=Silent())
    assert content(tmp_path / "part") == content(whole.model.parent)


def made(*layers, **more):
    values = {"name": "x", "data": {"dataset": "digits"}, "network": {"layers": layers}, **more}
    return Recipe.from_dict(values)


def refused(words, *layers, **more):
    with pytest.raises(SnncError) as caught:
        made(*layers, **more)
    for word in words:
        assert word in str(caught.value), str(caught.value)


A = {"kind": "conv", "name": "a", "channels": 4}
B = {"kind": "conv", "name": "b", "channels": 4}
DENSE = {"kind": "dense", "units": 5}


def test_what_does_not_branch_is_refused_with_its_place():
    refused(("layers[1] (conv) from", "called 'stam'", "before it"), A, {**B, "from": "stam"})
    refused(("layers[1] (conv) name", "one name"), A, {**B, "name": "a"})
    refused(("layers[0] (conv) name", "cannot be called"), {**A, "name": "a.b"})
    refused(("layers[0] (conv) name", "cannot be called"), {**A, "name": "input"})
    refused(("layers[1] (add) from", "two layers"), A, {"kind": "add", "from": "a"})
    refused(("layers[2] (conv) from", "one layer"), A, B, {"kind": "conv", "channels": 4, "from": ["a", "b"]})
    refused(("layers[2] (add)", "one shape"), A, {**B, "stride": 2}, {"kind": "add", "from": ["a", "b"]})
    refused(("layers[2] (concat)", "unequal size"), A, {**B, "stride": 2}, {"kind": "concat", "from": ["a", "b"]})
    refused(("layers[2] (add) from", "twice"), A, B, {"kind": "add", "from": ["a", "a"]})
    refused(("layers[0] (conv)", "no layer reads it"), A, {**B, "from": "input"})
    pool, window = (
        {"kind": "avg_pool", "name": "p", "size": 2},
        {"kind": "conv", "name": "w", "channels": 4, "stride": 2},
    )
    refused(
        ("layers[3] (concat)", "count alike"), A, pool, {**window, "from": "a"}, {"kind": "concat", "from": ["p", "w"]}
    )
    refused(("layers[3] (max_pool)", "needs spikes"), A, B, {"kind": "add", "from": ["a", "b"]}, {"kind": "max_pool"})
    refused(("layers[0] (conv) delay", "less than the 8 steps"), {**A, "delay": 8})
    refused(("layers[0] (conv) recurrent_delay", "less than"), {**A, "recurrent": True, "recurrent_delay": 9})
    refused(("layers[0] (conv) recurrent_kernel", "odd"), {**A, "recurrent": True, "recurrent_kernel": 2})
    refused(("host", "recurrent"), {**A, "recurrent": True}, input={"coding": "current"})
    two = A, {**B, "from": "input"}, {"kind": "add", "from": ["a", "b"]}
    refused(("host computes one layer", "a, b"), *two, input={"coding": "current"})
    refused(
        ("layers[1] (concat)", "payload"), A, {"kind": "concat", "from": ["a", "input"]}, input={"coding": "graded"}
    )
    refused(("repeat",), {**A, "repeat": 2})


def test_a_recipe_with_branches_written_and_read_back_is_equal():
    recipe = Recipe.load(SHIPPED)
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    assert recipe.to_dict()["network"]["layers"][3]["from"] == ["block"]


def test_grids_of_one_population_share_a_threshold_and_differ_by_powers_of_two():
    entering = [
        quantise.Entering(torch.full((3, 4), 2.0), 1 / 63, 63.0),
        quantise.Entering(torch.full((3, 3), 0.01), 1.0, 1.0),
    ]
    fine, coarse = (
        quantise.fit_grids(pair, bits=8, threshold=1.0, tau=2.0, on_host=False) for pair in (entering, entering[::-1])
    )
    assert fine[0].threshold_mantissa == fine[1].threshold_mantissa
    assert {grid.exponent for grid in fine} == {grid.exponent for grid in coarse}
    assert min(grid.exponent for grid in fine) == 0
    for grid, part in zip(fine, entering, strict=True):
        assert float(part.weight.max()) / grid.step <= grid.limit
        ratio = grid.step * grid.scale / min(g.step * g.scale for g in fine)
        assert ratio == 2**grid.exponent


@pytest.mark.slow
@pytest.mark.lava
def test_lava_sends_what_the_trained_network_sends(tmp_path, lava, monkeypatch):
    monkeypatch.setenv(LAVA_PYTHON, str(lava.path))
    recipe = Recipe.load(SHIPPED).resolve({"train.epochs": 2, "train.precision": "float32"})
    result = train(recipe, out_dir=tmp_path / "run", reporter=Silent())
    samples = load("digits").test_x[:10]
    program, trace = deployed(result.model, samples)
    assert trace.counts["loop"].sum() > 0
    ran = lava_backend.run(program, samples)
    for name, spikes in trace.spikes.items():
        assert np.array_equal(ran.spikes[name], spikes), name

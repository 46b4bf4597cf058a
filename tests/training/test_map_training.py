"""Networks of feature maps: what training computes is what the compiled network computes, synapse by synapse."""

import math
import threading

import numpy as np
import pytest
import torch
from comparison import StopAt, content
from hypothesis import given, settings
from hypothesis import strategies as st

from toolchain.backends import reference
from toolchain.errors import Interrupted
from toolchain.frontends.checkpoint import load as load_model
from toolchain.ir import Convolution
from toolchain.passes.discretize_neurons import DiscretizeNeurons
from toolchain.passes.quantize_weights import QuantizeWeights
from toolchain.training import evaluate
from toolchain.training.architecture import Conv, MaxPool, NeuronOptions, Planned
from toolchain.training.data import load
from toolchain.training.layers import ConvLayer, MaxPoolStage
from toolchain.training.loop import Session, train
from toolchain.training.methods import METHODS
from toolchain.training.modules import SpikingNetwork
from toolchain.training.progress import Silent
from toolchain.training.recipe import Recipe
from toolchain.training.seeds import Draws

MAP = (1, 8, 8)
LAYERS = [
    {"kind": "conv", "channels": 4},
    {"kind": "max_pool"},
    {"kind": "conv", "channels": 6, "groups": 2},
    {"kind": "avg_pool"},
    {"kind": "dropout", "rate": 0.2},
    {"kind": "dense", "units": 20},
]
MAPS = {
    "name": "maps",
    "data": {"dataset": "digits"},
    "network": {"layers": LAYERS, "steps": 4, "batch_norm": True},
    "input": {"coding": "graded", "payload_bits": 6},
    "train": {
        "epochs": 6,
        "batch_size": 96,
        "lr": 2e-2,
        "schedule": "cosine",
        "loss": "cross-entropy",
        "precision": "float32",
        "evaluate_every": 2,
    },
    "quantise": {"aware": True, "fold": 0.5},
    "method": {"name": "grad-r", "connectivity": 0.5, "freeze": 0.6, "ramp": 0.3, "interval": 5},
}


@pytest.fixture
def maps() -> Recipe:
    return Recipe.from_dict(MAPS)


def deployed(path, samples, bits=8):
    """The compiled network's trace, from model.pt alone."""
    quantised, _ = QuantizeWeights(bits).run(load_model(path).graph)
    program, _ = DiscretizeNeurons().run(quantised)
    program.verify()
    return program, reference.run(program, samples)


VARIANTS = [
    {},
    {"input.coding": "rate", "input.threshold": 127, "network.readout": True},
    {"input.coding": "current", "network.vote": 3, "method.name": "dense", "network.refractory": 1},
    {"network.neuron": "if", "network.reset": "subtract", "train.precision": "bfloat16"},
    {"network.batch_norm": False, "network.bias": True, "network.current_decay": 0.4, "network.threshold": 0.3},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=["graded", "readout", "vote", "soft", "current"])
def test_the_accuracy_that_training_reports_is_the_deployed_one(tmp_path, maps, variant):
    result = train(maps.resolve(variant), out_dir=tmp_path / "run", reporter=Silent())
    data = load("digits")
    program, trace = deployed(result.model, data.test_x)
    assert result.metrics["accuracy"] == pytest.approx(float((trace.decisions == data.test_y).mean()), abs=1e-12)
    assert result.metrics["accuracy"] > 0.15
    spikes = result.metrics["spikes_per_neuron"]
    for population in program.populations:
        if population.name in spikes:
            assert spikes[population.name] == pytest.approx(trace.counts[population.name].mean())
            silent = int((trace.counts[population.name].sum(0) == 0).sum())
            assert result.metrics["silent_neurons"][population.name] == silent
    operations = result.metrics["synaptic_operations"]
    for connection in program.connections:
        if connection.target in operations and "avg" not in connection.name and connection.source != "input":
            arrived = trace.counts[connection.source].sum(0) @ connection.synapses.connectivity.fan_out
            assert operations[connection.target] == pytest.approx(arrived / len(data.test_x))


def test_connectivity_is_of_weights_and_synapses_are_told_beside_it(tmp_path, maps):
    result = train(maps.resolve({"train.epochs": 2}), out_dir=tmp_path / "run", reporter=Silent())
    program, _ = deployed(result.model, load("digits").test_x[:1])
    model = torch.load(result.model, weights_only=True)
    masks = [layer["mask"] for layer in model["layers"] if "mask" in layer]
    alive, total = sum(int(mask.sum()) for mask in masks), sum(mask.numel() for mask in masks)
    assert result.metrics["connectivity"] == pytest.approx(alive / total)
    assert alive / total == pytest.approx(0.5, abs=0.01)
    patterns = {c.name: c.synapses.connectivity for c in program.connections}
    assert result.metrics["synapses_per_layer"]["conv1"] == patterns["conv1.weight"].n_synapses
    assert result.metrics["synapses_per_layer"]["conv2"] == patterns["conv2.weight"].n_synapses
    assert result.metrics["synapse_connectivity"] != pytest.approx(alive / total, abs=1e-3)


@pytest.mark.parametrize("step", [20, 60])
def test_resume_equals_not_having_stopped(tmp_path, maps, step):
    # 15 steps are an epoch, and 45 are done when the batch norms are folded: stops before and after.
    whole = train(maps, out_dir=tmp_path / "whole", reporter=Silent())
    (tmp_path / "part").mkdir()
    stopped = threading.Event()
    session = Session(maps, load("digits"), tmp_path / "part")
    with pytest.raises(Interrupted):
        session.run(StopAt(stopped, step), stopped)
    train(maps, out_dir=tmp_path / "part", resume=True, reporter=Silent())
    assert content(tmp_path / "part") == content(whole.model.parent)


def test_training_in_floating_point_folds_at_the_end(tmp_path, maps):
    result = train(
        maps.resolve({"quantise.aware": False, "train.epochs": 2}), out_dir=tmp_path / "r", reporter=Silent()
    )
    model = torch.load(result.model, weights_only=True)
    assert {layer["op"] for layer in model["layers"]} == {
        "conv2d",
        "neuron",
        "max_pool",
        "sum_pool",
        "flatten",
        "linear",
    }
    assert all(layer["weight_step"] is None for layer in model["layers"] if "mask" in layer)
    assert load_model(result.model).graph.populations[-1].name == "fc2"


@pytest.mark.parametrize("method", sorted(METHODS))
def test_folding_a_batch_norm_changes_nothing_and_moments_follow(maps, method, tmp_path):
    session = Session(maps.resolve({"method.name": method}), load("digits"), tmp_path)
    for _ in range(3):
        session._one_step()
    network, x = session.network, session.test_x[:40]
    with torch.no_grad():
        network.layers[0].norm_scale[0] *= -1
    before = [sent.payload for sent in network.walk(x)]
    session._fold()
    assert not network.normed
    agree = [float((a == b).float().mean()) for a, b in zip(before, network.simulate(x), strict=True)]
    assert min(agree) > 0.999
    weight = network.layers[0].weight
    # What the method steps from is the folded weight: a step without a gradient leaves it where it is.
    kept = weight.detach().clone()
    for parameter in network.parameters():
        parameter.grad = None
    session.method.shrink(0, torch.ones(4))
    assert torch.equal(weight.detach(), kept)


def test_rescaled_weights_go_on_as_the_same_function(maps):
    """Adam is not affected by scales: with a learning rate scaled alike, both forms make the same steps."""
    from toolchain.training.optimisers import GradR

    generator = torch.Generator().manual_seed(0)
    factors = torch.tensor([[3.0], [-0.5]])
    one = torch.nn.Parameter(torch.randn(2, 5, generator=generator))
    other = torch.nn.Parameter(one.detach().clone())
    first, second = (GradR([weight], lr=0.01, alpha=0.0, eps=0.0) for weight in (one, other))
    for step in range(6):
        gradient = torch.randn(2, 5, generator=generator)
        one.grad = gradient
        other.grad = gradient if step < 3 else gradient / factors
        if step == 3:
            second.rescale(other, factors)
            torch.testing.assert_close(other.detach(), one.detach() * factors)
            second.param_groups[0]["lr"] = 0.0
        first.step()
        second.step()
    state, scaled = first.state[one], second.state[other]
    torch.testing.assert_close(scaled["m"], state["m"] / factors)
    torch.testing.assert_close(scaled["v"], state["v"] / factors**2)
    assert torch.equal(scaled["sign"], state["sign"] * factors.sign())


def planned(table, source):
    target = table.target(source, "test")
    return Planned("p", table, source, target, NeuronOptions("lif", 2.0, 1.0, 1.0, "zero", 0))


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.sampled_from([1, 2]), st.integers(3, 7), st.integers(3, 7)),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(0, 2),
    st.sampled_from([1, 2]),
    st.integers(0, 2**31),
)
def test_uses_fan_out_and_products_are_those_of_the_representation(shape, kernel, stride, padding, groups, seed):
    source = (shape[0] * groups, *shape[1:])
    table = Conv(channels=2 * groups, kernel=kernel, stride=stride, padding=padding, groups=groups)
    layer = ConvLayer(planned(table, source), torch.Generator().manual_seed(seed))
    random = np.random.default_rng(seed)
    mask = random.random(tuple(layer.weight.shape)) < 0.6
    mask[0, 0, 0, 0] = True
    pattern, positions = Convolution.of(
        source, mask, stride=(stride, stride), padding=((padding, padding),) * 2, groups=groups
    )
    channels_last = lambda flat, axes: flat.reshape(axes).transpose(1, 2, 0)  # noqa: E731
    tensor = torch.from_numpy(mask)
    assert int((tensor * layer.uses()).sum()) == pattern.n_synapses
    assert np.array_equal(layer.fan_out(tensor).numpy(), channels_last(pattern.fan_out, source))
    mantissas = random.integers(-127, 128, mask.shape) * mask
    payload = random.integers(0, 64, (1, math.prod(source)))
    expected = pattern.product(mantissas.ravel()[positions])(payload)
    x = torch.from_numpy(payload.reshape(1, 1, *source)).permute(0, 1, 3, 4, 2).contiguous().float()
    found = layer.product(x, torch.from_numpy(mantissas).float())
    assert np.array_equal(found[0, 0].numpy(), channels_last(expected[0], layer.target))
    ones = pattern.target_sums(mantissas.ravel()[positions])
    assert np.array_equal(
        layer.everywhere(torch.from_numpy(mantissas).float()).numpy(), channels_last(ones, layer.target)
    )


def test_the_fan_out_of_a_max_pool_counts_its_windows():
    stage = MaxPoolStage(planned(MaxPool(size=3, stride=2), (2, 5, 6)), torch.Generator())
    counts = stage.fan_out(None)
    assert counts.shape == (5, 6, 2)
    assert counts[:, :, 0].tolist() == [
        [1, 1, 2, 1, 1, 0],
        [1, 1, 2, 1, 1, 0],
        [2, 2, 4, 2, 2, 0],
        [1, 1, 2, 1, 1, 0],
        [1, 1, 2, 1, 1, 0],
    ]


def test_dropout_holds_one_mask_for_all_steps_and_is_gone_once_trained(maps):
    dropped = maps.resolve({"quantise.aware": False, "network.layers": [{"kind": "dropout", "rate": 0.5}, *LAYERS[:1]]})
    network = SpikingNetwork(dropped, MAP, 10)
    x = torch.full((3, 64), 255, dtype=torch.uint8)
    stage = network.stages[1]
    spikes = torch.ones(4, 3, 8, 8, 1)
    out = stage(spikes, Draws(torch.Generator().manual_seed(1)))
    assert set(out.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(out[0], out[3])
    assert not torch.equal(out[0, 0], out[0, 1])
    assert torch.equal(stage(spikes, None), spikes)
    noisy = [network(x, torch.float32, Draws(torch.Generator().manual_seed(seed))) for seed in (1, 1, 2)]
    assert torch.equal(noisy[0], noisy[1])
    assert network.stages[1].entry() is None


def test_biases_never_leave_their_register(tmp_path, maps):
    wide = maps.resolve({"input.payload_bits": 8, "network.batch_norm": False, "network.bias": True})
    session = Session(wide, load("digits"), tmp_path)
    with torch.no_grad():
        session.network.layers[0].bias.fill_(-40.0)
        session.network.layers[0].weight.fill_(1e-3)
    session.network.fit_grids()
    session._one_step()
    session._keep_sums_in_range()
    layer = session.network.layers[0]
    assert float(layer.bias.detach().abs().max()) / (2 * layer.grid.unit) <= 4095 * 128 + 1e-6


def test_large_maps_are_measured_in_small_batches(maps):
    assert evaluate.batch_size(SpikingNetwork(maps, MAP, 10)) == 500
    large = maps.resolve({"network.layers": [{"kind": "conv", "channels": 512}], "network.steps": 64})
    assert evaluate.batch_size(SpikingNetwork(large, (1, 32, 32), 10)) == 1

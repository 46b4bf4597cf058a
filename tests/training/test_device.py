"""Training on another device: the same arithmetic by torch's operations, and nothing left on the processor."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toolchain.errors import SnncError
from toolchain.training import device, neurons, precision, quantise
from toolchain.training.loop import loss_of, train
from toolchain.training.modules import SpikingNetwork
from toolchain.training.neurons import Neuron
from toolchain.training.progress import Silent
from toolchain.training.recipe import Recipe
from toolchain.training.seeds import Draws
from toolchain.training.surrogates import SURROGATES

LAYERS = [
    {"kind": "conv", "channels": 6, "batch_norm": True},
    {"kind": "max_pool"},
    {"kind": "dropout", "rate": 0.2},
    {"kind": "dense", "units": 24, "recurrent": True, "current_decay": 0.5},
    {"kind": "dense", "units": 16, "delay": 1},
]


@settings(deadline=None, max_examples=30)
@given(
    st.integers(0, 2**20),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["zero", "subtract"]),
    st.integers(0, 3),
    st.sampled_from(sorted(SURROGATES)),
    st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_neurons_by_torch_equal_the_compiled_ones(seed, constant, integer, reset, refractory, surrogate, dtype):
    """Spikes to the bit; gradients but for the order in which the surrogate's factors are multiplied."""
    random = torch.Generator().manual_seed(seed)
    size = 64.0 * 100 if integer else 1.0
    current = torch.randn(1 if constant else 7, 5, 6, generator=random) * size
    current = (current.round() if integer else current).to(dtype)
    upstream = torch.randn(7, 5, 6, generator=random).to(dtype)
    decay = 1 - 1365 / 4096 if integer else 0.5
    neuron = Neuron(decay, size, 1 / size, integer, reset, refractory, surrogate, SURROGATES[surrogate].slope)
    got = []
    for window in (neurons._Window, neurons._TorchWindow):
        x = current.clone().requires_grad_()
        spikes = window.apply(x, 7, neuron, dtype)
        (spikes * upstream).sum().backward()
        got.append((spikes.detach(), x.grad))
    (spikes, gradient), (others, other) = got
    assert torch.equal(spikes, others)
    assert spikes.dtype == others.dtype == dtype
    close = {"rtol": 1e-5, "atol": 1e-5 / size} if dtype == torch.float32 else {"rtol": 1e-2, "atol": 1e-3 / size}
    torch.testing.assert_close(gradient, other, **close)
    exact = current.double()
    potential = torch.empty(7, 5, 6, dtype=torch.float64)
    deployed = neurons._spikes_of(exact, neuron, potential, neurons.STATE_LIMIT)
    assert torch.equal(neurons.run_exact(exact, 7, neuron), deployed)


@pytest.mark.parametrize("coding", ["rate", "graded", "current"])
@pytest.mark.parametrize("aware", [False, True])
def test_no_tensor_is_made_on_the_processor(small, coding, aware, monkeypatch):
    """torch's `meta` device computes shapes alone, and refuses to mix them with the processor's numbers."""
    values = small.resolve({"quantise.aware": aware, "input.coding": coding}).to_dict()
    values["network"] = {"layers": LAYERS[: 2 if coding == "current" else 5], "steps": 3}
    network = SpikingNetwork(Recipe.from_dict(values), (1, 8, 8), 10)
    if aware:
        for layer in network.layers:
            layer.normed = False
        network.fit_grids()
    # It depends on values, of which there are none.
    monkeypatch.setattr(quantise, "bias_exponent", lambda bias, least=0: 6)
    meta = torch.device("meta")
    network.to(meta)
    samples = torch.zeros(5, 64, dtype=torch.uint8, device=meta)
    with device.default(meta):
        spikes = network(samples, torch.bfloat16, Draws(torch.Generator()))
        loss = loss_of(network.recipe.train, network.rates(spikes), torch.zeros(5, dtype=torch.int64))
        loss.backward()
    assert {p.grad.device for p in network.parameters() if p.grad is not None} == {meta}
    assert network.layers[0].weight.grad is not None


def test_mixing_devices_is_what_meta_refuses():
    """That the test above can fail."""
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.ones(3, device="meta") + torch.ones(3)


def test_which_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device.resolve("auto") == device.resolve("cpu") == torch.device("cpu")
    with pytest.raises(SnncError, match="no GPU") as caught:
        device.resolve("cuda")
    assert "--device cpu" in str(caught.value)
    with pytest.raises(SnncError, match="unknown device"):
        device.resolve("gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device.resolve("auto") == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert device.resolve("cuda") == torch.device("cuda", 1)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(SnncError, match="too few GPUs"):
        device.resolve("cuda")
    assert precision.resolve("auto", torch.device("cuda")) == "bfloat16"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU")
@pytest.mark.parametrize("layers", [LAYERS, [{"kind": "dense", "units": 32}]])
def test_a_gpu_trains_about_the_same(tmp_path, small, layers):
    values = small.to_dict()
    values["network"] = {"layers": layers, "steps": 4}
    recipe = Recipe.from_dict(values)
    results = [
        train(recipe, out_dir=tmp_path / name, device=name, reporter=Silent()).metrics for name in ("cpu", "cuda")
    ]
    assert results[0]["accuracy"] == pytest.approx(results[1]["accuracy"], abs=0.05)
    assert results[0]["connectivity"] == pytest.approx(results[1]["connectivity"], rel=0.05)

"""The network's training pass: what it leaves out changes nothing."""

import pytest
import torch

from toolchain.training.data import load
from toolchain.training.modules import SpikingNetwork


@pytest.mark.parametrize(("coding", "aware"), [("rate", True), ("graded", True), ("current", True), ("rate", False)])
@pytest.mark.parametrize(("bias", "hidden"), [(False, [40, 30]), (True, [40, 30]), (True, [150, 140])])
def test_leaving_out_unused_neurons_changes_neither_spikes_nor_gradients(small, coding, bias, hidden, aware):
    recipe = small.resolve(
        {"input.coding": coding, "network.bias": bias, "quantise.aware": aware, "network.hidden": hidden}
    )
    network = SpikingNetwork(recipe, (1, 8, 8), 10)
    generator = torch.Generator().manual_seed(2)
    for layer in network.layers:
        keep = torch.rand(layer.weight.shape, generator=generator) < 4 / hidden[0]
        # Multiples of 1/64, so that floating point is exact too and no order of addition turns a spike over.
        layer.weight.data.abs_().mul_(keep * (hidden[0] // 5 * 64)).round_().div_(64)
        if bias:
            layer.bias.data.mul_(64).round_().div_(64)
    if aware:
        network.fit_grids()
    masks = [layer.weight.detach() != 0 for layer in network.layers]
    x = torch.from_numpy(load("digits").test_x[:50])
    weights = torch.randn(4, 50, 10, generator=generator)

    def result():
        network.zero_grad()
        spikes = network(x)
        (spikes * weights).sum().backward()
        return spikes.detach(), [layer.weight.grad * mask for layer, mask in zip(network.layers, masks, strict=True)]

    spikes, gradients = result()
    network.compact(masks)
    assert network.used is not None
    assert len(network.used[1]) < hidden[0]
    fewer_spikes, fewer_gradients = result()
    assert torch.equal(spikes, fewer_spikes)
    assert spikes.sum() > 0
    for one, other in zip(gradients, fewer_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("coding", ["rate", "graded", "current"])
@pytest.mark.parametrize("hidden", [[32], [96, 80]])
def test_the_training_pass_computes_what_is_deployed(small, coding, hidden):
    network = SpikingNetwork(small.resolve({"input.coding": coding, "network.hidden": hidden}), (1, 8, 8), 10)
    for layer in network.layers:
        layer.weight.data.mul_(4)
    network.fit_grids()
    x = torch.from_numpy(load("digits").test_x)
    assert torch.equal(network(x).detach(), network.simulate(x)[-1])


def test_initial_weights_have_the_bounds_of_torch(small):
    network = SpikingNetwork(small, (1, 8, 8), 10)
    assert float(network.layers[0].weight.detach().abs().max()) == pytest.approx(1 / 8, rel=0.01)
    assert float(network.layers[1].weight.detach().abs().max()) == pytest.approx(1 / 32**0.5, rel=0.03)

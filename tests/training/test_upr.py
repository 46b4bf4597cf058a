"""UPR against the loss of the paper, written out and differentiated by autograd; fan-outs counted by hand."""

import pytest
import torch
from test_methods import TREE

from toolchain.training.methods import Clock
from toolchain.training.methods.upr import LearntMasks
from toolchain.training.modules import SpikingNetwork
from toolchain.training.recipe import Recipe

TOTAL, LR = 20, 0.02


@pytest.fixture
def network(small) -> SpikingNetwork:
    return SpikingNetwork(small, (1, 8, 8), 10)


def test_fan_outs_are_those_counted_by_hand(small):
    tree = small.resolve({"network.hidden": [], "network.layers": TREE})
    found = SpikingNetwork(tree, (1, 8, 8), 10).fan_outs()
    assert set(found) == {"stem", "inner", "loop"}
    # The stem reaches 3 channels by a kernel of 3 x 3, and 12 neurons by the sum and the pool.
    assert found["stem"].shape == (1, 1, 8, 8, 3)
    assert found["stem"][0, 0, 3, 3].tolist() == [3 * 9 + 12] * 3
    assert found["stem"][0, 0, 0, 0].tolist() == [3 * 4 + 12] * 3
    assert found["inner"].unique().tolist() == [12]
    assert found["loop"].unique().tolist() == [10 + 12]


def test_a_delay_counts_once(small):
    layers = [{"kind": "dense", "units": 7}, {"kind": "dense", "units": 5, "delay": 2}]
    late: Recipe = small.resolve({"network.hidden": [], "network.layers": layers})
    assert SpikingNetwork(late, (1, 8, 8), 10).fan_outs()["fc1"].unique().tolist() == [5]


def test_every_step_is_that_of_the_loss_written_out(network):
    generator = torch.Generator().manual_seed(3)
    start = [weight.detach().clone() for weight in network.weights()]
    run = LearntMasks(penalty=0.5, first=2.0, last=40.0, freeze=0.0).start(network, total_steps=TOTAL, weight_decay=0.0)
    theta = [(4 * start[0]).requires_grad_(), (2 * start[1]).requires_grad_()]
    a = [torch.zeros_like(weight, requires_grad=True) for weight in start]
    b = torch.zeros(32, requires_grad=True)
    adam = torch.optim.Adam([*theta, *a, b], lr=LR)
    synapses = 64 * 32 + 32 * 10
    for step in range(TOTAL):
        beta = 2.0 * 20.0 ** (step / TOTAL)
        clock = Clock(step, TOTAL, (LR,) * TOTAL)
        run.before_step(clock)
        first = theta[0] * torch.sigmoid(beta * a[0]) * torch.sigmoid(beta * b)[:, None]
        second = theta[1] * torch.sigmoid(beta * a[1])
        for weight, expected in zip(network.weights(), (first, second), strict=True):
            torch.testing.assert_close(weight.detach(), expected.detach(), rtol=1e-3, atol=2e-5)
        if step == 0:
            assert all(torch.allclose(w.detach(), s) for w, s in zip(network.weights(), start, strict=True))
        slopes = [torch.randn(weight.shape, generator=generator) for weight in start]
        # Every weight makes one synapse; a hidden neuron has 10.
        price = sum(torch.sigmoid(beta * mask).sum() for mask in a) + 10 * torch.sigmoid(beta * b).sum()
        loss = (first * slopes[0]).sum() + (second * slopes[1]).sum() + 0.5 / synapses * price
        adam.zero_grad()
        loss.backward()
        adam.step()
        for weight, slope in zip(network.weights(), slopes, strict=True):
            weight.grad = slope.clone()
        run.after_backward(clock)
        run.step(clock)
    run.finish()
    expected = [(a[0] > 0) & (b > 0)[:, None], a[1] > 0]
    for mask, hard in zip(run.masks(), expected, strict=True):
        assert float((mask == hard).float().mean()) > 0.999
        assert 0.05 < float(hard.float().mean()) < 0.95


def test_without_a_gradient_of_the_loss_the_penalty_closes_all_masks(network):
    run = LearntMasks(freeze=0.0).start(network, total_steps=TOTAL, weight_decay=0.0)
    for step in range(3):
        clock = Clock(step, TOTAL, (LR,) * TOTAL)
        run.before_step(clock)
        for weight in network.weights():
            weight.grad = torch.zeros_like(weight)
        run.after_backward(clock)
        run.step(clock)
    assert not any(bool(mask.any()) for mask in run.masks())


def test_an_asked_connectivity_is_exact_where_masks_are_alike(network):
    # Without a gradient all masks are equal, so the border runs through ties.
    run = LearntMasks(connectivity=0.3, freeze=0.0).start(network, total_steps=TOTAL, weight_decay=0.0)
    run.finish()
    total = sum(mask.numel() for mask in run.masks())
    assert sum(int(mask.sum()) for mask in run.masks()) == round(0.3 * total)
    assert all(torch.equal(w.detach() != 0, m) for w, m in zip(network.weights(), run.masks(), strict=True))


def test_neurons_behind_a_batch_norm_have_no_mask(small):
    tree = small.resolve({"network.hidden": [], "network.layers": TREE, "network.batch_norm": True})
    normed = SpikingNetwork(tree, (1, 8, 8), 10)
    run = LearntMasks().start(normed, total_steps=TOTAL, weight_decay=0.0)
    # Of stem, inner, loop and its recurrent weights, and the output.
    assert run._of == [None, None, 0, 0, None]

"""STDS against a slow scalar reference that follows the published formulas letter by letter."""

import math

import pytest
import torch

from toolchain.training.methods import Clock
from toolchain.training.methods.stds import DendriticSpines
from toolchain.training.modules import SpikingNetwork

B1, B2, EPS, LR, TOTAL = 0.9, 0.999, 1e-8, 0.02, 30


def gradient_of(step, index):
    return math.sin(1.7 * step + index)


def drive(run, network, steps):
    """Steps with gradients that are known for each weight of the first layer; yields after each forward pass."""
    for step in steps:
        clock = Clock(step, TOTAL, (LR,) * TOTAL)
        run.before_step(clock)
        yield step
        for weight in network.weights():
            numbers = torch.arange(weight.numel(), dtype=torch.float64)
            weight.grad = torch.sin(1.7 * step + numbers).float().view(weight.shape)
        run.after_backward(clock)
        run.step(clock)


def test_every_step_equals_the_scalar_reference(small):
    network = SpikingNetwork(small, (1, 8, 8), 10)
    weight = network.weights()[0]
    some = range(40)
    theta, m, v = weight.detach().flatten()[:40].tolist(), [0.0] * 40, [0.0] * 40
    run = DendriticSpines(threshold=0.1, freeze=0.0).start(network, total_steps=TOTAL, weight_decay=0.0)
    seen = set()
    for step in drive(run, network, range(TOTAL)):
        d = 0.1 / 2 * (1 + math.sin(math.pi * (step / TOTAL - 0.5)))
        expected = [math.copysign(max(abs(t) - d, 0.0), t) for t in theta]
        assert weight.detach().flatten()[:40].tolist() == pytest.approx(expected, abs=2e-6)
        seen |= {(i, w != 0) for i, w in enumerate(expected)}
        for i in some:
            g, k = gradient_of(step, i), step + 1
            m[i] = B1 * m[i] + (1 - B1) * g
            v[i] = B2 * v[i] + (1 - B2) * g * g
            theta[i] -= LR / (1 - B1**k) * m[i] / (math.sqrt(v[i]) / math.sqrt(1 - B2**k) + EPS)
    run.finish()
    alive = [abs(t) > 0.1 for t in theta]
    assert run.masks()[0].flatten()[:40].tolist() == alive
    assert any(alive)
    assert not all(alive)
    # Some were dormant and some there, and some both in turn.
    assert len(seen) > 40


def test_an_asked_connectivity_has_the_course_of_the_sine(small):
    network = SpikingNetwork(small, (1, 8, 8), 10)
    run = DendriticSpines(connectivity=0.2, interval=5, freeze=0.0).start(network, total_steps=TOTAL, weight_decay=0.0)
    total = sum(weight.numel() for weight in network.weights())
    for step in drive(run, network, range(TOTAL)):
        if step and step % 5 == 0:
            wanted = 1 - 0.8 * (1 + math.sin(math.pi * (step / TOTAL - 0.5))) / 2
            assert sum(int((weight != 0).sum()) for weight in network.weights()) == round(wanted * total)
    run.finish()
    assert sum(int(mask.sum()) for mask in run.masks()) == round(0.2 * total)


@pytest.mark.parametrize("frozen", [False, True])
def test_factors_reach_the_weights_and_a_step_without_gradient_keeps_them(small, frozen):
    network = SpikingNetwork(small, (1, 8, 8), 10)
    run = DendriticSpines(threshold=0.2, freeze=0.5).start(network, total_steps=TOTAL, weight_decay=0.0)
    for _ in drive(run, network, range(20 if frozen else 10)):
        pass
    assert run.frozen is frozen
    weight, mask = network.weights()[0], run.masks()[0]
    assert torch.equal(weight.detach() != 0, mask)
    before = weight.detach().clone()
    factors = torch.linspace(-1.5, 2.0, len(before)) + 0.01
    run.rescale(0, factors)
    torch.testing.assert_close(weight.detach(), before * factors[:, None])
    small_ones = torch.full((len(before),), 0.5)
    run.shrink(0, small_ones)
    torch.testing.assert_close(weight.detach(), before * factors[:, None] / 2)
    if not frozen:
        kept = weight.detach().clone()
        run.write()
        torch.testing.assert_close(weight.detach(), kept, rtol=1e-4, atol=1e-6)

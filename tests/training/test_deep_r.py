"""Deep R against a slow scalar reference that follows the published formulas letter by letter."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toolchain.training.methods import Clock
from toolchain.training.methods.deep_r import DeepRewiring
from toolchain.training.modules import SpikingNetwork
from toolchain.training.optimisers import FLOOR, DeepR

B1, B2, EPS = 0.9, 0.999, 1e-8


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-1, 1), min_size=2, max_size=6).filter(any),
    st.integers(0, 2**31),
    st.sampled_from([0.0, 0.5]),
    st.sampled_from([None, 0.0, 1e-4]),
)
def test_every_step_equals_the_scalar_reference(start, seed, l1, temperature):
    lr, steps = 0.02, 12
    gradients = torch.randn(steps, len(start), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    weight = torch.nn.Parameter(torch.tensor(start, dtype=torch.float64))
    optimiser = DeepR([weight], l1=l1, temperature=temperature, lr=lr)
    sign = [-1.0 if w < 0 else 1.0 for w in start]
    theta, m, v = [abs(w) for w in start], [0.0] * len(start), [0.0] * len(start)
    wanted = sum(t > 0 for t in theta)
    for k in range(1, steps + 1):
        optimiser.random = torch.Generator().manual_seed(k)
        eta = lr / (1 - B1**k)
        heat = eta * l1**2 / 18 if temperature is None else temperature
        noise = [0.0] * len(start)
        if heat > 0:
            noise = torch.randn(len(start), dtype=torch.float64, generator=torch.Generator().manual_seed(k)).tolist()
        for i, g in enumerate(gradients[k - 1].tolist()):
            m[i] = B1 * m[i] + (1 - B1) * g
            v[i] = B2 * v[i] + (1 - B2) * g * g
            if theta[i] > 0:
                step = -eta * sign[i] * m[i] / (math.sqrt(v[i]) / math.sqrt(1 - B2**k) + EPS)
                theta[i] = max(theta[i] + step - eta * l1 + math.sqrt(2 * eta * heat) * noise[i], 0.0)
        weight.grad = gradients[k - 1]
        optimiser.step()
        found = optimiser.thetas()[0].tolist()
        back = [i for i in range(len(start)) if theta[i] == 0 and found[i] > 0]
        for i in back:
            assert found[i] == pytest.approx(FLOOR)
            theta[i] = found[i]
        assert found == pytest.approx(theta, abs=1e-11)
        assert sum(t > 0 for t in found) == wanted
        assert weight.tolist() == pytest.approx([s * t for s, t in zip(sign, found, strict=True)])


def test_what_comes_back_is_drawn_alike_from_its_own_layer():
    first, second = (torch.nn.Parameter(torch.zeros(size)) for size in (400, 100))
    with torch.no_grad():
        first[:40] = 1e-9
    optimiser = DeepR([first, second], l1=1.0, temperature=0.0, lr=1e-3)
    optimiser.random = torch.Generator().manual_seed(0)
    for weight in (first, second):
        weight.grad = torch.zeros_like(weight)
    counts = torch.zeros(400)
    for _ in range(500):
        optimiser.step()  # FLOOR is less than a step shrinks: all of them die, and 40 come back
        counts += first.detach() != 0
        assert int((first != 0).sum()) == 40
        assert not second.any()
    # Each place is expected 50 times, with a standard deviation of 6.7.
    assert float((counts - 50).abs().max()) < 35


def test_dormant_synapses_have_signs_of_both_kinds(small):
    network = SpikingNetwork(small, (1, 8, 8), 10)
    before = [weight.detach().clone() for weight in network.weights()]
    run = DeepRewiring(connectivity=0.3, l1=1.0).start(network, total_steps=100, weight_decay=0.0)
    for step in range(5):
        for weight in network.weights():
            weight.grad = torch.zeros_like(weight)
        run.step(Clock(step, 100, (0.5,) * 100))
        for weight, start, mask in zip(network.weights(), before, run.masks(), strict=True):
            assert torch.equal(weight.detach()[mask].sign(), start[mask].sign())


def test_a_final_set_neither_shrinks_nor_moves():
    weight = torch.nn.Parameter(torch.tensor([0.5, 0.0, -0.2]))
    optimiser = DeepR([weight], l1=5.0, lr=0.05)
    optimiser.param_groups[0]["frozen"] = True
    weight.grad = torch.zeros(3)
    optimiser.step()
    assert weight.tolist() == pytest.approx([0.5, 0.0, -0.2])

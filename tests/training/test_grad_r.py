"""Grad R against a slow scalar reference that follows the published formulas letter by letter."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toolchain.training import layout
from toolchain.training.optimisers import FLOOR, TENSORS, GradR

B1, B2, EPS = 0.9, 0.999, 1e-8


def scalar_reference(w0, gradients, lr, alpha, p):
    """Weights after each step, one weight, Python floats."""
    s = 1.0 if w0 >= 0 else -1.0
    theta, m, v = abs(w0), 0.0, 0.0
    course = []
    for k, g in enumerate(gradients, start=1):
        m = B1 * m + (1 - B1) * g
        v = B2 * v + (1 - B2) * g * g
        eta = lr / (1 - B1**k)
        d = math.sqrt(v) / math.sqrt(1 - B2**k) + EPS
        theta -= eta * s * m / d
        if alpha > 0:
            mu = math.log(2 * (1 - p)) / alpha
            theta -= alpha * eta * ((theta > mu) - (theta < mu))
        course.append((theta, s * max(theta, 0.0)))
    return course


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-1, 1), min_size=1, max_size=4),
    st.integers(0, 2**31),
    st.sampled_from([0.0, 1e-3, 0.05, 3.0]),
    st.sampled_from([0.5, 0.6, 0.95]),
    st.sampled_from([1e-3, 0.02]),
)
def test_every_step_equals_the_scalar_reference(w0, seed, alpha, p, lr):
    steps = 25
    gradients = torch.randn(steps, len(w0), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    weight = torch.nn.Parameter(torch.tensor(w0, dtype=torch.float64))
    optimiser = GradR([weight], lr=lr, alpha=alpha, sparsity=p)
    expected = [scalar_reference(w, gradients[:, i].tolist(), lr, alpha, p) for i, w in enumerate(w0)]
    for step in range(steps):
        weight.grad = gradients[step]
        optimiser.step()
        (theta,) = optimiser.thetas()
        for i in range(len(w0)):
            assert theta[i].item() == pytest.approx(expected[i][step][0], abs=1e-11)
            assert weight[i].item() == pytest.approx(expected[i][step][1], abs=1e-11)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**31),
    st.sampled_from([0.0, 1e-3, 0.05, 3.0]),
    st.sampled_from([0.5, 0.6, 0.95]),
    st.sampled_from([0.0, 0.1]),
    st.booleans(),
    st.booleans(),
)
def test_the_compiled_update_is_the_other_one(seed, alpha, p, decay, frozen, by_input):
    """Beside the order of roundings in float32; 1,100 synapses are more than one block."""
    random = torch.Generator().manual_seed(seed)
    start = torch.randn(11, 100, generator=random) * 0.02
    weights = [torch.nn.Parameter(x) for x in (layout.by_input(start) if by_input else start.clone(), start.clone())]
    fast, slow = (GradR([weight], lr=1e-2, alpha=alpha, sparsity=p, weight_decay=decay) for weight in weights)
    assert layout.alike(weights[0], *(fast.state[weights[0]][name] for name in TENSORS))
    slow._update_compiled = slow._update_by_torch
    for step in range(30):
        for optimiser in (fast, slow):
            optimiser.param_groups[0]["frozen"] = frozen and step >= 15
        gradient = torch.randn(start.shape, generator=random)
        for weight, optimiser in zip(weights, (fast, slow), strict=True):
            weight.grad = gradient.clone()
            optimiser.step()
    # Where theta stands at mu, the last bit decides which way the prior pushes.
    for left, right in (weights, [optimiser.thetas()[0] for optimiser in (fast, slow)]):
        assert torch.isclose(left, right, rtol=1e-4, atol=1e-6).float().mean() > 0.99


def test_the_prior_pulls_toward_its_centre_from_both_sides():
    # With p = 0.5 the centre is 0; with zero gradients only the prior moves.
    weight = torch.nn.Parameter(torch.tensor([0.01, 0.02]))
    optimiser = GradR([weight], lr=1e-3, alpha=1.0, sparsity=0.5)
    optimiser.thetas()[0][0] = -0.05
    weight.grad = torch.zeros(2)
    optimiser.step()
    low, high = optimiser.thetas()[0].tolist()
    assert low > -0.05
    assert high < 0.02


def test_a_dormant_synapse_grows_back_with_its_own_sign():
    weight = torch.nn.Parameter(torch.tensor([0.001, -0.001]))
    optimiser = GradR([weight], lr=0.01, alpha=0.0)
    weight.grad = torch.tensor([1.0, -1.0])  # both toward death
    optimiser.step()
    assert weight.tolist() == [0.0, 0.0]
    for _ in range(40):
        weight.grad = torch.tensor([-1.0, 1.0])
        optimiser.step()
    assert weight[0] > 0 > weight[1]


def test_frozen_synapses_neither_die_nor_appear():
    weight = torch.nn.Parameter(torch.tensor([0.5, -0.01, 0.2]))
    optimiser = GradR([weight], lr=0.05)
    optimiser.thetas()[0][2] = -0.1
    optimiser.write(weight)
    optimiser.param_groups[0]["frozen"] = True
    for _ in range(20):
        weight.grad = torch.tensor([-1.0, -1.0, -1.0])
        optimiser.step()
    assert weight[0] > 0.5
    assert weight[1].item() == pytest.approx(-FLOOR)
    assert weight[2] == 0
    assert optimiser.thetas()[0][2].item() == pytest.approx(-0.1)


def test_closures_are_refused():
    optimiser = GradR([torch.nn.Parameter(torch.ones(2))])
    with pytest.raises(TypeError, match="closure"):
        optimiser.step(lambda: None)


def test_a_checkpoint_in_another_order_of_memory_is_turned():
    weight = torch.nn.Parameter(layout.by_input(torch.randn(70, 5)))
    state = GradR([weight]).state_dict()
    for name in TENSORS:
        state["state"][0][name] = state["state"][0][name].contiguous()
    loaded = GradR([weight])
    loaded.load_state_dict(state)
    assert layout.alike(weight, *(loaded.state[weight][name] for name in TENSORS))
    assert torch.equal(loaded.thetas()[0], weight.detach().abs())

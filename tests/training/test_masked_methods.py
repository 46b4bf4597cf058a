"""The rules that move synapses, against slow transcriptions of their formulas; sorting and Python floats alone."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toolchain.training.masks import erdos_renyi, largest_of, whole_parts
from toolchain.training.methods import Clock
from toolchain.training.methods.gmp import MagnitudePruning
from toolchain.training.methods.rigl import RigL
from toolchain.training.methods.set import SparseEvolution
from toolchain.training.modules import SpikingNetwork
from toolchain.training.optimisers import FLOOR

SHAPES = st.lists(st.lists(st.integers(1, 12), min_size=2, max_size=4), min_size=1, max_size=4)


@settings(max_examples=100, deadline=None)
@given(SHAPES, st.floats(0.01, 1.0))
def test_erdos_renyi_reaches_the_number_and_gives_densities_as_published(shapes, connectivity):
    counts = erdos_renyi(shapes, connectivity)
    sizes = [math.prod(shape) for shape in shapes]
    assert sum(counts) == round(connectivity * sum(sizes))
    assert all(0 <= count <= size for count, size in zip(counts, sizes, strict=True))
    # density = e sum / prod, so count / sum is one number for all layers that are not full.
    ratios = [
        (count / sum(shape), 1 / sum(shape))
        for count, shape, size in zip(counts, shapes, sizes, strict=True)
        if count < size
    ]
    for one, near in ratios:
        for other, far in ratios:
            assert abs(one - other) <= 1.001 * (near + far)


def test_whole_parts_never_leave_their_limits():
    assert whole_parts([1.5, 1.5], 3, [5, 5]) in ([2, 1], [1, 2])
    assert whole_parts([2.9999, 0.0001], 3, [2, 9]) == [2, 1]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.floats(-9, 9), min_size=1, max_size=9), min_size=1, max_size=3), st.data())
def test_the_largest_are_the_first_when_sorted(values, data):
    count = data.draw(st.integers(0, sum(map(len, values))))
    masks = largest_of([torch.tensor(value, dtype=torch.float64) for value in values], count)
    chosen = [
        v for value, mask in zip(values, masks, strict=True) for v, m in zip(value, mask.tolist(), strict=True) if m
    ]
    assert sorted(chosen, reverse=True) == sorted((v for value in values for v in value), reverse=True)[:count]


@pytest.fixture
def network(small) -> SpikingNetwork:
    return SpikingNetwork(small, (1, 8, 8), 10)


def clock(step, total=1000, lr=0.01):
    return Clock(step, total, (lr,) * total)


def clear(network):
    for weight in network.weights():
        weight.grad = torch.zeros_like(weight)


def test_gradual_magnitude_pruning_follows_the_published_course(network):
    config = MagnitudePruning(connectivity=0.1, begin=0.1, end=0.5, interval=100)
    run = config.start(network, total_steps=1000, weight_decay=0.0)
    before = [weight.detach().clone() for weight in network.weights()]
    for step in range(0, 600, 50):
        clear(network)
        run.before_step(clock(step))
        sparsity = 0.9 - 0.9 * (1 - (max(min(step // 100 * 100, 500), 100) - 100) / (4 * 100)) ** 3
        for weight, start, mask in zip(network.weights(), before, run.masks(), strict=True):
            left = round((1 - sparsity) * weight.numel())
            assert abs(int(mask.sum()) - left) <= 1
            # Those that are left are the largest, and have not been touched.
            smallest = sorted(start.abs().flatten().tolist(), reverse=True)[int(mask.sum()) - 1]
            assert torch.equal(mask, start.abs() >= smallest)
            assert torch.equal(weight.detach(), start * mask)
    assert run.frozen


def test_pruning_of_the_whole_network_takes_the_smallest_of_all(network):
    run = MagnitudePruning(connectivity=0.3, scope="network").start(network, total_steps=10, weight_decay=0.0)
    everything = sorted((w for weight in network.weights() for w in weight.abs().flatten().tolist()), reverse=True)
    border = everything[round(0.3 * len(everything)) - 1]
    before = [weight.detach().clone() for weight in network.weights()]
    run.finish()
    assert all(torch.equal(m, b.abs() >= border) for m, b in zip(run.masks(), before, strict=True))


def test_evolution_drops_the_weakest_of_each_sign(network):
    run = SparseEvolution(connectivity=0.3, zeta=0.4, interval=5).start(network, total_steps=100, weight_decay=0.0)
    for weight, mask in zip(network.weights(), run.masks(), strict=True):
        assert torch.equal(weight.detach() != 0, mask)
    before = [
        (weight.detach().clone(), mask.clone()) for weight, mask in zip(network.weights(), run.masks(), strict=True)
    ]
    run.before_step(clock(4))
    assert all(torch.equal(mask, m) for mask, (_, m) in zip(run.masks(), before, strict=True))
    run.before_step(clock(5))
    for weight, mask, (old, old_mask) in zip(network.weights(), run.masks(), before, strict=True):
        assert int(mask.sum()) == int(old_mask.sum())
        for sign in (1, -1):
            sizes = sorted((sign * old)[sign * old > 0].tolist())
            weak = set(sizes[: round(0.4 * len(sizes))])
            for value, now, kept in zip(
                (sign * old).flatten().tolist(), weight.flatten().tolist(), mask.flatten().tolist(), strict=True
            ):
                if value > 0 and value not in weak:
                    assert kept
                    assert now == sign * value
        come = mask & ~old_mask
        assert int(come.sum()) > 0
        assert bool((weight.detach()[come].abs() == torch.tensor(FLOOR)).all())
        assert len(set(weight.detach()[come].sign().tolist())) == 2


def test_rigl_drops_the_smallest_and_grows_by_gradient(network):
    config = RigL(connectivity=0.3, fraction=0.4, interval=10, freeze=0.25)
    run = config.start(network, total_steps=100, weight_decay=0.0)
    generator = torch.Generator().manual_seed(1)
    for step in (10, 40, 70):
        for weight, mask in zip(network.weights(), run.masks(), strict=True):
            weight.data.copy_(torch.randn(weight.shape, generator=generator) * mask)  # no two sizes alike
        before = [
            (weight.detach().clone(), mask.clone()) for weight, mask in zip(network.weights(), run.masks(), strict=True)
        ]
        gradients = [torch.randn(weight.shape, generator=generator) for weight in network.weights()]
        for weight, gradient in zip(network.weights(), gradients, strict=True):
            weight.grad = gradient.clone()
        run.before_step(clock(step, 100))
        run.after_backward(clock(step, 100))
        run.step(clock(step, 100))
        for weight, mask, (old, there), gradient in zip(network.weights(), run.masks(), before, gradients, strict=True):
            alive = [i for i, m in enumerate(there.flatten().tolist()) if m]
            k = round(len(alive) * 0.4 / 2 * (1 + math.cos(math.pi * step / 75)))
            size, slope = old.abs().flatten().tolist(), gradient.abs().flatten().tolist()
            keep = sorted(alive, key=lambda i: size[i])[k:]
            others = [i for i in range(len(size)) if i not in set(keep)]
            grow = sorted(others, key=lambda i: slope[i])[len(others) - k :]
            assert [i for i, m in enumerate(mask.flatten().tolist()) if m] == sorted(keep + grow)
            come = mask & ~there
            assert torch.equal(weight.detach()[mask & there], old[mask & there])
            assert torch.equal(weight.detach()[come].sign(), -gradient[come].sign())


def test_at_other_steps_rigl_is_adam_on_the_mask(network):
    run = RigL(connectivity=0.3, interval=10).start(network, total_steps=100, weight_decay=0.0)
    before = [weight.detach().clone() for weight in network.weights()]
    for weight in network.weights():
        weight.grad = torch.full_like(weight, -2.0)
    run.after_backward(clock(1, 100))
    run.step(clock(1, 100, lr=0.25))
    for weight, old, mask in zip(network.weights(), before, run.masks(), strict=True):
        # Adam's first step has the size of the learning rate.
        torch.testing.assert_close(weight.detach(), (old + 0.25) * mask)

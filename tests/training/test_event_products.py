"""Products event by event are those of matrices, and so are their gradients."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from toolchain.training import events, layout, threads
from toolchain.training.events import WIDTH


def integers(low, high, *shape, random):
    """Sums of integers are exact in any order."""
    return torch.randint(low, high + 1, shape, generator=random).float()


def payloads(*shape, density, random):
    return integers(1, 255, *shape, random=random) * (torch.rand(shape, generator=random) < density)


@settings(max_examples=80, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 200)),
    targets=st.integers(1, 3 * WIDTH),
    density=st.floats(0, 0.4),
    biased=st.booleans(),
    offset=st.sampled_from([0.0, -3.0]),
    by_input=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_sums_and_gradients_are_those_of_matrices(shape, targets, density, biased, offset, by_input, seed):
    random = torch.Generator().manual_seed(seed)
    x = payloads(*shape, density=density, random=random).requires_grad_()
    weight = integers(-9, 9, targets, shape[2], random=random)
    weight = (layout.by_input(weight) if by_input else weight).requires_grad_()
    bias = integers(-99, 99, targets, random=random).requires_grad_() if biased else None
    upstream = integers(-9, 9, *shape[:2], targets, random=random)
    wanted = [tensor for tensor in (x, weight, bias) if tensor is not None]
    found = events.linear(x, weight, bias, offset)
    expected = functional.linear(x + offset, weight, bias)
    assert torch.equal(found, expected)
    gradients = torch.autograd.grad(found, wanted, upstream)
    for one, other in zip(gradients, torch.autograd.grad(expected, wanted, upstream), strict=True):
        assert torch.equal(one, other)


@settings(max_examples=50, deadline=None)
@given(
    rows=st.integers(1, 9),
    n=st.integers(1, 200),
    density=st.floats(0, 1),
    seed=st.integers(0, 2**31),
    lost=st.booleans(),
)
def test_events_are_the_payloads_that_are_not_0_by_row_and_by_column(rows, n, density, seed, lost):
    random = torch.Generator().manual_seed(seed)
    x = payloads(rows, n, density=density, random=random)
    if lost:
        x[0, -1] = float("nan")
    found = events.Events.of(x)
    assert (found is None) == (int((x != 0).sum()) > int(events.DENSITY_LIMIT * x.numel()))
    if found is None:
        assert (x != 0).float().mean() > events.DENSITY_LIMIT
        return
    for (begins, others, values), lists in ((found.by_row, x), (found.by_column, x.t())):
        assert len(begins) == len(lists) + 1
        for i, (one, end) in enumerate(pairwise(begins)):
            assert others[one:end].tolist() == lists[i].nonzero().flatten().tolist()
            assert torch.equal(torch.from_numpy(values[one:end]).nan_to_num(-1), lists[i][lists[i] != 0].nan_to_num(-1))


@pytest.mark.parametrize("density", [0.1, 0.9])
def test_weights_in_other_types_are_multiplied_as_matrices(density):
    random = torch.Generator().manual_seed(0)
    x = payloads(2, 3, 70, density=density, random=random).double()
    weight = integers(-9, 9, 70, 70, random=random).double()
    assert torch.equal(events.linear(x, weight), x @ weight.t())


def test_wide_layers_of_sparse_payloads_go_event_by_event(monkeypatch):
    asked = []
    product = events.Events.product
    monkeypatch.setattr(events.Events, "product", lambda self, *rest: asked.append(self) or product(self, *rest))
    random = torch.Generator().manual_seed(0)
    sparse, dense = (payloads(2, 3, 70, density=density, random=random) for density in (0.1, 0.9))
    wide, narrow = torch.ones(WIDTH, 70), torch.ones(WIDTH - 1, 70)
    for x, weight, count in ((sparse, narrow, 0), (dense, wide, 0), (sparse, wide, 1)):
        events.linear(x, weight)
        assert len(asked) == count


@pytest.mark.parametrize(
    ("weight", "bias"),
    [(torch.ones(64, 9), None), (torch.ones(64, 70).double(), None), (torch.ones(64, 70), torch.ones(63))],
)
def test_other_shapes_and_types_are_refused(weight, bias):
    found = events.Events.of(torch.zeros(3, 70))
    with pytest.raises(ValueError, match="float32, not"):
        found.product(weight, bias)


def test_threads_change_nothing():
    random = torch.Generator().manual_seed(1)
    x = payloads(3, 90, 300, density=0.1, random=random).requires_grad_()
    weight = layout.by_input(torch.randn(500, 300, generator=random)).requires_grad_()
    assert (x != 0).sum() * len(weight) // 16 > threads.PARALLEL_FROM

    def result():
        sums = events.linear(x, weight)
        return [sums.detach(), *torch.autograd.grad(sums.square().sum(), [weight])]

    alone = result()
    torch.set_num_threads(3)
    assert all(torch.equal(one, other) for one, other in zip(alone, result(), strict=True))

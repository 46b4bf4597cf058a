"""Input codings against the rule, one value and one step at a time."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toolchain.ir.inputs import make_input
from toolchain.training import encoding


def scalar_rate(x, steps, threshold):
    v, spikes = 0, []
    for _ in range(steps):
        v += x
        spikes.append(int(v > threshold))
        if v > threshold:
            v = 0
    return spikes


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(0, 255), min_size=1, max_size=20),
    st.integers(1, 40),
    st.one_of(st.integers(1, 600), st.integers(31_700, 32_300), st.just(131071)),
)
def test_rate_equals_the_scalar_rule(values, steps, threshold):
    spikes = encoding.rate(torch.tensor([values], dtype=torch.uint8), steps, threshold, torch.float32)
    assert spikes.shape == (steps, 1, len(values))
    for i, x in enumerate(values):
        assert spikes[:, 0, i].tolist() == scalar_rate(x, steps, threshold)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_known_periods(dtype):
    spikes = encoding.rate(torch.tensor([[255, 254, 128, 127, 85, 84, 0]], dtype=torch.uint8), 12, 254, dtype)
    assert spikes.sum(0).flatten().tolist() == [12, 6, 6, 4, 4, 3, 0]


@pytest.mark.parametrize(
    ("coding", "parameters"),
    [("rate", {"threshold": 200}), ("graded", {"payload_bits": 8}), ("graded", {"payload_bits": 3}), ("current", {})],
)
def test_every_coding_equals_the_compiled_input(coding, parameters):
    x = np.arange(256, dtype=np.uint8)[None]
    expected = make_input(coding, "input", 256, **parameters).encode(x, 9)
    parameter = next(iter(parameters.values()), 0)
    got = encoding.CODINGS[coding](torch.from_numpy(x), 9, parameter, torch.float32).expand(9, -1, -1)
    assert np.array_equal(got.numpy(), expected)


@settings(max_examples=60, deadline=None)
@given(
    steps=st.integers(1, 12),
    threshold=st.integers(0, 600),
    shape=st.tuples(st.integers(1, 5), st.integers(1, 20), st.integers(1, 6) | st.integers(60, 140)),
    biased=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_products_by_period_are_those_of_the_spikes_and_so_are_their_gradients(steps, threshold, shape, biased, seed):
    batch, sources, targets = shape
    random = torch.Generator().manual_seed(seed)
    samples = torch.randint(0, 256, (batch, sources), generator=random).to(torch.uint8)
    samples[torch.rand(samples.shape, generator=random) < 0.4] = 0
    # Integers, whose sums are exact in any order.
    weight = torch.randint(-255, 256, (targets, sources), generator=random).float().requires_grad_()
    upstream = torch.randint(-9, 10, (steps, batch, targets), generator=random).float()
    bias = torch.arange(targets).float() if biased else None
    spikes = encoding.rate(samples, steps, threshold, torch.float32)
    expected = torch.nn.functional.linear(spikes, weight, bias)
    found = encoding.PeriodicSpikes(samples, steps, threshold).product(weight, bias)
    assert torch.equal(found, expected)
    assert torch.equal(*(torch.autograd.grad(sums, weight, upstream)[0] for sums in (found, expected)))

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

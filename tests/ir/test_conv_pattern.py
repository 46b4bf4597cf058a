"""Convolutions against torch's, and every summary against the unrolled synapses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toolchain.errors import SnncError
from toolchain.ir import Convolution


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[Convolution, np.ndarray, np.ndarray, dict]:
    """A convolution, its dense kernel, its stored weights, and torch's arguments (padding alike on both sides)."""
    groups = draw(st.integers(1, 3))
    inner, outer = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    size = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    source = (groups * inner, draw(st.integers(1, 7)), draw(st.integers(1, 7)))
    stride = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    dilation = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
    # At least enough padding for the kernel to fit.
    need = [max(0, -(-(dilation[k] * (size[k] - 1) + 1 - source[1 + k]) // 2)) for k in range(2)]
    pad = (need[0] + draw(st.integers(0, 2)), need[1] + draw(st.integers(0, 2)))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    mask = random.random((groups * outer, inner, *size)) < draw(st.sampled_from((0.0, 0.5, 1.0)))
    weight = np.where(mask, random.integers(-9, 10, mask.shape), 0)
    arguments = {"stride": stride, "dilation": dilation, "groups": groups}
    made, positions = Convolution.of(source, mask, padding=((pad[0],) * 2, (pad[1],) * 2), **arguments)
    made.verify("conv")
    return made, weight, weight.ravel()[positions], {**arguments, "padding": pad}


@given(convolutions(), st.integers(0, 2**32 - 1))
def test_the_product_is_torchs(case: tuple[Convolution, np.ndarray, np.ndarray, dict], seed: int) -> None:
    made, weight, values, arguments = case
    payload = np.random.default_rng(seed).integers(0, 5, (2, made.n_sources))
    maps = torch.tensor(payload.reshape(2, *made.source), dtype=torch.float64)
    expected = torch.nn.functional.conv2d(maps, torch.tensor(weight, dtype=torch.float64), **arguments)
    assert tuple(expected.shape[1:]) == made.target
    assert np.array_equal(made.product(values)(payload), expected.reshape(2, -1).numpy())


@given(convolutions())
def test_summaries_are_those_of_the_unrolled_synapses(case: tuple[Convolution, np.ndarray, np.ndarray, dict]) -> None:
    made, _, values, _ = case
    listed, weight = made.unroll()
    listed.verify("unrolled")
    assert made.n_synapses == listed.n_synapses <= made.pairs
    assert np.array_equal(made.fan_out, listed.fan_out)
    assert np.array_equal(made.fan_in, listed.fan_in)
    assert np.array_equal(made.uses, np.bincount(weight, minlength=made.n_weights))
    assert np.array_equal(made.target_sums(values), listed.target_sums(values[weight]))
    assert np.array_equal(made.matrix(values).toarray(), listed.dense(values[weight]))


@given(convolutions(), st.data())
def test_selecting_channels_and_weights(case: tuple[Convolution, np.ndarray, np.ndarray, dict], data) -> None:
    made, _, values, _ = case
    inputs = np.array(data.draw(st.lists(st.booleans(), min_size=made.source[0], max_size=made.source[0])))
    outputs = np.array(data.draw(st.lists(st.booleans(), min_size=made.target[0], max_size=made.target[0])))
    sources = np.repeat(inputs, made.source[1] * made.source[2])
    targets = np.repeat(outputs, made.target[1] * made.target[2])
    chosen, kept = made.select(sources, targets)
    whole = made.matrix(values).toarray()
    assert np.array_equal(chosen.matrix(values[kept]).toarray(), whole[np.ix_(targets, sources)])
    marked = np.arange(made.n_weights) % 2 == 0
    fewer = made.keep_weights(marked)
    fewer.verify("fewer")
    assert np.array_equal(fewer.matrix(values[marked]).toarray(), made.matrix(np.where(marked, values, 0)).toarray())


def test_what_does_not_chain_is_refused() -> None:
    with pytest.raises(SnncError, match="larger than its input") as error:
        Convolution.of((1, 4, 8), np.ones((1, 1, 5, 5)), where="conv1")
    assert error.value.where == "conv1"
    assert "padding" in (error.value.remedy or "")
    for shape, groups in (((2, 1, 3, 3), 2), ((3, 1, 3, 3), 2), ((2, 3, 3), 1)):
        with pytest.raises(SnncError, match="channels of its input"):
            Convolution.of((1, 8, 8), np.ones(shape), groups=groups)
    with pytest.raises(SnncError, match="1 or more"):
        Convolution.of((1, 8, 8), np.ones((1, 1, 3, 3)), stride=(0, 1))

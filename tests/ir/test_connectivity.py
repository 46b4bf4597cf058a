"""Synapse lists: the same as a dense matrix, whatever is done to them; damaged lists are refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from toolchain.errors import SnncError
from toolchain.ir import Connectivity

masks = hnp.arrays(bool, st.tuples(st.integers(1, 7), st.integers(1, 7)))


def as_mask(c: Connectivity) -> np.ndarray:
    return c.dense(np.ones(c.n_synapses, bool))


@given(masks)
def test_a_mask_reads_back(mask: np.ndarray) -> None:
    c = Connectivity.from_mask(mask)
    c.verify("c")
    assert np.array_equal(as_mask(c), mask)
    assert c.n_synapses == mask.sum()
    assert c.density == mask.mean()
    assert np.array_equal(c.fan_in, mask.sum(axis=1))
    assert np.array_equal(c.fan_out, mask.sum(axis=0))
    for source in range(c.n_sources):
        assert c.targets[c.indptr[source] : c.indptr[source + 1]].tolist() == np.flatnonzero(mask[:, source]).tolist()
    values = np.arange(1, c.n_synapses + 1)
    assert np.array_equal(c.matrix(values).toarray(), c.dense(values))
    assert (c.indptr.dtype, c.targets.dtype) == (np.int64, np.int32)


@given(masks, st.data())
def test_selecting_is_indexing(mask: np.ndarray, data) -> None:
    c = Connectivity.from_mask(mask)
    sources = data.draw(hnp.arrays(bool, mask.shape[1]))
    targets = data.draw(hnp.arrays(bool, mask.shape[0]))
    numbers = np.arange(1, c.n_synapses + 1)
    chosen, kept = c.select(sources, targets)
    chosen.verify("chosen")
    expected = c.dense(numbers)[np.ix_(targets, sources)]
    assert np.array_equal(chosen.dense(numbers[kept]), expected)
    assert chosen.n_synapses == np.count_nonzero(expected)
    marked = data.draw(hnp.arrays(bool, c.n_synapses))
    fewer = c.keep_weights(marked)
    fewer.verify("fewer")
    assert np.array_equal(fewer.dense(numbers[marked]), c.dense(np.where(marked, numbers, 0)))


def test_no_neurons_and_no_synapses() -> None:
    empty = Connectivity(3, 2, np.zeros(4, np.int64), np.zeros(0, np.int32))
    empty.verify("c")
    assert empty.density == 0.0
    assert empty.matrix(np.zeros(0)).shape == (2, 3)
    assert Connectivity(0, 0, np.zeros(1, np.int64), np.zeros(0, np.int32)).density == 0.0


@pytest.mark.parametrize(
    ("indptr", "targets"),
    [
        ([0, 1], [0]),  # too short
        ([0, 1, 2, 2], [0]),  # ends beyond the targets
        ([1, 1, 1, 1], [0]),  # does not begin at 0
        ([0, 2, 1, 2], [0, 1]),  # runs backwards
        ([0, 2, 2, 2], [1, 0]),  # not ascending
        ([0, 2, 2, 2], [1, 1]),  # a synapse twice
        ([0, 1, 1, 1], [2]),  # target too large
        ([0, 1, 1, 1], [-1]),
    ],
)
def test_damaged_lists_are_refused(indptr: list[int], targets: list[int]) -> None:
    c = Connectivity(3, 2, np.array(indptr, np.int64), np.array(targets, np.int32))
    with pytest.raises(SnncError, match="damaged") as caught:
        c.verify("fc1")
    assert caught.value.where == "fc1"


@given(masks, st.data())
def test_any_swap_within_a_list_is_noticed(mask: np.ndarray, data) -> None:
    c = Connectivity.from_mask(mask)
    long = np.flatnonzero(c.fan_out >= 2)
    if not len(long):
        return
    at = int(c.indptr[data.draw(st.sampled_from(long.tolist()))])
    targets = c.targets.copy()
    targets[[at, at + 1]] = targets[[at + 1, at]]
    with pytest.raises(SnncError):
        Connectivity(c.n_sources, c.n_targets, c.indptr, targets).verify("c")

"""Windows by targets hold the synapses that they should, in order."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from toolchain.ir import Connectivity
from toolchain.mapping.region import Region
from toolchain.mapping.synapse_memory import SynapseLists
from toolchain.mapping.windows import ByTarget


def random_lists(seed: int, n_sources: int, n_targets: int, density: float) -> SynapseLists:
    random = np.random.default_rng(seed)
    connectivity = Connectivity.from_mask(random.random((n_targets, n_sources)) < density)
    mantissas = random.integers(-3, 4, connectivity.n_synapses).astype(np.int16)
    return SynapseLists(connectivity, mantissas, 4, delay_bits=2, weight_exponent=1)


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(1, 24), st.floats(0, 1), st.data())
def test_a_window_is_the_part_of_the_lists_that_it_names(
    seed: int, n_sources: int, n_targets: int, density: float, data: st.DataObject
) -> None:
    lists = random_lists(seed, n_sources, n_targets, density)
    by_target = ByTarget.of(lists)
    assert np.array_equal(by_target.fan_in, lists.connectivity.fan_in)
    start = data.draw(st.integers(0, n_targets))
    stop = data.draw(st.integers(start, n_targets))
    found, expected = by_target.window(start, stop), lists.window(targets=(start, stop))
    found.connectivity.verify("window")
    assert found.connectivity == expected.connectivity
    assert np.array_equal(found.mantissas, expected.mantissas)
    assert (found.weight_bits, found.delay_bits, found.weight_exponent) == (4, 2, 1)
    assert found.mantissas.dtype == lists.mantissas.dtype


@settings(max_examples=40)
@given(st.integers(0, 2**32), st.floats(0, 1), st.data())
def test_any_neurons_become_compartments_in_the_order_given(seed: int, density: float, data: st.DataObject) -> None:
    lists = random_lists(seed, 7, 2 * 3 * 4, density)
    region = Region((2, 3, 4), tuple(data.draw(st.sampled_from([(0, n), (1, n), (n - 1, n)])) for n in (2, 3, 4)))
    neurons = region.neurons()
    found = ByTarget.of(lists).select(neurons)
    found.connectivity.verify("region")
    dense = lists.connectivity.dense(lists.mantissas)
    assert np.array_equal(found.connectivity.dense(found.mantissas), dense[neurons])
    assert found.connectivity.n_synapses == int(lists.connectivity.fan_in[neurons].sum())

"""A remedy is named only where it was compiled and fits."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_graphs import network
from small_maps import map_network
from small_targets import small_target

from toolchain import remedies
from toolchain.errors import DoesNotFit
from toolchain.ir import Graph
from toolchain.pipeline import Options, compile_graph
from toolchain.remedies import _thinned, find_remedies


def fits(graph: Graph, target, options: Options) -> bool:
    try:
        compile_graph(graph, target, options)
    except DoesNotFit:
        return False
    return True


@settings(max_examples=25)
@given(
    st.integers(6, 60),
    st.integers(20, 400),
    st.integers(1, 4),
    st.integers(1, 3),
    st.sampled_from((0.3, 1.0)),
    st.integers(0, 99),
)
def test_what_is_named_fits_when_it_is_followed(compartments, words, cores, chips, density, seed) -> None:
    target = small_target(
        compartments_per_core=compartments, synapse_words_per_core=words, cores_per_chip=cores, chips_per_system=12
    )
    graph, options = network(density=density, seed=seed), Options(chips=chips, cost_model="nengo")
    if fits(graph, target, options):
        return
    for remedy in find_remedies(graph, target, options):
        if found := re.match(r"--chips (\d+) fits: (\d+) cores", remedy):
            more = Options(chips=int(found[1]), cost_model="nengo")
            assert more.chips > chips
            assert fits(graph, target, more)
            assert not fits(graph, target, Options(chips=more.chips - 1, cost_model="nengo"))
        elif found := re.match(r"--bits (\d+) fits", remedy):
            assert fits(graph, target, Options(weight_bits=int(found[1]), chips=chips, cost_model="nengo"))
        else:
            found = re.match(r"a connectivity of ([\d.e-]+) % fits: train with --connectivity ([\d.e-]+)$", remedy)
            assert found
            pairs, synapses = 40 * 30 + 30 * 10, sum(c.synapses.connectivity.n_synapses for c in graph.connections)
            part = float(found[2]) * pairs / synapses
            assert float(found[1]) == pytest.approx(100 * float(found[2]), rel=0.01)
            assert min(abs(part - p) for p in remedies.CONNECTIVITIES) < 0.01 * part
            nearest = min(remedies.CONNECTIVITIES, key=lambda p: abs(part - p))
            assert fits(_thinned(graph, nearest), target, options)


def test_more_chips_come_first_and_only_as_many_as_needed() -> None:
    target = small_target(compartments_per_core=20, cores_per_chip=2, chips_per_system=5)
    assert find_remedies(network(), target, Options(share_cores=False))[0] == "--chips 3 fits: 5 cores"


def test_no_remedy_is_named_where_none_exists() -> None:
    """A payload that no chip, no bits and no connectivity can carry."""
    assert find_remedies(network(coding="graded"), small_target(), Options()) == []


def test_a_system_with_too_few_chips_is_no_remedy() -> None:
    target = small_target(compartments_per_core=20, cores_per_chip=1, chips_per_system=2)
    assert not any(r.startswith("--chips") for r in find_remedies(network(), target, Options()))


def test_fewer_bits_are_found_though_the_fewest_cannot_be_represented(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 2 bits a threshold may lie below half a step; 4 bits are a remedy all the same."""
    target = small_target()
    tried = []

    def pretend(trial, target):
        bits = trial()[1].weight_bits
        tried.append(bits)
        return None if bits <= 3 else bits <= 5

    monkeypatch.setattr(remedies, "_fits", pretend)
    found = remedies._first_that_fits(list(remedies._fewer_bits(network(), target, Options())), target)
    assert found is not None
    assert found.startswith("--bits 5 ")
    assert tried[:3] == [2, 3, 4]


def test_thinning_keeps_the_largest_weights() -> None:
    graph = network()
    thin = _thinned(graph, 0.25)
    thin.verify()
    for before, after in zip(graph.connections, thin.connections, strict=True):
        n = before.synapses.connectivity.n_synapses
        assert after.synapses.connectivity.n_synapses == round(0.25 * n)
        kept = sorted(abs(after.synapses.weights))
        assert kept == sorted(abs(before.synapses.weights))[-len(kept) :]


def test_kernels_are_thinned_by_their_entries() -> None:
    """A convolution loses kernel entries, at all places; the connectivity named is that of stored weights."""
    graph = map_network()
    thin = _thinned(graph, 0.5)
    thin.verify()
    for before, after in zip(graph.connections, thin.connections, strict=True):
        assert type(before.synapses.connectivity) is type(after.synapses.connectivity)
        assert after.synapses.connectivity.n_weights == round(0.5 * before.synapses.connectivity.n_weights)
        kept = sorted(abs(after.synapses.weights))
        assert kept == sorted(abs(before.synapses.weights))[-len(kept) :]


def test_a_convolutional_network_is_offered_a_connectivity_that_fits() -> None:
    graph = map_network(side=6, channels=2, readout=True)
    target = small_target(synapse_words_per_core=30, cores_per_chip=8, chips_per_system=1)
    options = Options(weight_bits=8)
    assert not fits(graph, target, options)
    weights = sum(c.synapses.connectivity.n_weights for c in graph.connections)
    capacity = sum(c.synapses.connectivity.capacity for c in graph.connections)
    for remedy in find_remedies(graph, target, options):
        if found := re.match(r"a connectivity of ([\d.e-]+) %", remedy):
            part = float(found[1]) / 100 * capacity / weights
            nearest = min(remedies.CONNECTIVITIES, key=lambda p: abs(part - p))
            assert part == pytest.approx(nearest, rel=0.01)
            assert fits(_thinned(graph, nearest), target, options)

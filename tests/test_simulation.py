"""Comparing simulations: where they first differ, what is counted, and that a fault is seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import strategies
from hypothesis import given, settings
from hypothesis import strategies as st
from small_graphs import network
from small_maps import map_network
from small_targets import chain

import hw_targets
from toolchain import simulation
from toolchain.backends import physical, reference
from toolchain.backends.trace import Trace
from toolchain.errors import SnncError, UsageError
from toolchain.pipeline import LAST_PASS, compile_graph
from toolchain.simulation import Row, first_divergence

LOIHI = hw_targets.load("loihi")


def samples(n: int = 20, size: int = 40) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (n, size)).astype(np.uint8)


def trace_of(**spikes: np.ndarray) -> Trace:
    return Trace(spikes, {k: s.sum(axis=1, dtype=np.int32) for k, s in spikes.items()}, list(spikes)[-1], 0.0)


@settings(max_examples=100)
@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 2), st.integers(0, 3), st.integers(0, 4)), max_size=5),
)
def test_the_first_divergence_is_the_earliest_of_all(seed: int, flips: list[tuple[int, int, int, int]]) -> None:
    """By sample, then step, then layer, then neuron."""
    random = np.random.default_rng(seed)
    spikes = {name: random.integers(0, 2, (3, 4, 5)).astype(np.uint8) for name in ("zz", "aa")}  # depth, not alphabet
    other = {name: s.copy() for name, s in spikes.items()}
    for layer, sample, step, neuron in flips:
        other[("zz", "aa")[layer]][sample, step, neuron] ^= 1
    every = [
        (sample, step, depth, neuron)
        for depth, name in enumerate(("zz", "aa"))
        for sample, step, neuron in np.argwhere(spikes[name] != other[name]).tolist()
    ]
    found = first_divergence(trace_of(**spikes), trace_of(**other))
    if not every:
        assert found is None
        return
    sample, step, depth, neuron = min(every)
    assert found == simulation.Divergence(sample, ("zz", "aa")[depth], neuron, step)
    assert str(found) == f"{('zz', 'aa')[depth]} neuron {neuron} step {step} (sample {sample})"


def test_traces_of_other_populations_are_not_compared() -> None:
    one = trace_of(a=np.zeros((1, 1, 1), np.uint8))
    with pytest.raises(SnncError, match="different populations") as caught:
        first_divergence(one, trace_of(b=np.zeros((1, 1, 1), np.uint8)))
    assert caught.value.got == "a, b"


@settings(max_examples=50)
@given(strategies.programs_and_samples())
def test_synaptic_operations_are_spikes_times_fan_out(case) -> None:
    program, values = case
    trace = reference.run(program, values)
    found = simulation.synaptic_operations(program, trace)
    for c in program.connections:
        slow = 0
        for sample in range(len(values)):
            for neuron, count in enumerate(trace.counts[c.source][sample]):
                slow += int(count) * int(
                    c.synapses.connectivity.indptr[neuron + 1] - c.synapses.connectivity.indptr[neuron]
                )
        on_host = program.input.on_host and c.source == program.input.name
        assert found[c.name] == pytest.approx(0 if on_host else slow / len(values))


def test_decisions_take_the_lowest_index_of_equals() -> None:
    spikes = np.zeros((3, 4, 3), np.uint8)
    spikes[0, :2, 1] = spikes[0, 2:, 2] = 1  # two each
    spikes[1, 0, 2] = 1
    trace = trace_of(out=spikes)
    assert trace.decisions.tolist() == [1, 2, 0]
    assert simulation.accuracy(trace, np.array([1, 2, 1])) == pytest.approx(2 / 3)


def test_an_unknown_back_end_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'reference'"):
        simulation.backend("refrence")
    assert simulation.backend("reference") is reference.run


def test_verify_rows_of_a_sound_compilation() -> None:
    state = compile_graph(network(density=0.8), LOIHI)
    labels = physical.run(state.graph, samples()).decisions
    said: list[str] = []
    rows = simulation.verify(state, samples(), labels, exact_backends={"reference": {}}, observe=said.append)
    assert [row.name for row in rows] == ["float", "quantised", "reference", "reference"]
    assert said == ["float", "quantised", "reference", "reference"]
    assert rows[0].accuracy == 1.0
    assert (rows[0].agreement, rows[0].divergence) == (None, None)
    assert [row.exact for row in rows] == [False, False, False, True]
    assert (rows[3].agreement, rows[3].divergence, rows[3].failed) == (1.0, None, False)
    assert rows[2].agreement == np.mean(
        physical.run(state.quantised.dequantise(), samples()).decisions
        == reference.run(state.whole, samples()).decisions
    )
    assert rows[2].accuracy == np.mean(reference.run(state.program, samples()).decisions == labels)
    plain = rows[3].to_dict()
    assert plain["must_be_exact"] is True
    assert plain["first_divergence"] is None


def test_a_back_end_that_loses_one_spike_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    state = compile_graph(network(density=0.8), LOIHI)

    def lossy(program, values, **_):
        trace = reference.run(program, values)
        spikes = {name: s.copy() for name, s in trace.spikes.items()}
        at = tuple(np.argwhere(spikes["fc1"])[7])
        spikes["fc1"][at] = 0
        return replace(trace, spikes=spikes)

    monkeypatch.setattr(simulation, "backend", lambda name: lossy)
    rows = simulation.verify(state, samples(), np.zeros(20, int), exact_backends={"lossy": {}})
    assert rows[-1].failed
    assert rows[-1].divergence.layer == "fc1"
    assert rows[-1].agreement == 1.0  # the same decisions hide it


@pytest.mark.parametrize("readout", [False, True])
def test_maps_and_readouts_are_compared_like_the_rest(readout: bool) -> None:
    state = compile_graph(map_network(readout=readout), LOIHI, until=LAST_PASS)
    values = samples(12, 128)
    labels = physical.run(state.graph, values).decisions
    rows = simulation.verify(state, values, labels, exact_backends={"reference": {}})
    assert rows[0].accuracy == 1.0
    assert not any(row.failed for row in rows)
    assert rows[2].agreement is not None
    assert rows[2].agreement > 0.9


def test_a_potential_that_differs_in_one_unit_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    state = compile_graph(map_network(readout=True), LOIHI, until=LAST_PASS)

    def rounded(program, values, **_):
        trace = reference.run(program, values)
        potentials = {name: v.copy() for name, v in trace.potentials.items()}
        potentials["out"][3, 7] += 1
        return replace(trace, potentials=potentials)

    monkeypatch.setattr(simulation, "backend", lambda name: rounded)
    rows = simulation.verify(state, samples(5, 128), np.zeros(5, int), exact_backends={"rounded": {}})
    assert rows[-1].failed
    assert str(rows[-1].divergence) == "out neuron 7 potential at step 5 (sample 3)"
    assert rows[-1].to_dict()["first_divergence"]["potential"] is True


def test_potentials_that_one_simulation_lacks_are_no_agreement() -> None:
    state = compile_graph(map_network(readout=True), LOIHI, until=LAST_PASS)
    trace = reference.run(state.program, samples(2, 128))
    with pytest.raises(SnncError, match="different populations") as caught:
        first_divergence(trace, replace(trace, potentials={}), potentials=True)
    assert caught.value.got == "out"


def test_samples_in_parts_give_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    state = compile_graph(map_network(), LOIHI, until=LAST_PASS)
    values, said = samples(11, 128), []
    labels = physical.run(state.graph, values).decisions
    whole = simulation.verify(state, values, labels, exact_backends={"reference": {}})
    neurons = 128 + sum(p.size for p in state.graph.populations)
    monkeypatch.setattr(simulation, "SPIKES_AT_ONCE", 4 * 6 * neurons)
    parts = simulation.verify(state, values, labels, exact_backends={"reference": {}}, observe=said.append)
    assert [replace(row, seconds=0.0) for row in parts] == [replace(row, seconds=0.0) for row in whole]
    assert said[-1] == "reference, after 8 of 11 samples"
    # The first difference of a later part keeps its sample's number.
    shifted = simulation._from(simulation._Compared("x", labels, simulation.Divergence(1, "out", 0, 0), True, 0.0), 8)
    assert shifted.divergence == simulation.Divergence(9, "out", 0, 0)


def test_a_fault_of_the_compiler_is_told() -> None:
    state = compile_graph(network(density=0.8), LOIHI)
    output = state.program.populations[-1]
    broken = replace(state.program, populations=(state.program.populations[0], replace(output, vth=output.vth // 2)))
    with pytest.raises(SnncError, match="fault of the compiler"):
        simulation.verify(replace(state, program_=broken), samples(), np.zeros(20, int), exact_backends={})


def test_only_exact_rows_fail() -> None:
    where = simulation.Divergence(0, "fc1", 0, 0)
    assert not Row("quantised", 1.0, 1.0, where, False, 0.0).failed
    assert Row("lava", 1.0, 1.0, where, True, 0.0).failed


def test_operations_of_no_samples_are_none() -> None:
    program = chain((3, 2))
    counts = {"input": np.zeros((0, 3), np.int32), "fc1": np.zeros((0, 2), np.int32)}
    assert simulation.synaptic_operations(program, Trace({}, counts, "fc1", 0.0)) == {"fc1.weight": 0.0}

"""Rounding weights: errors bounded, everything counted, trained steps kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import strategies
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from toolchain.backends import physical
from toolchain.errors import Diagnostic, SnncError
from toolchain.ir import (
    LIF,
    Connection,
    Connectivity,
    FloatSynapses,
    Graph,
    QuantisedGraph,
    make_input,
    mantissa_range,
    stored_shift,
)
from toolchain.passes.drop_zero_synapses import DropZeroSynapses
from toolchain.passes.quantize_weights import QuantizeWeights, squared_errors


def one_layer(*weights: np.ndarray, step: float | None = None, bits: int | None = None) -> Graph:
    """Every array of weights is a connection of its own from the input (one neuron each) into one neuron."""
    connections = []
    for k, each in enumerate(weights):
        each = np.asarray(each, np.float32)
        connectivity = Connectivity(
            1, max(1, len(each)), np.array([0, len(each)]), np.arange(len(each), dtype=np.int32)
        )
        connections.append(Connection(f"c{k}", "input", "out", FloatSynapses(connectivity, each), step, bits))
    size = connections[0].synapses.connectivity.n_targets
    neurons = LIF("out", size, 1.0, 1.0, 1.0, 0.0, np.zeros(size, np.float32))
    graph = Graph("one", make_input("rate", "input", 1), (neurons,), tuple(connections), 4)
    graph.verify()
    return graph


def quantise(graph: Graph, bits: int) -> tuple[QuantisedGraph, dict[str, list[Diagnostic]]]:
    quantised, diagnostics = QuantizeWeights(bits).run(graph)
    quantised.verify()
    by_code: dict[str, list[Diagnostic]] = {}
    for d in diagnostics:
        by_code.setdefault(d.code, []).append(d)
    return quantised, by_code


def count(by_code: dict[str, list[Diagnostic]], code: str) -> int:
    return sum(d.count for d in by_code.get(code, []))


magnitudes = st.sampled_from((1e-38, 1e-20, 1e-3, 1.0, 1e20, 1e37))
weight_arrays = hnp.arrays(np.float32, st.integers(0, 30), elements=st.floats(-1, 1, width=32))


@settings(max_examples=120)
@given(weight_arrays, magnitudes, st.integers(1, 8), st.sampled_from((-1, 0, 1)))
def test_every_weight_is_rounded_to_nearest_or_counted(unit, magnitude, bits, sign) -> None:
    weights = (unit.astype(np.float64) * magnitude).astype(np.float32)
    weights = weights if sign == 0 else sign * np.abs(weights)
    both = bool((weights < 0).any() and (weights > 0).any())
    if bits == 1 and both:
        with pytest.raises(SnncError, match="at least 2 bits") as caught:
            quantise(one_layer(weights), bits)
        assert caught.value.where == "c0.weight_bits"
        return
    quantised, found = quantise(one_layer(weights), bits)
    c = quantised.connections[0]
    exact = weights.astype(np.float64)
    error = np.abs(c.synapses.values * c.step - exact)
    low, high = mantissa_range(c.synapses.sign_mode, bits)
    at_end = np.isin(c.synapses.mantissa, (low, high))
    clipped = error > c.step / 2 * (1 + 1e-9)
    assert np.all(at_end[clipped])
    ties = at_end & (error >= c.step / 2 * (1 - 1e-9)) & ~clipped  # half a step beyond the end: rounds either way
    assert clipped.sum() <= count(found, "QNT002") <= (clipped | ties).sum()
    assert count(found, "QNT003") == np.sum((c.synapses.mantissa == 0) & (weights != 0))
    assert count(found, "QNT001") == len(weights)
    expected = "mixed" if both else "inhibitory" if (weights < 0).any() else "excitatory"
    assert c.synapses.sign_mode == expected
    assert c.synapses.exponent == 0


@given(weight_arrays, st.integers(2, 8))
def test_the_searched_step_is_no_worse_than_the_one_that_clips_nothing(weights, bits) -> None:
    assume(np.abs(weights).max(initial=0) > 1e-6)
    quantised, _ = quantise(one_layer(weights), bits)
    c = quantised.connections[0]
    low, high = mantissa_range(c.synapses.sign_mode, bits)
    exact = weights.astype(np.float64)
    full = max(exact.max() / high if high else 0, exact.min() / low if low else 0)
    plain = np.square(np.clip(np.rint(exact / full), low, high) * full - exact).sum()
    found = np.square(c.synapses.values * c.step - exact).sum()
    assert found <= plain * (1 + 1e-9)


@given(
    st.integers(2, 8),
    st.floats(1e-6, 1e3),
    st.lists(st.integers(-128, 127), min_size=1, max_size=40),
    st.booleans(),
)
def test_a_trained_step_is_kept_exactly(bits, step, mantissas, all_positive) -> None:
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1
    wanted = np.clip(np.abs(mantissas) if all_positive else mantissas, low, high)
    weights = (wanted * step).astype(np.float32)
    quantised, found = quantise(one_layer(weights, step=step, bits=bits), bits)
    c = quantised.connections[0]
    assert c.step == step
    assert c.synapses.exponent == 0
    assert np.array_equal(c.synapses.mantissa, wanted)
    assert "QNT002" not in found
    assert "QNT010" not in found
    assert "QNT011" not in found


def test_a_step_trained_for_other_bits_is_reported() -> None:
    _, found = quantise(one_layer(np.array([0.5, -0.25]), step=0.25, bits=4), 8)
    assert [d.where for d in found["QNT010"]] == ["c0"]
    assert "4 bits" in found["QNT010"][0].message


@settings(max_examples=120)
@given(st.lists(st.tuples(weight_arrays, st.floats(-30, 30)), min_size=2, max_size=4), st.integers(2, 8))
def test_connections_into_one_population_differ_by_powers_of_two(parts, bits) -> None:
    size = min(len(w) for w, _ in parts)
    assume(size)
    graph = one_layer(*((w[:size].astype(np.float64) * 10.0**e).astype(np.float32) for w, e in parts))
    quantised, found = quantise(graph, bits)
    assert len({c.step for c in quantised.connections}) == 1
    for before, after in zip(graph.connections, quantised.connections, strict=True):
        s = after.synapses
        exact = before.synapses.weights.astype(np.float64)
        assert 0 <= s.exponent <= 7 + stored_shift(s.sign_mode, bits)  # what the register reaches
        error = np.abs(s.values * after.step - exact)
        low, high = mantissa_range(s.sign_mode, bits)
        inside = ~np.isin(s.mantissa, (low, high))
        assert np.all(error[inside] <= after.step * 2.0**s.exponent / 2 * (1 + 1e-9))
        if np.any(exact):
            own = [c for c in quantised.connections if np.any(c.synapses.mantissa)]
            assert own, "the coarsest connection keeps its weights"
        lost = np.sum((s.mantissa == 0) & (exact != 0))
        assert sum(d.count for d in found.get("QNT003", []) if d.where == after.name) == lost


def test_a_connection_without_weight_does_not_choose_the_step() -> None:
    for empty in (np.zeros(2), np.zeros(2) * -1.0):
        for unit in (1e-3, 1e3):
            quantised, _ = quantise(one_layer(np.array([0.5, -1.0]) * unit, empty), 8)
            alone, _ = quantise(one_layer(np.array([0.5, -1.0]) * unit), 8)
            assert [c.synapses.exponent for c in quantised.connections] == [0, 0]
            assert quantised.connections[0].step == alone.connections[0].step


def test_a_trained_step_that_cannot_be_kept_is_reported() -> None:
    graph = one_layer(np.array([1.0, -1.0]), np.array([1.3, -1.3]))
    steps = (0.1, 0.13)
    graph = replace(
        graph,
        connections=tuple(
            replace(c, weight_step=s, weight_bits=8) for c, s in zip(graph.connections, steps, strict=True)
        ),
    )
    _, found = quantise(graph, 8)
    assert [d.where for d in found["QNT011"]] == ["c1"]
    assert "0.13 became 0.2" in found["QNT011"][0].message


@settings(max_examples=60)
@given(strategies.graphs(), st.integers(2, 8), st.data())
def test_dropping_zeros_changes_no_spike(graph: Graph, bits: int, data) -> None:
    samples = data.draw(strategies.samples(graph))
    quantised, _ = QuantizeWeights(bits).run(graph)
    smaller, diagnostics = DropZeroSynapses().run(quantised)
    smaller.verify()
    before = sum(c.synapses.connectivity.n_synapses for c in quantised.connections)
    after = sum(c.synapses.connectivity.n_synapses for c in smaller.connections)
    assert before - after == sum(d.count for d in diagnostics)
    assert all(np.all(c.synapses.mantissa != 0) for c in smaller.connections)
    one, other = physical.run(quantised.dequantise(), samples), physical.run(smaller.dequantise(), samples)
    for name in one.spikes:
        assert np.array_equal(one.spikes[name], other.spikes[name])


@pytest.mark.parametrize("n", [1, 7, 3000])
@pytest.mark.parametrize(("low", "high"), [(-128, 127), (-2, 1), (0, 255)])
def test_squared_errors_of_many_steps_are_those_of_rounding_with_each(n: int, low: int, high: int) -> None:
    random = np.random.default_rng(n)
    for weights in (random.normal(0, 1, n), random.integers(-20, 20, n) * 0.125, np.ones(n)):
        weights = np.abs(weights).astype(np.float32) if low == 0 else weights.astype(np.float32)
        steps = np.array([1.0, 0.5, 0.125, 0.01, 0.003])
        exact = weights.astype(np.float64)
        expected = [float(np.square(np.clip(np.rint(exact / s), low, high) * s - exact).sum()) for s in steps]
        found = squared_errors(weights, steps, low, high)
        assert np.allclose(found, expected, rtol=1e-9, atol=1e-12 * float(np.square(exact).sum()))
        assert int(found.argmin()) == int(np.argmin(expected))

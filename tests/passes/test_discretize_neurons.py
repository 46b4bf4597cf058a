"""Physical units to registers: exact where it can be, reported where it is not, refused where it cannot be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import strategies
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from toolchain.backends import physical, reference
from toolchain.errors import SnncError
from toolchain.ir import (
    LIF,
    Connectivity,
    Graph,
    Input,
    IntegerSynapses,
    QuantisedConnection,
    QuantisedGraph,
    make_input,
    stored_shift,
)
from toolchain.ir.arithmetic import BIAS_LIMIT, STATE_LIMIT, STATE_SHIFT
from toolchain.passes.bounds import state_bounds
from toolchain.passes.discretize_neurons import THRESHOLD_TOLERANCE, DiscretizeNeurons
from toolchain.passes.drop_zero_synapses import DropZeroSynapses
from toolchain.passes.quantize_weights import QuantizeWeights
from toolchain.passes.remove_dead_neurons import RemoveDeadNeurons


def layer(
    weights: np.ndarray,
    *,
    step: float = 1.0,
    threshold: float = 10.0,
    gain: float = 1.0,
    current_decay: float = 1.0,
    voltage_decay: float = 0.0,
    bias: np.ndarray | None = None,
    source: Input | None = None,
    steps: int = 6,
    sign_mode: str = "mixed",
    exponent: int = 0,
) -> QuantisedGraph:
    """One layer of integer weights, shape (n_targets, n_sources)."""
    weights = np.asarray(weights)
    n = weights.shape[0]
    connectivity = Connectivity.from_mask(np.ones(weights.shape, bool))
    mantissa = weights[connectivity.targets, connectivity.sources].astype(np.int16)
    synapses = IntegerSynapses(connectivity, mantissa, exponent, 8, sign_mode)
    own = np.zeros(n) if bias is None else np.asarray(bias)
    neurons = LIF("out", n, threshold, gain, current_decay, voltage_decay, own.astype(np.float32))
    graph = QuantisedGraph(
        "layer",
        source or make_input("graded", "input", weights.shape[1]),
        (neurons,),
        (QuantisedConnection("fc", "input", "out", synapses, step),),
        steps,
    )
    graph.verify()
    return graph


def discretise(graph: QuantisedGraph):
    program, diagnostics = DiscretizeNeurons().run(graph)
    program.verify()
    return program, {d.code: d for d in diagnostics}


@st.composite
def exact_layers(draw: st.DrawFn, *, decays: bool) -> tuple[QuantisedGraph, np.ndarray]:
    """Layers whose thresholds and biases are whole weight steps, so that integers can hold them exactly.

    With `decays`, both are 0, 1/2 or 1: powers of two that 12 bits hold. Truncation then still loses bits once a
    potential has been halved more often than it has bits below a weight's lowest: 6. So at most 6 steps are run and
    biases are whole steps; beyond that float and integer are not the same function.
    """
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    coding = draw(st.sampled_from(("graded", "rate")))
    n_in, n_out = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    scale = draw(st.sampled_from((1.0, 0.5, 1 / 256)))
    step = draw(st.sampled_from((1.0, 0.25, 2.0**-9)))
    gain = draw(st.sampled_from((1.0, 0.5)))
    unit = gain * step * scale
    threshold = draw(st.integers(1, 3000))
    bias = random.integers(-50, 51, n_out) * unit / gain
    graph = layer(
        random.integers(-128, 128, (n_out, n_in)),
        step=step,
        gain=gain,
        threshold=threshold * unit,
        current_decay=draw(st.sampled_from((1.0, 0.5))) if decays else 1.0,
        voltage_decay=draw(st.sampled_from((0.0, 0.5))) if decays else 0.0,
        bias=bias,
        source=make_input(coding, "input", n_in, scale=scale),
        steps=draw(st.integers(1, 6 if decays else 30)),
    )
    samples = random.integers(0, 256, (4, n_in)).astype(np.uint8)
    return graph, samples


@settings(max_examples=80)
@given(exact_layers(decays=False))
def test_without_decay_float_and_integer_agree_in_every_spike(case) -> None:
    check_equal(*case)


@settings(max_examples=80)
@given(exact_layers(decays=True))
def test_halving_decays_agree_while_the_bits_last(case) -> None:
    check_equal(*case)


def check_equal(graph: QuantisedGraph, samples: np.ndarray) -> None:
    program, found = discretise(graph)
    assert found == {}  # nothing was rounded
    bounds = state_bounds(program)
    assume(all(b.v_proved for b in bounds))  # saturation is the chip's own
    one, other = physical.run(graph.dequantise(), samples), reference.run(program, samples)
    for name in one.spikes:
        assert np.array_equal(one.spikes[name], other.spikes[name])


def test_the_comparison_stays_strict() -> None:
    """A potential equal to the threshold does not spike, in float and in integers."""
    graph = layer([[5], [5]], threshold=10.0, bias=np.array([0.0, 1.0]), steps=4)
    program, _ = discretise(graph)
    samples = np.array([[2]], np.uint8)
    for trace in (physical.run(graph.dequantise(), samples), reference.run(program, samples)):
        assert trace.spikes["out"][0].T.tolist() == [[0, 1, 0, 1], [1, 1, 1, 1]]


def test_agreement_is_high_where_things_are_rounded() -> None:
    random = np.random.default_rng(3)
    graph = layer(
        random.integers(-128, 128, (40, 60)),
        step=0.013,
        gain=1 / 2.3,
        threshold=1.234,
        current_decay=0.77,
        voltage_decay=1 / 2.3,
        bias=random.normal(size=40) * 0.05,
        source=make_input("rate", "input", 60),
        steps=16,
    )
    program, found = discretise(graph)
    assert {"NEU001", "NEU002", "NEU003"} <= set(found)
    samples = random.integers(0, 256, (50, 60)).astype(np.uint8)
    one, other = physical.run(graph.dequantise(), samples), reference.run(program, samples)
    assert np.mean(one.spikes["out"] == other.spikes["out"]) > 0.995


@settings(max_examples=120)
@given(
    st.floats(1e-4, 1e3),
    st.floats(1e-4, 10),
    st.floats(0.01, 1),
    st.sampled_from(("mixed", "excitatory", "inhibitory")),
    st.integers(0, 8),
    st.integers(0, 2**32 - 1),
    st.sampled_from(("rate", "graded")),
)
def test_threshold_and_bias_are_rounded_as_reported(threshold, step, gain, sign_mode, exponent, seed, coding) -> None:
    random = np.random.default_rng(seed)
    weights = random.integers(-120, 120, (3, 4))
    weights = weights if sign_mode == "mixed" else np.abs(weights) * (1 if sign_mode == "excitatory" else -1)
    exponent = min(exponent, 7 + stored_shift(sign_mode, 8))
    bias = random.normal(size=3) * threshold
    graph = layer(
        weights,
        step=step,
        threshold=threshold,
        gain=gain,
        bias=bias,
        sign_mode=sign_mode,
        exponent=exponent,
        source=make_input(coding, "input", 4),
    )
    ideal = threshold / (gain * step)
    if not 0.5 <= ideal <= 131071:
        with pytest.raises(SnncError, match="threshold cannot be held") as caught:
            discretise(graph)
        assert caught.value.where == "out.threshold"
        return
    try:
        program, found = discretise(graph)
    except SnncError as error:
        assert error.where.startswith("out.bias")  # noqa: PT017 (one of two outcomes)
        return
    synapses, p = program.connections[0].synapses, program.populations[0]
    grown = synapses.exponent - exponent
    assert synapses.exponent - stored_shift(sign_mode, 8) <= 7  # the register of the chip
    scale = 2.0**grown / (gain * step)
    error = p.vth / (threshold * scale) - 1
    assert p.vth == max(1, round(threshold * scale))
    assert ("NEU001" in found) == (abs(error) > 1e-9)
    if "NEU001" in found:
        assert f"{error:+.2e}" in found["NEU001"].effect
    # A scale that rounds less would have left the register, the 24 bits of the current or the 17 of the threshold.
    payload = 255 if coding == "graded" else 1
    most = int(max(np.maximum(weights, 0).sum(1).max(), -np.minimum(weights, 0).sum(1).min())) * payload
    if abs(error) > THRESHOLD_TOLERANCE:
        for e in range(grown + 1, 7 + stored_shift(sign_mode, 8) - exponent + 1):
            value = ideal * 2.0**e
            if most << exponent << e << STATE_SHIFT <= STATE_LIMIT and value <= 131071:
                assert abs(round(value) / value - 1) >= abs(error) - 1e-12
    exact = graph.populations[0].bias.astype(float) * gain * scale * 64
    rounding = np.abs(p.bias - exact)
    assert np.all(rounding <= 2.0**p.bias_exponent / 2 + 1e-6)
    assert (found["NEU002"].count if "NEU002" in found else 0) == np.sum(rounding > 1e-6)


def test_excitatory_weights_do_not_outgrow_the_exponent_register() -> None:
    """4.3 steps would be held best with 8 more bits, of which a weight of 8 bits without sign has only 7."""
    program, found = discretise(layer([[1]], threshold=4.3, sign_mode="excitatory"))
    assert program.connections[0].synapses.exponent <= 7
    assert "NEU001" in found


def test_a_threshold_below_half_a_step_is_refused() -> None:
    with pytest.raises(SnncError) as caught:
        discretise(layer([[100]], threshold=0.49))
    assert (caught.value.where, caught.value.remedy) == ("out.threshold", "use more weight bits")
    with pytest.raises(SnncError) as caught:
        discretise(layer([[100]], threshold=131072.0))
    assert caught.value.remedy.startswith("use fewer weight bits")


def test_a_bias_beyond_the_register_is_refused_by_neuron() -> None:
    graph = layer([[100], [100]], threshold=100.0, bias=np.array([0.0, 1e6]))
    with pytest.raises(SnncError) as caught:
        discretise(graph)
    assert caught.value.where == "out.bias, first neuron 1"


@pytest.mark.parametrize(
    ("exact", "du", "reported"), [(1.0, 4096, False), (1 / 4096, 1, False), (1e-6, 1, True), (0.3, 1229, True)]
)
def test_current_decay(exact: float, du: int, reported: bool) -> None:
    program, found = discretise(layer([[1]], current_decay=exact))
    assert program.populations[0].du == du
    assert ("NEU003" in found) == reported


@pytest.mark.parametrize(
    ("exact", "dv", "reported"), [(0.0, 0, False), (0.5, 2048, False), (0.99999, 4095, True), (1e-6, 0, True)]
)
def test_voltage_decay(exact: float, dv: int, reported: bool) -> None:
    program, found = discretise(layer([[1]], voltage_decay=exact))
    assert program.populations[0].dv == dv
    assert ("NEU003" in found) == reported


# ---------------------------------------------------------------------- currents computed on the host


@settings(max_examples=80)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 60),
    st.floats(1e-3, 10),
    st.floats(-1, 1),
    st.floats(0, 2),
    st.floats(0.01, 100),
)
def test_a_current_from_the_host_is_never_clipped(seed, n_in, scale, offset, bias, threshold) -> None:
    random = np.random.default_rng(seed)
    weights = random.integers(-128, 128, (4, n_in))
    source = make_input("current", "input", n_in, scale=scale, offset=offset, shift=3)
    graph = layer(
        weights, step=0.01, threshold=threshold, bias=random.normal(size=4) * bias, source=source, voltage_decay=0.5
    )
    try:
        program, _ = discretise(graph)
    except SnncError as error:
        assert error.where.startswith("out.threshold")  # noqa: PT017 (one of two outcomes)
        return
    positive, negative = np.maximum(weights, 0).sum(1) * 255, np.minimum(weights, 0).sum(1) * 255
    half = (1 << program.input.shift) >> 1
    own = program.populations[0].bias >> STATE_SHIFT
    assert program.populations[0].bias_exponent >= STATE_SHIFT  # one register, one exponent
    for total in (positive, negative):
        unclipped = (total + half) >> program.input.shift
        assert np.array_equal(program.input.inject(total), unclipped)
        assert np.all(np.abs(unclipped + own) <= BIAS_LIMIT)  # with the neuron's own bias in the same register
    assert program.populations[0].vth >= 1
    assert program.input.shift >= 3  # what it was trained with
    if program.input.shift > 3:  # and no coarser than needed
        finer = max(positive.max(), -negative.min()) / 2.0 ** (program.input.shift - 1)
        physical_bias = (
            np.abs(graph.populations[0].bias).max() / (0.01 * scale)
            + abs(offset) / scale * max(positive.max(), -negative.min()) / 255
        )
        assert finer + physical_bias / 2.0 ** (program.input.shift - 1) > BIAS_LIMIT - 2


def test_two_populations_share_one_shift_of_the_host() -> None:
    """The shift belongs to the input; both thresholds are given at the same one."""
    source = make_input("current", "input", 2, scale=1.0)
    small, large = layer([[1, 1]], source=source), layer([[127, 127]], source=source)
    first = replace(small.populations[0], name="a", threshold=4000.0)
    second = replace(large.populations[0], name="b", threshold=4000.0)
    third = replace(small.populations[0], name="c")
    graph = QuantisedGraph(
        "two",
        source,
        (second, first, third),  # the one that needs the larger shift stands first
        (
            replace(small.connections[0], name="i-a", target="a"),
            replace(large.connections[0], name="i-b", target="b"),
            replace(layer([[1]]).connections[0], name="a-c", source="a", target="c"),
            replace(layer([[1]]).connections[0], name="b-c", source="b", target="c"),
        ),
        8,
    )
    graph.verify()
    program, _ = discretise(graph)
    assert program.input.shift == 4  # 127 * 2 * 255 / 2**4 < 4095
    samples = np.array([[10, 20], [255, 255], [0, 1], [100, 130]], np.uint8)
    one, other = physical.run(graph.dequantise(), samples), reference.run(program, samples)
    assert np.array_equal(one.counts["b"], other.counts["b"])
    assert {p.name: p.vth for p in program.populations}["a"] == 4000 >> 4


def test_a_host_current_with_synaptic_decay_is_refused() -> None:
    source = make_input("current", "input", 1)
    with pytest.raises(SnncError, match="no synaptic decay") as caught:
        discretise(layer([[1]], source=source, current_decay=0.5))
    assert caught.value.where == "out.current_decay"


def test_an_offset_with_synaptic_decay_is_refused() -> None:
    """The offset enters through the synapses, so it would gather in the current; a bias does not."""
    source = make_input("graded", "input", 1, offset=0.5)
    with pytest.raises(SnncError, match="no synaptic decay"):
        discretise(layer([[1]], source=source, current_decay=0.5))
    graph = layer([[2], [3]], source=source, threshold=40.0)
    program, _ = discretise(graph)
    samples = np.array([[0], [7], [255]], np.uint8)
    one, other = physical.run(graph.dequantise(), samples), reference.run(program, samples)
    assert np.array_equal(one.spikes["out"], other.spikes["out"])


# ---------------------------------------------------------------------- the passes in a row


@settings(max_examples=120)
@given(strategies.graphs(), st.integers(2, 8), st.data())
def test_any_graph_goes_through_all_passes_or_is_refused_by_name(graph: Graph, bits: int, data) -> None:
    samples = data.draw(strategies.samples(graph))
    known = {graph.input.name, *(p.name for p in graph.populations), *(c.name for c in graph.connections)}
    try:
        quantised, _ = QuantizeWeights(bits).run(graph)
        quantised.verify()
        dropped, _ = DropZeroSynapses().run(quantised)
        dropped.verify()
        program, _ = DiscretizeNeurons().run(dropped)
        program.verify()
        final, _ = RemoveDeadNeurons().run(program)
        final.verify()
    except SnncError as error:
        assert error.where is not None  # noqa: PT017 (one of two outcomes)
        assert any(name in error.where for name in known)  # noqa: PT017 (one of two outcomes)
        return
    whole, deployed = reference.run(program, samples), reference.run(final, samples)
    output = program.output.name
    assert np.array_equal(whole.spikes[output], deployed.spikes[output])

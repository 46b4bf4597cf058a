"""ONNX Runtime, executing the written file, equals the reference spike for spike."""

import importlib.util

import golden
import numpy as np
import pytest
from hypothesis import given, settings
from strategies import graphs, programs_and_samples
from strategies import samples as samples_for

from toolchain.backends import onnx_runtime, reference
from toolchain.errors import SnncError
from toolchain.formats import onnx_model
from toolchain.formats.onnx_model import graph_model, program_model
from toolchain.ir import (
    Compartments,
    Connectivity,
    Convolution,
    CurrentInput,
    GradedInput,
    IntegerConnection,
    IntegerSynapses,
    Program,
    mantissa_range,
)

ort = pytest.importorskip("onnxruntime")


def assert_equal(program, samples) -> None:
    expected = reference.run(program, samples)
    trace = onnx_runtime.run(program, samples)
    assert set(trace.spikes) == set(expected.spikes)
    for name, spikes in expected.spikes.items():
        assert np.array_equal(trace.spikes[name], spikes), name
        assert np.array_equal(trace.counts[name], expected.counts[name]), name
    assert set(trace.potentials) == set(expected.potentials)
    for name, potentials in expected.potentials.items():
        assert np.array_equal(trace.potentials[name], potentials), name
    assert np.array_equal(trace.decisions, expected.decisions)


@settings(max_examples=60)
@given(programs_and_samples())
def test_equals_the_reference(case):
    assert_equal(*case)


@settings(max_examples=120)
@given(programs_and_samples(wide=True, max_steps=10))
def test_equals_the_reference_for_every_layer_and_neuron(case):
    assert_equal(*case)


@settings(max_examples=30)
@given(programs_and_samples(may_wrap=True))
def test_equals_it_where_currents_wrap(case):
    assert_equal(*case)


def wide(n_sources: int, mantissa: int, exponent: int = 0) -> Program:
    """Many graded inputs into one neuron: the largest sums that a format allows."""
    every = Connectivity(n_sources, 1, np.arange(n_sources + 1), np.zeros(n_sources, np.int32))
    mode = "excitatory" if mantissa > 0 else "inhibitory"
    synapses = IntegerSynapses(every, np.full(n_sources, mantissa, np.int16), exponent, 8, mode)
    return Program(
        "wide",
        GradedInput("input", n_sources, np.arange(n_sources, dtype=np.int32)),
        (Compartments("out", 1, 1, 1, 131071, np.full(1, 4095, np.int16), 7),),
        (IntegerConnection("w", "input", "out", synapses),),
        4,
    )


@pytest.mark.parametrize(("n_sources", "operator"), [(33_025, "IntegerSynapses"), (33_026, "WideIntegerSynapses")])
@pytest.mark.parametrize("mantissa", [255, -255])
def test_sums_at_the_end_of_32_bits(n_sources, operator, mantissa):
    """33025 * 255 * 255 is the last sum that int32 holds; above it the file switches to 64 bits."""
    program = wide(n_sources, mantissa, exponent=8)
    nodes = program_model(program).proto.graph.node
    assert operator in [node.op_type for node in nodes]
    samples = np.full((2, n_sources), 255, np.uint8)
    samples[1, :100] = 0
    assert_equal(program, samples)


@pytest.mark.parametrize("mantissa", [64, 65, -64, -65, -63])
def test_wrap_at_24_bits(mantissa):
    """Exponent 11 puts a mantissa of 64 at 2**23, the very edge."""
    one = Connectivity(1, 1, np.array([0, 1]), np.zeros(1, np.int32))
    synapses = IntegerSynapses(one, np.full(1, mantissa, np.int16), 11, 8, "mixed")
    program = Program(
        "edge",
        GradedInput("input", 1, np.zeros(1, np.int32)),
        (Compartments("out", 1, 4096, 0, (1 << 17) - 1, np.zeros(1, np.int16)),),
        (IntegerConnection("w", "input", "out", synapses),),
        3,
    )
    assert_equal(program, np.array([[1], [2]], np.uint8))


@pytest.mark.parametrize("shift", [0, 1, 3, 7])
@pytest.mark.parametrize("mantissa", [-1, 1, -128, 127])
def test_host_current_is_rounded_alike(shift, mantissa):
    """Neurons with biases -200 to 200 read out each injected current: as many spike as lie above its negative."""
    size = 401
    every = Connectivity(1, size, np.array([0, size]), np.arange(size, dtype=np.int32))
    synapses = IntegerSynapses(every, np.full(size, mantissa, np.int16), 0, 8, "mixed")
    bias = (np.arange(size) - 200).astype(np.int16)
    program = Program(
        "host",
        CurrentInput("input", 1, np.zeros(1, np.int32), shift=shift),
        (Compartments("out", size, 4096, 0, 0, bias),),
        (IntegerConnection("w", "input", "out", synapses),),
        1,
    )
    assert_equal(program, np.arange(256, dtype=np.uint8)[:, None])


def test_no_inputs_left():
    """Removing dead neurons may leave an input that nothing listens to."""
    nothing = Connectivity(0, 2, np.zeros(1, np.int64), np.zeros(0, np.int32))
    program = Program(
        "deaf",
        GradedInput("input", 5, np.zeros(0, np.int32)),
        (Compartments("out", 2, 4096, 0, 10, np.array([0, 4], np.int16)),),
        (IntegerConnection("w", "input", "out", IntegerSynapses(nothing, np.zeros(0, np.int16), 0, 8, "mixed")),),
        5,
    )
    assert_equal(program, np.zeros((3, 5), np.uint8))


def test_batches_records_and_progress(monkeypatch):
    monkeypatch.setattr(onnx_runtime, "BATCH", 3)
    program = wide(4, 100)
    samples = np.random.default_rng(0).integers(0, 256, (7, 4)).astype(np.uint8)
    done = []
    trace = onnx_runtime.run(program, samples, record=["out"], progress=lambda n, total: done.append((n, total)))
    assert done == [(3, 7), (6, 7), (7, 7)]
    expected = reference.run(program, samples, record=["out"])
    assert set(trace.spikes) == {"out"}
    assert np.array_equal(trace.spikes["out"], expected.spikes["out"])
    assert np.array_equal(trace.counts["input"], expected.counts["input"])


def test_bad_samples_are_refused():
    with pytest.raises(SnncError, match="do not match the input"):
        onnx_runtime.run(wide(4, 1), np.zeros((1, 5), np.uint8))
    with pytest.raises(SnncError, match="not integers"):
        onnx_runtime.run(wide(4, 1), np.full((1, 4), 300))


def test_what_memory_cannot_hold_is_refused(monkeypatch):
    monkeypatch.setattr(onnx_runtime, "DENSE_BYTES_MAX", 3)
    with pytest.raises(SnncError, match="densely"):
        onnx_runtime.run(wide(4, 1), np.zeros((1, 4), np.uint8))


def test_without_the_runtime(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SnncError, match="pip install onnxruntime"):
        onnx_runtime.run(wide(4, 1), np.zeros((1, 4), np.uint8))


@pytest.mark.parametrize("kind", golden.KINDS)
def test_golden(kind):
    wanted = golden.read(kind)
    wanted.assert_equal(onnx_runtime.run(wanted.program, wanted.samples))


def test_kernels_are_counted_once():
    """2 x 8 x 8 values through a kernel of 3 x 2 x 3 x 3: 54 bytes, 8 times that where sums need double precision."""
    pattern, _ = Convolution.of((2, 8, 8), np.ones((3, 2, 3, 3)))
    synapses = IntegerSynapses(pattern, np.ones(54, np.int16), 0, 8, "mixed")
    program = Program(
        "kernel",
        GradedInput("input", 128, np.arange(128, dtype=np.int32)),
        (Compartments("out", 108, 4096, 0, 10, np.zeros(108, np.int16)),),
        (IntegerConnection("w", "input", "out", synapses),),
        1,
    )
    assert onnx_runtime.dense_bytes(program) == 54
    assert onnx_runtime.dense_bytes(wide(33_026, 1)) == 8 * 33_026


@pytest.mark.parametrize("mode", ["mixed", "excitatory", "inhibitory"])
@pytest.mark.parametrize("groups", [1, 2])
def test_wide_convolutions(monkeypatch, mode, groups):
    """The operator in double precision, which only takes over beyond 33025 terms, on maps of every odd geometry."""
    monkeypatch.setattr(onnx_model, "INT32_MAX", 0)
    random = np.random.default_rng(groups)
    low, high = mantissa_range(mode, 8)
    for _ in range(10):
        mask = random.random((4, 2, *random.integers(1, 4, 2))) < 0.7
        pads = [tuple(map(int, random.integers(0, 3, 2))) for _ in range(2)]
        stride, dilation = (tuple(map(int, random.integers(1, 3, 2))) for _ in range(2))
        pattern, _ = Convolution.of(
            (2 * groups, 5, 6), mask, stride=stride, dilation=dilation, padding=pads, groups=groups
        )
        mantissa = random.integers(low, high + 1, pattern.n_weights).astype(np.int16)
        n = pattern.n_targets
        program = Program(
            "wide",
            GradedInput("input", pattern.n_sources, np.arange(pattern.n_sources, dtype=np.int32)),
            (Compartments("out", n, 1, 1, 131071, random.integers(-9, 10, n).astype(np.int16), 7, "none"),),
            (IntegerConnection("w", "input", "out", IntegerSynapses(pattern, mantissa, 0, 8, mode)),),
            2,
        )
        assert "WideIntegerConvolution" in [node.op_type for node in program_model(program).proto.graph.node]
        assert_equal(program, random.integers(0, 256, (3, pattern.n_sources)).astype(np.uint8))


def test_batches_fit_in_memory(monkeypatch):
    program = wide(4, 100)
    done = []
    monkeypatch.setattr(onnx_runtime, "BATCH_BYTES", 2 * 4 * 2 * 8)  # u and v of one neuron, 8 bytes each
    onnx_runtime.run(program, np.zeros((5, 4), np.uint8), progress=lambda n, total: done.append(n))
    assert done == [2, 4, 5]


@settings(max_examples=80)
@given(graphs(wide=True).flatmap(lambda graph: samples_for(graph).map(lambda samples: (graph, samples))))
def test_the_trained_graph_runs_too(case):
    """graph.onnx, in double precision, follows the float simulator until rounding may decide about a spike."""
    graph, samples = case
    options = ort.SessionOptions()
    options.log_severity_level = 3
    model = b"".join(graph_model(graph).chunks())
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    outputs = [value.name for value in session.get_outputs()]
    types = {"tensor(int64)": np.int64, "tensor(double)": np.float64, "tensor(uint8)": np.uint8}
    inputs = {v.name: v for v in session.get_inputs() if v.name != "sample"}
    state = {n: np.zeros((len(samples), *v.shape[1:]), types[v.type]) for n, v in inputs.items()}
    for t, (expected, spikes, uncertain) in enumerate(steps_of(graph, samples)):
        given = {"sample": graph.input.at(samples, t), **state}
        result = dict(zip(outputs, session.run(outputs, given), strict=True))
        if uncertain:
            return
        for p in graph.populations:
            assert np.allclose(result[f"{p.name}.u_next"], expected[p.name].u, rtol=1e-9, atol=TOLERANCE)
            assert np.allclose(result[f"{p.name}.v_next"], expected[p.name].v, rtol=1e-9, atol=TOLERANCE)
            if p.refractory:
                assert np.array_equal(result[f"{p.name}.wait_next"], expected[p.name].wait)
            if p.spiking:
                assert np.array_equal(result[f"{p.name}.spikes"], spikes[p.name])
        state = {name: result[f"{name}_next"] for name in state}


TOLERANCE = 1e-9
"""Of potentials: sums in another order."""


def steps_of(graph, samples):
    """Each step of the float simulator: states after it, spikes, and whether a potential came near its threshold."""
    payload = graph.input.encode(samples, graph.steps)
    sent = {graph.input.name: graph.input.offset + graph.input.scale * payload}
    sent |= {p.name: np.zeros((*payload.shape[:2], p.size)) for p in graph.populations}
    products = {c.name: c.synapses.connectivity.product(c.synapses.weights.astype(float)) for c in graph.connections}
    state = {p.name: p.start(len(samples)) for p in graph.populations}
    for t in range(graph.steps):
        uncertain = False
        for p in graph.populations:
            a = np.zeros((len(samples), p.size))
            for c in graph.connections:
                if c.target == p.name and t >= c.delay:
                    a += products[c.name](sent[c.source][t - c.delay])
            v = state[p.name].v
            state[p.name], sent[p.name][t] = p.step(state[p.name], a)
            free = (1 - p.voltage_decay) * v + state[p.name].u + p.gain * p.bias
            uncertain |= p.spiking and bool((np.abs(free - p.threshold) < TOLERANCE).any())
        yield state, {p.name: sent[p.name][t] for p in graph.populations}, uncertain

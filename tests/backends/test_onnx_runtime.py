"""ONNX Runtime, executing the written file, equals the reference spike for spike."""

import builtins

import numpy as np
import pytest
from hypothesis import given, settings
from strategies import graphs, programs_and_samples
from strategies import samples as samples_for

from toolchain.backends import onnx_runtime, physical, reference
from toolchain.errors import SnncError
from toolchain.formats.onnx_model import graph_model, program_model
from toolchain.ir import (
    Compartments,
    Connectivity,
    CurrentInput,
    GradedInput,
    IntegerConnection,
    IntegerSynapses,
    Program,
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


@settings(max_examples=120)
@given(programs_and_samples())
def test_equals_the_reference(case):
    assert_equal(*case)


@settings(max_examples=150)
@given(programs_and_samples(wide=True, max_steps=10))
def test_equals_the_reference_for_every_layer_and_neuron(case):
    assert_equal(*case)


@settings(max_examples=40)
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
    nodes = program_model(program).graph.node
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
    imported = builtins.__import__

    def missing(name, *rest):
        if name == "onnxruntime":
            raise ModuleNotFoundError(name)
        return imported(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(SnncError, match="pip install onnxruntime"):
        onnx_runtime.run(wide(4, 1), np.zeros((1, 4), np.uint8))


@settings(max_examples=60)
@given(graphs().flatmap(lambda graph: samples_for(graph).map(lambda samples: (graph, samples))))
def test_the_trained_graph_runs_too(case):
    """graph.onnx, in double precision, follows the float simulator as far as the order of summation allows."""
    graph, samples = case
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(graph_model(graph).SerializeToString(), options, providers=["CPUExecutionProvider"])
    outputs = [value.name for value in session.get_outputs()]
    expected = physical.run(graph, samples).spikes
    states = {v.name: v for v in session.get_inputs() if v.name != "sample"}
    types = {"tensor(int64)": np.int64, "tensor(double)": np.float64}
    state = {n: np.zeros((len(samples), v.shape[1]), types[v.type]) for n, v in states.items()}
    for t in range(graph.steps):
        result = dict(zip(outputs, session.run(outputs, {"sample": samples, **state}), strict=True))
        for p in graph.populations:
            fired = result[f"{p.name}.spikes"]
            if not np.array_equal(fired, expected[p.name][:, t]):
                # Only a potential within rounding of its threshold may fall on the other side.
                assert np.abs(_potential(graph, samples, p.name, t) - p.threshold).min() < 1e-9
                return
        state = {name: result[f"{name}_next"] for name in states}


def _potential(graph, samples, population: str, step: int) -> np.ndarray:
    """Membrane potentials of one population before the reset, from the float simulator's own spikes."""
    sent = physical.run(graph, samples).spikes
    payload = graph.input.encode(samples, graph.steps)
    values = {name: s.transpose(1, 0, 2).astype(float) for name, s in sent.items()}
    values[graph.input.name] = graph.input.offset + graph.input.scale * payload
    p = next(p for p in graph.populations if p.name == population)
    u = v = free = np.zeros((len(samples), p.size))
    for t in range(step + 1):
        a = np.zeros_like(u)
        for c in graph.connections:
            if c.target == population:
                a = a + values[c.source][t] @ c.synapses.connectivity.dense(c.synapses.weights).T
        u = (1 - p.current_decay) * u + p.gain * a
        free = (1 - p.voltage_decay) * v + u + p.gain * p.bias
        v = np.where(free > p.threshold, 0.0, free)
    return free

"""A graph to a .nir file and back."""

from __future__ import annotations

import dataclasses

import h5py
import nir
import numpy as np
import pytest
from hypothesis import assume, example, given, settings

from tests.formats.test_onnx import same_graph
from tests.frontends.nir_equations import evaluate
from tests.small_graphs import network
from tests.strategies import graphs, random_samples
from toolchain.backends import physical
from toolchain.errors import SnncError
from toolchain.formats.nir import write_graph
from toolchain.frontends import load


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("nir") / "graph.nir"


@settings(max_examples=150)
@given(graph=graphs(wide=True))
def test_written_and_read_is_equal(path, graph):
    write_graph(graph, path, lossy=True)
    loaded = load(path)
    assert same_graph(loaded.graph, graph)
    assert loaded.diagnostics == ()


def late_without_a_loop():
    """fc2 leads back to fc1, a step later, and never hears of it."""
    graph = network((5, 4, 4, 3), density=1.0, steps=4)
    first, second, third = graph.connections
    back = dataclasses.replace(second, source="fc2", target="fc1", delay=1)
    entering = dataclasses.replace(first, name="in2", target="fc2")
    out = dataclasses.replace(third, source="fc1")
    graph = dataclasses.replace(graph, connections=(first, back, entering, out))
    graph.verify()
    return graph


@settings(max_examples=150)
@given(graph=graphs(wide={"convolution", "pooling", "skip", "recurrent", "delay", "per neuron", "readout"}))
@example(graph=late_without_a_loop())
def test_the_nodes_alone_compute_the_same(path, graph):
    """NIR's equations, evaluated in the tests, on what nir itself reads from the file."""
    write_graph(graph, path, dt=1 / 64, lossy=True)
    written = nir.read(path, type_check=False)
    trace = physical.run(graph, random_samples(np.random.default_rng(0), graph, 2))
    shape = tuple(written.nodes["input"].input_type["input"])
    entry = graph.input
    payload = entry.encode(random_samples(np.random.default_rng(0), graph, 2), graph.steps)
    for n in range(2):
        sent = entry.offset + entry.scale * payload[:, n].reshape(graph.steps, *shape)
        expected = evaluate(written, sent, 1 / 64)
        for p in graph.populations:
            if p.spiking:
                spikes = expected[p.name].reshape(graph.steps, -1)
                np.testing.assert_array_equal(trace.spikes[p.name][n], spikes, p.name)
            else:
                last = expected[f"{p.name}.v"][-1].reshape(-1)
                np.testing.assert_allclose(trace.potentials[p.name][n], last, rtol=1e-9, atol=1e-9)


@settings(max_examples=40)
@given(graph=graphs(wide={"convolution", "pooling", "skip", "readout"}))
def test_a_file_without_our_metadata_is_read_as_the_same_network(path, graph):
    """Names, sizes, what leads where, and the neurons' numbers."""
    read_by = {graph.populations[-1].name}
    for c in [c for _ in graph.populations for c in graph.connections]:
        read_by |= {c.source} if c.target in read_by else set()
    assume(read_by >= {p.name for p in graph.populations} | {graph.input.name})
    write_graph(graph, path, lossy=True)
    with h5py.File(path, "a") as file:
        del file["node/metadata/snnc"]
    read = load(path, steps=graph.steps).graph
    sizes = {p.name: (p.size, p.reset) for p in graph.populations}
    assert {p.name: (p.size, p.reset) for p in read.populations} == sizes
    assert {c.name: (c.source, c.target, c.delay) for c in read.connections} == {
        c.name: (c.source, c.target, c.delay) for c in graph.connections
    }
    for p in graph.populations:
        other = next(q for q in read.populations if q.name == p.name)
        threshold = ("threshold",) if p.spiking else ()
        for field in (*threshold, "gain", "current_decay", "voltage_decay"):
            np.testing.assert_allclose(getattr(other, field), getattr(p, field), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(other.gain * other.bias, p.gain * p.bias, rtol=1e-5, atol=1e-5)


def test_the_same_graph_gives_the_same_bytes(path):
    graph = network()
    write_graph(graph, path)
    first = path.read_bytes()
    write_graph(graph, path)
    assert path.read_bytes() == first


def test_nir_itself_reads_what_we_write_and_finds_no_fault(path):
    write_graph(network(), path)
    read = nir.read(path)
    assert {name: type(node).__name__ for name, node in read.nodes.items()} == {
        "input": "Input", "fc1.weight": "Affine", "fc1": "LIF", "fc2.weight": "Affine", "fc2": "LIF",
        "output": "Output",
    }  # fmt: skip
    assert read.metadata["dt"] == 1.0


def lif(graph, **changes):
    populations = (dataclasses.replace(graph.populations[0], **changes), *graph.populations[1:])
    return dataclasses.replace(graph, populations=populations)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"refractory": 3}, "fc1: a refractory period"),
        ({"current_decay": 0.5, "voltage_decay": 0.0}, "fc1: neurons without a leak that have a synaptic decay"),
    ],
)
def test_what_nir_cannot_express_needs_to_be_asked_for(path, changes, words):
    graph = lif(network(), **changes)
    path.unlink(missing_ok=True)
    with pytest.raises(SnncError, match=rf"cannot express 1 things\n  where: {words}(.|\n)*--lossy"):
        write_graph(graph, path)
    assert not path.exists()
    assert [d.code for d in write_graph(graph, path, lossy=True)] == ["NIR006"]
    assert same_graph(load(path).graph, graph)


def test_a_reset_by_subtraction_is_kept_and_told(path):
    graph = lif(network(), reset="subtract")
    assert [(d.code, d.where) for d in write_graph(graph, path)] == [("NIR005", "fc1")]
    assert same_graph(load(path).graph, graph)


def test_neurons_that_keep_no_potential(path):
    """Their time constant is the step, which the nodes alone say as well."""
    graph = lif(network(), voltage_decay=1.0, gain=1.0)
    write_graph(graph, path, dt=0.5)
    assert same_graph(load(path).graph, graph)
    assert nir.read(path).nodes["fc1"].tau.tolist() == [0.5] * 30
    with h5py.File(path, "a") as file:
        del file["node/metadata/snnc"]
    assert load(path).graph.populations[0].voltage_decay == 1.0


def test_names_that_a_file_cannot_have(path):
    graph = network(sizes=(4, 3, 2, 2))
    names = {"fc1": "metadata", "fc2": "a/b", "fc3": "output", "input": "."}
    populations = tuple(dataclasses.replace(p, name=names[p.name]) for p in graph.populations)
    connections = tuple(
        dataclasses.replace(c, source=names[c.source], target=names[c.target], name=f"{c.source}/{c.target}")
        for c in graph.connections
    )
    entry = dataclasses.replace(graph.input, name=".")
    graph = dataclasses.replace(graph, populations=populations, connections=connections, input=entry)
    write_graph(graph, path)
    assert same_graph(load(path).graph, graph)


def test_a_file_that_was_changed_counts_by_its_nodes(path):
    graph = network()
    write_graph(graph, path)
    with h5py.File(path, "a") as file:
        file["node/nodes/fc1/v_threshold"][0] = 0.75
    loaded = load(path, steps=graph.steps)
    assert [d.code for d in loaded.diagnostics] == ["NIR007", "NIR001", "NIR002"]
    assert loaded.graph.populations[0].threshold.tolist() == [0.75] + [1.0] * 29
    assert [c.name for c in loaded.graph.connections] == ["fc1.weight", "fc2.weight"]


def test_a_step_of_its_own_scales_the_times(path):
    write_graph(network(), path, dt=1e-3)
    read = nir.read(path)
    np.testing.assert_allclose(read.nodes["fc1"].tau, 2e-3)
    assert same_graph(load(path).graph, network())
    with pytest.raises(SnncError, match="more than 0"):
        write_graph(network(), path, dt=0.0)


def test_what_only_a_sparse_file_can_hold_is_refused(path):
    sizes = (30_000, 30_000)
    graph = network(sizes=(2, 2))
    huge = dataclasses.replace(graph.connections[0].synapses.connectivity, n_sources=sizes[0], n_targets=sizes[1])
    huge = dataclasses.replace(huge, indptr=np.zeros(sizes[0] + 1, np.int64), targets=np.zeros(0, np.int32))
    synapses = dataclasses.replace(graph.connections[0].synapses, connectivity=huge, weights=np.zeros(0, np.float32))
    graph = dataclasses.replace(
        graph,
        input=dataclasses.replace(graph.input, sample_size=sizes[0], channels=np.arange(sizes[0], dtype=np.int32)),
        populations=(dataclasses.replace(graph.populations[0], size=sizes[1], bias=np.zeros(sizes[1], np.float32)),),
        connections=(dataclasses.replace(graph.connections[0], synapses=synapses),),
    )
    with pytest.raises(SnncError, match=r"no sparse weights(.|\n)*fc1.weight"):
        write_graph(graph, path)

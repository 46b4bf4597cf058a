"""Networks from NIR compute what NIR's equations say."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import h5py
import nir
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hw_targets
from tests.formats.test_onnx import same_graph
from tests.frontends.nir_equations import evaluate, neuron
from toolchain.backends import physical, reference
from toolchain.build import load_build
from toolchain.cli import run
from toolchain.errors import SnncError, UsageError
from toolchain.formats.nir import write_graph
from toolchain.frontends import load
from toolchain.pipeline import Options, compile_graph

DT = 2.0**-10


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("nir")


def write(folder, graph, name="net.nir"):
    path = folder / name
    nir.write(path, graph)
    return path


def chain(*nodes, **extra):
    """Nodes one behind another by the names n0, n1, ...; extra: more nodes."""
    named = {"in": nodes[0], **{f"n{k}": node for k, node in enumerate(nodes[1:-1])}, "out": nodes[-1]}
    names = list(named)
    return nir.NIRGraph({**named, **extra}, list(itertools.pairwise(names)), type_check=False)


def entry(*shape):
    return nir.Input({"input": np.array(shape)})


def exit_(*shape):
    return nir.Output({"output": np.array(shape)})


def assert_equal(graph, path, *, dt=DT, reset="zero", samples=3, steps=12, seed=0, given_dt=True, **choices):
    """Every spike and every potential of a readout; spikes must occur."""
    loaded = load(path, dt=dt if given_dt else None, steps=steps, reset=reset, **choices)
    imported = loaded.graph
    x = np.random.default_rng(seed).integers(0, 256, (samples, imported.input.sample_size))
    trace = physical.run(imported, x)
    (source,) = [node for node in graph.nodes.values() if isinstance(node, nir.Input)]
    shape = tuple(source.input_type["input"])
    fired = 0
    for n in range(samples):
        sent = trace.spikes[imported.input.name][n].reshape(steps, *shape).astype(float)
        expected = evaluate(graph, sent, dt, reset)
        for p in imported.populations:
            if p.name.endswith(".bias"):
                assert trace.spikes[p.name].all()
            elif p.spiking:
                np.testing.assert_array_equal(trace.spikes[p.name][n], expected[p.name].reshape(steps, -1), p.name)
                fired += int(trace.spikes[p.name][n].sum())
            else:
                last = expected[f"{p.name}.v"][-1].reshape(-1)
                np.testing.assert_allclose(trace.potentials[p.name][n], last, rtol=1e-9, atol=1e-12)
    return loaded, fired


# Random networks: parameters are dyadic, so that nothing that is merged into weights is rounded.


@st.composite
def neurons(draw, random, shape, readout=False):
    def each(choices):
        kind = draw(st.sampled_from(("one", "one", "each")))
        values = random.choice(choices, shape if kind == "each" else (1,) * len(shape))
        return np.broadcast_to(values, shape).astype(float).copy()

    def small():
        return each([0.0, 0.0, -0.25, 0.125]) if draw(st.booleans()) else np.zeros(shape)

    kind = draw(st.sampled_from(("I", "LI", "CubaLI") if readout else ("IF", "LIF", "CubaLIF")))
    r = each([0.5, 1.0, 2.0, 4.0])
    fields = {"r": r / DT if kind in ("I", "IF") else r}
    if kind in ("LIF", "LI"):
        fields |= {"tau": each([DT, 2 * DT, 4 * DT, 16 * DT]), "v_leak": small()}
    if kind.startswith("Cuba"):
        fields |= {"tau_mem": each([DT, 2 * DT, 8 * DT]), "tau_syn": each([DT, 2 * DT, 4 * DT]), "v_leak": small()}
        fields["w_in"] = each([1.0, 2.0, 4.0])
    if not readout:
        fields |= {"v_threshold": each([0.25, 0.5, 1.0]), "v_reset": small()}
    return getattr(nir, kind)(**fields)


def dyadic(random, *shape):
    return (random.integers(-8, 17, shape) / 16).astype(np.float32)


@st.composite
def networks(draw):
    """Dense and convolutional layers with neurons behind each, loops and delays, and a readout at times."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.sampled_from(((5,), (1, 6, 6), (2, 5, 4), (2, 9))))
    nodes, edges, last = {"in": entry(*shape)}, [], "in"

    def add(name, node, *sources):
        nodes[name] = node
        edges.extend((source, name) for source in sources)
        return name

    layers = draw(st.integers(1, 3))
    for k in range(layers):
        readout = k == layers - 1 and draw(st.booleans())
        wide = st.sampled_from(("conv", "pool", "flat") if min(shape[1:], default=1) >= 2 else ("conv", "flat"))
        kind = (
            draw(wide) if len(shape) == 3 else draw(st.sampled_from(("conv", "flat"))) if len(shape) == 2 else "dense"
        )
        if draw(st.integers(0, 3)) == 0:
            late = draw(st.sampled_from((0, 1, 2, 3, random.integers(0, 3, shape))))
            last = add(f"late{k}", nir.Delay(np.broadcast_to(late * DT, shape).copy()), last)
        if kind == "flat":
            start = draw(st.sampled_from((0, 1)))
            last = add(f"flat{k}", nir.Flatten({"input": np.array(shape)}, start, -1), last)
            shape, kind = (int(np.prod(shape)),), "dense"
        if kind == "dense":
            size = draw(st.integers(1, 6))
            last, shape = add(f"fc{k}", nir.Linear(dyadic(random, size, *shape)), last), (size,)
            if draw(st.integers(0, 3)) == 0:
                last = add(f"scale{k}", nir.Scale(random.choice([0.5, 1.0, 2.0], shape)), last)
        elif kind == "pool":
            pool = draw(st.sampled_from((nir.SumPool2d, nir.AvgPool2d)))
            two, none = np.array([2, 2]), np.array([0, 0])
            last = add(f"pool{k}", pool(two, two, none), last)
            shape = (shape[0], shape[1] // 2, shape[2] // 2)
        else:
            outputs = draw(st.sampled_from((1, 2, 4)))
            groups = draw(st.sampled_from([g for g in (1, 2) if shape[0] % g == 0 and outputs % g == 0]))
            line = len(shape) == 2
            size = tuple(draw(st.integers(1, min(3, n))) for n in shape[1:])
            padding = draw(st.sampled_from(("same", "valid", 0, 1)))
            stride = 1 if padding == "same" else draw(st.sampled_from((1, 2)))
            weight = dyadic(random, outputs, shape[0] // groups, *size)
            bias = np.zeros(outputs) if draw(st.booleans()) else dyadic(random, outputs)
            kind_of = nir.Conv1d if line else nir.Conv2d
            last = add(
                f"conv{k}", kind_of(shape[1] if line else shape[1:], weight, stride, padding, 1, groups, bias), last
            )
            pad = {"same": None, "valid": 0}.get(padding, padding)
            shape = (
                outputs,
                *(n if pad is None else (n + 2 * pad - s) // stride + 1 for n, s in zip(shape[1:], size, strict=True)),
            )
        node = draw(neurons(random, shape, readout))
        last = add(f"neurons{k}", node, last)
        if not readout and len(shape) == 1 and draw(st.booleans()):
            add(f"back{k}", nir.Linear(dyadic(random, *shape, *shape)), last)
            edges.append((f"back{k}", last))
    add("out", exit_(*shape), last)
    return nir.NIRGraph(nodes, edges, type_check=False)


@settings(max_examples=120)
@given(graph=networks(), reset=st.sampled_from(("zero", "zero", "subtract")), seed=st.integers(0, 99))
def test_random_networks_compute_what_the_equations_say(folder, graph, reset, seed):
    if reset == "subtract":
        for node in graph.nodes.values():
            if hasattr(node, "v_reset"):
                node.v_reset = np.zeros_like(node.v_reset)
    for node in graph.nodes.values():
        if hasattr(node, "v_threshold"):
            node.v_threshold = np.maximum(node.v_threshold, node.v_reset + 0.25)
    assert_equal(graph, write(folder, graph), reset=reset, seed=seed)


def within(graph, chain, shapes, spans, level=0):
    """A graph of which a part of the chain of nodes is a graph within it, of which a part is one, ...

    chain: names one behind another.  shapes: of what each node sends.  spans: first and last node of each level, as
    parts of the chain around it.
    """
    if not spans:
        return graph
    low, high = sorted(round(part * (len(chain) - 1)) for part in spans[0])
    moved, name = chain[low : high + 1], f"g{level}"
    inside = {*moved, *(f"back{node[7:]}" for node in moved if node.startswith("neurons"))} & graph.nodes.keys()
    (before,) = {a for a, b in graph.edges if b == moved[0] and a not in inside}
    inner = {"input": entry(*shapes[before]), **{node: graph.nodes[node] for node in graph.nodes if node in inside}}
    inner["output"] = exit_(*shapes[moved[-1]])
    edges = [edge for edge in graph.edges if inside.issuperset(edge)]
    edges = [("input", moved[0]), *edges, (moved[-1], "output")]
    inner = within(
        nir.NIRGraph(inner, edges, type_check=False), moved, {**shapes, "input": shapes[before]}, spans[1:], level + 1
    )
    nodes = {node: value for node, value in graph.nodes.items() if node not in inside} | {name: inner}
    outer = [
        tuple(name if end in inside else end for end in edge) for edge in graph.edges if not inside.issuperset(edge)
    ]
    return nir.NIRGraph(nodes, outer, type_check=False)


part = st.floats(0, 1)


@settings(max_examples=40)
@given(graph=networks(), spans=st.lists(st.tuples(part, part), min_size=1, max_size=2), seed=st.integers(0, 99))
def test_graphs_within_graphs_are_the_same_network(folder, graph, spans, seed):
    """Up to two levels deep: the equations' spikes, the network of the flat file, and itself when written and read."""
    for node in graph.nodes.values():
        if hasattr(node, "v_threshold"):
            node.v_threshold = np.maximum(node.v_threshold, node.v_reset + 0.25)
    sent = evaluate(graph, np.zeros((1, *graph.nodes["in"].input_type["input"])), DT)
    shapes = {name: values.shape[1:] for name, values in sent.items()}
    names = [name for name in graph.nodes if not name.startswith("back") and name not in ("in", "out")]
    nested = within(graph, names, shapes, spans)
    assert isinstance(nested.nodes["g0"], nir.NIRGraph)
    assert len(spans) == 1 or isinstance(nested.nodes["g0"].nodes["g1"], nir.NIRGraph)
    path = write(folder, nested, "nested.nir")
    loaded, _ = assert_equal(nested, path, seed=seed)

    flat = load(write(folder, graph), dt=DT, steps=12, reset="zero").graph
    assert [p.size for p in loaded.graph.populations] == [p.size for p in flat.populations]
    assert [c.delay for c in loaded.graph.connections] == [c.delay for c in flat.connections]
    assert loaded.graph.populations[-1].name.rpartition(".")[2] == flat.populations[-1].name
    own = folder / "own.nir"
    write_graph(loaded.graph, own, lossy=True)
    assert same_graph(load(own).graph, loaded.graph)


# One thing after another.


def lif(*shape, tau=4 * DT, r=1.0, v_leak=0.0, v_threshold=0.5, v_reset=0.0):
    fields = {"tau": tau, "r": r, "v_leak": v_leak, "v_threshold": v_threshold, "v_reset": v_reset}
    return nir.LIF(**{name: np.full(shape, value) for name, value in fields.items()})


def weights(*shape, seed=0):
    return np.random.default_rng(seed).normal(0.5, 1, shape).astype(np.float32)


def test_any_parameters_that_are_equal_for_all_neurons(folder):
    cuba = nir.CubaLIF(*[np.full(5, v) for v in (0.0071, 0.013, 3.7, 0.0, 0.61, 0.0, 1.9)])
    readout = nir.CubaLI(*[np.full(3, v) for v in (0.0037, 0.021, 2.3, 0.0, 1.1)])
    graph = chain(
        entry(6), nir.Affine(weights(8, 6), weights(8)), lif(8, tau=0.0113, r=1.7, v_threshold=0.83),
        nir.Linear(weights(5, 8)), cuba, nir.Linear(weights(3, 5)), readout, exit_(3),
    )  # fmt: skip
    loaded, fired = assert_equal(graph, write(folder, graph), dt=1e-3, steps=40)
    assert fired > 300
    assert [d.code for d in loaded.diagnostics] == ["NIR002"]
    assert [c.name for c in loaded.graph.connections] == ["n0", "n2", "n4"]
    assert loaded.graph.metadata == {"nir.version": "1.0.8", "nir.dt": "0.001"}


def test_parameters_of_each_neuron_are_merged_into_weights_and_that_is_told(folder):
    node = lif(8)
    node.r = np.linspace(0.3, 2.9, 8)
    graph = chain(entry(6), nir.Linear(weights(8, 6)), node, exit_(8))
    loaded, fired = assert_equal(graph, write(folder, graph))
    assert fired > 20
    assert [(d.code, d.where, d.count) for d in loaded.diagnostics][1:] == [("NIR003", "n1", 8)]


def test_weights_in_double_precision_are_rounded_and_that_is_told(folder):
    graph = chain(entry(2), nir.Linear(np.array([[0.1, 0.5]])), lif(1), exit_(1))
    found = load(write(folder, graph), dt=DT).diagnostics[-1]
    assert (found.code, found.where, found.count) == ("NIR003", "n0", 1)
    assert found.effect == "by 1.5e-08 of its value at most"


@pytest.mark.parametrize(("v_leak", "v_reset"), [(0.25, 0.0), (0.0, -0.5), (0.25, 0.125), (-0.5, -0.5)])
def test_leak_and_reset_potentials(folder, v_leak, v_reset):
    graph = chain(entry(6), nir.Linear(weights(8, 6)), lif(8, v_leak=v_leak, v_reset=v_reset), exit_(8))
    _, fired = assert_equal(graph, write(folder, graph), steps=30)
    assert fired > 50


def test_a_loop_through_two_populations_with_a_delay(folder):
    graph = nir.NIRGraph(
        {
            "in": entry(6), "a": nir.Linear(weights(8, 6)), "A": lif(8), "b": nir.Affine(weights(5, 8), weights(5)),
            "B": lif(5), "late": nir.Delay(np.full(5, 2 * DT)), "c": nir.Affine(weights(8, 5), weights(8)),
            "out": exit_(5),
        },
        [("in", "a"), ("a", "A"), ("A", "b"), ("b", "B"), ("B", "out"), ("B", "late"), ("late", "c"), ("c", "A")],
    )  # fmt: skip
    loaded, fired = assert_equal(graph, write(folder, graph), steps=30)
    assert fired > 50
    assert {c.name: c.delay for c in loaded.graph.connections} == {"a": 0, "c": 2, "b": 0}


def test_graphs_within_graphs(folder):
    """A recurrent layer as snntorch writes it, a graph of its own within a graph."""
    inner = nir.NIRGraph(
        {"input": entry(4), "lif": lif(4), "back": nir.Linear(weights(4, 4)), "output": exit_(4)},
        [("input", "lif"), ("lif", "back"), ("back", "lif"), ("lif", "output")],
    )
    block = nir.NIRGraph(
        {"input": entry(6), "fc": nir.Linear(weights(4, 6)), "rlif": inner, "output": exit_(4)},
        [("input", "fc"), ("fc", "rlif"), ("rlif", "output")],
    )
    graph = nir.NIRGraph(
        {"in": entry(6), "block": block, "fc": nir.Linear(weights(3, 4)), "lif": lif(3), "out": exit_(3)},
        [("in", "block"), ("block", "fc"), ("fc", "lif"), ("lif", "out")],
    )
    loaded, fired = assert_equal(graph, write(folder, graph), steps=30)
    assert fired > 50
    assert [p.name for p in loaded.graph.populations] == ["block.rlif.lif", "lif"]
    assert [(c.name, c.delay) for c in loaded.graph.connections] == [
        ("block.fc", 0),
        ("block.rlif.back", 1),
        ("fc", 0),
    ]


def test_branches_are_summed(folder):
    graph = nir.NIRGraph(
        {
            "in": entry(6), "a": nir.Linear(weights(4, 6)), "A": lif(4), "b": nir.Linear(weights(4, 4)), "B": lif(4),
            "out": exit_(4),
        },
        [("in", "a"), ("a", "A"), ("A", "b"), ("b", "B"), ("A", "B"), ("a", "B"), ("B", "out")],
    )  # fmt: skip
    loaded, fired = assert_equal(graph, write(folder, graph), steps=30)
    assert fired > 50
    assert sorted((c.source, c.target) for c in loaded.graph.connections) == [
        ("A", "B"), ("A", "B"), ("in", "A"), ("in", "B"),
    ]  # fmt: skip


def test_a_threshold_that_any_spike_passes(folder):
    weight = np.array([[1.0, 0.75, 0.0], [0.75, 0.0, 2.0]], np.float32)
    graph = chain(
        entry(3), nir.Threshold(np.full(3, 0.5)), nir.Linear(weight), nir.Threshold(np.full(2, 0.5)),
        nir.Linear(weights(2, 2)), lif(2), exit_(2),
    )  # fmt: skip
    loaded, fired = assert_equal(graph, write(folder, graph), steps=30)
    assert fired > 30
    assert [p.name for p in loaded.graph.populations] == ["n2", "n4"]


LINEAR = nir.Linear(weights(4, 4))


def wired(edges, **nodes):
    return nir.NIRGraph({"in": entry(4), "out": exit_(4), **nodes}, edges, type_check=False)


def dyadic_weights(*shape, seed=0):
    return dyadic(np.random.default_rng(seed), *shape)


def assert_chip_spikes(loaded, told):
    """The integers spike as the floats do, at weights and thresholds that no rounding moves across each other; told:
    where a decay of 1 became 4095 / 4096."""
    state = compile_graph(loaded.graph, hw_targets.load("loihi"), Options())
    notes = {d.where for d in state.diagnostics if d.code == "NEU003" and "from 4096.000 to 4095" in d.message}
    assert notes == set(told)
    x = np.random.default_rng(5).integers(0, 256, (5, loaded.graph.input.sample_size))
    ours, chip = physical.run(loaded.graph, x), reference.run(state.program, x)
    for p in state.program.populations:
        if p.spiking and p.size == next(q.size for q in loaded.graph.populations if q.name == p.name):
            np.testing.assert_array_equal(ours.spikes[p.name], chip.spikes[p.name])
    np.testing.assert_array_equal(ours.decisions, chip.decisions)


@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_neurons_that_keep_no_potential(folder, reset):
    """tau = dt. Their thresholds lie between the sums that can be: weights are sixteenths."""
    current = nir.CubaLIF(*[np.full(5, v) for v in (4 * DT, DT, 1.0, 0.0, 1 / 3, 0.0, 4.0)])
    graph = chain(
        entry(6), nir.Linear(dyadic_weights(8, 6)), lif(8, tau=DT, v_threshold=0.28125),
        nir.Linear(dyadic_weights(5, 8, seed=1)), current, nir.Linear(dyadic_weights(3, 5, seed=2)),
        lif(3, tau=DT, v_leak=0.25, v_threshold=0.28125), exit_(3),
    )  # fmt: skip
    loaded, fired = assert_equal(graph, write(folder, graph), steps=30, reset=reset)
    assert fired > 100
    assert [p.voltage_decay for p in loaded.graph.populations] == [1.0] * 3
    assert_chip_spikes(loaded, {"n1", "n3", "n5"})


@pytest.mark.parametrize("kind", ["LI", "CubaLI"])
def test_readouts_that_keep_no_potential(folder, kind):
    times = (DT,) if kind == "LI" else (4 * DT, DT)
    readout = getattr(nir, kind)(*[np.full(3, v) for v in (*times, 1.0, 0.0)])
    graph = chain(
        entry(6), nir.Linear(dyadic_weights(8, 6)), lif(8), nir.Linear(dyadic_weights(3, 8, seed=1)), readout, exit_(3)
    )
    loaded, fired = assert_equal(graph, write(folder, graph), steps=30)
    assert fired > 20
    assert loaded.graph.populations[-1].voltage_decay == 1.0


def test_thresholds_of_any_sums_are_neurons_without_memory(folder):
    """With weights of both signs, biases, and levels of each neuron; behind a kernel, a dense layer, and as output."""
    conv = nir.Conv2d((4, 4), dyadic_weights(2, 1, 3, 3), 1, 1, 1, 1, np.array([0.0, 0.125]))
    levels = np.arange(8) / 4 + 0.21875
    graph = chain(
        entry(1, 4, 4), conv, nir.Threshold(np.full((2, 4, 4), 0.21875)),
        nir.Flatten({"input": np.array([2, 4, 4])}, 0),
        nir.Affine(dyadic_weights(8, 32, seed=3), np.full(8, -0.125, np.float32)), nir.Threshold(levels),
        lif(8, r=2.0, v_threshold=0.53), nir.Linear(dyadic_weights(3, 8, seed=4)),
        nir.Threshold(np.full(3, 0.46875)), exit_(3),
    )  # fmt: skip
    loaded, fired = assert_equal(graph, write(folder, graph), steps=20)
    assert fired > 500
    assert [p.name for p in loaded.graph.populations] == ["n1", "n4", "n5", "n7"]
    assert_chip_spikes(loaded, {"n1", "n4", "n7"})


@pytest.mark.parametrize(
    ("level", "words"),
    [
        (-0.1, r"below 0 spikes at every step\n.*Threshold 'n1'\.threshold\n  got: -0.1"),
        (0.0, r"a threshold above 0\n.*Threshold 'n1'\.threshold\n  got: 0.0"),
    ],
)
def test_other_thresholds_are_refused(folder, level, words):
    graph = chain(
        entry(2), nir.Linear(np.array([[0.75, -1.0]], np.float32)), nir.Threshold(np.full(1, level)), exit_(1)
    )
    with pytest.raises(SnncError, match=words):
        load(write(folder, graph), dt=DT)


# Loops.


def stepped(loaded, nodes, sums):
    """Spikes of neurons, (samples, steps, size) by name. sums: name -> what it reads, of the input at a step and of the
    spikes of all: this step's so far (`now`) and the step's before."""
    x = np.random.default_rng(0).integers(0, 256, (3, 4))
    sent = physical.run(loaded.graph, x).spikes
    found = {name: np.zeros((3, loaded.graph.steps, node.r.size)) for name, node in nodes.items()}
    for n in range(3):
        before, state = {name: np.zeros(node.r.size) for name, node in nodes.items()}, {}
        for t in range(loaded.graph.steps):
            now = {}
            for name, node in nodes.items():
                now[name] = neuron(node, state, name, sums[name](sent["in"][n, t], now, before), DT, "zero")
                found[name][n, t] = now[name]
            before = now
    return found, sent


def test_a_loop_that_is_entered_at_several_populations(folder):
    """Each then uses what the others sent a step before, whatever the order of edges."""
    a, b, c = (dyadic_weights(4, 4, seed=k) for k in range(3))
    nodes = {"x": lif(4), "y": lif(4, tau=2 * DT), "z": lif(4)}
    edges = [
        ("in", "x"),
        ("in", "y"),
        ("x", "a"),
        ("a", "y"),
        ("y", "b"),
        ("b", "x"),
        ("y", "c"),
        ("c", "z"),
        ("z", "out"),
    ]
    sums = {
        "x": lambda x, now, before: x + b @ before["y"],
        "y": lambda x, now, before: x + a @ before["x"],
        "z": lambda x, now, before: c @ now["y"],
    }
    matrices = {name: nir.Linear(w) for name, w in (("a", a), ("b", b), ("c", c))}
    for order in (edges, edges[::-1], [edges[1], edges[0], *edges[2:]]):
        loaded = load(write(folder, wired(order, **matrices, **nodes)), dt=DT, steps=30)
        expected, sent = stepped(loaded, nodes, sums)
        for name in nodes:
            np.testing.assert_array_equal(sent[name], expected[name], name)
            assert 0.05 < sent[name].mean() < 0.95
        assert {c.name: c.delay for c in loaded.graph.connections if c.name in "abc"} == {"a": 1, "b": 1, "c": 0}
        (note,) = [d for d in loaded.diagnostics if d.code == "NIR012"]
        assert note.where == "x, y"
        compile_graph(loaded.graph, hw_targets.load("loihi"), Options())


def test_a_delay_says_which_neurons_of_a_loop_compute_first(folder):
    a, b = (nir.Linear(dyadic_weights(4, 4, seed=k)) for k in range(2))
    nodes = {"a": a, "b": b, "x": lif(4), "y": lif(4), "late": nir.Delay(np.full(4, 2 * DT))}
    edges = [("in", "x"), ("in", "y"), ("x", "a"), ("a", "y"), ("y", "late"), ("late", "b"), ("b", "x"), ("y", "out")]
    for order in (edges, edges[::-1], [edges[1], edges[0], *edges[2:]]):
        graph = wired(order, **nodes)
        loaded, fired = assert_equal(graph, write(folder, graph), steps=30)
        assert fired > 50
        assert "NIR012" not in [d.code for d in loaded.diagnostics]
        assert {c.name: c.delay for c in loaded.graph.connections if c.name in "ab"} == {"a": 0, "b": 2}


def test_output_neurons_that_others_compute_behind(folder):
    """In a loop that is entered at the output, the others come last: a copy of the output takes their place."""
    a, b = (dyadic_weights(4, 4, seed=k) for k in range(2))
    nodes = {"x": lif(4), "y": lif(4, v_leak=0.25, r=2.0)}
    edges = [("in", "x"), ("x", "a"), ("a", "y"), ("y", "late"), ("late", "b"), ("b", "x"), ("x", "out")]
    late = nir.Delay(np.full(4, 2 * DT))
    graph = wired(edges, a=nir.Linear(a), b=nir.Linear(b), late=late, **nodes)
    loaded = load(write(folder, graph), dt=DT, steps=30)
    past: list = []

    def two_steps_ago(before):
        past.append(before["y"])
        return past[-2] if len(past) % 30 != 1 else np.zeros(4)

    sums = {
        "x": lambda x, now, before: x + b @ two_steps_ago(before),
        "y": lambda x, now, before: a @ now["x"],
    }
    expected, sent = stepped(loaded, nodes, sums)
    for name in nodes:
        np.testing.assert_array_equal(sent[name], expected[name], name)
        assert 0.03 < sent[name].mean() < 0.95
    np.testing.assert_array_equal(sent["out.copy"], sent["x"])
    assert [(d.where, d.count) for d in loaded.diagnostics if d.code == "NIR013"] == [("out", 4)]
    assert loaded.graph.populations[-1].name == "out.copy"
    assert_chip_spikes(loaded, set())


def test_output_neurons_that_feed_others_before_the_end(folder):
    """What else they feed leads to the output as well: the sum of two populations is no spikes."""
    edges = [("in", "x"), ("x", "a"), ("a", "y"), ("y", "out"), ("x", "out")]
    with pytest.raises(SnncError, match=r"does not end in neurons(.|\n)*out"):
        load(write(folder, wired(edges, a=LINEAR, x=lif(4), y=lif(4))), dt=DT)


# The time step.


def test_the_step_at_which_every_input_counts_once_is_chosen(folder):
    """As snntorch writes: r = tau / dt, in single precision."""
    node = nir.LIF(
        np.full(4, 2e-4, np.float32), np.full(4, 2, np.float32), *[np.full(4, v, np.float32) for v in (0, 0.5, 0)]
    )
    graph = chain(entry(4), nir.Linear(weights(4, 4)), node, exit_(4))
    loaded, _ = assert_equal(graph, write(folder, graph), dt=1e-4, given_dt=False)
    assert str(loaded.diagnostics[0]).endswith("time step 0.0001: the step at which every input counts with weight 1")


def test_files_without_times_count_in_steps_of_one(folder):
    node = nir.IF(*[np.full(4, v) for v in (1.0, 0.5)])
    graph = chain(entry(4), nir.Linear(weights(4, 4)), node, exit_(4))
    loaded, fired = assert_equal(graph, write(folder, graph), dt=1.0, given_dt=False)
    assert fired > 10
    assert loaded.diagnostics[0].code == "NIR001"


def test_a_step_in_the_metadata_is_taken(folder):
    graph = chain(entry(4), nir.Linear(weights(4, 4)), lif(4, tau=0.01), exit_(4))
    graph.metadata = {"dt": 0.002}
    loaded, _ = assert_equal(graph, write(folder, graph), dt=0.002, given_dt=False)
    assert "time step 0.002: the file's own" in str(loaded.diagnostics[0])


def test_a_step_that_is_not_known_is_asked_for(folder):
    path = write(folder, chain(entry(4), nir.Linear(weights(4, 4)), lif(4, tau=0.01), exit_(4)))
    with pytest.raises(SnncError, match=r"does not say how long a time step is(.|\n)*at most .* 0.01(.|\n)*--dt"):
        load(path)
    assert load(path, dt=0.01).graph.populations[0].voltage_decay == 1.0
    with pytest.raises(SnncError, match=r"shorter than a step\n.*LIF 'n1'\.tau(.|\n)*smaller --dt"):
        load(path, dt=0.02)
    for dt in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(SnncError, match="more than 0"):
            load(path, dt=dt)


def test_choices(folder):
    path = write(folder, chain(entry(1, 2, 2), nir.Flatten({"input": np.array([1, 2, 2])}, 0), lif(4), exit_(4)))
    graph = load(path, dt=DT, steps=7, coding="current", reset="subtract").graph
    assert (graph.steps, graph.input.coding, graph.input.scale) == (7, "current", 1 / 255)
    assert graph.populations[0].reset == "subtract"
    for choice in ({"reset": "none"}, {"coding": "rates"}):
        with pytest.raises(UsageError, match="no such"):
            load(path, dt=DT, **choice)
    onnx = folder / "graph.onnx"
    onnx.write_bytes(b"x")
    with pytest.raises(UsageError, match=r"says this itself\n  where: --dt\n  allowed: with .nir files"):
        load(onnx, dt=DT)


# What is refused, and with which words.


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ((LINEAR, lif(4, r=-1.0)), r"more than 0\n.*LIF 'n1'\.r"),
        ((LINEAR, lif(4, tau=0.0)), r"more than 0\n.*LIF 'n1'\.tau"),
        ((LINEAR, lif(4, v_reset=0.5)), r"above v_reset.*\n.*LIF 'n1'\.v_threshold"),
        ((LINEAR, lif(4, v_leak=np.nan)), r"NaN or infinite.*\n.*LIF 'n1'\.v_leak\[0\]"),
        ((LINEAR, lif(3)), r"do not fit the neurons\n.*LIF 'n1'"),
        ((nir.Linear(weights(4, 3)), lif(4)), r"sizes do not chain\n.*Linear 'n0'"),
        ((LINEAR,), r"no neurons"),
        ((lif(4), LINEAR), r"does not end in neurons"),
        ((LINEAR, nir.LI(*[np.full(4, v) for v in (0.1, 1.0, 0.0)]), LINEAR, lif(4)), r"only the last .* readout"),
        ((nir.Delay(np.full(4, DT / 2)), LINEAR, lif(4)), r"whole number of steps\n.*Delay 'n0'\.delay\n.*0\.5 steps"),
        ((nir.Delay(np.arange(4) * 0.75 * DT), LINEAR, lif(4)), r"whole number of steps\n.*Delay 'n0'\.delay"),
        ((nir.Delay(np.arange(4) * -DT), LINEAR, lif(4)), r"whole number of steps(.|\n)*got: -3 steps"),
        ((nir.Affine(weights(4, 4), weights(3)), lif(4)), r"one bias for each output\n.*Affine 'n0'\.bias"),
        ((nir.Conv2d((2, 2), weights(1, 1, 2, 2), 1, 0, 1, 1, np.zeros(1)), lif(1)), r"reads a map(.|\n)*Conv2d 'n0'"),
    ],
)  # fmt: skip
def test_what_a_chip_cannot_express_is_refused_with_the_node(folder, nodes, words):
    path = write(folder, chain(entry(4), *nodes, exit_(4)))
    with pytest.raises(SnncError, match=words):
        load(path, dt=DT)


def test_a_bias_passes_through_a_synaptic_decay_as_spikes(folder):
    """Each sum of a bias that a current keeps is one that a neuron has sent which spikes at every step."""
    cuba = nir.CubaLIF(*[np.full(4, v) for v in (4 * DT, 8 * DT, 4.0, 0.0, 1.0, 0.0, 2.0)])
    bias = np.array([0.5, 0.0, -0.25, 0.125], np.float32)
    path = write(folder, chain(entry(4), nir.Affine(weights(4, 4), bias), cuba, exit_(4)))
    loaded = load(path, dt=DT, steps=30)
    assert [(d.code, d.effect) for d in loaded.diagnostics if d.code == "NIR010"] == [("NIR010", "3 synapses")]
    samples = np.random.default_rng(3).integers(0, 256, (4, 4))
    program = compile_graph(loaded.graph, hw_targets.load("loihi"), Options()).program
    assert reference.run(program, samples).spikes["n1.bias"].all()
    assert physical.run(loaded.graph, samples).spikes["n1"].any()


def test_the_rounding_of_a_leak_is_told(folder):
    path = write(folder, chain(entry(4), LINEAR, lif(4, v_leak=0.1), exit_(4)))
    (note,) = [d for d in load(path, dt=DT).diagnostics if d.code == "NIR003"]
    assert note.message.startswith("v_leak: biases rounded")
    assert note.count == 4


def test_a_reset_by_subtraction_has_no_reset_potential(folder):
    path = write(folder, chain(entry(4), LINEAR, lif(4, v_reset=-0.5), exit_(4)))
    with pytest.raises(SnncError, match=r"no potential to reset to\n.*LIF 'n1'\.v_reset\n  got: -0.5"):
        load(path, dt=DT, reset="subtract")


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (
            wired([("in", "a"), ("a", "b"), ("b", "a"), ("b", "x"), ("x", "out")], a=LINEAR, b=LINEAR, x=lif(4)),
            r"a cycle without neurons\n.*Linear '[ab]'",
        ),
        (
            wired(
                [("in", "x"), ("in", "y"), ("x", "a"), ("a", "t"), ("t", "y"), ("y", "b"), ("b", "x"), ("y", "out")],
                a=LINEAR, b=LINEAR, t=nir.Threshold(np.full(4, 0.7)), x=lif(4), y=lif(4),
            ),
            r"Threshold in a loop.*which neurons compute first\n.*Threshold 't'\n  got: a loop through x, y",
        ),
        (wired([("in", "x"), ("x", "out"), ("a", "x")], x=lif(4), a=LINEAR), r"nothing from the input reaches"),
        (wired([("in", "x"), ("x", "out"), ("x", "a")], x=lif(4), a=LINEAR), r"nothing leads from these\b.*\n.*, a\n"),
        (wired([("in", "x"), ("x", "out"), ("x", "z")], x=lif(4)), r"leads to no node\n.*'x' -> 'z'"),
        (wired([("in", "x"), ("x", "out"), ("in", "x")], x=lif(4)), r"an edge stands twice"),
        (wired([("in", "x"), ("x", "out"), ("x", "in")], x=lif(4)), r"leads into the input"),
        (wired([("in", "x"), ("x", "out")], x=lif(4), second=entry(4)), r"one input\n(.|\n)*2: in, second"),
        (wired([], x=lif(4)), r"nothing from the input reaches"),
    ],
)  # fmt: skip
def test_wiring_without_meaning_is_refused(folder, graph, words):
    with pytest.raises(SnncError, match=words):
        load(write(folder, graph), dt=DT)


def test_a_flatten_behind_the_batch_is_seen_through_the_ends_of_inner_graphs(folder):
    """What ends an inner graph says nothing of axes; ends that lead to one another without end are refused."""
    flat = nir.Flatten({"input": np.array([2, 2, 2])}, 1, -1)
    inner = nir.NIRGraph(
        {"input": entry(2, 2, 2), "flat": flat, "output": exit_(8)},
        [("input", "flat"), ("flat", "output")],
        type_check=False,
    )
    nodes = {"in": entry(2, 2, 2), "sub": inner, "fc": nir.Linear(weights(4, 8)), "lif": lif(4), "out": exit_(4)}
    graph = nir.NIRGraph(nodes, list(itertools.pairwise(nodes)), type_check=False)
    loaded, _ = assert_equal(graph, write(folder, graph))
    assert [d.where for d in loaded.diagnostics if d.code == "NIR004"] == ["sub.flat"]
    wire = nir.NIRGraph({"input": entry(8), "output": exit_(8)}, [("input", "output")], type_check=False)
    graph.nodes |= {"a": wire, "b": wire}
    graph.edges += [("sub", "a"), ("a", "b"), ("b", "a"), ("a", "fc")]
    with pytest.raises(SnncError, match="a cycle without neurons"):
        load(write(folder, graph), dt=DT)


# Files of earlier versions.


def test_a_file_without_reset_potentials_and_input_shapes_is_read(folder):
    graph = chain(
        entry(1, 4, 4), nir.Conv2d((4, 4), weights(2, 1, 3, 3), 1, 1, 1, 1, np.zeros(2)), lif(2, 4, 4),
        nir.Flatten({"input": np.array([2, 4, 4])}, 1, -1), nir.Linear(weights(3, 32)), lif(3), exit_(3),
    )  # fmt: skip
    path = write(folder, graph)
    with h5py.File(path, "a") as file:
        nodes = file["node/nodes"]
        for name in ("n0/input_shape", "n1/v_reset", "n2/input_type", "n4/v_reset"):
            del nodes[name]
        del file["version"]
    loaded, fired = assert_equal(graph, path)
    assert fired > 20
    assert [d.code for d in loaded.diagnostics] == ["NIR002", "NIR004"]
    assert loaded.graph.metadata["nir.version"] == "unknown"


@pytest.mark.parametrize("kind", ["dense", "convolution", "neurons"])
def test_a_file_without_input_and_output_is_read_where_there_is_one_place_for_each(folder, kind):
    first, shape = {
        "dense": (nir.Linear(weights(4, 6)), (6,)),
        "convolution": (nir.Conv1d(6, weights(4, 1, 3), 1, 1, 1, 2, np.zeros(4)), (2, 6)),
        "neurons": (lif(4), (4,)),
    }[kind]
    after = (lif(4, 6),) if kind == "convolution" else (lif(4),)
    nodes = {"first": first, **{f"n{k}": node for k, node in enumerate(after)}}
    edges = list(itertools.pairwise(nodes))
    path = write(folder, nir.NIRGraph(nodes, edges, type_check=False))
    whole = nir.NIRGraph(
        {"input": entry(*shape), **nodes, "output": exit_(4)},
        [("input", "first"), *edges, (list(nodes)[-1], "output")],
        type_check=False,
    )
    loaded, _ = assert_equal(whole, path)
    assert [d.where for d in loaded.diagnostics if d.code == "NIR004"] == ["input", "output"]


def test_edges_with_names_of_earlier_versions_are_read(folder):
    inner = nir.NIRGraph(
        {"input": entry(4), "lif": lif(4), "output": exit_(4)}, [("input", "lif"), ("lif", "output")], type_check=False
    )
    graph = wired([("in", "sub"), ("sub", "out")], sub=inner)
    loaded, _ = assert_equal(graph, write(folder, graph))
    inner.edges = [("sub.input", "sub.lif"), ("sub.lif", "sub.output")]
    graph.edges = [("in.output", "sub.input"), ("sub.output", "out")]
    old = load(write(folder, graph, "old.nir"), dt=DT, steps=12)
    assert [p.name for p in old.graph.populations] == [p.name for p in loaded.graph.populations] == ["sub.lif"]
    assert [(d.code, d.where, d.count) for d in old.diagnostics if d.code == "NIR004"] == [
        ("NIR004", "sub", 2),
        ("NIR004", "edges", 2),
    ]


# The command.


def test_compile(folder, capsys):
    graph = chain(
        entry(1, 4, 4), nir.Conv2d((4, 4), weights(2, 1, 3, 3), 1, 1, 1, 1, np.zeros(2)), lif(2, 4, 4), exit_(2, 4, 4)
    )
    path, build = write(folder, graph, "network.nir"), folder / "build"
    assert run(["compile", str(path), "--target", "loihi", "-o", str(build), "--dt", str(DT), "--steps", "9"]) == 0
    shown = capsys.readouterr()
    assert "network on loihi: 1 core of 1 chip" in shown.out
    assert "NIR002" in shown.err
    assert load_build(build).graph.steps == 9
    assert run(["compile", str(build / "graph.onnx"), "--target", "loihi", "-o", str(folder / "again")]) == 0
    assert load_build(folder / "again").program == load_build(build).program


def test_the_page_says_what_happens(tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[2] / "docs" / "nir.md").read_text()
    (make, use), (printed,) = (re.findall(rf"```{kind}\n(.*?)```", page, re.DOTALL) for kind in ("python", "text"))
    (command,) = re.findall(r"    snnc (compile .*)\n", page)
    monkeypatch.chdir(tmp_path)
    exec(make, {})
    assert run(command.split()) == 0
    shown = capsys.readouterr()
    assert shown.err == printed
    cores = re.findall(r"network on loihi: (\d+) cores? of 1 chip", shown.out)
    exec(use, {})
    assert capsys.readouterr().out.splitlines()[-1] == f"{cores[0]} cores"


def test_a_build_can_be_simulated_on_a_data_set(folder, capsys):
    pytest.importorskip("sklearn")
    path = write(folder, chain(entry(64), nir.Affine(weights(10, 64), weights(10)), lif(10), exit_(10)), "digits.nir")
    build = str(folder / "digits")
    command = ["compile", str(path), "--target", "loihi", "-o", build, "--dt", str(DT)]
    assert run([*command, "--dataset", "mnist"]) == 2
    assert "another size" in capsys.readouterr().err
    assert run([*command, "--dataset", "cats"]) == 2
    assert run([*command, "--dataset", "digits"]) == 0
    assert run(["simulate", build, "--samples", "20"]) == 0
    assert "of 20 test samples" in capsys.readouterr().out
    assert run(["verify", build, "--samples", "20", "--without-lava"]) == 0

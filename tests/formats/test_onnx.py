"""graph.onnx and program.onnx: equal after a round trip, valid ONNX, and never trusted when read."""

import dataclasses
import importlib
import re
import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from onnx import TensorProto, helper
from strategies import graphs, programs

from toolchain.backends import onnx_runtime, reference
from toolchain.errors import SnncError
from toolchain.formats import FORMATS, onnx_file, onnx_layouts, onnx_model, onnx_synapses
from toolchain.formats import onnx as onnx_format
from toolchain.formats.onnx import program_bytes, read_graph, read_program, write_graph, write_program
from toolchain.formats.onnx_functions import FUNCTIONS, NEEDS
from toolchain.frontends import load
from toolchain.ir import (
    LIF,
    Compartments,
    Connection,
    Connectivity,
    Convolution,
    CurrentInput,
    FloatSynapses,
    GradedInput,
    Graph,
    IntegerConnection,
    IntegerSynapses,
    Program,
    RateInput,
)


def program_model(program: Program) -> onnx.ModelProto:
    return onnx.ModelProto.FromString(b"".join(onnx_model.program_model(program).chunks()))


def graph_model(graph: Graph) -> onnx.ModelProto:
    return onnx.ModelProto.FromString(b"".join(onnx_model.graph_model(graph).chunks()))


def synapses(mode: str, bits: int, mantissa, n_sources: int, n_targets: int, exponent: int = 2) -> IntegerSynapses:
    mantissa = np.asarray(mantissa, np.int16)
    positions = np.linspace(0, n_sources * n_targets - 1, len(mantissa)).astype(int)
    indptr = np.searchsorted(positions, np.arange(n_sources + 1) * n_targets)
    connectivity = Connectivity(n_sources, n_targets, indptr, (positions % n_targets).astype(np.int32))
    return IntegerSynapses(connectivity, mantissa, exponent, bits, mode)


def example(entry=None) -> Program:
    """3 of 4 inputs -> 5 -> 2, with all sign modes and two connections into one population."""
    entry = entry or RateInput("input", 4, np.array([0, 1, 3], np.int32), 1 / 255, threshold=200)
    return Program(
        "example",
        entry,
        (
            Compartments("fc1", 5, 4096, 512, 300, np.array([1, -2, 0, 4095, -4095], np.int16)),
            Compartments("fc2", 2, 1, 0, 131071, np.zeros(2, np.int16), 0),
        ),
        (
            IntegerConnection("fc2.weight", "fc1", "fc2", synapses("excitatory", 8, [0, 255, 7], 5, 2)),
            IntegerConnection("fc1.weight", "input", "fc1", synapses("mixed", 8, [-128, 0, 127, 5], 3, 5, 0)),
            IntegerConnection("fc1.inhibition", "input", "fc1", synapses("inhibitory", 8, [-255, -1], 3, 5)),
        ),
        8,
        {"seed": "7", "a key with spaces": "Ω"},
    )


def dense_kernel() -> np.ndarray:
    return np.arange(-36, 36).reshape(4, 2, 3, 3)


def maps() -> Program:
    """Kernels whole, pruned and depthwise, lists whole and pruned, and every kind of neuron and of delay."""
    random = np.random.default_rng(3)

    def whole(convolution) -> IntegerSynapses:
        pattern, positions = convolution
        return IntegerSynapses(pattern, dense_kernel().ravel()[positions].astype(np.int16), 3, 8, "mixed")

    conv1 = whole(Convolution.of((2, 4, 4), np.ones((4, 2, 3, 3)), stride=(2, 1), padding=((1, 0), (2, 1))))
    pruned = np.isin(np.arange(24), [0, 2, 3, 7, 11, 12, 16, 20, 23]).reshape(4, 2, 1, 3)
    conv2 = whole(Convolution.of((4, 2, 5), pruned, groups=2))
    pool, _ = Convolution.of((4, 2, 3), np.ones((4, 1, 2, 2)), groups=4)
    lateral = Connectivity(24, 24, np.array([0, 0, *[1] * 22, 3]), np.array([5, 0, 23], np.int32))
    readout = np.where((np.arange(24) // 3 + 2) % 3 == np.arange(24) % 3, 10, -5)
    skip = Connectivity.from_mask(random.random((24, 32)) < 0.1)
    return Program(
        "maps",
        GradedInput("input", 32, np.arange(32, dtype=np.int32), payload_bits=3),
        (
            Compartments("a", 40, 4096, 512, 300, random.integers(-9, 10, 40).astype(np.int16), 6, "zero", 2),
            Compartments("b", 24, 900, np.arange(24, dtype=np.int32), 40, np.zeros(24, np.int16), 0, "subtract"),
            Compartments("c", 8, 4096, 0, 0, np.zeros(8, np.int16)),
            Compartments("out", 3, np.array([1, 2, 3], np.int32), 0, 7, np.zeros(3, np.int16), 6, "none"),
        ),
        (
            IntegerConnection("conv1", "input", "a", conv1),
            IntegerConnection("conv2", "a", "b", conv2),
            IntegerConnection("pool", "b", "c", IntegerSynapses(pool, np.ones(16, np.int16), 0, 1, "excitatory")),
            IntegerConnection("fc", "c", "out", synapses("mixed", 8, readout, 8, 3), 3),
            IntegerConnection("lateral", "b", "b", synapses_of(lateral, [-90, 0, 55]), 1),
            IntegerConnection("skip", "input", "b", synapses_of(skip, [7] * skip.n_synapses), 2),
        ),
        6,
    )


def synapses_of(connectivity: Connectivity, mantissa) -> IntegerSynapses:
    return IntegerSynapses(connectivity, np.asarray(mantissa, np.int16), 1, 8, "mixed")


NETWORKS = {"example": example, "maps": maps}


def same_graph(a: Graph, b: Graph) -> bool:
    def plain(g: Graph):
        return (
            (g.name, g.input, g.steps, dict(g.metadata)),
            [[(k, np.shape(v), np.asarray(v).tobytes()) for k, v in p.__dict__.items()] for p in g.populations],
            [(c.name, c.source, c.target, c.weight_step, c.weight_bits, c.delay) for c in g.connections],
            [c.synapses.connectivity for c in g.connections],
            [c.synapses.weights.tobytes() for c in g.connections],
        )

    return plain(a) == plain(b)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("onnx")


# What is written reads back equal.


@settings(max_examples=80)
@given(program=programs(may_wrap=True))
def test_program_round_trip(folder, program):
    path = folder / "program.onnx"
    write_program(program, path)
    read = read_program(path)
    assert read == program
    assert program_bytes(read) == path.read_bytes()
    onnx.checker.check_model(path.read_bytes())


@settings(max_examples=150)
@given(program=programs(wide=True))
def test_program_round_trip_of_every_layer_and_neuron(folder, program):
    test_program_round_trip.hypothesis.inner_test(folder, program)


@settings(max_examples=80)
@given(graph=graphs())
def test_graph_round_trip(folder, graph):
    path = folder / "graph.onnx"
    write_graph(graph, path)
    written = path.read_bytes()
    read = read_graph(path)
    assert same_graph(read, graph)
    write_graph(read, path)
    assert path.read_bytes() == written
    onnx.checker.check_model(written)


@settings(max_examples=150)
@given(graph=graphs(wide=True))
def test_graph_round_trip_of_every_layer_and_neuron(folder, graph):
    test_graph_round_trip.hypothesis.inner_test(folder, graph)


@pytest.mark.parametrize(
    "entry",
    [
        RateInput("input", 4, np.array([0, 1, 3], np.int32), threshold=0),
        GradedInput("pixels", 2**31 - 1, np.array([0, 5, 2**31 - 2], np.int32)),
        CurrentInput("input", 3, np.arange(3, dtype=np.int32), 0.1, -1e-300, shift=31),
    ],
)
def test_codings(folder, entry):
    program = example(entry)
    if entry.name != "input":
        renamed = [dataclasses.replace(c, source=c.source.replace("input", entry.name)) for c in program.connections]
        program = dataclasses.replace(program, connections=tuple(renamed))
    write_program(program, folder / "p.onnx")
    assert read_program(folder / "p.onnx") == program


def test_the_order_of_metadata_does_not_change_the_bytes():
    program = example()
    turned = dataclasses.replace(program, metadata=dict(reversed(program.metadata.items())))
    assert program_bytes(turned) == program_bytes(program)
    assert b"seed" in program_bytes(program)


def test_names_with_dots_do_not_meet(folder):
    program = example()
    a, b = program.populations
    names = {"fc1": "a", "fc2": "a.u", "fc2.weight": "a.u.a", "fc1.weight": "a.a", "fc1.inhibition": "sample"}
    named = dataclasses.replace(
        program,
        populations=(dataclasses.replace(a, name="a"), dataclasses.replace(b, name="a.u")),
        connections=tuple(
            dataclasses.replace(c, name=names[c.name], source=names.get(c.source, c.source), target=names[c.target])
            for c in program.connections
        ),
    )
    write_program(named, folder / "p.onnx")
    assert read_program(folder / "p.onnx") == named
    onnx.checker.check_model((folder / "p.onnx").read_bytes())


def renamed(network, names):
    """A network with other names for its populations and connections."""
    return dataclasses.replace(
        network,
        populations=tuple(dataclasses.replace(p, name=names[p.name]) for p in network.populations),
        connections=tuple(
            dataclasses.replace(
                c,
                name=names.get(c.name, c.name),
                source=names.get(c.source, c.source),
                target=names[c.target],
            )
            for c in network.connections
        ),
    )


def test_names_like_those_of_values_do_not_meet(folder):
    names = {"a": "b.sent", "b": "b", "c": "b.spikes_1", "out": "b.spikes", "fc": "conv2.gaps", "lateral": "b.a1"}
    program = renamed(maps(), names)
    write_program(program, folder / "p.onnx")
    assert read_program(folder / "p.onnx") == program
    pytest.importorskip("onnxruntime")
    samples = np.random.default_rng(3).integers(0, 256, (9, 32)).astype(np.uint8)
    expected = reference.run(maps(), samples).counts
    assert all(np.array_equal(onnx_runtime.run(program, samples).counts[names[k]], expected[k]) for k in "abc")
    graph = renamed(trained(), {"fc1": "input.value", "fc1.weight": "input.value_1"})
    again = dataclasses.replace(graph.connections[0], name="recurrent", source="input.value", delay=2)
    graph = dataclasses.replace(graph, connections=(again, *graph.connections))
    write_graph(graph, folder / "g.onnx")
    assert same_graph(read_graph(folder / "g.onnx"), graph)


# What the file looks like to others.


def tensors(model) -> dict:
    return {t.name: t for t in model.graph.initializer}


def test_synapses_are_listed_by_the_gaps_between_them():
    stored = tensors(program_model(example()))
    assert list(stored)[:6] == [
        f"{name}.{word}" for name in ("fc2.weight", "fc1.weight", "fc1.inhibition") for word in ("mantissas", "gaps")
    ]
    types = [stored[f"{name}.mantissas"].data_type for name in ("fc2.weight", "fc1.weight", "fc1.inhibition")]
    assert types == [TensorProto.UINT8, TensorProto.INT8, TensorProto.UINT8]
    mantissas, gaps = stored["fc1.weight.mantissas"], stored["fc1.weight.gaps"]
    assert np.frombuffer(mantissas.raw_data, np.int8).tolist() == [-128, 0, 127, 5]
    assert gaps.data_type == TensorProto.UINT8
    assert np.frombuffer(gaps.raw_data, np.uint8).cumsum().tolist() == [0, 4, 9, 14]
    assert np.frombuffer(stored["fc1.inhibition.mantissas"].raw_data, np.uint8).tolist() == [255, 1]


@pytest.mark.parametrize(
    ("n_targets", "apart", "element"),
    [(128, 2, "UINT8"), (129, 2, "UINT16"), (40_000, 2, "UINT32"), (2**30, 5, "INT64")],
)
def test_gaps_take_the_narrowest_type(n_targets, apart, element):
    """Two synapses: the last target of a list, and the last but one of a list some rows after it."""
    ends = np.searchsorted([apart - 1, 2 * apart - 1], np.arange(2 * apart + 1))
    lists = Connectivity(2 * apart, n_targets, ends, np.array([n_targets - 1, n_targets - 2], np.int32))
    gaps = onnx_layouts.places_of(lists, onnx_layouts.layout_of(lists)).gaps
    assert gaps.tolist() == [apart * n_targets - 1] * 2
    assert onnx_layouts.GAP_TYPES[getattr(TensorProto, element)] == gaps.dtype
    assert onnx_layouts.read_lists((2 * apart, n_targets), (2,), gaps, "here") == lists


def test_lists_longer_than_a_chunk(monkeypatch):
    monkeypatch.setattr(onnx_layouts, "CHUNK", 7)
    lists = Connectivity.from_mask(np.random.default_rng(0).random((50, 40)) < 0.3)
    gaps = onnx_layouts.places_of(lists, onnx_layouts.layout_of(lists)).gaps
    assert onnx_layouts.read_lists((40, 50), gaps.shape, gaps, "here") == lists
    with pytest.raises(SnncError, match="out of order or stand twice"):
        onnx_layouts.read_lists((40, 50), gaps.shape, np.where(np.arange(len(gaps)) == 21, 0, gaps), "here")


def test_sums_beyond_64_bits_are_seen():
    with pytest.raises(SnncError, match="outside the layer"):
        onnx_layouts.read_lists((2**31, 2**31), (3,), np.full(3, 2**62 - 1), "here")


def test_full_layers_and_kernels_are_tensors():
    """A byte a synapse; kernels as Conv has them, once for every group."""
    stored = tensors(program_model(maps()))
    n_skip = maps().connections[-1].synapses.connectivity.n_synapses
    shapes = {name: list(t.dims) for name, t in stored.items() if name.endswith(("mantissas", "gaps"))}
    assert shapes == {
        "conv1.mantissas": [4, 2, 3, 3],
        "conv2.mantissas": [9],
        "conv2.gaps": [9],
        "pool.mantissas": [4, 1, 2, 2],
        "fc.mantissas": [8, 3],
        "lateral.mantissas": [3],
        "lateral.gaps": [3],
        "skip.mantissas": [n_skip],
        "skip.gaps": [n_skip],
    }
    kernel = np.frombuffer(stored["conv1.mantissas"].raw_data, np.int8)
    assert kernel.tolist() == dense_kernel().ravel().tolist()


def test_geometry_is_that_of_standard_convolutions():
    nodes = {n.name: n for n in program_model(maps()).graph.node}
    attributes = {a.name: helper.get_attribute_value(a) for a in nodes["conv1"].attribute}
    assert nodes["conv1"].op_type == "IntegerConvolution"
    assert {key: attributes[key] for key in (*onnx_synapses.GEOMETRY,)} == {
        "source_shape": [2, 4, 4],
        "target_shape": [4, 2, 5],
        "kernel_shape": [3, 3],
        "strides": [2, 1],
        "pads": [1, 2, 0, 1],
        "dilations": [1, 1],
        "group": 1,
    }
    groups = {name: helper.get_attribute_value(a) for name in nodes for a in nodes[name].attribute if a.name == "group"}
    assert groups == {"conv1": 1, "conv2": 2, "pool": 4}


@pytest.mark.parametrize("network", ["example", "maps"])
def test_state_is_explicit_and_the_batch_symbolic(network):
    graph = program_model(NETWORKS[network]()).graph
    inputs = {
        "example": ["sample", "input.u", "input.v", "fc1.u", "fc1.v", "fc2.u", "fc2.v"],
        "maps": [
            *("sample", "input.sent", "a.u", "a.v", "a.wait", "b.u", "b.v", "b.sent", "c.u", "c.v", "c.sent"),
            *("out.u", "out.v"),
        ],
    }
    spiking = {
        "example": ["input.spikes", "fc1.spikes", "fc2.spikes"],
        "maps": [f"{name}.spikes" for name in ("input", "a", "b", "c")],
    }
    assert [v.name for v in graph.input] == inputs[network]
    assert [v.name for v in graph.output if v.name.endswith("spikes")] == spiking[network]
    after = {v.name for v in graph.output} - {*spiking[network]}
    assert after == {f"{name}_next" for name in inputs[network][1:]}
    dense = {f"{name}.dense" for name in (t.name.removesuffix(".gaps") for t in graph.initializer)}
    for value in (*graph.input, *graph.output, *(v for v in graph.value_info if v.name not in dense)):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"


def test_spikes_under_way_are_a_state():
    graph = program_model(maps()).graph
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim][1:] for v in graph.input}
    assert (shapes["input.sent"], shapes["b.sent"], shapes["c.sent"]) == ([2, 32], [1, 24], [3, 8])
    nodes = {n.name: n for n in graph.node}
    assert nodes["lateral"].input[0] == "b.spikes_1"
    assert nodes["fc"].input[0] == "c.spikes_3"
    assert nodes["c.spikes_3"].op_type == "DelayTap"


def test_provenance_and_the_way_to_the_answer_are_in_the_metadata():
    metadata = {e.key: e.value for e in program_model(example()).metadata_props}
    assert metadata["snnc.schema"] == "2"
    assert metadata["snnc.steps"] == "8"
    assert metadata["snnc.metadata.seed"] == "7"
    assert metadata["snnc.output"] == "fc2.spikes"
    assert "most spikes" in metadata["snnc.decision"]
    metadata = {e.key: e.value for e in program_model(maps()).metadata_props}
    assert metadata["snnc.output"] == "out.v_next"
    assert "highest membrane potential" in metadata["snnc.decision"]


@pytest.mark.parametrize("model", ["example", "graded", "maps", "graph"])
def test_types_and_shapes_are_right_throughout(model):
    """ONNX infers what we declare."""
    models = {
        "example": lambda: program_model(example()),
        "graded": lambda: program_model(example(GradedInput("input", 3, np.arange(3, dtype=np.int32)))),
        "maps": lambda: program_model(maps()),
        "graph": lambda: graph_model(trained()),
    }
    onnx.checker.check_model(models[model](), full_check=True)


def test_every_operator_has_a_body_in_standard_operators():
    for name, function in FUNCTIONS.items():
        assert function.doc_string
        own = {node.op_type for node in function.node if node.domain}
        assert own == ({NEEDS[name]} if name in NEEDS else set())


def test_table_names_what_exists():
    for entries in FORMATS.values():
        for target in entries.values():
            module, _, attribute = target.partition(":")
            assert callable(getattr(importlib.import_module(module), attribute))


# What cannot be written.


@pytest.mark.parametrize(
    ("module", "limit"), [(onnx_format, 17), (onnx_model, 30), (onnx_format, 999)], ids=["weights", "tensors", "file"]
)
def test_too_large_for_a_file(monkeypatch, tmp_path, module, limit):
    """9 synapses of 2 bytes each; all tensors, seen while the file is put together; all that stands in it."""
    monkeypatch.setattr(module, "SIZE_MAX", limit)
    with pytest.raises(SnncError, match="too large for one ONNX file"):
        write_program(example(), tmp_path / "p.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_kernel_too_large_for_its_map(monkeypatch, tmp_path):
    monkeypatch.setattr(onnx_layouts, "TAPS_FREE", -200)
    with pytest.raises(SnncError, match="kernel is too large for its map") as error:
        write_program(maps(), tmp_path / "p.onnx")
    assert error.value.where == "conv2"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": ""}, "a name must be text"),
        ({"name": "\ud800"}, "a name must be text"),
        ({"metadata": {"seed": 7}}, "metadata must be text"),
        ({"metadata": {"x": "\udfff"}}, "metadata must be text"),
        ({"steps": 2**31}, "too large for a file"),
        ({"steps": 0}, "at least one step"),
        ({"connections": [dataclasses.replace(c, delay=2**31) for c in example().connections]}, "too large for a file"),
    ],
)
def test_what_a_file_cannot_hold(tmp_path, changes, words):
    with pytest.raises(SnncError, match=words):
        write_program(dataclasses.replace(example(), **changes), tmp_path / "p.onnx")
    assert list(tmp_path.iterdir()) == []


def test_exponents_beyond_64_bits(tmp_path):
    program = example()
    first, *rest = program.connections
    steep = dataclasses.replace(first, synapses=dataclasses.replace(first.synapses, exponent=17))
    with pytest.raises(SnncError, match="exponent is too large"):
        write_program(dataclasses.replace(program, connections=(steep, *rest)), tmp_path / "p.onnx")


# What is not read.


def refused(path, *words: str, read=read_program) -> None:
    with pytest.raises(SnncError) as caught:
        read(path)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def edited(tmp_path, change, network=None):
    model = graph_model(network) if isinstance(network, Graph) else program_model(network or example())
    change(model)
    path = tmp_path / "edited.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_no_file_of_ours(tmp_path):
    path = tmp_path / "p.onnx"
    refused(path, "no such file")
    refused(tmp_path, "folder")
    path.write_bytes(b"")
    refused(path, "empty")
    path.write_bytes(b"PK\x03\x04")
    refused(path, "not an ONNX model")
    path.write_bytes(b"\x08\xff\xff")
    refused(path, "damaged or cut off")
    foreign = helper.make_model(
        helper.make_graph(
            [helper.make_node("Relu", ["x"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        )
    )
    path.write_bytes(foreign.SerializeToString())
    refused(path, "not a model that snnc wrote")


def test_size_is_checked_before_reading(tmp_path):
    path = tmp_path / "p.onnx"
    with path.open("wb") as stream:
        stream.truncate(2**31)  # sparse: takes no room
    refused(path, "too large")


def test_graph_and_program_are_not_confused(tmp_path):
    write_program(example(), tmp_path / "p.onnx")
    refused(tmp_path / "p.onnx", "this is not a graph but a program", read=read_graph)
    with pytest.raises(SnncError, match="not a graph but a program"):
        load(tmp_path / "p.onnx")


def trained() -> Graph:
    connectivity = Connectivity(2, 2, np.array([0, 1, 3]), np.array([0, 0, 1], np.int32))
    lif = LIF("fc1", 2, 1.0, 0.5, 1.0, 0.5, np.zeros(2, np.float32))
    weights = FloatSynapses(connectivity, np.array([0.25, -1, 0], np.float32))
    entry = RateInput("input", 2, np.arange(2, dtype=np.int32))
    return Graph("t", entry, (lif,), (Connection("fc1.weight", "input", "fc1", weights),), 4)


def test_graph_as_a_front_end(tmp_path):
    write_graph(trained(), tmp_path / "graph.onnx")
    loaded = load(tmp_path / "graph.onnx")
    assert same_graph(loaded.graph, trained())
    assert loaded.diagnostics == ()


def set_metadata(key, value):
    def change(model):
        for entry in model.metadata_props:
            if entry.key == key:
                entry.value = value

    return change


def metadata_twice(model):
    model.metadata_props.add(key="snnc.steps", value="9")


def newer(model):
    set_metadata("snnc.schema", "3")(model)
    model.producer_version = "4.5.6"


def older(model):
    set_metadata("snnc.schema", "1")(model)
    model.opset_import[1].version = 1


def newer_opset(model):
    model.opset_import[1].version = 3


def foreign_domain(model):
    model.opset_import.add(domain="ai.onnx.ml", version=3)


def foreign_node_domain(model):
    model.graph.node[1].domain = "com.microsoft"


def unknown_operator(model):
    model.graph.node[-1].op_type = "Compartment"


def other_standard_operator(model):
    model.graph.node.insert(1, helper.make_node("Identity", ["sample"], ["x"], name="extra"))


def external(model):
    tensor = tensors(model)["fc2.weight.mantissas"]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../etc/passwd")


def other_body(model):
    function = next(f for f in model.functions if f.name == "Compartments")
    node = next(n for n in function.node if n.op_type == "Clip")
    node.input[1], node.input[2] = node.input[2], node.input[1]


def extra_function(model):
    model.functions.add().CopyFrom(FUNCTIONS["LIF"])


def rewired(model):
    node = next(n for n in model.graph.node if n.name == "fc2")
    node.input[0] = "fc2.v"


def no_neuron(model):
    del model.graph.node[-1]


def no_weights(model):
    del model.graph.initializer[2]


def no_bias(model):
    model.graph.initializer.remove(tensors(model)["fc1.bias_mantissa"])


def twice(model):
    model.graph.initializer.append(model.graph.initializer[0])


def source_of(connection, value):
    def change(model):
        next(n for n in model.graph.node if n.name == connection).input[0] = value

    return change


other_source = source_of("fc2.weight", "nowhere.spikes")


def sparse(model):
    """As the first version of the format had it."""
    tensor = model.graph.sparse_initializer.add()
    tensor.dims.extend([3, 5])


def tensor(name, element=None, dims=None, raw=None):
    """Change one tensor's type, shape or bytes, its shape along with the bytes unless it is given."""

    def change(model):
        edited = tensors(model)[name]
        if element is not None:
            edited.data_type = element
        if raw is not None:
            edited.raw_data = raw
            edited.dims[:] = [len(raw) // onnx_file.DTYPES[edited.data_type].itemsize]
        if dims is not None:
            edited.dims[:] = dims

    return change


def gaps(*values):
    return tensor("fc1.weight.gaps", raw=bytes(values))


def wide_gaps(*values):
    return tensor("fc1.weight.gaps", TensorProto.INT64, raw=np.array(values, "<i8").tobytes())


def registers(name, *values):
    return tensor(name, dims=(len(values),), raw=np.array(values, "<i4").tobytes())


def register(name, value):
    return tensor(name, dims=(), raw=np.int32(value).tobytes())


def attribute(node_name, name, value):
    def change(model):
        node = next(n for n in model.graph.node if n.name == node_name)
        for entry in node.attribute:
            if entry.name == name:
                entry.CopyFrom(helper.make_attribute(name, value))

    return change


def bias(raw):
    return tensor("fc1.bias_mantissa", dims=(5,), raw=raw)


def no_text(model):
    model.graph.node[1].name = "AAAA"


HUGE = 10**12


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (newer, ("newer snnc (4.5.6)", "3", "update snnc")),
        (older, ("older snnc", "compile the trained model again")),
        (newer_opset, ("newer snnc", "update snnc")),
        (foreign_domain, ("unknown operator domain", "ai.onnx.ml")),
        (foreign_node_domain, ("unknown operator domain 'com.microsoft'", "node 'fc1.weight.dense'")),
        (unknown_operator, ("unknown operator 'Compartment'", "node 'fc2'", "did you mean 'Compartments'")),
        (other_standard_operator, ("unknown operator 'Identity'", "node 'extra'")),
        (external, ("outside the file", "fc2.weight")),
        (other_body, ("not what snnc writes", "functions 'Compartments'")),
        (extra_function, ("not what snnc writes", "functions 'LIF'")),
        (sparse, ("not what snnc writes", "graph.sparse_initializer")),
        (rewired, ("not what snnc writes", "graph.node 'fc2'")),
        (no_neuron, ("a connection leads nowhere", "fc2.weight")),
        (no_weights, ("connections and weights differ",)),
        (no_bias, ("a tensor is missing", "fc1.bias_mantissa")),
        (twice, ("stands twice", "fc2.weight.mantissas")),
        (other_source, ("starts at nothing", "fc2.weight", "nowhere.spikes")),
        (source_of("fc1.weight", "input.spikes_x"), ("starts at nothing", "input.spikes_x")),
        (source_of("fc1.weight", "input.u"), ("starts at nothing", "input.u")),
        (source_of("fc1.weight", "input.spikes_2147483648"), ("a delay is out of range", "fc1.weight")),
        (source_of("fc1.weight", "input.spikes_2"), ("not what snnc writes",)),
        (source_of("fc1.weight", "input.spikes_0"), ("not what snnc writes", "fc1.weight")),
        (no_text, ("not what snnc writes", "AAAA")),
        (gaps(0, 4, 5, 6), ("outside the layer", "0 to 14")),
        (gaps(15, 1, 1, 1), ("outside the layer", "0 to 14")),
        (gaps(0, 4, 0, 5), ("out of order or stand twice",)),
        (gaps(0, 4, 5), ("differ in number", "fc1.weight")),
        (wide_gaps(-1, 4, 5, 5), ("out of order",)),
        (wide_gaps(0, 4, -2, 5), ("out of order",)),
        (wide_gaps(0, 4, 5, 5), ("not what snnc writes", "fc1.weight.gaps")),
        (tensor("fc1.weight.gaps", dims=(2, 2)), ("not a list", "fc1.weight.gaps")),
        (tensor("fc1.weight.gaps", TensorProto.FLOAT), ("wrong element type", "FLOAT", "UINT8 or UINT16")),
        (tensor("fc1.weight.gaps", dims=(HUGE,)), ("declared size and bytes",)),
        (tensor("fc1.weight.mantissas", TensorProto.UINT8), ("wrong element type", "UINT8", "INT8")),
        (tensor("fc1.weight.mantissas", 99), ("wrong element type", "unknown type 99")),
        (tensor("fc1.weight.mantissas", dims=(HUGE,)), ("declared size and bytes",)),
        (tensor("fc1.weight.mantissas", dims=(-1, -4)), ("declared size and bytes",)),
        (tensor("fc1.weight.mantissas", dims=(2, 2)), ("differ in number",)),
        (tensor("fc1.weight.mantissas", raw=b"\1\1\1"), ("differ in number",)),
        (bias(b"\0" * 8), ("declared size and bytes", "fc1.bias_mantissa")),
        (bias(b"\xff\x7f" * 5), ("bias_mantissa is out of range", "fc1")),
        (register("fc1.du", 0), ("du is out of range", "fc1.du")),
        (register("fc1.vth", 1 << 30), ("vth is out of range",)),
        (registers("fc1.dv", 1, 2, 3, 4), ("dv has the wrong shape", "fc1.dv")),
        (registers("fc1.dv", 1, 2, 3, 4, 4096), ("dv is out of range",)),
        (tensor("fc1.dv", TensorProto.FLOAT), ("wrong element type", "fc1.dv")),
        (attribute("fc1", "bias_exponent", 8), ("bias_exponent is out of range",)),
        (attribute("fc1", "bias_exponent", "x"), ("wrong type", "fc1.bias_exponent")),
        (attribute("fc1.weight", "sign_mode", "purple"), ("unknown sign mode", "purple")),
        (attribute("fc1.weight", "sign_mode", b"\xff"), ("unknown sign mode",)),
        (attribute("fc1.weight", "sign", -1), ("not what snnc writes", "fc1.weight")),
        (attribute("fc1.weight", "weight_bits", 4), ("a weight mantissa is out of range", "-8..7")),
        (attribute("fc1.weight", "weight_bits", 9), ("no such weight format",)),
        (attribute("fc1.weight", "exponent", 1 << 40), ("exponent out of range", "0 to 16")),
        (attribute("fc1.weight", "exponent", -1), ("exponent out of range",)),
        (set_metadata("snnc.steps", "0"), ("snnc.steps", "not a whole number in range")),
        (set_metadata("snnc.steps", "9" * 5000), ("snnc.steps", "not a whole number in range")),
        (set_metadata("snnc.steps", "08"), ("not what snnc writes", "snnc.steps")),
        (set_metadata("snnc.steps", "٣"), ("not a whole number",)),
        (set_metadata("snnc.schema", "x"), ("snnc.schema", "not a whole number")),
        (set_metadata("snnc.input.scale", "nan"), ("scale must be positive",)),
        (set_metadata("snnc.input.scale", "one"), ("snnc.input.scale", "not a number")),
        (set_metadata("snnc.input.coding", "graded"), ("coding and its operator differ",)),
        (set_metadata("snnc.input.threshold", "199"), ("not what snnc writes",)),
        (metadata_twice, ("stands twice", "snnc.steps")),
    ],
)
def test_edited_programs(tmp_path, change, words):
    refused(edited(tmp_path, change), *words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            attribute("conv1", "source_shape", [2, 4]),
            ("not a list of whole numbers", "conv1.source_shape", "3 numbers"),
        ),
        (attribute("conv1", "source_shape", [4, 4, 4]), ("layer sizes do not chain", "conv1")),
        (attribute("conv1", "target_shape", [HUGE, HUGE, HUGE]), ("not a list of whole numbers",)),
        (attribute("conv1", "target_shape", [2, 4, 5]), ("differ in number", "conv1")),
        (attribute("conv1", "target_shape", [4, 5, 2]), ("two convolutions see 'a'", "conv1")),
        (attribute("conv1", "kernel_shape", [3, 2]), ("differ in number", "conv1")),
        (attribute("conv1", "kernel_shape", [0, 3]), ("kernel does not match the channels",)),
        (attribute("conv2", "kernel_shape", [9, 1]), ("larger than its input",)),
        (attribute("conv1", "pads", [1, 2, 0, -1]), ("not a list of whole numbers", "conv1.pads")),
        (attribute("conv1", "pads", [1, 2, 0, 2]), ("the map has another size",)),
        (attribute("conv1", "strides", [0, 1]), ("1 or more",)),
        (attribute("conv1", "dilations", [2**31 - 1, 1]), ("larger than its input",)),
        (attribute("conv1", "dilations", 1), ("wrong type",)),
        (attribute("conv1", "group", 3), ("kernel does not match the channels", "3 groups")),
        (attribute("conv1", "group", 0), ("kernel does not match the channels",)),
        (attribute("conv1", "group", 2), ("differ in number",)),
        (attribute("conv2", "group", 1), ("not what snnc writes",)),
        (attribute("conv2", "kernel_shape", [2**31 - 1, 2**31 - 1]), ("kernel is too large for its map", "conv2")),
        (attribute("conv2", "kernel_shape", [1, 2]), ("outside the layer", "0 to 15")),
        (tensor("conv2.gaps", raw=bytes([24, 2, 1, 4, 4, 1, 4, 4, 3])), ("outside the layer", "0 to 23")),
        (tensor("conv2.gaps", raw=bytes([0, 2, 0, 4, 4, 1, 4, 4, 3])), ("out of order",)),
        (tensor("conv1.mantissas", dims=(4, 2, 9)), ("differ in number",)),
        (tensor("conv1.mantissas", dims=(4, 2, HUGE, 3)), ("declared size and bytes",)),
        (attribute("a", "refractory", 63), ("refractory is out of range", "0 to 62")),
        (attribute("a", "refractory", 0), ("not what snnc writes", "graph.node 'a'")),
        (attribute("b.spikes_1", "steps", 2), ("not what snnc writes", "b.spikes_1")),
        (attribute("lateral.dense", "shape", [24, 25]), ("not what snnc writes", "lateral.dense")),
        (source_of("lateral", "b.spikes"), ("a cycle without delay", "lateral")),
        (source_of("lateral", "b.spikes_2147483647"), ("not what snnc writes",)),
        (source_of("fc", "c.spikes_2"), ("not what snnc writes",)),
        (set_metadata("snnc.output", "out.spikes"), ("not what snnc writes", "snnc.output")),
    ],
)
def test_edited_maps(tmp_path, change, words):
    refused(edited(tmp_path, change, maps()), *words)


def test_an_operator_of_another_neuron(tmp_path):
    def change(model):
        next(n for n in model.graph.node if n.name == "b").op_type = "ReadoutCompartments"

    refused(edited(tmp_path, change, maps()), "only the last population can be a readout", "b")


def float_weights(*numbers):
    return tensor("fc1.weight.weights", raw=np.array(numbers, "<f4").tobytes())


def reals(name, *numbers, dims=()):
    return tensor(name, dims=dims, raw=np.array(numbers, "<f8").tobytes())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (float_weights(1, np.nan, 0), ("1 weights are NaN", "synapse 1 -> 0")),
        (float_weights(1, 0, -np.inf), ("infinite", "fc1.weight")),
        (reals("fc1.threshold", -1.0), ("threshold has no meaning",)),
        (reals("fc1.threshold", 1.0, np.nan, dims=(2,)), ("threshold has no meaning",)),
        (reals("fc1.threshold", 1.0, dims=(1,)), ("threshold has the wrong shape",)),
        (reals("fc1.gain", np.nan), ("gain has no meaning",)),
        (reals("fc1.gain", 1.0, 2.0, dims=(2,)), ("not one number", "fc1.gain")),
        (tensor("fc1.gain", TensorProto.INT64), ("wrong element type", "fc1.gain")),
        (attribute("input.value", "scale", 1), ("not what snnc writes", "input.value")),
        (set_metadata("snnc.input.scale", "-1.0"), ("scale must be positive",)),
    ],
)
def test_edited_graphs(tmp_path, change, words):
    refused(edited(tmp_path, change, trained()), *words, read=read_graph)


def many_neurons(model):
    """A small file that claims 10**12 neurons and synapses everywhere, consistently."""
    for tensor in model.graph.initializer:
        tensor.dims[:] = [HUGE] * len(tensor.dims)
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        value.type.tensor_type.shape.dim[1].dim_value = HUGE


def huge_kernel(model):
    """A listed kernel as large as may be claimed, in maps that are padded as much."""
    attribute("conv2", "kernel_shape", [1, 2**18])(model)
    attribute("conv2", "pads", [0, 2**18 - 3, 0, 0])(model)


@pytest.mark.parametrize(
    ("network", "change", "peak"),
    [(example, many_neurons, 2_000_000), (maps, many_neurons, 2_000_000), (maps, huge_kernel, 64_000_000)],
)
def test_claims_allocate_nothing(tmp_path, network, change, peak):
    path = edited(tmp_path, change, network())
    assert path.stat().st_size < 64_000
    tracemalloc.start()
    try:
        refused(path)
        assert tracemalloc.get_traced_memory()[1] < peak
    finally:
        tracemalloc.stop()


def test_every_prefix_is_refused(tmp_path):
    whole = program_bytes(example())
    path = tmp_path / "cut.onnx"
    for length in sorted({*range(0, len(whole), 17), *range(len(whole) - 60, len(whole))}):
        path.write_bytes(whole[:length])
        refused(path)


@pytest.mark.parametrize("network", [example(), maps(), trained()], ids=["program", "maps", "graph"])
def test_flipped_bits_are_refused_or_change_only_what_is_stored(tmp_path, network):
    """Whatever bit is wrong: an SnncError, or a network that is written just as it was read."""
    model = graph_model(network) if isinstance(network, Graph) else program_model(network)
    read, write = (read_graph, write_graph) if isinstance(network, Graph) else (read_program, write_program)
    whole = model.SerializeToString(deterministic=True)
    random = np.random.default_rng(5)
    path, again = tmp_path / "flipped.onnx", tmp_path / "again.onnx"
    accepted = 0
    for position in random.integers(0, len(whole), 400):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << int(random.integers(0, 8))
        path.write_bytes(flipped)
        try:
            result = read(path)
        except SnncError:
            continue
        accepted += 1
        write(result, again)
        assert without_words(again) == without_words(path)
    assert accepted < 120  # stored numbers, names and descriptions


def without_words(path) -> onnx.ModelProto:
    """A model without what is for people only, which a reader does not compare."""
    model = onnx.ModelProto.FromString(path.read_bytes())
    model.ClearField("producer_version")
    model.ClearField("doc_string")
    for function in model.functions:
        function.ClearField("doc_string")
    return model


def test_bytes_that_are_nothing(tmp_path):
    random = np.random.default_rng(6)
    path = tmp_path / "noise.onnx"
    for _ in range(300):
        path.write_bytes(b"\x08\x0a" + random.bytes(int(random.integers(0, 200))))
        refused(path)


@pytest.mark.parametrize("sizes", [(1, 127, 128), (0, 16_383, 16_384), (3, 2**21 - 1, 2**21)])
def test_bytes_are_those_of_a_protocol_buffer(sizes):
    """Lengths of one to four bytes; the model comes back as it was, its tensors with their values."""
    made = onnx_model.program_model(maps())
    arrays = [np.arange(n, dtype="<i2") for n in sizes]
    for name, values in zip("abc", arrays, strict=True):
        made.proto.graph.initializer.add(name=name, data_type=TensorProto.INT16, dims=values.shape)
        made.values.append(values)
    read = onnx.ModelProto.FromString(b"".join(made.chunks()))
    assert [onnx.numpy_helper.to_array(tensors(read)[name]).tolist() for name in "abc"] == [a.tolist() for a in arrays]
    for tensor in read.graph.initializer:
        tensor.ClearField("raw_data")
    assert read == made.proto


def test_sign_modes_cover_those_of_the_ir():
    from toolchain.ir import SIGN_MODES

    assert set(onnx_model.MANTISSA_FORMATS) == set(SIGN_MODES)


def digits() -> Program:
    weights = synapses("mixed", 8, np.random.default_rng(2).integers(-40, 128, 12), 4, 3)
    return Program(
        "digits",
        RateInput("input", 4, np.arange(4, dtype=np.int32)),
        (Compartments("out", 3, 4096, 1024, 300, np.zeros(3, np.int16)),),
        (IntegerConnection("w", "input", "out", weights),),
        16,
    )


@pytest.mark.parametrize("network", [digits, maps])
def test_the_example_in_the_documentation(tmp_path, monkeypatch, network):
    """docs/formats.md runs program.onnx with nothing but onnxruntime and numpy."""
    pytest.importorskip("onnxruntime")
    text = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
    (code,) = (found for found in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "import onnxruntime" in found)
    (tmp_path / "build").mkdir()
    program = network()
    write_program(program, tmp_path / "build" / "program.onnx")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(code, names)
    random = np.random.default_rng(3)
    samples = (random.integers(0, 256, (60, program.input.sample_size)) * random.random((60, 1))).astype(np.uint8)
    expected = reference.run(program, samples).decisions
    assert set(expected.tolist()) == {0, 1, 2}
    assert names["decide"](samples).tolist() == expected.tolist()

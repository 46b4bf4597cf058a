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

from toolchain.backends import reference
from toolchain.errors import SnncError
from toolchain.formats import FORMATS, onnx_model
from toolchain.formats import onnx as onnx_format
from toolchain.formats.onnx import program_bytes, read_graph, read_program, write_graph, write_program
from toolchain.formats.onnx_functions import FUNCTIONS, NEEDS
from toolchain.formats.onnx_model import graph_model, program_model
from toolchain.frontends import load
from toolchain.ir import (
    LIF,
    Compartments,
    Connection,
    Connectivity,
    CurrentInput,
    FloatSynapses,
    GradedInput,
    Graph,
    IntegerConnection,
    IntegerSynapses,
    Program,
    RateInput,
)


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


def same_graph(a: Graph, b: Graph) -> bool:
    def plain(g: Graph):
        return (
            (g.name, g.input, g.steps, dict(g.metadata)),
            [dataclasses.replace(p, bias=None).__dict__ for p in g.populations],
            [p.bias.tobytes() for p in g.populations],
            [(c.name, c.source, c.target, c.weight_step, c.weight_bits) for c in g.connections],
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


# What the file looks like to others.


def test_sparse_initialisers_hold_the_mantissas():
    model = program_model(example())
    stored = {t.values.name: t for t in model.graph.sparse_initializer}
    assert list(stored) == ["fc2.weight.mantissas", "fc1.weight.mantissas", "fc1.inhibition.mantissas"]
    assert [t.values.data_type for t in stored.values()] == [TensorProto.UINT8, TensorProto.INT8, TensorProto.UINT8]
    mixed = stored["fc1.weight.mantissas"]
    assert list(mixed.dims) == [3, 5]
    assert np.frombuffer(mixed.values.raw_data, np.int8).tolist() == [-128, 0, 127, 5]
    assert np.frombuffer(mixed.indices.raw_data, "<i8").tolist() == [0, 4, 9, 14]
    assert np.frombuffer(stored["fc1.inhibition.mantissas"].values.raw_data, np.uint8).tolist() == [255, 1]


def test_state_is_explicit_and_the_batch_symbolic():
    graph = program_model(example()).graph
    assert [v.name for v in graph.input] == ["sample", "input.u", "input.v", "fc1.u", "fc1.v", "fc2.u", "fc2.v"]
    assert [v.name for v in graph.output if v.name.endswith("spikes")] == ["input.spikes", "fc1.spikes", "fc2.spikes"]
    for value in (*graph.input, *graph.output, *graph.value_info):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"


def test_provenance_is_in_the_metadata():
    metadata = {e.key: e.value for e in program_model(example()).metadata_props}
    assert metadata["snnc.schema"] == "1"
    assert metadata["snnc.steps"] == "8"
    assert metadata["snnc.metadata.seed"] == "7"


@pytest.mark.parametrize("entry", [None, GradedInput("input", 3, np.arange(3, dtype=np.int32))])
def test_types_and_shapes_are_right_throughout(entry):
    """ONNX's full check has no rule for sparse operands; with the same tensors dense in type it passes."""
    model = program_model(example(entry))
    for stored in model.graph.sparse_initializer:
        node = helper.make_node("Constant", [], [stored.values.name], sparse_value=stored)
        model.graph.node.insert(0, node)
    model.graph.ClearField("sparse_initializer")
    onnx.checker.check_model(model, full_check=True)


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


def test_too_large_for_a_file(monkeypatch, tmp_path):
    monkeypatch.setattr(onnx_format, "SIZE_MAX", 50)
    with pytest.raises(SnncError, match="too large for one ONNX file"):
        write_program(example(), tmp_path / "p.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": ""}, "a name must be text"),
        ({"name": "\ud800"}, "a name must be text"),
        ({"metadata": {"seed": 7}}, "metadata must be text"),
        ({"metadata": {"x": "\udfff"}}, "metadata must be text"),
        ({"steps": 2**31}, "too large for a file"),
        ({"steps": 0}, "at least one step"),
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


def newer_opset(model):
    model.opset_import[1].version = 2


def foreign_domain(model):
    model.opset_import.add(domain="ai.onnx.ml", version=3)


def foreign_node_domain(model):
    model.graph.node[1].domain = "com.microsoft"


def unknown_operator(model):
    model.graph.node[-1].op_type = "Compartment"


def other_standard_operator(model):
    model.graph.node.insert(1, helper.make_node("Identity", ["sample"], ["x"], name="extra"))


def external(model):
    tensor = model.graph.sparse_initializer[0].values
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
    del model.graph.sparse_initializer[1]


def no_bias(model):
    del model.graph.initializer[1]


def twice(model):
    model.graph.sparse_initializer.append(model.graph.sparse_initializer[0])


def other_source(model):
    next(n for n in model.graph.node if n.name == "fc2.weight").input[0] = "nowhere.spikes"


def shape(*dims):
    def change(model):
        tensor = model.graph.sparse_initializer[1]
        del tensor.dims[:]
        tensor.dims.extend(dims)

    return change


def positions(*values, raw=None):
    def change(model):
        tensor = model.graph.sparse_initializer[1].indices
        tensor.raw_data = np.array(values, "<i8").tobytes() if raw is None else raw
        del tensor.dims[:]
        tensor.dims.append(len(tensor.raw_data) // 8)

    return change


def values(tensor_type, *dims, raw=None):
    def change(model):
        tensor = model.graph.sparse_initializer[1].values
        tensor.data_type = tensor_type
        if dims:
            del tensor.dims[:]
            tensor.dims.extend(dims)
        if raw is not None:
            tensor.raw_data = raw

    return change


def attribute(node_name, name, value):
    def change(model):
        node = next(n for n in model.graph.node if n.name == node_name)
        for entry in node.attribute:
            if entry.name == name:
                entry.CopyFrom(helper.make_attribute(name, value))

    return change


def bias(raw):
    def change(model):
        tensor = next(t for t in model.graph.initializer if t.name == "fc1.bias_mantissa")
        tensor.raw_data = raw

    return change


def no_text(model):
    model.graph.node[1].name = "AAAA"


HUGE = 10**12


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (newer, ("newer snnc (4.5.6)", "3", "update snnc")),
        (newer_opset, ("newer snnc", "update snnc")),
        (foreign_domain, ("unknown operator domain", "ai.onnx.ml")),
        (foreign_node_domain, ("unknown operator domain 'com.microsoft'", "node 'fc1.weight'")),
        (unknown_operator, ("unknown operator 'Compartment'", "node 'fc2'", "did you mean 'Compartments'")),
        (other_standard_operator, ("unknown operator 'Identity'", "node 'extra'")),
        (external, ("outside the file", "fc2.weight")),
        (other_body, ("not what snnc writes", "functions 'Compartments'")),
        (extra_function, ("not what snnc writes", "functions 'LIF'")),
        (rewired, ("not what snnc writes", "graph.node 'fc2'")),
        (no_neuron, ("a connection leads nowhere", "fc2.weight")),
        (no_weights, ("connections and sparse initialisers differ",)),
        (no_bias, ("a tensor is missing", "fc1.bias_mantissa")),
        (twice, ("stands twice", "fc2.weight.mantissas")),
        (other_source, ("starts at nothing", "fc2.weight", "nowhere.spikes")),
        (no_text, ("connections and sparse initialisers differ",)),
        (shape(HUGE, HUGE), ("layer sizes do not chain", "fc1.weight")),
        (shape(3, -5), ("layer sizes do not chain", "fc1.weight")),
        (shape(3), ("layer sizes do not chain",)),
        (shape(5, 3), ("layer sizes do not chain",)),
        (positions(0, 4, 9, 15), ("outside the layer", "0 to 14")),
        (positions(-1, 4, 9, 14), ("outside the layer",)),
        (positions(0, 9, 4, 14), ("out of order",)),
        (positions(0, 4, 4, 14), ("out of order or stand twice",)),
        (positions(0, 4, 9), ("differ in number",)),
        (positions(raw=b"\0" * 31), ("declared size and bytes",)),
        (values(TensorProto.UINT8), ("wrong element type", "UINT8", "INT8")),
        (values(99), ("wrong element type", "unknown type 99")),
        (values(TensorProto.INT8, HUGE), ("differ",)),
        (values(TensorProto.INT8, 2, 2), ("differ",)),
        (values(TensorProto.INT8, raw=b"\1\1\1"), ("declared size and bytes",)),
        (bias(b"\0" * 8), ("declared size and bytes", "fc1.bias_mantissa")),
        (bias(b"\xff\x7f" * 5), ("bias_mantissa is out of range", "fc1")),
        (attribute("fc1", "du", 0), ("du is out of range", "fc1.du")),
        (attribute("fc1", "vth", 1 << 62), ("vth is out of range",)),
        (attribute("fc1", "dv", "x"), ("wrong type", "fc1.dv")),
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


def float_weights(*numbers):
    def change(model):
        model.graph.sparse_initializer[0].values.raw_data = np.array(numbers, "<f4").tobytes()

    return change


def float_attribute(name, value):
    return attribute("fc1", name, helper.make_tensor("", TensorProto.DOUBLE, [], [value]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (float_weights(1, np.nan, 0), ("1 weights are NaN", "synapse 1 -> 0")),
        (float_weights(1, 0, -np.inf), ("infinite", "fc1.weight")),
        (float_attribute("threshold", -1.0), ("threshold has no meaning",)),
        (float_attribute("gain", np.nan), ("gain has no meaning",)),
        (attribute("fc1", "gain", helper.make_tensor("", TensorProto.DOUBLE, [2], [1.0, 2.0])), ("fc1.gain",)),
        (attribute("fc1", "gain", 1), ("wrong type", "fc1.gain")),
        (set_metadata("snnc.input.scale", "-1.0"), ("scale must be positive",)),
    ],
)
def test_edited_graphs(tmp_path, change, words):
    refused(edited(tmp_path, change, trained()), *words, read=read_graph)


def many_neurons(model):
    """A small file that claims 10**12 neurons and synapses everywhere, consistently."""
    for tensor in model.graph.initializer:
        tensor.dims[0] = HUGE
    for tensor in model.graph.sparse_initializer:
        tensor.dims[0] = tensor.dims[1] = tensor.values.dims[0] = tensor.indices.dims[0] = HUGE
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        value.type.tensor_type.shape.dim[1].dim_value = HUGE


def test_claims_allocate_nothing(tmp_path):
    path = edited(tmp_path, many_neurons)
    assert path.stat().st_size < 16_000
    tracemalloc.start()
    try:
        refused(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000


def test_every_prefix_is_refused(tmp_path):
    whole = program_bytes(example())
    path = tmp_path / "cut.onnx"
    for length in sorted({*range(0, len(whole), 17), *range(len(whole) - 60, len(whole))}):
        path.write_bytes(whole[:length])
        refused(path)


@pytest.mark.parametrize("network", [example(), trained()], ids=["program", "graph"])
def test_flipped_bits_are_refused_or_change_only_what_is_stored(tmp_path, network):
    """Whatever bit is wrong: an SnncError, or a network that is written just as it was read."""
    model = graph_model(network) if isinstance(network, Graph) else program_model(network)
    read, write = (read_graph, write_graph) if isinstance(network, Graph) else (read_program, write_program)
    whole = model.SerializeToString(deterministic=True)
    random = np.random.default_rng(5)
    path, again = tmp_path / "flipped.onnx", tmp_path / "again.onnx"
    accepted = 0
    for position in random.integers(0, len(whole), 700):
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
    assert accepted < 200  # stored numbers, names and descriptions


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


def test_model_without_data_has_the_same_shape():
    full, bare = program_model(example()), program_model(example(), data=False)
    for tensor in full.graph.initializer:
        tensor.ClearField("raw_data")
    for tensor in full.graph.sparse_initializer:
        tensor.values.ClearField("raw_data")
        tensor.indices.ClearField("raw_data")
    assert full == bare


def test_sign_modes_cover_those_of_the_ir():
    from toolchain.ir import SIGN_MODES

    assert set(onnx_model.MANTISSA_FORMATS) == set(SIGN_MODES)


def test_the_example_in_the_documentation(tmp_path, monkeypatch):
    """docs/formats.md runs program.onnx with nothing but onnxruntime and numpy."""
    pytest.importorskip("onnxruntime")
    text = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "build").mkdir()
    random = np.random.default_rng(2)
    weights = synapses("mixed", 8, random.integers(-40, 128, 12), 4, 3)
    program = Program(
        "digits",
        RateInput("input", 4, np.arange(4, dtype=np.int32)),
        (Compartments("out", 3, 4096, 1024, 300, np.zeros(3, np.int16)),),
        (IntegerConnection("w", "input", "out", weights),),
        16,
    )
    write_program(program, tmp_path / "build" / "program.onnx")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(code, names)
    samples = random.integers(0, 256, (50, 4)).astype(np.uint8)
    expected = reference.run(program, samples).decisions
    assert len(set(expected.tolist())) == 3
    assert names["decide"](samples).tolist() == expected.tolist()

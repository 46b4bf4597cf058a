"""A graph as a model.pt and back: equal in every bit, or refused with the name of what the format cannot say."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import nir
import numpy as np
import pytest
from hypothesis import given, settings

import hw_targets
import toolchain
from tests.small_graphs import network
from tests.strategies import FEATURES, graphs
from toolchain.backends import reference
from toolchain.cli import run
from toolchain.convert import differences
from toolchain.errors import SnncError
from toolchain.formats.onnx import write_graph as write_onnx
from toolchain.frontends import load
from toolchain.ir import Connection, Connectivity, Convolution, FloatSynapses, Graph, make_input
from toolchain.pipeline import LAST_PASS, Options, compile_graph

torch = pytest.importorskip("torch")
from toolchain.frontends.model_writer import model, write_graph  # noqa: E402
from toolchain.training.spiking import LIF, Readout  # noqa: E402

NETX = Path(__file__).parents[1] / "data" / "netx"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("model") / "model.pt"


def refusal(graph: Graph) -> str | None:
    """What the format has no word for, found by rules of its own; None where it has all."""
    order = [graph.input.name, *(p.name for p in graph.populations)]
    if graph.input.size != graph.input.sample_size:
        return "channels"
    for c in graph.connections:
        pattern = c.synapses.connectivity
        if order.index(c.source) > order.index(c.target):
            return "over several populations"
        if c.source == c.target and isinstance(pattern, Convolution):
            kept = tuple(((n - 1) // 2, n // 2) for n in pattern.size)
            if (pattern.stride, pattern.dilation, pattern.padding) != ((1, 1), (1, 1), kept):
                return "convolution in a loop"
    for p in graph.populations:
        if sum(c.source == c.target == p.name for c in graph.connections) > 1:
            return "several loops"
        if p is not graph.populations[-1] and not any(c.source == p.name != c.target for c in graph.connections):
            return "nothing reads"
    values = [getattr(p, name) for p in graph.populations for name in ("threshold", "current_decay", "voltage_decay")]
    if any(np.ndim(value) and np.ptp(value) == 0 for value in values):
        return "equal numbers"
    return None


@settings(max_examples=80)
@given(graph=graphs(wide=FEATURES - {"recurrent"}))
def test_written_and_read_is_equal(path, graph):
    check_round_trip(path, graph)


@settings(max_examples=60)
@given(graph=graphs(wide={"recurrent", "delay", "convolution", "readout", "subtract", "refractory"}))
def test_loops_are_equal_or_refused(path, graph):
    check_round_trip(path, graph)


def check_round_trip(path, graph):
    why = refusal(graph)
    if why is not None:
        with pytest.raises(SnncError, match=why):
            write_graph(graph, path)
        return
    write_graph(graph, path)
    loaded = load(path)
    assert list(differences(graph, loaded.graph)) == []
    assert loaded.diagnostics == ()


# --- other formats ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dense", "conv", "delays", "loops", "readout", "biases", "signs"])
def test_networks_of_lava_dl(tmp_path, name):
    source, target = NETX / f"{name}.net", tmp_path / "model.pt"
    assert run(["convert", str(source), str(target), "--steps", "24"]) == 0
    before, after = load(source, steps=24).graph, load(target).graph
    assert list(differences(before, after)) == []
    loihi = hw_targets.load("loihi")
    one, other = (compile_graph(graph, loihi, Options(), until=LAST_PASS) for graph in (before, after))
    assert one.program == other.program
    with np.load(NETX / f"{name}.npz") as recorded:
        trace = reference.run(other.program, recorded["inputs"][None])
        assert np.array_equal(trace.spikes[other.program.output.name][0], recorded["outputs"])


def test_there_and_back_gives_the_same_build(tmp_path, capsys):
    onnx, between, model_file = tmp_path / "graph.onnx", tmp_path / "graph.nir", tmp_path / "model.pt"
    write_onnx(network(weight_bits=8), onnx)
    assert run(["convert", str(onnx), str(between), "--dt", "0.001"]) == 0
    assert run(["convert", str(between), str(model_file)]) == 0
    assert "2 populations, 2 connections" in " ".join(capsys.readouterr().out.split())
    hashes = set()
    for source in (onnx, model_file):
        assert run(["compile", str(source), "--target", "loihi", "-o", str(tmp_path / source.suffix)]) == 0
        hashes.add(json.loads((tmp_path / source.suffix / "report.json").read_text())["build_hash"])
    assert len(hashes) == 1
    assert run(["convert", str(model_file), str(tmp_path / "again.pt")]) == 0
    assert (tmp_path / "again.pt").read_bytes() == model_file.read_bytes()


def test_loops_of_nir_in_any_order_of_its_edges(tmp_path):
    random = np.random.default_rng(0)
    into, back = (nir.Linear(random.normal(size=(4, n)).astype(np.float32)) for n in (3, 4))
    neurons = nir.LIF(tau=np.full(4, 2.0), r=np.ones(4), v_leak=np.zeros(4), v_threshold=np.ones(4))
    ends = {"in": nir.Input({"input": np.array([3])}), "out": nir.Output({"output": np.array([4])})}
    edges = [("in", "w"), ("w", "lif"), ("lif", "out")]
    loop = [("lif", "back"), ("back", "lif")]
    graphs = []
    for number, order in enumerate((edges + loop, loop + edges)):
        source, target = tmp_path / "loop.nir", tmp_path / f"{number}.pt"
        nir.write(source, nir.NIRGraph({**ends, "w": into, "lif": neurons, "back": back}, order))
        assert run(["convert", str(source), str(target), "--dt", "1"]) == 0
        graphs.append(load(target).graph)
    assert [c.name for c in graphs[0].connections] == ["w", "back"]
    assert list(differences(*graphs)) == []


def test_a_module_of_torch(path):
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.lif1 = torch.nn.Conv2d(1, 3, 3, padding=1), torch.nn.BatchNorm2d(3), LIF(2.0)
            self.pool, self.maximum = torch.nn.AvgPool2d(2), torch.nn.MaxPool2d(2)
            self.fc, self.lif2 = torch.nn.Linear(24, 8), LIF(2.0)
            self.map, self.conv2, self.out = torch.nn.Conv2d(2, 2, 2), torch.nn.Flatten(), Readout()

        def forward(self, x):
            x = self.lif1(self.norm(self.conv(x)))
            x = self.lif2(self.fc(torch.cat([self.pool(x), self.maximum(x)], 1).flatten(1)))
            return self.out(self.conv2(self.map(x.reshape(1, 2, 2, 2))))

    torch.manual_seed(0)
    graph = toolchain.from_torch(Net().eval(), torch.zeros(1, 1, 4, 4), steps=5).graph
    write_graph(graph, path)
    assert list(differences(graph, load(path).graph)) == []
    ops = {layer["op"] for layer in model(graph)["layers"]}
    assert ops == {"conv2d", "linear", "reshape", "flatten", "add", "bias", "neuron"}


# --- what the format cannot say --------------------------------------------------------------------------------------


def changed(**fields) -> Graph:
    """A small network, other in some field of `input`, fc1, or its first connection."""
    graph = network()
    parts = {"input": graph.input, "population": graph.populations[0], "connection": graph.connections[0]}
    for name, own in fields.items():
        parts[name] = dataclasses.replace(parts[name], **own)
    return dataclasses.replace(
        graph,
        input=parts["input"],
        populations=(parts["population"], graph.populations[1]),
        connections=(parts["connection"], graph.connections[1]),
    )


def loop(name: str, source: str, target: str, sources: int, targets: int, delay: int = 3) -> Connection:
    pattern = Connectivity.from_mask(np.ones((targets, sources), bool))
    return Connection(name, source, target, FloatSynapses(pattern, np.ones(len(pattern.targets), np.float32)), None)


def with_loops(*names: tuple[str, str, str, int, int], last: bool = True) -> Graph:
    graph = network()
    loops = tuple(dataclasses.replace(loop(*name), delay=3) for name in names)
    own, rest = graph.connections[:1], graph.connections[1:]
    return dataclasses.replace(graph, connections=(*own, *loops, *rest) if last else (*loops, *own, *rest))


def convolved_loop(**geometry) -> Graph:
    mask = np.ones((1, 1, 3, 3), bool)
    pattern, _ = Convolution.of((1, 5, 6), mask, **geometry)
    graph = with_loops(("back", "fc1", "fc1", 30, 30))
    back = dataclasses.replace(graph.connections[1], synapses=FloatSynapses(pattern, np.ones(9, np.float32)))
    return dataclasses.replace(graph, connections=(graph.connections[0], back, graph.connections[2]))


def wide() -> Graph:
    graph = network(sizes=(2, 2))
    n = 25_000
    pattern = Connectivity(n, n, np.arange(n + 1, dtype=np.int64), np.arange(n, dtype=np.int32))
    lif = dataclasses.replace(graph.populations[0], size=n, bias=np.zeros(n, np.float32))
    entry = make_input("rate", "input", n)
    synapses = FloatSynapses(pattern, np.ones(n, np.float32))
    connection = dataclasses.replace(graph.connections[0], synapses=synapses)
    return dataclasses.replace(graph, input=entry, populations=(lif,), connections=(connection,))


REFUSED = {
    "part of a sample": (changed(input={"sample_size": 50}), ("input.channels", "40 of 50")),
    "offset": (changed(input={"offset": 0.5}), ("input.offset", "current")),
    "no name": (dataclasses.replace(network(), name=""), ("empty name",)),
    "long delay": (changed(connection={"delay": 1 << 17}), ("fc1.weight.delay", "65536")),
    "half a grid": (changed(connection={"weight_step": 0.5}), ("fc1.weight.weight_bits", "both or none")),
    "bits": (changed(connection={"weight_step": 0.5, "weight_bits": 9}), ("fc1.weight.weight_bits", "1 to 8")),
    "equal": (changed(population={"threshold": np.ones(30)}), ("fc1.threshold", "30 times 1")),
    "two loops": (
        with_loops(("a", "fc1", "fc1", 30, 30), ("b", "fc1", "fc1", 30, 30)),
        ("fc1.recurrent", "several loops", "a, b"),
    ),
    "a long loop": (with_loops(("back", "fc2", "fc1", 10, 30)), ("back.source", "over several populations")),
    "order": (with_loops(("back", "fc1", "fc1", 30, 30), last=False), ("small.connections", "its loop last")),
    "padding": (convolved_loop(padding=((2, 0), (1, 1))), ("back.padding", "loop")),
    "dilation": (convolved_loop(padding=((2, 2), (2, 2)), dilation=(2, 2)), ("back.dilation", "(2, 2)")),
    "dead end": (
        dataclasses.replace(
            network(sizes=(4, 4, 4)),
            connections=(
                network(sizes=(4, 4, 4)).connections[0],
                dataclasses.replace(network(sizes=(4, 4, 4)).connections[1], source="input"),
            ),
        ),
        ("fc1", "nothing reads", "take them out"),
    ),
    "size": (wide(), ("fc1.weight.weight", "every pair", ".onnx")),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_format_cannot_say_is_refused(tmp_path, case):
    graph, words = REFUSED[case]
    with pytest.raises(SnncError) as refused:
        write_graph(graph, tmp_path / "model.pt")
    for word in words:
        assert word in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_loops_that_the_format_can_say(path):
    for graph in (with_loops(("back", "fc1", "fc1", 30, 30)), convolved_loop(padding=((1, 1), (1, 1)))):
        write_graph(graph, path)
        assert list(differences(graph, load(path).graph)) == []


# --- entries that only converted files have --------------------------------------------------------------------------


def test_a_file_without_names_of_our_own_is_opened_as_plain_data(path):
    write_graph(network(), path)
    content = torch.load(path, weights_only=True)
    assert set(content) == {"format", "version", "name", "versions", "metadata", "steps", "input", "layers"}


DAMAGED = {
    "metadata": (lambda m: m["metadata"].update(seed=3), ("metadata.seed", "must be text")),
    "no provenance": (lambda m: m.pop("metadata"), ("seed, recipe, metrics",)),
    "name of the input": (lambda m: m["input"].update(name=""), ("input.name", "must be text")),
    "bias": (lambda m: m["layers"][1].update(bias=torch.zeros(3)), ("'fc1.bias'.bias", "(30,)")),
    "no number": (lambda m: m["layers"][1].update(bias=torch.full((30,), torch.nan)), ("'fc1.bias'.bias", "NaN")),
    "exponent alone": (lambda m: m["layers"][0].update(weight_exponent=1), ("'fc1.weight'.weight_exponent", "step")),
    "exponent": (
        lambda m: m["layers"][0].update(weight_exponent=25, weight_step=0.5, weight_bits=8),
        ("'fc1.weight'.weight_exponent", "at most 24"),
    ),
    "shape": (
        lambda m: m["layers"][0].update({"op": "reshape", "shape": [2, 20], **NO_WEIGHTS}),
        ("'fc1.weight'.shape", "[channels, height, width]"),
    ),
}
NO_WEIGHTS = dict.fromkeys(("weight", "mask", "bias", "weight_step", "weight_bits"))


@pytest.mark.parametrize("case", DAMAGED)
def test_entries_are_checked(path, case):
    change, words = DAMAGED[case]
    content = model(network())
    change(content)
    for layer in content["layers"]:
        for key in [key for key, value in layer.items() if layer["op"] == "reshape" and key in NO_WEIGHTS]:
            del layer[key]
    torch.save(content, path)
    with pytest.raises(SnncError) as refused:
        load(path)
    for word in words:
        assert word in str(refused.value)


@pytest.mark.parametrize("padding", [[[1, 0], [0]], [[1, 0]], [[1, 0], [0, -1]], [[1, 0], 2], [[1.5, 0], [0, 0]]])
def test_padding_of_each_side_is_checked(path, padding):
    content = model(convolved_loop(padding=((1, 1), (1, 1))))
    weights = {"weight": torch.ones(1, 1, 3, 3), "mask": torch.ones(1, 1, 3, 3, dtype=torch.bool), "bias": None}
    geometry = {"stride": [1, 1], "padding": padding, "dilation": [1, 1], "groups": 1}
    layer = {"name": "c", "op": "conv2d", "inputs": ["input"], "weight_step": None, "weight_bits": None}
    content["layers"] = [{**layer, **weights, **geometry}]
    content["input"]["shape"] = [1, 5, 8]
    torch.save(content, path)
    with pytest.raises(SnncError, match=r"'c'\.padding"):
        load(path)

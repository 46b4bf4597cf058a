"""model.pt of version 2: every kind of layer is read as what it is, and every entry is checked."""

from __future__ import annotations

import io

import numpy as np
import pytest

from toolchain.backends import physical
from toolchain.errors import SnncError
from toolchain.frontends import layers, load
from toolchain.ir import Convolution

torch = pytest.importorskip("torch")
from stepwise import simulate  # noqa: E402
from test_checkpoint import NAN, change, refused, saved  # noqa: E402

RANDOM = np.random.default_rng(5)


def weights(*shape: int, bias: bool = False) -> dict:
    weight = (RANDOM.integers(-8, 9, shape) / 8).astype(np.float32)
    mask = RANDOM.random(shape) < 0.7
    mask.flat[0] = True
    return {
        "weight": torch.from_numpy(weight * mask),
        "mask": torch.from_numpy(mask),
        "bias": torch.arange(shape[0], dtype=torch.float32) / 8 if bias else None,
        "weight_step": None,
        "weight_bits": None,
    }


def neuron(**changes) -> dict:
    plain = {"threshold": 1.0, "gain": 0.5, "current_decay": 1.0, "voltage_decay": 0.5}
    return {"op": "neuron", **plain, "reset": "zero", "refractory": 0, "recurrent": None} | changes


def recurrent(name: str, *shape: int, delay: int = 1) -> dict:
    entry = weights(*shape)
    del entry["bias"]
    return {"name": name, **entry, "delay": delay}


def model(**changes) -> dict:
    """Every kind of layer, over an input of 2 x 6 x 6."""
    conv = {"stride": [1, 1], "padding": [1, 1], "dilation": [1, 1], "groups": 1}
    window = {"kernel": [2, 2], "stride": [2, 2], "padding": [0, 0]}
    each = torch.tensor([0.5, 1.0, 1.5, 2.0], dtype=torch.float64).reshape(4, 1, 1)
    entries = [
        ("conv1", ["input"], {"op": "conv2d", **weights(4, 2, 3, 3), **conv}),
        ("norm", ["conv1"], {"op": "batch_norm", "scale": torch.tensor([1.0, 2, 0.5, -1]), "shift": torch.ones(4) / 4}),
        ("lif1", ["norm"], neuron(threshold=each, recurrent=recurrent("lif1.back", 4, 4, 3, 3, delay=2))),
        ("max", ["lif1"], {"op": "max_pool", **window}),
        ("avg", ["lif1"], {"op": "avg_pool", **window}),
        ("sum", ["lif1"], {"op": "sum_pool", **window}),
        ("late", ["max"], {"op": "delay", "steps": 1}),
        ("both", ["late", "avg"], {"op": "add"}),
        ("wide", ["both", "sum"], {"op": "concat"}),
        ("conv2", ["wide"], {"op": "conv2d", **weights(4, 4, 3, 3, bias=True), **conv, "stride": [2, 1], "groups": 2}),
        ("lif2", ["conv2"], neuron(reset="subtract")),
        ("flat", ["lif2"], {"op": "flatten"}),
        ("fc", ["flat"], {"op": "linear", **weights(5, 24, bias=True)}),
        ("lif3", ["fc"], neuron(refractory=2, recurrent=recurrent("lif3.back", 5, 5))),
        ("out", ["lif3"], {"op": "linear", **weights(3, 5)}),
        ("read", ["out"], neuron(reset="none", voltage_decay=0.0)),
    ]
    content = {
        "format": "snnc-model",
        "version": 2,
        "name": "everything",
        "seed": 7,
        "recipe": {"name": "everything", "data": {"dataset": "digits"}},
        "versions": {"snnc": "0.2.0"},
        "steps": 6,
        "input": {"shape": [2, 6, 6], "coding": "rate", "threshold": 254, "scale": 1.0, "offset": 0.0},
        "layers": [{"name": name, "inputs": inputs, **entry} for name, inputs, entry in entries],
        "metrics": {"accuracy": 0.5},
    }
    return {**content, **changes}


def nodes() -> list[layers.Node]:
    """The same layers, written down without a reader."""

    def array(value):
        return value.numpy() if isinstance(value, torch.Tensor) else value

    made = []
    for entry in model_once["layers"]:
        fields = {key: array(value) for key, value in entry.items() if key not in ("op", "padding")}
        fields["inputs"] = tuple(fields["inputs"])
        pads = entry.get("padding", [0, 0])
        if entry["op"] == "conv2d":
            fields["padding"] = tuple((p, p) for p in pads)
        elif "pool" in entry["op"]:
            fields["padding"] = tuple(pads)
        for key in ("stride", "dilation", "kernel"):
            if key in fields:
                fields[key] = tuple(fields[key])
        back = fields.get("recurrent")
        if back is not None:
            given = {key: array(back[key]) for key in ("name", "weight", "mask")}
            kind = layers.Conv2d if given["weight"].ndim == 4 else layers.Linear
            own = {"padding": ((1, 1), (1, 1))} if kind is layers.Conv2d else {}
            fields["recurrent"] = layers.Recurrence(kind(inputs=(), **given, **own), back["delay"])
        made.append(KINDS[entry["op"]](**fields))
    return made


KINDS = {
    "conv2d": layers.Conv2d,
    "batch_norm": layers.BatchNorm,
    "neuron": layers.Neuron,
    "max_pool": layers.MaxPool,
    "avg_pool": layers.AvgPool,
    "sum_pool": layers.SumPool,
    "delay": layers.Delay,
    "add": layers.Add,
    "concat": layers.Concat,
    "flatten": layers.Flatten,
    "linear": layers.Linear,
}
model_once = model()


def test_every_kind_of_layer(tmp_path) -> None:
    loaded = load(saved(tmp_path, model_once))
    graph = loaded.graph
    assert loaded.diagnostics == ()
    assert loaded.recipe == model_once["recipe"]
    assert [p.name for p in graph.populations] == ["lif1", "max", "lif2", "lif3", "read"]
    assert [(c.name, c.source, c.target, c.delay) for c in graph.connections] == [
        ("conv1", "input", "lif1", 0),
        ("lif1.back", "lif1", "lif1", 2),
        ("max.any", "lif1", "max", 0),
        ("conv2", "max", "lif2", 1),
        ("conv2[2]", "lif1", "lif2", 0),
        ("conv2[3]", "lif1", "lif2", 0),
        ("fc", "lif2", "lif3", 0),
        ("lif3.back", "lif3", "lif3", 1),
        ("out", "lif3", "read", 0),
    ]
    assert all(isinstance(c.synapses.connectivity, Convolution) for c in graph.connections[:6])
    samples = np.random.default_rng(0).integers(0, 256, (4, 72)).astype(np.uint8)
    expected = simulate(nodes(), graph.input, (2, 6, 6), 6, samples)
    trace = physical.run(graph, samples)
    for population in graph.populations[:-1]:
        spikes = expected[population.name].reshape(6, 4, -1).transpose(1, 0, 2)
        assert np.array_equal(trace.spikes[population.name], spikes), population.name
    np.testing.assert_allclose(trace.potentials["read"], expected["read"][-1], rtol=0, atol=1e-9)
    assert graph.metadata["dataset"] == "digits"
    assert graph.metadata["trained.accuracy"] == "0.5"


def test_flat_inputs_and_bias_with_a_decaying_current(tmp_path) -> None:
    """In a file a bias enters the membrane potential, whatever the current does."""
    fc = {"name": "fc", "op": "linear", "inputs": ["input"], **weights(2, 3, bias=True)}
    cells = {"name": "cells", "inputs": ["fc"], **neuron(current_decay=0.5)}
    content = model(
        layers=[fc, cells], input={"shape": [3], "coding": "current", "scale": 0.5, "offset": -0.25, "shift": 2}
    )
    graph = load(saved(tmp_path, content)).graph
    assert (graph.input.size, graph.input.offset, graph.input.parameters()) == (3, -0.25, {"shift": 2})
    assert np.array_equal(graph.populations[0].bias, [0, 0.125])


def test_grids_and_weights_outside_the_mask(tmp_path) -> None:
    content = model()
    content["layers"][0].update(weight_step=0.125, weight_bits=5)
    content["layers"][9].update(weight_step=0.125, weight_bits=5)
    content["layers"][12]["weight"][~content["layers"][12]["mask"]] = 3
    content["layers"][13]["recurrent"]["weight"][~content["layers"][13]["recurrent"]["mask"]] = 2
    loaded = load(saved(tmp_path, content))
    steps = {c.name: c.weight_step for c in loaded.graph.connections}
    assert (steps["conv1"], steps["conv2"], steps["conv2[2]"], steps["conv2[3]"]) == (None, 0.125, 0.125 / 4, 0.125)
    assert [(d.code, d.where) for d in loaded.diagnostics] == [
        ("MDL001", "fc"),
        ("MDL001", "lif3.back"),
        ("MDL004", "conv1"),
    ]


def place(number: int) -> str:
    return f"layers[{number}] '{model_once['layers'][number]['name']}'"


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("layers", 0, "op"), "conv3d", (f"{place(0)}.op", "unknown op", "did you mean 'conv2d'?")),
        (("layers", 0, "inputs"), "input", (f"{place(0)}.inputs", "a list of names")),
        (("layers", 0, "inputs"), [1], (f"{place(0)}.inputs", "a list of names")),
        (("layers", 0, "inputs"), [], (f"{place(0)}.inputs", "a wrong number of inputs", "allowed: 1")),
        (("layers", 7, "inputs"), ["late"], (f"{place(7)}.inputs", "a wrong number of inputs", "2 or more")),
        (("layers", 7, "inputs"), ["late"] * 1001, (f"{place(7)}.inputs", "1001")),
        (("layers", 0, "inputs"), ["lif1"], (place(0), "reads 'lif1'", "cycle without delay")),
        (("layers", 2, "inputs"), ["lif1"], (place(2), "reads 'lif1'", "cycle without delay")),
        (("layers", 0, "name"), "", ("layers[0]", "must be text")),
        (("layers", 1, "name"), "conv1", ("layers[1] 'conv1'", "a name stands twice")),
        (("layers", 1, "name"), "input", ("layers[1] 'input'", "a name stands twice")),
        (("layers", 0), 3, ("layers[0]", "must be a dictionary")),
        (("layers", 0, "weight"), torch.zeros(4, 2), (f"{place(0)}.weight", "4 dimensions")),
        (("layers", 0, "weight"), torch.zeros(4, 2, 3, 3).double(), (f"{place(0)}.weight", "float64")),
        (("layers", 0, "weight"), torch.zeros(4, 2, 3, 2), (f"{place(0)}.mask", "differ in shape")),
        (("layers", 0, "mask"), torch.zeros(4, 2, 3, 3), (f"{place(0)}.mask", "bool")),
        (("layers", 9, "bias"), torch.zeros(5), (f"{place(9)}.bias", "one bias for each output channel")),
        (("layers", 9, "bias"), torch.tensor([0, 0, NAN, 0]), (f"{place(9)}.bias[2]", "NaN")),
        (("layers", 12, "bias"), torch.zeros(4), (f"{place(12)}.bias", "one bias for each neuron")),
        (("layers", 0, "stride"), 1, (f"{place(0)}.stride", "two whole numbers")),
        (("layers", 0, "stride"), [1, 0], (f"{place(0)}.stride", "at least 1")),
        (("layers", 0, "stride"), [1, 1, 1], (f"{place(0)}.stride", "two whole numbers")),
        (("layers", 0, "dilation"), [9, 1], (place(0), "the kernel is larger than its input")),
        (("layers", 0, "padding"), [0, -1], (f"{place(0)}.padding", "at least 0")),
        (("layers", 0, "padding"), [1 << 17, 0], (f"{place(0)}.padding", "at most 65536")),
        (("layers", 0, "padding"), [1 << 16, 1 << 16], (place(0), "larger than any chip")),
        (("layers", 0, "groups"), 3, (place(0), "does not match the channels")),
        (("layers", 0, "groups"), 0, (f"{place(0)}.groups", "at least 1")),
        (("layers", 0, "colour"), 0, (f"{place(0)}.colour", "unknown entry")),
        (("layers", 1, "scale"), torch.ones(3), (f"{place(1)}.scale", "one number for each channel")),
        (("layers", 1, "scale"), torch.ones(4, 1), (f"{place(1)}.scale", "1 dimension")),
        (("layers", 1, "shift"), torch.tensor([0, 0, NAN, 0]), (f"{place(1)}.shift[2]", "NaN")),
        (("layers", 3, "kernel"), [7, 1], (place(3), "the kernel is larger than its input")),
        (("layers", 3, "kernel"), 2, (f"{place(3)}.kernel", "two whole numbers")),
        (("layers", 3, "padding"), [2, 0], (f"{place(3)}.padding", "half a window")),
        (("layers", 3, "inputs"), ["norm"], (place(3), "max pooling needs spikes")),
        (("layers", 6, "steps"), -1, (f"{place(6)}.steps", "at least 0")),
        (("layers", 6, "inputs"), ["norm"], (place(6), "a bias cannot be delayed")),
        (("layers", 7, "inputs"), ["late", "norm"], (place(7), "a sum of unequal shapes")),
        (("layers", 8, "inputs"), ["late", "norm"], (place(8), "maps of unequal size")),
        (("layers", 12, "inputs"), ["lif2"], (place(12), "do not chain", "flatten the map")),
        (("layers", 2, "threshold"), 0, (f"{place(2)}.threshold", "no meaning", "more than 0")),
        (("layers", 2, "threshold"), NAN, (f"{place(2)}.threshold", "finite")),
        (("layers", 2, "threshold"), "1", (f"{place(2)}.threshold", "finite")),
        (("layers", 2, "threshold"), torch.ones(4), (f"{place(2)}.threshold", "float32", "float64")),
        (("layers", 2, "threshold"), torch.ones(3, 1, 1).double(), (f"{place(2)}.threshold", "do not fit the neurons")),
        (("layers", 2, "threshold"), torch.ones(1, 1, 1, 1).double(), (f"{place(2)}.threshold", "3 dimensions")),
        (("layers", 2, "threshold"), -torch.ones(4, 1, 1).double(), (f"{place(2)}.threshold", "no meaning")),
        (("layers", 2, "gain"), -1.0, (f"{place(2)}.gain", "no meaning")),
        (("layers", 2, "current_decay"), 0.0, (f"{place(2)}.current_decay", "at most 1")),
        (("layers", 2, "voltage_decay"), 1.01, (f"{place(2)}.voltage_decay", "0 to 1")),
        (("layers", 2, "reset"), "soft", (f"{place(2)}.reset", "unknown reset", "subtract")),
        (("layers", 10, "reset"), "none", ("only the last population can be a readout", "lif2")),
        (("layers", 2, "refractory"), 63, (f"{place(2)}.refractory", "at most 62")),
        (("layers", 10, "refractory"), 1, (f"{place(10)}.refractory", "needs a reset to zero")),
        (("layers", 2, "recurrent"), 3, (f"{place(2)}.recurrent", "must be a dictionary")),
        (("layers", 2, "recurrent", "delay"), 0, (f"{place(2)}.recurrent.delay", "a cycle without delay")),
        (("layers", 2, "recurrent", "delay"), -1, (f"{place(2)}.recurrent.delay", "a cycle without delay")),
        (("layers", 2, "recurrent", "delay"), 1.5, (f"{place(2)}.recurrent.delay", "whole number")),
        (("layers", 2, "recurrent", "stride"), [1, 1], (f"{place(2)}.recurrent.stride", "unknown entry")),
        (("layers", 2, "recurrent", "weight"), 3, (f"{place(2)}.recurrent.weight", "must be a tensor")),
        (("layers", 2, "recurrent", "name"), None, (f"{place(2)}.recurrent.name", "must be text")),
        (
            ("layers", 13, "recurrent"),
            recurrent("x", 4, 5),
            (f"{place(13)}.recurrent", "from the neurons to themselves"),
        ),
        (("layers", 13, "recurrent"), recurrent("x", 5, 4), (f"{place(13)}.recurrent", "do not chain")),
        (("layers", 13, "recurrent"), recurrent("x", 5, 5, 1, 1), (f"{place(13)}.recurrent", "reads a map")),
        (("layers", 13, "refractory"), True, (f"{place(13)}.refractory", "whole number")),
        (("input", "shape"), 3, ("input.shape", "must be [n] or [channels, height, width]")),
        (("input", "shape"), [2, 36], ("input.shape", "[channels, height, width]")),
        (("input", "shape"), [2, 6, 0], ("input.shape", "at least 1")),
        (("input", "shape"), [1 << 20, 1 << 20, 1], ("input.shape", "the shape is too large")),
        (("input", "shape"), [3, 6, 6], (place(0), "does not match the channels")),
        (("input", "size"), 72, ("unknown entry", "input.size")),
        (("steps",), 0, ("steps", "at least 1")),
    ],
)
def test_entries_without_meaning(tmp_path, path, value, words) -> None:
    content = model()
    change(content, path, value)
    refused(saved(tmp_path, content), *words)


@pytest.mark.parametrize("number", range(len(model_once["layers"])))
def test_missing_entries_are_named(tmp_path, number: int) -> None:
    for key in model_once["layers"][number]:
        content = model()
        del content["layers"][number][key]
        refused(saved(tmp_path, content), "1 entries are missing", f"no {key}", f"layers[{number}]")


def test_an_end_that_is_no_population(tmp_path) -> None:
    content = model()
    refused(
        saved(tmp_path, {**content, "layers": content["layers"][:-1]}), "does not end in neurons", place(14), "Readout"
    )
    refused(saved(tmp_path, {**content, "layers": content["layers"][:1]}), "the network has no neurons", "layers")
    loose = {"name": "loose", "inputs": ["lif1"], "op": "flatten"}
    layers = [*content["layers"][:5], loose, *content["layers"][5:]]
    refused(saved(tmp_path, {**content, "layers": layers}), "no layer reads", "layers[5] 'loose'")


def test_tensors_that_claim_more_than_the_file_holds(tmp_path) -> None:
    content = model()
    content["layers"][12]["weight"] = torch.zeros(1, 1).expand(40_000, 24)
    content["layers"][12]["mask"] = torch.ones(1, 1, dtype=torch.bool).expand(40_000, 24)
    refused(saved(tmp_path, content), "claim more than the file holds", f"{place(12)}.weight")
    content = model()
    content["layers"][2]["threshold"] = torch.ones(1, 1, 1, dtype=torch.float64).expand(4, 600, 600)
    refused(saved(tmp_path, content), "claim more than the file holds", f"{place(2)}.threshold")


def test_small_files_that_ask_for_large_networks(tmp_path) -> None:
    """What is computed is bounded before it is allocated, however little the file holds."""
    content = model(input={"shape": [1, 2048, 2048], "coding": "rate", "threshold": 1, "scale": 1.0, "offset": 0.0})
    window = {"kernel": [1, 1], "stride": [1, 1], "padding": [0, 0]}
    pools = [{"name": "0", "op": "sum_pool", "inputs": ["input"], **window}]
    pools += [{"name": f"{k}", "op": "sum_pool", "inputs": [f"{k - 1}"], **window} for k in range(1, 70)]
    refused(saved(tmp_path, {**content, "layers": pools}), "larger than any chip")
    sums = [{"name": "0", "op": "add", "inputs": ["input", "input"]}]
    sums += [{"name": f"{k}", "op": "add", "inputs": [f"{k - 1}"] * 2} for k in range(1, 60)]
    refused(saved(tmp_path, {**model(), "layers": sums}), "too many paths")


def test_cut_and_damaged_files_never_crash(tmp_path) -> None:
    data = io.BytesIO()
    torch.save(model_once, data)
    whole = data.getvalue()
    path = tmp_path / "model.pt"
    for length in np.linspace(1, len(whole) - 1, 20).astype(int):
        path.write_bytes(whole[:length])
        refused(path)
    random = np.random.default_rng(3)
    for position in random.integers(0, len(whole), 100):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << random.integers(0, 8)
        path.write_bytes(flipped)
        try:
            loaded = load(path)
        except SnncError:
            continue
        assert loaded.graph.name == "everything"

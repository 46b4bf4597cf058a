"""model.pt: what is read, what is refused and with which words, and that nothing in a file ever runs."""

import copy
import io
import os
import pickle
import struct
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

from toolchain.errors import SnncError
from toolchain.frontends import FRONTENDS, load
from toolchain.ir import RateInput

torch = pytest.importorskip("torch")


def model(**changes):
    """A small model of two layers, 5 -> 4 -> 3."""
    random = np.random.default_rng(1)

    def layer(name, n_in, n_out, bias):
        mask = random.random((n_out, n_in)) < 0.6
        mask[0, 0] = True
        weight = np.where(mask, random.normal(size=mask.shape), 0).astype(np.float32)
        return {
            "name": name,
            "weight": torch.from_numpy(weight),
            "mask": torch.from_numpy(mask),
            "bias": torch.arange(n_out, dtype=torch.float32) if bias else None,
            "weight_step": None,
            "weight_bits": None,
            "neuron": {"kind": "lif", "tau": 2.0, "threshold": 1.0, "reset": "zero", "compare": ">"},
        }

    content = {
        "format": "snnc-model",
        "version": 1,
        "name": "small",
        "seed": 7,
        "recipe": {"name": "small", "train": {"epochs": 3}},
        "versions": {"snnc": "0.1.0", "torch": "2.9", "python": "3.11"},
        "steps": 8,
        "input": {"size": 5, "coding": "rate", "threshold": 254, "scale": 1.0, "offset": 0.0},
        "layers": [layer("fc1", 5, 4, True), layer("fc2", 4, 3, False)],
        "metrics": {"accuracy": 0.5, "connectivity": 0.6},
    }
    content.update(changes)
    return content


def saved(tmp_path: Path, content, name="model.pt") -> Path:
    path = tmp_path / name
    torch.save(content, path)
    return path


def refused(path, *words: str, trust: bool = False) -> SnncError:
    with pytest.raises(SnncError) as caught:
        load(path, trust=trust)
    text = str(caught.value)
    for word in words:
        assert word in text, text
    return caught.value


def test_what_is_read(tmp_path):
    content = model()
    loaded = load(saved(tmp_path, content))
    graph = loaded.graph
    assert loaded.diagnostics == ()
    assert loaded.recipe == content["recipe"]
    assert (graph.name, graph.steps) == ("small", 8)
    assert graph.input == RateInput("input", 5, np.arange(5, dtype=np.int32), threshold=254)
    assert [p.name for p in graph.populations] == ["fc1", "fc2"]
    assert [(c.name, c.source, c.target) for c in graph.connections] == [
        ("fc1.weight", "input", "fc1"),
        ("fc2.weight", "fc1", "fc2"),
    ]
    for lif, c, layer in zip(graph.populations, graph.connections, content["layers"], strict=True):
        assert (lif.gain, lif.current_decay, lif.voltage_decay, lif.threshold) == (0.5, 1.0, 0.5, 1.0)
        assert np.array_equal(c.synapses.connectivity.dense(c.synapses.weights), layer["weight"].numpy())
        assert c.synapses.connectivity.n_synapses == int(layer["mask"].sum())
    assert np.array_equal(graph.populations[0].bias, [0, 1, 2, 3])
    assert np.array_equal(graph.populations[1].bias, [0, 0, 0])
    assert graph.metadata["seed"] == "7"
    assert graph.metadata["trained.accuracy"] == "0.5"
    assert graph.metadata["trained_with.snnc"] == "0.1.0"


def test_grid_of_training_is_kept(tmp_path):
    content = model()
    content["layers"][0].update(weight_step=0.25, weight_bits=6)
    first, second = load(saved(tmp_path, content)).graph.connections
    assert (first.weight_step, first.weight_bits) == (0.25, 6)
    assert (second.weight_step, second.weight_bits) == (None, None)


@pytest.mark.parametrize(
    ("coding", "own"),
    [
        ("graded", {}),
        ("graded", {"payload_bits": 4}),
        ("current", {"shift": 3}),
        ("current", {}),
        ("rate", {"threshold": 100}),
        ("spikes", {}),
    ],
)
def test_codings(tmp_path, coding, own):
    offset = -0.5 if coding == "current" else 0.0
    entry = {"size": 5, "coding": coding, "scale": 0.01, "offset": offset, **own}
    read = load(saved(tmp_path, model(input=entry))).graph.input
    assert (read.coding, read.scale, read.offset) == (coding, 0.01, offset)
    default = {"graded": {"payload_bits": 8}, "current": {"shift": 0}, "rate": {}, "spikes": {}}
    assert read.parameters() == (own or default[coding])


def test_a_weight_of_zero_is_a_synapse_where_the_mask_is_set(tmp_path):
    content = model()
    content["layers"][0]["weight"].zero_()
    synapses = load(saved(tmp_path, content)).graph.connections[0].synapses
    assert synapses.connectivity.n_synapses == int(content["layers"][0]["mask"].sum())
    assert not synapses.weights.any()


def test_weights_outside_the_mask_are_ignored_and_counted(tmp_path):
    content = model()
    clear = ~content["layers"][1]["mask"]
    content["layers"][1]["weight"][clear] = -2.5
    loaded = load(saved(tmp_path, content))
    (diagnostic,) = loaded.diagnostics
    assert (diagnostic.code, diagnostic.where, diagnostic.count) == ("MDL001", "fc2", int(clear.sum()))
    assert "2.5" in diagnostic.effect
    assert np.abs(loaded.graph.connections[1].synapses.weights).max() != 2.5


def test_unknown_entry_at_the_top_is_reported(tmp_path):
    (diagnostic,) = load(saved(tmp_path, model(colour="red"))).diagnostics
    assert (diagnostic.code, diagnostic.count) == ("MDL002", 1)
    assert "colour" in diagnostic.message


def test_folder_of_training(tmp_path):
    path = saved(tmp_path, model())
    assert load(path.parent).graph.name == "small"
    refused(tmp_path / "elsewhere", "no such file")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "holds no model.pt")


def test_suffixes(tmp_path):
    path = tmp_path / "model.pth5"
    path.touch()
    refused(path, "unknown kind of model file", *FRONTENDS)


# Files that are no model.


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "the file is empty"),
        (b"hello, this is text", "not a checkpoint"),
        (b"PK\x03\x04 and then nothing", "cut off"),
        (pickle.dumps({"format": "snnc-model"}), "not a checkpoint"),
    ],
)
def test_no_checkpoint(tmp_path, data, words):
    path = tmp_path / "model.pt"
    path.write_bytes(data)
    refused(path, words, str(path))


def test_archives_that_are_no_checkpoint(tmp_path):
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    refused(path, "the archive is not a checkpoint")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 1_000_000)
    refused(path, "unpacks to more than it holds")


def test_torchscript(tmp_path):
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"")
        archive.writestr("archive/constants.pkl", b"")
    refused(path, "TorchScript")


class Trap:
    """Unpickling it writes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (os.mkdir, (self.path,))


def test_nothing_is_executed_without_trust(tmp_path):
    trap = tmp_path / "sprung"
    path = saved(tmp_path, {**model(), "recipe": Trap(trap)})
    refused(path, "runs code", "mkdir", "--trust")
    assert not trap.exists()
    # A pickle without an archive is never unpickled, trusted or not.
    path.write_bytes(pickle.dumps(Trap(trap)))
    refused(path, "not a checkpoint", trust=True)
    assert not trap.exists()


def test_trust_runs_the_code_and_says_so(tmp_path):
    trap = tmp_path / "sprung"
    path = saved(tmp_path, {**model(), "extra": Trap(trap)})
    loaded = load(path, trust=True)
    assert trap.is_dir()
    executed = loaded.diagnostics[0]
    assert (executed.code, executed.where) == ("MDL003", str(path))
    assert "mkdir" in executed.message
    refused(path, "own code failed", trust=True)  # the folder exists now


def test_trust_runs_nothing_that_is_not_needed(tmp_path):
    assert load(saved(tmp_path, model()), trust=True).diagnostics == ()


def test_pickled_module(tmp_path):
    path = saved(tmp_path, torch.nn.Linear(3, 2))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        refused(path, "runs code", "torch.nn.modules.linear.Linear", "--trust")
        refused(path, "not a model of snnc", "Linear", trust=True)
    assert [str(w.message) for w in seen] == []


def test_other_dictionaries(tmp_path):
    refused(saved(tmp_path, {"fc1.weight": torch.zeros(2, 2)}), "not a model of snnc")
    refused(saved(tmp_path, {"format": "snnc-checkpoint"}), "a training checkpoint of snnc")
    refused(saved(tmp_path, torch.zeros(3)), "a Tensor")


def test_newer_version(tmp_path):
    content = model(version=3, versions={"snnc": "9.1"})
    refused(saved(tmp_path, content), "newer snnc (9.1)", "update snnc")


def test_missing_entries_are_named(tmp_path):
    content = model()
    del content["metrics"], content["steps"]
    refused(saved(tmp_path, content), "2 entries are missing", "steps, metrics")
    content = model()
    del content["layers"][1]["mask"]
    refused(saved(tmp_path, content), "no mask", "layers[1]")
    content = model()
    del content["input"]["threshold"]
    refused(saved(tmp_path, content), "no threshold", "input")
    content = model()
    del content["layers"][0]["neuron"]["tau"]
    refused(saved(tmp_path, content), "no tau", "layers[0] 'fc1'.neuron")


def change(content, path, value):
    *inner, last = path
    for key in inner:
        content = content[key]
    content[last] = value


NAN = float("nan")


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("layers", 0, "neuron", "kind"), "izhikevich", ("layers[0] 'fc1'.neuron.kind", "'izhikevich'", "'lif'")),
        (("layers", 1, "neuron", "reset"), "subtract", ("layers[1] 'fc2'.neuron.reset", "'zero'", "in silence")),
        (("layers", 0, "neuron", "compare"), ">=", ("layers[0] 'fc1'.neuron.compare", "'>'")),
        (("layers", 0, "neuron", "compare"), torch.zeros(2), ("layers[0] 'fc1'.neuron.compare",)),
        (("layers", 0, "neuron", "tau"), 0.0, ("fc1'.neuron.tau", "more than 1")),
        (("layers", 0, "neuron", "tau"), -2.0, ("fc1'.neuron.tau", "more than 1")),
        (("layers", 0, "neuron", "tau"), NAN, ("fc1'.neuron.tau", "finite")),
        (("layers", 0, "neuron", "threshold"), 0.0, ("fc1'.neuron.threshold", "positive")),
        (("layers", 0, "neuron", "threshold"), "1", ("fc1'.neuron.threshold", "finite")),
        (("layers", 0, "neuron", "refractory"), 3, ("unknown entry", "fc1'.neuron.refractory")),
        (("layers", 0, "neuron"), "lif", ("layers[0] 'fc1'.neuron", "must be a dictionary")),
        (("layers", 0, "weights"), 3, ("unknown entry", "did you mean 'weight'?")),
        (("layers", 0, "weight"), torch.zeros(4, 5, dtype=torch.float64), ("fc1'.weight", "float64", "float32")),
        (("layers", 0, "weight"), torch.zeros(4), ("fc1'.weight", "2 dimensions")),
        (("layers", 0, "weight"), torch.zeros(0, 5), ("fc1'.weight", "shape (0, 5)")),
        (("layers", 0, "weight"), torch.eye(5)[:4].to_sparse(), ("fc1'.weight", "sparse_coo", "strided")),
        (("layers", 0, "weight"), [[1.0]], ("fc1'.weight", "must be a tensor")),
        (("layers", 0, "mask"), torch.ones(4, 5), ("fc1'.mask", "float32", "bool")),
        (("layers", 0, "mask"), torch.ones(5, 4, dtype=torch.bool), ("fc1'.mask", "differ in shape")),
        (("layers", 0, "bias"), torch.zeros(5), ("fc1'.bias", "one bias for each neuron")),
        (("layers", 0, "bias"), torch.tensor([0.0, 0.0, NAN, 0.0]), ("fc1'.bias[2]", "NaN")),
        (("layers", 0, "name"), "", ("layers[0]", "must be text")),
        (("layers", 1, "name"), "fc1", ("layers[1] 'fc1'", "unique")),
        (("layers", 1, "name"), "input", ("layers[1] 'input'", "unique")),
        (("layers", 1, "name"), "fc1.weight", ("a name stands twice",)),
        (("layers", 0, "weight_step"), 0.1, ("fc1'", "together or not at all")),
        (("layers",), [], ("at least one layer",)),
        (("layers",), [3], ("layers[0]", "must be a dictionary")),
        (("steps",), 0, ("steps", "at least 1")),
        (("steps",), 2.5, ("steps", "whole number")),
        (("steps",), True, ("steps", "whole number")),
        (("seed",), "x", ("seed", "whole number")),
        (("version",), "1", ("version", "whole number")),
        (("name",), 3, ("name", "must be text")),
        (("recipe",), None, ("recipe", "must be a dictionary")),
        (("input", "coding"), "burst", ("input.coding", "burst", "rate")),
        (("input", "size"), 6, ("layer sizes do not chain", "layers[0] 'fc1'", "reads 5", "the input 'input' has 6")),
        (("input", "size"), 10**12, ("input.size",)),
        (("input", "size"), 2**30, ("input.size", "too small for the weights")),
        (("input", "offset"), 0.5, ("input.offset", "'current'")),
        (("input", "scale"), 0.0, ("scale must be positive",)),
        (("input", "threshold"), 1 << 17, ("input.vth",)),
        (("input", "shift"), 1, ("unknown entry", "input.shift")),
    ],
)
def test_entries_without_meaning(tmp_path, path, value, words):
    content = model()
    change(content, path, value)
    refused(saved(tmp_path, content), *words)


def test_layers_that_do_not_chain_name_both(tmp_path):
    content = model()
    wide = copy.deepcopy(content["layers"][0])
    wide["name"] = "fc3"
    content["layers"].append(wide)
    refused(
        saved(tmp_path, content),
        "layer sizes do not chain",
        "layers[2] 'fc3'",
        "reads 5",
        "layer 'fc2' has 3",
        "shape (4, 3)",
    )


@pytest.mark.parametrize("value", [NAN, float("inf"), -float("inf")])
def test_weights_that_are_no_numbers(tmp_path, value):
    content = model()
    content["layers"][1]["weight"][2, 3] = value
    content["layers"][1]["weight"][2, 1] = value
    refused(saved(tmp_path, content), "2 values are NaN or infinite", "layers[1] 'fc2'.weight[2, 1]", str(value))


def test_tensors_that_claim_more_than_the_file_holds(tmp_path):
    content = model()
    content["layers"][0]["weight"] = torch.zeros(1, 1).expand(40_000, 5)
    content["layers"][0]["mask"] = torch.ones(1, 1, dtype=torch.bool).expand(40_000, 5)
    path = saved(tmp_path, content)
    assert path.stat().st_size < 20_000
    refused(path, "claim more than the file holds", "fc1'.weight")


def test_damaged_weights_are_noticed(tmp_path):
    content = model()
    content["layers"][0]["weight"].fill_(1.2345)
    path = saved(tmp_path, content)
    data = path.read_bytes()
    at = data.index(struct.pack("<f", np.float32(1.2345)))
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    refused(path, "checksum")


def test_cut_and_damaged_files_never_crash(tmp_path):
    data = io.BytesIO()
    torch.save(model(), data)
    whole = data.getvalue()
    path = tmp_path / "model.pt"
    for length in np.linspace(1, len(whole) - 1, 60).astype(int):
        path.write_bytes(whole[:length])
        refused(path)
    random = np.random.default_rng(3)
    for position in random.integers(0, len(whole), 200):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << random.integers(0, 8)
        path.write_bytes(flipped)
        try:
            loaded = load(path)
        except SnncError:
            continue
        assert loaded.graph.name == "small"

"""Files of lava-dl: what we compute is what lava-dl's netx computed in Lava, spike for spike.

`tests/data/netx/make.py` made the files by lava-dl 0.6.0, and recorded what netx and slayer do with them.
"""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

import hw_targets
from toolchain import convert as conversion
from toolchain.backends import reference
from toolchain.errors import SnncError, UsageError
from toolchain.frontends import load
from toolchain.pipeline import LAST_PASS, Options, compile_graph
from toolchain.simulation import backend

FILES = Path(__file__).parents[1] / "data" / "netx"
KINDS = (
    *("dense", "decays", "delays", "synapse_delays", "recurrent", "conv", "conv_decays"),
    *("readout", "sums", "biases", "signs", "votes", "loops"),
)
SLAYER_LAG = {"dense": 2, "decays": 2, "delays": 2, "recurrent": 2, "loops": 3, "conv": 3, "pool": 3}
"""Steps that slayer's layers delay their spikes by."""


def recorded(name: str) -> dict[str, np.ndarray]:
    with np.load(FILES / f"{name}.npz") as file:
        return dict(file)


def compiled(path: Path, steps: int):
    graph = load(path, steps=steps).graph
    return compile_graph(graph, hw_targets.load("loihi"), Options(), until=LAST_PASS)


@pytest.mark.parametrize("name", KINDS)
def test_equals_netx_in_lava(name: str) -> None:
    record = recorded(name)
    inputs = record["inputs"][None]
    state = compiled(FILES / f"{name}.net", len(record["inputs"]))
    for program in (state.whole, state.program):
        trace = reference.run(program, inputs)
        output = program.output.name
        assert np.array_equal(trace.spikes[output][0], record["outputs"])
        if output in trace.potentials:
            assert np.array_equal(trace.potentials[output][0], record["potentials"])
            assert record["potentials"].any()
        else:
            assert 0 < record["outputs"].mean() < 1


@pytest.mark.parametrize("name", SLAYER_LAG)
def test_equals_slayer(name: str) -> None:
    record, lag = recorded(name), SLAYER_LAG[name]
    steps = len(record["inputs"])
    program = compiled(FILES / f"{name}.net", steps).program
    spikes = reference.run(program, record["inputs"][None]).spikes[program.output.name][0]
    assert np.array_equal(spikes[: steps - lag], record["slayer"][lag:])
    assert 0 < record["slayer"].mean() < 1


def test_votes_of_a_last_layer_without_neurons_are_the_averages() -> None:
    """The remedy for slayer's Average, which neither slayer exports nor netx runs."""
    record = recorded("votes")
    program = compiled(FILES / "votes.net", len(record["inputs"])).program
    trace = reference.run(program, record["inputs"][None])
    group, shift = 4, 6
    averages = trace.potentials[program.output.name][0] / (group << shift)
    assert np.array_equal(averages, record["averages"])
    assert len(set(averages.tolist())) > 1


@pytest.mark.parametrize("name", [*KINDS, "pool"])
def test_integers_are_taken_as_they_are(name: str) -> None:
    state = compiled(FILES / f"{name}.net", 24)
    changed = {"QNT002", "QNT003", "QNT010", "QNT011", "NEU001", "NEU002", "NEU003"}
    assert not changed & {d.code for d in state.diagnostics}
    assert all("exact" in d.effect for d in state.diagnostics if d.code == "QNT001")
    program = state.whole
    with h5py.File(FILES / f"{name}.net") as file:
        layers = [file["layer"][k] for k in sorted(file["layer"]) if "weight" in file["layer"][k]]
        for population, layer in zip(program.populations, layers, strict=True):
            if population.spiking:
                assert population.vth == layer["neuron/vThMant"][()]
                assert np.array_equal(np.unique(population.du), np.unique(layer["neuron/iDecay"][()]))
                assert np.array_equal(np.unique(population.dv), np.unique(layer["neuron/vDecay"][()]))
            values = np.concatenate([c.synapses.values for c in program.into(population.name)])
            stored = [layer[key][()] for key in ("weight", "weight_rec") if key in layer]
            assert set(values.tolist()) | {0} == {int(w) for part in stored for w in part.reshape(-1)} | {0}


@pytest.mark.parametrize("name", ["conv", "recurrent"])
@pytest.mark.parametrize("other", ["fast", "onnx"])
def test_other_simulators_agree(name: str, other: str) -> None:
    record = recorded(name)
    program = compiled(FILES / f"{name}.net", len(record["inputs"])).program
    samples = np.stack([record["inputs"], record["inputs"][::-1]])
    trace = backend(other)(program, samples)
    expected = reference.run(program, samples)
    for population, spikes in expected.spikes.items():
        assert np.array_equal(trace.spikes[population], spikes)


@pytest.mark.parametrize("suffix", [".onnx", ".nir"])
def test_converts_without_loss(tmp_path: Path, suffix: str) -> None:
    for name in ("dense", "conv"):
        choices = {"steps": 24} if suffix == ".onnx" else {"steps": 24, "dt": 1.0}
        done = conversion.convert(FILES / f"{name}.net", tmp_path / f"{name}{suffix}", choices=choices)
        assert not done.differences
        record = recorded(name)
        program = compile_graph(
            load(tmp_path / f"{name}{suffix}").graph, hw_targets.load("loihi"), Options(), until=LAST_PASS
        ).program
        trace = reference.run(program, record["inputs"][None])
        assert np.array_equal(trace.spikes[program.output.name][0], record["outputs"])


# --- files that say something else -----------------------------------------------------------------------------------


def changed(tmp_path: Path, name: str, **entries: object) -> Path:
    """The file with other entries; None takes one out. `layer__0__neuron__vThMant` is layer/0/neuron/vThMant."""
    path = tmp_path / f"{name}.net"
    path.write_bytes((FILES / f"{name}.net").read_bytes())
    with h5py.File(path, "a") as file:
        for key, value in entries.items():
            place = key.replace("__", "/")
            if place in file:
                del file[place]
            if value is not None:
                file[place] = value
    return path


REFUSED = {
    "graded": ({"layer__0__neuron__gradedSpike": True}, ("dense.neuron/gradedSpike", "payload")),
    "message": ({"layer__0__neuron__messageBits": 8}, ("neuron/messageBits", "payload")),
    "sigma-delta": ({"layer__0__neuron__type": "SDNN"}, ("neuron/type", "SDNN", "graded spikes")),
    "resonator": ({"layer__0__neuron__type": "RF_PHASE"}, ("neuron/type", "complex state")),
    "norm": ({"layer__0__neuron__weight_exp": 2}, ("neuron/weight_exp", "netx leaves")),
    "no current decay": ({"layer__0__neuron__iDecay": 0}, ("neuron/iDecay", "1 to 4096")),
    "no memory": ({"layer__0__neuron__vDecay": 4096}, ("neuron/vDecay", "0 to 4095")),
    "fraction of a decay": ({"layer__0__neuron__vDecay": 4.5}, ("neuron/vDecay", "4.5")),
    "no threshold": ({"layer__0__neuron__vThMant": 0}, ("neuron/vThMant", "1 or more")),
    "never spikes": ({"layer__0__neuron__vThMant": 1 << 17}, ("neuron/vThMant", "never spike")),
    "wait": ({"layer__0__neuron__refDelay": 64}, ("neuron/refDelay", "1 to 63")),
    "fraction of a weight": ({"layer__0__weight": np.full((20, 12), 0.5, np.float32)}, ("weight[0, 0]", "0.5")),
    "NaN": ({"layer__0__weight": np.full((20, 12), np.nan, np.float32)}, ("weight[0, 0]", "nan")),
    "odd and large": ({"layer__0__weight": np.array([[-3, 200] * 6] * 20, np.float32)}, ("dense.weight", "8 bits")),
    "sizes": ({"layer__1__weight": np.zeros((6, 21), np.float32)}, ("layer/1 dense.weight", "do not chain")),
    "bias": ({"layer__0__bias": np.array([0.25], np.float32)}, ("dense.bias", "0.25")),
    "large bias": ({"layer__0__bias": np.array([5000.0], np.float32)}, ("dense.bias", "4095")),
    "delay": ({"layer__0__delay": np.full(20, 63.0)}, ("dense.delay", "0 to 62")),
    "negative delay": ({"layer__0__delay": np.full(20, -1.0)}, ("dense.delay", "0 to 62")),
    "unknown field": ({"layer__0__gain": 3}, ("dense.gain", "unknown field")),
    "unknown register": ({"layer__0__neuron__homeostasis": 3}, ("neuron/homeostasis", "unknown field")),
    "average": ({"layer__1__type": "average"}, ("layer/1 average.type", "nothing says", "Affine(dynamics=False)")),
    "transposed": ({"layer__1__type": "convT"}, ("convT", "transposed")),
    "unknown layer": ({"layer__1__type": "lstm"}, ("lstm.type", "flatten, dense")),
    "no neurons inside": ({"layer__0__neuron": None}, ("dense.neuron", "last layer alone")),
    "a gap": ({"layer__1": None, "layer__2__type": "dense"}, ("numbered from 0",)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_we_cannot_represent_is_refused(tmp_path: Path, case: str) -> None:
    entries, words = REFUSED[case]
    with pytest.raises(SnncError) as refused:
        load(changed(tmp_path, "dense", **entries), steps=24)
    for word in words:
        assert word in str(refused.value)


UNREAD = {
    "average": "average.type",
    "convT": "convT.type",
    "unpool": "unpool.type",
    "kwta": "layer/0.type",
    "conv_delays": "netx leaves them out",
    "recurrent_delays": "a delay in a recurrent layer",
    "sigma_delta": "graded spikes",
}
"""Files that slayer wrote, as far as it got, and the words with which we refuse them."""


@pytest.mark.parametrize("name", UNREAD)
def test_what_lava_dl_itself_does_not_run_is_refused(name: str) -> None:
    with pytest.raises(SnncError) as refused:
        load(FILES / "unread" / f"{name}.net", steps=24)
    assert UNREAD[name] in str(refused.value)


def test_lava_dl_has_been_asked_about_each() -> None:
    answers = json.loads((FILES / "unread" / "answers.json").read_text())
    assert set(answers) == set(UNREAD)
    run = {name for name, said in answers.items() if said["netx"] == "done"}
    assert run == {"conv_delays", "sigma_delta"}
    assert answers["conv_delays"]["delays"] == "left out"
    assert {name for name, said in answers.items() if said["slayer"] != "done"} == {"average"}
    page = (FILES.parents[2] / "docs" / "from_lava_dl.md").read_text()
    for name in ("average", "convT", "unpool"):
        assert f"| `{answers[name]['netx']}` |" in page


def test_refractory_delay_is_the_register(tmp_path: Path) -> None:
    loaded = load(changed(tmp_path, "dense", layer__0__neuron__refDelay=5), steps=24)
    assert loaded.graph.populations[0].refractory == 4
    assert [d.code for d in loaded.diagnostics if d.where == "dense0"] == ["NTX004"]


def test_delays_in_a_loop_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SnncError, match="train without delays"):
        load(changed(tmp_path, "recurrent", layer__0__delay=np.full(14, 2.0)))


def test_an_input_layer_with_neurons_is_left_out_on_request(tmp_path: Path) -> None:
    neuron = {"type": "CUBA", "iDecay": 4096, "vDecay": 0, "vThMant": 64, "refDelay": 1, "gradedSpike": False}
    path = changed(tmp_path, "conv", **{f"layer__0__neuron__{key}": value for key, value in neuron.items()})
    with pytest.raises(SnncError, match="--coding spikes"):
        load(path)
    loaded = load(path, coding="spikes", steps=24)
    assert "NTX002" in [d.code for d in loaded.diagnostics]
    assert loaded.graph.input.size == 2 * 9 * 6


def test_a_convolution_first_needs_the_input_layer(tmp_path: Path) -> None:
    path = changed(tmp_path, "conv")
    with h5py.File(path, "a") as file:
        for k in range(1, 5):
            file.move(f"layer/{k}", f"layer/_{k}")
        del file["layer/0"]
        for k in range(1, 5):
            file.move(f"layer/_{k}", f"layer/{k - 1}")
    with pytest.raises(SnncError, match="does not say the shape"):
        load(path)


def test_what_is_not_said_is_told() -> None:
    loaded = load(FILES / "dense.net")
    assert loaded.graph.steps == 32
    assert loaded.graph.input.coding == "spikes"
    assert [d.code for d in loaded.diagnostics] == ["NTX001"]
    assert not load(FILES / "dense.net", steps=8, coding="rate").diagnostics


def test_choices_that_do_not_belong() -> None:
    with pytest.raises(UsageError, match="--dt"):
        load(FILES / "dense.net", dt=1.0)
    with pytest.raises(UsageError, match="no such coding"):
        load(FILES / "dense.net", coding="morse")


@pytest.mark.parametrize("part", [0, 1, 7, 100, 1000, 9000])
def test_damaged_files(tmp_path: Path, part: int) -> None:
    path = tmp_path / "cut.net"
    path.write_bytes((FILES / "dense.net").read_bytes()[:part])
    with pytest.raises(SnncError):
        load(path)


def test_claims_beyond_the_file(tmp_path: Path) -> None:
    path = changed(tmp_path, "dense", layer__0__weight=None)
    with h5py.File(path, "a") as file:
        file["layer/0"].create_dataset("weight", (10**6, 10**6), np.float32, chunks=(1000, 1000))
    with pytest.raises(SnncError, match="claims more"):
        load(path)


def test_another_file_of_hdf5(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.net", "w") as file:
        file["node"] = 1
    with pytest.raises(SnncError, match="'layer'"):
        load(tmp_path / "other.net")

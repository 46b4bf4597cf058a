"""Files that other frameworks wrote compute what those frameworks compute: tests/data/nir, with its README."""

from __future__ import annotations

import gzip
import itertools
from dataclasses import replace
from pathlib import Path

import nir
import numpy as np
import pytest

import hw_targets
from toolchain.backends import physical
from toolchain.errors import SnncError
from toolchain.frontends import load
from toolchain.pipeline import Options, compile_graph

DATA = Path(__file__).parents[1] / "data" / "nir"
CLOSE = 1e-5
"""Largest difference of potentials: the frameworks compute in single precision."""
NORSE = 1e-6
"""The step with which dt / tau is what Norse computes: its exporter multiplies by dt where it should not."""
SINABS = 10 * -np.expm1(-1 / 10)
"""The same for sinabs, whose tau (here 10 steps) means exp(-1 / tau)."""
KEEPS = float(np.exp(-1e-3 / 20e-3))
"""What is left of a potential of Rockpool after a step, and of a current."""

FILES = {
    "norse_box": {"dt": NORSE},
    "norse_iaf": {},
    "norse_readout": {"dt": NORSE},
    "sinabs_iaf": {"reset": "subtract"},
    "sinabs_lif": {"dt": SINABS, "reset": "subtract"},
    "snntorch_at_once": {"reset": "subtract"},
    "snntorch_leaky": {"reset": "subtract-late"},
    "snntorch_maps": {"reset": "subtract-late"},
    "snntorch_recurrent": {"reset": "subtract-late"},
    "snntorch_synaptic": {"reset": "subtract-late"},
    "snntorch_zero": {},
    "spikingjelly_cuba": {},
    "spikingjelly_if": {},
    "spikingjelly_lif": {"dt": 1e-4},
    "spikingjelly_maps": {},
    "spikingjelly_multistep": {},
    "spikingjelly_undecayed": {},
}
"""Name -> what its user has to say for equal spikes."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("nir")


def unpacked(folder, name):
    path = folder / f"{name}.nir"
    path.write_bytes(gzip.decompress((DATA / f"{name}.nir.gz").read_bytes()))
    return path


def read(folder, name, **choices):
    """The file as a graph that takes recorded spikes, and the recording."""
    recorded = dict(np.load(DATA / f"{name}.npz"))
    choices = {"coding": "spikes", "steps": recorded["x"].shape[1], **choices}
    return load(unpacked(folder, name), **choices), recorded


def assert_equal(graph, recorded):
    """Every spike of every population, and a readout's potential at every step."""
    trace = physical.run(graph, recorded["x"])
    assert {p.name for p in graph.populations if not p.name.endswith(".bias")} == recorded.keys() - {"x"}
    for p in graph.populations:
        if p.spiking and p.name in recorded:
            np.testing.assert_array_equal(trace.spikes[p.name], recorded[p.name], p.name)
            assert 0.05 < trace.spikes[p.name].mean() < 0.95
        elif p.name in recorded:
            for steps in range(1, graph.steps + 1):
                short = physical.run(replace(graph, steps=steps), recorded["x"][:, :steps])
                np.testing.assert_allclose(short.potentials[p.name], recorded[p.name][:, steps - 1], CLOSE, CLOSE)


@pytest.mark.parametrize("name", FILES)
def test_spikes_are_those_of_the_framework(folder, name):
    loaded, recorded = read(folder, name, **FILES[name])
    assert_equal(loaded.graph, recorded)
    state = compile_graph(loaded.graph, hw_targets.load("loihi2"), Options())
    assert len(state.mapping.cores) == 1


@pytest.mark.parametrize(
    ("name", "axes"),
    [
        ("norse_box", [("input", "(1,)"), ("output", "(1,)")]),
        ("sinabs_iaf", [("input", "(5,)"), ("output", "(5,)")]),
        ("rockpool_lif", [("input", "(1,)"), ("output", "(1, 1)")]),
        ("rockpool_neuron", [("input", "(1, 5)"), ("output", "(1, 5)")]),
        ("spikingjelly_multistep", []),
    ],
)
def test_axes_of_batch_and_time_are_left_out_and_told(folder, name, axes):
    loaded, _ = read(folder, name, dt=1e-6)
    told = [d for d in loaded.diagnostics if d.code == "NIR011"]
    assert [(d.where, d.message.partition("the axes ")[2].partition(" of batch")[0]) for d in told] == axes
    assert loaded.graph.input.size == (36 if name == "spikingjelly_multistep" else 6)


def written(folder, before, behind, entry, first):
    """Input of given axes, a node, neurons, an Output of given axes."""
    ones = {name: np.ones(4) for name in ("r", "v_threshold")}
    nodes = {"in": nir.Input({"input": np.array((*before, *entry))}), "first": first, "if": nir.IF(**ones)}
    nodes["out"] = nir.Output({"output": np.array((*behind, 4))})
    path = folder / "axes.nir"
    nir.write(path, nir.NIRGraph(nodes, list(itertools.pairwise(nodes)), type_check=False))
    return path


LINEAR = nir.Linear(np.ones((4, 6), np.float32))


@pytest.mark.parametrize(
    ("before", "behind", "told"), [((), (), 0), ((1,), (), 1), ((), (1, 1), 1), ((2, 5), (5, 2), 2)]
)
def test_what_stands_before_the_axes_that_a_layer_reads(folder, before, behind, told):
    loaded = load(written(folder, before, behind, (6,), LINEAR))
    assert [d.code for d in loaded.diagnostics].count("NIR011") == told
    assert loaded.graph.input.size == 6


@pytest.mark.parametrize(
    ("before", "behind", "words"),
    [
        ((5,), (), r"batch and time do not agree(.|\n)*Output 'out'\.shape(.|\n)*\(5, 6\)"),
        ((), (5,), r"shapes do not chain\n.*Output 'out'\.shape\n  got: \(5, 4\)\n  allowed: \(4,\)"),
        ((1,), (2,), r"shapes do not chain\n.*Output 'out'"),
    ],
)
def test_axes_that_do_not_agree_are_refused(folder, before, behind, words):
    with pytest.raises(SnncError, match=words):
        load(written(folder, before, behind, (6,), LINEAR))


def test_axes_are_neurons_where_nothing_says_otherwise(folder):
    """Scale and neurons take any number of axes: 5 channels of 4."""
    loaded = load(written(folder, (5,), (5,), (4,), nir.Scale(np.ones(4))))
    assert loaded.graph.input.size == 20
    assert "NIR011" not in [d.code for d in loaded.diagnostics]


@pytest.mark.parametrize("name", ["norse_box", "rockpool_lif", "sinabs_lif", "spikingjelly_lif"])
def test_a_step_that_the_file_does_not_say_is_asked_for(folder, name):
    with pytest.raises(SnncError, match=r"how long a time step is(.|\n)*--dt(.|\n)*SpikingJelly and snnTorch"):
        read(folder, name)


@pytest.mark.parametrize("name", ["spikingjelly_if", "spikingjelly_maps", "spikingjelly_undecayed", "snntorch_leaky"])
def test_the_step_is_found(folder, name):
    loaded, _ = read(folder, name)
    assert "time step 0.0001" in str(loaded.diagnostics[0])


# What the exporters leave out or say otherwise (docs/nir.md): put right here, the rest of the file must be equal.


def put_right(graph, reset="subtract", **changes):
    """changes: name of a population -> its gain, current_decay and voltage_decay."""
    populations = []
    for p in graph.populations:
        gain, current_decay, voltage_decay = changes[p.name]
        fields = {"gain": gain, "current_decay": current_decay, "voltage_decay": voltage_decay}
        populations.append(replace(p, **fields, reset=reset if p.spiking else "none"))
    return replace(graph, populations=tuple(populations))


def assert_wrong_as_it_stands(loaded, recorded):
    with pytest.raises(AssertionError):
        assert_equal(loaded.graph, recorded)


def test_norse_current_based(folder):
    """Its input enters the current in full."""
    loaded, recorded = read(folder, "norse_lif", dt=NORSE)
    assert_wrong_as_it_stands(loaded, recorded)
    right = (0.25, 0.5, 0.25)
    assert_equal(put_right(loaded.graph, "zero", **{"1": right, "3": right}), recorded)


def test_rockpool(folder):
    """Its input enters in full, decays are exponential, of the current before the potential reads it."""
    loaded, recorded = read(folder, "rockpool_lif", dt=1e-3, reset="subtract")
    assert_wrong_as_it_stands(loaded, recorded)
    right = (KEEPS, 1 - KEEPS, 1 - KEEPS)
    assert_equal(put_right(loaded.graph, **{"1_LIFTorch": right, "3_LIFTorch": right}), recorded)


def test_rockpool_without_currents(folder):
    loaded, recorded = read(folder, "rockpool_neuron", reset="subtract")
    assert_wrong_as_it_stands(loaded, recorded)
    right = (1.0, 1.0, 1 - KEEPS)
    assert_equal(put_right(loaded.graph, **{"1_LIFNeuronTorch": right, "3_LIFNeuronTorch": right}), recorded)


def test_rockpool_readout(folder):
    loaded, recorded = read(folder, "rockpool_readout", dt=1e-3, reset="subtract")
    assert_wrong_as_it_stands(loaded, recorded)
    keeps = float(np.exp(-1e-3 / 10e-3))
    right = {"1_LIFNeuronTorch": (1.0, 1.0, 1 - KEEPS), "3_ExpSynTorch": (keeps, 1.0, 1 - keeps)}
    assert_equal(put_right(loaded.graph, **right), recorded)


def test_sinabs_readout(folder):
    """Its ExpLeak does not scale its input by default, where its LIF does."""
    loaded, recorded = read(folder, "sinabs_readout", dt=SINABS)
    assert_wrong_as_it_stands(loaded, recorded)
    leak = float(-np.expm1(-1 / 10))
    assert_equal(put_right(loaded.graph, "zero", **{"1": (leak, 1.0, leak), "3": (1.0, 1.0, leak)}), recorded)

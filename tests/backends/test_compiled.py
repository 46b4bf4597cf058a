"""A network with a layer of nearly every kind, from its file through the compiler to every back end."""

from __future__ import annotations

import numpy as np
import pytest
import scalar
from networks import map_checkpoint, write_checkpoint
from test_lava import assert_equal

import hw_targets
from toolchain import frontends
from toolchain.backends import lava as lava_backend
from toolchain.backends import physical, reference
from toolchain.environment import Interpreter
from toolchain.ir import Graph, Program
from toolchain.ir.convolution import Convolution
from toolchain.pipeline import LAST_PASS, Options, compile_graph

SAMPLES = np.random.default_rng(3).integers(0, 256, (12, 64))


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return frontends.load(write_checkpoint(tmp_path_factory.mktemp("model") / "model.pt", map_checkpoint, seed=4)).graph


@pytest.fixture(scope="module")
def program(graph: Graph) -> Program:
    compiled = compile_graph(graph, hw_targets.load("loihi"), Options(weight_bits=8), until=LAST_PASS).program
    assert compiled is not None
    return compiled


def test_it_holds_what_it_should(program: Program) -> None:
    resets = {p.name: (p.reset, p.refractory) for p in program.populations}
    assert [resets[name] for name in ("soft", "tired", "out")] == [("subtract", 0), ("zero", 1), ("none", 0)]
    assert sum(isinstance(c.synapses.connectivity, Convolution) for c in program.connections) >= 5
    assert sorted(c.delay for c in program.connections)[-2:] == [1, 2]
    assert max(program.chip_delays.values()) > 1
    trace = reference.run(program, SAMPLES)
    assert all(0 < trace.spikes[p.name].mean() < 1 for p in program.populations if p.spiking)
    assert len(set(trace.decisions)) > 1


def test_decides_as_the_trained_network(graph: Graph, program: Program) -> None:
    trained, deployed = physical.run(graph, SAMPLES), reference.run(program, SAMPLES)
    assert np.mean(trained.decisions == deployed.decisions) > 0.8


def test_equals_the_scalar_simulator(program: Program) -> None:
    trace = reference.run(program, SAMPLES[:2])
    spikes, potentials = scalar.simulate(program, SAMPLES[:2])
    assert all(np.array_equal(trace.spikes[name], expected) for name, expected in spikes.items())
    assert np.array_equal(trace.potentials["out"], potentials["out"])


@pytest.mark.lava
@pytest.mark.slow
def test_equals_lava(lava: Interpreter, program: Program) -> None:
    got, wanted = lava_backend.run(program, SAMPLES), reference.run(program, SAMPLES)
    assert_equal(got, wanted)
    assert np.array_equal(got.potentials["out"], wanted.potentials["out"])

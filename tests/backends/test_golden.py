"""Every kind of layer and neuron: small networks worked out by hand (tests/golden), on every back end."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import golden
import numpy as np
import pytest
import scalar
from side_by_side import part_of, side_by_side

from toolchain.backends import lava as lava_backend
from toolchain.backends import physical, reference
from toolchain.backends.lava import _spec
from toolchain.environment import Interpreter
from toolchain.ir import LIF, Connection, FloatSynapses, Graph, Program

NEEDED = {
    *("if", "lif", "current_lif", "hard_reset", "soft_reset", "refractory", "per_neuron", "readout", "bias"),
    *("conv2d", "conv2d_stride", "conv2d_padding", "conv2d_dilation", "conv2d_groups", "conv2d_depthwise", "conv1d"),
    *("sum_pool", "average_pool", "max_pool", "flatten", "residual", "concat", "recurrent", "feedback", "delay"),
}


def test_every_kind_is_there() -> None:
    assert set(golden.KINDS) == NEEDED


@pytest.mark.parametrize("kind", golden.KINDS)
def test_reference(kind: str) -> None:
    wanted = golden.read(kind)
    trace = reference.run(wanted.program, wanted.samples)
    wanted.assert_equal(trace)
    for potentials in wanted.potentials.values():
        assert np.array_equal(trace.decisions, potentials.argmax(axis=1))
    assert {p.name for p in wanted.program.populations} <= set(wanted.spikes) | set(wanted.potentials)


@pytest.mark.parametrize("kind", golden.KINDS)
def test_scalar_simulator(kind: str) -> None:
    wanted = golden.read(kind)
    spikes, potentials = scalar.simulate(wanted.program, wanted.samples)
    assert all(np.array_equal(spikes[name], expected) for name, expected in wanted.spikes.items())
    assert all(np.array_equal(potentials[name], expected) for name, expected in wanted.potentials.items())


def in_physical_units(program: Program) -> Graph:
    """The same network with a weight of 1 for a mantissa of 1, and so a potential of 1 for 64."""
    populations = []
    for p in program.populations:
        # What the leakiest membrane keeps, the chip rounds away: half a unit more keeps it from breaking ties.
        threshold = np.asarray(p.vth) + 0.5 * (np.asarray(p.dv) == 4095)
        if not p.spiking:
            threshold = np.asarray(1.0)  # not compared with anything
        decays = [float(x) / 4096 if not np.ndim(x) else np.asarray(x) / 4096 for x in (p.du, p.dv)]
        bias = (p.bias / 64).astype(np.float32)
        limit = threshold if np.ndim(p.vth) else float(threshold)
        populations.append(LIF(p.name, p.size, limit, 1.0, *decays, bias, p.reset, p.refractory))
    connections = [
        Connection(
            c.name,
            c.source,
            c.target,
            FloatSynapses(c.synapses.connectivity, c.synapses.values.astype(np.float32)),
            delay=c.delay,
        )
        for c in program.connections
    ]
    return Graph(program.name, program.input, tuple(populations), tuple(connections), program.steps)


@pytest.mark.parametrize("kind", golden.KINDS)
def test_floating_point(kind: str) -> None:
    wanted = golden.read(kind)
    graph = in_physical_units(wanted.program)
    graph.verify()
    trace = physical.run(graph, wanted.samples)
    assert all(np.array_equal(trace.spikes[name], expected) for name, expected in wanted.spikes.items())
    assert trace.potentials.keys() == wanted.potentials.keys()
    for name, expected in wanted.potentials.items():
        assert np.allclose(64 * trace.potentials[name], expected, rtol=1e-3)


WAYS = {"stock": None, "batched": _spec.Batch(2), "batched, our neurons": _spec.Batch(2, stock_neurons=False)}


@cache
def lava_run(way: str) -> lava_backend.Recorded:
    """All of them in one run."""
    found = [golden.read(kind) for kind in golden.KINDS]
    spec = side_by_side([g.program for g in found], [g.samples for g in found])
    batch = WAYS[way]
    if batch is not None:
        spec = replace(spec, batch=replace(batch, traced=spec.record))
    return lava_backend.execute(spec)


@pytest.mark.lava
@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", golden.KINDS)
def test_lava(lava: Interpreter, kind: str, way: str) -> None:
    wanted = golden.read(kind)
    got = part_of(lava_run(way), golden.KINDS.index(kind), reference.run(wanted.program, wanted.samples))
    assert all(np.array_equal(got.spikes[name], expected) for name, expected in wanted.spikes.items())
    assert all(np.array_equal(got.potentials[name], expected) for name, expected in wanted.potentials.items())

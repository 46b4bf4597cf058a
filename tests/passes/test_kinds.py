"""The passes on what a chain of plain layers lacks: maps, cycles, other resets, registers a neuron, readouts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from toolchain.backends import physical, reference
from toolchain.errors import SnncError
from toolchain.ir import (
    LIF,
    Compartments,
    Connection,
    Connectivity,
    Convolution,
    FloatSynapses,
    Graph,
    IntegerConnection,
    IntegerSynapses,
    Program,
    make_input,
)
from toolchain.ir.arithmetic import STATE_SHIFT, THRESHOLD_LIMIT
from toolchain.passes.bounds import bound_diagnostics, state_bounds
from toolchain.passes.discretize_neurons import DiscretizeNeurons
from toolchain.passes.quantize_weights import QuantizeWeights
from toolchain.passes.remove_dead_neurons import RemoveDeadNeurons

RANDOM = np.random.default_rng(5)


def lif(name: str, size: int, **fields: object) -> LIF:
    values = {"threshold": 1.0, "gain": 1.0, "current_decay": 1.0, "voltage_decay": 0.25, **fields}
    return LIF(name, size, bias=np.zeros(size, np.float32), **values)  # type: ignore[arg-type]


def dense(name: str, source: str, target: str, weights: np.ndarray, **fields: object) -> Connection:
    pattern = Connectivity.from_mask(weights != 0)
    values = weights[pattern.targets, pattern.sources].astype(np.float32)
    return Connection(name, source, target, FloatSynapses(pattern, values), **fields)  # type: ignore[arg-type]


def recurrent(**fields: object) -> Graph:
    """Six graded inputs into four neurons that also hear each other."""
    graph = Graph(
        "recurrent",
        make_input("graded", "input", 6, scale=1 / 255),
        (lif("h", 4, **fields),),
        (
            dense("in", "input", "h", RANDOM.normal(0.4, 0.3, (4, 6))),
            dense("back", "h", "h", RANDOM.normal(0, 0.3, (4, 4)), delay=1),
        ),
        12,
    )
    graph.verify()
    return graph


def compiled(graph: Graph, bits: int = 8) -> Program:
    quantised, _ = QuantizeWeights(bits).run(graph)
    quantised.verify()
    program, _ = DiscretizeNeurons().run(quantised)
    program.verify()
    return program


def test_input_and_neurons_into_one_population_share_a_scale() -> None:
    graph = recurrent()
    quantised, _ = QuantizeWeights(8).run(graph)
    inner, back = quantised.connections
    # One unit of sum is worth the same, whoever sent it.
    assert inner.step * graph.input.scale == pytest.approx(back.step)
    for before, after in zip(graph.connections, quantised.dequantise().connections, strict=True):
        rounding = np.abs(after.synapses.weights - before.synapses.weights)
        assert float(rounding.max()) < 0.02 * float(np.abs(before.synapses.weights).max())
    samples = RANDOM.integers(0, 256, (40, 6)).astype(np.uint8)
    program = compiled(graph)
    # With the rounded weights in floating point only the threshold's rounding is left to differ.
    exact = physical.run(quantised.dequantise(), samples).spikes["h"]
    assert (exact == reference.run(program, samples).spikes["h"]).mean() > 0.99
    assert reference.run(program, samples).counts["h"].sum() > 100


def test_a_host_current_and_a_cycle_are_refused_together() -> None:
    graph = replace(recurrent(), input=make_input("current", "input", 6, scale=1 / 255))
    with pytest.raises(SnncError, match="host's currents") as error:
        compiled(graph)
    assert error.value.where == "h, input"


def test_registers_of_single_neurons() -> None:
    theta = np.array([0.5, 1.0, 1.5, 2.0])
    decay = np.array([0.0, 0.25, 0.3, 0.5])
    graph = recurrent(threshold=theta, voltage_decay=decay)
    quantised, _ = QuantizeWeights(8).run(graph)
    program, diagnostics = DiscretizeNeurons().run(quantised)
    (h,) = program.populations
    assert np.asarray(h.dv).tolist() == [0, 1024, 1229, 2048]
    assert np.allclose(np.asarray(h.vth) / np.asarray(h.vth)[1], theta, rtol=2**-10)
    (rounded,) = [d for d in diagnostics if d.code == "NEU003"]
    assert (rounded.count, rounded.message) == (1, "dv rounded from 1228.800 to 1229")
    kept = h.keep(np.array([True, False, False, True]))
    assert np.asarray(kept.dv).tolist() == [0, 2048]


def test_resets_and_waiting_are_lowered_as_what_they_are() -> None:
    assert compiled(recurrent(reset="subtract")).output.reset == "subtract"
    waiting = compiled(recurrent(refractory=3)).output
    assert (waiting.reset, waiting.refractory) == ("zero", 3)
    readout = compiled(recurrent_into_readout()).output
    assert (readout.reset, readout.vth) == ("none", THRESHOLD_LIMIT)


def recurrent_into_readout() -> Graph:
    graph = recurrent()
    weights = RANDOM.normal(0, 0.5, (3, 4))
    return replace(
        graph,
        populations=(*graph.populations, lif("read", 3, reset="none")),
        connections=(*graph.connections, dense("out", "h", "read", weights)),
    )


def test_a_readout_decides_as_its_floating_point_does() -> None:
    graph = recurrent_into_readout()
    samples = RANDOM.integers(0, 256, (60, 6)).astype(np.uint8)
    exact, deployed = physical.run(graph, samples), reference.run(compiled(graph), samples)
    assert deployed.potentials["read"].shape == (60, 3)
    assert not deployed.counts["read"].any()
    assert (exact.decisions == deployed.decisions).mean() > 0.9


def test_potentials_of_a_soft_reset_stay_within_their_bound() -> None:
    for seed in range(30):
        random = np.random.default_rng(seed)
        weights = random.integers(-60, 128, (3, 2))
        pattern = Connectivity.from_mask(weights != 0)
        values = weights[pattern.targets, pattern.sources].astype(np.int16)
        neurons = Compartments(
            "n", 3, 4096, int(random.integers(0, 4096)), int(random.integers(0, 150)), np.zeros(3, np.int16),
            reset="subtract",
        )  # fmt: skip
        program = Program(
            "soft",
            make_input("rate", "input", 2),
            (neurons,),
            (IntegerConnection("c", "input", "n", IntegerSynapses(pattern, values, 0, 8, "mixed")),),
            20,
        )
        (bound,) = state_bounds(program)
        state = neurons.start(1)
        for spikes in random.integers(0, 2, (20, 1, 2)) if seed % 2 else np.ones((20, 1, 2), int):
            a = program.connections[0].synapses.connectivity.product(values.astype(np.int64))(spikes)
            before = state
            state, fired = neurons.step(state, a)
            raised = state.v + np.where(fired, neurons.vth << STATE_SHIFT, 0)
            assert bound.v_low <= int(raised.min())
            assert int(raised.max()) <= bound.v_high, (seed, before.v)


def test_a_readout_that_may_spike_is_told() -> None:
    readout = Compartments("r", 1, 4096, 0, THRESHOLD_LIMIT, np.zeros(1, np.int16), reset="none")
    pattern = Connectivity.from_mask(np.ones((1, 8), bool))
    synapses = IntegerSynapses(pattern, np.full(8, 127, np.int16), 6, 8, "mixed")
    program = Program(
        "r", make_input("rate", "input", 8), (readout,), (IntegerConnection("c", "input", "r", synapses),), 2
    )
    assert [d.code for d in bound_diagnostics(state_bounds(program))] == []
    longer = replace(program, steps=3)
    assert [d.code for d in bound_diagnostics(state_bounds(longer))] == ["BND002", "BND003"]


def feature_maps(kernel: np.ndarray, after: np.ndarray, bias: list[int]) -> Program:
    """1 x 5 x 5 inputs, a convolution into `len(kernel)` channels of 4 x 4, and dense outputs."""
    conv, positions = Convolution.of((1, 5, 5), kernel != 0)
    dense_pattern = Connectivity.from_mask(after != 0)
    hidden = Compartments("h", conv.n_targets, 4096, 0, 10, np.repeat(np.array(bias, np.int16), 16))
    output = Compartments("out", len(after), 4096, 0, 10, np.zeros(len(after), np.int16))
    first = IntegerSynapses(conv, kernel.ravel()[positions].astype(np.int16), 0, 8, "mixed")
    second = IntegerSynapses(
        dense_pattern, after[dense_pattern.targets, dense_pattern.sources].astype(np.int16), 0, 8, "mixed"
    )
    program = Program(
        "maps",
        make_input("rate", "input", 25),
        (hidden, output),
        (IntegerConnection("conv", "input", "h", first), IntegerConnection("fc", "h", "out", second)),
        6,
    )
    program.verify()
    return program


def test_of_a_map_whole_channels_go_and_nothing_else_changes() -> None:
    kernel = RANDOM.integers(1, 9, (4, 1, 2, 2))
    kernel[1] = 0  # without input and silent
    kernel[2] = 0  # without input, and its bias makes it fire at every step
    after = RANDOM.integers(-5, 9, (2, 64))
    after[:, 3 * 16 :] = 0  # the last channel is heard at one place only
    after[0, 3 * 16 + 7] = 4
    program = feature_maps(kernel, after, [0, 0, 11, 0])
    smaller, diagnostics = RemoveDeadNeurons().run(program)
    smaller.verify()
    assert {d.code: d.count for d in diagnostics} == {"DED003": 16, "DED004": 16}
    assert smaller.shapes["h"] == (2, 4, 4)
    samples = RANDOM.integers(0, 256, (50, 25)).astype(np.uint8)
    before, left = reference.run(program, samples), reference.run(smaller, samples)
    assert np.array_equal(before.spikes["out"], left.spikes["out"])
    assert before.counts["out"].any()


def test_neurons_that_only_hear_each_other_go() -> None:
    program = compiled(recurrent_into_readout())
    alone = Compartments("loop", 2, 4096, 0, 5, np.zeros(2, np.int16))
    ring = IntegerSynapses(Connectivity.from_mask(np.eye(2)[::-1] > 0), np.full(2, 9, np.int16), 0, 8, "excitatory")
    feed = IntegerSynapses(Connectivity.from_mask(np.ones((2, 4), bool)), np.full(8, 9, np.int16), 0, 8, "excitatory")
    wider = replace(
        program,
        populations=(program.populations[0], alone, program.populations[1]),
        connections=(
            *program.connections,
            IntegerConnection("ring", "loop", "loop", ring, delay=1),
            IntegerConnection("feed", "h", "loop", feed),
        ),
    )
    wider.verify()
    smaller, diagnostics = RemoveDeadNeurons().run(wider)
    assert [(d.code, d.where, d.count) for d in diagnostics] == [("DED002", "loop", 2)]
    assert smaller == program

"""Removing dead neurons never changes an output spike, whatever the network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import strategies
from hypothesis import given, settings
from hypothesis import strategies as st

from toolchain.backends import reference
from toolchain.errors import SnncError
from toolchain.ir import (
    Compartments,
    Connectivity,
    IntegerConnection,
    IntegerSynapses,
    Program,
    make_input,
)
from toolchain.passes.bias import exact_bias, nearest_bias
from toolchain.passes.remove_dead_neurons import RemoveDeadNeurons


def population(name: str, biases: list[int], *, exponent: int = 6, du: int = 4096, dv: int = 0, vth: int = 10):
    return Compartments(name, len(biases), du, dv, vth, np.array(biases, np.int16), exponent)


def connection(source: str, target: str, weights: list[list[int]], exponent: int = 0) -> IntegerConnection:
    """weights: one row a target neuron; 0 where there is no synapse."""
    dense = np.array(weights)
    connectivity = Connectivity.from_mask(dense != 0)
    mantissa = dense[connectivity.targets, connectivity.sources].astype(np.int16)
    return IntegerConnection(
        f"{source}-{target}", source, target, IntegerSynapses(connectivity, mantissa, exponent, 8, "mixed")
    )


def chain(hidden: Compartments, into: list[list[int]], out_of: list[list[int]], **last: int) -> Program:
    output = population("out", [0] * len(out_of), **last)
    program = Program(
        "chain",
        make_input("graded", "input", len(into[0])),
        (hidden, output),
        (connection("input", hidden.name, into), connection(hidden.name, "out", out_of)),
        6,
    )
    program.verify()
    return program


def same_output(program: Program, smaller: Program, samples: np.ndarray) -> bool:
    before, after = reference.run(program, samples), reference.run(smaller, samples)
    return np.array_equal(before.spikes[program.output.name], after.spikes[program.output.name])


@st.composite
def sparse_programs(draw: st.DrawFn) -> tuple[Program, np.ndarray]:
    """Programs in which many neurons have no synapse on one side, with biases that fire always, never or now and
    then, and with decays at which folding is possible and at which it is not."""
    program = draw(strategies.programs(max_layers=4, max_size=7, may_wrap=draw(st.booleans())))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    density = draw(st.sampled_from((0.15, 0.4, 0.8)))
    memoryless = draw(st.booleans())
    populations = []
    for p in program.populations:
        kind = random.integers(0, 4, p.size)
        vth = min(p.vth, 60)
        bias = np.where(kind == 0, 0, np.where(kind == 1, vth + 1, np.where(kind == 2, vth // 2 + 1, -p.bias_mantissa)))
        bias = np.clip(bias, -4095, 4095).astype(np.int16)
        exponent = int(random.integers(4, 8))
        populations.append(
            replace(p, vth=vth, bias_mantissa=bias, bias_exponent=exponent, du=4096 if memoryless else p.du)
        )
    connections = []
    for c in program.connections:
        shape = c.synapses.connectivity
        keep = random.random(shape.n_synapses) < density

        connections.append(replace(c, synapses=c.synapses.keep_weights(keep)))
    program = replace(program, populations=tuple(populations), connections=tuple(connections))
    program.verify()
    return program, draw(strategies.samples(program))


@settings(max_examples=120)
@given(sparse_programs())
def test_no_output_spike_changes(case: tuple[Program, np.ndarray]) -> None:
    program, samples = case
    try:
        smaller, diagnostics = RemoveDeadNeurons().run(program)
    except SnncError as error:
        assert "carries anything" in error.message  # noqa: PT017 (one of two outcomes)
        return
    smaller.verify()
    assert same_output(program, smaller, samples)
    removed = program.input.size + sum(p.size for p in program.populations)
    removed -= smaller.input.size + sum(p.size for p in smaller.populations)
    assert sum(d.count for d in diagnostics) == removed
    assert smaller.output.size == program.output.size
    again, nothing = RemoveDeadNeurons().run(smaller)
    assert again == smaller
    assert nothing == []


@settings(max_examples=60)
@given(sparse_programs())
def test_whatever_is_left_is_alive(case: tuple[Program, np.ndarray]) -> None:
    program, _ = case
    try:
        smaller, _ = RemoveDeadNeurons().run(program)
    except SnncError:
        return
    for name in [smaller.input.name, *(p.name for p in smaller.populations[:-1])]:
        heard = sum(c.synapses.connectivity.fan_out for c in smaller.out_of(name))
        assert np.all(heard > 0)


@pytest.mark.parametrize("exponent", range(8))
def test_a_neuron_that_always_fires_becomes_a_bias(exponent: int) -> None:
    hidden = population("h", [0, 11])  # the second fires at every step
    program = chain(hidden, [[5], [0]], [[1, 3], [2, -2]], vth=4)
    output = replace(program.output, bias_mantissa=np.array([7, -3], np.int16), bias_exponent=exponent)
    program = replace(program, populations=(hidden, output))
    smaller, diagnostics = RemoveDeadNeurons().run(program)
    assert [d.code for d in diagnostics] == ["DED004"]
    assert smaller.populations[0].size == 1
    assert list(smaller.output.bias) == [(7 << exponent) + 3 * 64, (-3 << exponent) - 2 * 64]
    samples = np.arange(0, 256, 15, dtype=np.uint8)[:, None]
    assert same_output(program, smaller, samples)


def test_a_neuron_that_fires_now_and_then_stays() -> None:
    program = chain(population("h", [0, 6]), [[5], [0]], [[1, 3]])  # 6 + 6 > 10: every second step
    smaller, diagnostics = RemoveDeadNeurons().run(program)
    assert smaller == program
    assert diagnostics == []


@pytest.mark.parametrize("why", ["decay", "bias", "wrap"])
def test_what_a_bias_cannot_say_is_not_folded(why: str) -> None:
    hidden = population("h", [0, 11])
    weights = [[1, 3]]
    program = chain(hidden, [[5], [0]], weights, du=4095 if why == "decay" else 4096)
    if why == "bias":  # 4095 * 2**7 and 3 * 64 more fit no register
        output = replace(program.output, bias_mantissa=np.array([4095], np.int16), bias_exponent=7)
        program = replace(program, populations=(hidden, output))
    if why == "wrap":
        far = connection("h", "out", [[127, 127]], exponent=10)
        program = replace(program, connections=(program.connections[0], far))
    smaller, diagnostics = RemoveDeadNeurons().run(program)
    assert diagnostics == []
    assert smaller == program


def test_folding_where_the_current_wraps_would_change_a_spike() -> None:
    """64 * 2**17 + 64 * 2**12 is above 2**23 and wraps; with the second part as a bias, the current would not."""
    hidden = population("h", [0, 11], vth=10)
    program = chain(hidden, [[127], [0]], [[1, 1]], vth=100)
    heavy = IntegerSynapses(program.connections[1].synapses.connectivity, np.array([64, 2], np.int16), 11, 8, "mixed")
    program = replace(program, connections=(program.connections[0], replace(program.connections[1], synapses=heavy)))
    smaller, _ = RemoveDeadNeurons().run(program)
    assert same_output(program, smaller, np.array([[255], [0]], np.uint8))


def test_never_firing_and_unheard_neurons_go() -> None:
    hidden = population("h", [0, -5, 0, 3])
    program = chain(hidden, [[5, 0], [0, 0], [5, 5], [5, 0]], [[1, 2, 0, 1]])
    smaller, diagnostics = RemoveDeadNeurons().run(program)
    assert {(d.code, d.where): d.count for d in diagnostics} == {
        ("DED001", "input"): 1,  # once the third hidden neuron is gone, nobody listens to the second input
        ("DED002", "h"): 1,
        ("DED003", "h"): 1,
    }
    assert list(smaller.populations[0].bias_mantissa) == [0, 3]
    assert list(smaller.input.channels) == [0]


def test_a_layer_without_a_living_neuron_is_refused() -> None:
    program = chain(population("h", [0, 0]), [[1], [1]], [[0, 0]])
    with pytest.raises(SnncError, match="no neuron of 'h' carries anything") as caught:
        RemoveDeadNeurons().run(program)
    assert caught.value.where == "h"


def test_a_dead_population_beside_a_living_one_goes_as_a_whole() -> None:
    alive, dead = population("a", [0]), population("b", [0, 0])
    program = Program(
        "branches",
        make_input("graded", "input", 2),
        (alive, dead, population("out", [0])),
        (
            connection("input", "a", [[5, 0]]),
            connection("input", "b", [[0, 1], [0, 1]]),
            connection("a", "out", [[20]]),
            connection("b", "out", [[0, 0]]),
        ),
        4,
    )
    program.verify()
    smaller, _ = RemoveDeadNeurons().run(program)
    smaller.verify()
    assert [p.name for p in smaller.populations] == ["a", "out"]
    assert smaller.input.size == 1
    samples = np.array([[0, 3], [200, 0], [9, 9]], np.uint8)
    assert same_output(program, smaller, samples)


@given(st.lists(st.integers(-(2**22), 2**22), min_size=1, max_size=6), st.integers(0, 9))
def test_exact_bias_is_exact_or_none(values: list[int], shift: int) -> None:
    bias = np.array(values, np.int64) << shift
    found = exact_bias(bias)
    possible = any(np.all(bias % 2**e == 0) and np.all(np.abs(bias) // 2**e <= 4095) for e in range(8))
    assert (found is not None) == possible
    if found is not None:
        mantissa, exponent = found
        assert 0 <= exponent <= 7
        assert np.abs(mantissa.astype(int)).max() <= 4095
        assert np.array_equal(mantissa.astype(np.int64) << exponent, bias)


@given(st.lists(st.floats(-6e5, 6e5), min_size=1, max_size=6), st.integers(0, 7))
def test_nearest_bias_is_nearest_at_the_smallest_exponent(values: list[float], least: int) -> None:
    bias = np.array(values)
    mantissa, exponent, clipped = nearest_bias(bias, least)
    assert least <= exponent <= 7
    held = mantissa.astype(float) * 2.0**exponent
    assert np.all((np.abs(held - bias) <= 2.0**exponent / 2) | clipped)
    assert np.all(np.abs(held[clipped]) == 4095 * 128)
    if exponent > least:
        assert np.rint(np.abs(bias).max() / 2 ** (exponent - 1)) > 4095

"""The bounds hold for every state that the simulator reaches, and are met by some."""

from __future__ import annotations

import numpy as np
import strategies
from hypothesis import given, settings
from hypothesis import strategies as st

from toolchain.ir import Compartments, Connectivity, IntegerConnection, IntegerSynapses, Program, make_input
from toolchain.ir.arithmetic import STATE_LIMIT
from toolchain.passes.bounds import bound_diagnostics, state_bounds


def states(program: Program, samples: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Every sum, current and potential before its reset that a run meets: name -> arrays (steps, samples, size)."""
    sent = {program.input.name: program.input.encode(samples, program.steps)}
    found = {}
    for p in program.populations:
        state = p.start(len(samples))
        sums, currents, potentials, spikes = [], [], [], []
        for t in range(program.steps):
            a = np.zeros_like(state.u)
            for c in program.into(p.name):
                dense = c.synapses.connectivity.dense(c.synapses.values)
                total = sent[c.source][t] @ dense.T
                a = a + (program.input.inject(total) if c.source == program.input.name else total)
            # The definition once more, without wrap, clip and reset: what the registers would have to hold.
            raw_u = np.sign(state.u) * ((np.abs(state.u) * (4096 - p.du)) >> 12) + (a << 6)
            raw_v = np.sign(state.v) * ((np.abs(state.v) * (4096 - p.dv)) >> 12) + raw_u + p.bias
            state, fired = p.step(state, a)
            sums.append(a)
            currents.append(raw_u)
            potentials.append(raw_v)
            spikes.append(fired.astype(np.int64))
        sent[p.name] = np.stack(spikes)
        found[p.name] = (np.stack(sums), np.stack(currents), np.stack(potentials))
    return found


def adversarial(program: Program, random: np.random.Generator) -> np.ndarray:
    """Black, white, each sign pattern of the first weights, and noise."""
    n = program.input.sample_size
    rows = [np.zeros(n), np.full(n, 255), *random.integers(0, 256, (3, n))]
    for c in program.out_of(program.input.name):
        dense = c.synapses.connectivity.dense(c.synapses.values)
        for target in range(dense.shape[0]):
            for sign in (1, -1):
                row = np.zeros(n)
                row[program.input.channels] = np.where(sign * dense[target] > 0, 255, 0)
                rows.append(row)
    samples = np.array(rows).astype(np.uint8)
    if program.input.coding == "spikes":
        return np.repeat(samples[:, None] >> 7, program.steps, axis=1)
    return samples


@settings(max_examples=80)
@given(strategies.programs(max_layers=3, max_size=6), st.integers(0, 2**32 - 1))
def test_no_state_leaves_its_bound(program: Program, seed: int) -> None:
    samples = adversarial(program, np.random.default_rng(seed))
    found = states(program, samples)
    for bound in state_bounds(program):
        sums, currents, potentials = found[bound.population]
        assert bound.sum_low <= sums.min()
        assert sums.max() <= bound.sum_high
        assert bound.u_proved
        assert np.abs(currents).max() <= bound.u
        if bound.v_proved:
            assert bound.v_low <= potentials.min()
            assert potentials.max() <= bound.v_high


def one_neuron(
    weights: list[int], *, du: int = 4096, dv: int = 0, vth: int = 100, bias: int = 0, steps: int = 8, exponent: int = 0
) -> Program:
    connectivity = Connectivity.from_mask(np.ones((1, len(weights)), bool))
    synapses = IntegerSynapses(connectivity, np.array(weights, np.int16), exponent, 8, "mixed")
    program = Program(
        "one",
        make_input("rate", "input", len(weights)),
        (Compartments("out", 1, du, dv, vth, np.array([bias], np.int16)),),
        (IntegerConnection("fc", "input", "out", synapses),),
        steps,
    )
    program.verify()
    return program


def test_bounds_are_met_without_decay() -> None:
    program = one_neuron([-7, -3, 5], bias=-2, vth=10_000)
    (bound,) = state_bounds(program)
    assert (bound.sum_low, bound.sum_high, bound.u) == (-10, 5, 640)
    _, currents, potentials = states(program, np.array([[255, 255, 0]], np.uint8))["out"]
    assert currents.min() == -bound.u
    assert potentials.min() == bound.v_low == 8 * (-640 - 128)


def test_bounds_are_nearly_met_with_decay() -> None:
    program = one_neuron([-100, -100], du=512, dv=256, vth=10_000, steps=40)
    (bound,) = state_bounds(program)
    _, currents, potentials = states(program, np.full((1, 2), 255, np.uint8))["out"]
    assert 0.95 * bound.u <= -currents.min() <= bound.u
    assert bound.v_low <= potentials.min() <= 0.4 * bound.v_low


def test_a_current_that_may_wrap_is_reported_and_nothing_is_claimed_of_the_potential() -> None:
    one_below = one_neuron([127] * 8, exponent=7)  # 127 * 8 * 2**7 * 64 = 8323072
    assert state_bounds(one_below)[0].u <= STATE_LIMIT
    assert [d.code for d in bound_diagnostics(state_bounds(one_below))] == []
    wraps = one_neuron([127] * 9, exponent=7)
    assert [d.code for d in bound_diagnostics(state_bounds(wraps))] == ["BND001"]
    assert not state_bounds(wraps)[0].v_proved
    saturates = one_neuron([-127] * 8, exponent=7)  # eight steps downward without a floor
    assert [d.code for d in bound_diagnostics(state_bounds(saturates))] == ["BND002"]

"""One neuron at a time, in plain Python, against both kinds of population."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolchain.errors import SnncError
from toolchain.ir import LIF, Compartments


def slow(sums: list[int], *, du: int, dv: int, vth: int, bias: int, reset: str, refractory: int) -> list[tuple]:
    """(u, v, spike) of one compartment after each step: the equations, written once more with Python's integers."""

    def shrink(x: int, amount: int) -> int:
        magnitude = abs(x) * (4096 - amount) // 4096
        return magnitude if x >= 0 else -magnitude

    u = v = wait = 0
    out = []
    for a in sums:
        u = shrink(u, du) + a * 64
        assert abs(u) < 1 << 23, "no wrap in this test"
        v = max(-(2**23) + 1, min(2**23 - 1, shrink(v, dv) + u + bias))
        waiting = wait > 0
        if waiting:
            v, wait = 0, wait - 1
        fired = reset != "none" and v > vth * 64
        if fired:
            v = v - vth * 64 if reset == "subtract" else 0
            wait = refractory
        out.append((u, v, fired))
    return out


@given(
    st.lists(st.integers(-300, 300), min_size=1, max_size=12),
    st.fixed_dictionaries(
        {
            "du": st.integers(1, 4096),
            "dv": st.integers(0, 4095),
            "vth": st.integers(0, 200),
            "bias": st.integers(-4000, 4000),
        }
    ),
    st.sampled_from([("zero", 0), ("zero", 1), ("zero", 3), ("subtract", 0), ("none", 0)]),
)
def test_a_compartment_is_its_equations(sums: list[int], registers: dict[str, int], kind: tuple[str, int]) -> None:
    expected = slow(sums, **registers, reset=kind[0], refractory=kind[1])
    bias = np.full(1, registers.pop("bias"), np.int16)
    scalar = Compartments("n", 1, **registers, bias_mantissa=bias, bias_exponent=0, reset=kind[0], refractory=kind[1])
    arrays = {name: np.full(1, value, np.int32) for name, value in registers.items()}
    single = Compartments("n", 1, **arrays, bias_mantissa=bias, bias_exponent=0, reset=kind[0], refractory=kind[1])
    scalar.verify()
    assert single == scalar
    for neurons in (scalar, single):
        state = neurons.start(1)
        found = []
        for a in sums:
            state, fired = neurons.step(state, np.full((1, 1), a))
            found.append((int(state.u[0, 0]), int(state.v[0, 0]), bool(fired[0, 0])))
        assert found == expected


def test_a_neuron_that_waits_keeps_its_current() -> None:
    neuron = LIF("n", 1, 1.0, 1.0, 0.5, 0.0, np.zeros(1, np.float32), refractory=2)
    state = neuron.start(1)
    seen = []
    for a in (4.0, 0.0, 0.0, 0.0, 0.0):
        state, fired = neuron.step(state, np.full((1, 1), a))
        seen.append((float(state.u[0, 0]), float(state.v[0, 0]), bool(fired[0, 0])))
    assert seen == [(4, 0, True), (2, 0, False), (1, 0, False), (0.5, 0.5, False), (0.25, 0.75, False)]


def test_each_neuron_has_its_own_registers() -> None:
    vth = np.array([1, 5, 9], np.int32)
    neurons = Compartments("n", 3, 4096, 0, vth, np.zeros(3, np.int16))
    _, fired = neurons.step(neurons.start(1), np.full((1, 3), 6))
    assert fired[0].tolist() == [True, True, False]
    kept = neurons.keep(np.array([True, False, True]))
    assert (kept.size, np.asarray(kept.vth).tolist()) == (2, [1, 9])


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"reset": "half"}, "n.reset"),
        ({"refractory": 63}, "n.refractory"),
        ({"refractory": 1, "reset": "subtract"}, "n.refractory"),
        ({"vth": np.array([1, -1, 3], np.int32)}, "n.vth"),
        ({"du": np.array([1, 2], np.int32)}, "n.du"),
    ],
)
def test_what_has_no_meaning_is_refused(fields: dict, where: str) -> None:
    registers = {"du": 4096, "dv": 0, "vth": 3, "bias_mantissa": np.zeros(3, np.int16), **fields}
    with pytest.raises(SnncError) as error:
        Compartments("n", 3, **registers).verify()
    assert error.value.where == where
    assert error.value.allowed

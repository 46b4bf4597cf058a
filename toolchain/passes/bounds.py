"""How large sums and states can become: facts about a program, proved from its weights and decays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import Diagnostic
from toolchain.ir import Compartments, IntegerSynapses, Program
from toolchain.ir.arithmetic import DECAY_ONE, STATE_LIMIT, STATE_SHIFT


@dataclass(frozen=True)
class Bounds:
    """What the state of one population can reach at most, in units of its lowest bit."""

    population: str
    sum_low: int
    sum_high: int
    u: int
    v_low: int
    v_high: int
    ceiling: int | None = None
    """Of a readout: the chip's threshold, which its potential must not pass, as nothing can switch the spike off."""

    @property
    def u_proved(self) -> bool:
        """Whether the synaptic current can never reach the 24 bit wrap."""
        return self.u <= STATE_LIMIT

    @property
    def v_proved(self) -> bool:
        """Whether the membrane potential can never reach its saturation (its bound stands on that of the current)."""
        return self.u_proved and max(self.v_high, -self.v_low) <= STATE_LIMIT

    @property
    def silence_proved(self) -> bool:
        """Whether a readout can never reach the threshold that its compartments have on the chip."""
        return self.ceiling is None or (self.u_proved and self.v_high <= self.ceiling)


def sum_bounds(synapses: IntegerSynapses, payload_max: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Least and greatest synaptic sum of every target neuron, over all patterns of spikes; shape (n_targets,)."""
    mantissa, pattern = synapses.mantissa, synapses.connectivity
    unit = payload_max << synapses.exponent
    return pattern.target_sums(np.minimum(mantissa, 0)) * unit, pattern.target_sums(np.maximum(mantissa, 0)) * unit


def state_bounds(program: Program) -> tuple[Bounds, ...]:
    """Bounds for every population. Rounding toward zero only ever shrinks a state, so real decay bounds it.

    |u| <= 64 * max|a| * (1 + r + ... + r**(steps-1)) with r = 1 - du/4096.
    Upward, v <= r_v * (what the step before left) + u + bias, and what it left is at most the threshold, or, where a
    spike takes the threshold away, as much above it as v was; a readout keeps everything. Downward there is no such
    ceiling: v >= (min u + bias) * (1 + r_v + ...), if that is negative. A neuron that waits only ever has less.
    """
    found = []
    for p in program.populations:
        low, high = np.zeros(p.size, np.int64), np.zeros(p.size, np.int64)
        for c in program.into(p.name):
            from_input = c.source == program.input.name
            below, above = sum_bounds(c.synapses, program.input.payload_max if from_input else 1)
            if from_input:
                below, above = program.input.inject(below), program.input.inject(above)
            low, high = low + below, high + above
        grow_u = _geometric(1 - np.asarray(p.du) / DECAY_ONE, program.steps)
        u_low, u_high = (low << STATE_SHIFT) * grow_u, (high << STATE_SHIFT) * grow_u
        rest = 1 - np.asarray(p.dv) / DECAY_ONE
        v_high = _highest(p, np.maximum(u_high + p.bias, 0), rest, program.steps)
        v_low = np.minimum(u_low + p.bias, 0) * _geometric(rest, program.steps)
        found.append(
            Bounds(
                population=p.name,
                sum_low=int(low.min(initial=0)),
                sum_high=int(high.max(initial=0)),
                u=int(np.ceil(max(u_high.max(initial=0.0), -u_low.min(initial=0.0)))),
                v_low=int(np.floor(v_low.min(initial=0.0))),
                v_high=int(np.ceil(v_high.max(initial=0.0))),
                ceiling=None if p.spiking else int(np.min(p.vth)) << STATE_SHIFT,
            )
        )
    return tuple(found)


def _highest(p: Compartments, drive: NDArray[np.float64], rest: NDArray[np.float64], steps: int) -> NDArray[np.float64]:
    """The largest membrane potential before any reset, when every step adds `drive`, shape (size,)."""
    theta = np.asarray(p.vth, np.float64) * (1 << STATE_SHIFT)
    if p.reset == "zero":
        return rest * theta + drive
    if p.reset == "none":
        return drive * _geometric(rest, steps)
    v = drive
    for _ in range(1, steps):
        v = rest * np.maximum(theta, v - theta) + drive
    return np.maximum(v, drive)


def bound_diagnostics(bounds: tuple[Bounds, ...]) -> list[Diagnostic]:
    """A warning for each population whose state is not proved to stay inside its register."""
    diagnostics = []
    for b in bounds:
        if not b.u_proved:
            diagnostics.append(
                Diagnostic(
                    "BND001",
                    b.population,
                    f"the synaptic current may wrap: it is only proved to stay within {b.u}",
                    1,
                    f"24 bits hold {STATE_LIMIT}; use fewer bits or a smaller fan-in",
                )
            )
        elif not b.v_proved:
            diagnostics.append(
                Diagnostic(
                    "BND002",
                    b.population,
                    f"the membrane potential may saturate: it is only proved to stay within {b.v_low}..{b.v_high}",
                    1,
                    f"it stops at +-{STATE_LIMIT} on the chip and in every simulator alike",
                )
            )
        if not b.silence_proved:
            diagnostics.append(
                Diagnostic(
                    "BND003",
                    b.population,
                    f"a readout may spike on the chip: its potential is only proved to stay below {b.v_high}",
                    1,
                    f"the highest threshold is {b.ceiling}; simulators never let it spike; use fewer weight bits",
                )
            )
    return diagnostics


def _geometric(ratio: NDArray[np.float64], terms: int) -> NDArray[np.float64]:
    """1 + ratio + ... + ratio**(terms - 1), for each ratio of 0 to 1."""
    ratio = np.asarray(ratio, np.float64)
    apart = np.where(ratio == 1.0, 0.0, ratio)
    return np.where(ratio == 1.0, float(terms), (1 - apart**terms) / (1 - apart))

"""Populations of neurons: the trained one in physical units and the compartments that a chip updates.

Both keep the same three pieces of state between steps: the synaptic current u, the membrane potential v, and the steps
that a neuron still has to wait after a spike (its refractory period).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import SnncError
from toolchain.ir.arithmetic import (
    BIAS_EXPONENT_LIMIT,
    BIAS_LIMIT,
    DECAY_ONE,
    STATE_SHIFT,
    THRESHOLD_LIMIT,
    clip,
    decay,
    wrap24,
)

RESETS = ("zero", "subtract", "none")
"""What a spike does to the membrane potential; `none` is a readout, which never spikes."""
REFRACTORY_LIMIT = 62
"""Most steps that a neuron can wait: the register holds one more, 1 to 63."""

Integers = int | NDArray[np.int32]
"""One value for all neurons, or one a neuron."""
Reals = float | NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class State:
    """State of a population, each of shape (samples, size). wait: steps for which v still stays 0."""

    u: NDArray
    v: NDArray
    wait: NDArray[np.int8]


@dataclass(frozen=True, eq=False)
class LIF:
    """Leaky integrate-and-fire neurons in physical units.

        u[t] = (1 - current_decay) u[t-1] + gain * (sum of weight * spike)
        v[t] = (1 - voltage_decay) v[t-1] + u[t] + gain * bias, or 0 while the neuron waits
        spike[t] = v[t] > threshold

    Where it spiked, `reset` "zero" sets v to 0 and "subtract" takes the threshold away; then v stays 0 for
    `refractory` steps (u goes on). A population with reset "none" never spikes: its membrane potential is read.
    Grad R's neuron, `v += (x - v) / tau`, is current_decay 1 and gain = voltage_decay = 1 / tau; an integrate-and-fire
    neuron is current_decay 1, voltage_decay 0, gain 1.

    size: number of neurons.  bias: float32, shape (size,).  current_decay in (0, 1], voltage_decay in [0, 1] (1 keeps
    nothing, where the register ends at 4095 / 4096), threshold above 0: one number, or float64 of shape (size,).
    refractory: steps, only with reset "zero".
    Source: Fang et al. 2021 (LIF of SpikingJelly), Davies et al. 2018 (current and voltage decay, refractory period).
    """

    name: str
    size: int
    threshold: Reals
    gain: float
    current_decay: Reals
    voltage_decay: Reals
    bias: NDArray[np.float32]
    reset: str = "zero"
    refractory: int = 0

    @property
    def spiking(self) -> bool:
        """Whether it sends spikes; if not, its membrane potential is the network's answer."""
        return self.reset != "none"

    def start(self, samples: int) -> State:
        """The state before the first step: all zeros."""
        zeros = np.zeros((samples, self.size))
        return State(zeros, zeros, np.zeros(zeros.shape, np.int8))

    def step(self, state: State, a: NDArray[np.float64]) -> tuple[State, NDArray[np.bool_]]:
        """One time step with the weighted sums `a`, shape (samples, size); the new state and the spikes."""
        u = (1.0 - self.current_decay) * state.u + self.gain * a
        v = (1.0 - self.voltage_decay) * state.v + u + self.gain * self.bias.astype(np.float64)
        return _fire(self, u, v, state.wait, self.threshold)

    def keep(self, neurons: NDArray[np.bool_]) -> LIF:
        """The marked neurons alone."""
        parts = {name: _part(getattr(self, name), neurons) for name in ("threshold", "current_decay", "voltage_decay")}
        return replace(self, size=int(neurons.sum()), bias=self.bias[neurons], **parts)

    def verify(self) -> None:
        """Raise SnncError for a parameter that has no meaning, naming the field."""

        def each(value: Reals) -> NDArray[np.float64]:
            return np.atleast_1d(np.asarray(value, np.float64))

        theta, du, dv = each(self.threshold), each(self.current_decay), each(self.voltage_decay)
        checks = (
            ("size", self.size, self.size >= 1, "1 or more"),
            ("threshold", self.threshold, bool(np.isfinite(theta).all() and (theta > 0).all()), "more than 0"),
            ("gain", self.gain, np.isfinite(self.gain) and self.gain > 0, "more than 0"),
            ("current_decay", self.current_decay, bool(((du > 0) & (du <= 1)).all()), "more than 0, at most 1"),
            ("voltage_decay", self.voltage_decay, bool(((dv >= 0) & (dv <= 1)).all()), "0 to 1"),
            ("bias", self.bias.shape, self.bias.shape == (self.size,), f"shape ({self.size},)"),
            ("bias", "NaN or infinite", bool(np.isfinite(self.bias).all()), "finite numbers"),
            *_common_checks(self),
        )
        for field, got, ok, allowed in checks:
            if not ok:
                raise SnncError(f"{field} has no meaning", where=f"{self.name}.{field}", got=got, allowed=allowed)
        _check_shapes(self, ("threshold", "current_decay", "voltage_decay"))


@dataclass(frozen=True, eq=False)
class Compartments:
    """A population as a chip updates it, in integers (trunc rounds toward zero).

        u[t] = wrap24(trunc(u[t-1] * (4096 - du) / 4096) + (a[t] << 6))
        v[t] = clip(trunc(v[t-1] * (4096 - dv) / 4096) + u[t] + bias, -(2**23 - 1), 2**23 - 1), or 0 while it waits
        spike[t] = v[t] > (vth << 6)

    Where it spiked, `reset` "zero" sets v to 0 and "subtract" takes vth << 6 away; then v stays 0 for `refractory`
    steps (u goes on). A population with reset "none" never spikes: its membrane potential is read.

    du: effective current decay, 1 to 4096 (the register holds du - 1).  dv: voltage decay, 0 to 4095.
    vth: threshold mantissa, 0 to 2**17 - 1. Each is one integer, or int32 of shape (size,).  refractory: steps, 0 to
    62 (the register holds one more), only with reset "zero".  bias = bias_mantissa * 2**bias_exponent; mantissa int16,
    shape (size,), magnitude at most 4095; exponent 0 to 7.  Source: docs/semantics.md.
    """

    name: str
    size: int
    du: Integers
    dv: Integers
    vth: Integers
    bias_mantissa: NDArray[np.int16]
    bias_exponent: int = STATE_SHIFT
    reset: str = "zero"
    refractory: int = 0

    @property
    def spiking(self) -> bool:
        """Whether it sends spikes; if not, its membrane potential is the network's answer."""
        return self.reset != "none"

    @property
    def bias(self) -> NDArray[np.int64]:
        """The bias as it is added to the membrane potential, shape (size,)."""
        return self.bias_mantissa.astype(np.int64) << self.bias_exponent

    def per_neuron(self, field: str) -> NDArray[np.int32]:
        """One of du, dv, vth for every neuron, shape (size,)."""
        return np.broadcast_to(np.asarray(getattr(self, field), np.int32), (self.size,))

    def start(self, samples: int) -> State:
        """The state before the first step: all zeros."""
        zeros = np.zeros((samples, self.size), np.int64)
        return State(zeros, zeros, np.zeros(zeros.shape, np.int8))

    def step(self, state: State, a: NDArray[np.int64]) -> tuple[State, NDArray[np.bool_]]:
        """One time step with the synaptic sums `a`, shape (samples, size); the new state and the spikes."""
        u = wrap24(decay(state.u, self.du) + (a << STATE_SHIFT))
        v = clip(decay(state.v, self.dv) + u + self.bias)
        return _fire(self, u, v, state.wait, np.asarray(self.vth, np.int64) << STATE_SHIFT)

    def keep(self, neurons: NDArray[np.bool_]) -> Compartments:
        """The marked neurons alone."""
        parts = {name: _part(getattr(self, name), neurons) for name in ("du", "dv", "vth")}
        return replace(self, size=int(neurons.sum()), bias_mantissa=self.bias_mantissa[neurons], **parts)

    def verify(self) -> None:
        """Raise SnncError for a register value that the chip does not have, naming the field."""
        _check_shapes(self, ("du", "dv", "vth"))
        bias = self.bias_mantissa
        magnitude = int(np.abs(bias.astype(np.int64)).max(initial=0))
        checks = (
            ("size", self.size, self.size >= 1, "1 or more"),
            ("du", self.du, _within(self.du, 1, DECAY_ONE), "1 to 4096"),
            ("dv", self.dv, _within(self.dv, 0, DECAY_ONE - 1), "0 to 4095"),
            ("vth", self.vth, _within(self.vth, 0, THRESHOLD_LIMIT), f"0 to {THRESHOLD_LIMIT}"),
            ("bias_mantissa", bias.shape, bias.shape == (self.size,), f"shape ({self.size},)"),
            ("bias_mantissa", magnitude, magnitude <= BIAS_LIMIT, f"magnitude at most {BIAS_LIMIT}"),
            ("bias_exponent", self.bias_exponent, 0 <= self.bias_exponent <= BIAS_EXPONENT_LIMIT, "0 to 7"),
            *_common_checks(self),
        )
        for field, got, ok, allowed in checks:
            if not ok:
                raise SnncError(f"{field} is out of range", where=f"{self.name}.{field}", got=got, allowed=allowed)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Compartments)
            and (self.name, self.size, self.bias_exponent, self.reset, self.refractory)
            == (other.name, other.size, other.bias_exponent, other.reset, other.refractory)
            and all(np.array_equal(self.per_neuron(f), other.per_neuron(f)) for f in ("du", "dv", "vth"))
            and np.array_equal(self.bias_mantissa, other.bias_mantissa)
        )

    __hash__ = None  # type: ignore[assignment]


Neurons = LIF | Compartments


def _fire(
    neurons: Neurons, u: NDArray, v: NDArray, wait: NDArray[np.int8], threshold: object
) -> tuple[State, NDArray[np.bool_]]:
    """The part that both units share: waiting, the spike, the reset."""
    if not neurons.spiking:
        return State(u, v, wait), np.zeros(v.shape, bool)
    if neurons.refractory:
        v = np.where(wait > 0, 0, v)
    fired = v > threshold
    v = np.where(fired, v - threshold if neurons.reset == "subtract" else 0, v)
    if neurons.refractory:
        wait = np.where(fired, neurons.refractory, np.maximum(wait - 1, 0)).astype(np.int8)
    return State(u, v, wait), fired


def _common_checks(neurons: Neurons) -> tuple[tuple[str, object, bool, str], ...]:
    wait = neurons.refractory
    return (
        ("reset", neurons.reset, neurons.reset in RESETS, ", ".join(RESETS)),
        ("refractory", wait, 0 <= wait <= REFRACTORY_LIMIT, f"0 to {REFRACTORY_LIMIT} steps"),
        ("refractory", wait, not wait or neurons.reset == "zero", "0, or reset to zero"),
    )


def _check_shapes(neurons: Neurons, fields: tuple[str, ...]) -> None:
    for field in fields:
        shape = np.shape(getattr(neurons, field))
        if shape not in ((), (neurons.size,)):
            raise SnncError(
                f"{field} has the wrong shape",
                where=f"{neurons.name}.{field}",
                got=shape,
                allowed=f"one number, or shape ({neurons.size},)",
            )


def _within(value: Integers, low: int, high: int) -> bool:
    values = np.asarray(value)
    return bool((values >= low).all() and (values <= high).all())


def _part(value: Any, neurons: NDArray[np.bool_]) -> Any:
    return value[neurons] if isinstance(value, np.ndarray) and value.ndim else value

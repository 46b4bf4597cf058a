"""Populations of neurons: the trained one in physical units and the compartments that a chip updates."""

from __future__ import annotations

from dataclasses import dataclass, replace

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


@dataclass(frozen=True, eq=False)
class LIF:
    """Leaky integrate-and-fire neurons in physical units.

        u[t] = (1 - current_decay) u[t-1] + gain * (sum of weight * spike)
        v[t] = (1 - voltage_decay) v[t-1] + u[t] + gain * bias
        spike[t] = v[t] > threshold;  v[t] = 0 where it spiked

    Grad R's neuron, `v += (x - v) / tau`, is current_decay 1 and gain = voltage_decay = 1 / tau.

    size: number of neurons.  bias: float32, shape (size,).  current_decay in (0, 1], voltage_decay in [0, 1).
    Source: Fang et al. 2021 (LIF of SpikingJelly), Davies et al. 2018 (current and voltage decay).
    """

    name: str
    size: int
    threshold: float
    gain: float
    current_decay: float
    voltage_decay: float
    bias: NDArray[np.float32]

    def step(
        self, u: NDArray[np.float64], v: NDArray[np.float64], a: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
        """One time step of state (samples, size) with the weighted sums `a`; new u, v and the spikes."""
        u = (1.0 - self.current_decay) * u + self.gain * a
        v = (1.0 - self.voltage_decay) * v + u + self.gain * self.bias
        fired = v > self.threshold
        return u, np.where(fired, 0.0, v), fired

    def verify(self) -> None:
        """Raise SnncError for a parameter that has no meaning, naming the field."""
        checks = (
            ("size", self.size, self.size >= 1, "1 or more"),
            ("threshold", self.threshold, np.isfinite(self.threshold) and self.threshold > 0, "more than 0"),
            ("gain", self.gain, np.isfinite(self.gain) and self.gain > 0, "more than 0"),
            ("current_decay", self.current_decay, 0 < self.current_decay <= 1, "more than 0, at most 1"),
            ("voltage_decay", self.voltage_decay, 0 <= self.voltage_decay < 1, "at least 0, less than 1"),
            ("bias", self.bias.shape, self.bias.shape == (self.size,), f"shape ({self.size},)"),
            ("bias", "NaN or infinite", bool(np.isfinite(self.bias).all()), "finite numbers"),
        )
        for field, got, ok, allowed in checks:
            if not ok:
                raise SnncError(f"{field} has no meaning", where=f"{self.name}.{field}", got=got, allowed=allowed)


@dataclass(frozen=True, eq=False)
class Compartments:
    """A population as a chip updates it, in integers (trunc rounds toward zero).

        u[t] = wrap24(trunc(u[t-1] * (4096 - du) / 4096) + (a[t] << 6))
        v[t] = clip(trunc(v[t-1] * (4096 - dv) / 4096) + u[t] + bias, -(2**23 - 1), 2**23 - 1)
        spike[t] = v[t] > (vth << 6);  v[t] = 0 where it spiked

    du: effective current decay, 1 to 4096 (the register holds du - 1).  dv: voltage decay, 0 to 4095.
    vth: threshold mantissa, 0 to 2**17 - 1.  bias = bias_mantissa * 2**bias_exponent; mantissa int16, shape
    (size,), magnitude at most 4095; exponent 0 to 7.  Source: docs/semantics.md.
    """

    name: str
    size: int
    du: int
    dv: int
    vth: int
    bias_mantissa: NDArray[np.int16]
    bias_exponent: int = STATE_SHIFT

    @property
    def bias(self) -> NDArray[np.int64]:
        """The bias as it is added to the membrane potential, shape (size,)."""
        return self.bias_mantissa.astype(np.int64) << self.bias_exponent

    def step(
        self, u: NDArray[np.int64], v: NDArray[np.int64], a: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """One time step of state (samples, size) with the synaptic sums `a`; new u, v and the spikes."""
        u = wrap24(decay(u, self.du) + (a << STATE_SHIFT))
        v = clip(decay(v, self.dv) + u + self.bias)
        fired = v > (self.vth << STATE_SHIFT)
        return u, np.where(fired, 0, v), fired

    def keep(self, neurons: NDArray[np.bool_]) -> Compartments:
        """The marked neurons alone."""
        return replace(self, size=int(neurons.sum()), bias_mantissa=self.bias_mantissa[neurons])

    def verify(self) -> None:
        """Raise SnncError for a register value that the chip does not have, naming the field."""
        bias = self.bias_mantissa
        magnitude = int(np.abs(bias.astype(np.int64)).max(initial=0))
        checks = (
            ("size", self.size, self.size >= 1, "1 or more"),
            ("du", self.du, 1 <= self.du <= DECAY_ONE, "1 to 4096"),
            ("dv", self.dv, 0 <= self.dv < DECAY_ONE, "0 to 4095"),
            ("vth", self.vth, 0 <= self.vth <= THRESHOLD_LIMIT, f"0 to {THRESHOLD_LIMIT}"),
            ("bias_mantissa", bias.shape, bias.shape == (self.size,), f"shape ({self.size},)"),
            ("bias_mantissa", magnitude, magnitude <= BIAS_LIMIT, f"magnitude at most {BIAS_LIMIT}"),
            ("bias_exponent", self.bias_exponent, 0 <= self.bias_exponent <= BIAS_EXPONENT_LIMIT, "0 to 7"),
        )
        for field, got, ok, allowed in checks:
            if not ok:
                raise SnncError(f"{field} is out of range", where=f"{self.name}.{field}", got=got, allowed=allowed)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Compartments)
            and (self.name, self.size, self.du, self.dv, self.vth, self.bias_exponent)
            == (other.name, other.size, other.du, other.dv, other.vth, other.bias_exponent)
            and np.array_equal(self.bias_mantissa, other.bias_mantissa)
        )

    __hash__ = None  # type: ignore[assignment]

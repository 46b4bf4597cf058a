"""Spiking neurons, delays and sum pooling as torch modules, for networks that are written and trained in plain torch.

A module's `forward` computes one time step on a batch (B, ...) and keeps its state until `reset_state`; `run` does a
whole window. With nn.Linear, nn.Conv2d and pooling between them they make the networks that
`toolchain.from_torch` compiles. Max pooling of spikes is nn.MaxPool2d, concatenation torch.cat.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from toolchain.errors import SnncError, nearest
from toolchain.ir.neurons import REFRACTORY_LIMIT
from toolchain.training.architecture import DELAY_LIMIT
from toolchain.training.surrogates import SURROGATES, Surrogate, slope_of

RESETS = ("zero", "subtract")

Reals = float | Tensor
"""One number for all neurons, or a tensor that broadcasts over the neurons of a sample, (n,) or (C, 1, 1)."""


class _Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, distance: Tensor, surrogate: Surrogate, slope: float) -> Tensor:
        ctx.save_for_backward(distance)
        ctx.surrogate, ctx.slope = surrogate, slope
        return (distance > 0).to(distance.dtype)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (distance,) = ctx.saved_tensors
        return upstream * ctx.surrogate.derivative(distance * ctx.slope), None, None


class Stateful(nn.Module):
    """A module that remembers something between the steps of a sample."""

    def reset_state(self) -> None:
        """Forget it: the next step is the first of a sample."""
        raise NotImplementedError


def reset_state(module: nn.Module) -> None:
    """Clear the state of everything in a module, as the chip does between two samples."""
    for part in module.modules():
        if isinstance(part, Stateful):
            part.reset_state()


def run(module: nn.Module, x: Tensor) -> Tensor:
    """The module's outputs (T, B, ...) for inputs (T, B, ...), from a cleared state."""
    reset_state(module)
    return torch.stack([module(step) for step in x])


class Neurons(Stateful):
    """Neurons in the terms that all kinds share; with a the module's input and r the recurrent layer's output::

        u[t] = (1 - current_decay) u[t-1] + gain * (a[t] + r[t])
        v[t] = (1 - voltage_decay) v[t-1] + u[t], or 0 while the neuron waits
        spike[t] = v[t] > threshold

    Where it spiked, reset "zero" sets v to 0 and "subtract" takes the threshold away; then v stays 0 for `refractory`
    steps (u goes on). The gradient does not flow through the reset. This is `toolchain.ir.LIF`, step by step.

    threshold above 0, current_decay in (0, 1], voltage_decay in [0, 1): see `Reals`; an nn.Parameter is trained.
    refractory: steps, 0 to 62, only with reset "zero".  recurrent: an nn.Linear or nn.Conv2d from the layer's own
    spikes to its inputs, `delay` steps later (1 or more).  surrogate: a name of `SURROGATES`, with its own
    slope or another.

    Raises:
        SnncError: a parameter without meaning, naming it.
    """

    threshold: Reals
    gain: Reals
    current_decay: Reals
    voltage_decay: Reals

    def __init__(
        self,
        *,
        threshold: Reals,
        gain: Reals,
        current_decay: Reals,
        voltage_decay: Reals,
        reset: str = "zero",
        refractory: int = 0,
        recurrent: nn.Linear | nn.Conv2d | None = None,
        delay: int = 1,
        surrogate: str = "arctangent",
        slope: float | None = None,
    ) -> None:
        super().__init__()
        self._keep("threshold", threshold, lambda x: x > 0, "more than 0")
        self._keep("gain", gain, lambda x: x > 0, "more than 0")
        self._keep("current_decay", current_decay, lambda x: (x > 0) & (x <= 1), "more than 0, at most 1")
        self._keep("voltage_decay", voltage_decay, lambda x: (x >= 0) & (x < 1), "at least 0, less than 1")
        self._check("reset", reset, reset in (*RESETS, "none"), ", ".join(RESETS))
        whole = isinstance(refractory, int) and 0 <= refractory <= REFRACTORY_LIMIT
        self._check("refractory", refractory, whole, f"0 to {REFRACTORY_LIMIT} steps")
        self._check("refractory", refractory, not refractory or reset == "zero", "0, or reset 'zero'")
        self._check("delay", delay, isinstance(delay, int) and 1 <= delay <= DELAY_LIMIT, f"1 to {DELAY_LIMIT} steps")
        self._check("surrogate", surrogate, surrogate in SURROGATES, nearest(str(surrogate), SURROGATES))
        self.reset, self.refractory, self.delay, self.surrogate = reset, refractory, delay, surrogate
        self.slope = slope_of(surrogate, slope)
        self._check("slope", slope, self.slope > 0, "more than 0")
        self.recurrent = recurrent
        self.reset_state()

    def _keep(self, name: str, value: Reals, holds: Callable[[Tensor], Tensor], allowed: str) -> None:
        seen = torch.as_tensor(value)
        self._check(name, value, bool((torch.isfinite(seen) & holds(seen)).all()), allowed)
        if isinstance(value, nn.Parameter):
            self.register_parameter(name, value)
        elif isinstance(value, Tensor):
            self.register_buffer(name, value)
        else:
            setattr(self, name, float(value))

    def _check(self, name: str, got: object, ok: bool, allowed: object) -> None:
        if not ok:
            raise SnncError(f"{name} has no meaning", where=f"{type(self).__name__}.{name}", got=got, allowed=allowed)

    def reset_state(self) -> None:
        self._u: Tensor | None = None
        self._v: Tensor | None = None
        self._wait: Tensor | None = None
        self._sent: deque[Tensor] = deque()

    def _integrate(self, x: Tensor) -> Tensor:
        """The membrane potential before the spike."""
        if self.recurrent is not None:
            if not self._sent:
                self._sent.extend(torch.zeros_like(x) for _ in range(self.delay))
            x = x + self.recurrent(self._sent.popleft())
        zero = torch.zeros_like(x)
        u = (1.0 - self.current_decay) * (zero if self._u is None else self._u) + self.gain * x
        v = (1.0 - self.voltage_decay) * (zero if self._v is None else self._v) + u
        if self._wait is not None:
            v = v.masked_fill(self._wait > 0, 0.0)
        self._u = u
        return v

    def forward(self, x: Tensor) -> Tensor:
        """Spikes of one step, 0 or 1 in the type of x, for weighted sums x (B, ...)."""
        v = self._integrate(x)
        spikes: Tensor = _Spike.apply(v - self.threshold, SURROGATES[self.surrogate], self.slope)
        fired = spikes.detach()
        self._v = v - fired * self.threshold if self.reset == "subtract" else v * (1 - fired)
        if self.refractory:
            wait = torch.zeros_like(fired) if self._wait is None else self._wait
            self._wait = torch.where(fired > 0, float(self.refractory), (wait - 1).clamp(min=0))
        if self.recurrent is not None:
            self._sent.append(spikes)
        return spikes

    def extra_repr(self) -> str:
        parts = []
        for name in ("threshold", "gain", "current_decay", "voltage_decay"):
            value = getattr(self, name)
            parts.append(f"{name}={tuple(value.shape) if isinstance(value, Tensor) else f'{value:g}'}")
        parts.append(f"reset={self.reset!r}, refractory={self.refractory}")
        return ", ".join(parts)


class LIF(Neurons):
    """Leaky integrate-and-fire: v += (x - v) / tau, so a steady input x drives v to x. tau: in steps, above 1."""

    def __init__(
        self,
        tau: Reals = 2.0,
        threshold: Reals = 1.0,
        *,
        reset: str = "zero",
        refractory: int = 0,
        recurrent: nn.Linear | nn.Conv2d | None = None,
        delay: int = 1,
        surrogate: str = "arctangent",
        slope: float | None = None,
    ) -> None:
        rate = _rate(tau, "LIF")
        super().__init__(
            threshold=threshold,
            gain=rate,
            current_decay=1.0,
            voltage_decay=rate,
            reset=reset,
            refractory=refractory,
            recurrent=recurrent,
            delay=delay,
            surrogate=surrogate,
            slope=slope,
        )


class IF(Neurons):
    """Integrate-and-fire without a leak: v += x."""

    def __init__(
        self,
        threshold: Reals = 1.0,
        *,
        reset: str = "zero",
        refractory: int = 0,
        recurrent: nn.Linear | nn.Conv2d | None = None,
        delay: int = 1,
        surrogate: str = "arctangent",
        slope: float | None = None,
    ) -> None:
        super().__init__(
            threshold=threshold,
            gain=1.0,
            current_decay=1.0,
            voltage_decay=0.0,
            reset=reset,
            refractory=refractory,
            recurrent=recurrent,
            delay=delay,
            surrogate=surrogate,
            slope=slope,
        )


class CurrentLIF(Neurons):
    """Leaky integrate-and-fire with a synaptic current that decays too, u = (1 - current_decay) u + gain * x.

    On the chip a bias enters the membrane potential, not the current: the layer before must have none.
    """

    def __init__(
        self,
        current_decay: Reals,
        voltage_decay: Reals,
        threshold: Reals = 1.0,
        *,
        gain: Reals = 1.0,
        reset: str = "zero",
        refractory: int = 0,
        recurrent: nn.Linear | nn.Conv2d | None = None,
        delay: int = 1,
        surrogate: str = "arctangent",
        slope: float | None = None,
    ) -> None:
        super().__init__(
            threshold=threshold,
            gain=gain,
            current_decay=current_decay,
            voltage_decay=voltage_decay,
            reset=reset,
            refractory=refractory,
            recurrent=recurrent,
            delay=delay,
            surrogate=surrogate,
            slope=slope,
        )


class Readout(Neurons):
    """Output neurons that never spike: their membrane potential is the answer, its last step the decision (argmax).

    tau: as in `LIF`; None is a sum of all inputs (no leak). current_decay: of the synaptic current.
    """

    def __init__(self, tau: Reals | None = None, *, current_decay: Reals = 1.0) -> None:
        rate = _rate(tau, "Readout") if tau is not None else None
        super().__init__(
            threshold=1.0,
            gain=1.0 if rate is None else rate,
            current_decay=current_decay,
            voltage_decay=0.0 if rate is None else rate,
            reset="none",
        )

    def forward(self, x: Tensor) -> Tensor:
        """The membrane potential (B, ...) after this step."""
        self._v = self._integrate(x)
        return self._v


class Delay(Stateful):
    """What came in `steps` steps ago; 0 in the first ones. steps: 0 to 62."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        if not (isinstance(steps, int) and 0 <= steps <= DELAY_LIMIT):
            raise SnncError("steps has no meaning", where="Delay.steps", got=steps, allowed=f"0 to {DELAY_LIMIT} steps")
        self.steps = steps
        self.reset_state()

    def reset_state(self) -> None:
        self._line: deque[Tensor] = deque()

    def forward(self, x: Tensor) -> Tensor:
        if not self._line:
            self._line.extend(torch.zeros_like(x) for _ in range(self.steps))
        self._line.append(x)
        return self._line.popleft()

    def extra_repr(self) -> str:
        return f"steps={self.steps}"


class SumPool2d(nn.Module):
    """The sum over each window of a map (B, C, H, W). stride: the kernel where None."""

    def __init__(
        self,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] | None = None,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.kernel_size = _pair(kernel_size)
        self.stride = self.kernel_size if stride is None else _pair(stride)
        self.padding = _pair(padding)

    def forward(self, x: Tensor) -> Tensor:
        return functional.avg_pool2d(x, self.kernel_size, self.stride, self.padding, divisor_override=1)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


def _rate(tau: Reals, kind: str) -> Reals:
    if not bool((torch.as_tensor(tau) > 1).all()):
        raise SnncError("tau has no meaning", where=f"{kind}.tau", got=tau, allowed="more than 1 step")
    if isinstance(tau, nn.Parameter):
        raise SnncError(
            "tau itself cannot be trained",
            where=f"{kind}.tau",
            got="nn.Parameter",
            remedy="use CurrentLIF(current_decay=1.0, voltage_decay=nn.Parameter(...))",
        )
    return 1 / tau


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value

"""Leaky integrate-and-fire neurons over a whole window of time steps, with a surrogate gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Neuron:
    """v = decay * v + x, or 0 while it waits; spike where v > threshold. State starts at 0.

    Where it spiked, reset "zero" sets v to 0 and "subtract" takes the threshold away; then v stays 0 for `refractory`
    steps. decay: 1 - 1/tau.  unit: physical size of one unit of v, for the surrogate.  integer: v is an integer of the
    chip: the decayed potential is truncated toward zero (and, in `run_exact`, v saturates).
    """

    decay: float
    threshold: float
    unit: float
    integer: bool
    reset: str = "zero"
    refractory: int = 0


class Waiting:
    """Which neurons wait at a step: those that spiked in the last few."""

    def __init__(self, neuron: Neuron, like: Tensor) -> None:
        self.steps = neuron.refractory
        self.left = torch.zeros(like.shape, dtype=torch.int8) if self.steps else None

    def hold(self, v: Tensor) -> Tensor | None:
        """Set v to 0 where they wait; where they do not, or None for a neuron without such a period."""
        if self.left is None:
            return None
        awake = self.left <= 0
        v.mul_(awake)
        return awake

    def after(self, quiet: Tensor) -> None:
        """Go on by a step in which the neurons that are not quiet spiked."""
        if self.left is not None:
            self.left.sub_(1).clamp_(min=0).masked_fill_(~quiet, self.steps)


def surrogate(distance: Tensor) -> Tensor:
    """Arctangent surrogate with alpha 2: the derivative 1 / (1 + (pi x)**2). Source: Fang et al. 2021."""
    return distance.mul(math.pi).square_().add_(1).reciprocal_()


class _Window(torch.autograd.Function):
    """The neuron's steps and their gradients in one node: far fewer passes over memory than step by step."""

    @staticmethod
    def forward(ctx: Any, current: Tensor, steps: int, neuron: Neuron) -> Tensor:
        shape = (steps, *current.shape[1:])
        potential = torch.empty(shape, dtype=torch.float32)
        quiet = torch.empty(shape, dtype=torch.bool)
        v = torch.zeros(shape[1:], dtype=torch.float32)
        whole = torch.empty(shape[1:], dtype=torch.int32) if neuron.integer else None
        waiting = Waiting(neuron, v)
        awake = []
        for t in range(steps):
            v.mul_(neuron.decay)
            if whole is not None:
                # A conversion truncates toward zero, and is much faster than trunc.
                v.copy_(whole.copy_(v))
            torch.add(v, current[t if len(current) > 1 else 0], out=potential[t])
            awake.append(waiting.hold(potential[t]))
            torch.le(potential[t], neuron.threshold, out=quiet[t])
            if neuron.reset == "zero":
                torch.mul(potential[t], quiet[t], out=v)
            else:
                torch.where(quiet[t], potential[t], potential[t] - neuron.threshold, out=v)
            waiting.after(quiet[t])
        ctx.neuron, ctx.constant, ctx.awake = neuron, len(current) == 1, awake
        ctx.save_for_backward(potential, quiet)
        spikes = torch.empty(shape, dtype=current.dtype)
        return torch.logical_not(quiet, out=spikes)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        potential, quiet = ctx.saved_tensors
        neuron: Neuron = ctx.neuron
        steps = len(potential)
        gradient = torch.empty((1 if ctx.constant else steps, *upstream.shape[1:]), dtype=upstream.dtype)
        carried = torch.zeros(upstream.shape[1:], dtype=torch.float32)
        total = torch.zeros_like(carried) if ctx.constant else None
        for t in reversed(range(steps)):
            # The reset is detached: what was carried past a spike does not flow back through it.
            if neuron.reset == "zero":
                carried.mul_(quiet[t])
            slope = potential[t].sub_(neuron.threshold).mul_(math.pi * neuron.unit).square_().add_(1)
            carried.addcdiv_(upstream[t].float(), slope, value=neuron.unit)
            if ctx.awake[t] is not None:
                carried.mul_(ctx.awake[t])
            if total is None:
                gradient[t].copy_(carried)
            else:
                total += carried
            carried.mul_(neuron.decay)
        if total is not None:
            gradient[0].copy_(total)
        return gradient, None, None


class _Synapse(torch.autograd.Function):
    """u = kept * u + x over a window, rounded toward zero on the chip; the gradient is that of the linear filter."""

    @staticmethod
    def forward(ctx: Any, current: Tensor, steps: int, kept: float, integer: bool) -> Tensor:
        ctx.kept, ctx.constant = kept, len(current) == 1
        return _filter(current, steps, kept, integer, torch.float32).to(current.dtype)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        gradient = torch.empty_like(upstream)
        carried = torch.zeros(upstream.shape[1:], dtype=torch.float32)
        for t in reversed(range(len(upstream))):
            carried.mul_(ctx.kept).add_(upstream[t])
            gradient[t].copy_(carried)
        return (gradient.sum(0, keepdim=True) if ctx.constant else gradient), None, None, None


def _filter(current: Tensor, steps: int, kept: float, integer: bool, dtype: torch.dtype) -> Tensor:
    u = torch.zeros(current.shape[1:], dtype=dtype)
    out = torch.empty((steps, *current.shape[1:]), dtype=dtype)
    for t in range(steps):
        u.mul_(kept)
        if integer:
            u.copy_(u.to(torch.int64))
        u.add_(current[t if len(current) > 1 else 0])
        out[t].copy_(u)
    return out


def synapse(current: Tensor, steps: int, kept: float, integer: bool) -> Tensor:
    """Synaptic currents u (T, B, n) for weighted sums (T, B, n) or (1, B, n), differentiable. kept: 1 - decay."""
    return current if kept == 0 else _Synapse.apply(current, steps, kept, integer)


@torch.no_grad()
def synapse_exact(current: Tensor, steps: int, kept: float, integer: bool) -> Tensor:
    """`synapse` in float64, which holds every product of a 24 bit state and a 12 bit decay exactly."""
    return current if kept == 0 else _filter(current.double(), steps, kept, integer, torch.float64)


def run(current: Tensor, steps: int, neuron: Neuron) -> Tensor:
    """Spikes (T, B, n) in the current's dtype, differentiable; current (T, B, n), or (1, B, n) for the same each step.

    The gradient can be taken once: its pass overwrites what the forward pass saved.
    """
    return _Window.apply(current, steps, neuron)


STATE_LIMIT = float((1 << 23) - 1)


@torch.no_grad()
def run_exact(current: Tensor, steps: int, neuron: Neuron) -> Tensor:
    """Spikes (T, B, n), bool, without rounding that the chip does not do. current: integers when the neuron is integer.

    float64 holds every product of a 24 bit state and a 12 bit decay exactly.
    """
    v = torch.zeros(current.shape[1:], dtype=torch.float64)
    spikes = torch.empty((steps, *current.shape[1:]), dtype=torch.bool)
    waiting = Waiting(neuron, v)
    for t in range(steps):
        v.mul_(neuron.decay)
        x = current[t if len(current) > 1 else 0]
        if neuron.integer:
            v.copy_(v.to(torch.int64)).add_(x).clamp_(-STATE_LIMIT, STATE_LIMIT)
        else:
            v.add_(x)
        waiting.hold(v)
        torch.gt(v, neuron.threshold, out=spikes[t])
        if neuron.reset == "zero":
            v.masked_fill_(spikes[t], 0.0)
        else:
            v.sub_(spikes[t].double(), alpha=neuron.threshold)
        waiting.after(~spikes[t])
    return spikes


@torch.no_grad()
def sum_exact(current: Tensor, steps: int, integer: bool) -> Tensor:
    """The membrane potential (1, B, n), float64, of neurons that add up what they get and never spike."""
    v = torch.zeros(current.shape[1:], dtype=torch.float64)
    for t in range(steps):
        v.add_(current[t if len(current) > 1 else 0])
        if integer:
            v.clamp_(-STATE_LIMIT, STATE_LIMIT)
    return v[None]

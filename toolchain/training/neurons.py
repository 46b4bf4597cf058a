"""Leaky integrate-and-fire neurons over a whole window of time steps, with a surrogate gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Neuron:
    """v = decay * v + x; spike where v > threshold, then v = 0. State starts at 0.

    decay: 1 - 1/tau.  unit: physical size of one unit of v, for the surrogate.  integer: v is an integer of the
    chip: the decayed potential is truncated toward zero (and, in `run_exact`, u wraps and v saturates).
    """

    decay: float
    threshold: float
    unit: float
    integer: bool


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
        for t in range(steps):
            v.mul_(neuron.decay)
            if whole is not None:
                # A conversion truncates toward zero, and is much faster than trunc.
                v.copy_(whole.copy_(v))
            torch.add(v, current[t if len(current) > 1 else 0], out=potential[t])
            torch.le(potential[t], neuron.threshold, out=quiet[t])
            torch.mul(potential[t], quiet[t], out=v)
        ctx.neuron, ctx.constant = neuron, len(current) == 1
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
            carried.mul_(quiet[t])
            slope = potential[t].sub_(neuron.threshold).mul_(math.pi * neuron.unit).square_().add_(1)
            carried.addcdiv_(upstream[t].float(), slope, value=neuron.unit)
            if total is None:
                gradient[t].copy_(carried)
            else:
                total += carried
            carried.mul_(neuron.decay)
        if total is not None:
            gradient[0].copy_(total)
        return gradient, None, None


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
    for t in range(steps):
        v.mul_(neuron.decay)
        x = current[t if len(current) > 1 else 0]
        if neuron.integer:
            v.copy_(v.to(torch.int64)).add_(x).clamp_(-STATE_LIMIT, STATE_LIMIT)
        else:
            v.add_(x)
        torch.gt(v, neuron.threshold, out=spikes[t])
        v.masked_fill_(spikes[t], 0.0)
    return spikes

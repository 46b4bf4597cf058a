"""Leaky integrate-and-fire neurons over a whole window of time steps, with a surrogate gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from toolchain.training import kernels, threads
from toolchain.training.surrogates import SURROGATES


@dataclass(frozen=True)
class Neuron:
    """v = decay * v + x, or 0 while it waits; spike where v > threshold. State starts at 0.

    Where it spiked, reset "zero" sets v to 0 and "subtract" takes the threshold away; then v stays 0 for `refractory`
    steps. decay: 1 - 1/tau.  unit: physical size of one unit of v, for the surrogate.  integer: v is an integer of the
    chip: the decayed potential is truncated toward zero (and, in `run_exact`, v saturates).
    surrogate: a name of `surrogates.SURROGATES`, with a slope.
    """

    decay: float
    threshold: float
    unit: float
    integer: bool
    reset: str = "zero"
    refractory: int = 0
    surrogate: str = "arctangent"
    slope: float = SURROGATES["arctangent"].slope


class _Window(torch.autograd.Function):
    """The neuron's steps and their gradients in one node, in compiled loops: one pass over memory each.

    Only the currents are kept for the gradient; see `kernels._backward`.
    """

    @staticmethod
    def forward(ctx: Any, current: Tensor, steps: int, neuron: Neuron, dtype: torch.dtype) -> Tensor:
        current = current.contiguous()
        spikes = torch.empty((steps, *current.shape[1:]), dtype=dtype)
        arrays = (_array(current), _array(spikes))
        _parallel(kernels.FORWARD[arrays[0].dtype, arrays[1].dtype], arrays, _values(neuron))
        ctx.neuron = neuron
        ctx.save_for_backward(current)
        return spikes

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        (current,) = ctx.saved_tensors
        neuron: Neuron = ctx.neuron
        gradient = torch.empty_like(current)
        arrays = (_array(current), _array(upstream.contiguous()), _array(gradient))
        kernel = kernels.BACKWARD[arrays[0].dtype, arrays[1].dtype, neuron.surrogate]
        rest = np.float32(neuron.unit), np.float32(neuron.slope * neuron.unit)
        _parallel(kernel, arrays, (*_values(neuron), *rest))
        return gradient, None, None, None


def _values(neuron: Neuron) -> tuple[Any, ...]:
    """What both kernels take of a neuron."""
    state = (np.float32(neuron.decay), np.float32(neuron.threshold), neuron.integer)
    return (*state, neuron.reset == "subtract", neuron.refractory)


def _array(x: Tensor) -> NDArray[Any]:
    """A contiguous tensor's memory as (steps, neurons); bfloat16 as uint16."""
    x = x.detach()
    array = x.view(torch.int16).numpy().view(np.uint16) if x.dtype == torch.bfloat16 else x.numpy()
    return array.reshape(len(array), -1)


def _parallel(kernel: Callable[..., None], arrays: tuple[NDArray[Any], ...], values: tuple[Any, ...]) -> None:
    """A neuron kernel over all neurons, by as many threads as torch has."""
    threads.split(kernel, (*arrays, *values), arrays[0].shape[1])


class _TorchWindow(torch.autograd.Function):
    """`_Window` by torch's operations, for tensors that are not on the processor: the same arithmetic step by step."""

    @staticmethod
    def forward(ctx: Any, current: Tensor, steps: int, neuron: Neuron, dtype: torch.dtype) -> Tensor:
        potential = current.new_empty((steps, *current.shape[1:]), dtype=torch.float32)
        spikes = _spikes_of(current, neuron, potential)
        ctx.neuron, ctx.constant, ctx.dtype = neuron, len(current) == 1, current.dtype
        ctx.save_for_backward(potential)
        return spikes.to(dtype)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        (potential,) = ctx.saved_tensors
        neuron: Neuron = ctx.neuron
        carried = torch.zeros_like(potential[0])
        total = torch.zeros_like(potential[0])
        gradient = torch.empty_like(upstream)
        surrogate = SURROGATES[neuron.surrogate].derivative
        for t in reversed(range(len(potential))):
            if neuron.reset == "zero":
                carried.masked_fill_(potential[t] > neuron.threshold, 0.0)
            slope = surrogate((potential[t] - neuron.threshold) * (neuron.slope * neuron.unit))
            carried.add_(slope.mul_(upstream[t]).mul_(neuron.unit))
            for before in range(max(t - neuron.refractory, 0), t):
                carried.masked_fill_(potential[before] > neuron.threshold, 0.0)
            if ctx.constant:
                total.add_(carried)
            else:
                gradient[t].copy_(carried)
            carried.mul_(neuron.decay)
        return (total[None] if ctx.constant else gradient).to(ctx.dtype), None, None, None


def _spikes_of(current: Tensor, neuron: Neuron, potential: Tensor, limit: float | None = None) -> Tensor:
    """The neuron's steps; spikes (T, ...), bool. potential: (T, ...), filled.  limit: of integer potentials."""
    v = torch.zeros_like(potential[0])
    wait = torch.zeros_like(v, dtype=torch.int8)
    spikes = torch.empty_like(potential, dtype=torch.bool)
    for t, p in enumerate(potential):
        torch.mul(v, neuron.decay, out=p)
        if neuron.integer:
            p.trunc_()
        p.add_(current[t if len(current) > 1 else 0])
        if neuron.integer and limit is not None:
            p.clamp_(-limit, limit)
        if neuron.refractory:
            p.masked_fill_(wait > 0, 0.0)
        fired = torch.gt(p, neuron.threshold, out=spikes[t])
        if neuron.refractory:
            wait = wait.sub_(1).clamp_(min=0).masked_fill_(fired, neuron.refractory)
        v = p - neuron.threshold * fired if neuron.reset == "subtract" else p.masked_fill(fired, 0.0)
    return spikes


class _Synapse(torch.autograd.Function):
    """u = kept * u + x over a window, rounded toward zero on the chip; the gradient is that of the linear filter."""

    @staticmethod
    def forward(ctx: Any, current: Tensor, steps: int, kept: float, integer: bool) -> Tensor:
        ctx.kept, ctx.constant = kept, len(current) == 1
        return _filter(current, steps, kept, integer, torch.float32).to(current.dtype)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        gradient = torch.empty_like(upstream)
        carried = torch.zeros_like(upstream[0], dtype=torch.float32)
        for t in reversed(range(len(upstream))):
            carried.mul_(ctx.kept).add_(upstream[t])
            gradient[t].copy_(carried)
        return (gradient.sum(0, keepdim=True) if ctx.constant else gradient), None, None, None


def _filter(current: Tensor, steps: int, kept: float, integer: bool, dtype: torch.dtype) -> Tensor:
    u = torch.zeros_like(current[0], dtype=dtype)
    out = current.new_empty((steps, *current.shape[1:]), dtype=dtype)
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


def run(current: Tensor, steps: int, neuron: Neuron, dtype: torch.dtype | None = None) -> Tensor:
    """Spikes (T, B, n), differentiable; current (T, B, n), or (1, B, n) for the same each step.

    current: float32 or bfloat16; the potentials are float32 in either case.  dtype: of the spikes, one of those too;
    that of the current where None.
    """
    window = _Window if current.device.type == "cpu" else _TorchWindow
    return window.apply(current, steps, neuron, dtype or current.dtype)


STATE_LIMIT = float((1 << 23) - 1)


@torch.no_grad()
def run_exact(current: Tensor, steps: int, neuron: Neuron) -> Tensor:
    """Spikes (T, B, n), bool, without rounding that the chip does not do. current: integers when the neuron is integer.

    float64 holds every product of a 24 bit state and a 12 bit decay exactly.
    """
    if current.device.type != "cpu":
        potential = current.new_empty((steps, *current.shape[1:]), dtype=torch.float64)
        return _spikes_of(current, neuron, potential, STATE_LIMIT)
    spikes = torch.empty((steps, *current.shape[1:]), dtype=torch.bool)
    arrays = (_array(current.double().contiguous()), _array(spikes))
    rest = (STATE_LIMIT, neuron.reset == "subtract", neuron.refractory)
    _parallel(kernels.exact, arrays, (neuron.decay, neuron.threshold, neuron.integer, *rest))
    return spikes


@torch.no_grad()
def sum_exact(current: Tensor, steps: int, integer: bool) -> Tensor:
    """The membrane potential (1, B, n), float64, of neurons that add up what they get and never spike."""
    v = torch.zeros_like(current[0], dtype=torch.float64)
    for t in range(steps):
        v.add_(current[t if len(current) > 1 else 0])
        if integer:
            v.clamp_(-STATE_LIMIT, STATE_LIMIT)
    return v[None]


class _Spike(torch.autograd.Function):
    """1 where v > threshold, with the surrogate that `_Window` has."""

    @staticmethod
    def forward(ctx: Any, potential: Tensor, neuron: Neuron) -> Tensor:
        ctx.save_for_backward(potential)
        ctx.neuron = neuron
        return (potential > neuron.threshold).to(potential.dtype)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (potential,) = ctx.saved_tensors
        neuron: Neuron = ctx.neuron
        x = (potential - neuron.threshold) * neuron.unit * neuron.slope
        return upstream * SURROGATES[neuron.surrogate].derivative(x) * neuron.unit, None


@dataclass(frozen=True)
class Feed:
    """Recurrent weights. sums: of one step's spikes (B, ...), on the scale of the potential.  late: steps until they
    arrive, 1 or more."""

    sums: Callable[[Tensor], Tensor]
    late: int


def run_looped(
    sums: Tensor, direct: Tensor | None, steps: int, kept: float, neuron: Neuron, feed: Feed, *, exact: bool = False
) -> Tensor:
    """Spikes (T, B, ...) of neurons that reach each other, step by step; differentiable, the reset is not.

    sums: (T, B, ...) or (1, B, ...), of the synapses from elsewhere.  direct: what passes the synaptic current by, at
    every step.  kept: of the synaptic current from step to step.  exact: as deployed; potentials saturate.
    """
    u = v = torch.zeros_like(sums[0])
    wait = torch.zeros_like(v, dtype=torch.int8)
    sent: list[Tensor] = []
    for t in range(steps):
        arrived = sums[t if len(sums) > 1 else 0]
        if t >= feed.late:
            arrived = arrived + feed.sums(sent[t - feed.late])
        u = _decayed(u, kept, neuron.integer) + arrived if kept else arrived
        p = _decayed(v, neuron.decay, neuron.integer) + (u if direct is None else u + direct)
        if exact and neuron.integer:
            p = p.clamp(-STATE_LIMIT, STATE_LIMIT)
        if neuron.refractory:
            p = p.masked_fill(wait > 0, 0.0)
        spikes = _Spike.apply(p, neuron)
        sent.append(spikes)
        fired = spikes.detach() > 0
        v = p - neuron.threshold * fired if neuron.reset == "subtract" else p.masked_fill(fired, 0.0)
        wait = torch.where(fired, neuron.refractory, (wait - 1).clamp(min=0)).to(torch.int8)
    return torch.stack(sent)


def _decayed(state: Tensor, kept: float, integer: bool) -> Tensor:
    """kept * state, on the chip rounded toward zero; the gradient is that of the product."""
    left = state * kept
    # A difference of neighbours is exact, so the sum is the rounded number itself.
    return left + (left.trunc() - left).detach() if integer else left

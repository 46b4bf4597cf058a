"""Input codings on tensors: what the input neurons send, the same rule as `toolchain.ir.inputs` states for arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from toolchain.training import kernels, threads
from toolchain.training.events import Events, lists_by

VALUE_MAX = 255


def rate(samples: Tensor, steps: int, threshold: int, dtype: torch.dtype) -> Tensor:
    """Binary spikes (T, B, n) of integrate-and-fire inputs: v += x; spike where v > threshold, then v = 0.

    samples: uint8 (B, n).
    """
    # v never exceeds threshold + 255. One type for all makes each pass several times faster than mixed ones.
    values = samples.to(torch.int16 if threshold < 32000 else torch.int32)
    v, quiet = torch.zeros_like(values), torch.empty_like(values)
    spikes = torch.empty(steps, *samples.shape, dtype=dtype)
    for t in range(steps):
        torch.le(v.add_(values), threshold, out=quiet)
        v.mul_(quiet)
        # 1 where it spiked.
        spikes[t].copy_(quiet.bitwise_xor_(1))
    return spikes


def graded(samples: Tensor, steps: int, payload_bits: int, dtype: torch.dtype) -> Tensor:
    """Payloads (1, B, n), the same at every step: the first `payload_bits` bits of each value."""
    return (samples >> (8 - payload_bits)).unsqueeze(0).to(dtype)


def current(samples: Tensor, steps: int, unused: int, dtype: torch.dtype) -> Tensor:
    """Values (1, B, n), the same at every step, for the host's first layer."""
    return samples.unsqueeze(0).to(dtype)


CODINGS = {"rate": rate, "graded": graded, "current": current}


class PeriodicSpikes:
    """What `rate` sends (T, B, n), by when it comes: a value x spikes in every p-th step, p = threshold // x + 1.

    So the sums of step t are those over the inputs of each period p that divides t, counted from 1, and an input takes
    part in one sum whatever the number of its spikes. Most pixels are dark and take part in none.
    """

    dtype = torch.float32

    def __init__(self, samples: Tensor, steps: int, threshold: int) -> None:
        """samples: uint8 (B, n), on the processor."""
        periods = threshold // np.arange(1, VALUE_MAX + 1) + 1
        periods = np.minimum(np.concatenate([[steps + 1], periods]), steps + 1)
        self.steps, self.batch = steps, len(samples)
        rows, found = kernels.periodic_events(samples.contiguous().numpy(), periods, steps)
        ones = np.ones(len(found), np.float32)
        self.events = Events(lists_by(rows, found, ones, steps * self.batch), samples.shape[1])

    def product(self, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Weighted sums (T, B, out), float32, for weights (out, n), plus a bias (out,); differentiable by both.

        The sums have one term a spiking input, in float32: sums of integers are exact while they stay below 2**24.
        """
        sums: Tensor = _OverDivisors.apply(self.events.product(weight), self.steps)
        sums = sums.unflatten(0, (self.steps, self.batch))
        return sums if bias is None else sums + bias


class _OverDivisors(torch.autograd.Function):
    """What comes in each period (T * B, n) becomes what comes at each step (T * B, n), in place."""

    @staticmethod
    def forward(ctx: Any, sums: Tensor, steps: int) -> Tensor:
        ctx.steps = steps
        ctx.mark_dirty(sums)
        flat = sums.numpy().reshape(steps, -1)
        threads.split(kernels.add_divisors, (flat,), flat.shape[1], sums.numel())
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        upstream = upstream.contiguous()
        gradient = torch.empty_like(upstream)
        arrays = tuple(x.numpy().reshape(ctx.steps, -1) for x in (upstream, gradient))
        threads.split(kernels.add_multiples, arrays, arrays[0].shape[1], upstream.numel())
        return gradient, None

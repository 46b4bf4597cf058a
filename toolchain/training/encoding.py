"""Input codings on tensors: what the input neurons send, the same rule as `toolchain.ir.inputs` states for arrays."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

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
    part in one product whatever the number of its spikes. Most pixels are dark and take part in none.
    """

    dtype = torch.float32

    def __init__(self, samples: Tensor, steps: int, threshold: int) -> None:
        """samples: uint8 (B, n), on the processor."""
        values = np.arange(1, VALUE_MAX + 1)
        periods = torch.from_numpy(np.concatenate([[steps + 1], threshold // values + 1]))[samples.int()]
        batch, source = (periods <= steps).nonzero(as_tuple=True)
        rows = (periods[batch, source] - 1) * len(samples) + batch
        self.steps, self.shape = steps, (steps * len(samples), samples.shape[1])
        ones = np.ones(len(rows), np.float32)
        self._matrix = scipy.sparse.coo_array((ones, (rows.numpy(), source.numpy())), shape=self.shape).tocsr()

    def product(self, weight: Tensor) -> Tensor:
        """Weighted sums (T, B, out), float32, for weights (out, n); differentiable by the weights.

        The sums have one term a spiking input, in float32: sums of integers are exact while they stay below 2**24.
        """
        return _PeriodicProduct.apply(weight, self)

    def by_period(self, weight: Tensor) -> Tensor:
        """Sums over the inputs of each period, (T, B, out)."""
        return (_compressed(self._matrix) @ weight.t()).view(self.steps, -1, len(weight))

    def onto_weights(self, gradient: Tensor) -> Tensor:
        """The gradient by the weights (out, n) from that by the sums of each period (T, B, out)."""
        return (_compressed(self._matrix.T.tocsr()) @ gradient.flatten(0, 1)).t().contiguous()


def _compressed(matrix: Any) -> Tensor:
    """A matrix of scipy as torch's, with the same memory."""
    with warnings.catch_warnings():
        # They say that the format is new and that its indices, which scipy has made here, are not checked.
        warnings.filterwarnings("ignore", message="Sparse (CSR|invariant)")
        pointers, columns, values = (torch.from_numpy(part) for part in (matrix.indptr, matrix.indices, matrix.data))
        return torch.sparse_csr_tensor(pointers, columns, values, size=matrix.shape)


class _PeriodicProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, spikes: PeriodicSpikes) -> Tensor:
        ctx.spikes = spikes
        sums = spikes.by_period(weight)
        # From the last step to the first: a step's divisors are smaller, so they are still sums of their period alone.
        for step in range(spikes.steps, 1, -1):
            for period in range(1, step // 2 + 1):
                if step % period == 0:
                    sums[step - 1] += sums[period - 1]
        return sums

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        spikes: PeriodicSpikes = ctx.spikes
        gradient = upstream.clone(memory_format=torch.contiguous_format)
        # The other way: from the first step to the last, a period's multiples are still gradients of their step alone.
        for period in range(1, spikes.steps // 2 + 1):
            for step in range(2 * period, spikes.steps + 1, period):
                gradient[period - 1] += gradient[step - 1]
        return spikes.onto_weights(gradient), None

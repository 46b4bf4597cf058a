"""Input codings on tensors: what the input neurons send, the same rule as `toolchain.ir.inputs` states for arrays."""

from __future__ import annotations

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

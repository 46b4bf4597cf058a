"""The integer grid of a layer's weights, and rounding onto it with a straight-through gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from toolchain.training import kernels, layout, threads

SUM_LIMIT = (1 << 17) - 1
"""A synaptic sum beyond this magnitude would leave the 24 bits of u once it is shifted by 6."""
THRESHOLD_LIMIT = (1 << 17) - 1
BIAS_LIMIT = (1 << 12) - 1
STATE_SHIFT = 6
BIAS_MAX = (BIAS_LIMIT << 7) / (1 << STATE_SHIFT)
"""Largest bias, in mantissa steps of the threshold."""
HOST_LIMIT = BIAS_LIMIT - 100
"""What the host's sums and the bias beside them may reach together: a little less, as each of them is rounded."""
EXPONENT_LIMIT = 6
"""Largest exponent of a trained connection; one more fits the register, so that the compiler has room."""
HEADROOM = 0.95
"""Share of SUM_LIMIT that a fresh grid uses, so that weights can still grow on it."""


@dataclass(frozen=True)
class Grid:
    """mantissa = round(weight / step), and the threshold is an integer on the same scale.

    threshold_mantissa: vth; step = threshold * tau / (vth * scale * 2**shift), so the threshold discretises exactly.
    scale: physical size of one unit of payload.  shift: of the host's sums (current coding), else 0.
    limit: largest magnitude of a mantissa.  exponent: a mantissa counts 2**exponent; 0 for one at least of the
    connections into a population, whose grids have the same threshold.
    """

    threshold_mantissa: int
    limit: int
    threshold: float
    tau: float
    scale: float = 1.0
    shift: int = 0
    exponent: int = 0

    @property
    def step(self) -> float:
        """Physical value of one mantissa step."""
        finest = self.threshold * self.tau / (self.threshold_mantissa * self.scale * 2**self.shift)
        return finest * 2**self.exponent

    @property
    def lowest(self) -> int:
        """What one mantissa step is in units of the membrane potential's lowest bit."""
        return 1 << (STATE_SHIFT + self.exponent)

    @property
    def unit(self) -> float:
        """Physical value of one unit of the membrane potential, 6 bits below a mantissa."""
        return self.threshold / (self.threshold_mantissa << STATE_SHIFT)


@dataclass(frozen=True)
class Entering:
    """Weights of one connection, (out, ...), physical. scale: of one unit of payload.

    payload: largest value that one spike carries, times what a current can pile up.
    """

    weight: Tensor
    scale: float
    payload: float


def fit_grids(
    entering: Sequence[Entering],
    *,
    bits: int,
    threshold: float,
    tau: float,
    on_host: bool,
    beside: float = 0.0,
) -> list[Grid]:
    """The finest grids on which the largest weights have a mantissa and no sum of a row can overflow.

    entering: all connections into one population; their sums add up, so their grids have one threshold, and steps that
    differ by powers of two.
    tau: input that moves the potential by 1 (of a neuron without a leak: 1).
    on_host: sums are made by the host (of one connection) and enter as a bias of 13 bits; a right shift is then chosen
    so that the mantissas keep their bits.
    beside: largest physical bias, which needs a register too (on the host the same one).
    """
    limit = (1 << (bits - 1)) - 1
    scale = entering[0].scale
    rows = sum(row_sums(c.weight).double() * c.payload * (c.scale / scale) for c in entering)
    worst = max(float(torch.as_tensor(rows).max()) + (beside / scale if on_host else 0.0), 1e-12)
    allowed = HEADROOM * (BIAS_LIMIT if on_host else SUM_LIMIT)
    # A sum of s physical units reaches vth * s * scale / (threshold * tau) on the integer scale.
    by_sum = allowed * threshold * tau / (worst * scale)
    by_mantissa = [threshold * tau * limit / (max(float(c.weight.abs().max()), 1e-12) * c.scale) for c in entering]
    # A bias may move the potential by so much a step; what the host injects has been counted with the sums.
    by_bias = HEADROOM * BIAS_MAX * threshold * tau / max(beside, 1e-12)
    # The connection of the smallest weights has exponent 0, unless that of the largest would need too high a one.
    finest = min(max(by_mantissa), min(by_mantissa) * 2**EXPONENT_LIMIT)
    vth = by_sum if on_host else min(by_sum, finest, by_bias)
    vth_integer = min(max(math.floor(vth), 1), THRESHOLD_LIMIT)
    if on_host:
        shift = max(math.floor(math.log2(by_mantissa[0] / vth_integer)), 0)
        return [Grid(vth_integer, limit, threshold, tau, scale, shift)]
    exponents = [0 if len(entering) == 1 else max(math.ceil(math.log2(vth_integer / m)), 0) for m in by_mantissa]
    # One of them has the step itself: the compiler takes the finest step that it finds for the common one.
    exponents = [exponent - min(exponents) for exponent in exponents]
    return [Grid(vth_integer, limit, threshold, tau, c.scale, 0, e) for c, e in zip(entering, exponents, strict=True)]


def row_sums(weight: Tensor) -> Tensor:
    """For each neuron the larger of its positive and its negative sum of weights, in magnitude: (out,).

    A neuron at the edge of a map has fewer synapses than its kernel has entries, so this is a bound for it.
    """
    rows = weight.flatten(1)
    return torch.maximum(rows.clamp(min=0).sum(1), -rows.clamp(max=0).sum(1))


def mantissas(weight: Tensor, grid: Grid) -> Tensor:
    """Integers as float32. A synapse that exists is never 0: it gets at least one step; large ones saturate."""
    magnitude = weight.abs().div_(grid.step).round_().clamp_(1, grid.limit)
    return magnitude.mul_(weight.sign())


class _Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, grid: Grid, factor: int) -> Tensor:
        ctx.factor = factor / grid.step
        if weight.device.type != "cpu":
            return mantissas(weight, grid) * factor
        weight = weight if layout.alike(weight) else weight.contiguous()
        out = torch.empty_like(weight)
        values = np.float32(grid.step), np.float32(grid.limit), np.float32(factor)
        arrays = layout.memory(weight), *values, layout.memory(out)
        threads.split(kernels.mantissas, arrays, weight.numel())
        return out

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        return upstream * ctx.factor, None, None


def straight_through(weight: Tensor, grid: Grid, factor: int = 1) -> Tensor:
    """`mantissas` times factor, with the gradient of weight / step * factor."""
    return _Straight.apply(weight, grid, factor)


class _HostSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, total: Tensor, shift: int) -> Tensor:
        ctx.shift = shift
        return host_sum(total, shift)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        return upstream / 2**ctx.shift, None


def host_sum(total: Tensor, shift: int) -> Tensor:
    """The host's integer sums as bias mantissas: shifted right, rounded (ties up), clipped to 13 bits."""
    return total.add((1 << shift) >> 1).div_(2**shift).floor_().clamp_(-BIAS_LIMIT, BIAS_LIMIT)


def straight_host_sum(total: Tensor, shift: int) -> Tensor:
    """`host_sum`, with the gradient of total / 2**shift."""
    return _HostSum.apply(total, shift)


def bias_exponent(bias: Tensor, least: int = 0) -> int:
    """The least exponent with which integer biases fit their 13 bit mantissa (7 at most; beyond, they saturate)."""
    largest = float(bias.abs().max()) if bias.numel() else 0.0
    return next((e for e in range(least, 7) if round(largest / 2**e) <= BIAS_LIMIT), 7)


def bias_limit(grid: Grid) -> float:
    """Magnitude of the largest physical bias that a register holds."""
    return BIAS_MAX * (1 << STATE_SHIFT) * grid.tau * grid.unit


def bias_integers(bias: Tensor, grid: Grid, *, on_host: bool = False) -> Tensor:
    """Physical biases as they are added to the membrane potential: mantissa * 2**exponent, float64.

    on_host: what the host injects stands in the same register, with exponent 6.
    """
    exact = bias.detach().double() / (grid.tau * grid.unit)
    exponent = bias_exponent(exact, STATE_SHIFT if on_host else 0)
    return (exact / 2**exponent).round().clamp(-BIAS_LIMIT, BIAS_LIMIT) * 2**exponent

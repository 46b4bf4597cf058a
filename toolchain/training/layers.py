"""The parts that a network is trained of. Maps are kept as (T, B, height, width, channels), flat layers as (T, B, n).

T is the number of steps, or 1 for what is the same at every step. Everything but the neurons works on all steps at
once. What a part is on the chip stands with it: what it sends, how many synapses it takes, what model.pt says of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from toolchain.training import neurons, quantise
from toolchain.training.architecture import AvgPool, Conv, Dropout, NeuronOptions, Planned, Pool
from toolchain.training.quantise import Grid

NORM_MOMENTUM = 0.1
NORM_EPS = 1e-5


def over_maps(function: Any, x: Tensor, *args: Any, **options: Any) -> Tensor:
    """A function of (N, channels, height, width), applied to all steps and samples of maps in our order of axes."""
    merged = x.flatten(0, 1).permute(0, 3, 1, 2)
    return function(merged, *args, **options).permute(0, 2, 3, 1).contiguous().unflatten(0, x.shape[:2])


class Stage(nn.Module):
    """One part. name: of the population that it is on the chip; empty where it is none."""

    name = ""

    def exact(self, x: Tensor) -> Tensor:
        """What it sends for what it receives, as deployed."""
        raise NotImplementedError

    def fan_out(self, mask: Tensor | None) -> Tensor:
        """Synapses from each neuron of its source, in the source's order of axes; mask: of its weights."""
        raise NotImplementedError

    def window(self) -> int:
        """How many payloads it adds up to one."""
        return 1

    def entry(self) -> dict[str, Any] | None:
        """Its layer in model.pt without name and inputs, or None where nothing of it is deployed."""
        return None


class ToMap(Stage):
    """Samples as they are stored become maps."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor, noise: torch.Generator | None) -> Tensor:
        return self.exact(x)

    def exact(self, x: Tensor) -> Tensor:
        return x.unflatten(2, self.shape).permute(0, 1, 3, 4, 2).contiguous()


class Flatten(Stage):
    """Maps become flat layers in the chip's order of neurons, channel by channel."""

    def forward(self, x: Tensor, noise: torch.Generator | None) -> Tensor:
        return self.exact(x)

    def exact(self, x: Tensor) -> Tensor:
        return x.permute(0, 1, 4, 2, 3).flatten(2)

    def entry(self) -> dict[str, Any]:
        return {"op": "flatten"}


class DropoutStage(Stage):
    """Dropout with one mask for all steps of a sample."""

    def __init__(self, planned: Planned, generator: torch.Generator) -> None:
        super().__init__()
        self.rate = cast("Dropout", planned.table).rate

    def forward(self, x: Tensor, noise: torch.Generator | None) -> Tensor:
        if noise is None or self.rate == 0:
            return x
        keep = torch.rand(x.shape[1:], generator=noise) >= self.rate
        return x * (keep.to(x.dtype) / (1 - self.rate))

    def exact(self, x: Tensor) -> Tensor:
        return x


class MaxPoolStage(Stage):
    """The OR of each window's spikes."""

    def __init__(self, planned: Planned, generator: torch.Generator) -> None:
        super().__init__()
        table = cast("Pool", planned.table)
        self.name, self.size, self.step = planned.name, table.size, table.step
        self.source = planned.source

    def forward(self, x: Tensor, noise: torch.Generator | None) -> Tensor:
        return self.exact(x)

    def exact(self, x: Tensor) -> Tensor:
        return over_maps(functional.max_pool2d, x, self.size, self.step)

    def fan_out(self, mask: Tensor | None) -> Tensor:
        channels, *size = self.source
        return _reads(torch.ones(self.size, self.size), size, self.step, 0)[..., None].expand(*size, channels)

    def entry(self) -> dict[str, Any]:
        pair = lambda n: [n, n]  # noqa: E731
        return {"op": "max_pool", "kernel": pair(self.size), "stride": pair(self.step), "padding": [0, 0]}


class SumPoolStage(Stage):
    """The sum of each window; a mean is the sum, and the weights that follow count less."""

    def __init__(self, planned: Planned, generator: torch.Generator) -> None:
        super().__init__()
        table = cast("Pool", planned.table)
        self.size, self.step = table.size, table.step
        self.factor = 1 / table.size**2 if isinstance(table, AvgPool) else 1.0

    def forward(self, x: Tensor, noise: torch.Generator | None) -> Tensor:
        return self.exact(x)

    def exact(self, x: Tensor) -> Tensor:
        return over_maps(functional.avg_pool2d, x, self.size, self.step, divisor_override=1)

    def window(self) -> int:
        return self.size**2

    def entry(self) -> dict[str, Any]:
        size, step = [self.size, self.size], [self.step, self.step]
        return {"op": "sum_pool", "kernel": size, "stride": step, "padding": [0, 0]}


class Weights(Stage):
    """A layer of weights and the neurons that they lead to. Weights are physical; a synapse exists where one is not 0.

    grid: the integers to compute in, or None for floating point.  norm_scale, norm_mean, norm_var: of a batch norm
    (its shift is the bias) until `fold` has made it a part of the weights.  factor: what the pools before it divide
    by.  added: how many payloads they add up.
    """

    op: ClassVar[str]

    def __init__(self, planned: Planned, shape: tuple[int, ...], generator: torch.Generator) -> None:
        super().__init__()
        assert planned.neurons is not None
        self.name, self.source, self.target = planned.name, planned.source, planned.target
        self.neurons: NeuronOptions = planned.neurons
        self.factor, self.added = 1.0, 1
        outputs = shape[0]
        bound = 1 / math.sqrt(math.prod(shape[1:]))
        self.weight = nn.Parameter(torch.empty(shape).uniform_(-bound, bound, generator=generator))
        self.bias: nn.Parameter | None = None
        self.normed = planned.batch_norm
        if planned.batch_norm:
            self.norm_scale = nn.Parameter(torch.full((outputs,), planned.neurons.threshold))
            self.bias = nn.Parameter(torch.zeros(outputs))
            self.register_buffer("norm_mean", torch.zeros(outputs))
            self.register_buffer("norm_var", torch.ones(outputs))
        elif planned.bias:
            self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound, generator=generator))
        self.grid: Grid | None = None

    norm_mean: Tensor
    norm_var: Tensor

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """Weighted sums (T, B, ...) of payloads."""
        raise NotImplementedError

    def biased(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """`product`, and a bias (out,) or one a neuron."""
        current = self.product(x, weight)
        return current if bias is None else current + bias.to(current.dtype)

    def everywhere(self, weight: Tensor) -> Tensor:
        """Weighted sums where every source sends 1; one a neuron, or of a shape that stands for all."""
        raise NotImplementedError

    def uses(self) -> Tensor:
        """Synapses that each weight makes, of a shape that broadcasts over the weights."""
        raise NotImplementedError

    def over_outputs(self, values: Tensor) -> Tensor:
        """Values (out,) in a shape that multiplies the weights."""
        return values.view(-1, *[1] * (self.weight.ndim - 1))

    def folded(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias with the batch norm, as it stands, made part of them."""
        if not self.normed:
            return self.weight, self.bias
        assert self.bias is not None
        factors = self.norm_factors()
        return self.weight * self.over_outputs(factors), self.bias - self.norm_mean * factors

    def norm_factors(self) -> Tensor:
        """What folding multiplies the weights of each output by, (out,)."""
        return self.norm_scale * torch.rsqrt(self.norm_var + NORM_EPS)

    @torch.no_grad()
    def fold(self) -> Tensor:
        """End the batch norm: the bias takes its part, and the weights have to be multiplied by what is returned.

        A factor of exactly 0 would end all synapses of an output for good; it becomes a very small one.
        """
        _, bias = self.folded()
        factors = self.norm_factors()
        assert self.bias is not None
        assert bias is not None
        self.bias.copy_(bias)
        self.normed = False
        return torch.where(factors == 0, 1e-6, factors)

    def normalise(self, x: Tensor, gain: float) -> Tensor:
        """The batch norm over samples, steps and places, with the batch's own statistics, times gain."""
        assert self.bias is not None
        scale, shift = self.norm_scale * gain, self.bias * gain
        options = {"training": True, "momentum": NORM_MOMENTUM, "eps": NORM_EPS}
        return over_maps(functional.batch_norm, x, self.norm_mean, self.norm_var, scale, shift, **options)

    def neuron(self) -> neurons.Neuron:
        """The neuron on the scale on which the layer computes."""
        options, grid = self.neurons, self.grid
        keep = 1 - options.voltage_decay
        if grid is None:
            return neurons.Neuron(keep, options.threshold, 1.0, False, options.reset, options.refractory)
        # The decay is a 12 bit fraction on the chip.
        keep = 1 - round(4096 / options.tau) / 4096 if options.neuron == "lif" else 1.0
        threshold = float(grid.threshold_mantissa << quantise.STATE_SHIFT)
        return neurons.Neuron(keep, threshold, grid.unit, True, options.reset, options.refractory)

    @property
    def current_kept(self) -> float:
        """What the synaptic current keeps from step to step, on the grid where there is one."""
        decay = self.neurons.current_decay
        return 1 - (decay if self.grid is None else max(round(decay * 4096), 1) / 4096)

    def current_growth(self, steps: int) -> float:
        """How much a current can pile up: 1 + kept + kept**2 and so on."""
        kept = 1 - self.neurons.current_decay
        return sum(kept**step for step in range(steps))


class DenseLayer(Weights):
    """Weights (out, in)."""

    op = "linear"

    def __init__(self, planned: Planned, generator: torch.Generator) -> None:
        super().__init__(planned, (*planned.target, math.prod(planned.source)), generator)

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        return functional.linear(x, weight)

    def everywhere(self, weight: Tensor) -> Tensor:
        return weight.sum(1)

    def uses(self) -> Tensor:
        return torch.ones(1, 1, dtype=torch.int64)

    def fan_out(self, mask: Tensor | None) -> Tensor:
        assert mask is not None
        return mask.sum(0)

    def entry(self) -> dict[str, Any]:
        return {"op": self.op}


class ConvLayer(Weights):
    """Weights (out channels, in channels / groups, kernel, kernel)."""

    op = "conv2d"

    def __init__(self, planned: Planned, generator: torch.Generator) -> None:
        table = cast("Conv", planned.table)
        shape = (table.channels, planned.source[0] // table.groups, table.kernel, table.kernel)
        super().__init__(planned, shape, generator)
        self.stride, self.padding, self.groups = table.stride, table.margin, table.groups

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        options = {"stride": self.stride, "padding": self.padding, "groups": self.groups}
        return over_maps(functional.conv2d, x, weight, **options)

    def biased(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if bias is None or bias.ndim > 1:
            return super().biased(x, weight, bias)
        # One pass over the map less, and one rounding.
        options = {"stride": self.stride, "padding": self.padding, "groups": self.groups}
        return over_maps(functional.conv2d, x, weight, bias.to(x.dtype), **options)

    def everywhere(self, weight: Tensor) -> Tensor:
        channels, *size = self.source
        return self.product(weight.new_ones(1, 1, *size, channels), weight)[0, 0]

    def uses(self) -> Tensor:
        kernel = self.weight.shape[2]
        read = _places_read(kernel, self.source[1], self.stride, self.padding)
        across = _places_read(kernel, self.source[2], self.stride, self.padding)
        return read.sum(1)[:, None] * across.sum(1)

    def fan_out(self, mask: Tensor | None) -> Tensor:
        assert mask is not None
        # Outputs that each tap of each input channel leads to, then how often a place is read by each tap.
        groups = mask.view(self.groups, -1, *mask.shape[1:])
        taps = groups.sum(1).flatten(0, 1).float()
        return torch.stack([_reads(tap, self.source[1:], self.stride, self.padding) for tap in taps], dim=-1)

    def entry(self) -> dict[str, Any]:
        pair = lambda n: [n, n]  # noqa: E731
        return {
            "op": self.op,
            "stride": pair(self.stride),
            "padding": pair(self.padding),
            "dilation": [1, 1],
            "groups": self.groups,
        }


STAGES: dict[str, Callable[[Planned, torch.Generator], Stage]] = {
    "conv": ConvLayer,
    "dense": DenseLayer,
    "max_pool": MaxPoolStage,
    "sum_pool": SumPoolStage,
    "avg_pool": SumPoolStage,
    "dropout": DropoutStage,
}
"""The part that each kind of table describes."""


def _places_read(kernel: int, size: int, stride: int, padding: int) -> Tensor:
    """Whether each row of a kernel reads inside the map at each target row: int64 (kernel, targets)."""
    targets = (size + 2 * padding - kernel) // stride + 1
    read = torch.arange(kernel)[:, None] + torch.arange(targets) * stride - padding
    return ((read >= 0) & (read < size)).long()


def _reads(taps: Tensor, size: Any, stride: int, padding: int) -> Tensor:
    """For each place of a map (height, width) the sum of `taps` (kernel, kernel) over the windows that read it."""
    spread = []
    for places in size:
        kernel = len(taps)
        targets = (places + 2 * padding - kernel) // stride + 1
        read = torch.arange(kernel)[:, None] + torch.arange(targets) * stride - padding
        hits = torch.zeros(kernel, places)
        row, target = ((read >= 0) & (read < places)).nonzero(as_tuple=True)
        hits[row, read[row, target]] = 1
        spread.append(hits)
    return torch.einsum("ij,iy,jx->yx", taps, spread[0], spread[1])

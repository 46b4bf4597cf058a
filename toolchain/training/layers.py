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

from toolchain.training import distributed, events, layout, neurons, quantise
from toolchain.training.architecture import Conv, Dropout, NeuronOptions, Neurons, Planned, Pool
from toolchain.training.encoding import PeriodicSpikes
from toolchain.training.quantise import Grid
from toolchain.training.seeds import Draws

NORM_MOMENTUM = 0.1
NORM_EPS = 1e-5


def over_maps(function: Any, x: Tensor, *args: Any, **options: Any) -> Tensor:
    """A function of (N, channels, height, width), applied to all steps and samples of maps in our order of axes."""
    merged = x.flatten(0, 1).permute(0, 3, 1, 2)
    return function(merged, *args, **options).permute(0, 2, 3, 1).contiguous().unflatten(0, x.shape[:2])


class Stage(nn.Module):
    """One part. name: what others call it.  inputs: names of what it reads.  population: whether it is one."""

    name: str
    population = False
    inputs: tuple[str, ...]

    def join(self, parts: list[Tensor]) -> Tensor:
        """All that it reads, as one."""
        (x,) = parts
        return x

    def forward(self, x: Tensor, noise: Draws | None) -> Tensor:
        """What it sends while training."""
        return self.exact(x)

    def exact(self, x: Tensor) -> Tensor:
        """What it sends for what it receives, as deployed."""
        raise NotImplementedError

    def fan_out(self, mask: Tensor | None) -> Tensor:
        """Synapses from each neuron of its source, in the source's order of axes; mask: of its weights."""
        raise NotImplementedError

    def entry(self) -> dict[str, Any] | None:
        """Its layer in model.pt without name and inputs, or None where nothing of it is deployed."""
        return None


class ToMap(Stage):
    """Samples as they are stored become maps."""

    def __init__(self, name: str, inputs: tuple[str, ...], shape: tuple[int, ...]) -> None:
        super().__init__()
        self.name, self.inputs, self.shape = name, inputs, shape

    def exact(self, x: Tensor) -> Tensor:
        return x.unflatten(2, self.shape).permute(0, 1, 3, 4, 2).contiguous()


class Flatten(Stage):
    """Maps become flat layers in the chip's order of neurons, channel by channel."""

    def __init__(self, name: str, inputs: tuple[str, ...]) -> None:
        super().__init__()
        self.name, self.inputs = name, inputs

    def exact(self, x: Tensor) -> Tensor:
        return x.permute(0, 1, 4, 2, 3).flatten(2)

    def entry(self) -> dict[str, Any]:
        return {"op": "flatten"}


class DelayStage(Stage):
    """What came in `late` steps ago, 0 in the first ones."""

    def __init__(self, name: str, inputs: tuple[str, ...], late: int, steps: int) -> None:
        super().__init__()
        self.name, self.inputs, self.late, self.steps = name, inputs, late, steps

    def exact(self, x: Tensor) -> Tensor:
        came = x.expand(self.steps, *x.shape[1:])[: self.steps - self.late]
        return torch.cat([x.new_zeros(self.late, *x.shape[1:]), came])

    def entry(self) -> dict[str, Any]:
        return {"op": "delay", "steps": self.late}


class AddStage(Stage):
    """The sum of what layers send."""

    def __init__(self, planned: Planned, generator: torch.Generator) -> None:
        super().__init__()

    def join(self, parts: list[Tensor]) -> Tensor:
        return sum(parts[1:], parts[0])

    def exact(self, x: Tensor) -> Tensor:
        return x

    def entry(self) -> dict[str, Any]:
        return {"op": "add"}


class ConcatStage(Stage):
    """What layers send, side by side along the channels or neurons, which are the last axis."""

    def __init__(self, planned: Planned, generator: torch.Generator) -> None:
        super().__init__()

    def join(self, parts: list[Tensor]) -> Tensor:
        return torch.cat(parts, dim=-1)

    def exact(self, x: Tensor) -> Tensor:
        return x

    def entry(self) -> dict[str, Any]:
        return {"op": "concat"}


class DropoutStage(Stage):
    """Dropout with one mask for all steps of a sample."""

    def __init__(self, planned: Planned, generator: torch.Generator) -> None:
        super().__init__()
        self.rate = cast("Dropout", planned.table).rate

    def forward(self, x: Tensor, noise: Draws | None) -> Tensor:
        if noise is None or self.rate == 0:
            return x
        keep = noise.uniform(*x.shape[1:]).to(x.device) >= self.rate
        return x * (keep.to(x.dtype) / (1 - self.rate))

    def exact(self, x: Tensor) -> Tensor:
        return x


class MaxPoolStage(Stage):
    """The OR of each window's spikes."""

    population = True

    def __init__(self, planned: Planned, generator: torch.Generator) -> None:
        super().__init__()
        table = cast("Pool", planned.table)
        self.size, self.step = table.size, table.step
        self.source = planned.source

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

    def exact(self, x: Tensor) -> Tensor:
        return over_maps(functional.avg_pool2d, x, self.size, self.step, divisor_override=1)

    def entry(self) -> dict[str, Any]:
        size, step = [self.size, self.size], [self.step, self.step]
        return {"op": "sum_pool", "kernel": size, "stride": step, "padding": [0, 0]}


class Weights(Stage):
    """A layer of weights and the neurons that they lead to. Weights are physical; a synapse exists where one is not 0.

    grid: the integers to compute in, or None for floating point.  norm_scale, norm_mean, norm_var: of a batch norm
    (its shift is the bias) until `fold` has made it a part of the weights.  outside, factor, added: as in `Planned`.
    feedback: the recurrent weights of its neurons, whose sums arrive `late` steps after the spikes; they have no bias
    and no batch norm, and their grid has the same threshold.
    """

    population = True
    op: ClassVar[str]

    def __init__(self, planned: Planned, shape: tuple[int, ...], generator: torch.Generator) -> None:
        super().__init__()
        assert planned.neurons is not None
        self.name, self.source, self.target = planned.name, planned.source, planned.target
        self.neurons: NeuronOptions = planned.neurons
        self.outside, self.factor, self.added = planned.outside, planned.factor, planned.added
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
        self.feedback: Weights | None = None
        table = cast("Neurons", planned.table)
        self.late = table.recurrent_delay
        if table.recurrent:
            back = Planned(f"{planned.name}.recurrent", table.feedback(), self.target, self.target, self.neurons)
            self.feedback = cast("Weights", STAGES[back.table.kind](back, generator))

    @property
    def connections(self) -> list[Weights]:
        """The layers of weights that lead into its neurons: itself, and the recurrent one."""
        return [self] if self.feedback is None else [self, self.feedback]

    norm_mean: Tensor
    norm_var: Tensor

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """Weighted sums (T, B, ...) of payloads."""
        raise NotImplementedError

    def per_step(self, function: Any, x: Tensor, *args: Any, **options: Any) -> Tensor:
        """A function of (N, outputs, ...) applied to what its neurons get, all steps and samples together."""
        return over_maps(function, x, *args, **options)

    def biased(self, x: Tensor, weight: Tensor, bias: Tensor | None, offset: float = 0.0) -> Tensor:
        """Weighted sums of payload + offset, and a bias (out,) or one a neuron."""
        bias = self.shifted(weight, bias, offset)
        current = self.product(x, weight)
        return current if bias is None else current + bias.to(current.dtype)

    def everywhere(self, weight: Tensor) -> Tensor:
        """Weighted sums where every source sends 1; one a neuron, or of a shape that stands for all."""
        raise NotImplementedError

    def shifted(self, weight: Tensor, bias: Tensor | None, offset: float) -> Tensor | None:
        """A bias, and the weighted sums where every source sends `offset`."""
        if not offset:
            return bias
        sums = self.everywhere(weight) * offset
        return sums if bias is None else bias + sums

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
        options: dict[str, Any] = {"momentum": NORM_MOMENTUM, "eps": NORM_EPS}
        running = self.norm_mean, self.norm_var
        if distributed.size() > 1:
            return distributed.batch_norm(x, *running, scale, shift, **options)
        return self.per_step(functional.batch_norm, x, *running, scale, shift, training=True, **options)

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
        if len(self.weight) >= events.WIDTH:
            self.weight.data = layout.by_input(self.weight.data)

    def product(self, x: Tensor | PeriodicSpikes, weight: Tensor) -> Tensor:
        return self.biased(x, weight, None)

    def biased(self, x: Tensor | PeriodicSpikes, weight: Tensor, bias: Tensor | None, offset: float = 0.0) -> Tensor:
        if isinstance(x, PeriodicSpikes):
            return x.product(weight, self.shifted(weight, bias, offset))
        return events.linear(x, weight, bias, offset)

    def per_step(self, function: Any, x: Tensor, *args: Any, **options: Any) -> Tensor:
        return cast("Tensor", function(x.flatten(0, 1), *args, **options).unflatten(0, x.shape[:2]))

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
        self.stride, self.padding, self.groups, self.dilation = table.stride, table.margin, table.groups, table.dilation

    @property
    def options(self) -> dict[str, int]:
        """What torch's convolution is called with."""
        names = ("stride", "padding", "dilation", "groups")
        return {name: getattr(self, name) for name in names}

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        return over_maps(functional.conv2d, x, weight, **self.options)

    def biased(self, x: Tensor, weight: Tensor, bias: Tensor | None, offset: float = 0.0) -> Tensor:
        if bias is None or bias.ndim > 1 or offset:
            return super().biased(x, weight, bias, offset)
        # One pass over the map less, and one rounding.
        return over_maps(functional.conv2d, x, weight, bias.to(x.dtype), **self.options)

    def everywhere(self, weight: Tensor) -> Tensor:
        channels, *size = self.source
        return self.product(weight.new_ones(1, 1, *size, channels), weight)[0, 0]

    def uses(self) -> Tensor:
        kernel = self.weight.shape[2]
        down, across = (
            _taps(kernel, size, self.stride, self.padding, self.dilation).sum((1, 2)).long() for size in self.source[1:]
        )
        return down[:, None] * across

    def fan_out(self, mask: Tensor | None) -> Tensor:
        assert mask is not None
        # Outputs that each tap of each input channel leads to, then how often a place is read by each tap.
        groups = mask.view(self.groups, -1, *mask.shape[1:])
        taps = groups.sum(1).flatten(0, 1).float()
        options = self.stride, self.padding, self.dilation
        return torch.stack([_reads(tap, self.source[1:], *options) for tap in taps], dim=-1)

    def entry(self) -> dict[str, Any]:
        pair = lambda n: [n, n]  # noqa: E731
        return {
            "op": self.op,
            "stride": pair(self.stride),
            "padding": pair(self.padding),
            "dilation": pair(self.dilation),
            "groups": self.groups,
        }


STAGES: dict[str, Callable[[Planned, torch.Generator], Stage]] = {
    "conv": ConvLayer,
    "dense": DenseLayer,
    "max_pool": MaxPoolStage,
    "sum_pool": SumPoolStage,
    "avg_pool": SumPoolStage,
    "dropout": DropoutStage,
    "add": AddStage,
    "concat": ConcatStage,
}
"""The part that each kind of table describes."""


def _taps(kernel: int, size: int, stride: int, padding: int, dilation: int) -> Tensor:
    """How often each entry of a kernel reads each place, by target: 0 or 1, float32 (kernel, targets, places)."""
    targets = (size + 2 * padding - (kernel - 1) * dilation - 1) // stride + 1
    read = torch.arange(kernel)[:, None] * dilation + torch.arange(targets) * stride - padding
    return (read[..., None] == torch.arange(size)).float()


def _reads(taps: Tensor, size: Any, stride: int, padding: int, dilation: int = 1) -> Tensor:
    """For each place of a map (height, width) the sum of `taps` (kernel, kernel) over the windows that read it."""
    spread = [_taps(len(taps), places, stride, padding, dilation).sum(1) for places in size]
    return torch.einsum("ij,iy,jx->yx", taps, *spread)

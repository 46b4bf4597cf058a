"""The network: dense layers of leaky integrate-and-fire neurons between an input coding and a count of spikes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from toolchain.training import neurons, quantise
from toolchain.training.encoding import CODINGS, VALUE_MAX
from toolchain.training.quantise import Grid
from toolchain.training.recipe import Recipe

EXACT_FLOAT32 = 1 << 24
"""Integers up to here, and so sums that stay below, are exact in float32 whatever the order of addition."""


class DenseLayer(nn.Module):
    """Weights (out, in), physical; a synapse exists where the weight is not 0. Initialised as torch.nn.Linear.

    grid: the integers to compute in, or None for floating point.
    """

    def __init__(self, name: str, inputs: int, outputs: int, *, bias: bool, generator: torch.Generator) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.name = name
        self.weight = nn.Parameter(torch.empty(outputs, inputs).uniform_(-bound, bound, generator=generator))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound, generator=generator)) if bias else None
        self.grid: Grid | None = None


@dataclass(frozen=True)
class InputScale:
    """What one unit of payload is worth: a value x stands for offset + scale * x."""

    scale: float
    offset: float
    payload: int


def input_scale(recipe: Recipe) -> InputScale:
    """The physical meaning of the input's payloads while training.

    Graded payloads are trained as fractions of the largest, so that the common initialisation suits them.
    """
    if recipe.input.coding == "rate":
        return InputScale(1.0, 0.0, 1)
    if recipe.input.coding == "graded":
        largest = (1 << recipe.input.payload_bits) - 1
        return InputScale(1 / largest, 0.0, largest)
    return InputScale(1 / (VALUE_MAX * recipe.input.std), -recipe.input.mean / recipe.input.std, VALUE_MAX)


class SpikingNetwork(nn.Module):
    """inputs -> hidden... -> classes. Samples are uint8 (B, inputs); the output is spikes (T, B, classes)."""

    def __init__(self, recipe: Recipe, inputs: int, classes: int) -> None:
        super().__init__()
        self.recipe = recipe
        self.coding = CODINGS[recipe.input.coding]
        graded = recipe.input.coding == "graded"
        self.coding_parameter = recipe.input.payload_bits if graded else recipe.input.threshold
        self.input_scale = input_scale(recipe)
        self.used: list[Tensor] | None = None
        generator = torch.Generator().manual_seed(recipe.seed)
        sizes = (inputs, *recipe.network.hidden, classes)
        self.layers: list[DenseLayer] = []
        for number, (before, after) in enumerate(pairwise(sizes), start=1):
            layer = DenseLayer(f"fc{number}", before, after, bias=recipe.network.bias, generator=generator)
            self.add_module(layer.name, layer)
            self.layers.append(layer)

    def on_host(self, index: int) -> bool:
        """Whether a layer's products are computed on the host (the first one, current coding)."""
        return index == 0 and self.recipe.input.coding == "current"

    def scale(self, index: int) -> InputScale:
        """What one unit of payload into a layer is worth."""
        return self.input_scale if index == 0 else InputScale(1.0, 0.0, 1)

    def fit_grids(self) -> None:
        """Choose each layer's integer grid from its weights as they are."""
        net = self.recipe.network
        for index, layer in enumerate(self.layers):
            scale = self.scale(index)
            layer.grid = quantise.fit_grid(
                layer.weight.detach(),
                bits=self.recipe.quantise.bits,
                threshold=net.threshold,
                tau=net.tau,
                scale=scale.scale,
                payload=scale.payload,
                on_host=self.on_host(index),
            )

    def compact(self, masks: list[Tensor]) -> None:
        """Leave out of training passes what a final set of synapses never uses; the result is the same, sooner.

        A neuron is used when a synapse leads from it to a used one and, unless it has a bias, one leads to it.
        """
        used = [torch.ones(len(masks[-1]), dtype=torch.bool)]
        for index in reversed(range(len(masks))):
            heard = (masks[index] & used[0][:, None]).any(0)
            if index > 0 and self.layers[index - 1].bias is None:
                heard &= masks[index - 1].any(1)
            used.insert(0, heard)
        # An empty layer would be an odd case for every operation below; nothing is gained there.
        if all(bool(heard.any()) for heard in used) and not all(bool(heard.all()) for heard in used):
            self.used = [heard.nonzero().flatten() for heard in used]

    def neuron(self, layer: DenseLayer) -> neurons.Neuron:
        """The layer's neuron on the scale on which the layer computes."""
        net, grid = self.recipe.network, layer.grid
        if grid is None:
            return neurons.Neuron(1 - 1 / net.tau, net.threshold, 1.0, False)
        # The decay is a 12 bit fraction on the chip.
        decay = 1 - round(4096 / net.tau) / 4096
        return neurons.Neuron(decay, float(grid.threshold_mantissa << quantise.STATE_SHIFT), grid.unit, True)

    def _bias(self, index: int, weight: Tensor, own: Tensor | None) -> Tensor | None:
        """What a layer's neurons get at each step beside their synapses, physical (out,)."""
        offset = self.scale(index).offset
        shifted = weight.sum(1) * offset if offset else None
        if own is None:
            return shifted
        return own if shifted is None else own + shifted

    def forward(self, samples: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Output spikes (T, B, classes), differentiable; dtype is that of the matrix products."""
        net = self.recipe.network
        graded = self.coding is CODINGS["graded"]
        if self.used is not None:
            samples = samples.index_select(1, self.used[0])
        spikes = self.coding(samples, net.steps, self.coding_parameter, torch.float32 if graded else dtype)
        for index, layer in enumerate(self.layers):
            weight: Tensor = layer.weight
            bias: Tensor | None = layer.bias
            if self.used is not None:
                rows, columns = self.used[index + 1], self.used[index]
                weight = weight.index_select(0, rows).index_select(1, columns)
                bias = None if bias is None else bias.index_select(0, rows)
            spikes = neurons.run(self._current(index, spikes, weight, bias), net.steps, self.neuron(layer)).to(dtype)
        return spikes

    def _current(self, index: int, spikes: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        grid = self.layers[index].grid
        if grid is None:
            bias = self._bias(index, weight, bias)
            weight = weight * (self.scale(index).scale / self.recipe.network.tau)
            current = nn.functional.linear(spikes, weight.to(spikes.dtype))
            return current if bias is None else current + (bias / self.recipe.network.tau).to(current.dtype)
        weight = quantise.straight_through(weight, grid)
        bias = self._bias(index, weight * grid.step, bias)
        if self.on_host(index):
            total = nn.functional.linear(spikes, weight.to(spikes.dtype))
            current = quantise.straight_host_sum(total, grid.shift) * 2**quantise.STATE_SHIFT
        else:
            # Six bits up is exact in any floating type, and cheaper on the weights than on the currents.
            current = nn.functional.linear(spikes, (weight * 2**quantise.STATE_SHIFT).to(spikes.dtype))
        if bias is None:
            return current
        units = bias / (grid.tau * grid.unit)
        rounded = units + (quantise.bias_integers(bias, grid).float() - units).detach()
        return current + rounded.to(current.dtype)

    @torch.no_grad()
    def simulate(self, samples: Tensor) -> list[Tensor]:
        """What every population sends, as deployed: the input's payloads, then each layer's spikes (T, B, n).

        With grids this is the chip's integer arithmetic without any other rounding; without, the float model.
        """
        net = self.recipe.network
        sent = [self.coding(samples, net.steps, self.coding_parameter, torch.float32)]
        for index, layer in enumerate(self.layers):
            current = self._exact_current(index, sent[-1])
            sent.append(neurons.run_exact(current, net.steps, self.neuron(layer)).float())
        return sent

    def _exact_current(self, index: int, spikes: Tensor) -> Tensor:
        layer, grid = self.layers[index], self.layers[index].grid
        if grid is None:
            return self._current(index, spikes, layer.weight, layer.bias)
        weight = quantise.mantissas(layer.weight, grid)
        worst = float(weight.abs().sum(1).max()) * self.scale(index).payload
        exact = spikes.dtype if worst < EXACT_FLOAT32 else torch.float64
        total = nn.functional.linear(spikes.to(exact), weight.to(exact)).double()
        if self.on_host(index):
            total = quantise.host_sum(total, grid.shift)
        current = total.mul_(2**quantise.STATE_SHIFT)
        bias = self._bias(index, weight * grid.step, layer.bias)
        return current if bias is None else current + quantise.bias_integers(bias, grid)

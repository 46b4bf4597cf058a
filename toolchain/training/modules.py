"""The network: layers of neurons between an input coding and a decision by spikes or potentials."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from toolchain.training import neurons, quantise
from toolchain.training.architecture import Dense, Shape
from toolchain.training.encoding import CODINGS, VALUE_MAX
from toolchain.training.layers import STAGES, DenseLayer, Flatten, Stage, SumPoolStage, ToMap, Weights
from toolchain.training.recipe import Recipe

EXACT_FLOAT32 = 1 << 24
"""Integers up to here, and so sums that stay below, are exact in float32 whatever the order of addition."""


@dataclass(frozen=True)
class InputScale:
    """What one unit of payload is worth: a value x stands for offset + scale * x. payload: the largest one."""

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


@dataclass(frozen=True)
class Sent:
    """What one population sends for a batch: `payload` (T, B, ...), T = 1 for the same at every step.

    stage: the part that it is, None for the input.  events: the spikes that reached it, in its source's order.
    """

    stage: Stage | None
    events: Tensor
    payload: Tensor


class SpikingNetwork(nn.Module):
    """Samples are uint8 (B, channels * height * width); see `forward` and `simulate`.

    stages: all parts in order.  layers: those with weights.
    """

    def __init__(self, recipe: Recipe, shape: Shape, classes: int) -> None:
        super().__init__()
        self.recipe, self.classes = recipe, classes
        self.coding = CODINGS[recipe.input.coding]
        graded = recipe.input.coding == "graded"
        self.coding_parameter = recipe.input.payload_bits if graded else recipe.input.threshold
        self.input_scale = input_scale(recipe)
        self.input_shape = shape
        self.used: list[Tensor] | None = None
        generator = torch.Generator().manual_seed(recipe.seed)
        self.stages: list[Stage] = []
        planned = recipe.plan(shape, classes)
        if not isinstance(planned[0].table, Dense):
            self.stages.append(ToMap(shape))
        for part in planned:
            if isinstance(part.table, Dense) and len(part.source) == 3 and self.stages:
                self.stages.append(Flatten())
            self.stages.append(STAGES[part.table.kind](part, generator))
        self.layers: list[Weights] = []
        for stage in self.stages:
            if isinstance(stage, Weights):
                self.layers.append(stage)
                self.add_module(stage.name, stage)
        self._collect_pools()

    def _collect_pools(self) -> None:
        factor, added = 1.0, 1
        for stage in self.stages:
            if isinstance(stage, SumPoolStage):
                factor, added = factor * stage.factor, added * stage.window()
            elif isinstance(stage, Weights):
                stage.factor, stage.added = factor, added
                factor, added = 1.0, 1

    @property
    def normed(self) -> bool:
        """Whether a batch norm is not yet folded."""
        return any(layer.normed for layer in self.layers)

    @property
    def on_grid(self) -> bool:
        return self.layers[0].grid is not None

    def weights(self) -> list[nn.Parameter]:
        """The parameters that are synapses."""
        return [layer.weight for layer in self.layers]

    def others(self) -> list[nn.Parameter]:
        """The parameters that are not: biases and batch norms."""
        synapses = {id(weight) for weight in self.weights()}
        return [parameter for parameter in self.parameters() if id(parameter) not in synapses]

    def on_host(self, layer: Weights) -> bool:
        """Whether a layer's products are computed on the host (the first one, current coding)."""
        return layer is self.layers[0] and self.recipe.input.coding == "current"

    def scale(self, layer: Weights) -> InputScale:
        """What one unit of payload into a layer is worth, pools before it included."""
        base = self.input_scale if layer is self.layers[0] else InputScale(1.0, 0.0, 1)
        if layer.added == 1:
            return base
        each = layer.factor * layer.added
        return InputScale(base.scale * layer.factor, base.offset * each, base.payload * layer.added)

    def fit_grids(self) -> None:
        """Choose each layer's integer grid from its weights as they are."""
        for layer in self.layers:
            scale, weight = self.scale(layer), layer.weight.detach()
            layer.grid = quantise.fit_grid(
                weight,
                bits=self.recipe.quantise.bits,
                threshold=layer.neurons.threshold,
                tau=layer.neurons.resistance,
                scale=scale.scale,
                payload=scale.payload * layer.current_growth(self.recipe.network.steps),
                on_host=self.on_host(layer),
                beside=self.beside(layer, weight),
            )

    def beside(self, layer: Weights, weight: Tensor) -> float:
        """The largest that a layer's biases can be, what an input's offset makes of its weights included; physical."""
        own = 0.0 if layer.bias is None else float(layer.bias.detach().abs().max())
        return own + abs(self.scale(layer).offset) * float(quantise.row_sums(weight).max())

    def compact(self, masks: list[Tensor]) -> None:
        """Leave out of training passes what a final set of synapses never uses; the result is the same, sooner.

        A neuron is used when a synapse leads from it to a used one and, unless it has a bias, one leads to it.
        Only for networks of dense layers and nothing else: maps are computed whole.
        """
        if len(self.stages) != len(self.layers) or not all(isinstance(layer, DenseLayer) for layer in self.layers):
            return
        used = [torch.ones(len(masks[-1]), dtype=torch.bool)]
        for index in reversed(range(len(masks))):
            heard = (masks[index] & used[0][:, None]).any(0)
            if index > 0 and self.layers[index - 1].bias is None:
                heard &= masks[index - 1].any(1)
            used.insert(0, heard)
        # An empty layer would be an odd case for every operation below; nothing is gained there.
        if all(bool(heard.any()) for heard in used) and not all(bool(heard.all()) for heard in used):
            self.used = [heard.nonzero().flatten() for heard in used]

    def _bias(self, layer: Weights, weight: Tensor, own: Tensor | None) -> Tensor | None:
        """What a layer's neurons get at each step beside their synapses, physical, one a neuron or a channel."""
        offset = self.scale(layer).offset
        shifted = layer.everywhere(weight) * offset if offset else None
        if own is None:
            return shifted
        return own if shifted is None else own + shifted

    def forward(
        self, samples: Tensor, dtype: torch.dtype = torch.float32, noise: torch.Generator | None = None
    ) -> Tensor:
        """The output neurons' spikes (T, B, n), or (1, B, n) what a readout's potential is for each step.

        Differentiable. dtype: of the matrix products.  noise: for dropout, which is left out without.
        """
        steps = self.recipe.network.steps
        graded = self.coding is CODINGS["graded"]
        if self.used is not None:
            samples = samples.index_select(1, self.used[0])
        x = self.coding(samples, steps, self.coding_parameter, torch.float32 if graded else dtype)
        for stage in self.stages:
            x = self._layer(stage, x).to(dtype) if isinstance(stage, Weights) else stage(x, noise)
        return x

    def rates(self, outputs: Tensor) -> Tensor:
        """Mean of the outputs over steps and over the neurons that vote for a class: (B, classes), float32."""
        mean = outputs.float().mean(0)
        votes = self.recipe.network.vote
        return mean if votes == 1 else mean.unflatten(1, (self.classes, votes)).mean(2)

    def decisions(self, outputs: Tensor) -> Tensor:
        """The class of each sample: most spikes or highest potential, ties to the lowest."""
        total, votes = outputs.sum(0), self.recipe.network.vote
        return (total if votes == 1 else total.unflatten(1, (self.classes, votes)).sum(2)).argmax(1)

    def _layer(self, layer: Weights, x: Tensor) -> Tensor:
        """What a layer of weights and neurons sends, differentiable."""
        steps, neuron = self.recipe.network.steps, layer.neuron()
        weight: Tensor = layer.weight
        bias: Tensor | None = layer.bias
        if self.used is not None:
            index = self.layers.index(layer)
            rows, columns = self.used[index + 1], self.used[index]
            weight = weight.index_select(0, rows).index_select(1, columns)
            bias = None if bias is None else bias.index_select(0, rows)
        current = self._current(layer, x, weight, bias)
        if neuron.reset == "none":
            total = current.float().sum(0, keepdim=True)
            return total * (neuron.unit * (1 if len(current) == 1 else 1 / steps))
        return neurons.run(current, steps, neuron)

    def _current(self, layer: Weights, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        tau = layer.neurons.resistance
        if layer.normed:
            scale = self.scale(layer)
            current = layer.product(x, (weight * scale.scale).to(x.dtype))
            if scale.offset:
                current = current + (layer.everywhere(weight) * scale.offset).to(current.dtype)
            return layer.normalise(current, 1 / tau)
        grid = layer.grid
        if grid is None:
            bias = self._bias(layer, weight, bias)
            weight = (weight * (self.scale(layer).scale / tau)).to(x.dtype)
            return self._filtered(layer, x, weight, None if bias is None else bias / tau)
        weight = quantise.straight_through(weight, grid)
        bias = self._bias(layer, weight * grid.step, bias)
        if bias is not None:
            units = bias / (grid.tau * grid.unit)
            integers = quantise.bias_integers(bias, grid, on_host=self.on_host(layer))
            bias = units + (integers.float() - units).detach()
        if self.on_host(layer):
            total = layer.product(x, weight.to(x.dtype))
            current = quantise.straight_host_sum(total, grid.shift) * 2**quantise.STATE_SHIFT
            return current if bias is None else current + bias.to(current.dtype)
        # Six bits up is exact in any floating type, and cheaper on the weights than on the currents.
        return self._filtered(layer, x, (weight * 2**quantise.STATE_SHIFT).to(x.dtype), bias)

    def _filtered(self, layer: Weights, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Synaptic currents and, beside them, the bias; all on the scale of the potential."""
        if layer.current_kept == 0:
            return layer.biased(x, weight, bias)
        steps = self.recipe.network.steps
        current = neurons.synapse(layer.product(x, weight), steps, layer.current_kept, layer.grid is not None)
        return current if bias is None else current + bias.to(current.dtype)

    @torch.no_grad()
    def simulate(self, samples: Tensor) -> list[Tensor]:
        """What every population sends, as deployed: the input's payloads, then the spikes of each (T, B, ...).

        With grids this is the chip's integer arithmetic without any other rounding; without, the float model.
        """
        return [sent.payload for sent in self.walk(samples)]

    @torch.no_grad()
    def walk(self, samples: Tensor) -> Iterator[Sent]:
        """`simulate`, population by population."""
        x = self.coding(samples, self.recipe.network.steps, self.coding_parameter, torch.float32)
        events = (x != 0).float()
        yield Sent(None, events, x)
        for stage in self.stages:
            if not stage.name:
                x, events = stage.exact(x), stage.exact(events)
                continue
            x = self._layer_exact(stage, x) if isinstance(stage, Weights) else stage.exact(x)
            yield Sent(stage, events, x)
            events = x

    def _layer_exact(self, layer: Weights, x: Tensor) -> Tensor:
        steps, neuron = self.recipe.network.steps, layer.neuron()
        current = self._current_exact(layer, x)
        if neuron.reset == "none":
            return neurons.sum_exact(current, steps, neuron.integer)
        return neurons.run_exact(current, steps, neuron).float()

    def _current_exact(self, layer: Weights, x: Tensor) -> Tensor:
        steps, grid = self.recipe.network.steps, layer.grid
        if grid is None:
            weight, bias = layer.folded()
            bias = self._bias(layer, weight, bias)
            weight = weight * (self.scale(layer).scale / layer.neurons.resistance)
            current = neurons.synapse_exact(layer.product(x, weight), steps, layer.current_kept, False)
            return current if bias is None else current + bias / layer.neurons.resistance
        weight = quantise.mantissas(layer.weight, grid)
        worst = float(weight.abs().flatten(1).sum(1).max()) * self.scale(layer).payload
        exact = x.dtype if worst < EXACT_FLOAT32 else torch.float64
        total = layer.product(x.to(exact), weight.to(exact)).double()
        if self.on_host(layer):
            total = quantise.host_sum(total, grid.shift)
        current = neurons.synapse_exact(total.mul_(2**quantise.STATE_SHIFT), steps, layer.current_kept, True)
        bias = self._bias(layer, weight * grid.step, layer.bias)
        return current if bias is None else current + quantise.bias_integers(bias, grid, on_host=self.on_host(layer))

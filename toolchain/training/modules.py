"""The network: layers of neurons between an input coding and a decision by spikes or potentials."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from toolchain.training import neurons, quantise
from toolchain.training.architecture import INPUT, Dense, Neurons, Planned, Shape
from toolchain.training.encoding import CODINGS, VALUE_MAX, PeriodicSpikes
from toolchain.training.initialise import initialise
from toolchain.training.layers import STAGES, DelayStage, DenseLayer, Flatten, Stage, ToMap, Weights
from toolchain.training.recipe import Recipe
from toolchain.training.seeds import Draws
from toolchain.training.surrogates import slope_of

T = TypeVar("T")
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

    stages: all parts in order, each with the names of those that it reads.  populations: those of weights with neurons.
    layers: all connections with weights, recurrent ones behind those of their neurons.
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
        random = torch.Generator().manual_seed(recipe.seed)
        self.stages = self._build(recipe.plan(shape, classes), random)
        self.populations = [stage for stage in self.stages if isinstance(stage, Weights)]
        self.parts = nn.ModuleList(self.populations)
        self.layers = [layer for population in self.populations for layer in population.connections]
        initialise(self.weights(), recipe.network, random)
        self._last_read = {name: stage.name for stage in self.stages for name in stage.inputs}

    def _build(self, planned: tuple[Planned, ...], generator: torch.Generator) -> list[Stage]:
        stages: list[Stage] = []
        maps: dict[str, str] = {}
        flat: dict[str, str] = {}
        if any(INPUT in part.inputs and not isinstance(part.table, Dense) for part in planned):
            stages.append(ToMap("map", (INPUT,), self.input_shape))
            maps[INPUT] = "map"
        for part in planned:
            inputs = tuple(maps.get(name, name) for name in part.inputs)
            if isinstance(part.table, Dense) and len(part.source) == 3 and inputs != (INPUT,):
                (read,) = inputs
                if read not in flat:
                    flat[read] = f"{part.name}.flatten" if flat else "flatten"
                    stages.append(Flatten(flat[read], inputs))
                inputs = (flat[read],)
            if isinstance(part.table, Neurons) and part.table.delay:
                late = DelayStage(f"{part.name}.delay", inputs, part.table.delay, self.recipe.network.steps)
                stages.append(late)
                inputs = (late.name,)
            stage = STAGES[part.table.kind](part, generator)
            stage.name, stage.inputs = part.name, inputs
            stages.append(stage)
        return stages

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
        """Whether a layer's products are computed on the host (the one that reads the input, current coding)."""
        return layer.outside and self.recipe.input.coding == "current"

    def scale(self, layer: Weights) -> InputScale:
        """What one unit of payload into a layer is worth, pools before it included."""
        base = self.input_scale if layer.outside else InputScale(1.0, 0.0, 1)
        if layer.added == 1:
            return base
        each = layer.factor * layer.added
        return InputScale(base.scale * layer.factor, base.offset * each, base.payload * layer.added)

    def fit_grids(self) -> None:
        """Choose each layer's integer grid from its weights as they are."""
        for population in self.populations:
            growth = population.current_growth(self.recipe.network.steps)
            connections = population.connections
            scales = [self.scale(layer) for layer in connections]
            grids = quantise.fit_grids(
                [
                    quantise.Entering(layer.weight.detach(), scale.scale, scale.payload * growth)
                    for layer, scale in zip(connections, scales, strict=True)
                ],
                bits=self.recipe.quantise.bits,
                threshold=population.neurons.threshold,
                tau=population.neurons.resistance,
                on_host=self.on_host(population),
                beside=self.beside(population, population.weight.detach()),
            )
            for layer, grid in zip(connections, grids, strict=True):
                layer.grid = grid

    def beside(self, layer: Weights, weight: Tensor) -> float:
        """The largest that a layer's biases can be, what an input's offset makes of its weights included; physical."""
        own = 0.0 if layer.bias is None else float(layer.bias.detach().abs().max())
        return own + abs(self.scale(layer).offset) * float(quantise.row_sums(weight).max())

    def compact(self, masks: list[Tensor]) -> None:
        """Leave out of training passes what a final set of synapses never uses; the result is the same, sooner.

        A neuron is used when a synapse leads from it to a used one and, unless it has a bias, one leads to it.
        Only for chains of dense layers and nothing else, without batch norms: the rest is computed whole.
        """
        dense = len(self.stages) == len(self.layers) and all(isinstance(layer, DenseLayer) for layer in self.layers)
        chain = [(INPUT,), *((stage.name,) for stage in self.stages[:-1])]
        if not dense or self.normed or [stage.inputs for stage in self.stages] != chain:
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

    def forward(self, samples: Tensor, dtype: torch.dtype = torch.float32, noise: Draws | None = None) -> Tensor:
        """The output neurons' spikes (T, B, n), or (1, B, n) what a readout's potential is for each step.

        Differentiable. dtype: of the matrix products.  noise: for dropout, which is left out without.
        """
        if self.used is not None:
            samples = samples.index_select(1, self.used[0])

        def compute(stage: Stage, parts: list[Tensor]) -> Tensor:
            x = stage.join(parts)
            return self._layer(stage, x, dtype).to(dtype) if isinstance(stage, Weights) else stage(x, noise)

        x = self._coded(samples, dtype)
        for _, sent in self._through(x, compute):
            x = sent
        return x

    def _coded(self, samples: Tensor, dtype: torch.dtype) -> Tensor:
        """What the input sends while training, in the form that is cheapest for the layers that read it."""
        steps = self.recipe.network.steps
        # Their sums are compiled loops on the processor.
        here = samples.device.type == "cpu"
        if (
            here
            and self.coding is CODINGS["rate"]
            and all(isinstance(stage, DenseLayer) for stage in self.stages if INPUT in stage.inputs)
        ):
            return cast("Tensor", PeriodicSpikes(samples, steps, self.coding_parameter))
        graded = self.coding is CODINGS["graded"]
        return self.coding(samples, steps, self.coding_parameter, torch.float32 if graded else dtype)

    def _through(self, x: T, compute: Callable[[Stage, list[T]], T]) -> Iterator[tuple[Stage, T]]:
        """Each part with what it makes of what it reads; nothing is kept longer than it is read."""
        sent = {INPUT: x}
        for stage in self.stages:
            x = compute(stage, [sent[name] for name in stage.inputs])
            sent = {name: value for name, value in sent.items() if self._last_read[name] != stage.name}
            sent[stage.name] = x
            yield stage, x

    def fan_outs(self) -> dict[str, Tensor]:
        """Synapses from each neuron of each layer that is read, were all weights there: by its name, in the shape of
        its spikes, (1, 1, ...). A max pool is a population of its own: what it sends counts for none.
        """
        sent: dict[str, Tensor] = {}
        counted: list[Tensor] = []

        def count(stage: Stage, x: Tensor) -> None:
            weight = torch.ones_like(stage.weight.detach()) if isinstance(stage, Weights) else None
            counted.append((x * stage.fan_out(weight)).sum())

        def compute(stage: Stage, parts: list[Tensor]) -> Tensor:
            x = stage.join(parts)
            if not stage.population:
                # Of a delay the last step; all else has one.
                return stage.exact(x)[-1:]
            count(stage, x)
            if not isinstance(stage, Weights):
                return stage.exact(x.detach())
            ones = torch.ones(1, 1, *stage.target[1:], stage.target[0], requires_grad=True)
            if stage.feedback is not None:
                count(stage.feedback, ones)
            sent[stage.name] = ones
            return ones

        for _ in self._through(torch.ones(1, 1, math.prod(self.input_shape)), compute):
            pass
        found = torch.autograd.grad(sum(counted, torch.zeros(())), list(sent.values()), allow_unused=True)
        return {name: fan_out for name, fan_out in zip(sent, found, strict=True) if fan_out is not None}

    def rates(self, outputs: Tensor) -> Tensor:
        """Mean of the outputs over steps and over the neurons that vote for a class: (B, classes), float32."""
        mean = outputs.float().mean(0)
        votes = self.recipe.network.vote
        return mean if votes == 1 else mean.unflatten(1, (self.classes, votes)).mean(2)

    def decisions(self, outputs: Tensor) -> Tensor:
        """The class of each sample: most spikes or highest potential, ties to the lowest."""
        total, votes = outputs.sum(0), self.recipe.network.vote
        return (total if votes == 1 else total.unflatten(1, (self.classes, votes)).sum(2)).argmax(1)

    def _layer(self, layer: Weights, x: Tensor, dtype: torch.dtype) -> Tensor:
        """What a layer of weights and neurons sends, differentiable."""
        steps, neuron = self.recipe.network.steps, self._neuron(layer)
        weight: Tensor = layer.weight
        bias: Tensor | None = layer.bias
        if self.used is not None:
            index = self.layers.index(layer)
            rows, columns = self.used[index + 1], self.used[index]
            weight = weight.t().index_select(0, columns).index_select(1, rows).t()
            bias = None if bias is None else bias.index_select(0, rows)
        sums, direct = self._sums(layer, x, weight, bias)
        if layer.feedback is not None:
            return self._looped(layer, layer.feedback, sums, direct)
        current = neurons.synapse(sums, steps, layer.current_kept, layer.grid is not None)
        if direct is not None:
            current = current + direct.to(current.dtype)
        if neuron.reset == "none":
            total = current.float().sum(0, keepdim=True)
            return total * (neuron.unit * (1 if len(current) == 1 else 1 / steps))
        return neurons.run(current, steps, neuron, dtype)

    def _neuron(self, layer: Weights) -> neurons.Neuron:
        """A layer's neuron with the recipe's surrogate, on the scale of `_sums`."""
        options, unit = self.recipe.network, self._unit(layer)
        slope = slope_of(options.surrogate, options.slope)
        own = layer.neuron()
        threshold, unit = own.threshold / unit, own.unit * unit
        return replace(own, threshold=threshold, unit=unit, surrogate=options.surrogate, slope=slope)

    def _unit(self, layer: Weights) -> float:
        """Of the potential, in which a layer computes while training in floating point: a weighted sum of 1 moves it
        by 1, and no pass over the weights is needed to scale them. 1 where more than weighted sums come together.
        """
        if layer.grid is not None or layer.normed or layer.feedback is not None:
            return 1.0
        return self.scale(layer).scale / layer.neurons.resistance

    def _looped(self, layer: Weights, feedback: Weights, sums: Tensor, direct: Tensor | None) -> Tensor:
        """Spikes of neurons that reach each other, step by step, differentiable."""
        if feedback.grid is None:
            weight = feedback.weight * (1 / layer.neurons.resistance)
        else:
            weight = quantise.straight_through(feedback.weight, feedback.grid, feedback.grid.lowest)
        weight = weight.to(sums.dtype)
        steps, kept = self.recipe.network.steps, layer.current_kept
        direct = None if direct is None else direct.float()
        feed = neurons.Feed(
            lambda spikes: feedback.product(spikes[None].to(weight.dtype), weight)[0].float(), layer.late
        )
        return neurons.run_looped(sums.float(), direct, steps, kept, self._neuron(layer), feed)

    def _sums(self, layer: Weights, x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """What enters a layer's synaptic current, and what passes by it: both in the potential's `_unit`."""
        tau, scale = layer.neurons.resistance, self.scale(layer)
        if layer.normed:
            current = layer.biased(x, (weight * scale.scale).to(x.dtype), None, scale.offset / scale.scale)
            return layer.normalise(current, 1 / tau), None
        grid = layer.grid
        if grid is None:
            unit = self._unit(layer)
            gain = scale.scale / tau / unit
            weight = weight if gain == 1 else weight * gain
            bias = None if bias is None else bias / (tau * unit)
            return self._apart(layer, x, weight.to(x.dtype), bias, scale.offset / scale.scale)
        # Six bits up is exact in any floating type, and cheaper on the weights than on the currents.
        on_host = self.on_host(layer)
        factor = 1 if on_host else grid.lowest
        weight = quantise.straight_through(weight, grid, factor)
        bias = layer.shifted(weight, bias, scale.offset * grid.step / factor)
        if bias is not None:
            units = bias / (grid.tau * grid.unit)
            integers = quantise.bias_integers(bias, grid, on_host=on_host)
            bias = units + (integers.float() - units).detach()
        if on_host:
            total = layer.product(x, weight.to(x.dtype))
            current = quantise.straight_host_sum(total, grid.shift) * 2**quantise.STATE_SHIFT
            return current, bias
        return self._apart(layer, x, weight.to(x.dtype), bias)

    def _apart(
        self, layer: Weights, x: Tensor, weight: Tensor, bias: Tensor | None, offset: float = 0.0
    ) -> tuple[Tensor, Tensor | None]:
        """Weighted sums, and the bias with those of `offset`; together where the current has no memory."""
        if layer.current_kept == 0:
            return layer.biased(x, weight, bias, offset), None
        return layer.product(x, weight), layer.shifted(weight, bias, offset)

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
        for stage, (sent, _, arrived) in self._through((x, events, events), self._exact):
            if stage.population:
                yield Sent(stage, arrived, sent)

    def _exact(self, stage: Stage, parts: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
        """What a part sends, the spikes in it, and those that reached it."""
        x, arrived = (stage.join([part[at] for part in parts]) for at in (0, 1))
        if not stage.population:
            return stage.exact(x), stage.exact(arrived), arrived
        sent = self._layer_exact(stage, x) if isinstance(stage, Weights) else stage.exact(x)
        return sent, sent, arrived

    def _layer_exact(self, layer: Weights, x: Tensor) -> Tensor:
        steps, neuron = self.recipe.network.steps, layer.neuron()
        sums, direct = self._sums_exact(layer, x)
        kept = layer.current_kept
        if layer.feedback is not None:
            feed = neurons.Feed(self._fed_exact(layer.feedback), layer.late)
            return neurons.run_looped(sums.double(), direct, steps, kept, neuron, feed, exact=True).float()
        current = neurons.synapse_exact(sums, steps, kept, neuron.integer)
        current = current if direct is None else current + direct
        if neuron.reset == "none":
            return neurons.sum_exact(current, steps, neuron.integer)
        return neurons.run_exact(current, steps, neuron).float()

    def _fed_exact(self, feedback: Weights) -> Callable[[Tensor], Tensor]:
        grid = feedback.grid
        if grid is None:
            weight, lowest = feedback.weight * (1 / feedback.neurons.resistance), 1
        else:
            weight, lowest = quantise.mantissas(feedback.weight, grid), grid.lowest
        weight = weight.to(_holding(weight))
        return lambda spikes: feedback.product(spikes[None].to(weight.dtype), weight)[0].double() * lowest

    def _sums_exact(self, layer: Weights, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """`_sums`, exact."""
        grid, scale = layer.grid, self.scale(layer)
        if grid is None:
            weight, bias = layer.folded()
            bias = layer.shifted(weight, bias, scale.offset)
            weight = weight * (scale.scale / layer.neurons.resistance)
            return layer.product(x, weight), None if bias is None else bias / layer.neurons.resistance
        weight = quantise.mantissas(layer.weight, grid)
        exact = _holding(weight, scale.payload)
        total = layer.product(x.to(exact), weight.to(exact)).double()
        if self.on_host(layer):
            total = quantise.host_sum(total, grid.shift)
        bias = layer.shifted(weight, layer.bias, scale.offset * grid.step)
        whole = None if bias is None else quantise.bias_integers(bias, grid, on_host=self.on_host(layer))
        return total.mul_(grid.lowest), whole


def _holding(mantissas: Tensor, payload: int = 1) -> torch.dtype:
    """A type in which no weighted sum is rounded."""
    worst = float(mantissas.abs().flatten(1).sum(1).max()) * payload
    # Elsewhere than on the processor float32 may stand for shorter numbers, and convolutions may be transformed ones.
    exact = mantissas.device.type == "cpu" and worst < EXACT_FLOAT32
    return torch.float32 if exact else torch.float64

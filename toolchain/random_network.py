"""Untrained networks of a recipe's shape: what `snnc check` compiles before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import cast

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import SnncError
from toolchain.frontends import layers as nodes
from toolchain.ir import GradedInput, Graph, Input, RateInput, make_input
from toolchain.ir.inputs import VALUE_MAX
from toolchain.training import architecture
from toolchain.training.architecture import Planned
from toolchain.training.data import IMAGES
from toolchain.training.recipe import Recipe

Mask = NDArray[np.bool_]
Weights = NDArray[np.float32]


def random_graph(recipe: Recipe, connectivity: float, seed: int) -> Graph:
    """Every layer of weights keeps the same part of them, drawn without structure; weights are normal.

    The shape, neurons and input coding are the recipe's. No neuron (of a convolution: no channel) is left without a
    synapse in, and no hidden one without a synapse out (it gets one more where chance gave it none), so that the
    estimate does not profit from neurons that are removed as dead. A trained network concentrates its synapses, so its
    cores may be filled less evenly than this.

    Raises:
        SnncError: connectivity outside (0, 1].
    """
    if not 0 < connectivity <= 1:
        raise SnncError("connectivity is a part of all synapses", where="--connectivity", got=connectivity)
    shape, classes = IMAGES[recipe.data.dataset]
    planned = recipe.plan(shape, classes)
    axes: tuple[int, ...] = shape
    if all(isinstance(layer.table, architecture.Dense) for layer in planned if architecture.INPUT in layer.inputs):
        axes = (prod(shape),)
    draw = _Draw(np.random.default_rng(seed), connectivity)
    lowered = nodes.lower(
        _nodes(planned, len(axes) == 3, draw, recipe.network.vote, classes),
        _input(recipe, prod(shape)),
        axes,
        recipe.network.steps,
        recipe.name,
        {},
    )
    return lowered.graph


def _input(recipe: Recipe, size: int) -> Input:
    rate = recipe.input.coding == "rate"
    source = make_input(recipe.input.coding, "input", size, scale=1.0 if rate else 1.0 / VALUE_MAX)
    if isinstance(source, RateInput):
        return replace(source, threshold=recipe.input.threshold)
    if isinstance(source, GradedInput):
        source = replace(source, payload_bits=recipe.input.payload_bits)
        return replace(source, scale=1.0 / source.payload_max)
    return source


@dataclass(frozen=True, eq=False)
class _Draw:
    """Random weights of which a part exists."""

    random: np.random.Generator
    connectivity: float

    def weights(
        self, channels: int, n_out: int, *, taps: int = 1, groups: int = 1, hears: bool
    ) -> tuple[Weights, Mask]:
        """Of shape (n_out, channels / groups * taps): input channels of so many taps (neurons: of one) to n_out.

        hears: whether every input channel gets a target.
        """
        own, out = channels // groups, n_out // groups
        n_in = own * taps
        pairs = self._pairs(n_in * n_out)
        if hears:
            # The channels of all groups stand at the same places of the array: each needs a target in its own group.
            group, channel = pairs % n_out // out, pairs // n_out // taps
            unheard = np.setdiff1d(np.arange(channels), group * own + channel)
            target = unheard // own * out + self.random.integers(0, out, len(unheard))
            tap = self.random.integers(0, taps, len(unheard)) if taps > 1 else 0
            pairs = np.union1d(pairs, (unheard % own * taps + tap) * n_out + target)
        unfed = np.setdiff1d(np.arange(n_out), pairs % n_out)
        pairs = np.union1d(pairs, self.random.integers(0, n_in, len(unfed)) * n_out + unfed)
        values = self.random.normal(0.0, 2.0 / np.sqrt(max(1.0, n_in * self.connectivity)), len(pairs))
        weight, mask = np.zeros((n_out, n_in), np.float32), np.zeros((n_out, n_in), bool)
        at = pairs % n_out, pairs // n_out
        weight[at], mask[at] = values, True
        return weight, mask

    def _pairs(self, pairs: int) -> NDArray[np.int64]:
        """round(connectivity * pairs) pairs as source * n_out + target, every set of them equally likely."""
        return self.random.choice(pairs, max(1, round(self.connectivity * pairs)), replace=False)


def _nodes(planned: Sequence[Planned], is_map: bool, draw: _Draw, votes: int, classes: int) -> Iterator[nodes.Node]:
    # What each layer's output is called among the nodes, and whether it is a map.
    sent = {architecture.INPUT: (architecture.INPUT, is_map)}
    for layer in planned:
        inputs = tuple(sent[name][0] for name in layer.inputs)
        made = list(MAKERS[type(layer.table)](layer, inputs, sent[layer.inputs[0]][1], draw))
        yield from made
        sent[layer.name] = (made[-1].name if made else inputs[0], len(layer.target) == 3)
    if votes > 1:
        ballots = np.repeat(np.eye(classes, dtype=np.float32), votes, axis=1)
        yield nodes.Linear(name="vote.weight", inputs=(planned[-1].name,), weight=ballots, mask=ballots > 0)
        yield _neurons("vote", "vote.weight", architecture.READOUT)


Maker = Callable[[Planned, tuple[str, ...], bool, _Draw], Iterator[nodes.Node]]


def _dense(layer: Planned, inputs: tuple[str, ...], is_map: bool, draw: _Draw) -> Iterator[nodes.Node]:
    table = cast(architecture.Dense, layer.table)
    if is_map:
        yield nodes.Flatten(name=f"{layer.name}.flat", inputs=inputs)
        inputs = (f"{layer.name}.flat",)
    yield from _late(layer, table.delay, inputs)
    weight, mask = draw.weights(prod(layer.source), prod(layer.target), hears=not layer.outside)
    yield nodes.Linear(name=f"{layer.name}.weight", inputs=_read(layer, table.delay, inputs), weight=weight, mask=mask)
    recurrent = None
    if table.recurrent:
        weight, mask = draw.weights(table.units, table.units, hears=True)
        own = nodes.Linear(name=f"{layer.name}.recurrent", inputs=(layer.name,), weight=weight, mask=mask)
        recurrent = nodes.Recurrence(own, table.recurrent_delay)
    yield _neurons(layer.name, f"{layer.name}.weight", layer.neurons, recurrent)


def _conv(layer: Planned, inputs: tuple[str, ...], is_map: bool, draw: _Draw) -> Iterator[nodes.Node]:
    table = cast(architecture.Conv, layer.table)
    yield from _late(layer, table.delay, inputs)
    inputs = _read(layer, table.delay, inputs)
    yield _kernel(f"{layer.name}.weight", table, layer.source[0], inputs, draw, hears=not layer.outside)
    recurrent = None
    if table.recurrent:
        own = _kernel(f"{layer.name}.recurrent", table.feedback(), table.channels, (layer.name,), draw, hears=True)
        recurrent = nodes.Recurrence(own, table.recurrent_delay)
    yield _neurons(layer.name, f"{layer.name}.weight", layer.neurons, recurrent)


def _kernel(
    name: str, table: architecture.Conv, channels: int, inputs: tuple[str, ...], draw: _Draw, *, hears: bool
) -> nodes.Conv2d:
    taps = table.kernel * table.kernel
    weight, mask = draw.weights(channels, table.channels, taps=taps, groups=table.groups, hears=hears)
    shape = (table.channels, channels // table.groups, table.kernel, table.kernel)
    return nodes.Conv2d(
        name=name,
        inputs=inputs,
        weight=weight.reshape(shape),
        mask=mask.reshape(shape),
        stride=(table.stride, table.stride),
        padding=((table.margin, table.margin), (table.margin, table.margin)),
        dilation=(table.dilation, table.dilation),
        groups=table.groups,
    )


def _late(layer: Planned, steps: int, inputs: tuple[str, ...]) -> Iterator[nodes.Node]:
    if steps:
        yield nodes.Delay(name=f"{layer.name}.delay", inputs=inputs, steps=steps)


def _read(layer: Planned, steps: int, inputs: tuple[str, ...]) -> tuple[str, ...]:
    return (f"{layer.name}.delay",) if steps else inputs


def _pool(node: type[nodes.SumPool]) -> Maker:
    def make(layer: Planned, inputs: tuple[str, ...], is_map: bool, draw: _Draw) -> Iterator[nodes.Node]:
        table = cast(architecture.Pool, layer.table)
        size, step = (table.size, table.size), (table.step, table.step)
        yield node(name=layer.name, inputs=inputs, kernel=size, stride=step)

    return make


def _join(node: type[nodes.Add] | type[nodes.Concat]) -> Maker:
    def make(layer: Planned, inputs: tuple[str, ...], is_map: bool, draw: _Draw) -> Iterator[nodes.Node]:
        yield node(name=layer.name, inputs=inputs)

    return make


def _dropout(layer: Planned, inputs: tuple[str, ...], is_map: bool, draw: _Draw) -> Iterator[nodes.Node]:
    yield from ()


def _neurons(
    name: str,
    read: str,
    options: architecture.NeuronOptions | None,
    recurrent: nodes.Recurrence | None = None,
) -> nodes.Neuron:
    assert options is not None, "a layer with weights has neurons"
    return nodes.Neuron(
        name=name,
        inputs=(read,),
        threshold=options.threshold,
        gain=1.0 / options.resistance,
        current_decay=options.current_decay,
        voltage_decay=options.voltage_decay,
        reset=options.reset,
        refractory=options.refractory,
        recurrent=recurrent,
    )


MAKERS: dict[type[architecture.Layer], Maker] = {
    architecture.Dense: _dense,
    architecture.Conv: _conv,
    architecture.MaxPool: _pool(nodes.MaxPool),
    architecture.SumPool: _pool(nodes.SumPool),
    architecture.AvgPool: _pool(nodes.AvgPool),
    architecture.Dropout: _dropout,
    architecture.Add: _join(nodes.Add),
    architecture.Concat: _join(nodes.Concat),
}
"""Table of a recipe -> the layers that it stands for."""

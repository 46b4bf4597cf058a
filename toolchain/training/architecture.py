"""The network that a recipe describes: its layers as tables, and the plan that their shapes make. No torch here.

A layer table says what differs from the network's own settings; `plan` chains the tables to layers with names and
shapes, adds the output layer, and refuses what does not fit together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from toolchain.errors import SnncError
from toolchain.ir.neurons import REFRACTORY_LIMIT
from toolchain.training.settings import setting

if TYPE_CHECKING:
    from toolchain.training.recipe import Network

Shape = tuple[int, ...]
"""(channels, height, width), or (n,)."""
NEURONS = ("lif", "if")


@dataclass(frozen=True)
class NeuronOptions:
    """The neurons of one layer, everything said.

    neuron: `lif` (leaky, time constant tau in steps, v += (x - v) / tau) or `if` (v += x).  threshold: it spikes when v
    exceeds it.  current_decay: of the synaptic current, 1 for none.  reset: to `zero`, or `subtract` the threshold.
    refractory: steps at 0 after a spike.
    """

    neuron: str
    tau: float
    threshold: float
    current_decay: float
    reset: str
    refractory: int

    @property
    def resistance(self) -> float:
        """Input that moves v by 1: tau of a leaky neuron, 1 without a leak; 1 / gain."""
        return self.tau if self.neuron == "lif" else 1.0

    @property
    def voltage_decay(self) -> float:
        return 1 / self.tau if self.neuron == "lif" else 0.0


READOUT = NeuronOptions("if", 1.0, 1.0, 1.0, "none", 0)
"""Output neurons that sum up what they get and never spike."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A table of `layers`. repeat: how often it stands there in a row."""

    kind: ClassVar[str]
    letters: ClassVar[str] = ""
    """What its name starts with; none where nothing of it is deployed."""

    repeat: int = setting(1, low=1, high=1000)

    def target(self, source: Shape, where: str) -> Shape:
        """The shape that it makes of its source's shape.

        Raises:
            SnncError: it cannot follow such a source.
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Neurons(Layer):
    """A layer of weights with neurons after it; what is not given is the network's."""

    neuron: str | None = setting(None, choices=NEURONS)
    tau: float | None = setting(None, above=1.0, high=4096.0)
    threshold: float | None = setting(None, above=0.0)
    current_decay: float | None = setting(None, above=0.0, high=1.0)
    reset: str | None = setting(None, choices=("zero", "subtract"))
    refractory: int | None = setting(None, low=0, high=REFRACTORY_LIMIT)
    bias: bool | None = None

    def options(self, network: Network) -> NeuronOptions:
        names = [item.name for item in dataclasses.fields(NeuronOptions)]
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return NeuronOptions(**{name: given.get(name, getattr(network, name)) for name in names})


@dataclass(frozen=True, kw_only=True)
class Conv(Neurons):
    """A convolution of square kernels. padding: keeps the size at stride 1 where not given (odd kernels).

    batch_norm: before the neurons; folded into the weights in the course of training.
    """

    kind: ClassVar[str] = "conv"
    letters: ClassVar[str] = "conv"

    channels: int = setting(low=1)
    kernel: int = setting(3, low=1)
    stride: int = setting(1, low=1)
    padding: int | None = setting(None, low=0)
    groups: int = setting(1, low=1)
    batch_norm: bool | None = None

    @property
    def margin(self) -> int:
        return (self.kernel - 1) // 2 if self.padding is None else self.padding

    def target(self, source: Shape, where: str) -> Shape:
        channels, height, width = _map(source, self, where)
        if channels % self.groups or self.channels % self.groups:
            raise SnncError(
                "groups must divide the channels",
                where=where,
                got=f"{self.groups} groups, {channels} channels to {self.channels}",
            )
        size = [_places(n, self.kernel, self.stride, self.margin, where) for n in (height, width)]
        return (self.channels, *size)


@dataclass(frozen=True, kw_only=True)
class Dense(Neurons):
    """All to all; a map is flattened, channel by channel."""

    kind: ClassVar[str] = "dense"
    letters: ClassVar[str] = "fc"

    units: int = setting(low=1)

    def target(self, source: Shape, where: str) -> Shape:
        return (self.units,)


@dataclass(frozen=True, kw_only=True)
class Pool(Layer):
    """Windows of size x size. stride: the size where not given."""

    letters: ClassVar[str] = "pool"

    size: int = setting(2, low=1)
    stride: int | None = setting(None, low=1)

    @property
    def step(self) -> int:
        return self.size if self.stride is None else self.stride

    def target(self, source: Shape, where: str) -> Shape:
        channels, height, width = _map(source, self, where)
        return (channels, *(_places(n, self.size, self.step, 0, where) for n in (height, width)))


@dataclass(frozen=True, kw_only=True)
class MaxPool(Pool):
    """Spikes where any neuron of the window does: a layer of OR neurons on the chip."""

    kind: ClassVar[str] = "max_pool"


@dataclass(frozen=True, kw_only=True)
class SumPool(Pool):
    """The window's sum; on the chip a part of the weights that follow."""

    kind: ClassVar[str] = "sum_pool"
    letters: ClassVar[str] = "sum"


@dataclass(frozen=True, kw_only=True)
class AvgPool(Pool):
    """The window's mean; on the chip a part of the weights that follow."""

    kind: ClassVar[str] = "avg_pool"
    letters: ClassVar[str] = "sum"


@dataclass(frozen=True, kw_only=True)
class Dropout(Layer):
    """While training, each neuron is silent for a whole sample with probability `rate`, the others count more."""

    kind: ClassVar[str] = "dropout"

    rate: float = setting(0.5, low=0.0, below=1.0)

    def target(self, source: Shape, where: str) -> Shape:
        return source


LAYERS: dict[str, type[Layer]] = {table.kind: table for table in (Conv, Dense, MaxPool, SumPool, AvgPool, Dropout)}


@dataclass(frozen=True)
class Planned:
    """A layer in its place. name: `conv1`, `fc2`, `pool1`; empty for dropout, which a deployed network does not have.

    source, target: shapes.  neurons: of a layer with weights, else None.  bias, batch_norm: what it has.
    """

    name: str
    table: Layer
    source: Shape
    target: Shape
    neurons: NeuronOptions | None = None
    bias: bool = False
    batch_norm: bool = False


def plan(network: Network, source: Shape, classes: int, *, coding: str, where: str) -> tuple[Planned, ...]:
    """The layers in order, from a source (C, H, W) to the output layer, which has `vote` neurons for each class.

    coding: of the input.

    Raises:
        SnncError: a table does not fit what stands before it, or asks for what the network has not; naming the table.
    """
    counts: dict[str, int] = {}
    planned: list[Planned] = []
    # Whether what comes is spikes without a payload, and whether the host computes the layer that reads it.
    binary, on_host = coding == "rate", coding == "current"
    for table, at in _tables(network, classes, where):
        target = table.target(source, at)
        counts[table.letters] = counts.get(table.letters, 0) + 1
        name = f"{table.letters}{counts[table.letters]}" if table.letters else ""
        layer = _planned(name, table, source, target, network)
        if isinstance(table, MaxPool) and not binary:
            raise SnncError(
                "max pooling needs spikes: on the chip it is an OR",
                where=at,
                got="what it gets is a sum or has a payload",
                remedy="pool after a layer of neurons, or take sum_pool or avg_pool",
            )
        _check_neurons(layer, at, on_host)
        on_host = on_host and layer.neurons is None
        binary = layer.neurons is not None or (binary and isinstance(table, (MaxPool, Dropout)))
        planned.append(layer)
        source = target
    _check_output(network, where)
    if network.readout:
        planned[-1] = replace(planned[-1], neurons=READOUT)
    return tuple(planned)


def _check_output(network: Network, where: str) -> None:
    if network.readout and network.vote > 1:
        raise SnncError(
            "a vote counts spikes, and a readout has none",
            where=f"{where}: [network] vote, readout",
            got=f"vote = {network.vote}, readout = true",
            allowed="one of them",
        )


def _check_neurons(layer: Planned, where: str, on_host: bool) -> None:
    neurons = layer.neurons
    if neurons is None:
        return
    if neurons.reset == "subtract" and neurons.refractory:
        raise SnncError(
            "a refractory period needs a reset to zero",
            where=f"{where} refractory",
            got=neurons.refractory,
            allowed='0, or reset = "zero"',
        )
    if neurons.current_decay < 1 and (layer.batch_norm or on_host):
        reason = "of a batch norm" if layer.batch_norm else "computed on the host"
        raise SnncError(
            f"what is {reason} enters the membrane potential at once, past a synaptic current with a decay",
            where=f"{where} current_decay",
            got=neurons.current_decay,
            allowed="1",
            remedy="set current_decay = 1 for this layer, or batch_norm = false and another input coding",
        )


def _planned(name: str, table: Layer, source: Shape, target: Shape, network: Network) -> Planned:
    if not isinstance(table, Neurons):
        return Planned(name, table, source, target)
    bias = network.bias if table.bias is None else table.bias
    norm = isinstance(table, Conv) and (network.batch_norm if table.batch_norm is None else table.batch_norm)
    return Planned(name, table, source, target, table.options(network), bias or norm, norm)


def _tables(network: Network, classes: int, where: str) -> Iterator[tuple[Layer, str]]:
    for number, table in enumerate(network.layers):
        for _ in range(table.repeat):
            yield table, f"{where}: [network] layers[{number}] ({table.kind})"
    for units in network.hidden:
        yield Dense(units=units), f"{where}: [network] hidden"
    yield Dense(units=classes * network.vote), f"{where}: [network] output layer"


def _map(source: Shape, table: Layer, where: str) -> Shape:
    if len(source) != 3:
        raise SnncError(
            f"{table.kind} needs a map of neurons",
            where=where,
            got=f"{source[0]} neurons of a dense layer",
            remedy="put it before the first dense layer",
        )
    return source


def _places(n: int, kernel: int, stride: int, padding: int, where: str) -> int:
    if kernel > n + 2 * padding:
        raise SnncError(
            "the window is larger than its map",
            where=where,
            got=f"{kernel} on a side",
            allowed=f"at most {n + 2 * padding}",
            remedy="use a smaller window, or pool less before it",
        )
    return (n + 2 * padding - kernel) // stride + 1

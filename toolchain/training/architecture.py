"""The network that a recipe describes: its layers as tables, and the plan that their shapes make. No torch here.

A layer table says what differs from the network's own settings, and which layers it reads; `plan` gives the tables
names and shapes, adds the output layer, and refuses what does not fit together.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from toolchain.errors import SnncError, nearest
from toolchain.ir.neurons import REFRACTORY_LIMIT
from toolchain.training.settings import setting

if TYPE_CHECKING:
    from toolchain.training.recipe import Network

Shape = tuple[int, ...]
"""(channels, height, width), or (n,)."""
NEURONS = ("lif", "if")
DELAY_LIMIT = 62
"""Most steps that a connection can wait on the chip beyond the one that it always takes."""
INPUT = "input"
RESERVED = (INPUT, "flatten", "vote")
"""Names that a deployed network uses for parts that no table describes."""


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
    """A table of `layers`.

    name: what other tables call it; else its kind and number.  inputs (in TOML `from`): the layers that it reads, the
    one before it where not given; `input` is the input.  repeat: how often it stands there in a row.
    """

    kind: ClassVar[str]
    letters: ClassVar[str]
    """What its name starts with."""
    joins: ClassVar[bool] = False
    """Whether it reads more than one layer."""

    name: str | None = None
    inputs: tuple[str, ...] | None = setting(None, key="from", single=True)
    repeat: int = setting(1, low=1, high=1000)

    def joined(self, sources: Sequence[Shape], where: str) -> Shape:
        """The shape of all that it reads, as one.

        Raises:
            SnncError: the shapes do not fit together.
        """
        (source,) = sources
        return source

    def target(self, source: Shape, where: str) -> Shape:
        """The shape that it makes of its source's shape.

        Raises:
            SnncError: it cannot follow such a source.
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Neurons(Layer):
    """A layer of weights with neurons after it; what is not given of these is the network's.

    delay: steps that what it reads waits, beyond the one that every connection takes.  recurrent: its neurons reach
    each other too, by weights of their own, `recurrent_delay` steps after they spiked.
    """

    neuron: str | None = setting(None, choices=NEURONS)
    tau: float | None = setting(None, above=1.0, high=4096.0)
    threshold: float | None = setting(None, above=0.0)
    current_decay: float | None = setting(None, above=0.0, high=1.0)
    reset: str | None = setting(None, choices=("zero", "subtract"))
    refractory: int | None = setting(None, low=0, high=REFRACTORY_LIMIT)
    bias: bool | None = None
    batch_norm: bool | None = None
    delay: int = setting(0, low=0, high=DELAY_LIMIT)
    recurrent: bool = False
    recurrent_delay: int = setting(1, low=1, high=DELAY_LIMIT + 1)

    def feedback(self) -> Neurons:
        """The table of its recurrent weights."""
        raise NotImplementedError

    def options(self, network: Network) -> NeuronOptions:
        names = [item.name for item in dataclasses.fields(NeuronOptions)]
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return NeuronOptions(**{name: given.get(name, getattr(network, name)) for name in names})


@dataclass(frozen=True, kw_only=True)
class Conv(Neurons):
    """A convolution of square kernels. padding: keeps the size at stride 1 where not given (odd kernels).

    groups: as many as channels make it depthwise.  batch_norm: before the neurons; folded into the weights in the
    course of training.  recurrent_kernel: of the recurrent weights, from all channels to all.
    """

    kind: ClassVar[str] = "conv"
    letters: ClassVar[str] = "conv"

    channels: int = setting(low=1)
    kernel: int = setting(3, low=1)
    stride: int = setting(1, low=1)
    padding: int | None = setting(None, low=0)
    dilation: int = setting(1, low=1)
    groups: int = setting(1, low=1)
    recurrent_kernel: int = setting(3, low=1)

    @property
    def margin(self) -> int:
        return (self.kernel - 1) // 2 * self.dilation if self.padding is None else self.padding

    @property
    def extent(self) -> int:
        """Places that a kernel spans."""
        return (self.kernel - 1) * self.dilation + 1

    def feedback(self) -> Conv:
        return Conv(channels=self.channels, kernel=self.recurrent_kernel)

    def target(self, source: Shape, where: str) -> Shape:
        channels, height, width = _map(source, self, where)
        if channels % self.groups or self.channels % self.groups:
            raise SnncError(
                "groups must divide the channels",
                where=where,
                got=f"{self.groups} groups, {channels} channels to {self.channels}",
            )
        if self.recurrent and self.recurrent_kernel % 2 == 0:
            raise SnncError(
                "recurrent weights keep the size of the map",
                where=f"{where} recurrent_kernel",
                got=self.recurrent_kernel,
                allowed="an odd number",
            )
        size = [_places(n, self.extent, self.stride, self.margin, where) for n in (height, width)]
        return (self.channels, *size)


@dataclass(frozen=True, kw_only=True)
class Dense(Neurons):
    """All to all; a map is flattened, channel by channel."""

    kind: ClassVar[str] = "dense"
    letters: ClassVar[str] = "fc"

    units: int = setting(low=1)
    batch_norm: bool | None = False

    def feedback(self) -> Dense:
        return Dense(units=self.units)

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
    letters: ClassVar[str] = "dropout"

    rate: float = setting(0.5, low=0.0, below=1.0)

    def target(self, source: Shape, where: str) -> Shape:
        return source


@dataclass(frozen=True, kw_only=True)
class Join(Layer):
    """A table that reads several layers; no part of the chip, but of the weights behind it."""

    joins: ClassVar[bool] = True

    def target(self, source: Shape, where: str) -> Shape:
        return source


@dataclass(frozen=True, kw_only=True)
class Add(Join):
    """The sum of spikes of layers of one shape: on the chip a connection from each into the neurons that read it."""

    kind: ClassVar[str] = "add"
    letters: ClassVar[str] = "add"

    def joined(self, sources: Sequence[Shape], where: str) -> Shape:
        if len(set(sources)) > 1:
            raise SnncError(
                "a sum needs layers of one shape",
                where=where,
                got=", ".join(map(str, sources)),
                remedy="bring the skipped path to the same channels and size by a convolution of kernel 1",
            )
        return sources[0]


@dataclass(frozen=True, kw_only=True)
class Concat(Join):
    """Layers side by side, along the channels of maps of one size or the neurons of flat layers."""

    kind: ClassVar[str] = "concat"
    letters: ClassVar[str] = "concat"

    def joined(self, sources: Sequence[Shape], where: str) -> Shape:
        if len({source[1:] for source in sources}) > 1:
            raise SnncError(
                "maps of unequal size cannot stand side by side", where=where, got=", ".join(map(str, sources))
            )
        return (sum(source[0] for source in sources), *sources[0][1:])


LAYERS: dict[str, type[Layer]] = {
    table.kind: table for table in (Conv, Dense, MaxPool, SumPool, AvgPool, Dropout, Add, Concat)
}


@dataclass(frozen=True)
class Planned:
    """A layer in its place. name: as given, or its kind and number: `conv1`, `fc2`, `pool1`, `dropout1`.

    source, target: shapes.  neurons: of a layer with weights, else None.  bias, batch_norm: what it has.  inputs: names
    of the layers that it reads.  outside: whether what it reads is the input, and not sent by neurons.  factor: what
    pools on the way to it divide by.  added: how many payloads pools and sums on the way add up.
    """

    name: str
    table: Layer
    source: Shape
    target: Shape
    neurons: NeuronOptions | None = None
    bias: bool = False
    batch_norm: bool = False
    inputs: tuple[str, ...] = (INPUT,)
    outside: bool = False
    factor: float = 1.0
    added: int = 1


@dataclass(frozen=True)
class _Sent:
    """What a layer gives to those that read it. binary: spikes without a payload; the others as in `Planned`."""

    shape: Shape
    binary: bool
    outside: bool
    factor: float = 1.0
    added: int = 1


def plan(network: Network, source: Shape, classes: int, *, coding: str, where: str) -> tuple[Planned, ...]:
    """The layers in order, from a source (C, H, W) to the output layer, which has `vote` neurons for each class.

    coding: of the input.

    Raises:
        SnncError: a table does not fit what it reads, or asks for what the network has not; naming the table.
    """
    counts: dict[str, int] = {}
    planned: list[Planned] = []
    sent = {INPUT: _Sent(source, coding == "rate", True)}
    before, unread = INPUT, {}
    for table, at in _tables(network, classes, where):
        counts[table.letters] = counts.get(table.letters, 0) + 1
        name = _name(table, f"{table.letters}{counts[table.letters]}", sent, at)
        inputs = _inputs(table, before, sent, at)
        read = _joined(table, inputs, sent, coding, at)
        layer = _planned(name, table, inputs, read, network, at)
        _check_neurons(layer, at, layer.outside and coding == "current", network.steps)
        if isinstance(table, MaxPool) and not read.binary:
            raise SnncError(
                "max pooling needs spikes: on the chip it is an OR",
                where=at,
                got="what it gets is a sum or has a payload",
                remedy="pool after a layer of neurons, or take sum_pool or avg_pool",
            )
        sent[name] = _sent(layer, read)
        planned.append(layer)
        unread[name] = at
        for one in inputs:
            unread.pop(one, None)
        before = name
    _check_ends(unread, before, planned, coding, where)
    _check_output(network, where)
    if network.readout:
        planned[-1] = replace(planned[-1], neurons=READOUT)
    return tuple(planned)


def _name(table: Layer, automatic: str, taken: dict[str, _Sent], where: str) -> str:
    name = automatic if table.name is None else table.name
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name) or name in RESERVED:
        raise SnncError(
            "a layer cannot be called so",
            where=f"{where} name",
            got=name,
            allowed=f"letters, digits, _ and -, a letter first; not {', '.join(RESERVED)}",
        )
    if name in taken:
        raise SnncError("two layers have one name", where=f"{where} name", got=name, remedy="rename one")
    return name


def _inputs(table: Layer, before: str, known: dict[str, _Sent], where: str) -> tuple[str, ...]:
    inputs = (before,) if table.inputs is None else table.inputs
    for name in inputs:
        if name not in known:
            raise SnncError(
                f"no layer before it is called {name!r}",
                where=f"{where} from",
                got=name,
                allowed=nearest(name, known),
                remedy="read layers that stand before it; a loop is `recurrent = true`",
            )
    if len(inputs) < 2 if table.joins else len(inputs) != 1:
        raise SnncError(
            f"{table.kind} reads {'two layers or more' if table.joins else 'one layer'}",
            where=f"{where} from",
            got=list(inputs),
            remedy="name them in a list" if table.joins else "put an add or concat before it",
        )
    if len(set(inputs)) < len(inputs):
        raise SnncError("a layer is read twice", where=f"{where} from", got=list(inputs))
    return inputs


def _joined(table: Layer, inputs: tuple[str, ...], sent: dict[str, _Sent], coding: str, where: str) -> _Sent:
    """All that a table reads, as one."""
    read = [sent[name] for name in inputs]
    shape = table.joined([one.shape for one in read], where)
    if len(read) == 1:
        return replace(read[0], shape=shape)
    if len({one.factor for one in read}) > 1:
        raise SnncError(
            "what is joined has to count alike",
            where=where,
            got="means of windows of several sizes",
            remedy="put the avg_pool behind it, or take a convolution with a stride",
        )
    if coding != "rate" and any(one.outside for one in read):
        raise SnncError(
            "only spikes without a payload can be joined with other layers",
            where=f"{where} from",
            got=f"the input, in {coding} coding",
            allowed='layers of neurons, or coding = "rate"',
        )
    adds = isinstance(table, Add)
    return _Sent(
        shape,
        binary=not adds and all(one.binary for one in read),
        outside=False,
        factor=read[0].factor,
        added=sum(one.added for one in read) if adds else max(one.added for one in read),
    )


def _sent(layer: Planned, read: _Sent) -> _Sent:
    table = layer.table
    if layer.neurons is not None or isinstance(table, MaxPool):
        return _Sent(layer.target, True, False)
    if isinstance(table, (SumPool, AvgPool)):
        factor = read.factor / table.size**2 if isinstance(table, AvgPool) else read.factor
        return _Sent(layer.target, False, read.outside, factor, read.added * table.size**2)
    return replace(read, shape=layer.target)


def _check_ends(unread: dict[str, str], output: str, planned: list[Planned], coding: str, where: str) -> None:
    for name, at in unread.items():
        if name != output:
            raise SnncError("no layer reads it", where=at, got=name, remedy="take it out, or name it in a `from`")
    hosted = [layer.name for layer in planned if layer.outside and layer.neurons is not None]
    if coding == "current" and len(hosted) > 1:
        raise SnncError(
            "the host computes one layer",
            where=f"{where}: [network] layers",
            got=", ".join(hosted),
            allowed="one layer that reads the input",
            remedy='use input coding "graded" or "rate"',
        )


def _check_output(network: Network, where: str) -> None:
    if network.readout and network.vote > 1:
        raise SnncError(
            "a vote counts spikes, and a readout has none",
            where=f"{where}: [network] vote, readout",
            got=f"vote = {network.vote}, readout = true",
            allowed="one of them",
        )


def _check_neurons(layer: Planned, where: str, on_host: bool, steps: int) -> None:
    neurons, table = layer.neurons, layer.table
    if neurons is None or not isinstance(table, Neurons):
        return
    if table.delay >= steps or (table.recurrent and table.recurrent_delay >= steps):
        raise SnncError(
            "nothing arrives within a sample",
            where=f"{where} {'delay' if table.delay >= steps else 'recurrent_delay'}",
            got=max(table.delay, table.recurrent_delay if table.recurrent else 0),
            allowed=f"less than the {steps} steps of a sample",
        )
    if on_host and (table.delay or table.recurrent):
        raise SnncError(
            "what the host computes is injected at once, and alone",
            where=f"{where} {'delay' if table.delay else 'recurrent'}",
            got=table.delay or "true",
            allowed="no delay and no recurrent weights in the layer that reads the input",
            remedy='use input coding "graded" or "rate"',
        )
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


def _planned(name: str, table: Layer, inputs: tuple[str, ...], read: _Sent, network: Network, where: str) -> Planned:
    place = {"inputs": inputs, "outside": read.outside, "factor": read.factor, "added": read.added}
    layer = Planned(name, table, read.shape, table.target(read.shape, where), **place)  # type: ignore[arg-type]
    if not isinstance(table, Neurons):
        return layer
    bias = network.bias if table.bias is None else table.bias
    norm = network.batch_norm if table.batch_norm is None else table.batch_norm
    return replace(layer, neurons=table.options(network), bias=bias or norm, batch_norm=norm)


def _tables(network: Network, classes: int, where: str) -> Iterator[tuple[Layer, str]]:
    for number, table in enumerate(network.layers):
        at = f"{where}: [network] layers[{number}] ({table.kind})"
        if table.repeat > 1 and (table.name is not None or table.joins):
            raise SnncError("a named layer or a join stands there once", where=f"{at} repeat", got=table.repeat)
        for again in range(table.repeat):
            # What it reads is said of the first one; the others read the one before them.
            yield replace(table, inputs=None) if again else table, at
    for units in network.hidden:
        yield Dense(units=units, batch_norm=network.batch_norm), f"{where}: [network] hidden"
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

"""The layers that front ends understand, and how they become a graph of populations and connections.

Every tensor between two populations is a sum of terms, each a linear operator on what one population sent some steps
ago, and an offset. A linear layer changes the operators, an addition joins the sums, and neurons turn the sum into a
population with one connection for each term: so pooling, batch norm, concatenation and residual additions leave
nothing behind but synapses and biases. Only neurons and max pooling are not linear; both become populations.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import Diagnostic, SnncError
from toolchain.frontends import Loaded
from toolchain.frontends.network import Grid, Network, Tensor, Term, no_offset
from toolchain.frontends.operators import Floats, Identity, Operator, Shape, dense, depthwise
from toolchain.ir import LIF, Convolution, Input

Pair = tuple[int, int]
Reals = float | NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Node(ABC):
    """One layer. inputs: names of the layers that it reads.  place: where it stands, for messages."""

    name: str
    inputs: tuple[str, ...]
    place: str = ""

    @property
    def where(self) -> str:
        return self.place or self.name

    @abstractmethod
    def value(self, inputs: Sequence[Tensor], network: Network) -> Tensor:
        """What it computes from its inputs.

        Raises:
            SnncError: shapes that do not chain, or what no spiking network can compute.
        """

    def map_of(self, x: Tensor) -> tuple[int, int, int]:
        """The axes of an input that has to be a map."""
        if len(x.shape) != 3:
            raise SnncError(
                "this layer reads a map of channels, height and width",
                where=self.where,
                got=f"{self.inputs[0]!r} of shape {x.shape}",
                allowed="3 axes (a sequence has height 1)",
                remedy="give the input its shape, or put the flattening behind this layer",
            )
        return x.shape[0], x.shape[1], x.shape[2]


@dataclass(frozen=True, eq=False, kw_only=True)
class Weighted(Node):
    """A layer with weights; a synapse exists where the mask is set. bias: (out,) or None.

    weight_step, weight_bits, weight_exponent: where training kept to an integer grid, as a connection has them.
    """

    weight: Floats
    mask: NDArray[np.bool_]
    bias: Floats | None = None
    weight_step: float | None = None
    weight_bits: int | None = None
    weight_exponent: int | None = None

    @property
    def grid(self) -> Grid | None:
        if self.weight_step is None or self.weight_bits is None:
            return None
        return Grid(self.weight_step, self.weight_bits, self.weight_exponent)


@dataclass(frozen=True, eq=False, kw_only=True)
class Linear(Weighted):
    """y = W x + b, weight (out, in)."""

    def value(self, inputs: Sequence[Tensor], network: Network) -> Tensor:
        (x,) = inputs
        outputs, reads = self.weight.shape
        if x.shape != (reads,):
            axes = "" if len(x.shape) == 1 else f" in a map of {x.shape}"
            raise SnncError(
                "layer sizes do not chain",
                where=self.where,
                got=f"it reads {reads}, but {network.described(self.inputs[0])} has {x.size}{axes}",
                allowed=f"weight of shape ({outputs}, {x.size})",
                remedy="flatten the map before this layer" if len(x.shape) > 1 and x.size == reads else None,
            )
        network.check_size((outputs,), self.where)
        pattern, values = dense(self.mask, self.weight)
        terms = network.mapped(
            x,
            lambda o: o.multiplied(pattern, values, self.where),
            self.where,
            layer=self.name,
            grid=self.grid,
            kernel=False,
        )
        offset = no_offset((outputs,))
        if x.offset.any():
            offset = pattern.matrix(values.astype(np.float64)) @ x.whole_offset
        return Tensor((outputs,), terms, offset if self.bias is None else offset + self.bias)


@dataclass(frozen=True, eq=False, kw_only=True)
class Conv2d(Weighted):
    """Cross-correlation, weight (out, in / groups, height, width). padding: ((top, bottom), (left, right)), zeros."""

    stride: Pair = (1, 1)
    padding: tuple[Pair, Pair] = ((0, 0), (0, 0))
    dilation: Pair = (1, 1)
    groups: int = 1

    def value(self, inputs: Sequence[Tensor], network: Network) -> Tensor:
        (x,) = inputs
        pattern, positions = Convolution.of(
            self.map_of(x),
            self.mask,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            where=self.where,
        )
        values = self.weight.reshape(-1)[positions]
        y = _convolved(x, pattern, values, network, self.where, layer=self.name, grid=self.grid)
        return y if self.bias is None else replace(y, offset=y.offset + np.reshape(self.bias, (-1, 1, 1)))


def _convolved(
    x: Tensor,
    pattern: Convolution,
    values: Floats,
    network: Network,
    where: str,
    **options: Any,
) -> Tensor:
    network.check_size(pattern.target, where)
    terms = network.mapped(x, lambda o: o.convolved(pattern, values, where), where, kernel=True, **options)
    offset = no_offset(pattern.target)
    if x.offset.any():
        # Places beside the map are 0, not the offset; so the offset may differ from place to place.
        offset = pattern.product(values.astype(np.float64))(x.whole_offset[None, :]).reshape(pattern.target)
    return Tensor(pattern.target, terms, offset)


@dataclass(frozen=True, eq=False, kw_only=True)
class BatchNorm(Node):
    """y = scale x + shift for each channel (of a flat tensor: each entry); both of shape (channels,)."""

    scale: Floats
    shift: Floats

    def value(self, inputs: Sequence[Tensor], network: Network) -> Tensor:
        (x,) = inputs
        for name, values in (("scale", self.scale), ("shift", self.shift)):
            if values.shape != x.shape[:1]:
                raise SnncError(
                    "one number for each channel",
                    where=f"{self.where}.{name}",
                    got=values.shape,
                    allowed=f"({x.shape[0]},), the channels of {network.described(self.inputs[0])}",
                )
        axes = (-1,) + (1,) * (len(x.shape) - 1)
        return _scaled(x, self.scale.reshape(axes), self.shift.reshape(axes), network, self.where)


@dataclass(frozen=True, eq=False, kw_only=True)
class Bias(Node):
    """y = x + bias, one number for each entry, shape (entries,)."""

    bias: Floats

    def value(self, inputs: Sequence[Tensor], network: Network) -> Tensor:
        (x,) = inputs
        if self.bias.shape != (x.size,):
            raise SnncError(
                "one number for each entry",
                where=f"{self.where}.bias",
                got=self.bias.shape,
                allowed=f"({x.size},), the entries of {network.described(self.inputs[0])}",
            )
        bias = self.bias.reshape(x.shape)
        return replace(x, offset=_total(x.offset, bias), binary=False)


def _total(one: Floats, other: Floats) -> Floats:
    """The sum; where one of them is nothing, the other as it is, to the sign of its zeros."""
    if not one.any():
        return other
    return one + other if other.any() else one


@dataclass(frozen=True, eq=False, kw_only=True)
class Scale(Node):
    """y = factor x + shift, both broadcast to the axes of x."""

    factor: Reals
    shift: Reals = 0.0

    def value(self, inputs: Sequence[Tensor], network: Network) -> Tensor:
        (x,) = inputs
        factor = fitted(self.factor, x.shape, f"{self.where}.factor")
        shift = fitted(self.shift, x.shape, f"{self.where}.shift")
        return _scaled(x, factor, shift, network, self.where)


def _scaled(x: Tensor, factor: Floats, shift: Floats, network: Network, where: str) -> Tensor:
    constant = float(factor.reshape(-1)[0]) if (factor == factor.reshape(-1)[0]).all() else None
    terms = network.mapped(x, lambda o: o.scaled(factor, x.shape, where), where, constant=constant)
    return Tensor(x.shape, terms, x.offset * factor + shift)


def fitted(values: Reals, shape: Shape, where: str) -> NDArray[np.float64]:
    """One number for all or one for each, with as many axes as the shape.

    Raises:
        SnncError: it does not fit.
    """
    array = np.asarray(values, np.float64)
    if array.shape == (int(np.prod(shape)),):
        array = array.reshape(shape)
    array = array.reshape((1,) * (len(shape) - array.ndim) + array.shape)
    axes: tuple[int, ...] = array.shape
    if len(axes) != len(shape) or any(n not in (1, m) for n, m in zip(axes, shape, strict=True)):
        raise SnncError(
            "the numbers do not fit the neurons",
            where=where,
            got=f"shape {np.shape(values)}",
            allowed=f"one number, or a shape that broadcasts to {shape}",
        )
    return array


@dataclass(frozen=True, eq=False, kw_only=True)
class SumPool(Node):
    """The sum over each window of a channel, beside the map zeros. kernel, stride, padding: (y, x)."""

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)

    @property
    def weight(self) -> float:
        """Of each entry of a window."""
        return 1.0

    def value(self, inputs: Sequence[Tensor], network: Network) -> Tensor:
        pattern, values = self.windows(inputs[0], (1, 1), self.weight, network)
        return _convolved(inputs[0], pattern, values, network, self.where, via=self.name, constant=self.weight)

    def windows(self, x: Tensor, dilation: Pair, weight: float, network: Network) -> tuple[Convolution, Floats]:
        network.check_size((*x.shape[:1], *self.kernel), self.where)
        padding = ((self.padding[0], self.padding[0]), (self.padding[1], self.padding[1]))
        return depthwise(self.map_of(x), self.kernel, self.stride, padding, dilation, weight, self.where)


@dataclass(frozen=True, eq=False, kw_only=True)
class AvgPool(SumPool):
    """The mean over each window, zeros beside the map included. divisor: instead of the window's size."""

    divisor: float | None = None

    @property
    def weight(self) -> float:
        return 1.0 / (self.kernel[0] * self.kernel[1] if self.divisor is None else self.divisor)


@dataclass(frozen=True, eq=False, kw_only=True)
class MaxPool(SumPool):
    """The maximum of spikes: neurons that spike where any spike of the window did, in the same step, exactly.

    They are a population of their own: one compartment for each window.
    """

    dilation: Pair = (1, 1)

    def value(self, inputs: Sequence[Tensor], network: Network) -> Tensor:
        (x,) = inputs
        if not x.binary:
            raise SnncError(
                "max pooling needs spikes: of sums it is not linear, and no neuron computes it",
                where=self.where,
                got=network.described(self.inputs[0]),
                allowed="the output of neurons, of value 0 or 1",
                remedy="put the neurons before the pooling, or use average or sum pooling",
            )
        pattern, values = self.windows(x, self.dilation, 1.0, network)
        y = _convolved(x, pattern, values, network, self.where, layer=f"{self.name}.any")
        any_spike = LIF(self.name, y.size, 0.5, 1.0, 1.0, 0.0, np.zeros(y.size, np.float32))
        return network.populated(any_spike, y)


@dataclass(frozen=True, eq=False, kw_only=True)
class Reshape(Node):
    """The same numbers, row by row, in other axes. shape None: all in one axis."""

    shape: Shape | None = None

    def value(self, inputs: Sequence[Tensor], network: Network) -> Tensor:
        (x,) = inputs
        shape = (x.size,) if self.shape is None else self.shape
        if int(np.prod(shape)) != x.size:
            raise SnncError("the shapes differ in size", where=self.where, got=shape, allowed=f"{x.size} entries")
        offset = x.offset.reshape((1,) * len(shape)) if x.offset.size == 1 else x.whole_offset.reshape(shape)
        return replace(x, shape=shape, offset=offset)


class Flatten(Reshape):
    """All entries in one axis."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Add(Node):
    """The sum of its inputs, entry by entry."""

    def value(self, inputs: Sequence[Tensor], network: Network) -> Tensor:
        first = inputs[0]
        for name, x in zip(self.inputs, inputs, strict=True):
            if x.shape != first.shape:
                raise SnncError(
                    "a sum of unequal shapes",
                    where=self.where,
                    got=f"{self.inputs[0]!r} has {first.shape}, {name!r} has {x.shape}",
                    allowed="equal shapes",
                    remedy="bring the skipped path to the same channels and size by a convolution of 1 x 1 with the "
                    "block's stride",
                )
        network.check_terms(inputs, self.where)
        offset = sum((x.offset for x in inputs[1:]), first.offset)
        return Tensor(first.shape, tuple(term for x in inputs for term in x.terms), offset)


@dataclass(frozen=True, eq=False, kw_only=True)
class Concat(Node):
    """Its inputs one after another along the channels (of flat tensors: the entries)."""

    def value(self, inputs: Sequence[Tensor], network: Network) -> Tensor:
        rest = inputs[0].shape[1:]
        for name, x in zip(self.inputs, inputs, strict=True):
            if x.shape[1:] != rest or len(x.shape) != len(inputs[0].shape):
                raise SnncError(
                    "maps of unequal size cannot stand side by side",
                    where=self.where,
                    got=f"{self.inputs[0]!r} has {inputs[0].shape}, {name!r} has {x.shape}",
                    allowed="equal but for the channels",
                )
        shape = (sum(x.shape[0] for x in inputs), *rest)
        network.check_terms(inputs, self.where)
        network.check_size(shape, self.where)
        total, before = int(np.prod(shape)), 0
        terms: list[Term] = []
        for x in inputs:
            move = partial(_moved, before=before, total=total, shape=x.shape, where=self.where)
            terms += network.mapped(x, move, self.where, constant=1.0)
            before += x.size
        offset = no_offset(shape)
        if any(x.offset.any() for x in inputs):
            offset = np.concatenate([np.broadcast_to(x.offset, x.shape) for x in inputs])
        return Tensor(shape, tuple(terms), offset, all(x.binary for x in inputs))


def _moved(operator: Operator, before: int, total: int, shape: Shape, where: str) -> Operator:
    return operator.moved(before, total, shape, where)


@dataclass(frozen=True, eq=False, kw_only=True)
class Delay(Node):
    """What its input was `steps` steps ago, 0 in the first ones."""

    steps: int

    def value(self, inputs: Sequence[Tensor], network: Network) -> Tensor:
        (x,) = inputs
        if self.steps and x.offset.any():
            raise SnncError(
                "a bias cannot be delayed: it is there from the first step on",
                where=self.where,
                got=f"a delay of {self.steps} steps behind a layer with a bias or a batch norm",
                allowed="a delay of spikes, or of layers without an offset",
                remedy="put the delay before the layer, or train that without a bias",
            )
        return replace(x, terms=tuple(replace(term, delay=term.delay + self.steps) for term in x.terms))


@dataclass(frozen=True, eq=False)
class Recurrence:
    """A layer from neurons to themselves, whose sums arrive `delay` steps after the spikes (1 or more)."""

    layer: Node
    delay: int = 1


@dataclass(frozen=True, eq=False, kw_only=True)
class Neuron(Node):
    """Neurons as `toolchain.ir.LIF` has them.

    threshold, gain, current_decay, voltage_decay: one number, an array that broadcasts to the axes of the input, or one
    number for each entry.  kick: what a neuron's spike adds to its own potential in the next step, as a synapse to
    itself (and, where its current decays, one that takes back what is left there).  filters_bias: whether biases pass
    through the synaptic current like spikes, as in plain torch; on the chip they enter the membrane potential.
    """

    threshold: Reals
    gain: Reals
    current_decay: Reals
    voltage_decay: Reals
    reset: str = "zero"
    refractory: int = 0
    recurrent: Recurrence | None = None
    kick: Reals = 0.0
    filters_bias: bool = False

    def value(self, inputs: Sequence[Tensor], network: Network) -> Tensor:
        (x,) = inputs
        if self.recurrent is not None:
            x = self._with_recurrence(x, self.recurrent, network)
        if np.any(self.kick):
            x = self._with_kick(x, network)
        gain = self._each("gain", x.shape)
        if isinstance(gain, np.ndarray):
            # A population has one gain: what differs from neuron to neuron goes into weights and biases.
            x, gain = _scaled(x, gain, np.zeros(1), network, f"{self.where}.gain"), 1.0
        current_decay = self._flat("current_decay", x.shape)
        if self.filters_bias and x.offset.any() and np.any(np.asarray(current_decay) != 1.0):
            raise SnncError(
                "a bias has no synaptic decay on the chip: it enters the membrane potential at once",
                where=self.where,
                got=f"current_decay {_shown(current_decay)} behind a layer with a bias or a batch norm",
                allowed="current_decay 1, or no bias",
                remedy="train the layer before these neurons without a bias and batch norm",
            )
        lif = LIF(
            name=self.name,
            size=x.size,
            threshold=self._flat("threshold", x.shape),
            gain=gain,
            current_decay=current_decay,
            voltage_decay=self._flat("voltage_decay", x.shape),
            bias=x.whole_offset.astype(np.float32),
            reset=self.reset,
            refractory=self.refractory,
        )
        return network.populated(lif, x)

    def _with_recurrence(self, x: Tensor, recurrent: Recurrence, network: Network) -> Tensor:
        if recurrent.delay < 1:
            raise SnncError(
                "a cycle without delay",
                where=f"{self.where}.recurrent.delay",
                got=recurrent.delay,
                allowed="1 step or more",
                remedy="let the neurons use their spikes of the step before (delay 1)",
            )
        own = self._own(x)
        back = recurrent.layer.value((own,), network)
        if back.shape != x.shape:
            raise SnncError(
                "a recurrent layer leads from the neurons to themselves",
                where=recurrent.layer.where,
                got=f"{x.shape} -> {back.shape}",
                allowed=f"{x.shape} -> {x.shape}",
                remedy="use as many outputs as inputs; of a convolution, stride 1 and padding that keeps the size",
            )
        name = recurrent.layer.name
        late = tuple(replace(t, delay=t.delay + recurrent.delay, layer=t.layer or name) for t in back.terms)
        return Tensor(x.shape, (*x.terms, *late), _total(back.offset, x.offset))

    def _own(self, x: Tensor) -> Tensor:
        """What the neurons send."""
        return Tensor(x.shape, (Term(self.name, Identity(x.size)),), no_offset(x.shape), True)

    def _with_kick(self, x: Tensor, network: Network) -> Tensor:
        kick = fitted(self.kick, x.shape, f"{self.where}.kick") / fitted(self.gain, x.shape, f"{self.where}.gain")
        left = 1.0 - fitted(self.current_decay, x.shape, f"{self.where}.current_decay")
        terms = list(x.terms)
        for delay, weight in ((1, kick), (2, -left * kick)):
            if weight.any():
                back = _scaled(self._own(x), weight, np.zeros(1), network, f"{self.where}.kick")
                terms += [replace(term, delay=delay, layer=f"{self.name}.kick") for term in back.terms]
        return replace(x, terms=tuple(terms))

    def _each(self, name: str, shape: Shape) -> Reals:
        """A parameter as one number where all are equal, else with the axes of the neurons."""
        array = fitted(getattr(self, name), shape, f"{self.where}.{name}")
        return float(array.reshape(-1)[0]) if array.size and (array == array.reshape(-1)[0]).all() else array

    def _flat(self, name: str, shape: Shape) -> Reals:
        value = self._each(name, shape)
        return value if isinstance(value, float) else np.ascontiguousarray(np.broadcast_to(value, shape).reshape(-1))


def _shown(value: Reals) -> str:
    return f"{value:g}" if isinstance(value, float) else "of each neuron"


def outside(name: str, weight: Floats, mask: NDArray[np.bool_]) -> tuple[Diagnostic, ...]:
    """What to say about weights of a layer that its mask leaves out."""
    ignored = weight[~mask & (weight != 0)]
    if not len(ignored):
        return ()
    message, effect = "weights where the mask has no synapse were ignored", float(np.abs(ignored).max())
    return (Diagnostic("MDL001", name, message, len(ignored), f"largest magnitude {effect:.3g}"),)


def lower(
    nodes: Iterable[Node],
    source: Input,
    shape: Shape,
    steps: int,
    name: str,
    metadata: Mapping[str, str],
    *,
    where: str = "",
) -> Loaded:
    """The graph that layers make, in the order in which a step computes them; the last one is the output.

    shape: axes of the input, (channels, height, width) or (n,).  where: what the layers stand in, for messages.

    Raises:
        SnncError: a layer that reads none before it, shapes that do not chain, what no spiking network computes, or
            an end that is no population.
    """
    network = Network(source, shape)
    last = ""
    for node in nodes:
        network.add(node)
        last = node.name
    graph = network.graph(last, steps, name, metadata, where=where or name)
    return Loaded(graph, tuple(network.diagnostics))

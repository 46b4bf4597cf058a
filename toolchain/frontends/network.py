"""A graph in the making: the tensors between layers as sums of operators, and the populations found so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from toolchain.errors import Diagnostic, SnncError, nearest
from toolchain.frontends.operators import Floats, Identity, Operator, Shape
from toolchain.ir import LIF, Connection, FloatSynapses, Graph, Input

SIZE_LIMIT = 1 << 28
"""Most numbers that all tensors of a step hold together; no chip has as many neurons."""
TERMS_LIMIT = 1000
"""Most connections into one population."""


@dataclass(frozen=True)
class Grid:
    """The integers that training kept a layer's weights to: the physical value of one step, and the bits.

    exponent: of the weights in the registers that it computed in, where it did.
    """

    step: float
    bits: int
    exponent: int | None = None


@dataclass(frozen=True)
class Term:
    """`operator` on what `source` sent `delay` steps ago. layer: the last one with weights that it came through."""

    source: str
    operator: Operator
    delay: int = 0
    layer: str | None = None
    grid: Grid | None = None


@dataclass(frozen=True, eq=False)
class Tensor:
    """The sum of the terms and an offset, with axes `shape`: (channels, height, width) or (n,).

    offset: float64, broadcasts to the shape.  binary: whether it is nothing but spikes, 0 or 1.
    """

    shape: Shape
    terms: tuple[Term, ...]
    offset: Floats
    binary: bool = False

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def whole_offset(self) -> Floats:
        """The offset of every entry, shape (size,)."""
        return np.broadcast_to(self.offset, self.shape).reshape(-1)


def no_offset(shape: Shape) -> Floats:
    return np.zeros((1,) * len(shape))


class Layer(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def inputs(self) -> tuple[str, ...]: ...
    @property
    def where(self) -> str: ...
    def value(self, inputs: Sequence[Tensor], network: Network) -> Tensor: ...


class Network:
    """Takes layers one by one, each after those that it reads, and at last gives the graph."""

    def __init__(self, source: Input, shape: Shape) -> None:
        if math.prod(shape) != source.size or len(shape) not in (1, 3):
            raise SnncError(
                "the input's shape does not hold its values",
                where=source.name,
                got=shape,
                allowed=f"(n,) or (channels, height, width) of {source.size} values",
            )
        self.source = source
        self.diagnostics: list[Diagnostic] = []
        plain = (source.payload_max, source.scale, source.offset) == (1, 1.0, 0.0)
        spikes = Tensor(shape, (Term(source.name, Identity(source.size)),), no_offset(shape), plain)
        self.tensors: dict[str, Tensor] = {source.name: spikes}
        self.layers: dict[str, Layer] = {}
        self.populations: list[tuple[LIF, Tensor]] = []
        self.expected: dict[str, Tensor] = {}
        self.size = source.size

    def add(self, layer: Layer) -> Tensor:
        """Compute a layer's tensor from those of the layers before it.

        Raises:
            SnncError: a name taken, an input that no layer before has, or what the layer refuses.
        """
        if layer.name in self.tensors and layer.name not in self.expected:
            raise SnncError("a name stands twice", where=layer.where, got=layer.name, remedy="rename one")
        for name in layer.inputs:
            if name not in self.tensors:
                raise SnncError(
                    f"the layer reads {name!r}, which no layer before it is called",
                    where=layer.where,
                    allowed=nearest(name, self.tensors),
                    remedy="a layer that is read before it is computed would be a cycle without delay: let neurons "
                    "have a recurrent connection, with a delay of 1 step or more",
                )
        tensor = layer.value([self.tensors[name] for name in layer.inputs], self)
        self.check_size(tensor.shape, layer.where)
        self.size += tensor.size
        expected = self.expected.pop(layer.name, tensor)
        if expected.shape != tensor.shape:
            raise SnncError(
                "the neurons in a loop have another shape than what they read",
                where=layer.where,
                got=expected.shape,
                allowed=tensor.shape,
            )
        self.tensors[layer.name] = tensor
        self.layers[layer.name] = layer
        return tensor

    def expect(self, name: str, shape: Shape, where: str) -> None:
        """Neurons that come later, so that layers which lead back can read what they sent."""
        self.check_size(shape, where)
        size = math.prod(shape)
        self.expected[name] = Tensor(shape, (Term(name, Identity(size)),), no_offset(shape), True)
        self.tensors[name] = self.expected[name]

    # For the layers.

    def late(self, x: Tensor) -> Tensor:
        """x as neurons get it now: what comes from neurons that are still expected was sent a step ago, or before."""
        terms = tuple(replace(t, delay=max(t.delay, 1)) if t.source in self.expected else t for t in x.terms)
        return replace(x, terms=terms)

    def sends_spikes(self, x: Tensor) -> bool:
        """Whether all that x is a sum of was sent as binary spikes."""
        entry = self.source.name
        return all(t.source != entry or self.tensors[entry].binary for t in x.terms)

    def check_size(self, shape: Shape, where: str) -> None:
        """Refuse a tensor that is too large to be a part of a network, before it is made."""
        if self.size + math.prod(shape) > SIZE_LIMIT:
            raise SnncError(
                "the layers are larger than any chip",
                where=where,
                got=f"shape {shape}, and {self.size} numbers before it",
                allowed=f"{SIZE_LIMIT} numbers in all layers of a step",
                remedy="check sizes, strides and paddings",
            )

    def check_terms(self, inputs: Sequence[Tensor], where: str) -> None:
        """Refuse a sum of too many parts, before it is made: sums of sums would double with every layer."""
        terms = sum(len(x.terms) for x in inputs)
        if terms > TERMS_LIMIT:
            raise SnncError("too many paths lead into one layer", where=where, got=terms, allowed=TERMS_LIMIT)

    def described(self, name: str) -> str:
        return f"the input {name!r}" if name == self.source.name else f"layer {name!r}"

    def mapped(
        self,
        x: Tensor,
        then: Callable[[Operator], Operator],
        where: str,
        *,
        layer: str | None = None,
        via: str | None = None,
        grid: Grid | None = None,
        constant: float | None = None,
        kernel: bool | None = None,
    ) -> tuple[Term, ...]:
        """The terms after another linear map.

        layer, grid: of the map, where its weights are a layer's own.  via: what to call terms that have come through
        no such layer.  constant: the weight of all its synapses, where they are equal.  kernel: whether it is a
        convolution; None where it keeps what it finds.
        """
        terms = []
        for term in x.terms:
            operator = then(term.operator)
            if not operator.shares and (term.operator.shares if kernel is None else kernel):
                self._listed(operator, where)
            name = layer or term.layer or via
            found = self._grid(term, operator, grid, constant, name or where)
            terms.append(replace(term, operator=operator, layer=name, grid=found))
        return tuple(terms)

    def populated(self, lif: LIF, x: Tensor) -> Tensor:
        """Take neurons that get x; what they send."""
        self.populations.append((lif, x))
        return Tensor(x.shape, (Term(lif.name, Identity(lif.size)),), no_offset(x.shape), lif.spiking)

    def _listed(self, operator: Operator, where: str) -> None:
        message = "a convolution became a list of synapses, as what it is composed with is none"
        effect = "its weights are stored for each synapse"
        self.diagnostics.append(Diagnostic("MDL005", where, message, len(operator.values), effect))

    def _grid(
        self, term: Term, operator: Operator, grid: Grid | None, constant: float | None, where: str
    ) -> Grid | None:
        """The grid on which the composed weights lie: a layer's, with a step that equal weights on its side scale."""
        before, factor = (term.grid, constant) if grid is None else (grid, term.operator.constant)
        if before is None:
            return None
        if term.operator.plain or operator.values is term.operator.values:
            return before  # nothing but the layer's own weights
        if factor:
            after = Grid(before.step * abs(factor), before.bits, before.exponent if abs(factor) == 1.0 else None)
            if operator.on_grid(after.step, after.bits):
                return after
        message = "weights that were trained on an integer grid left it, as they were merged with other layers"
        effect = f"the trained step {before.step:.6g} is not used"
        self.diagnostics.append(Diagnostic("MDL004", where, message, len(operator.values), effect))
        return None

    # The end.

    def graph(self, output: str, steps: int, name: str, metadata: Mapping[str, str], *, where: str) -> Graph:
        """The graph whose output is the named layer.

        Raises:
            SnncError: the output is not what the last neurons send, a layer leads nowhere, or a check of the graph.
        """
        self._check_ends(output, where)
        maps = {self.source.name: self.tensors[self.source.name].shape}
        maps = {key: shape for key, shape in maps.items() if len(shape) == 3}
        connections: list[Connection] = []
        taken = {self.source.name, *(lif.name for lif, _ in self.populations)}
        for lif, x in self.populations:
            # Loops last, whatever the order of a file's edges: so model.pt says them, and equal networks are equal.
            for term in sorted(x.terms, key=lambda term: term.source == lif.name):
                operator = self._in_one_shape(term, x.shape, lif.name, maps)
                pattern, weights = operator.synapses(x.shape)
                connection = Connection(
                    name=_unique(term.layer or f"{lif.name}.skip", taken),
                    source=term.source,
                    target=lif.name,
                    synapses=FloatSynapses(pattern, weights.astype(np.float32, copy=False)),
                    weight_step=term.grid.step if term.grid else None,
                    weight_bits=term.grid.bits if term.grid else None,
                    weight_exponent=term.grid.exponent if term.grid else None,
                    delay=term.delay,
                )
                connections.append(connection)
        populations = tuple(lif for lif, _ in self.populations)
        graph = Graph(name, self.source, populations, tuple(connections), steps, metadata)
        graph.verify()
        return graph

    def _check_ends(self, output: str, where: str) -> None:
        if not self.populations:
            raise SnncError(
                "the network has no neurons",
                where=where,
                remedy="put neurons between its layers and at its end (toolchain.training.spiking)",
            )
        end, last = self.tensors[output], self.populations[-1][0].name
        sent = len(end.terms) == 1 and end.terms[0].source == last and end.terms[0].operator.plain
        if not sent or end.terms[0].delay or end.offset.any():
            raise SnncError(
                "the network does not end in neurons",
                where=self.layers[output].where if output in self.layers else where,
                got=f"{self.described(output)} behind neurons {last!r}",
                allowed="the spikes of the last neurons, or the membrane potential of a readout",
                remedy="put neurons behind it: toolchain.training.spiking.Readout reads its sums",
            )
        read = {name for layer in self.layers.values() for name in layer.inputs} | {output}
        unread = [layer for layer in self.layers.values() if layer.name not in read]
        if unread:
            raise SnncError(
                "no layer reads what this one computes",
                where=unread[0].where,
                got=", ".join(layer.name for layer in unread),
                remedy="take it out, or let a layer behind it read it",
            )

    def _in_one_shape(self, term: Term, shape: Shape, target: str, maps: dict[str, Shape]) -> Operator:
        """The term's operator; listed where a population would be a map of other axes than elsewhere."""
        operator = term.operator
        pattern, _ = operator.synapses(shape)
        ends = ((term.source, pattern.source_shape), (target, pattern.target_shape))
        if any(len(axes) == 3 and maps.setdefault(end, axes) != axes for end, axes in ends):
            operator = operator.listed(target)
            self._listed(operator, term.layer or target)
        return operator


def _unique(name: str, taken: set[str]) -> str:
    """The name, or with a number behind it where another connection has it; taken from now on."""
    found, number = name, 1
    while found in taken:
        number += 1
        found = f"{name}[{number}]"
    taken.add(found)
    return found

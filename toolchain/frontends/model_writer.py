"""A graph as a model.pt of version 2 (docs/formats.md), which gives back the same graph in every bit."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from toolchain import __version__
from toolchain.errors import SnncError
from toolchain.frontends.entries import EXTENT_MAX
from toolchain.frontends.model_v2 import DELAY_MAX, LIMITS
from toolchain.frontends.network import TERMS_LIMIT
from toolchain.ir import LIF, Connection, Connectivity, Convolution, Graph
from toolchain.ir.verify import shapes
from toolchain.training.checkpoint import save

VERSION = 2
BITS_MAX = 8
BYTES_LIMIT = 1 << 31
"""Most bytes that weights and masks of a file take: each pair of neurons takes 5."""
PAIR_BYTES = 5

Shape = tuple[int, ...]


def write_graph(graph: Graph, path: str | os.PathLike[str]) -> None:
    """Write a graph, whole or not at all; the same graph gives the same bytes.

    Raises:
        SnncError: as `model` does, or the file system refused.
    """
    save(Path(path), _interned(model(graph)))


def model(graph: Graph) -> dict[str, Any]:
    """The graph as a plain dictionary of tensors, numbers and text.

    Raises:
        SnncError: the graph does not verify, or something that the format cannot say, named by layer and field.
    """
    graph.verify()
    for check in (_check_input, _check_wiring, _check_numbers, _check_size):
        check(graph)
    made = _Layers(graph)
    for population in graph.populations:
        made.add_population(population)
    entry = graph.input
    return {
        "format": "snnc-model",
        "version": VERSION,
        "name": graph.name,
        "versions": {"snnc": __version__, "torch": str(torch.__version__)},
        "metadata": dict(graph.metadata),
        "steps": graph.steps,
        "input": {
            "name": entry.name,
            "shape": list(made.axes[entry.name]),
            "coding": entry.coding,
            "scale": float(entry.scale),
            "offset": float(entry.offset),
            **entry.parameters(),
        },
        "layers": made.entries,
    }


@dataclass(eq=False)
class _Layers:
    """Layers in the order of computation. axes: of the input and of each population."""

    graph: Graph
    axes: dict[str, Shape] = field(init=False)
    entries: list[dict[str, Any]] = field(default_factory=list)
    once: dict[tuple[str, str, str], str] = field(default_factory=dict)
    taken: set[str] = field(init=False)

    def __post_init__(self) -> None:
        graph = self.graph
        self.axes = dict(shapes(graph))
        for c in graph.connections:
            if c.source == c.target and isinstance(c.synapses.connectivity, Connectivity):
                self.axes[c.source] = (c.synapses.connectivity.n_sources,)  # which a dense loop reads
        self.taken = {graph.input.name, *(p.name for p in graph.populations), *(c.name for c in graph.connections)}

    def add_population(self, p: LIF) -> None:
        into = [c for c in self.graph.connections if c.target == p.name]
        loops = [c for c in into if c.source == p.name]
        sums = [self._sum(c) for c in into if c.source != p.name]
        read = sums[0] if len(sums) == 1 else self._add(self._free(f"{p.name}.sum"), "add", sums)
        if p.bias.any() or np.signbit(p.bias).any():
            read = self._add(self._free(f"{p.name}.bias"), "bias", [read], bias=torch.from_numpy(p.bias.copy()))
        parameters = {name: _plain(getattr(p, name)) for name in LIMITS}
        recurrent = {**_weights(loops[0]), "name": loops[0].name, "delay": loops[0].delay} if loops else None
        own = {"reset": p.reset, "refractory": p.refractory, "recurrent": recurrent}
        self._add(p.name, "neuron", [read], **parameters, **own)

    def _sum(self, c: Connection) -> str:
        """What a connection adds to its target, in the target's axes."""
        pattern = c.synapses.connectivity
        read = self._view(self._late(c), pattern.source_shape, self.axes[c.source])
        if isinstance(pattern, Convolution):
            geometry = {
                "stride": list(pattern.stride),
                "padding": [list(sides) for sides in pattern.padding],
                "dilation": list(pattern.dilation),
                "groups": pattern.groups,
            }
            made = self._add(c.name, "conv2d", [read], **_weights(c), bias=None, **geometry)
        else:
            made = self._add(c.name, "linear", [read], **_weights(c), bias=None)
        return self._view(made, self.axes[c.target], pattern.target_shape)

    def _late(self, c: Connection) -> str:
        return self._once(c.source, "delay", steps=c.delay) if c.delay else c.source

    def _view(self, name: str, shape: Shape, has: Shape) -> str:
        """A tensor in other axes."""
        if shape == has:
            return name
        return self._once(name, "flatten") if len(shape) == 1 else self._once(name, "reshape", shape=list(shape))

    def _once(self, read: str, op: str, **own: Any) -> str:
        """The layer that does this to what it reads, the same for all that ask for it."""
        key = (read, op, str(own))
        if key not in self.once:
            self.once[key] = self._add(self._free(f"{read}.{op}"), op, [read], **own)
        return self.once[key]

    def _free(self, name: str) -> str:
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        return name

    def _add(self, name: str, op: str, inputs: list[str], **own: Any) -> str:
        self.entries.append({"name": name, "op": op, "inputs": inputs, **own})
        return name


def _weights(c: Connection) -> dict[str, Any]:
    """Weight and mask as dense tensors, and the grid."""
    pattern, values = c.synapses.connectivity, c.synapses.weights
    weight: NDArray[Any]
    mask: NDArray[Any]
    if isinstance(pattern, Convolution):
        own = pattern.source[0] // pattern.groups
        channel, row, column, output = pattern.entries
        at = output, channel % own, row, column
        shape: Shape = (pattern.target[0], own, *pattern.size)
        weight, mask = np.zeros(shape, np.float32), np.zeros(shape, bool)
        weight[at], mask[at] = values, True
    else:
        assert isinstance(pattern, Connectivity)
        weight, mask = pattern.dense(values), pattern.dense(np.ones(len(values), bool))
    made: dict[str, Any] = {"weight": torch.from_numpy(weight), "mask": torch.from_numpy(mask)}
    made |= {"weight_step": None if c.weight_step is None else float(c.weight_step), "weight_bits": c.weight_bits}
    return made if c.weight_exponent is None else {**made, "weight_exponent": c.weight_exponent}


def _interned(value: Any) -> Any:
    """The same with one object for each text: a pickle refers back to objects that it has seen, not to equal ones."""
    if isinstance(value, str):
        return sys.intern(value)
    if isinstance(value, dict):
        return {_interned(key): _interned(item) for key, item in value.items()}
    return [_interned(item) for item in value] if isinstance(value, list) else value


def _plain(value: float | NDArray[np.float64]) -> float | torch.Tensor:
    return torch.from_numpy(np.array(value, np.float64)) if np.ndim(value) else float(value)


# ------------------------------------------------------------------------------------- what the format cannot say


def _refuse(message: str, where: str, got: object, allowed: object, remedy: str | None = None) -> SnncError:
    return SnncError(f"model.pt cannot say this: {message}", where=where, got=got, allowed=allowed, remedy=remedy)


def _check_input(graph: Graph) -> None:
    entry = graph.input
    if entry.size != entry.sample_size:
        got, allowed = f"{entry.size} of {entry.sample_size} values", "all values of a sample"
        raise _refuse("an input that reads a part of each sample", f"{entry.name}.channels", got, allowed)
    if entry.offset and entry.coding != "current":
        raise _refuse("an offset of this coding", f"{entry.name}.offset", entry.offset, "0, or the coding 'current'")
    if not all((graph.name, entry.name, *(p.name for p in graph.populations), *(c.name for c in graph.connections))):
        raise _refuse("an empty name", graph.name or "name", "''", "text")


def _check_wiring(graph: Graph) -> None:
    order = {name: k for k, name in enumerate([graph.input.name, *(p.name for p in graph.populations)])}
    for c in graph.connections:
        if order[c.source] > order[c.target]:
            allowed = "loops from neurons to themselves"
            raise _refuse("a loop over several populations", f"{c.name}.source", c.source, allowed)
        if c.delay > DELAY_MAX:
            raise _refuse("so long a delay", f"{c.name}.delay", c.delay, f"up to {DELAY_MAX} steps")
        if c.source == c.target:
            _check_loop(c)
    for p in graph.populations:
        into = [c for c in graph.connections if c.target == p.name]
        loops = [c.name for c in into if c.source == p.name]
        if len(loops) > 1:
            raise _refuse("several loops of the same neurons", f"{p.name}.recurrent", ", ".join(loops), "one")
        if len(loops) == len(into):
            raise _refuse("neurons that read themselves alone", f"{p.name}.inputs", loops[0], "a layer before them")
        if len(into) > TERMS_LIMIT:
            raise _refuse("so many connections into neurons", f"{p.name}.inputs", len(into), f"up to {TERMS_LIMIT}")
        if p is not graph.populations[-1] and not any(c.source == p.name != c.target for c in graph.connections):
            raise _refuse("neurons that nothing reads", p.name, "no connection from them", "one", "take them out")
    found = sorted(graph.connections, key=lambda c: (order[c.target], c.source == c.target))  # stable
    wrong = [c.name for c, other in zip(graph.connections, found, strict=True) if c is not other]
    if wrong:
        allowed = "those into each population in turn, its loop last"
        remedy = "convert to .onnx or .nir, which keep any order"
        raise _refuse("connections in this order", f"{graph.name}.connections", wrong[0], allowed, remedy)


def _check_loop(c: Connection) -> None:
    """A convolution has to be the one that the format knows: of stride 1, and keeping the size of the map."""
    pattern = c.synapses.connectivity
    if not isinstance(pattern, Convolution):
        return
    (y, x) = pattern.size
    expected = {"stride": (1, 1), "dilation": (1, 1), "padding": (((y - 1) // 2, y // 2), ((x - 1) // 2, x // 2))}
    for name, allowed in expected.items():
        if getattr(pattern, name) != allowed:
            raise _refuse("such a convolution in a loop", f"{c.name}.{name}", getattr(pattern, name), allowed)


def _check_numbers(graph: Graph) -> None:
    for p in graph.populations:
        for name in LIMITS:
            value = getattr(p, name)
            if np.ndim(value) and (value == value[0]).all():
                got, remedy = f"{len(value)} times {value[0]:g}", "give the one number"
                raise _refuse("equal numbers one by one", f"{p.name}.{name}", got, "one number", remedy)
    for c in graph.connections:
        if (c.weight_step is None) != (c.weight_bits is None):
            got, allowed = f"{c.weight_step}, {c.weight_bits} bits", "both or none"
            raise _refuse("half a trained grid", f"{c.name}.weight_bits", got, allowed)
        if c.weight_bits is not None and not 1 <= c.weight_bits <= BITS_MAX:
            raise _refuse("a grid of so many bits", f"{c.name}.weight_bits", c.weight_bits, f"1 to {BITS_MAX}")
        pattern = c.synapses.connectivity
        if isinstance(pattern, Convolution):
            for name in ("stride", "padding", "dilation"):
                value = getattr(pattern, name)
                if np.max(value) > EXTENT_MAX:
                    raise _refuse("so large a convolution", f"{c.name}.{name}", value, f"up to {EXTENT_MAX}")


def _check_size(graph: Graph) -> None:
    """The file holds every pair of neurons, connected or not."""
    taken = {c.name: c.synapses.connectivity.capacity * PAIR_BYTES for c in graph.connections}
    if sum(taken.values()) > BYTES_LIMIT:
        largest = max(taken, key=lambda name: taken[name])
        got, allowed = f"{sum(taken.values()):,} bytes", f"{BYTES_LIMIT:,} bytes with every pair of neurons"
        raise _refuse("so large a network", f"{largest}.weight", got, allowed, "convert to .onnx, which keeps lists")

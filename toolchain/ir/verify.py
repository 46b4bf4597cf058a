"""Checks of the wiring that graphs of every stage share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from toolchain.errors import SnncError, nearest
from toolchain.ir.connectivity import Connectivity


class _Sized(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def size(self) -> int: ...


class _Synapses(Protocol):
    @property
    def connectivity(self) -> Connectivity: ...


class _Edge(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def target(self) -> str: ...
    @property
    def synapses(self) -> _Synapses: ...


class Wired(Protocol):
    """A graph of any stage: an input, populations in topological order, and the connections between them."""

    @property
    def name(self) -> str: ...
    @property
    def input(self) -> _Sized: ...
    @property
    def populations(self) -> Sequence[_Sized]: ...
    @property
    def connections(self) -> Sequence[_Edge]: ...
    @property
    def steps(self) -> int: ...


def verify_wiring(graph: Wired) -> None:
    """Raise SnncError unless names are unique, ends exist, sizes chain, and order is topological."""
    if graph.steps < 1:
        raise SnncError("a sample lasts at least one step", where=f"{graph.name}.steps", got=graph.steps)
    if not graph.populations:
        raise SnncError("the network has no neurons", where=graph.name)
    names = [graph.input.name, *(p.name for p in graph.populations), *(c.name for c in graph.connections)]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise SnncError("a name stands twice", where=graph.name, got=", ".join(twice), remedy="rename one")
    sizes = {graph.input.name: graph.input.size, **{p.name: p.size for p in graph.populations}}
    order = {name: k for k, name in enumerate(sizes)}
    for c in graph.connections:
        for end in (c.source, c.target):
            if end not in sizes:
                raise SnncError(
                    f"connection {c.name!r} ends in {end!r}, which does not exist",
                    where=c.name,
                    allowed=nearest(end, sizes),
                )
        if order[c.source] >= order[c.target]:
            raise SnncError("recurrent connections are not supported yet", where=f"{c.name}: {c.source} -> {c.target}")
        shape = c.synapses.connectivity
        if (shape.n_sources, shape.n_targets) != (sizes[c.source], sizes[c.target]):
            raise SnncError(
                "layer sizes do not chain",
                where=f"{c.name}: {c.source} -> {c.target}",
                got=f"{shape.n_sources} -> {shape.n_targets}",
                allowed=f"{sizes[c.source]} -> {sizes[c.target]}",
            )
    unfed = {p.name for p in graph.populations} - {c.target for c in graph.connections}
    if unfed:
        raise SnncError("a population has no connection into it", where=", ".join(sorted(unfed)))


def depths(graph: Wired) -> dict[str, int]:
    """Name of input or population -> number of connections on the longest path from the input."""
    found = {graph.input.name: 0}
    for population in graph.populations:
        found[population.name] = 1 + max(found[c.source] for c in graph.connections if c.target == population.name)
    return found

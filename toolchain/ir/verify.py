"""Checks of the wiring that graphs of every stage share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from toolchain.errors import SnncError, nearest
from toolchain.ir.pattern import Pattern


class _Sized(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def size(self) -> int: ...


class _Neurons(_Sized, Protocol):
    @property
    def spiking(self) -> bool: ...


class _Synapses(Protocol):
    @property
    def connectivity(self) -> Pattern: ...


class _Edge(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def target(self) -> str: ...
    @property
    def synapses(self) -> _Synapses: ...
    @property
    def delay(self) -> int: ...


class Wired(Protocol):
    """A graph of any stage: an input, populations in order, and the connections between them.

    A spike sent at step t of a sample reaches the target of a connection in its step t + delay. So a connection that
    leads back in the order of the populations (a recurrent one) has a delay of at least 1.
    """

    @property
    def name(self) -> str: ...
    @property
    def input(self) -> _Sized: ...
    @property
    def populations(self) -> Sequence[_Neurons]: ...
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
        if c.delay < 0:
            raise SnncError("a delay is 0 or more steps", where=f"{c.name}.delay", got=c.delay, allowed="0 or more")
        if order[c.source] >= order[c.target] and c.delay == 0:
            raise SnncError(
                "a cycle without delay",
                where=f"{c.name}: {c.source} -> {c.target}, {c.name}.delay",
                got=0,
                allowed="1 step or more on a connection that leads back",
                remedy="let the recurrent connection use the spikes of the step before (delay 1)",
            )
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
    silent = [p.name for p in graph.populations[:-1] if not p.spiking]
    if silent:
        raise SnncError(
            "only the last population can be a readout, as it sends no spikes",
            where=", ".join(silent),
            got="reset 'none'",
            allowed="reset 'zero' or 'subtract'",
        )
    out_of_readout = [
        c.name for c in graph.connections if c.source in {p.name for p in graph.populations if not p.spiking}
    ]
    if out_of_readout:
        raise SnncError("a readout sends no spikes", where=", ".join(out_of_readout))
    shapes(graph)


def depths(graph: Wired) -> dict[str, int]:
    """Name of input or population -> steps by which its window lags behind the input's.

    The least at which every forward connection takes at least one step on the chip: one more than its source,
    less what the connection delays anyway.
    """
    order = {name: k for k, name in enumerate([graph.input.name, *(p.name for p in graph.populations)])}
    found = {graph.input.name: 0}
    for population in graph.populations:
        forward = [c for c in graph.connections if c.target == population.name and order[c.source] < order[c.target]]
        found[population.name] = max([0, *(found[c.source] + 1 - c.delay for c in forward)])
    return found


def chip_delays(graph: Wired) -> dict[str, int]:
    """Connection -> steps from a spike to its arrival on the chip, where windows of different depth must be bridged.

    Raises:
        SnncError: a connection back from a deeper population is asked to arrive before the chip can deliver it.
    """
    at = depths(graph)
    found = {}
    for c in graph.connections:
        found[c.name] = at[c.target] - at[c.source] + c.delay
        if found[c.name] < 1:
            raise SnncError(
                "a spike cannot come back so soon: every layer works a step after the one before it",
                where=f"{c.name}: {c.source} -> {c.target}, {c.name}.delay",
                got=f"{c.delay} steps",
                allowed=f"{c.delay + 1 - found[c.name]} steps or more",
                remedy="train with a longer delay on this connection",
            )
    return found


def shapes(graph: Wired) -> dict[str, tuple[int, ...]]:
    """Name of input or population -> its axes: (channels, height, width) where a convolution says so, else (size,).

    Raises:
        SnncError: two convolutions see the same population in different channels.
    """
    found: dict[str, tuple[int, ...]] = {p.name: (p.size,) for p in (graph.input, *graph.populations)}
    said: dict[str, str] = {}
    for c in graph.connections:
        for name, shape in (
            (c.target, c.synapses.connectivity.target_shape),
            (c.source, c.synapses.connectivity.source_shape),
        ):
            if len(shape) == 1:
                continue
            if name not in said:
                found[name], said[name] = shape, c.name
            elif found[name] != shape:
                raise SnncError(
                    f"two convolutions see {name!r} in different shapes",
                    where=f"{said[name]}, {c.name}",
                    got=f"{found[name]} and {shape}",
                    allowed="the same channels, height and width",
                )
    return found

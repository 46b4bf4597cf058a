"""Which slices send to which: what a placement has to count, without listing a synapse."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from toolchain.ir import Convolution, Program
from toolchain.mapping.axons import first_in_column
from toolchain.mapping.slices import Slice
from toolchain.mapping.synapse_memory import Axons

AT_ONCE = 1 << 20
"""Pairs of slices that are looked at together: what is made of them for that is several times as large as they are."""


@dataclass(frozen=True, eq=False)
class Heard:
    """What one slice hears through one connection. Arrays have one entry for each slice that sends to it.

    listener: number of the slice.  senders: numbers of the slices that send.  messages: neurons of each that send here,
    so many messages go out when every one of them fires once.  axons: output axons that this takes (columns of a
    feature map whose neurons all send here alone share one).
    """

    listener: int
    connection: str
    senders: NDArray[np.int64]
    messages: NDArray[np.int64]
    axons: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Edges:
    """Pairs of slices of which one sends to the other, by their numbers, and by how many axons. All arrays int32: of
    large networks there are tens of millions."""

    senders: NDArray[np.int32]
    listeners: NDArray[np.int32]
    axons: NDArray[np.int32]

    @classmethod
    def of(cls, heard: Iterable[Heard]) -> Edges:
        none = np.zeros(0, np.int32)
        senders, listeners, lengths, axons = [none], [], [], [none]
        for h in heard:
            senders.append(h.senders.astype(np.int32))
            axons.append(h.axons.astype(np.int32))
            listeners.append(h.listener)
            lengths.append(len(h.senders))
        all_listeners = np.repeat(np.array(listeners, np.int32), lengths)
        return cls(np.concatenate(senders), all_listeners, np.concatenate(axons))

    def crossing(self, chips: NDArray[np.int64]) -> NDArray[np.int64]:
        """For every slice its axons to slices on another chip. chips: of every slice."""
        found = np.zeros(len(chips), np.int64)
        for at in range(0, len(self.axons), AT_ONCE):
            senders, listeners, axons = (each[at : at + AT_ONCE] for each in (self.senders, self.listeners, self.axons))
            apart = chips[senders] != chips[listeners]
            found += np.bincount(senders[apart], axons[apart], minlength=len(chips)).astype(np.int64)
        return found


class Wiring:
    """The slices of a program, and who of them sends to whom. Numbers of slices are those of the sequence.

    by_position: the neurons at one position of a map have their axons together where convolutions alone listen.
    """

    def __init__(self, program: Program, slices: Sequence[Slice], by_position: bool = False) -> None:
        self.program = program
        self.slices = slices
        self.by_population: dict[str, list[int]] = {}
        for k, s in enumerate(slices):
            self.by_population.setdefault(s.population, []).append(k)
        self.owner: dict[str, NDArray[np.int32]] = {}
        for name, members in self.by_population.items():
            owner = np.zeros(slices[members[0]].region.shape, np.int32)
            for k in members:
                owner[tuple(slice(a, b) for a, b in slices[k].region.ranges)] = k
            self.owner[name] = owner
        """For each population the number of the slice that holds a neuron, in the population's shape."""
        self.by_position = {name for name in self.owner if by_position and self._only_convolutions(name)}

    def _only_convolutions(self, name: str) -> bool:
        heard = self.program.out_of(name)
        return bool(heard) and all(isinstance(c.synapses.connectivity, Convolution) for c in heard)

    def heard(self) -> Iterator[Heard]:
        """Every slice and every connection into it."""
        for listener, connection, source, box, sending, axon in self._boxes():
            first = self.by_population[source][0]  # counted from here: of many slices few belong to one population
            owner = self.owner[source][box] - np.int32(first)
            messages = np.bincount(owner[sending])
            senders = np.flatnonzero(messages)
            axons = messages if axon is sending else np.bincount(owner[axon], minlength=len(messages))
            yield Heard(listener, connection, senders + first, messages[senders], axons[senders])

    @cached_property
    def edges(self) -> Edges:
        """Every pair of slices. Found once: whatever placement is tried, what crosses is then a sum over pairs."""
        return Edges.of(self.heard())

    def crossing(self, chips: NDArray[np.int64], populations: Collection[str]) -> dict[str, NDArray[np.int64]]:
        """For some populations how many axons each neuron has to slices on another chip, in the population's shape.

        chips: of every slice.  An axon that a column of neurons shares is counted at the first of them.
        Looks at every synapse pattern again; the sums over slices, `edges.crossing`, cost next to nothing.
        """
        home = {name: chips[self.owner[name]] for name in populations}
        found = {name: np.zeros(owner.shape, np.int64) for name, owner in home.items()}
        for listener, _, source, box, _, axon in self._boxes(populations):
            found[source][box] += axon & (home[source][box] != chips[listener])
        return found

    def _boxes(
        self, populations: Collection[str] | None = None
    ) -> Iterator[tuple[int, str, str, tuple[slice, ...], NDArray[np.bool_], NDArray[np.bool_]]]:
        """Listener, connection, source; the box of the source that sends, which of it do, and which begin an axon.

        populations: the sources that are looked at (None: all that have slices).
        """
        wanted = self.owner if populations is None else populations
        sources = {c.name: c.source for c in self.program.connections}
        for k, s in enumerate(self.slices):
            for name, cost in s.costs.items():
                source = sources[name]
                if source in wanted:
                    yield k, name, source, *self._box(cost.axons, source)

    def _box(self, axons: Axons, source: str) -> tuple[tuple[slice, ...], NDArray[np.bool_], NDArray[np.bool_]]:
        box, sending, alone = axons.sources()
        shape = self.owner[source].shape
        if sending.ndim != len(shape):  # listed synapses out of a feature map
            sending, box = sending.reshape(shape), tuple(slice(None) for _ in shape)
        owner = self.owner[source][box]
        if source in self.by_position:
            turned = first_in_column(sending.transpose(1, 0, 2), owner.transpose(1, 0, 2))
            return box, sending, turned.transpose(1, 0, 2)
        if alone is None:
            return box, sending, sending
        return box, sending, (sending & ~alone) | first_in_column(alone, owner)

"""What a chip computes: integers only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from toolchain.errors import SnncError
from toolchain.ir.inputs import Input
from toolchain.ir.neurons import Compartments
from toolchain.ir.verify import chip_delays, depths, shapes, verify_wiring
from toolchain.ir.weights import IntegerSynapses


@dataclass(frozen=True, eq=False)
class IntegerConnection:
    """Synapses from one population to another: a[t] = sum over synapses of mantissa * 2**exponent * payload[t - delay].

    delay: in steps of the sample (see `Program`).
    """

    name: str
    source: str
    target: str
    synapses: IntegerSynapses
    delay: int = 0


@dataclass(frozen=True, eq=False)
class Program:
    """A network in the chip's arithmetic. Populations stand in the order in which a step computes them.

    All times are those of a sample: a population computes its step t from what its sources sent in their steps
    t - delay, whatever the chip needs to bring it there. On the chip a population at depth l (the input at 0) sees
    sample k in the window of steps [k * steps + l, k * steps + l + steps), and its state is cleared at the window's
    start, together with what is still on its way to it. `chip_delays` says how many steps of the chip each connection
    takes: 1 where it leads to the next depth with delay 0, more where it skips one.
    The last population is the output. Decision: the output neuron with the most spikes in its window, or, where it is a
    readout, the one with the highest membrane potential at the window's last step; ties to the lowest index.
    """

    name: str
    input: Input
    populations: tuple[Compartments, ...]
    connections: tuple[IntegerConnection, ...]
    steps: int
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def output(self) -> Compartments:
        return self.populations[-1]

    @property
    def depths(self) -> dict[str, int]:
        """Name of input or population -> steps by which its window lags behind the input's."""
        return depths(self)

    @property
    def chip_delays(self) -> dict[str, int]:
        """Connection -> steps of the chip from a spike to its arrival, 1 or more."""
        return chip_delays(self)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name of input or population -> (channels, height, width) where convolutions say so, else (size,)."""
        return shapes(self)

    @property
    def n_synapses(self) -> int:
        return sum(c.synapses.connectivity.n_synapses for c in self.connections)

    def into(self, population: str) -> tuple[IntegerConnection, ...]:
        """The connections that end in a population."""
        return tuple(c for c in self.connections if c.target == population)

    def out_of(self, source: str) -> tuple[IntegerConnection, ...]:
        """The connections that start in an input or population."""
        return tuple(c for c in self.connections if c.source == source)

    def verify(self) -> None:
        """Raise SnncError unless sizes chain, all registers are in range and every spike can arrive in time."""
        verify_wiring(self)
        self.input.verify()
        for population in self.populations:
            population.verify()
        for connection in self.connections:
            connection.synapses.verify(connection.name)
            if self.input.on_host and connection.source == self.input.name and connection.delay:
                raise SnncError(
                    "what the host injects has no delay",
                    where=f"{connection.name}.delay",
                    got=connection.delay,
                    allowed=0,
                )
        self.chip_delays  # noqa: B018  (raises)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Program)
            and (self.name, self.steps, self.populations, dict(self.metadata))
            == (other.name, other.steps, other.populations, dict(other.metadata))
            and self.input == other.input
            and [(c.name, c.source, c.target, c.delay, c.synapses) for c in self.connections]
            == [(c.name, c.source, c.target, c.delay, c.synapses) for c in other.connections]
        )

    __hash__ = None  # type: ignore[assignment]

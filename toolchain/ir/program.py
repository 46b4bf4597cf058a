"""What a chip computes: integers only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from toolchain.errors import SnncError
from toolchain.ir.inputs import Input
from toolchain.ir.neurons import Compartments
from toolchain.ir.verify import depths, verify_wiring
from toolchain.ir.weights import IntegerSynapses


@dataclass(frozen=True, eq=False)
class IntegerConnection:
    """Synapses from one population to another: a[t] = sum over synapses of mantissa * 2**exponent * payload."""

    name: str
    source: str
    target: str
    synapses: IntegerSynapses


@dataclass(frozen=True, eq=False)
class Program:
    """A network in the chip's arithmetic. Populations stand in topological order; the last one is the output.

    A spike sent at step t reaches its target at t + 1. So a population at depth l (the input at 0) sees sample k in
    the window of steps [k * steps + l, k * steps + l + steps), and its state is cleared at the window's start.
    Decision: the output neuron with the most spikes in its window, ties to the lowest index.
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
        """Name of input or population -> synaptic layers between it and the input."""
        return depths(self)

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
        """Raise SnncError unless sizes chain, all registers are in range and all paths balance in length."""
        verify_wiring(self)
        self.input.verify()
        for population in self.populations:
            population.verify()
        at = self.depths
        for connection in self.connections:
            connection.synapses.verify(connection.name)
            if at[connection.target] != at[connection.source] + 1:
                raise SnncError(
                    "a connection skips a layer, which needs a delay that is not supported yet",
                    where=f"{connection.name}: {connection.source} -> {connection.target}",
                    got=f"depth {at[connection.source]} to {at[connection.target]}",
                    allowed="one layer further",
                )

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Program)
            and (self.name, self.steps, self.populations, dict(self.metadata))
            == (other.name, other.steps, other.populations, dict(other.metadata))
            and self.input == other.input
            and [(c.name, c.source, c.target, c.synapses) for c in self.connections]
            == [(c.name, c.source, c.target, c.synapses) for c in other.connections]
        )

    __hash__ = None  # type: ignore[assignment]

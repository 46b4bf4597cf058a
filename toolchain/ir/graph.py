"""The trained network in physical units, and the same network with its synapses on an integer grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from toolchain.errors import SnncError
from toolchain.ir.inputs import Input
from toolchain.ir.neurons import LIF
from toolchain.ir.verify import chip_delays, verify_wiring
from toolchain.ir.weights import FloatSynapses, IntegerSynapses

EXPONENT_MAX = 24
"""Largest exponent of trained weights; a current has 24 bits."""


@dataclass(frozen=True, eq=False)
class Connection:
    """Synapses from one population to another: `sum over synapses of weight * payload[t - delay]`.

    weight_step, weight_bits: where training already kept the weights to an integer grid, the physical value of
    one step of that grid and its bits; None otherwise.  weight_exponent: where training computed in registers, the
    exponent of its weights, mantissa * 2**exponent: thresholds then count in steps of exponent 0.  delay: steps of the
    sample after which a spike arrives, beyond those that the layers take: 0, and 1 or more for a recurrent connection.
    """

    name: str
    source: str
    target: str
    synapses: FloatSynapses
    weight_step: float | None = None
    weight_bits: int | None = None
    delay: int = 0
    weight_exponent: int | None = None


@dataclass(frozen=True, eq=False)
class Graph:
    """A trained network. Populations stand in the order in which a step computes them; the last one is the output.

    steps: time steps that one sample lasts.  metadata: provenance, text only.
    Decision: the output neuron with the most spikes in the sample's window, or, where the output is a readout, the
    one with the highest membrane potential at the last step; ties to the lowest index.
    """

    name: str
    input: Input
    populations: tuple[LIF, ...]
    connections: tuple[Connection, ...]
    steps: int
    metadata: Mapping[str, str] = field(default_factory=dict)

    def verify(self) -> None:
        """Raise SnncError unless sizes chain, names are unique and every number is finite."""
        verify_wiring(self)
        self.input.verify()
        for population in self.populations:
            population.verify()
        for connection in self.connections:
            connection.synapses.verify(connection.name)
            if connection.weight_step is not None:
                _verify_step(connection.weight_step, f"{connection.name}.weight_step")
            if connection.weight_exponent is not None:
                _verify_exponent(connection)
        chip_delays(self)


@dataclass(frozen=True, eq=False)
class QuantisedConnection:
    """Integer synapses; a mantissa of 1 stands for `step` physical units."""

    name: str
    source: str
    target: str
    synapses: IntegerSynapses
    step: float
    delay: int = 0


@dataclass(frozen=True, eq=False)
class QuantisedGraph:
    """A trained network whose weights lie on an integer grid; its neurons still compute in physical units."""

    name: str
    input: Input
    populations: tuple[LIF, ...]
    connections: tuple[QuantisedConnection, ...]
    steps: int
    metadata: Mapping[str, str] = field(default_factory=dict)

    def verify(self) -> None:
        """Raise SnncError unless sizes chain and every mantissa lies in its format."""
        verify_wiring(self)
        self.input.verify()
        for population in self.populations:
            population.verify()
        for connection in self.connections:
            connection.synapses.verify(connection.name)
            _verify_step(connection.step, f"{connection.name}.step")

    def dequantise(self) -> Graph:
        """The same network with float weights: what is left of the trained one after rounding its weights."""
        return Graph(
            name=self.name,
            input=self.input,
            populations=self.populations,
            connections=tuple(
                Connection(
                    name=c.name,
                    source=c.source,
                    target=c.target,
                    synapses=FloatSynapses(c.synapses.connectivity, (c.synapses.values * c.step).astype(np.float32)),
                    weight_step=c.step,
                    weight_bits=c.synapses.weight_bits,
                    delay=c.delay,
                )
                for c in self.connections
            ),
            steps=self.steps,
            metadata=self.metadata,
        )


def _verify_exponent(connection: Connection) -> None:
    exponent = connection.weight_exponent
    assert exponent is not None
    if connection.weight_step is None or not 0 <= exponent <= EXPONENT_MAX:
        raise SnncError(
            "a trained exponent needs a trained step, and is small",
            where=f"{connection.name}.weight_exponent",
            got=exponent,
            allowed=f"0 to {EXPONENT_MAX}",
        )


def _verify_step(step: float, where: str) -> None:
    if not (np.isfinite(step) and step > 0):
        raise SnncError("weight step must be a positive number", where=where, got=step)

"""Round every weight to an integer mantissa, with one step for all connections that end in the same population."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import Diagnostic
from toolchain.ir import Connection, Graph, IntegerSynapses, QuantisedConnection, QuantisedGraph, mantissa_range

SEARCH_SAMPLE = 200_000
"""Weights looked at when the step is searched; evenly spaced, so that the result is reproducible."""
SEARCH_FRACTIONS = np.linspace(1.0, 0.35, 40)
"""Candidate steps, as parts of the one that clips nothing."""


@dataclass(frozen=True)
class QuantizeWeights:
    """mantissa = round(weight / step), ties to even, clipped to the range of the bits.

    A step that training fixed for the same number of bits is taken as it is; otherwise the step with the least
    squared error is searched. Steps of connections into one population differ by powers of two, which become
    their exponents. The sign mode is the narrowest that holds the weights.
    """

    weight_bits: int
    name: ClassVar[str] = "quantise weights"

    def run(self, graph: Graph) -> tuple[QuantisedGraph, list[Diagnostic]]:
        """The graph with integer synapses, and per connection what the rounding did."""
        diagnostics: list[Diagnostic] = []
        rounded: dict[str, QuantisedConnection] = {}
        for population in graph.populations:
            entering = [c for c in graph.connections if c.target == population.name]
            wanted = {c.name: self._step(c, diagnostics) for c in entering}
            base = min(wanted.values())
            for c in entering:
                exponent = max(0, math.ceil(math.log2(wanted[c.name] / base) - 1e-9))
                rounded[c.name] = self._round(c, base, exponent, diagnostics)
        return (
            QuantisedGraph(
                name=graph.name,
                input=graph.input,
                populations=graph.populations,
                connections=tuple(rounded[c.name] for c in graph.connections),
                steps=graph.steps,
                metadata=graph.metadata,
            ),
            diagnostics,
        )

    def _step(self, connection: Connection, diagnostics: list[Diagnostic]) -> float:
        if connection.weight_step is not None:
            if connection.weight_bits == self.weight_bits:
                return connection.weight_step
            diagnostics.append(
                Diagnostic(
                    "QNT010",
                    connection.name,
                    f"trained for {connection.weight_bits} bits, quantised to {self.weight_bits}",
                    effect="the trained step is not used",
                )
            )
        weights = connection.synapses.weights
        low, high = mantissa_range(_sign_mode(weights), self.weight_bits)
        full = max(
            float(weights.max(initial=0.0)) / high if high else 0.0,
            float(weights.min(initial=0.0)) / low if low else 0.0,
        )
        if full == 0.0:
            return 1.0
        some = weights[:: max(1, len(weights) // SEARCH_SAMPLE)].astype(np.float64)
        errors = [
            float(np.square(np.clip(np.rint(some / (full * f)), low, high) * full * f - some).sum())
            for f in SEARCH_FRACTIONS
        ]
        return full * float(SEARCH_FRACTIONS[int(np.argmin(errors))])

    def _round(
        self, connection: Connection, base: float, exponent: int, diagnostics: list[Diagnostic]
    ) -> QuantisedConnection:
        weights = connection.synapses.weights
        sign_mode = _sign_mode(weights)
        low, high = mantissa_range(sign_mode, self.weight_bits)
        step = base * 2.0**exponent
        exact = weights.astype(np.float64) / step
        nearest = np.rint(exact)
        mantissa = np.clip(nearest, low, high).astype(np.int16)
        clipped = int(((nearest < low) | (nearest > high)).sum())
        zeroed = int(((mantissa == 0) & (weights != 0)).sum())
        noise = float(np.square(mantissa - exact).sum())
        signal = float(np.square(exact).sum())
        ratio = f"signal to noise {10 * math.log10(signal / noise):.1f} dB" if noise and signal else "exact"
        where = connection.name
        diagnostics.append(
            Diagnostic(
                "QNT001",
                where,
                f"{len(weights)} weights rounded to {self.weight_bits} bits ({sign_mode})",
                len(weights),
                ratio,
            )
        )
        if clipped:
            largest = float(np.abs(exact).max()) * step
            diagnostics.append(
                Diagnostic(
                    "QNT002", where, f"{clipped} weights clipped", clipped, f"largest magnitude was {largest:.4g}"
                )
            )
        if zeroed:
            diagnostics.append(
                Diagnostic("QNT003", where, f"{zeroed} weights rounded to zero", zeroed, "dropped by the next step")
            )
        synapses = IntegerSynapses(connection.synapses.connectivity, mantissa, exponent, self.weight_bits, sign_mode)
        return QuantisedConnection(connection.name, connection.source, connection.target, synapses, base)


def _sign_mode(weights: NDArray[np.float32]) -> str:
    if float(weights.min(initial=0.0)) >= 0:
        return "excitatory"
    return "inhibitory" if float(weights.max(initial=0.0)) <= 0 else "mixed"

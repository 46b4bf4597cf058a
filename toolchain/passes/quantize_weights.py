"""Round every weight to an integer mantissa, with one step for all connections that end in the same population."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import Diagnostic, SnncError
from toolchain.ir import (
    Connection,
    Graph,
    IntegerSynapses,
    QuantisedConnection,
    QuantisedGraph,
    mantissa_range,
    stored_shift,
)
from toolchain.parallel import in_order

SEARCH_SAMPLE = 200_000
"""Weights looked at when the step is searched; evenly spaced, so that the result is reproducible."""
PART = 1 << 20
"""Weights rounded at a time, so that no copies of all of them in float64 are made."""
SEARCH_FRACTIONS = np.linspace(1.0, 0.35, 40)
"""Candidate steps, as parts of the one that clips nothing."""


@dataclass(frozen=True)
class QuantizeWeights:
    """mantissa = round(weight / step), ties to even, clipped to the range of the bits.

    A step that training fixed for the same number of bits is taken as it is; otherwise the step with the least
    squared error is searched. Steps of connections into one population differ by powers of two, which become
    their exponents: the finest of them is the base, unless the exponent register (`exponent_limit`) ends before the
    coarsest, or training fixed the exponents too. The sign mode is the narrowest that holds the weights.
    """

    weight_bits: int
    exponent_limit: int = 7
    name: ClassVar[str] = "quantise weights"

    def run(self, graph: Graph) -> tuple[QuantisedGraph, list[Diagnostic]]:
        """The graph with integer synapses, and per connection what the rounding did.

        Raises:
            SnncError: weights of both signs in 1 bit.
        """
        work = sum(len(c.synapses.weights) for c in graph.connections)
        found = in_order(self._step, graph.connections, work)
        steps = {c.name: step for c, (step, _) in zip(graph.connections, found, strict=True)}
        told = {c.name: said for c, (_, said) in zip(graph.connections, found, strict=True)}
        tasks: list[tuple[Connection, float, int]] = []
        for population in graph.populations:
            entering = [c for c in graph.connections if c.target == population.name]
            # Sums add up on the chip, so steps are compared by what one payload unit of their source stands for.
            mixed = len({c.source == graph.input.name for c in entering}) > 1
            units = {c.name: graph.input.scale if mixed and c.source == graph.input.name else 1.0 for c in entering}
            wanted = {c.name: steps[c.name] for c in entering}
            common = self._base(entering, wanted, units)
            for c in entering:
                step, base = wanted[c.name], common / units[c.name]
                exponent = 0 if step is None else max(0, math.ceil(math.log2(step / base) - 1e-9))
                if step is not None and step == c.weight_step and not math.isclose(base * 2.0**exponent, step):
                    message = f"the trained step {step:.6g} became {base * 2.0**exponent:.6g}"
                    effect = "steps of connections into one population differ by powers of two"
                    told[c.name].append(Diagnostic("QNT011", c.name, message, effect=effect))
                tasks.append((c, base, exponent))
        done = in_order(lambda task: self._round(*task), tasks, work)
        rounded = {made.name: made for made, _ in done}
        diagnostics = [d for made, said in done for d in (*told[made.name], *said)]
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

    def _base(self, entering: list[Connection], wanted: dict[str, float | None], units: dict[str, float]) -> float:
        """The step of exponent 0: the finest wanted, but none below what the exponent register reaches.

        Where training computed in registers, it is what 1 stood for there, so that every rounding stays the same.
        """
        fixed = {self._fixed(c, wanted[c.name], units[c.name]) for c in entering if wanted[c.name] is not None}
        if len(fixed) == 1 and (one := fixed.pop()) is not None:
            return one
        reach = []
        steps = []
        for c in entering:
            step = wanted[c.name]
            if step is not None:
                shift = stored_shift(_sign_mode(c.synapses.weights), self.weight_bits)
                steps.append(step * units[c.name])
                reach.append(steps[-1] / 2.0 ** (self.exponent_limit + shift))
        return max(min(steps), *reach) if steps else 1.0

    def _fixed(self, c: Connection, wanted: float | None, unit: float) -> float | None:
        """What 1 stood for in the registers that a connection was trained in; None where it was not, or is not kept."""
        if c.weight_exponent is None or wanted is None or wanted != c.weight_step:
            return None
        return wanted * unit / 2.0**c.weight_exponent

    def _step(self, connection: Connection) -> tuple[float | None, list[Diagnostic]]:
        """The step that a connection wants for itself; None where it has no weight that would tell."""
        diagnostics: list[Diagnostic] = []
        if connection.weight_step is not None:
            if connection.weight_bits == self.weight_bits:
                return connection.weight_step, diagnostics
            diagnostics.append(
                Diagnostic(
                    "QNT010",
                    connection.name,
                    f"trained for {connection.weight_bits} bits, quantised to {self.weight_bits}",
                    effect="the trained step is not used",
                )
            )
        weights = connection.synapses.weights
        low, high = self._range(connection)
        full = max(
            float(weights.max(initial=0.0)) / high if high else 0.0,
            float(weights.min(initial=0.0)) / low if low else 0.0,
        )
        if full == 0.0:
            return None, diagnostics
        some = weights[:: max(1, len(weights) // SEARCH_SAMPLE)]
        errors = squared_errors(some, full * SEARCH_FRACTIONS, low, high)
        return full * float(SEARCH_FRACTIONS[int(np.argmin(errors))]), diagnostics

    def _range(self, connection: Connection) -> tuple[int, int]:
        sign_mode = _sign_mode(connection.synapses.weights)
        if sign_mode == "mixed" and self.weight_bits < 2:
            raise SnncError(
                "weights of both signs need at least 2 bits",
                where=f"{connection.name}.weight_bits",
                got=self.weight_bits,
                allowed="2 to 8",
                remedy="use --bits 2 or more",
            )
        return mantissa_range(sign_mode, self.weight_bits)

    def _round(
        self, connection: Connection, base: float, exponent: int
    ) -> tuple[QuantisedConnection, list[Diagnostic]]:
        diagnostics: list[Diagnostic] = []
        weights = connection.synapses.weights
        sign_mode = _sign_mode(weights)
        low, high = self._range(connection)
        step = base * 2.0**exponent
        mantissa = np.empty(len(weights), np.int16)
        clipped = zeroed = 0
        noise = signal = largest = 0.0
        for first in range(0, len(weights), PART):
            part = slice(first, first + PART)
            exact = weights[part].astype(np.float64) / step
            nearest = np.rint(exact)
            mantissa[part] = rounded = np.clip(nearest, low, high)
            clipped += int(((nearest < low) | (nearest > high)).sum())
            zeroed += int(((rounded == 0) & (exact != 0)).sum())
            noise += float(np.square(rounded - exact).sum())
            signal += float(np.square(exact).sum())
            largest = max(largest, float(np.abs(exact).max()) * step)
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
        ends = connection.name, connection.source, connection.target
        return QuantisedConnection(*ends, synapses, base, connection.delay), diagnostics


def squared_errors(
    weights: NDArray[np.float32], steps: NDArray[np.float64], low: int, high: int
) -> NDArray[np.float64]:
    """Sum of the squared changes that rounding to each step s makes: sum((clip(rint(w / s), low, high) * s - w)**2).

    The weights are sorted once. Those that become the same mantissa m then stand together, and with their number n,
    their sum and the sum of their squares they contribute n (m s)**2 - 2 m s sum + squares.
    """
    ordered = np.sort(weights).astype(np.float64)
    sums, squares = (np.concatenate([[0.0], np.cumsum(part)]) for part in (ordered, ordered * ordered))
    mantissas = np.arange(low, high + 1)
    errors = np.empty(len(steps))
    for k, step in enumerate(steps.tolist()):
        ends = np.searchsorted(ordered, (mantissas[:-1] + 0.5) * step)
        ends = np.concatenate([[0], ends, [len(ordered)]])
        value = mantissas * step
        errors[k] = squares[-1] + np.sum(np.diff(ends) * value * value - 2 * value * np.diff(sums[ends]))
    return errors


def _sign_mode(weights: NDArray[np.float32]) -> str:
    if float(weights.min(initial=0.0)) >= 0:
        return "excitatory"
    return "inhibitory" if float(weights.max(initial=0.0)) <= 0 else "mixed"

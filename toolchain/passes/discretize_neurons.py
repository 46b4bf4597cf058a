"""Decays, thresholds and biases in physical units become registers; the quantised graph becomes a program."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from toolchain.errors import Diagnostic, SnncError
from toolchain.ir import (
    LIF,
    Compartments,
    Input,
    IntegerConnection,
    Program,
    QuantisedConnection,
    QuantisedGraph,
    stored_shift,
)
from toolchain.ir.arithmetic import BIAS_LIMIT, DECAY_ONE, STATE_LIMIT, STATE_SHIFT, THRESHOLD_LIMIT
from toolchain.passes.bias import nearest_bias
from toolchain.passes.bounds import sum_bounds

THRESHOLD_TOLERANCE = 2.0**-11
"""Relative rounding of the threshold below which a finer scale is not looked for."""


@dataclass(frozen=True)
class DiscretizeNeurons:
    """Choose for each population the scale at which its threshold is an integer, and round what must be rounded.

    With `step` the physical value of mantissa 1, the membrane potential has `gain * step / 2**e` physical units
    to 2**6 of its lowest bits, where e is a common exponent given to all weights that enter the population:
    vth = round(threshold * 2**e / (gain * step)). The smallest e is taken whose rounding of the threshold is
    within 2**-11, as long as the current stays inside 24 bits and the exponent inside the register.
    """

    exponent_limit: int = 7
    name: ClassVar[str] = "discretise neurons"

    def run(self, graph: QuantisedGraph) -> tuple[Program, list[Diagnostic]]:
        """The program, and per population what was rounded.

        Raises:
            SnncError: a threshold or bias that no register holds, naming population and field.
        """
        diagnostics: list[Diagnostic] = []
        populations: list[Compartments] = []
        shifted: dict[str, IntegerConnection] = {}
        source = _host_input(graph)
        for population in graph.populations:
            entering = [c for c in graph.connections if c.target == population.name]
            exponent, compartments = self._population(population, entering, source, diagnostics)
            populations.append(compartments)
            for c in entering:
                synapses = replace(c.synapses, exponent=c.synapses.exponent + exponent)
                shifted[c.name] = IntegerConnection(c.name, c.source, c.target, synapses, c.delay)
        program = Program(
            name=graph.name,
            input=source,
            populations=tuple(populations),
            connections=tuple(shifted[c.name] for c in graph.connections),
            steps=graph.steps,
            metadata=graph.metadata,
        )
        return program, diagnostics

    def _population(
        self, lif: LIF, entering: list[QuantisedConnection], source: Input, diagnostics: list[Diagnostic]
    ) -> tuple[int, Compartments]:
        du, dv = _decays(lif, diagnostics)
        fed_by_input = any(c.source == source.name for c in entering)
        unit = lif.gain * entering[0].step  # physical potential for a synaptic sum of 1
        if fed_by_input:
            if len({c.source for c in entering}) > 1 and source.scale != 1.0:
                raise SnncError(
                    "a population is fed by the input, with a scale of its own, and by other neurons",
                    where=f"{lif.name}, {source.name}.scale",
                    got=source.scale,
                    allowed="1, or separate populations",
                )
            unit *= source.scale * 2.0 ** source.parameters().get("shift", 0)
            if source.offset != 0.0 and lif.current_decay != 1.0:
                raise SnncError(
                    "an input offset becomes a bias, which has no synaptic decay",
                    where=f"{lif.name}.current_decay, {source.name}.offset",
                    got=(lif.current_decay, source.offset),
                    allowed="current_decay 1 or offset 0",
                    remedy="train without normalising the input's mean",
                )
        on_host = fed_by_input and source.on_host
        exponent, vth = self._threshold(lif, unit, entering, source, du)
        error = vth / (lif.threshold * 2.0**exponent / unit) - 1
        if abs(error) > 1e-9:
            diagnostics.append(
                Diagnostic("NEU001", lif.name, f"threshold rounded to {vth}", 1, f"relative error {error:+.2e}")
            )
        physical = lif.bias.astype(np.float64)
        for c in entering:
            if c.source == source.name and source.offset != 0.0:
                weights = c.synapses.connectivity.target_sums(c.synapses.values * c.step)
                physical = physical + source.offset * weights
        exact = physical * lif.gain / unit * 2.0 ** (exponent + STATE_SHIFT)
        # What the host injects is added to the bias register, so the two have one exponent.
        mantissa, bias_exponent, clipped = nearest_bias(exact, STATE_SHIFT if on_host else 0)
        if clipped.any():
            at = int(np.argmax(np.abs(exact)))
            raise SnncError(
                f"the biases of {int(clipped.sum())} neurons are larger than the register holds",
                where=f"{lif.name}.bias, first neuron {int(np.flatnonzero(clipped)[0])}",
                got=f"{exact[at]:.0f} in units of the membrane potential's lowest bit",
                allowed=f"magnitude at most {BIAS_LIMIT} * 2**7",
                remedy="train with a smaller bias, or with fewer weight bits (a coarser scale)",
            )
        rounding = np.abs(mantissa.astype(np.float64) * 2.0**bias_exponent - exact)
        changed = int((rounding > 1e-6).sum())
        if changed:
            effect = f"largest change {float(rounding.max()) / (vth << STATE_SHIFT):.1e} of the threshold"
            diagnostics.append(Diagnostic("NEU002", lif.name, f"{changed} biases rounded", changed, effect))
        return exponent, Compartments(lif.name, lif.size, du, dv, vth, mantissa, bias_exponent)

    def _threshold(
        self, lif: LIF, unit: float, entering: list[QuantisedConnection], source: Input, du: int
    ) -> tuple[int, int]:
        ideal = lif.threshold / unit
        if not 0.5 <= ideal <= THRESHOLD_LIMIT:
            raise SnncError(
                "the threshold cannot be held at the scale of the weights",
                where=f"{lif.name}.threshold",
                got=f"{ideal:.4g} weight steps",
                allowed=f"1 to {THRESHOLD_LIMIT}",
                remedy="use more weight bits" if ideal < 1 else "use fewer weight bits, or train with larger weights",
            )
        if source.on_host and any(c.source == source.name for c in entering):
            return 0, max(1, round(ideal))  # its sums are scaled by the input's shift, not by an exponent
        largest = 0.0
        for c in entering:
            payload = source.payload_max if c.source == source.name else 1
            low, high = sum_bounds(c.synapses, lif.size, payload)
            largest += float(max(high.max(initial=0), -low.min(initial=0)))
        room = largest * DECAY_ONE / du * 2.0**STATE_SHIFT
        # Exponents that the register has left, for the connection that has fewest.
        left = min(
            self.exponent_limit + stored_shift(c.synapses.sign_mode, c.synapses.weight_bits) - c.synapses.exponent
            for c in entering
        )
        best, best_error = 0, np.inf
        for e in range(left + 1):
            value = ideal * 2.0**e
            if e and (value > THRESHOLD_LIMIT or room * 2.0**e > STATE_LIMIT):
                break
            error = abs(round(value) / value - 1)
            if error < best_error - 1e-15:
                best, best_error = e, error
            if error <= THRESHOLD_TOLERANCE:
                break
        return best, max(1, round(ideal * 2.0**best))


def _decays(lif: LIF, diagnostics: list[Diagnostic]) -> tuple[int, int]:
    """Current and voltage decay as 12 bit fractions, reported where rounding changes them."""
    exact = {"du": lif.current_decay * DECAY_ONE, "dv": lif.voltage_decay * DECAY_ONE}
    du = min(max(round(exact["du"]), 1), DECAY_ONE)
    dv = min(max(round(exact["dv"]), 0), DECAY_ONE - 1)
    for field, value in (("du", du), ("dv", dv)):
        if abs(value - exact[field]) > 1e-6:
            diagnostics.append(
                Diagnostic(
                    "NEU003",
                    lif.name,
                    f"{field} rounded from {exact[field]:.3f} to {value}",
                    1,
                    f"decay of {value / DECAY_ONE:.5f} a step in place of {exact[field] / DECAY_ONE:.5f}",
                )
            )
    return du, dv


def _host_input(graph: QuantisedGraph) -> Input:
    """The input; where the host computes, with a right shift at which every sum fits a bias register.

    The shift that the network was trained with, if that is enough; else the smallest one.
    """
    source = graph.input
    if not source.on_host:
        return source
    room = 0.0
    for lif in graph.populations:
        entering = [c for c in graph.connections if c.target == lif.name and c.source == source.name]
        if not entering:
            continue
        if lif.current_decay != 1.0:
            raise SnncError(
                "a current computed on the host enters as a bias, which has no synaptic decay",
                where=f"{lif.name}.current_decay",
                got=lif.current_decay,
                allowed=1.0,
                remedy="use input coding 'graded' or 'rate'",
            )
        largest = 0
        for c in entering:
            low, high = sum_bounds(c.synapses, lif.size, source.payload_max)
            largest += max(int(high.max(initial=0)), -int(low.min(initial=0)))
        # The neuron's own bias shares the register with what is injected.
        own = float(np.abs(lif.bias).max(initial=0.0)) / (entering[0].step * source.scale)
        own += abs(source.offset) / source.scale * largest / source.payload_max
        room = max(room, largest + own)
    shift = source.parameters()["shift"]
    while room / 2.0**shift > BIAS_LIMIT - len(graph.connections):  # each sum is rounded, and so is the bias
        shift += 1
    return replace(source, shift=shift)  # type: ignore[call-arg]

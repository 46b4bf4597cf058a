"""Decays, thresholds and biases in physical units become registers; the quantised graph becomes a program."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

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
from toolchain.ir.neurons import Integers
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
        # Physical potential for a synaptic sum of 1: the same for all entering connections (QuantizeWeights).
        unit = lif.gain * entering[0].step * (source.scale if entering[0].source == source.name else 1.0)
        if fed_by_input:
            if len({c.source for c in entering}) > 1 and source.on_host:
                raise SnncError(
                    "a population is fed by the host's currents, on a scale of their own, and by other neurons",
                    where=f"{lif.name}, {source.name}",
                    got=", ".join(sorted({c.source for c in entering})),
                    allowed="the host alone",
                    remedy="use input coding 'graded' or 'rate'",
                )
            unit *= 2.0 ** source.parameters().get("shift", 0)
            if source.offset != 0.0 and np.any(np.asarray(lif.current_decay) != 1.0):
                raise SnncError(
                    "an input offset becomes a bias, which has no synaptic decay",
                    where=f"{lif.name}.current_decay, {source.name}.offset",
                    got=(lif.current_decay, source.offset),
                    allowed="current_decay 1 or offset 0",
                    remedy="train without normalising the input's mean",
                )
        on_host = fed_by_input and source.on_host
        exponent, vth = self._threshold(lif, unit, entering, source, du)
        if lif.spiking:
            error = np.atleast_1d(vth / (np.asarray(lif.threshold) * 2.0**exponent / unit) - 1)
            worst = float(error[np.argmax(np.abs(error))])
            if abs(worst) > 1e-9:
                message = f"threshold rounded to {_shown(vth)}"
                diagnostics.append(Diagnostic("NEU001", lif.name, message, len(error), f"relative error {worst:+.2e}"))
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
            effect = f"largest change {float(rounding.max()) / (int(np.min(vth)) << STATE_SHIFT):.1e} of the threshold"
            diagnostics.append(Diagnostic("NEU002", lif.name, f"{changed} biases rounded", changed, effect))
        return exponent, Compartments(
            lif.name, lif.size, du, dv, vth, mantissa, bias_exponent, lif.reset, lif.refractory
        )

    def _threshold(
        self, lif: LIF, unit: float, entering: list[QuantisedConnection], source: Input, du: Integers
    ) -> tuple[int, Integers]:
        """The common exponent of the entering weights and the threshold at that scale."""
        ideal = np.asarray(lif.threshold) / unit
        if lif.spiking and not (float(ideal.min()) >= 0.5 and float(ideal.max()) <= THRESHOLD_LIMIT):
            below = float(ideal.min()) < 0.5
            raise SnncError(
                "the threshold cannot be held at the scale of the weights",
                where=f"{lif.name}.threshold",
                got=f"{float(ideal.min() if below else ideal.max()):.4g} weight steps",
                allowed=f"1 to {THRESHOLD_LIMIT}",
                remedy="use more weight bits" if below else "use fewer weight bits, or train with larger weights",
            )
        if not lif.spiking:
            return 0, THRESHOLD_LIMIT  # a readout has none; its compartments get the one that is hardest to reach
        if source.on_host and any(c.source == source.name for c in entering):
            return 0, _integers(ideal)  # its sums are scaled by the input's shift, not by an exponent
        largest = 0.0
        for c in entering:
            payload = source.payload_max if c.source == source.name else 1
            low, high = sum_bounds(c.synapses, payload)
            largest += float(max(high.max(initial=0), -low.min(initial=0)))
        room = largest * DECAY_ONE / int(np.min(du)) * 2.0**STATE_SHIFT
        # Exponents that the register has left, for the connection that has fewest.
        left = min(
            self.exponent_limit + stored_shift(c.synapses.sign_mode, c.synapses.weight_bits) - c.synapses.exponent
            for c in entering
        )
        best, best_error = 0, np.inf
        for e in range(left + 1):
            value = ideal * 2.0**e
            if e and (float(value.max()) > THRESHOLD_LIMIT or room * 2.0**e > STATE_LIMIT):
                break
            error = float(np.abs(np.rint(value) / value - 1).max())
            if error < best_error - 1e-15:
                best, best_error = e, error
            if error <= THRESHOLD_TOLERANCE:
                break
        return best, _integers(ideal * 2.0**best)


def _integers(values: NDArray[np.float64]) -> Integers:
    """Rounded to integers of 1 or more: one number, or one a neuron."""
    whole = np.maximum(np.rint(values), 1).astype(np.int32)
    return whole if whole.ndim else int(whole)


def _shown(values: Integers) -> str:
    return str(values) if isinstance(values, int) else f"{int(values.min())}..{int(values.max())}"


def _decays(lif: LIF, diagnostics: list[Diagnostic]) -> tuple[Integers, Integers]:
    """Current and voltage decay as 12 bit fractions, reported where rounding changes them."""
    rounded: list[Integers] = []
    for field, decay, low, high in (
        ("du", lif.current_decay, 1, DECAY_ONE),
        ("dv", lif.voltage_decay, 0, DECAY_ONE - 1),
    ):
        exact = np.asarray(decay, np.float64) * DECAY_ONE
        whole = np.clip(np.rint(exact), low, high).astype(np.int32)
        changed = int((np.abs(whole - exact) > 1e-6).sum())
        if changed:
            at = int(np.argmax(np.abs(whole - exact)))
            was, now = float(exact.reshape(-1)[at]), int(whole.reshape(-1)[at])
            effect = f"decay of {now / DECAY_ONE:.5f} a step in place of {was / DECAY_ONE:.5f}"
            message = f"{field} rounded from {was:.3f} to {now}"
            diagnostics.append(Diagnostic("NEU003", lif.name, message, changed, effect))
        rounded.append(whole if whole.ndim else int(whole))
    return rounded[0], rounded[1]


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
        if np.any(np.asarray(lif.current_decay) != 1.0):
            raise SnncError(
                "a current computed on the host enters as a bias, which has no synaptic decay",
                where=f"{lif.name}.current_decay",
                got=lif.current_decay,
                allowed=1.0,
                remedy="use input coding 'graded' or 'rate'",
            )
        largest = 0
        for c in entering:
            low, high = sum_bounds(c.synapses, source.payload_max)
            largest += max(int(high.max(initial=0)), -int(low.min(initial=0)))
        # The neuron's own bias shares the register with what is injected.
        own = float(np.abs(lif.bias).max(initial=0.0)) / (entering[0].step * source.scale)
        own += abs(source.offset) / source.scale * largest / source.payload_max
        room = max(room, largest + own)
    shift = source.parameters()["shift"]
    while room / 2.0**shift > BIAS_LIMIT - len(graph.connections):  # each sum is rounded, and so is the bias
        shift += 1
    return replace(source, shift=shift)  # type: ignore[call-arg]

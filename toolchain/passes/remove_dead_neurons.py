"""Neurons that cannot change the output are left out; those that fire at every step become biases."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import Diagnostic, SnncError
from toolchain.ir import Compartments, Program
from toolchain.ir.arithmetic import DECAY_ONE, STATE_LIMIT, STATE_SHIFT
from toolchain.passes.bias import exact_bias
from toolchain.passes.bounds import sum_bounds


@dataclass(frozen=True)
class RemoveDeadNeurons:
    """Remove, until nothing changes: inputs and hidden neurons that nobody listens to; hidden neurons without
    input that never fire; and hidden neurons without input that fire at every step, whose weights are added to
    the biases of their targets where those hold the sum exactly.

    It works on integers, after the weights were rounded, because rounding leaves neurons without a synapse, and
    because only integers tell exactly whether a bias alone reaches the threshold. Output neurons always stay.
    """

    name: ClassVar[str] = "remove dead neurons"

    def run(self, program: Program) -> tuple[Program, list[Diagnostic]]:
        """The same function with fewer neurons; counts by reason.

        Raises:
            SnncError: a layer, or the input, has no living neuron left.
        """
        counts: dict[tuple[str, str], int] = {}
        while True:
            smaller = _once(program, counts)
            if smaller is None:
                break
            program = smaller
        diagnostics = [
            Diagnostic(code, name, _REASONS[code].format(count), count, "no output spike changes")
            for (code, name), count in sorted(counts.items())
        ]
        return program, diagnostics


_REASONS = {
    "DED001": "{} input neurons without a synapse removed",
    "DED002": "{} neurons that nobody listens to removed",
    "DED003": "{} neurons that never fire removed",
    "DED004": "{} neurons that fire at every step folded into biases",
}


def _once(program: Program, counts: dict[tuple[str, str], int]) -> Program | None:
    """Remove from the first place that has something to remove; None when there is none."""
    heard = _heard(program, program.input.name, program.input.size)
    if not heard.all():
        return _remove(program, program.input.name, heard, "DED001", counts)
    for population in program.populations[:-1]:
        heard = _heard(program, population.name, population.size)
        if not heard.all():
            return _remove(program, population.name, heard, "DED002", counts)
        fed = np.zeros(population.size, bool)
        for c in program.into(population.name):
            fed |= c.synapses.connectivity.fan_in > 0
        if fed.all():
            continue
        spikes = _alone(population, program.steps)
        silent = ~fed & ~spikes.any(axis=0)
        if silent.any():
            return _remove(program, population.name, ~silent, "DED003", counts)
        constant = ~fed & spikes.all(axis=0)
        if constant.any():
            folded = _fold(program, population.name, constant)
            if folded is not None:
                return _remove(folded, population.name, ~constant, "DED004", counts)
    return None


def _heard(program: Program, name: str, size: int) -> NDArray[np.bool_]:
    heard = np.zeros(size, bool)
    for c in program.out_of(name):
        heard |= c.synapses.connectivity.fan_out > 0
    return heard


def _alone(population: Compartments, steps: int) -> NDArray[np.bool_]:
    """Which neurons fire from their bias alone: shape (steps, size)."""
    state = population.start(1)
    spikes = np.zeros((steps, population.size), bool)
    for t in range(steps):
        state, fired = population.step(state, np.zeros((1, population.size), np.int64))
        spikes[t] = fired[0]
    return spikes


def _remove(
    program: Program, name: str, keep: NDArray[np.bool_], code: str, counts: dict[tuple[str, str], int]
) -> Program:
    counts[code, name] = counts.get((code, name), 0) + int((~keep).sum())
    if not keep.any():
        return _without_population(program, name, len(keep))
    connections = []
    for c in program.connections:
        shape = c.synapses.connectivity
        sources = keep if c.source == name else np.ones(shape.n_sources, bool)
        targets = keep if c.target == name else np.ones(shape.n_targets, bool)
        connections.append(replace(c, synapses=c.synapses.keep(sources, targets)))
    return replace(
        program,
        input=program.input.keep(keep) if program.input.name == name else program.input,
        populations=tuple(p.keep(keep) if p.name == name else p for p in program.populations),
        connections=tuple(connections),
    )


def _without_population(program: Program, name: str, size: int) -> Program:
    """The program without a population that is dead as a whole, where each of its targets has another source."""
    connections = tuple(c for c in program.connections if name not in (c.source, c.target))
    fed = {c.target for c in connections}
    if name == program.input.name or any(c.target not in fed for c in program.out_of(name)):
        raise SnncError(
            f"no neuron of {name!r} carries anything from the input to the output",
            where=name,
            got=f"all {size} neurons are dead",
            remedy="train with more connectivity, or quantise with more bits",
        )
    return replace(
        program, populations=tuple(p for p in program.populations if p.name != name), connections=connections
    )


def _fold(program: Program, name: str, constant: NDArray[np.bool_]) -> Program | None:
    """Add what these neurons send at every step to the biases of their targets; None where a bias cannot hold it.

    A constant sum a gives the potential 64 a at each step, as a bias of 64 a does, if the target's current keeps
    nothing from one step to the next and cannot wrap.
    """
    populations = {p.name: p for p in program.populations}
    for c in program.out_of(name):
        target = populations[c.target]
        if target.du != DECAY_ONE or _may_wrap(program, c.target, target.size):
            return None
        sent = c.synapses.connectivity.product(c.synapses.values)(constant[None, :].astype(np.int64))[0]
        bias = exact_bias(target.bias + (sent << STATE_SHIFT))
        if bias is None:
            return None
        populations[c.target] = replace(target, bias_mantissa=bias[0], bias_exponent=bias[1])
    return replace(program, populations=tuple(populations[p.name] for p in program.populations))


def _may_wrap(program: Program, name: str, size: int) -> bool:
    """Whether the sum of one step, hidden sources all firing, may leave the 24 bits of the current."""
    low, high = np.zeros(size, np.int64), np.zeros(size, np.int64)
    for c in program.into(name):
        below, above = sum_bounds(c.synapses, size, payload_max=1)
        low, high = low + below, high + above
    return max(int(high.max()), -int(low.min())) << STATE_SHIFT > STATE_LIMIT

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

Marks = dict[str, NDArray[np.bool_]]
"""Name of the input or a population -> one mark a neuron."""


@dataclass(frozen=True)
class RemoveDeadNeurons:
    """Remove, until nothing changes: inputs and neurons from which no path of synapses leads to the output; hidden
    neurons without input that never fire; and hidden neurons without input that fire at every step, whose weights
    are added to the biases of their targets where those hold the sum exactly. Of a feature map only whole channels
    can go.

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
    heard = _heard(program)
    unheard = {name: marks for name, marks in heard.items() if not marks.all()}
    if unheard:
        for name, marks in unheard.items():
            _count(counts, "DED001" if name == program.input.name else "DED002", name, marks)
        return _remove(program, unheard)
    for population in program.populations[:-1]:
        fed = np.zeros(population.size, bool)
        for c in program.into(population.name):
            fed |= c.synapses.connectivity.fan_in > 0
        if fed.all():
            continue
        always, ever = _alone(population, ~fed, program.steps)
        silent = _whole(program, population.name, ~fed & ~ever)
        if silent.any():
            _count(counts, "DED003", population.name, ~silent)
            return _remove(program, {population.name: ~silent})
        constant = _whole(program, population.name, ~fed & always)
        if constant.any():
            folded = _fold(program, population.name, constant)
            if folded is not None:
                _count(counts, "DED004", population.name, ~constant)
                return _remove(folded, {population.name: ~constant})
    return None


def _whole(program: Program, name: str, marks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The marks of a feature map's channels that are marked as a whole; of other populations, the marks."""
    shape = program.shapes[name]
    if len(shape) == 1:
        return marks
    return np.repeat(marks.reshape(shape[0], -1).all(axis=1), marks.size // shape[0])


def _heard(program: Program) -> Marks:
    """Neurons from which synapses lead to the output, in any number of steps."""
    heard: Marks = {program.input.name: np.zeros(program.input.size, bool)}
    heard |= {p.name: np.zeros(p.size, bool) for p in program.populations}
    heard[program.output.name][:] = True
    changed = {program.output.name}
    while changed:
        # From the back: a network without cycles then takes one turn.
        name = next(n for n in reversed(heard) if n in changed)
        changed.discard(name)
        for c in program.into(name):
            pattern = c.synapses.connectivity
            if not heard[name].all():
                pattern, _ = pattern.select(np.ones(pattern.n_sources, bool), heard[name])
            # The channels of a map stay whole: one that is heard anywhere stays.
            more = heard[c.source] | ~_whole(program, c.source, pattern.fan_out == 0)
            if not np.array_equal(more, heard[c.source]):
                heard[c.source] = more
                changed.add(c.source)
    return heard


def _alone(
    population: Compartments, wanted: NDArray[np.bool_], steps: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which of the wanted neurons fire from their bias alone at every step, and which ever do: both of shape (size,).

    Without a positive bias a membrane potential never rises above 0, so no threshold is passed.
    """
    some = wanted & (population.bias_mantissa > 0)
    always, ever = np.zeros(population.size, bool), np.zeros(population.size, bool)
    if not some.any():
        return always, ever
    few = population.keep(some)
    state, silence = few.start(1), np.zeros((1, few.size), np.int64)
    each = np.zeros((steps, few.size), bool)
    for t in range(steps):
        state, fired = few.step(state, silence)
        each[t] = fired[0]
    always[some], ever[some] = each.all(axis=0), each.any(axis=0)
    return always, ever


def _count(counts: dict[tuple[str, str], int], code: str, name: str, keep: NDArray[np.bool_]) -> None:
    counts[code, name] = counts.get((code, name), 0) + int((~keep).sum())


def _remove(program: Program, keep: Marks) -> Program:
    """The program with the marked neurons of these populations alone."""
    # From the back, so that a refusal names the place nearest to the output.
    for name in [name for name, marks in reversed(keep.items()) if not marks.any()]:
        program = _without_population(program, name, len(keep[name]))
    connections = []
    for c in program.connections:
        if c.source in keep or c.target in keep:
            pattern = c.synapses.connectivity
            sources = keep.get(c.source, np.ones(pattern.n_sources, bool))
            targets = keep.get(c.target, np.ones(pattern.n_targets, bool))
            c = replace(c, synapses=c.synapses.keep(sources, targets))
        connections.append(c)
    source = program.input
    return replace(
        program,
        input=source.keep(keep[source.name]) if source.name in keep else source,
        populations=tuple(p.keep(keep[p.name]) if p.name in keep else p for p in program.populations),
        connections=tuple(connections),
    )


def _without_population(program: Program, name: str, size: int) -> Program:
    """The program without a population that is dead as a whole, where each of its targets has another source."""
    connections = tuple(c for c in program.connections if name not in (c.source, c.target))
    fed = {c.target for c in connections}
    if name == program.input.name or any(c.target not in fed for c in program.out_of(name) if c.target != name):
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
    nothing from one step to the next and cannot wrap, and if it arrives from the first step on.
    """
    populations = {p.name: p for p in program.populations}
    for c in program.out_of(name):
        target = populations[c.target]
        if c.delay or np.any(np.asarray(target.du) != DECAY_ONE) or _may_wrap(program, c.target, target.size):
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
        below, above = sum_bounds(c.synapses, payload_max=1)
        low, high = low + below, high + above
    return max(int(high.max()), -int(low.min())) << STATE_SHIFT > STATE_LIMIT

"""Random programs of any size, mapped: what a report is made from."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

import hw_targets
from toolchain import report, rules
from toolchain.ir import Compartments, Connectivity, IntegerConnection, IntegerSynapses, Program, make_input
from toolchain.mapping.partition import Costing, partition
from toolchain.mapping.place import Mapping, place
from toolchain.mapping.synapse_memory import FormatChoice
from toolchain.mapping.usage import Limit, Usage


@dataclass(frozen=True, eq=False)
class Mapped:
    program: Program
    target: hw_targets.Target
    mapping: Mapping

    def limits(self, usage: Usage) -> list[Limit]:
        return rules.core_limits(usage, self.target, self.mapping.costing.model)

    def limits_by_rule(self) -> dict[str, int]:
        return {limit.rule: limit.limit for core in self.mapping.cores for limit in self.limits(core.usage)}

    def report(self, **options: Any) -> dict[str, Any]:
        return report.build_report(self.program, self.mapping, self.limits, self.target, **options)


def random_program(sizes: tuple[int, ...], density: float, *, coding: str = "rate", seed: int = 0) -> Program:
    """A chain of fully random layers fc1, fc2, ... behind an input named pixels; 8 bits, mixed signs."""
    random = np.random.default_rng(seed)
    populations, connections, source = [], [], "pixels"
    for k, (n, m) in enumerate(itertools.pairwise(sizes), start=1):
        connectivity = Connectivity.from_mask(random.random((m, n)) < density)
        mantissa = random.integers(-127, 128, connectivity.n_synapses).astype(np.int16)
        synapses = IntegerSynapses(connectivity, mantissa, 0, 8, "mixed")
        populations.append(Compartments(f"fc{k}", m, 4096, 1024, 500, np.zeros(m, np.int16)))
        connections.append(IntegerConnection(f"fc{k}_synapses", source, f"fc{k}", synapses))
        source = f"fc{k}"
    entry = make_input(coding, "pixels", sizes[0])
    return Program("random", entry, tuple(populations), tuple(connections), 8)


def mapped_program(program: Program, target: str = "loihi", *, cores_per_chip: int | None = None) -> Mapped:
    chip = hw_targets.load(target)
    parameters = rules.cost_parameters(chip, chip.default_cost_model)
    choice = FormatChoice(max_formats=parameters.get("formats"))
    costing = Costing(chip.default_cost_model, parameters, choice)

    def limits(usage: Usage) -> list[Limit]:
        return rules.core_limits(usage, chip, costing.model)

    mapping = place(
        program,
        partition(program, costing, limits),
        costing,
        limits,
        target=chip.name,
        cores_per_chip=cores_per_chip or rules.cores_per_chip(chip),
    )
    return Mapped(program, chip, mapping)

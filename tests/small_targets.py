"""Chips with tiny limits, so that every limit binds in some test."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

import hw_targets
from toolchain import rules
from toolchain.ir import Compartments, Connectivity, IntegerConnection, IntegerSynapses, Program, make_input
from toolchain.mapping.partition import Costing, partition
from toolchain.mapping.place import Mapping, place
from toolchain.mapping.synapse_memory import FormatChoice
from toolchain.mapping.usage import Limit, Usage


def small_target(base: str = "loihi", **limits: int) -> hw_targets.Target:
    """The target `base` with other limits or number formats."""
    plain = hw_targets.load(base).to_dict()
    for key, value in limits.items():
        section = plain["limits"] if key in plain["limits"] else plain["numbers"]
        if key not in section:
            section = plain["limits"]
            section[key] = {"unit": hw_targets.schema.LIMITS[key][0], "source": [next(iter(plain["sources"]))]}
            section[key]["mark"] = "inferred"
        section[key] = {**section[key], "value": value}
        section[key].pop("disagreement", None)
    if "synapse_formats_per_core" in limits:
        plain["cost_models"]["nxtf"]["parameters"]["formats"]["value"] = limits["synapse_formats_per_core"]
    return hw_targets.parse(plain, "small target")


def costing_of(target: hw_targets.Target, model: str | None = None, **choice: Any) -> Costing:
    model = model or target.default_cost_model
    parameters = rules.cost_parameters(target, model)
    return Costing(model, parameters, FormatChoice(**{"max_formats": parameters.get("formats"), **choice}))


def limits_of(target: hw_targets.Target, model: str):
    def limits(usage: Usage) -> list[Limit]:
        return rules.core_limits(usage, target, model)

    return limits


def mapped(
    program: Program,
    target: hw_targets.Target,
    model: str | None = None,
    share_cores: bool = True,
    **choice: Any,
) -> Mapping:
    costing = costing_of(target, model, **choice)
    limits = limits_of(target, costing.model)
    return place(
        program,
        partition(program, costing, limits),
        costing,
        limits,
        target=target.name,
        cores_per_chip=rules.cores_per_chip(target),
        share_cores=share_cores,
    )


def chain(
    sizes: tuple[int, ...],
    density: float = 1.0,
    *,
    seed: int = 0,
    coding: str = "rate",
    bits: int = 8,
    masks: tuple[np.ndarray, ...] | None = None,
) -> Program:
    """Layers fc1, fc2, ... with random weights, none of them zero; masks of shape (n_targets, n_sources)."""
    random = np.random.default_rng(seed)
    populations, connections, source = [], [], "input"
    for k, (n, m) in enumerate(itertools.pairwise(sizes), start=1):
        mask = random.random((m, n)) < density if masks is None else masks[k - 1]
        connectivity = Connectivity.from_mask(mask)
        half = 1 << bits - 1
        mantissa = random.integers(-half + 1, half, connectivity.n_synapses)
        mantissa[mantissa == 0] = 1
        synapses = IntegerSynapses(connectivity, mantissa.astype(np.int16), 0, bits, "mixed")
        populations.append(Compartments(f"fc{k}", m, 4096, 0, 100, np.zeros(m, np.int16)))
        connections.append(IntegerConnection(f"fc{k}.weight", source, f"fc{k}", synapses))
        source = f"fc{k}"
    entry = make_input(coding, "input", sizes[0])
    program = Program("chain", entry, tuple(populations), tuple(connections), 4)
    program.verify()
    return program

"""The rules of a chip, one function each. Its docstring's first line is the wording that users read.

Core rules take what a core uses and the target; they answer with the amount and the limit, or None where the target
states no such limit. Rules about a whole program stand in `rules_program`. Nothing here knows a number: the numbers,
with unit and source, stand in the target files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from hw_targets import System, Target, TargetError
from toolchain.errors import UsageError, Violation, nearest
from toolchain.mapping.cost_models import pool_use
from toolchain.mapping.mesh import Mesh
from toolchain.mapping.place import Mapping
from toolchain.mapping.region import Region
from toolchain.mapping.synapse_memory import Format
from toolchain.mapping.usage import Limit, Usage
from toolchain.rules_program import PROGRAM_RULES, ProgramRule, check_program, source_of


def _limit(rule: str, value: int, key: str, target: Target) -> Limit | None:
    stated = target.plain.get(key)
    return None if stated is None else Limit(rule, value, *stated)


def compartments(usage: Usage, target: Target, model: str) -> Limit | None:
    """A core updates no more compartments than it has."""
    return _limit("compartments", usage.compartments, "compartments_per_core", target)


def delay_field(usage: Usage, target: Target, model: str) -> Limit | None:
    """The bits of a synapse's delay are taken from the number of its compartment, so a core with delays has fewer."""
    if not usage.delay_bits or "compartment_and_delay_bits" not in target:
        return None
    stated = target.limit("compartment_and_delay_bits")
    most = 1 << max(0, int(stated.value) - usage.delay_bits)  # type: ignore[arg-type]
    name = f"compartments beside {usage.delay_bits} delay bits"
    return Limit(name, usage.compartments, most, "compartments", source_of(stated))


def compartment_configs(usage: Usage, target: Target, model: str) -> Limit | None:
    """Every different set of decays, bias exponent, reset and refractory period on a core takes one configuration."""
    found = len(usage.compartment_configs)
    return _limit("compartment configurations", found, "compartment_configs_per_core", target)


def threshold_configs(usage: Usage, target: Target, model: str) -> Limit | None:
    """Every different threshold on a core takes one configuration."""
    return _limit("threshold configurations", len(usage.threshold_configs), "threshold_configs_per_core", target)


def destination_groups(usage: Usage, target: Target, model: str) -> Limit | None:
    """A slice of a feature map whose kernels are shared numbers its compartments in few interleaved groups."""
    return _limit("destination groups", usage.destination_groups, "destination_groups_per_core", target)


def neuron_groups(usage: Usage, target: Target, model: str) -> Limit | None:
    """Every slice is one neuron group of its core."""
    return _limit("neuron groups", usage.groups, "neuron_groups_per_core", target)


def input_axons(usage: Usage, target: Target, model: str) -> Limit | None:
    """Every source neuron with a synapse on a core takes one input axon there, for each slice."""
    return _limit("input axons", usage.input_axons, "input_axons_per_core", target)


def output_axons(usage: Usage, target: Target, model: str) -> Limit | None:
    """Every neuron takes one output axon for each slice that it sends to, and one more where that crosses chips."""
    return _limit("output axons", usage.output_axons, "output_axons_per_core", target)


def crossing_axons(usage: Usage, target: Target, model: str) -> Limit | None:
    """Output axons to other chips are fewer than those within the chip."""
    return _limit("output axons to other chips", usage.crossing_axons, "output_axons_to_other_chips_per_core", target)


def synapse_memory(usage: Usage, target: Target, model: str) -> Limit | None:
    """The synapse lists of a core, in words, fit its synaptic memory."""
    return _limit("synapse memory", usage.synapse_words, "synapse_words_per_core", target)


def synapses(usage: Usage, target: Target, model: str) -> Limit | None:
    """A core has room for so many synapses, however they are stored."""
    return _limit("synapses", usage.synapses, "synapses_per_core", target)


def list_length(usage: Usage, target: Target, model: str) -> Limit | None:
    """The synapse list of one input axon has a largest length."""
    return _limit("words per input axon", usage.largest_list_words, "synapse_words_per_axon", target)


def synapse_formats(usage: Usage, target: Target, model: str) -> Limit | None:
    """All lists of a core use the few synapse formats that its registers hold."""
    if not usage.formats:
        return None
    return _limit("synapse formats", len(usage.formats), "synapse_formats_per_core", target)


def memory_pool(usage: Usage, target: Target, model: str) -> Limit | None:
    """Synapses, neurons, input axons, axon maps and axon memory of a core share one pool of words."""
    if model != "loihi2-fitted":
        return None
    pool = pool_use(
        cost_parameters(target, model),
        synapse_words=usage.synapse_words,
        neurons=usage.compartments,
        input_axons=usage.input_axons,
        axon_entries=usage.output_axons,
        axon_maps=usage.axon_maps,
    )
    return _limit("memory pool", pool.words, "pool_words_per_core", target)


__all__ = ["PROGRAM_RULES", "ProgramRule", "check_program", "source_of"]

CoreRule = Callable[[Usage, Target, str], "Limit | None"]

CORE_RULES: tuple[CoreRule, ...] = (
    compartments,
    delay_field,
    compartment_configs,
    threshold_configs,
    destination_groups,
    neuron_groups,
    input_axons,
    output_axons,
    crossing_axons,
    synapse_memory,
    synapses,
    list_length,
    synapse_formats,
    memory_pool,
)


def core_limits(usage: Usage, target: Target, model: str) -> list[Limit]:
    """What a core uses against every limit that its target states."""
    return [limit for rule in CORE_RULES if (limit := rule(usage, target, model)) is not None]


def wording(rule: CoreRule | ProgramRule) -> str:
    """What users read of a rule: the first line of its docstring."""
    return (rule.__doc__ or "").splitlines()[0]


def stated_limit(rule: CoreRule, target: Target) -> Limit | None:
    """The limit of a rule on a target, whatever is used; None where the target states none."""
    widths = target.get("delay_bits", (0,))
    nothing = Usage(delay_bits=min(widths), formats=frozenset({Format("sparse", "mixed", 8, 0, 6, 0)}))
    return rule(nothing, target, target.default_cost_model)


def cost_parameters(target: Target, model: str) -> dict[str, Any]:
    """The numbers of a cost model on a target.

    Raises:
        UsageError: the target has no such model.
    """
    try:
        return target.parameters(model)
    except TargetError as error:
        raise UsageError(str(error)) from error


def check_target(target: Target) -> None:
    """Raise UsageError where nothing can be compiled for a chip, with the reason."""
    if target.why_not:
        raise UsageError(
            f"nothing is compiled for {target.name}: it is listed for its limits only",
            got=target.why_not,
            remedy="choose another target: snnc targets",
        )


def verdict(target: Target) -> str:
    """What it means that no rule is broken."""
    return "all kept, as far as they are known" if target.partial else "all kept"


def board(target: Target, name: str) -> System:
    """A board or machine of the target by name: how many chips, and how they are joined.

    Raises:
        UsageError: the target names no such board.
    """
    boards = {system.name: system for system in target.systems}
    if name not in boards:
        raise UsageError(
            f"no board {name!r} for target {target.name!r}", where="--board", allowed=nearest(name, boards)
        )
    return boards[name]


def mesh(target: Target, system: System | None = None) -> Mesh | None:
    """Where the cores of a target stand, or None where it does not say; chips stand in a row unless a board says."""
    if "mesh_columns" not in target:
        return None
    rows_and_columns = system.grid.value if system is not None and system.grid is not None else None
    return Mesh(
        columns=int(target["mesh_columns"]),
        rows=int(target["mesh_rows"]),
        cores_per_tile=int(target["cores_per_tile"]),
        chips_per_row=int(rows_and_columns[1]) if isinstance(rows_and_columns, tuple) else None,
    )


def input_on_chip(target: Target) -> bool:
    """Whether neurons of the chip make the spikes of a rate input; where no source says otherwise they do."""
    return bool(target.get("input_on_chip", True))


def cores_per_chip(target: Target) -> int:
    """Cores of one chip."""
    return int(target["cores_per_chip"])


def default_weight_bits(target: Target) -> int:
    """The widest weights that the target stores, 8 bits at most."""
    return max(bits for bits in target["weight_bits"] if bits <= 8)


def check_weight_bits(weight_bits: int, target: Target) -> tuple[Violation, ...]:
    """Weights have a number of bits that the chip can store."""
    allowed = tuple(bits for bits in target["weight_bits"] if 1 <= bits <= 8)
    if weight_bits in allowed:
        return ()
    stated = target.limit("weight_bits")
    # The next wider field holds the weights as they are; where there is none, the widest.
    near = min((bits for bits in allowed if bits > weight_bits), default=max(allowed))
    return (
        Violation(
            f"weights of {', '.join(map(str, allowed))} bits only",
            "weights",
            weight_bits,
            max(allowed),
            "bits",
            source_of(stated),
            f"use --bits {near}",
        ),
    )


def _too_few(target: Target, chips: int, where: str, needed: int) -> Violation:
    stated = target.limit("cores_per_chip")
    rule, most = f"cores of {chips} chip{'s' if chips > 1 else ''}", int(stated.value) * chips  # type: ignore[arg-type]
    return Violation(rule, where, needed, most, "cores", source_of(stated))


def check_ruled_out(
    found: Iterable[tuple[str, Region, Limit]], compartments: int, target: Target, chips: int
) -> tuple[Violation, ...]:
    """Limits that no slicing keeps, each with the neuron that breaks it (see `toolchain.mapping.partition`).

    And, as no cut is made, the cores of the chips against those that the compartments of all layers take at least.
    """

    def remedy(limit: Limit) -> str:
        text = f"even one neuron alone breaks it: {_alone(limit)}"
        if limit.rule != "input axons" or not limit.value > limit.limit > 0:
            return text
        part = limit.limit * 1000 // limit.value / 10
        return f"{text} (alone it fits with {part:g} % of them)"

    def place(region: Region) -> str:
        first = [a for a, _ in region.ranges]
        axes = ("neuron",) if len(first) == 1 else ("channel", "row", "column")
        return ", ".join(f"{axis} {n}" for axis, n in zip(axes, first, strict=True))

    violations = [_violation(limit, f"{name} ({place(region)})", remedy(limit)) for name, region, limit in found]
    least = -(-compartments // int(target.get("compartments_per_core", compartments)))
    if violations and least > cores_per_chip(target) * chips:
        violations.append(_too_few(target, chips, "all layers, by their compartments alone (at least)", least))
    return tuple(violations)


def check_mapping(mapping: Mapping, target: Target, chips: int) -> tuple[Violation, ...]:
    """The finished mapping, rule by rule and core by core, and its cores against those of the chips."""
    found: list[Violation] = []
    told: set[tuple[str, str]] = set()
    for population, limit in mapping.impossible:
        told.add((population, limit.rule))
        found.append(_violation(limit, population, f"even one neuron alone breaks it: {_alone(limit)}"))
    too_few = mapping.n_chips > chips
    for core in mapping.cores:
        # With too few chips there is no telling which axons cross: that the chips are too few is told once, below.
        usage = sum((s.usage for s in core.slices), Usage()) if too_few else core.usage
        for limit in core_limits(usage, target, mapping.costing.model):
            names = {s.population for s in core.slices}
            if limit.broken and not any((name, limit.rule) in told for name in names):
                where = f"core {core.index} ({', '.join(str(s) for s in core.slices)})"
                found.append(_violation(limit, where, None))
    for reason in mapping.reasons:
        if reason.n_slices > int(target.get("cores_per_layer", reason.n_slices)):
            stated = target.limit("cores_per_layer")
            found.append(
                Violation(
                    "cores of one layer",
                    reason.population,
                    reason.n_slices,
                    int(stated.value),  # type: ignore[arg-type]
                    "cores",
                    source_of(stated),
                    "use smaller layers: a layer of this chip is not cut",
                )
            )
    system = target.limit("chips_per_system")
    if chips > int(system.value):  # type: ignore[arg-type]
        found.append(
            Violation("chips of one system", "--chips", chips, int(system.value), "chips", source_of(system))  # type: ignore[arg-type]
        )
    if too_few:
        largest = max(mapping.reasons, key=lambda reason: reason.n_slices)
        # What fills chips less than it could, to send less from one to another, still needs all of them.
        needed = max(len(mapping.cores), cores_per_chip(target) * (mapping.n_chips - 1) + 1)
        found.append(_too_few(target, chips, f"all layers, most in {largest.population} ({largest.n_slices})", needed))
    return tuple(found)


ALONE = {
    "input axons": "train with fewer sources for each neuron",
    "output axons": "train with fewer targets for each neuron, or choose a chip whose cores hold more of them",
    "words per input axon": "quantise to fewer bits, or train with fewer targets for each source",
    "synapse memory": "quantise to fewer bits, or train with fewer synapses for each neuron",
    "synapses": "train with fewer synapses for each neuron",
}
"""What helps where no slicing does, by rule."""


def _alone(limit: Limit) -> str:
    for rule, remedy in ALONE.items():
        if limit.rule.startswith(rule):
            return remedy
    return "train a smaller network, or choose another target"


def _violation(limit: Limit, where: str, remedy: str | None) -> Violation:
    return Violation(limit.rule, where, limit.value, limit.limit, limit.unit, limit.source, remedy)

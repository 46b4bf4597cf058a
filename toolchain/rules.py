"""The rules of a chip, one function each. Its docstring's first line is the wording that users read.

Core rules take what a core uses and the target; they answer with the amount and the limit, or None where the target
states no such limit. Program rules look at registers and formats. Nothing here knows a number: the numbers, with unit
and source, stand in the target files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from hw_targets import Limit as TargetLimit
from hw_targets import Target, TargetError
from toolchain.errors import UsageError, Violation
from toolchain.ir import Program, stored_shift
from toolchain.mapping.cost_models import pool_use
from toolchain.mapping.place import Mapping
from toolchain.mapping.synapse_memory import Format
from toolchain.mapping.usage import Limit, Usage


def _limit(rule: str, value: int, key: str, target: Target) -> Limit | None:
    if key not in target:
        return None
    stated = target.limit(key)
    return Limit(rule, value, int(stated.value), stated.unit, source_of(stated))  # type: ignore[arg-type]


def source_of(stated: TargetLimit) -> str:
    """Where a number of a target file comes from, in short."""
    return f"{', '.join(stated.source)}; {stated.mark}"


def compartments(usage: Usage, target: Target, model: str) -> Limit | None:
    """A core updates no more compartments than it has."""
    return _limit("compartments", usage.compartments, "compartments_per_core", target)


def compartment_configs(usage: Usage, target: Target, model: str) -> Limit | None:
    """Every slice takes one compartment configuration (decays, bias exponent) of its core."""
    return _limit("compartment configurations", usage.groups, "compartment_configs_per_core", target)


def threshold_configs(usage: Usage, target: Target, model: str) -> Limit | None:
    """Every slice takes one threshold configuration of its core."""
    return _limit("threshold configurations", usage.groups, "threshold_configs_per_core", target)


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
    )
    return _limit("memory pool", pool.words, "pool_words_per_core", target)


CoreRule = Callable[[Usage, Target, str], "Limit | None"]

CORE_RULES: tuple[CoreRule, ...] = (
    compartments,
    compartment_configs,
    threshold_configs,
    neuron_groups,
    input_axons,
    output_axons,
    crossing_axons,
    synapse_memory,
    list_length,
    synapse_formats,
    memory_pool,
)


def core_limits(usage: Usage, target: Target, model: str) -> list[Limit]:
    """What a core uses against every limit that its target states."""
    return [limit for rule in CORE_RULES if (limit := rule(usage, target, model)) is not None]


def wording(rule: CoreRule) -> str:
    """What users read of a rule: the first line of its docstring."""
    return (rule.__doc__ or "").splitlines()[0]


def stated_limit(rule: CoreRule, target: Target) -> Limit | None:
    """The limit of a rule on a target, whatever is used; None where the target states none."""
    nothing = Usage(formats=frozenset({Format("sparse", "mixed", 8, 0, 6, 0)}))
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


def check_program(program: Program, target: Target) -> Iterator[Violation]:
    """Every register of the program exists on the chip, and its spikes carry what the chip's spikes can."""
    payload_bits = int(target["spike_payload_bits"]) if target["spike_payload"] else 0
    needed = 0 if program.input.on_host or program.input.payload_max == 1 else program.input.payload_max.bit_length()
    if needed > payload_bits:
        yield Violation(
            "spikes carry no such payload",
            program.input.name,
            needed,
            payload_bits,
            "payload bits",
            source_of(target.limit("spike_payload_bits")),
            "train with input coding 'rate' or 'current', or choose a target with graded spikes (loihi2)",
        )

    def outside(where: str, value: int, key: str, remedy: str | None) -> Iterator[Violation]:
        stated = target.limit(key)
        broken = value < stated.value if key.endswith("_min") else value > stated.value  # type: ignore[operator]
        if broken:
            yield Violation(
                key.replace("_", " "),
                where,
                value,
                int(stated.value),  # type: ignore[arg-type]
                stated.unit,
                source_of(stated),
                remedy,
            )

    threshold = program.input.parameters().get("threshold", 0)
    yield from outside(f"{program.input.name}.threshold", threshold, "threshold_mantissa_max", None)
    for p in program.populations:
        yield from outside(f"{p.name}.vth", p.vth, "threshold_mantissa_max", "use fewer weight bits")
        yield from outside(f"{p.name}.bias", int(abs(p.bias_mantissa).max(initial=0)), "bias_mantissa_max", None)
        yield from outside(f"{p.name}.bias_exponent", p.bias_exponent, "bias_exponent_max", None)
        yield from outside(f"{p.name}.du", p.du, "current_decay_max", None)
        yield from outside(f"{p.name}.dv", p.dv, "voltage_decay_max", None)
    for c in program.connections:
        if program.input.on_host and c.source == program.input.name:
            continue
        register = c.synapses.exponent - stored_shift(c.synapses.sign_mode, c.synapses.weight_bits)
        yield from outside(f"{c.name}.exponent", register, "weight_exponent_max", None)
        yield from outside(f"{c.name}.exponent", register, "weight_exponent_min", None)


def check_mapping(mapping: Mapping, target: Target, chips: int) -> tuple[Violation, ...]:
    """The finished mapping, rule by rule and core by core, and its cores against those of the chips."""
    found: list[Violation] = []
    told: set[tuple[str, str]] = set()
    for population, limit in mapping.impossible:
        told.add((population, limit.rule))
        found.append(_violation(limit, population, "even one neuron alone breaks it"))
    too_few = len(mapping.cores) > cores_per_chip(target) * chips
    for core in mapping.cores:
        # With too few chips there is no telling which axons cross: that the chips are too few is told once, below.
        usage = sum((s.usage for s in core.slices), Usage()) if too_few else core.usage
        for limit in core_limits(usage, target, mapping.costing.model):
            names = {s.population for s in core.slices}
            if limit.broken and not any((name, limit.rule) in told for name in names):
                where = f"core {core.index} ({', '.join(str(s) for s in core.slices)})"
                found.append(_violation(limit, where, None))
    system = target.limit("chips_per_system")
    if chips > int(system.value):  # type: ignore[arg-type]
        found.append(
            Violation("chips of one system", "--chips", chips, int(system.value), "chips", source_of(system))  # type: ignore[arg-type]
        )
    if too_few:
        stated = target.limit("cores_per_chip")
        largest = max(mapping.reasons, key=lambda reason: reason.n_slices)
        found.append(
            Violation(
                f"cores of {chips} chip{'s' if chips > 1 else ''}",
                f"all layers, most in {largest.population} ({largest.n_slices})",
                len(mapping.cores),
                int(stated.value) * chips,  # type: ignore[arg-type]
                "cores",
                source_of(stated),
            )
        )
    return tuple(found)


def _violation(limit: Limit, where: str, remedy: str | None) -> Violation:
    return Violation(limit.rule, where, limit.value, limit.limit, limit.unit, limit.source, remedy)

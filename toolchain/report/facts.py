"""The facts of a report as plain data. What every figure means stands in report.schema.json, with formula and unit."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from typing import Any

import numpy as np

from hw_targets import Target
from toolchain.errors import Diagnostic, Violation
from toolchain.ir import IntegerConnection, Program
from toolchain.ir.verify import Wired
from toolchain.mapping.mesh import Mesh
from toolchain.mapping.partition import Limits, Reason, Slice
from toolchain.mapping.place import Core
from toolchain.mapping.place import Mapping as CoreMapping
from toolchain.mapping.traffic import traffic
from toolchain.mapping.usage import Limit, Usage
from toolchain.report.groups import core_groups
from toolchain.report.names import operation, synapses_title

SCHEMA_VERSION = 2
STATEMENT = "estimate, executed on nothing"
COUNTED = "bare weights; the chip's rule is not public"
MEMORY_RULE = "synapse memory"
"""The rule whose amount is words of synaptic memory (toolchain.rules.synapse_memory)."""
CHOSEN_RULES = frozenset(
    {
        "synapse formats",
        "compartment configurations",
        "threshold configurations",
        "neuron groups",
        "destination groups",
    }
)
"""Rules whose amount the mapping chooses freely up to the limit: being full says nothing."""

ONE_A_LINE = frozenset({"cores", "core_groups", "layers"})
"""Lists whose entries stand on one line each: they are long, and without line breaks json is ten times as fast."""

Facts = dict[str, Any]
DenseAlternative = CoreMapping | Callable[[], "CoreMapping | None"] | None


def build_report(
    program: Program,
    mapping: CoreMapping,
    limits: Limits,
    target: Target,
    *,
    diagnostics: Sequence[Diagnostic] = (),
    steps: Iterable[tuple[str, float | None, str]] = (),
    before: Wired | None = None,
    build_hash: str | None = None,
    dense_alternative: DenseAlternative = None,
    energy: Facts | None = None,
    violations: Sequence[Violation] = (),
    mesh: Mesh | None = None,
) -> Facts:
    """Everything that is known about a mapped program, as a dict that json.dumps takes.

    limits: amounts of one core against what its target allows.  steps: (name, seconds, note) of each compile step.
    before: the network as it came from training (a graph of any stage), for connectivity before the passes.
    dense_alternative: the same network with every synapse present, mapped (see `dense_program`), or a function that
    gives it, or None where it was not worked out.  violations: rules that are broken; a report can be had of them too.
    mesh: where cores stand, for the way of messages.
    """
    on_core = {core.index: limits(core.usage) for core in mapping.cores}
    holders = _holders(mapping)
    dense = dense_alternative() if callable(dense_alternative) else dense_alternative
    word_bits = int(mapping.costing.parameters["word_bits"])
    layers = [
        _layer(name, program, holders.get(name, ()), on_core, mapping, before, dense, word_bits)
        for name in (program.input.name, *(p.name for p in program.populations))
    ]
    cores = [_core(core, on_core[core.index], word_bits) for core in mapping.cores]
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "snnc report",
        "statement": STATEMENT,
        "name": program.name,
        "build_hash": build_hash,
        "target": _target(target, mapping, word_bits),
        "cost_model": _cost_model(target, mapping.costing.model),
        "fits": not violations and not any(limit.broken for found in on_core.values() for limit in found),
        "network": _network(program, before),
        "steps": [
            {"number": k, "name": name, "seconds": None if seconds is None else round(seconds, 3), "note": note}
            for k, (name, seconds, note) in enumerate(steps, start=1)
        ],
        "rules": _rules(on_core.values()),
        "layers": layers,
        "cores": cores,
        "core_groups": core_groups(cores),
        "chips": _chips(mapping),
        "traffic": traffic(mapping, program, mesh),
        "totals": _totals(mapping, dense, word_bits),
        "checks": _checks(program, layers, cores, word_bits),
        "diagnostics": [
            {"code": d.code, "where": d.where, "message": d.message, "count": d.count, "effect": d.effect}
            for d in diagnostics
        ],
        "violations": [
            {
                "rule": v.rule,
                "where": v.where,
                "value": v.value,
                "limit": v.limit,
                "unit": v.unit,
                "source": v.source,
                "remedy": v.remedy,
            }
            for v in violations
        ],
        "energy": energy,
        "not_modelled": list(target.not_modelled),
        "sources": dict(target.sources),
    }


def schema() -> Facts:
    """The published JSON schema of a report."""
    text = (files("toolchain.report") / "report.schema.json").read_text("utf-8")
    return dict(json.loads(text))


def to_json(report: Facts) -> str:
    """A report as JSON text: sorted keys, so that equal reports have equal bytes; a line for each core and layer."""

    def plain(value: object, indent: int | None = None) -> str:
        return json.dumps(value, indent=indent, sort_keys=True, ensure_ascii=False, allow_nan=False)

    def entry(key: str, value: object) -> str:
        if key in ONE_A_LINE and value:
            rows = ",\n  ".join(plain(each) for each in value)  # type: ignore[attr-defined]
            return f"{plain(key)}: [\n  {rows}\n ]"
        return f"{plain(key)}: " + plain(value, 1).replace("\n", "\n ")

    return "{\n " + ",\n ".join(entry(key, report[key]) for key in sorted(report)) + "\n}\n"


def dense_program(program: Program, *, largest: int = 4_000_000) -> Program | None:
    """The same network with nothing pruned (weight 0 where there was none), for comparison: kernels stay kernels.

    None where that would be more than `largest` stored weights: sparse stays sparse.
    """
    if sum(c.synapses.connectivity.capacity for c in program.connections) > largest:
        return None
    return replace(program, connections=tuple(_filled(c) for c in program.connections))


def _filled(connection: IntegerConnection) -> IntegerConnection:
    old = connection.synapses
    full = old.connectivity.full
    # Lists are in order, so that one number a stored weight, of the same width in both, tells where it stands.
    keys, now = (
        lists.sources.astype(np.int64) * lists.n_targets + lists.targets
        for lists in (full.stored, old.connectivity.stored)
    )
    mantissa = np.zeros(full.n_weights, np.int16)
    mantissa[np.searchsorted(keys, now)] = old.mantissa
    return replace(connection, synapses=replace(old, connectivity=full, mantissa=mantissa))


def percent(part: float, whole: float) -> float | None:
    """part of whole in percent, two decimals; None where there is no whole."""
    return round(100 * part / whole, 2) if whole else None


def kib(words: int, word_bits: int) -> float:
    """Words as KiB (1024 bytes), three decimals."""
    return round(words * word_bits / 8192, 3)


def connected(synapses: int, pairs: int) -> float | None:
    """Synapses that exist, as percent of all pairs, four decimals (a tenth of a percent is a lot of synapses)."""
    return round(100 * synapses / pairs, 4) if pairs else None


def against(limit: Limit) -> Facts:
    """One amount against its limit."""
    return {"used": limit.value, "limit": limit.limit, "percent": percent(limit.value, limit.limit)}


def fullest(limits: Sequence[Limit]) -> Limit | None:
    """The limit with the largest share, the first of equals.

    Rules of choice (format registers: as many are used as there are, because each saves memory) count only if broken.
    """
    loads = [limit for limit in limits if limit.broken or limit.rule not in CHOSEN_RULES]
    return max(loads, key=lambda limit: limit.share, default=None)


def why(reason: Reason) -> str:
    """One sentence: why a population was cut into so many slices."""
    name, k = reason.population, reason.n_slices
    numbers = "; ".join(
        f"{limit.value:,} {limit.unit} of {limit.limit:,} allowed ({limit.rule}; {limit.source})"
        for limit in reason.broken
    )
    if k == reason.fewer:
        return f"{name} does not fit: even cut into single neurons one would need {numbers}"
    if k == 1:
        return f"{name} is one slice: all limits of a core hold for it as a whole"
    if not numbers:
        return f"{name} is {k:,} slices"
    slices = "one slice" if reason.fewer == 1 else f"the fullest of {reason.fewer:,} slices"
    return f"{name} is {k:,} slices: {slices} would need {numbers}"


def memory(usage: Usage, word_bits: int) -> Facts:
    """Synaptic memory, and what its bits are spent on."""
    return {
        "words": usage.synapse_words,
        "kib": kib(usage.synapse_words, word_bits),
        "payload_bits": usage.payload_bits,
        "index_bits": usage.index_bits,
        "header_bits": usage.header_bits,
        "padding_bits": usage.padding_bits,
    }


def _holders(mapping: CoreMapping) -> dict[str, list[tuple[Core, Slice]]]:
    """Population -> its slices with their cores, in the order of the neurons."""
    found: dict[str, list[tuple[Core, Slice]]] = {}
    for core in mapping.cores:
        for s in core.slices:
            found.setdefault(s.population, []).append((core, s))
    for held in found.values():
        held.sort(key=lambda pair: pair[1].region)
    return found


def _layer(
    name: str,
    program: Program,
    held: Sequence[tuple[Core, Slice]],
    on_core: Mapping[int, Sequence[Limit]],
    mapping: CoreMapping,
    before: Wired | None,
    dense: CoreMapping | None,
    word_bits: int,
) -> Facts:
    entering = program.into(name)
    sizes = {program.input.name: program.input.size, **{p.name: p.size for p in program.populations}}
    connections = [_connection(c, program, [s for _, s in held], word_bits) for c in entering]
    synapses = sum(c["synapses"] for c in connections)
    usage = sum((s.usage for _, s in held), Usage())
    numbers = sorted({core.index for core, _ in held})
    on_host = program.input.on_host and any(c.source == program.input.name for c in entering)
    return {
        "name": name,
        "op": operation(program, name) + (", first synapses on the host" if on_host else ""),
        "inputs": sum(sizes[c.source] for c in entering),
        "outputs": sizes[name],
        "shape": list(program.shapes[name]),
        "on_chip": bool(held),
        "synapses": synapses,
        "stored_weights": sum(c["stored_weights"] for c in connections),
        "connected_percent": connected(synapses, sum(c.synapses.connectivity.pairs for c in entering)),
        "weight_bits": sorted({c["weight_bits"] for c in connections}),
        "sign_modes": sorted({c["sign_mode"] for c in connections}),
        "connections": connections,
        "lists_by_format": _sum_counts(c["lists_by_format"] for c in connections),
        "slices": len(held),
        "cores": len(numbers),
        "core_numbers": numbers,
        "usage": _amounts(usage),
        "own": _own([s for _, s in held]),
        "memory": memory(usage, word_bits),
        "fullest_core": _fullest_core(numbers, on_core),
        "why": _why(name, mapping),
        "before": _before(name, before),
        "dense": _dense(name, dense, usage, len(numbers)),
    }


def _connection(c: IntegerConnection, program: Program, slices: Sequence[Slice], word_bits: int) -> Facts:
    shape, synapses = c.synapses.connectivity, c.synapses
    costs = [s.costs[c.name] for s in slices if c.name in s.costs]
    usage = sum((Usage.of_synapses(cost) for cost in costs), Usage())
    return {
        "name": c.name,
        "source": c.source,
        "target": c.target,
        "op": synapses_title(c),
        "inputs": shape.n_sources,
        "outputs": shape.n_targets,
        "source_shape": list(program.shapes[c.source]),
        "delay": c.delay,
        "chip_delay": program.chip_delays[c.name],
        "synapses": shape.n_synapses,
        "stored_weights": shape.n_weights,
        "shared_groups": sum(cost.shared_groups for cost in costs),
        "connected_percent": connected(shape.n_synapses, shape.pairs),
        "weight_bits": synapses.weight_bits,
        "sign_mode": synapses.sign_mode,
        "exponent": synapses.exponent,
        "on_host": program.input.on_host and c.source == program.input.name,
        "input_axons": usage.input_axons,
        "memory": memory(usage, word_bits),
        "lists_by_format": _sum_counts(cost.axons_by_combination() for cost in costs),
        "words_by_format": _sum_counts(cost.words_by_combination() for cost in costs),
    }


def _own(slices: Sequence[Slice]) -> Facts:
    """What the neurons of a layer take besides the connections that enter it."""
    usage = sum((s.usage for s in slices), Usage())
    brought = sum((Usage.of_synapses(cost) for s in slices for cost in s.costs.values()), Usage())
    return {
        "compartments": usage.compartments,
        "neurons": sum(len(s) for s in slices),
        **{
            what: getattr(usage, what) - getattr(brought, what) for what in ("input_axons", "synapses", "synapse_words")
        },
    }


def _sum_counts(many: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for counts in many:
        for name, count in counts.items():
            total[name] = total.get(name, 0) + count
    return total


def _amounts(usage: Usage) -> Facts:
    return {
        "compartments": usage.compartments,
        "input_axons": usage.input_axons,
        "output_axons": usage.output_axons,
        "crossing_axons": usage.crossing_axons,
        "synapses": usage.synapses,
        "synapse_words": usage.synapse_words,
        "largest_list_words": usage.largest_list_words,
        "format_registers": len(usage.formats),
    }


def _fullest_core(numbers: Sequence[int], on_core: Mapping[int, Sequence[Limit]]) -> Facts | None:
    best: tuple[int, Limit] | None = None
    for number in numbers:
        limit = fullest(on_core[number])
        if limit is not None and (best is None or limit.share > best[1].share):
            best = number, limit
    if best is None:
        return None
    number, limit = best
    return {
        "core": number,
        "bound_by": limit.rule,
        "resources": {each.rule: against(each) for each in on_core[number]},
    }


def _why(name: str, mapping: CoreMapping) -> Facts | None:
    for reason in mapping.reasons:
        if reason.population == name:
            return {
                "slices": reason.n_slices,
                "fewer": reason.fewer,
                "broken": [
                    {**against(limit), "rule": limit.rule, "unit": limit.unit, "source": limit.source}
                    for limit in reason.broken
                ],
                "sentence": why(reason),
            }
    return None


def _before(name: str, before: Wired | None) -> Facts | None:
    if before is None:
        return None
    sizes = {before.input.name: before.input.size, **{p.name: p.size for p in before.populations}}
    if name not in sizes:
        return None
    entering = [c for c in before.connections if c.target == name]
    synapses = sum(c.synapses.connectivity.n_synapses for c in entering)
    return {
        "inputs": sum(sizes[c.source] for c in entering),
        "outputs": sizes[name],
        "synapses": synapses,
        "connected_percent": connected(synapses, sum(c.synapses.connectivity.pairs for c in entering)),
    }


def _dense(name: str, dense: CoreMapping | None, usage: Usage, cores: int) -> Facts | None:
    if dense is None:
        return None
    slices = dense.slices_of(name)
    if not slices:
        return None
    words = sum(s.usage.synapse_words for s in slices)
    return {
        "cores": len(dense.cores_of(name)),
        "slices": len(slices),
        "words": words,
        "words_ratio": round(words / usage.synapse_words, 2) if usage.synapse_words else None,
        "fits": not any(population == name for population, _ in dense.impossible),
    }


def _core(core: Core, limits: Sequence[Limit], word_bits: int) -> Facts:
    bound = fullest(limits)
    resources = {limit.rule: against(limit) for limit in limits}
    words = resources.get(MEMORY_RULE)
    return {
        "core": core.index,
        "chip": core.chip,
        "slices": [
            {
                "population": s.population,
                "region": str(s.region),
                "ranges": [list(r) for r in s.region.ranges],
                "neurons": len(s),
                "usage": _amounts(s.usage),
            }
            for s in core.slices
        ],
        "usage": _amounts(core.usage),
        "memory": memory(core.usage, word_bits),
        "memory_limit_kib": kib(words["limit"], word_bits) if words else None,
        "memory_free_kib": kib(words["limit"] - words["used"], word_bits) if words else None,
        "resources": resources,
        "bound_by": bound.rule if bound else None,
        "lists_by_format": _sum_counts(c.axons_by_combination() for s in core.slices for c in s.costs.values()),
    }


def _rules(found: Iterable[Sequence[Limit]]) -> Facts:
    """Unit and source of every rule that was asked, once."""
    return {limit.rule: {"unit": limit.unit, "source": limit.source} for limits in found for limit in limits}


def _target(target: Target, mapping: CoreMapping, word_bits: int) -> Facts:
    words = target.get("synapse_words_per_core")
    return {
        "name": target.name,
        "title": target.title,
        "fitted": target.fitted,
        "partial": target.partial,
        "cores_per_chip": mapping.cores_per_chip,
        "synapse_words_per_core": words,
        "synapse_memory_kib_per_core": None if words is None else kib(words, word_bits),
        "word_bits": word_bits,
    }


def _cost_model(target: Target, name: str) -> Facts:
    model = target.cost_models[name]
    return {
        "name": name,
        "label": "fitted, not published" if model.fitted else COUNTED if name == "count" else "published rule",
        "description": model.description,
        "sources": sorted({source for limit in model.parameters.values() for source in limit.source}),
    }


def _network(program: Program, before: Wired | None) -> Facts:
    pairs = sum(c.synapses.connectivity.pairs for c in program.connections)
    return {
        "input": {
            "name": program.input.name,
            "coding": program.input.coding,
            "neurons": program.input.size,
            "sample_size": program.input.sample_size,
            "on_chip": program.input.on_chip,
        },
        "steps_per_sample": program.steps,
        "neurons": sum(p.size for p in program.populations),
        "synapses": program.n_synapses,
        "stored_weights": sum(c.synapses.connectivity.n_weights for c in program.connections),
        "connected_percent": connected(program.n_synapses, pairs),
        "neurons_before": None if before is None else sum(p.size for p in before.populations),
        "synapses_before": None
        if before is None
        else sum(c.synapses.connectivity.n_synapses for c in before.connections),
    }


def _chips(mapping: CoreMapping) -> list[Facts]:
    """Cores and axons chip by chip."""
    rows = []
    for chip in range(mapping.n_chips):
        cores = [core for core in mapping.cores if core.chip == chip]
        usage = sum((core.usage for core in cores), Usage())
        rows.append(
            {
                "chip": chip,
                "cores": len(cores),
                "percent": percent(len(cores), mapping.cores_per_chip),
                "layers": list(dict.fromkeys(s.population for core in cores for s in core.slices)),
                "compartments": usage.compartments,
                "synapse_words": usage.synapse_words,
                "output_axons": usage.output_axons,
                "crossing_axons": usage.crossing_axons,
                "crossing_percent": percent(usage.crossing_axons, usage.output_axons),
            }
        )
    return rows


def _totals(mapping: CoreMapping, dense: CoreMapping | None, word_bits: int) -> Facts:
    usage = sum((core.usage for core in mapping.cores), Usage())
    bits = usage.synapse_words * word_bits
    return {
        "chips": mapping.n_chips,
        "cores": len(mapping.cores),
        "cores_available": mapping.n_chips * mapping.cores_per_chip,
        "slices": sum(len(core.slices) for core in mapping.cores),
        "usage": _amounts(usage),
        "memory": memory(usage, word_bits),
        "bits_per_synapse": round(bits / usage.synapses, 2) if usage.synapses else None,
        "payload_percent": percent(usage.payload_bits, bits),
        "dense": None
        if dense is None
        else {
            "cores": len(dense.cores),
            "words": sum(core.usage.synapse_words for core in dense.cores),
            "fits": not dense.impossible,
        },
    }


def _checks(program: Program, layers: Sequence[Facts], cores: Sequence[Facts], word_bits: int) -> list[Facts]:
    """The same amounts counted in two ways. A report whose sums differ is wrong and says so."""
    on_chip = sum(
        c.synapses.connectivity.n_synapses
        for c in program.connections
        if not (program.input.on_host and c.source == program.input.name)
    )
    neurons = sum(p.size for p in program.populations) + (program.input.size if layers[0]["on_chip"] else 0)
    placed = sum(s["neurons"] for core in cores for s in core["slices"])
    spent = sum(core["memory"][f"{what}_bits"] for core in cores for what in ("payload", "index", "header", "padding"))

    def over_cores(what: str) -> int:
        return sum(core["usage"][what] for core in cores)

    def over_connections(what: str) -> int:
        return sum(c["memory"][what] if what == "words" else c[what] for x in layers for c in x["connections"])

    def own(what: str) -> int:
        return sum(x["own"][what] for x in layers)

    pairs = (
        ("synapses on the chip: program and soft resets, cores", on_chip + own("synapses"), over_cores("synapses")),
        ("neurons on the chip: program, slices", neurons, placed),
        ("compartments: layers, cores", own("compartments"), over_cores("compartments")),
        (
            "words: connections and soft resets, cores",
            over_connections("words") + own("synapse_words"),
            over_cores("synapse_words"),
        ),
        ("words: layers, cores", sum(x["memory"]["words"] for x in layers), over_cores("synapse_words")),
        (
            "input axons: connections and soft resets, cores",
            over_connections("input_axons") + own("input_axons"),
            over_cores("input_axons"),
        ),
        ("bits: what they are spent on, words", spent, over_cores("synapse_words") * word_bits),
        (
            "output axons: layers and chip crossings, cores",
            sum(x["usage"]["output_axons"] for x in layers) + over_cores("crossing_axons"),
            over_cores("output_axons"),
        ),
    )
    return [{"name": name, "left": left, "right": right, "equal": left == right} for name, left, right in pairs]

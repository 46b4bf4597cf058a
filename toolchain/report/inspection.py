"""Questions about one core or one layer of a mapped program. The answers are renderables for a rich console."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from toolchain.errors import SnncError, nearest
from toolchain.ir import Compartments, IntegerConnection, Program, mantissa_range
from toolchain.mapping.partition import Limits, Slice
from toolchain.mapping.place import Core, Mapping
from toolchain.mapping.synapse_memory import SliceCost
from toolchain.mapping.usage import Limit, Usage
from toolchain.report import facts
from toolchain.report.text import kibibytes, percent, places, plural, table

BAR = 40
"""Columns of the longest bar of a histogram."""
BINS = 16


def inspect_core(program: Program, mapping: Mapping, limits: Limits, number: int) -> RenderableType:
    """Everything about one core: its slices, every resource against its limit, its lists and their formats.

    Raises:
        SnncError: no such core.
    """
    if not 0 <= number < len(mapping.cores):
        raise SnncError(f"there is no core {number}", where="--core", allowed=f"0 to {len(mapping.cores) - 1}")
    core = mapping.cores[number]
    word_bits = int(mapping.costing.parameters["word_bits"])
    parts: list[RenderableType] = [
        Text(f"core {core.index} of chip {core.chip}, target {mapping.target}", style="bold"),
        Text(),
        _slices(core, word_bits),
        Text(),
        _resources("resources", limits(core.usage)),
        Text(),
        _spent(core.usage, word_bits),
        Text(),
        _formats([cost for s in core.slices for cost in s.costs.values()], word_bits),
    ]
    if core.usage.formats:
        parts += [Text(), _registers(core)]
    parts += [Text(), *_extremes(program, core.slices)]
    return Group(*parts)


def inspect_layer(program: Program, mapping: Mapping, limits: Limits, name: str) -> RenderableType:
    """Everything about one layer (a population, or the connection of that name and its population).

    Raises:
        SnncError: no such layer; the message lists those that there are.
    """
    name = _population(program, name, "--layer")
    entering = program.into(name)
    compartments = next((p for p in program.populations if p.name == name), None)
    size = compartments.size if compartments else program.input.size
    parts: list[RenderableType] = [
        Text(f"{name}: {facts.operation(program, name)}, {plural(size, 'neuron')}", style="bold")
    ]
    if compartments is not None:
        parts += [Text(), _registers_of(compartments)]
    elif program.input.parameters():
        parts.append(Text(", ".join(f"{key} {value}" for key, value in program.input.parameters().items())))
    for c in entering:
        parts += [Text(), *_connection(c, program)]
    held = mapping.cores_of(name)
    if not held:
        return Group(*parts, Text(), Text("on no core: this layer's neurons are not on the chip"))
    placed = table("cores", ("core", "right"), ("slices of this layer", "wrap"), ("fullest resource", "wrap"))
    for core in held[:12]:
        full = facts.fullest(limits(core.usage))
        placed.add_row(
            str(core.index),
            Text(", ".join(str(s) for s in core.slices if s.population == name)),
            Text("-") if full is None else Text(f"{full.rule} {full.value:,}/{full.limit:,} ").append(_percent(full)),
        )
    parts += [Text(), placed]
    if len(held) > 12:
        parts.append(Text(f"... {len(held) - 12:,} more, see snnc report --csv", style="dim"))
    return Group(*parts, Text(), why(program, mapping, limits, name))


def why(program: Program, mapping: Mapping, limits: Limits, name: str) -> RenderableType:
    """Plain sentences: why a layer takes as many cores as it takes, and what fills them.

    Raises:
        SnncError: no such layer; the message lists those that there are.
    """
    return Text("\n".join(why_lines(program, mapping, limits, _population(program, name, "--why"))))


def why_lines(program: Program, mapping: Mapping, limits: Limits, name: str) -> list[str]:
    """The sentences of `why`, for a population."""
    held = mapping.cores_of(name)
    if not held:
        kind = facts.operation(program, name)
        return [f"{name} takes no core: it is a {kind}."]
    slices = mapping.slices_of(name)
    lines = [f"{name} takes {plural(len(held), 'core')} and stands there as {plural(len(slices), 'slice')}."]
    lines += [facts.why(reason) + "." for reason in mapping.reasons if reason.population == name]
    shared = sorted({s.population for core in held for s in core.slices} - {name})
    if shared:
        lines.append(f"It shares cores with {', '.join(shared)}.")
    core, full = max(
        ((core, full) for core in held if (full := facts.fullest(limits(core.usage))) is not None),
        key=lambda pair: pair[1].share,
        default=(held[0], None),
    )
    if full is not None:
        lines.append(
            f"Its fullest core is {core.index}, bound by {full.rule}: {full.value:,} of {full.limit:,} {full.unit}, "
            f"{places(100 * full.share)} % ({full.source})."
        )
    return lines


def _population(program: Program, name: str, where: str) -> str:
    """The population of that name, or the one that the connection of that name ends in."""
    populations = [program.input.name, *(p.name for p in program.populations)]
    if name in populations:
        return name
    for c in program.connections:
        if c.name == name:
            return c.target
    raise SnncError(f"there is no layer {name!r}", where=where, allowed=nearest(name, populations))


def _slices(core: Core, word_bits: int) -> Table:
    made = table(
        "slices",
        ("neurons", "wrap"),
        ("compartments", "right"),
        ("in-axons", "right"),
        ("out-axons", "right"),
        ("synapses", "right"),
        ("synapse words", "right"),
        ("KiB", "right"),
    )
    for s in core.slices:
        u = s.usage
        made.add_row(
            Text(str(s)),
            *(f"{n:,}" for n in (u.compartments, u.input_axons, u.output_axons, u.synapses, u.synapse_words)),
            f"{facts.kib(u.synapse_words, word_bits):.1f}",
        )
    return made


def _resources(title: str, limits: Sequence[Limit]) -> Table:
    made = table(
        title,
        ("resource", "wrap"),
        ("used", "right"),
        ("limit", "right"),
        ("percent", "right"),
        ("unit", "left"),
        ("source", "wrap"),
    )
    for limit in limits:
        numbers = f"{limit.value:,}", f"{limit.limit:,}", _percent(limit)
        made.add_row(limit.rule, *numbers, limit.unit, Text(limit.source))
    return made


def _percent(limit: Limit) -> Text:
    return percent(facts.percent(limit.value, limit.limit))


def _spent(usage: Usage, word_bits: int) -> Table:
    made = table("what the synaptic memory holds", ("part", "left"), ("KiB", "right"), ("percent", "right"))
    total = usage.synapse_words * word_bits
    for part in ("payload", "index", "header", "padding"):
        bits = getattr(usage, f"{part}_bits")
        made.add_row(part, kibibytes(bits), percent(facts.percent(bits, total)))
    return made


def _formats(costs: Sequence[SliceCost], word_bits: int) -> Table:
    """Lists and words by format; a row for each that is used."""
    lists: dict[str, int] = {}
    words: dict[str, int] = {}
    for cost in costs:
        for total, counts in ((lists, cost.axons_by_combination()), (words, cost.words_by_combination())):
            for name, n in counts.items():
                total[name] = total.get(name, 0) + n
    made = table("lists by format", ("format", "left"), ("lists", "right"), ("words", "right"), ("KiB", "right"))
    for name in sorted(lists, key=lambda name: (-words[name], name)):
        made.add_row(name, f"{lists[name]:,}", f"{words[name]:,}", f"{facts.kib(words[name], word_bits):.1f}")
    return made


def _registers(core: Core) -> Table:
    made = table(
        "format registers",
        ("#", "right"),
        ("encoding", "left"),
        ("signs", "left"),
        ("weight bits", "right"),
        ("delay bits", "right"),
        ("index bits", "right"),
        ("skip bits", "right"),
    )
    for k, each in enumerate(sorted(core.usage.formats)):
        widths = (each.weight_bits, each.delay_bits, each.index_bits, each.skip_bits)
        made.add_row(str(k), each.encoding, each.sign_mode, *map(str, widths))
    return made


def _extremes(program: Program, slices: Sequence[Slice]) -> list[RenderableType]:
    """The list with the most words, and the input axon with the most synapses."""
    sources = {c.name: c for c in program.connections}
    largest: tuple[int, str] | None = None
    longest: tuple[int, str] | None = None
    for s in slices:
        for name, cost in s.costs.items():
            if not cost.n_axons:
                continue
            connection = sources[name]
            at = int(cost.words_per_axon.argmax())
            words = int(cost.words_per_axon[at])
            if largest is None or words > largest[0]:
                largest = words, f"{connection.source}[{cost.source(at)}] onto {s}"
            fan_out = _fan_out(connection, s)
            at = int(fan_out.argmax())
            if longest is None or int(fan_out[at]) > longest[0]:
                longest = int(fan_out[at]), f"{connection.source}[{at}] onto {s}"
    if largest is None or longest is None:
        return [Text("no synapse list ends here")]
    return [
        Text(f"largest list: {plural(largest[0], 'word')}, {largest[1]}"),
        Text(f"longest axon: {plural(longest[0], 'synapse')}, {longest[1]}"),
    ]


def _fan_out(connection: IntegerConnection, s: Slice) -> NDArray[np.int64]:
    """Synapses of each source onto a slice."""
    lists = connection.synapses.connectivity
    inside = (lists.targets >= s.start) & (lists.targets < s.stop)
    return np.bincount(lists.sources[inside], minlength=lists.n_sources).astype(np.int64)


def _registers_of(p: Compartments) -> Table:
    made = table("neuron registers", ("register", "left"), ("value", "right"), ("meaning", "wrap"))
    bias = p.bias_mantissa
    made.add_row("du", str(p.du), f"current decay {p.du}/4096 a step" + (": no memory" if p.du == 4096 else ""))
    made.add_row("dv", str(p.dv), f"voltage decay {p.dv}/4096 a step" + (": no leak" if p.dv == 0 else ""))
    made.add_row("vth", str(p.vth), f"spikes above {p.vth} x 2^6 = {p.vth << 6:,}")
    made.add_row(
        "bias",
        f"{int(bias.min(initial=0))}..{int(bias.max(initial=0))}",
        f"mantissa, x 2^{p.bias_exponent}; {int(np.count_nonzero(bias)):,} of {p.size:,} not zero",
    )
    made.add_row("bias exponent", str(p.bias_exponent), "power of two")
    return made


def _connection(c: IntegerConnection, program: Program) -> list[RenderableType]:
    shape, synapses = c.synapses.connectivity, c.synapses
    density = facts.connected(shape.n_synapses, shape.n_sources * shape.n_targets)
    where = ", computed on the host" if program.input.on_host and c.source == program.input.name else ""
    low, high = mantissa_range(synapses.sign_mode, synapses.weight_bits)
    head = Text(f"{c.name}: {c.source} -> {c.target}", style="bold").append(where, style="")
    numbers = Text(
        f"{shape.n_sources:,} -> {shape.n_targets:,}, {plural(shape.n_synapses, 'synapse')}"
        + ("" if density is None else f", {places(density)} % connected")
        + f"\n{synapses.weight_bits} bits, {synapses.sign_mode}: mantissa {low}..{high}, weight = mantissa x 2^"
        f"{synapses.exponent} (one mantissa step is {1 << synapses.exponent})"
    )
    fans = table("", ("synapses", "left"), ("least", "right"), ("mean", "right"), ("most", "right"), ("none", "right"))
    for name, counts, who in (("fan-in", shape.fan_in, "neuron"), ("fan-out", shape.fan_out, "source")):
        if len(counts):
            fans.add_row(
                f"{name} of a {who}",
                f"{int(counts.min()):,}",
                f"{float(counts.mean()):,.1f}",
                f"{int(counts.max()):,}",
                f"{int((counts == 0).sum()):,}",
            )
    return [head, numbers, Text(), fans, Text(), _histogram(synapses.mantissa, low, high)]


def _histogram(mantissa: NDArray[np.int16], low: int, high: int) -> RenderableType:
    """Mantissas over their range, in at most 16 bins of equal whole width (the last may be shorter)."""
    if not len(mantissa):
        return Text("no synapses, so no weights")
    width = -(-(high - low + 1) // BINS)
    counts = np.bincount((mantissa.astype(np.int64) - low) // width, minlength=-(-(high - low + 1) // width))
    made = table("mantissas", ("from", "right"), ("to", "right"), ("synapses", "right"), ("", "left"))
    for k, n in enumerate(counts.tolist()):
        first = low + k * width
        bar = "#" * max(round(BAR * n / int(counts.max())), 1 if n else 0)
        made.add_row(str(first), str(min(first + width - 1, high)), f"{n:,}", bar)
    return made

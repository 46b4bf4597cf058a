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
from toolchain.report.names import neuron_text, operation, shape_text, synapses_title
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
    shape = program.shapes[name]
    axes = "" if len(shape) == 1 else f"{shape_text(shape)} (channels x rows x columns), "
    title = f"{name}: {operation(program, name)}, {axes}{plural(size, 'neuron')}"
    parts: list[RenderableType] = [Text(title, style="bold")]
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


def inspect_neuron(program: Program, mapping: Mapping, neuron: str) -> RenderableType:
    """Where one neuron is: core, slice and place in it; and its synapses. neuron: conv1:3,0,7 or fc1:17.

    Channel, row and column (or the number) are those of the deployed program, after dead neurons were removed.

    Raises:
        SnncError: no such layer or neuron.
    """
    name, _, place = neuron.rpartition(":")
    name = _population(program, name, "--neuron")
    shape = program.shapes[name]
    number = _number(place, name, shape)
    who = neuron_text(name, shape, number)
    lines = [f"{who} is neuron {number:,} of {int(np.prod(shape)):,} (0 the first)."]
    at = np.unravel_index(number, shape)
    for core in mapping.cores:
        for s in core.slices:
            if s.population == name and all(a <= k < b for k, (a, b) in zip(at, s.region.ranges, strict=True)):
                lines.append(f"It is on core {core.index} of chip {core.chip}, in {s}.")
    if len(lines) == 1:
        lines.append("It is on no core: this layer's neurons are not on the chip.")
    fans = table("", ("connection", "left"), ("way", "left"), ("synapses of this neuron", "right"))
    for c in program.into(name):
        fans.add_row(c.name, f"in, from {c.source}", f"{int(c.synapses.connectivity.fan_in[number]):,}")
    for c in program.out_of(name):
        fans.add_row(c.name, f"out, to {c.target}", f"{int(c.synapses.connectivity.fan_out[number]):,}")
    return Group(Text("\n".join(lines)), Text(), fans)


def _number(place: str, name: str, shape: tuple[int, ...]) -> int:
    """The number of a neuron from its place on every axis, or from the number itself."""
    axes = shape if "," in place else (int(np.prod(shape)),)
    try:
        at = tuple(int(part) for part in place.split(","))
    except ValueError:
        at = ()
    if len(at) != len(axes) or not all(0 <= k < n for k, n in zip(at, axes, strict=True)):
        example = ",".join(str(n - 1) for n in shape)
        raise SnncError(
            f"{name} has no such neuron",
            where="--neuron",
            got=place or "nothing",
            allowed=f"0 to {int(np.prod(shape)) - 1}" + (f", or channel,row,column up to {example}" * (len(shape) > 1)),
        )
    return int(np.ravel_multi_index(at, axes))


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
        kind = operation(program, name)
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
        ("slice", "wrap"),
        ("neurons", "right"),
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
            *(f"{n:,}" for n in (len(s), u.compartments, u.input_axons, u.output_axons, u.synapses, u.synapse_words)),
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
    """The list with the most words, and, among lists of one source each, the one with the most synapses."""
    sources = {c.name: c for c in program.connections}
    largest: tuple[int, str] | None = None
    longest: tuple[int, str] | None = None
    for s in slices:
        for name, cost in s.costs.items():
            if not cost.n_axons:
                continue
            connection = sources[name]
            shape = program.shapes[connection.source]
            at = int(cost.words_per_axon.argmax())
            words = int(cost.words_per_axon[at])
            if largest is None or words > largest[0]:
                largest = words, f"{neuron_text(connection.source, shape, cost.source(at))} onto {s}"
            fan_out = _fan_out(connection, s)
            if fan_out is None:
                continue
            at = int(fan_out.argmax())
            if longest is None or int(fan_out[at]) > longest[0]:
                longest = int(fan_out[at]), f"{neuron_text(connection.source, shape, at)} onto {s}"
    told = []
    if largest is not None:
        told.append(Text(f"largest list: {plural(largest[0], 'word')}, {largest[1]}"))
    if longest is not None:
        told.append(Text(f"longest axon: {plural(longest[0], 'synapse')}, {longest[1]}"))
    return [*told] or [Text("no synapse list ends here")]


def _fan_out(connection: IntegerConnection, s: Slice) -> NDArray[np.int64] | None:
    """Synapses of each source onto a slice; None where sources share their lists (a kernel)."""
    pattern = connection.synapses.connectivity
    lists = pattern.stored
    if lists is not pattern:
        return None
    inside = np.zeros(lists.n_targets, bool)
    inside[s.region.neurons()] = True
    return np.bincount(lists.sources[inside[lists.targets]], minlength=lists.n_sources).astype(np.int64)


def _registers_of(p: Compartments) -> Table:
    def value(field: str) -> str:
        low, high = int(p.per_neuron(field).min()), int(p.per_neuron(field).max())
        return str(low) if low == high else f"{low}..{high}"

    du, dv, vth = value("du"), value("dv"), value("vth")
    made = table("neuron registers", ("register", "left"), ("value", "right"), ("meaning", "wrap"))
    bias = p.bias_mantissa
    made.add_row("du", du, f"current decay {du}/4096 a step" + (": no memory" if du == "4096" else ""))
    made.add_row("dv", dv, f"voltage decay {dv}/4096 a step" + (": no leak" if dv == "0" else ""))
    if p.spiking:
        top = f" = {int(p.per_neuron('vth')[0]) << 6:,}" if ".." not in vth else ""
        made.add_row("vth", vth, f"spikes above {vth} x 2^6{top}")
    made.add_row(
        "bias",
        f"{int(bias.min(initial=0))}..{int(bias.max(initial=0))}",
        f"mantissa, x 2^{p.bias_exponent}; {int(np.count_nonzero(bias)):,} of {p.size:,} not zero",
    )
    made.add_row("bias exponent", str(p.bias_exponent), "power of two")
    made.add_row("reset", p.reset, RESET_MEANINGS[p.reset])
    if p.refractory:
        made.add_row("refractory", str(p.refractory), "steps for which the membrane potential stays 0 after a spike")
    return made


RESET_MEANINGS = {
    "zero": "a spike sets the membrane potential to 0",
    "subtract": "a spike takes the threshold off the membrane potential",
    "none": "no spikes: the membrane potential is read at the last step",
}


def _connection(c: IntegerConnection, program: Program) -> list[RenderableType]:
    pattern, synapses = c.synapses.connectivity, c.synapses
    density = facts.connected(pattern.n_synapses, pattern.pairs)
    where = ", computed on the host" if program.input.on_host and c.source == program.input.name else ""
    low, high = mantissa_range(synapses.sign_mode, synapses.weight_bits)
    head = Text(f"{c.name}: {c.source} -> {c.target}", style="bold").append(where, style="")
    ends = " -> ".join(shape_text(program.shapes[name]) for name in (c.source, c.target))
    stored = "" if pattern.n_weights == pattern.n_synapses else f" from {plural(pattern.n_weights, 'stored weight')}"
    numbers = [
        f"{synapses_title(c)}, {ends}, {plural(pattern.n_synapses, 'synapse')}{stored}"
        + ("" if density is None else f", {places(density)} % connected"),
        f"{synapses.weight_bits} bits, {synapses.sign_mode}: mantissa {low}..{high}, weight = mantissa x 2^"
        f"{synapses.exponent} (one mantissa step is {1 << synapses.exponent})",
    ]
    if c.delay or program.chip_delays[c.name] != 1:
        numbers.append(
            f"a spike counts {plural(c.delay, 'step')} later in the sample; on the chip it takes "
            f"{plural(program.chip_delays[c.name], 'step')}"
        )
    fans = table("", ("synapses", "left"), ("least", "right"), ("mean", "right"), ("most", "right"), ("none", "right"))
    for name, counts, who in (("fan-in", pattern.fan_in, "neuron"), ("fan-out", pattern.fan_out, "source")):
        if len(counts):
            fans.add_row(
                f"{name} of a {who}",
                f"{int(counts.min()):,}",
                f"{float(counts.mean()):,.1f}",
                f"{int(counts.max()):,}",
                f"{int((counts == 0).sum()):,}",
            )
    return [head, Text("\n".join(numbers)), Text(), fans, Text(), _histogram(synapses.mantissa, low, high)]


def _histogram(mantissa: NDArray[np.int16], low: int, high: int) -> RenderableType:
    """Mantissas over their range, in at most 16 bins of equal whole width (the last may be shorter)."""
    if not len(mantissa):
        return Text("no synapses, so no weights")
    width = -(-(high - low + 1) // BINS)
    counts = np.bincount((mantissa.astype(np.int64) - low) // width, minlength=-(-(high - low + 1) // width))
    made = table("mantissas", ("from", "right"), ("to", "right"), ("weights", "right"), ("", "left"))
    for k, n in enumerate(counts.tolist()):
        first = low + k * width
        bar = "#" * max(round(BAR * n / int(counts.max())), 1 if n else 0)
        made.add_row(str(first), str(min(first + width - 1, high)), f"{n:,}", bar)
    return made

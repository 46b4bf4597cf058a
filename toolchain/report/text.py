"""A report on the terminal: tables through rich, plain text where the output is no terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from toolchain.report.groups import ranges_text, slices_text
from toolchain.report.names import shape_text

Facts = dict[str, Any]

CORES_SHOWN = 12
"""Cores that are listed one by one; where there are more, they are grouped."""
GROUPS_SHOWN = 24
CHIPS_SHOWN = 16
WIDE = 96
"""Columns from which on the tables show everything; below, what can be had elsewhere is left out."""
DIAGNOSTICS_SHOWN = 20
NEARLY_FULL = 90.0
"""Percent from which on a figure is pointed out."""

PARTS = ("payload", "index", "header", "padding")

SHORT = {
    "synapse memory": "synapse memory",
    "words per input axon": "longest list",
    "output axons to other chips": "axons off chip",
    "synapse formats": "formats",
}
"""Rule names that would take too much of a line."""


def render_text(report: Facts, console: Console, *, cores_shown: int = CORES_SHOWN) -> None:
    """Print a report: the summary first, then layers, cores (grouped if more than `cores_shown`), checks, omissions."""
    _summary(report, console)
    _violations(report, console)
    _layers(report, console)
    _memory(report, console)
    _reasons(report, console)
    _chips(report, console)
    _cores(report, console, cores_shown)
    _diagnostics(report, console)
    render_energy(report, console)
    _closing(report, console)


def table(title: str, *columns: tuple[str, str]) -> Table:
    """An empty table. Columns: heading, and 'left', 'right', or 'wrap' for text that may break over lines."""
    # A title longer than its table stays on one line.
    heading = Text(title, style="bold", no_wrap=True, overflow="ignore") if title else None
    made = Table(title=heading, title_justify="left", box=None, pad_edge=False)
    for name, side in columns:
        wraps = side == "wrap"
        made.add_column(name, justify="right" if side == "right" else "left", no_wrap=not wraps, overflow="fold")
    return made


def share(resource: Facts | None) -> Text:
    """used / limit and percent of a resource; a mark besides the colour where it is nearly full or too much."""
    if resource is None:
        return Text("-", style="dim")
    return Text(f"{resource['used']:,}/{resource['limit']:,} ").append(percent(resource["percent"]))


def percent(value: float | None) -> Text:
    """A share; `!` where the limit is broken."""
    if value is None:
        return Text("-", style="dim")
    style = "bold red" if value > 100 else "yellow" if value >= NEARLY_FULL else ""
    return Text(f"{places(value)} %" + ("!" if value > 100 else ""), style=style)


def places(value: float) -> str:
    """Three figures or so: 0.48, 3.1, 38.3, 104."""
    if value == 0 or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 1 else f"{value:.2g}"


def brief(n: int) -> str:
    """A count in three or four figures: 864, 67.7 k, 1.05 M."""
    if n < 10_000:
        return f"{n:,}"
    unit, letter = next(each for each in ((1e3, "k"), (1e6, "M"), (1e9, "G"), (1e12, "T")) if n < 999.5 * each[0])
    return f"{n / unit:.3g} {letter}"


def plural(n: int, one: str, many: str | None = None) -> str:
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def memory_share(core: Facts) -> Text:
    """Synaptic memory of a core: KiB used / limit, percent."""
    resource = core["resources"].get("synapse memory")
    if resource is None:
        return Text(f"{core['memory']['kib']:.1f}")
    text = Text(f"{core['memory']['kib']:.1f}/{core['memory_limit_kib']:.1f} ")
    return text.append(percent(resource["percent"]))


def free(core: Facts) -> str:
    """KiB of synaptic memory that are left."""
    return "-" if core["memory_free_kib"] is None else f"{core['memory_free_kib']:.1f}"


def kibibytes(bits: int) -> str:
    return f"{bits / 8192:.1f}"


def formats_of(counts: dict[str, int], most: int = 3) -> str:
    """Lists by format, one a line, the most used first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    lines = [f"{n:,} {name}" for name, n in ordered[:most]]
    rest = sum(n for _, n in ordered[most:])
    return "\n".join([*lines, f"{rest:,} in {len(ordered) - most} more"] if rest else lines)


def section(console: Console, shown: Table | Text) -> None:
    console.print()
    console.print(shown)


def line(console: Console, label: str, text: str | Text) -> None:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(width=12, no_wrap=True, style="dim")
    grid.add_column(overflow="fold")
    grid.add_row(label, text)
    console.print(grid)


def _summary(report: Facts, console: Console) -> None:
    totals, target, network = report["totals"], report["target"], report["network"]
    console.print(
        Text(report["name"], style="bold")
        .append(f" on {target['name']}: ", style="")
        .append(f"{plural(totals['cores'], 'core')} of {plural(totals['chips'], 'chip')}, ")
        .append(f"{totals['memory']['kib']:,.1f} KiB of synaptic memory")
        .append("" if report["fits"] else "   DOES NOT FIT", style="bold red")
    )
    model = report["cost_model"]
    known = target["synapse_memory_kib_per_core"]
    room = "" if known is None else f" x {known:.0f} KiB"
    line(console, "", f"{report['statement']}" + (f"   build {report['build_hash']}" if report["build_hash"] else ""))
    line(
        console,
        "target",
        f"{target['title']}, {plural(totals['chips'], 'chip')} x {plural(target['cores_per_chip'], 'core')}{room}",
    )
    if target["partial"]:
        line(console, "", "how it stores synapses is not known: what is known of its limits was checked, nothing else")
    line(console, "cost model", f"{model['name']} ({model['label']}; sources {', '.join(model['sources'])})")
    entry = network["input"]
    steps = network["steps_per_sample"]
    before = ""
    if network["synapses_before"] is not None and network["synapses_before"] != network["synapses"]:
        before = f" ({network['synapses_before']:,} before the steps)"
    shared = network["stored_weights"] != network["synapses"]
    weights = f" from {network['stored_weights']:,} weights" if shared else ""
    density = "-" if network["connected_percent"] is None else places(network["connected_percent"])
    line(
        console,
        "network",
        f"{entry['neurons']:,} inputs ({entry['coding']}), {network['neurons']:,} neurons, "
        f"{network['synapses']:,} synapses{before}{weights}, {density} % connected, {steps} steps a sample",
    )
    bits = totals["bits_per_synapse"]
    if bits is not None:
        line(console, "memory", f"{bits:g} bits a synapse, {places(totals['payload_percent'])} % of them weights")
    line(console, "dense", _dense(totals["dense"]))
    line(console, "messages", messages(report["traffic"]))


def messages(traffic: Facts) -> str:
    """Where spikes go, when every neuron fires once."""
    total = traffic["messages"]
    if not total:
        return "none between layers"
    parts = (("within_core", "within a core"), ("within_chip", "between cores"), ("between_chips", "between chips"))
    shares = ", ".join(f"{places(100 * traffic[key] / total)} % {words}" for key, words in parts if traffic[key])
    words = f"{total:,} when every neuron fires once: {shares}"
    hops = (traffic["hops_east_west"] or 0) + (traffic["hops_north_south"] or 0)
    return words + (f"; {places(hops / total)} hops from tile to tile each" if hops else "")


def _dense(dense: Facts | None) -> str:
    """What the network would take with every synapse present."""
    if dense is None:
        return "with every synapse present: not worked out"
    words = f"with every synapse present: {plural(dense['cores'], 'core')}, {dense['words']:,} words"
    return words + ("" if dense["fits"] else " (would not fit)")


def _violations(report: Facts, console: Console) -> None:
    if not report["violations"]:
        return
    shown = table("broken rules", ("where", "wrap"), ("rule", "wrap"), ("value", "right"), ("limit", "right"))
    shown.add_column("source", overflow="fold")
    shown.add_column("to do", overflow="fold")
    for v in report["violations"]:
        value, limit = f"{v['value']:,.10g} {v['unit']}", f"{v['limit']:,.10g}"
        shown.add_row(escape(v["where"]), v["rule"], value, limit, v["source"], v["remedy"] or "-")
    section(console, shown)


def _layers(report: Facts, console: Console) -> None:
    wide = console.width >= WIDE
    # Where no kernel is shared, every synapse has its own weight.
    shared = wide and report["network"]["stored_weights"] != report["network"]["synapses"]
    shown = table(
        "layers",
        ("layer", "wrap"),
        *((("op", "wrap"),) if wide else ()),
        ("in -> out", "right"),
        ("connected", "right"),
        *((("synapses", "right"),) if wide else ()),
        *((("weights", "right"),) if shared else ()),
        ("bits", "right"),
        ("cores", "right"),
        ("fullest core", "right"),
        ("bound by", "left" if shared else "wrap"),
    )
    for layer in report["layers"]:
        full = layer["fullest_core"]
        most = full["resources"][full["bound_by"]] if full else None
        has = bool(layer["connections"])
        shown.add_row(
            Text(layer["name"]),
            *((layer["op"],) if wide else ()),
            ends(layer),
            "-" if layer["connected_percent"] is None else f"{places(layer['connected_percent'])} %",
            *(((brief(layer["synapses"]) if shared else f"{layer['synapses']:,}") if has else "-",) if wide else ()),
            *((brief(layer["stored_weights"]) if has else "-",) if shared else ()),
            ", ".join(map(str, layer["weight_bits"])) or "-",
            f"{layer['cores']:,}" if layer["on_chip"] else "-",
            # Names of maps are long: their share alone, as used and limit stand in the table of cores.
            percent(most["percent"]) if shared and most else share(most),
            SHORT.get(full["bound_by"], full["bound_by"]) if full else "-",
        )
    section(console, shown)


def ends(layer: Facts) -> str:
    """What a layer reads and has, as axes: 32x16x16 -> 64x8x8. A recurrent connection is no input of its own."""
    sources = {c["source"]: c["source_shape"] for c in layer["connections"]}
    forward = [shape_text(shape) for name, shape in sources.items() if name != layer["name"] or len(sources) == 1]
    return " -> ".join([" + ".join(forward), shape_text(layer["shape"])] if forward else [shape_text(layer["shape"])])


def _memory(report: Facts, console: Console) -> None:
    wide = console.width >= WIDE
    word_bits, totals = report["target"]["word_bits"], report["totals"]
    shown = table(
        "synaptic memory, KiB",
        ("layer", "wrap"),
        ("total", "right"),
        *((part, "right") for part in PARTS),
        *((("dense", "right"),) if wide else ()),
        ("lists by format", "left"),
    )

    def row(name: Text, spent: Facts, dense: Facts | None, lists: str) -> None:
        full = f"{kibibytes(dense['words'] * word_bits)} in {dense['cores']}" if dense else "-"
        bits = (kibibytes(spent[f"{part}_bits"]) for part in PARTS)
        shown.add_row(name, f"{spent['kib']:,.1f}", *bits, *((full,) if wide else ()), lists)

    for layer in report["layers"]:
        if layer["connections"]:
            lists = formats_of(layer["lists_by_format"]) or "-"
            row(Text(layer["name"]), layer["memory"], layer["dense"], lists)
    row(Text("all", style="bold"), totals["memory"], totals["dense"], f"{totals['usage']['input_axons']:,} in all")
    section(console, shown)


def _reasons(report: Facts, console: Console) -> None:
    many = [
        layer for layer in report["layers"] if layer["why"] and layer["why"]["slices"] > 1 and layer["why"]["broken"]
    ]
    if many:
        section(console, Text("why so many slices", style="bold"))
    for layer in many:
        console.print(Text(layer["why"]["sentence"]))


def _chips(report: Facts, console: Console) -> None:
    chips: Sequence[Facts] = report["chips"]
    if len(chips) < 2:
        return
    word_bits, wide = report["target"]["word_bits"], console.width >= WIDE
    shown = table(
        "chips",
        ("chip", "right"),
        ("cores", "right"),
        ("compartments", "right"),
        ("synapse KiB", "right"),
        ("out-axons", "right"),
        ("to other chips", "right"),
        *((("layers", "wrap"),) if wide else ()),
    )
    for chip in chips[:CHIPS_SHOWN]:
        crossing = Text(f"{chip['crossing_axons']:,} ")
        if chip["crossing_percent"] is not None:
            crossing.append(f"{places(chip['crossing_percent'])} %")
        shown.add_row(
            str(chip["chip"]),
            Text(f"{chip['cores']:,} ").append(percent(chip["percent"])),
            f"{chip['compartments']:,}",
            f"{chip['synapse_words'] * word_bits / 8192:,.1f}",
            f"{chip['output_axons']:,}",
            crossing,
            *((Text(few(chip["layers"])),) if wide else ()),
        )
    section(console, shown)
    if len(chips) > CHIPS_SHOWN:
        console.print(f"... {len(chips) - CHIPS_SHOWN:,} more chips, see --json", style="dim")


def few(names: Sequence[str], most: int = 4) -> str:
    """Names; of many the first ones and how many more there are."""
    return (
        ", ".join(names) if len(names) <= most else f"{', '.join(names[: most - 1])} and {len(names) - most + 1} more"
    )


def _cores(report: Facts, console: Console, most: int) -> None:
    cores: Sequence[Facts] = report["cores"]
    if len(cores) > most:
        _groups(report, console)
        return
    wide = console.width >= WIDE
    multi = report["totals"]["chips"] > 1
    shown = table(
        "cores",
        ("core", "right"),
        *((("chip", "right"),) if multi else ()),
        ("neurons", "wrap"),
        ("compartments", "right"),
        ("in-axons", "right"),
        ("out-axons", "right"),
        ("synapse memory KiB" if wide else "synapse KiB", "right"),
        *((("free", "right"),) if wide else ()),
    )
    for core in cores:
        resources = core["resources"]
        names = ", ".join(f"{s['population']}{s['region']}" for s in core["slices"])
        shown.add_row(
            str(core["core"]),
            *((str(core["chip"]),) if multi else ()),
            Text(names),
            _used(resources.get("compartments")),
            _used(resources.get("input axons")),
            _used(resources.get("output axons")),
            memory_share(core),
            *((free(core),) if wide else ()),
        )
    section(console, shown)


GROUPED = (("compartments", "compartments"), ("input axons", "in-axons"), ("output axons", "out-axons"))
"""Rules that a group's row shows, and their columns."""


def _groups(report: Facts, console: Console) -> None:
    """Cores that hold slices of the same layers, one row for all of them."""
    groups: Sequence[Facts] = report["core_groups"]
    multi = report["totals"]["chips"] > 1 and console.width >= WIDE
    limits = {rule: limit for group in groups for rule, limit in _limits(group).items()}
    memory = report["cores"][0]["memory_limit_kib"]
    shown = table(
        f"{len(report['cores']):,} cores by the layers that they hold: least..most, median in brackets",
        ("cores", "wrap"),
        ("each holds", "wrap"),
        *((f"{short}\n/{limits[rule]:,}" if rule in limits else short, "right") for rule, short in GROUPED),
        ("synapse KiB" + (f"\n/{memory:,.1f}" if memory else ""), "right"),
        *((("on chips", "wrap"), ("fullest", "right")) if multi else ()),
    )
    for group in groups[:GROUPS_SHOWN]:
        of = group["resources"]
        shown.add_row(
            f"{group['count']:,}: {ranges_text(group['cores'])}",
            Text(slices_text(group["slices"])),
            *(spread(of[rule]) if rule in of else Text("-") for rule, _ in GROUPED),
            spread({**group["memory_kib"], "limit": memory}),
            *((ranges_text(group["chips"]), str(group["fullest_core"])) if multi else ()),
        )
    section(console, shown)
    if len(groups) > GROUPS_SHOWN:
        console.print(f"... {len(groups) - GROUPS_SHOWN:,} more groups, see --json", style="dim")
    console.print("core by core: --csv", style="dim")


def _limits(group: Facts) -> dict[str, int]:
    return {rule: each["limit"] for rule, each in group["resources"].items()}


def spread(values: Facts) -> Text:
    """One number where all cores are equal, else least..most (median); `!` where the limit is broken."""
    least, median, most = (_brief(values[key]) for key in ("least", "median", "most"))
    share = 100 * values["most"] / values["limit"] if values["limit"] else 0.0
    style = "bold red" if share > 100 else "yellow" if share >= NEARLY_FULL else ""
    text = Text(least if values["least"] == values["most"] else f"{least}..{most} ({median})", style=style)
    return text.append("!" if share > 100 else "")


def _brief(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def _used(resource: Facts | None) -> Text:
    if resource is None:
        return Text("-")
    value = resource["percent"] or 0.0
    style = "bold red" if value > 100 else "yellow" if value >= NEARLY_FULL else ""
    return Text(f"{resource['used']}/{resource['limit']}" + ("!" if value > 100 else ""), style=style)


def _diagnostics(report: Facts, console: Console) -> None:
    found = report["diagnostics"]
    if not found:
        return
    shown = table("what the steps changed", ("code", "left"), ("where", "left"), ("what", "wrap"), ("effect", "wrap"))
    for d in found[:DIAGNOSTICS_SHOWN]:
        shown.add_row(d["code"], Text(d["where"]), Text(d["message"]), Text(d["effect"] or "-"))
    section(console, shown)
    if len(found) > DIAGNOSTICS_SHOWN:
        console.print(f"... {len(found) - DIAGNOSTICS_SHOWN:,} more, see --json", style="dim")


def render_energy(report: Facts, console: Console) -> None:
    estimate = report["energy"]
    if not estimate:
        return
    section(console, Text(f"energy and time of a sample: {estimate['label']}", style="bold"))
    line(console, "model", f"{estimate['model']}: {estimate['description']} Sources {', '.join(estimate['sources'])}.")
    shown = table("", ("part", "left"), ("events", "right"), ("nJ, least", "right"), ("nJ, most", "right"))
    shown.add_column("formula", overflow="fold")
    for part in estimate["energy"]:
        shown.add_row(
            part["part"],
            f"{part['events']:,.0f}",
            f"{part['nanojoule_low']:,.3f}",
            f"{part['nanojoule_high']:,.3f}",
            part["formula"],
        )
    low, high = estimate["total_nanojoule"]
    shown.add_row(Text("sum", style="bold"), "", f"{low:,.3f}", f"{high:,.3f}", "")
    console.print(shown)
    low, high = estimate["sample_microseconds"]
    line(console, "time", f"{low:,.3f} to {high:,.3f} us a sample; {estimate['time_formula']}")
    if estimate["static_microjoule"]:
        low, high = estimate["static_microjoule"]
        line(console, "static", f"{low:,.3f} to {high:,.3f} uJ a sample besides; {estimate['static_formula']}")
    for note in estimate["notes"]:
        line(console, "", note)


def _closing(report: Facts, console: Console) -> None:
    console.print()
    wrong = [check for check in report["checks"] if not check["equal"]]
    for check in wrong:
        line(console, "FAULT", f"sums differ, please report this: {check['name']} {check['left']} != {check['right']}")
    if not wrong:
        line(console, "checks", f"{len(report['checks'])} sums counted in two ways, all equal")
    line(console, "not modelled", "; ".join(report["not_modelled"]) or "-")

"""Target files on the terminal: which there are, and every number of one with unit, source and mark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hw_targets import MARKS, Limit, Target
from toolchain.report.text import table

LONG = 24
"""Characters of a value beyond which its column breaks over lines."""


def target_table(targets: Sequence[Target]) -> Table:
    """One row a target: its size, and how its memory is accounted for."""
    made = table(
        "targets",
        ("name", "left"),
        ("chip", "wrap"),
        ("cores", "right"),
        ("compartments", "right"),
        ("synapse memory", "right"),
        ("spikes", "left"),
        ("cost models", "wrap"),
    )
    for target in targets:
        made.add_row(
            target.name,
            Text(target.title),
            f"{target['cores_per_chip']:,}",
            f"{target['compartments_per_core']:,} a core",
            _memory(target),
            "graded" if target["spike_payload"] else "binary",
            Text(", ".join(_model_name(target, name) for name in target.cost_models)),
        )
    return made


def _memory(target: Target) -> str:
    """Synapse memory of a core in the unit in which it is limited, or a dash where no limit of it is known."""
    if "synapse_words_per_core" in target:
        words, bits = int(target["synapse_words_per_core"]), int(target.parameters()["word_bits"])
        return f"{words * bits / 8192:.0f} KiB a core"
    if "kernel_memory_per_core" in target:
        entries = target["kernel_memory_per_core"]
        return f"{min(entries) // 1024} to {max(entries) // 1024} Ki kernel entries a core"
    return f"{target['synapses_per_core']:,} synapses a core" if "synapses_per_core" in target else "-"


def target_view(target: Target) -> RenderableType:
    """Everything that a target file says: limits, number formats, accounting, boards, energies, what is left out."""
    parts: list[RenderableType] = [
        Text(f"{target.name}: {target.title}", style="bold"),
        Text(target.description),
    ]
    if target.why_not:
        parts.append(Text(f"NOT COMPILED FOR: {target.why_not}", style="bold yellow"))
    elif target.partial:
        parts.append(
            Text("KNOWN LIMITS ONLY: what fits here fits as far as is known; see what is not modelled", "bold yellow")
        )
    if target.fitted:
        parts.append(Text("FITTED: parts of this description are not published; see the marks", style="bold yellow"))
    parts += [Text(), _numbers("limits", target.limits), Text(), _numbers("number formats", target.numbers)]
    for model in target.cost_models.values():
        title = f"cost model {_model_name(target, model.name)}"
        parts += [Text(), _numbers(title, model.parameters), Text(model.description)]
    for energy in target.energy.values():
        title = f"energy and time {energy.name} (estimates made from these are not measured)"
        parts += [Text(), _numbers(title, energy.entries), Text(energy.description)]
    if target.systems:
        parts += [Text(), _systems(target)]
    parts += [Text(), Text("not modelled", style="bold")]
    parts += [Text(f"- {line}") for line in target.not_modelled]
    parts += [Text(), _keys("sources", target.sources), Text(), _keys("marks", _marks_used(target))]
    return Group(*parts)


def _model_name(target: Target, name: str) -> str:
    model = target.cost_models[name]
    notes = [*(["default"] if name == target.default_cost_model else []), *(["fitted"] if model.fitted else [])]
    return name + (f" ({', '.join(notes)})" if notes else "")


def _numbers(title: str, limits: Mapping[str, Limit]) -> Table:
    # A value of many numbers breaks over lines, so that names stay whole.
    long = any(len(_value(limit.value)) > LONG for limit in limits.values())
    made = table(
        title,
        ("name", "left"),
        ("value", "wrap" if long else "right"),
        ("unit", "left"),
        ("source; mark", "wrap"),
        ("note", "wrap"),
    )
    for key, limit in limits.items():
        others = [f"{other.source} says {_value(other.value)}" for other in limit.disagreement]
        note = "; ".join([*others, *([limit.note] if limit.note else [])])
        source = f"{', '.join(limit.source)}; {limit.mark}"
        made.add_row(key.replace("_", " "), Text(_value(limit.value)), Text(limit.unit), Text(source), Text(note))
    return made


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)


def _systems(target: Target) -> Table:
    made = table(
        "boards and machines",
        ("name", "left"),
        ("title", "left"),
        ("chips", "right"),
        ("source", "wrap"),
        ("mark", "left"),
        ("note", "wrap"),
    )
    for system in target.systems:
        notes = [system.note] if system.note else []
        if system.grid is not None:
            notes.append(f"grid of {_value(system.grid.value).replace(' ', ' x ')} chips ({system.grid.mark})")
        sources, note = Text(", ".join(system.source)), Text("; ".join(notes))
        made.add_row(system.name, Text(system.title), f"{system.chips:,}", sources, system.mark, note)
    return made


def _keys(title: str, meanings: Mapping[str, str]) -> Table:
    made = table(title, ("key", "left"), ("meaning", "wrap"))
    for key, meaning in meanings.items():
        made.add_row(key, Text(meaning))
    return made


def _marks_used(target: Target) -> dict[str, str]:
    used = {limit.mark for _, _, limit in target.rows()} | {system.mark for system in target.systems}
    return {mark: meaning for mark, meaning in MARKS.items() if mark in used}

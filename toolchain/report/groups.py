"""Cores that hold parts of the same layers, together in one row: what keeps a report of 10,000 cores readable."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median_low
from typing import Any

Facts = dict[str, Any]

RUNS_SHOWN = 2


def core_groups(cores: Sequence[Facts]) -> list[Facts]:
    """One row for all cores that hold the same number of slices of the same layers, in the order of the first core."""
    groups: dict[tuple[tuple[str, int], ...], list[Facts]] = {}
    for core in cores:
        held: dict[str, int] = {}
        for s in core["slices"]:
            held[s["population"]] = held.get(s["population"], 0) + 1
        groups.setdefault(tuple(held.items()), []).append(core)
    return [_group(dict(held), members) for held, members in groups.items()]


def _group(held: dict[str, int], members: Sequence[Facts]) -> Facts:
    rules = members[0]["resources"]
    shares = [
        (core["resources"][core["bound_by"]]["percent"] or 0.0, -core["core"]) for core in members if core["bound_by"]
    ]
    return {
        "cores": ranges(core["core"] for core in members),
        "count": len(members),
        "chips": ranges({core["chip"] for core in members}),
        "slices": held,
        "resources": {
            rule: {
                **_spread([c["resources"][rule]["used"] for c in members if rule in c["resources"]]),
                "limit": each["limit"],
            }
            for rule, each in rules.items()
        },
        "memory_kib": _spread([core["memory"]["kib"] for core in members]),
        "fullest_core": -max(shares)[1] if shares else None,
    }


def _spread(values: Sequence[float]) -> Facts:
    return {"least": min(values), "median": median_low(values), "most": max(values)}


def ranges(numbers: Iterable[int]) -> list[list[int]]:
    """Ascending numbers as runs [first, last]."""
    runs: list[list[int]] = []
    for n in sorted(numbers):
        if runs and runs[-1][1] == n - 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return runs


def ranges_text(runs: Sequence[Sequence[int]]) -> str:
    """12-411, 415; where there are many runs their ends: 12-980 in 7 runs."""
    if len(runs) > RUNS_SHOWN:
        return f"{runs[0][0]}-{runs[-1][1]} in {len(runs):,} runs"
    return ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in runs)


def slices_text(slices: dict[str, int]) -> str:
    """What each core of a group holds: conv3, 2 x pool3."""
    return ", ".join(name if n == 1 else f"{n} x {name}" for name, n in slices.items())

"""The published rule for convolutions, synapse by synapse in plain Python, on the unrolled connectivity.

Written from the rule's wording alone; it shares no code with the package.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import slow_nxtf

Place = tuple[int, int, int]  # channel, row, column


@dataclass
class Slow:
    """What one slice takes. senders: sources with a synapse here. groups: stored ones, words each."""

    groups: list[int] = field(default_factory=list)
    longest: int = 0
    compartments: int = 0
    bases: int = 0
    synapses: int = 0
    stored: int = 0
    entries: int = 0
    axons: int = 0
    shared: int = 0
    senders: set[Place] = field(default_factory=set)


def synapses_onto(pattern, ranges) -> dict[Place, list[tuple[Place, int]]]:
    """Source -> (target, number of its weight), for targets inside the ranges."""
    listed, weight = pattern.unroll()
    (_, h, w), (_, th, tw) = pattern.source, pattern.target
    found: dict[Place, list[tuple[Place, int]]] = {}
    for s in range(listed.n_sources):
        for at in range(int(listed.indptr[s]), int(listed.indptr[s + 1])):
            t = int(listed.targets[at])
            target = (t // (th * tw), t // tw % th, t % tw)
            if all(a <= x < b for x, (a, b) in zip(target, ranges, strict=True)):
                found.setdefault((s // (h * w), s // w % h, s % w), []).append((target, int(weight[at])))
    return found


def group_widths(pattern, ranges) -> list[int]:
    """Columns of each destination group: geometry alone, so that pruned kernels number their columns like full ones."""
    first, stop = ranges[2]
    width = stop - first
    widths: list[int] = []
    end = 0
    for x in range(pattern.source[2]):
        reached = [
            v - first
            for v in range(first, stop)
            for j in range(pattern.size[1])
            if v * pattern.stride[1] - pattern.padding[1][0] + j * pattern.dilation[1] == x
        ]
        if reached and min(reached) == end:
            widths.append(max(reached) + 1 - end)
            end = max(reached) + 1
    return [*widths, width - end] if end < width else widths


def slice_of(pattern, mantissas, ranges, encoding, signs, bits, alone=lambda source: False, size=1) -> Slow:
    """The slice, every entry at its narrowest widths."""
    out = Slow()
    onto = synapses_onto(pattern, ranges)
    widths = group_widths(pattern, ranges)
    channels, height = ranges[0][1] - ranges[0][0], ranges[1][1] - ranges[1][0]
    room = max(widths) * height
    out.compartments = room * len(widths) * channels * size
    out.compartments += out.compartments % 4 if size > 1 else 0
    out.bases = len(widths) * size
    group_of = [g for g, n in enumerate(widths) for _ in range(n)]
    place_in = [k for n in widths for k in range(n)]
    out.senders = set(onto)
    out.synapses = sum(len(x) for x in onto.values())

    columns: dict[tuple[int, int], list[Place]] = {}
    for c, y, x in sorted(onto):
        columns.setdefault((c, x), []).append((c, y, x))
    known: dict[tuple, list[tuple[int, int]]] = {}
    for column in columns.values():
        apart = [source for source in column if not alone(source)]
        out.axons += len(apart) + (len(apart) < len(column))
        members = []
        reached = [
            x
            for x in range(ranges[2][1] - ranges[2][0])
            if kernel_column(pattern, column[0][2], x + ranges[2][0]) is not None
        ]
        base = group_of[reached[0]]
        for source in column:
            part = []
            for (o, v, w), weight in onto[source]:
                w, v, o = w - ranges[2][0], v - ranges[1][0], o - ranges[0][0]
                part.append((group_of[w] - base, place_in[w] * height + v + o * room, weight))
            members.append(tuple(sorted(part)))
        # A pruned kernel shares like a full one: what its columns would reach decides, not what is left of it.
        would = tuple(
            (group_of[v] - base, place_in[v], kernel_column(pattern, column[0][2], v + ranges[2][0])) for v in reached
        )
        known.setdefault((would, tuple(members)), []).append(column[0])
    scale = size if len(widths) == 1 else 1
    for (_, members), uses in known.items():
        words = []
        out.shared += len(uses) > 1
        for part in members:
            list_bits = 0
            for offset in sorted({p[0] for p in part}):
                targets = [index * scale for group, index, _ in part if group == offset]
                weights = [int(mantissas[w]) for group, _, w in part if group == offset]
                found, _, entries = slow_nxtf.list_cost(encoding, signs, targets, weights, bits)
                list_bits += found
                out.entries += entries
            words.append(slow_nxtf.words(list_bits))
            out.stored += len(part)
        out.groups.append(max(words) * len(words))
        out.longest = max(out.longest, *words)
    return out


def kernel_column(pattern, x: int, column: int) -> int | None:
    """The kernel column with which a target column reads a source column, by geometry."""
    for j in range(pattern.size[1]):
        if column * pattern.stride[1] - pattern.padding[1][0] + j * pattern.dilation[1] == x:
            return j
    return None

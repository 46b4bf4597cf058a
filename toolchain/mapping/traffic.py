"""Messages between cores, and how far they go: facts about a placement."""

from __future__ import annotations

from typing import Any

import numpy as np

from toolchain.ir import Program
from toolchain.mapping.mesh import Mesh
from toolchain.mapping.place import Mapping
from toolchain.mapping.wiring import Wiring


def traffic(mapping: Mapping, program: Program, mesh: Mesh | None = None) -> dict[str, Any]:
    """The messages that go out when every neuron fires once: plain numbers, in all and by sending population.

    A neuron sends one message to each slice that listens to it. within_core, within_chip (to another core of the chip),
    between_chips: they add up to messages. With a mesh also hops_east_west and hops_north_south, steps from tile to
    tile over all messages, and largest_hops, of the one that goes farthest; without one these are None.
    """
    slices = mapping.slices
    core = np.repeat(np.arange(len(mapping.cores)), [len(c.slices) for c in mapping.cores])
    chips = np.array([c.chip for c in mapping.cores], np.int64)
    rows = columns = np.zeros(len(mapping.cores), np.int64)
    if mesh is not None:
        first = np.searchsorted(chips, chips)  # cores are in the order of their chips
        rows, columns = mesh.place(chips, np.arange(len(chips)) - first)
    sources = {c.name: c.source for c in program.connections}
    found: dict[str, dict[str, int | None]] = {}
    for heard in Wiring(program, slices).heard():
        counts = found.setdefault(sources[heard.connection], _nothing(mesh))
        senders, here = core[heard.senders], core[heard.listener]
        apart = chips[senders] != chips[here]
        own = senders == here
        right, down = abs(columns[senders] - columns[here]), abs(rows[senders] - rows[here])
        for key, values in (
            ("messages", np.ones_like(right)),
            ("within_core", own),
            ("within_chip", ~own & ~apart),
            ("between_chips", apart),
            ("hops_east_west", right),
            ("hops_north_south", down),
        ):
            if counts[key] is not None:
                counts[key] += int((heard.messages * values).sum())  # type: ignore[operator]
        if mesh is not None:
            counts["largest_hops"] = max(counts["largest_hops"] or 0, int((right + down).max(initial=0)))
    total = _nothing(mesh)
    for counts in found.values():
        for key, value in counts.items():
            if value is not None:
                total[key] = max(total[key] or 0, value) if key == "largest_hops" else (total[key] or 0) + value
    return {**total, "populations": found}


def _nothing(mesh: Mesh | None) -> dict[str, int | None]:
    far = None if mesh is None else 0
    return {
        **dict.fromkeys(("messages", "within_core", "within_chip", "between_chips"), 0),
        **dict.fromkeys(("hops_east_west", "hops_north_south", "largest_hops"), far),
    }

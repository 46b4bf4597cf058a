"""Synapses whose weight rounded to zero cost memory and do nothing: leave them out, and count them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from toolchain.errors import Diagnostic
from toolchain.ir import QuantisedGraph


@dataclass(frozen=True)
class DropZeroSynapses:
    """Remove every synapse with mantissa 0. The network computes the same."""

    name: ClassVar[str] = "drop zero synapses"

    def run(self, graph: QuantisedGraph) -> tuple[QuantisedGraph, list[Diagnostic]]:
        """The graph without them, and a count for each connection that had any."""
        diagnostics = []
        connections = []
        for c in graph.connections:
            alive = c.synapses.mantissa != 0
            zeros = int((~alive).sum())
            if zeros:
                c = replace(c, synapses=c.synapses.keep_weights(alive))
                diagnostics.append(
                    Diagnostic("ZER001", c.name, f"{zeros} synapses of weight zero dropped", zeros, "no spike changes")
                )
            connections.append(c)
        return replace(graph, connections=tuple(connections)), diagnostics

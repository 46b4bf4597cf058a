"""A network of another framework as a graph, which must spike as that network does."""

from __future__ import annotations

from typing import Any

import numpy as np

from toolchain.backends import physical
from toolchain.errors import Diagnostic, SnncError
from toolchain.frontends import Loaded
from toolchain.frontends.frameworks import Live, read

SAMPLES = 8
"""Random samples that the graph is compared with the network on."""
CLOSE = 1e-5
"""Largest difference of a readout's potential, relative to the largest of all."""


def from_framework(
    model: Any, example_input: Any, *, steps: int, coding: str = "rate", name: str | None = None
) -> Loaded:
    """The graph of a network of Norse, sinabs or Rockpool, with the wiring and weights that its own NIR exporter gives.

    The neurons are measured, as NIR does not say all of them, and the graph is compared with the network on random
    samples: every spike of every population, and the potentials of a readout.

    model: a torch module.  example_input: as the network takes it: Norse (batch, ...) of one step; sinabs and Rockpool
    (batch, steps, ...), of sinabs' Squeeze layers (batch * steps, ...).  steps: of a sample.  coding: "rate" or
    "current"; the network gets spikes of 1, or values x / 255 at every step.

    The model is neither changed nor trained: a copy runs. Returns the graph, whose populations are called as the
    exporter calls them, and what was found.

    Raises:
        SnncError: modules of no framework that is known, what its exporter or the NIR reader refuses, neurons that no
            chip computes, or a graph that does not spike as the network does.
    """
    live = read(model, example_input, steps=steps, coding=coding, name=name)
    return Loaded(live.loaded.graph, (*live.loaded.diagnostics, *_compared(live)))


def _compared(live: Live) -> list[Diagnostic]:
    graph = live.loaded.graph
    entry, name = graph.input, live.framework.name
    samples = np.random.default_rng(0).integers(0, 256, (SAMPLES, entry.sample_size))
    trace = physical.run(graph, samples)
    values = np.repeat((entry.offset + entry.scale * samples)[:, None], graph.steps, 1)
    x = trace.spikes[entry.name] * entry.scale if entry.coding == "rate" else values
    theirs = live.observe(np.ascontiguousarray(x.swapaxes(0, 1), np.float64))
    silent = []
    for p in graph.populations:
        if p.name not in theirs:
            continue
        sent = theirs[p.name].swapaxes(0, 1)
        ours = trace.spikes[p.name] if p.spiking else trace.potentials[p.name]
        if p.spiking:
            wrong = ours != (sent != 0)
            silent += [p.name] * (not sent.any())
        else:
            sent = sent[:, -1]
            wrong = np.abs(ours - sent) > CLOSE * max(1.0, float(np.abs(sent).max()))
        if wrong.any():
            at = tuple(int(i) for i in np.argwhere(wrong)[0])
            axes = "sample, step, neuron" if p.spiking else "sample, neuron"
            count = int(wrong.sum())
            raise SnncError(
                "the graph does not compute what the network does",
                where=f"{graph.name}, {p.name!r}, {axes} {at}",
                got=f"{float(ours[at]):.6g} where {name} has {float(sent[at]):.6g}; {count} differ",
                allowed="no difference on random samples",
                remedy="take out what its NIR exporter leaves out, such as recurrent weights",
            )
    if not silent:
        return []
    message = f"populations that never spiked while the graph was compared with {name}: {', '.join(silent)}"
    return [Diagnostic("NIR009", graph.name, message, len(silent), "what lies behind them was compared in silence")]

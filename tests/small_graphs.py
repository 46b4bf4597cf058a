"""Trained-looking graphs in physical units, without training."""

from __future__ import annotations

import itertools

import numpy as np

from toolchain.ir import LIF, Connection, Connectivity, FloatSynapses, Graph, make_input


def network(
    sizes: tuple[int, ...] = (40, 30, 10),
    density: float = 0.4,
    *,
    seed: int = 0,
    coding: str = "rate",
    steps: int = 8,
    weight_bits: int | None = None,
) -> Graph:
    """Layers fc1, fc2, ... of Grad R's neuron (tau 2) with normal weights."""
    random = np.random.default_rng(seed)
    populations, connections, source = [], [], "input"
    for k, (n, m) in enumerate(itertools.pairwise(sizes), start=1):
        connectivity = Connectivity.from_mask(random.random((m, n)) < density)
        weights = random.normal(0.1, 2 / np.sqrt(n * density), connectivity.n_synapses).astype(np.float32)
        bias = random.normal(0, 0.05, m).astype(np.float32)
        populations.append(LIF(f"fc{k}", m, 1.0, 0.5, 1.0, 0.5, bias))
        step = None if weight_bits is None else float(np.abs(weights).max()) / (2 ** (weight_bits - 1) - 1)
        synapses = FloatSynapses(connectivity, weights)
        connections.append(Connection(f"fc{k}.weight", source, f"fc{k}", synapses, step, weight_bits))
        source = f"fc{k}"
    entry = make_input(coding, "input", sizes[0], scale=1.0 if coding == "rate" else 1 / 255)
    graph = Graph("small", entry, tuple(populations), tuple(connections), steps, {"seed": str(seed)})
    graph.verify()
    return graph

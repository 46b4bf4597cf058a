"""Trained-looking networks of feature maps in physical units, without training."""

from __future__ import annotations

from typing import Any

import numpy as np

from toolchain.ir import LIF, Connection, Connectivity, Convolution, FloatSynapses, Graph, make_input
from toolchain.ir.pattern import Pattern

Map = tuple[int, int, int]


def lif(name: str, size: int, **changes: Any) -> LIF:
    """Grad R's neuron of time constant 2 with threshold 1 and no bias; `changes` replace its fields."""
    fields = {"threshold": 1.0, "gain": 0.5, "current_decay": 1.0, "voltage_decay": 0.5}
    return LIF(**{"name": name, "size": size, "bias": np.zeros(size, np.float32), **fields, **changes})


def any_of(name: str, size: int) -> LIF:
    """Neurons that fire in each step in which one of their inputs did."""
    return lif(name, size, threshold=0.5, gain=1.0, voltage_decay=0.0)


def kernel(
    source: Map,
    channels: int,
    size: int | tuple[int, int] = 3,
    *,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
    density: float = 1.0,
    seed: int = 0,
) -> Convolution:
    """A convolution over a map whose kernel has part of its entries, drawn at random."""
    shape = (size, size) if isinstance(size, int) else size
    mask = np.random.default_rng(seed).random((channels, source[0] // groups, *shape)) < density
    around = ((padding, padding), (padding, padding))
    return Convolution.of(source, mask, stride=(stride, stride), padding=around, groups=groups)[0]


def connection(
    name: str, source: str, target: str, pattern: Pattern, *, delay: int = 0, ones: bool = False, seed: int = 0
) -> Connection:
    """Normal weights of a size that lets neurons fire; all ones on request."""
    fan_in = max(1.0, pattern.n_synapses / pattern.n_targets)
    weights = np.random.default_rng(seed).normal(1.0 / fan_in, 2 / np.sqrt(fan_in), pattern.n_weights)
    values = np.ones(pattern.n_weights) if ones else weights
    return Connection(name, source, target, FloatSynapses(pattern, values.astype(np.float32)), delay=delay)


def map_network(
    *,
    side: int = 8,
    channels: int = 4,
    density: float = 1.0,
    coding: str = "rate",
    steps: int = 6,
    readout: bool = False,
    seed: int = 0,
) -> Graph:
    """Every kind of layer once: conv1, max pool, a depthwise convolution with soft reset and a residual connection
    around it, a recurrent linear layer, and the output (a readout where asked)."""
    start: Map = (2, side, side)
    conv1 = kernel(start, channels, 3, padding=1, density=density, seed=seed)
    pool = kernel(conv1.target, channels, 2, stride=2, groups=channels)
    half = pool.target
    deep = kernel(half, channels, 3, padding=1, groups=channels, seed=seed + 1)
    skip = kernel(half, channels, 1, density=density, seed=seed + 2)
    random = np.random.default_rng(seed + 3)
    n = deep.n_targets
    hidden = Connectivity.from_mask(random.random((12, n)) < 0.5 * density)
    back = Connectivity.from_mask(random.random((12, 12)) < 0.3)
    out = Connectivity.from_mask(random.random((10, 12)) < 0.8)
    populations = (
        lif("conv1", conv1.n_targets),
        any_of("pool", pool.n_targets),
        lif("deep", n, reset="subtract"),
        lif("hidden", 12, current_decay=0.5, refractory=2),
        lif("out", 10, **({"reset": "none"} if readout else {})),
    )
    connections = (
        connection("conv1.weight", "input", "conv1", conv1, seed=seed),
        connection("pool.weight", "conv1", "pool", pool, ones=True),
        connection("deep.weight", "pool", "deep", deep, seed=seed + 4),
        connection("deep.skip", "pool", "deep", skip, seed=seed + 5),
        connection("hidden.weight", "deep", "hidden", hidden, seed=seed + 6),
        connection("hidden.back", "hidden", "hidden", back, delay=1, seed=seed + 7),
        connection("out.weight", "hidden", "out", out, seed=seed + 8),
    )
    entry = make_input(coding, "input", 2 * side * side, scale=1.0 if coding == "rate" else 1 / 255)
    graph = Graph("maps", entry, populations, connections, steps, {"seed": str(seed)})
    graph.verify()
    return graph

"""Untrained networks of a recipe's shape: what `snnc check` compiles before anything is trained."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import SnncError
from toolchain.ir import LIF, Connection, Connectivity, FloatSynapses, GradedInput, Graph, RateInput, make_input
from toolchain.ir.inputs import VALUE_MAX
from toolchain.training.data import SHAPES
from toolchain.training.recipe import Recipe


def random_graph(recipe: Recipe, connectivity: float, seed: int) -> Graph:
    """Every connection keeps the same part of its pairs, drawn without structure; weights are normal.

    The shape, neurons and input coding are the recipe's. No hidden neuron is left without a synapse in or out (it
    gets one more where chance gave it none), so that the estimate does not profit from neurons that are removed as
    dead. A trained network concentrates its synapses, so its cores may be filled less evenly than this.

    Raises:
        SnncError: connectivity outside (0, 1].
    """
    if not 0 < connectivity <= 1:
        raise SnncError("connectivity is a part of all synapses", where="--connectivity", got=connectivity)
    random = np.random.default_rng(seed)
    n_inputs, classes = SHAPES[recipe.data.dataset]
    sizes = (n_inputs, *recipe.network.hidden, classes)
    rate = recipe.input.coding == "rate"
    source = make_input(recipe.input.coding, "input", n_inputs, scale=1.0 if rate else 1.0 / VALUE_MAX)
    if isinstance(source, RateInput):
        source = replace(source, threshold=recipe.input.threshold)
    if isinstance(source, GradedInput):
        source = replace(source, payload_bits=recipe.input.payload_bits)
        source = replace(source, scale=1.0 / source.payload_max)
    gain = 1.0 / recipe.network.tau
    populations, connections = [], []
    previous = source.name
    for k, (n_sources, n_targets) in enumerate(itertools.pairwise(sizes), start=1):
        pairs = _random_pairs(random, n_sources, n_targets, connectivity)
        if k > 1:
            unheard = np.setdiff1d(np.arange(n_sources), pairs // n_targets)
            pairs = np.union1d(pairs, unheard * n_targets + random.integers(0, n_targets, len(unheard)))
        unfed = np.setdiff1d(np.arange(n_targets), pairs % n_targets)
        pairs = np.union1d(pairs, random.integers(0, n_sources, len(unfed)) * n_targets + unfed)
        shape = _connectivity(pairs, n_sources, n_targets)
        weights = random.normal(0.0, 2.0 / np.sqrt(max(1.0, n_sources * connectivity)), shape.n_synapses)
        name = f"fc{k}"
        populations.append(
            LIF(name, n_targets, recipe.network.threshold, gain, 1.0, gain, np.zeros(n_targets, np.float32))
        )
        synapses = FloatSynapses(shape, weights.astype(np.float32))
        connections.append(Connection(f"{name}.weight", previous, name, synapses))
        previous = name
    return Graph(recipe.name, source, tuple(populations), tuple(connections), recipe.network.steps)


def _random_pairs(
    random: np.random.Generator, n_sources: int, n_targets: int, connectivity: float
) -> NDArray[np.int64]:
    """round(connectivity * pairs) pairs as source * n_targets + target, every set of them equally likely."""
    pairs = n_sources * n_targets
    return random.choice(pairs, max(1, round(connectivity * pairs)), replace=False)


def _connectivity(pairs: NDArray[np.int64], n_sources: int, n_targets: int) -> Connectivity:
    sources, targets = pairs // n_targets, pairs % n_targets
    indptr = np.zeros(n_sources + 1, np.int64)
    np.cumsum(np.bincount(sources, minlength=n_sources), out=indptr[1:])
    return Connectivity(n_sources, n_targets, indptr, targets.astype(np.int32))

"""Figures of a network on a test set, computed as it will be deployed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from toolchain.training.modules import SpikingNetwork

BATCH = 500


def accuracy(network: SpikingNetwork, x: Tensor, y: Tensor) -> float:
    """Fraction right: argmax of output spike counts, ties to the lowest index."""
    right = 0
    for start in range(0, len(x), BATCH):
        counts = network.simulate(x[start : start + BATCH])[-1].sum(0)
        right += int((counts.argmax(1) == y[start : start + BATCH]).sum())
    return right / len(x)


def connectivity(masks: list[Tensor]) -> float:
    """Synapses that exist over all that could."""
    return sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)


def figures(network: SpikingNetwork, masks: list[Tensor], x: Tensor, y: Tensor) -> dict[str, Any]:
    """Accuracy, connectivity in total and per layer, spikes, silent neurons and synaptic operations per sample.

    spikes_per_neuron: mean over samples and neurons in one window, for each population, the input included.
    silent_neurons: neurons that no sample made spike.  synaptic_operations: spikes times surviving fan-out, per
    sample, for each layer of synapses; the host's products (current coding) are not among them.
    """
    right = 0
    counts: list[Tensor] = []
    for start in range(0, len(x), BATCH):
        sent = network.simulate(x[start : start + BATCH])
        steps = network.recipe.network.steps
        fired = [(s != 0).float().sum(0) * (steps / len(s)) for s in sent]
        right += int((sent[-1].sum(0).argmax(1) == y[start : start + BATCH]).sum())
        sums = [f.sum(0, dtype=torch.float64) for f in fired]
        counts = sums if not counts else [a + b for a, b in zip(counts, sums, strict=True)]
    names = ["input", *(layer.name for layer in network.layers)]
    operations = {
        layer.name: float((count * mask.sum(0)).sum()) / len(x)
        for layer, mask, count in zip(network.layers, masks, counts, strict=False)
    }
    if network.recipe.input.coding == "current":
        operations[network.layers[0].name] = 0.0
    return {
        "accuracy": right / len(x),
        "test_samples": len(x),
        "connectivity": connectivity(masks),
        "connectivity_per_layer": {
            layer.name: float(mask.float().mean(dtype=torch.float64))
            for layer, mask in zip(network.layers, masks, strict=True)
        },
        "synapses_per_layer": {layer.name: int(mask.sum()) for layer, mask in zip(network.layers, masks, strict=True)},
        "spikes_per_neuron": {
            name: float(count.sum()) / len(x) / len(count) for name, count in zip(names, counts, strict=True)
        },
        "silent_neurons": {name: int((count == 0).sum()) for name, count in zip(names, counts, strict=True)},
        "synaptic_operations": operations,
        "synaptic_operations_total": sum(operations.values()),
    }

"""Figures of a network on a test set, computed as it will be deployed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from toolchain.training import distributed
from toolchain.training.layers import Stage, Weights
from toolchain.training.modules import Sent, SpikingNetwork

BATCH = 500
BATCH_NEURONS = 1 << 25
"""Neurons times steps times samples of the largest layer that one batch may have."""


def batch_size(network: SpikingNetwork) -> int:
    """Samples that are simulated at once."""
    largest = max(math.prod(layer.target) for layer in network.populations)
    return max(1, min(BATCH, BATCH_NEURONS // (largest * network.recipe.network.steps)))


def accuracy(network: SpikingNetwork, x: Tensor, y: Tensor) -> float:
    """Fraction right: argmax of output spike counts or potentials, ties to the lowest index.

    Of several processes each computes its part, and each gets the fraction of all.
    """
    count, part = len(x), distributed.part(len(x))
    x, y = x[part], y[part]
    right, size = torch.zeros((), dtype=torch.int64), batch_size(network)
    for start in range(0, len(x), size):
        for sent in network.walk(x[start : start + size]):
            outputs = sent.payload
        right += (network.decisions(outputs) == y[start : start + size]).sum()
    return int(distributed.total(right)) / count


def connectivity(masks: list[Tensor]) -> float:
    """Weights that exist over all that could: of dense layers synapses, of convolutions entries of their kernels."""
    return sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)


def by_layer(network: SpikingNetwork, masks: list[Tensor]) -> dict[str, float]:
    """`connectivity` of each layer."""
    return {
        layer.name: float(mask.float().mean(dtype=torch.float64))
        for layer, mask in zip(network.layers, masks, strict=True)
    }


@dataclass
class Activity:
    """What one population did over all samples. spikes: counts (neurons), float64.  operations: in all."""

    spikes: Tensor
    operations: float | None

    def add(self, other: Activity) -> Activity:
        both = self.operations is not None and other.operations is not None
        operations = self.operations + other.operations if both else None  # type: ignore[operator]
        return Activity(self.spikes + other.spikes, operations)


def _activity(sent: Sent, network: SpikingNetwork, masks: dict[str, Tensor]) -> Activity:
    steps = network.recipe.network.steps
    fired = (sent.payload != 0).float().sum(0) * (steps / len(sent.payload))
    spikes = fired.sum(0, dtype=torch.float64)
    if sent.stage is None:
        return Activity(spikes, None)
    if isinstance(sent.stage, Weights) and network.on_host(sent.stage):
        return Activity(spikes, 0.0)
    operations = _operations(sent.events, sent.stage, masks, steps)
    if isinstance(sent.stage, Weights) and sent.stage.feedback is not None:
        # What is sent too late to arrive within the sample is no operation.
        operations += _operations(
            sent.payload[: steps - sent.stage.late], sent.stage.feedback, masks, steps - sent.stage.late
        )
    return Activity(spikes, operations)


def _operations(events: Tensor, stage: Stage, masks: dict[str, Tensor], steps: int) -> float:
    arrived = events.sum((0, 1), dtype=torch.float64) * (steps / len(events))
    return float((arrived * stage.fan_out(masks.get(stage.name))).sum())


def figures(network: SpikingNetwork, masks: list[Tensor], x: Tensor, y: Tensor) -> dict[str, Any]:
    """Accuracy, connectivity in total and per layer, spikes, silent neurons and synaptic operations per sample.

    connectivity: of weights, as pruning counts them; synapse_connectivity: of the synapses that they make, where
    an entry of a kernel counts at every place. spikes_per_neuron: mean over samples and neurons in one window, for each
    population, the input included. silent_neurons: neurons that no sample made spike.  synaptic_operations: spikes
    that arrive within a sample times surviving fan-out, per sample, for each population that is reached, what recurrent
    weights do included; the host's products (current coding) are not among them. A readout, which never spikes, has
    neither spikes nor silent neurons.
    """
    right, size = 0, batch_size(network)
    by_name = {layer.name: mask for layer, mask in zip(network.layers, masks, strict=True)}
    found: dict[str, Activity] = {}
    for start in range(0, len(x), size):
        for sent in network.walk(x[start : start + size]):
            name = sent.stage.name if sent.stage is not None else "input"
            one = _activity(sent, network, by_name)
            found[name] = found[name].add(one) if name in found else one
            outputs = sent.payload
        right += int((network.decisions(outputs) == y[start : start + size]).sum())
    operations = {name: one.operations / len(x) for name, one in found.items() if one.operations is not None}
    silent_kind = {layer.name for layer in network.populations if layer.neurons.reset == "none"}
    spiking = {name: one.spikes for name, one in found.items() if name not in silent_kind}
    uses = [layer.uses() for layer in network.layers]
    synapses = [int((mask * use).sum()) for mask, use in zip(masks, uses, strict=True)]
    possible = [int((torch.ones_like(mask) * use).sum()) for mask, use in zip(masks, uses, strict=True)]
    names = list(by_name)
    return {
        "accuracy": right / len(x),
        "test_samples": len(x),
        "connectivity": connectivity(masks),
        "connectivity_per_layer": by_layer(network, masks),
        "weights_per_layer": {name: int(mask.sum()) for name, mask in by_name.items()},
        "synapse_connectivity": sum(synapses) / sum(possible),
        "synapses_per_layer": dict(zip(names, synapses, strict=True)),
        "spikes_per_neuron": {name: float(spikes.sum()) / len(x) / spikes.numel() for name, spikes in spiking.items()},
        "silent_neurons": {name: int((spikes == 0).sum()) for name, spikes in spiking.items()},
        "synaptic_operations": operations,
        "synaptic_operations_total": sum(operations.values()),
    }

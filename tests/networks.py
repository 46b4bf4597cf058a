"""Small trained-looking models for tests of the command line, made without training."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def checkpoint(
    sizes: tuple[int, ...] = (64, 32, 10), *, connectivity: float = 0.4, seed: int = 0, **changes: Any
) -> dict:
    """The content of a model.pt for the digits: random weights, rate inputs."""
    import torch

    random = np.random.default_rng(seed)
    layers = []
    for k, (n_in, n_out) in enumerate(itertools.pairwise(sizes), start=1):
        mask = random.random((n_out, n_in)) < connectivity
        mask[random.integers(0, n_out, n_in), np.arange(n_in)] = True
        weight = np.where(mask, random.normal(0.1, 0.6, mask.shape), 0).astype(np.float32)
        layers.append(
            {
                "name": f"fc{k}",
                "weight": torch.from_numpy(weight),
                "mask": torch.from_numpy(mask),
                "bias": None,
                "weight_step": None,
                "weight_bits": None,
                "neuron": {"kind": "lif", "tau": 2.0, "threshold": 1.0, "reset": "zero", "compare": ">"},
            }
        )
    content = {
        "format": "snnc-model",
        "version": 1,
        "name": "small",
        "seed": seed,
        "recipe": {"name": "small", "data": {"dataset": "digits"}},
        "versions": {"snnc": "0.1.0"},
        "steps": 8,
        "input": {"size": sizes[0], "coding": "rate", "threshold": 127, "scale": 1.0, "offset": 0.0},
        "layers": layers,
        "metrics": {},
    }
    return {**content, **changes}


def map_checkpoint(*, seed: int = 0, **changes: Any) -> dict:
    """A model.pt of version 2 for the digits with a layer of nearly every kind: random weights, rate inputs.

    Convolution, batch norm, soft reset, max pooling, a depthwise convolution with refractory neurons, a residual sum,
    average pooling, current-based neurons that excite themselves, a delayed copy of them, concatenation and a readout.
    """
    import torch

    random = np.random.default_rng(seed)

    def weights(*shape: int, scale: float = 0.5) -> dict[str, Any]:
        mask = random.random(shape) < 0.8
        weight = np.where(mask, random.normal(0.1, scale, shape), 0).astype(np.float32)
        tensors = {"weight": torch.from_numpy(weight), "mask": torch.from_numpy(mask)}
        return {**tensors, "weight_step": None, "weight_bits": None}

    def layer(name: str, op: str, *inputs: str, **fields: Any) -> dict[str, Any]:
        return {"name": name, "op": op, "inputs": list(inputs), **fields}

    def conv(name: str, source: str, *shape: int, groups: int = 1) -> dict[str, Any]:
        edge = {"stride": [1, 1], "padding": [shape[2] // 2] * 2, "dilation": [1, 1], "groups": groups, "bias": None}
        return layer(name, "conv2d", source, **weights(*shape), **edge)

    def neuron(name: str, source: str, **fields: Any) -> dict[str, Any]:
        plain = {"threshold": 1.0, "gain": 0.5, "current_decay": 1.0, "voltage_decay": 0.5, "reset": "zero"}
        return layer(name, "neuron", source, **{**plain, "refractory": 0, "recurrent": None, **fields})

    halves = {"kernel": [2, 2], "stride": [2, 2], "padding": [0, 0]}
    norm = {
        "scale": torch.from_numpy(random.uniform(0.5, 2, 4).astype(np.float32)),
        "shift": torch.from_numpy(random.normal(0, 0.2, 4).astype(np.float32)),
    }
    loop = {"name": "loop", **weights(6, 6, 3, 3, scale=0.2), "delay": 1}
    head = weights(10, 48)
    content = {
        "format": "snnc-model",
        "version": 2,
        "name": "maps",
        "seed": seed,
        "recipe": {"name": "maps", "data": {"dataset": "digits"}},
        "versions": {"snnc": "0.1.0"},
        "steps": 6,
        "input": {"shape": [1, 8, 8], "coding": "rate", "threshold": 127, "scale": 1.0, "offset": 0.0},
        "layers": [
            conv("conv1", "input", 4, 1, 3, 3),
            layer("norm1", "batch_norm", "conv1", **norm),
            neuron("soft", "norm1", reset="subtract"),
            layer("max", "max_pool", "soft", **halves),
            conv("conv2", "max", 4, 1, 3, 3, groups=4),
            neuron("tired", "conv2", refractory=1),
            layer("sum", "add", "max", "tired"),
            layer("mean", "avg_pool", "sum", **halves),
            conv("conv3", "mean", 6, 4, 1, 1),
            neuron("slow", "conv3", gain=1.0, current_decay=0.5, voltage_decay=0.25, recurrent=loop),
            layer("flat", "flatten", "slow"),
            layer("late", "delay", "flat", steps=2),
            layer("both", "concat", "flat", "late"),
            layer("fc", "linear", "both", **head, bias=torch.from_numpy(random.normal(0, 0.1, 10).astype(np.float32))),
            neuron("out", "fc", reset="none"),
        ],
        "metrics": {},
    }
    return {**content, **changes}


def write_checkpoint(path: Path, make: Callable[..., dict] = checkpoint, **options: Any) -> Path:
    """Write such a model and return its path."""
    import torch

    torch.save(make(**options), path)
    return path

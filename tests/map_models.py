"""Small model.pt files (version 2) with maps, made without training: layers as dictionaries, and the whole model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

Layer = dict[str, Any]


def _weighted(name: str, op: str, read: str, shape: tuple[int, ...], density: float, seed: int, extra: Layer) -> Layer:
    import torch

    random = np.random.default_rng(seed)
    mask = random.random(shape) < density
    fan_in = max(1.0, float(np.prod(shape[1:])) * density)
    weight = np.where(mask, random.normal(1 / fan_in, 2 / np.sqrt(fan_in), shape), 0).astype(np.float32)
    return {
        "name": name,
        "op": op,
        "inputs": [read],
        "bias": None,
        "weight_step": None,
        "weight_bits": None,
        "weight": torch.from_numpy(weight),
        "mask": torch.from_numpy(mask),
        **extra,
    }


def linear(name: str, read: str, n_in: int, n_out: int, *, density: float = 1.0, seed: int = 0) -> Layer:
    """A dense layer with normal weights."""
    return _weighted(name, "linear", read, (n_out, n_in), density, seed, {})


def conv2d(
    name: str, read: str, shape: tuple[int, int, int, int], *, density: float = 1.0, seed: int = 0, **changes: Any
) -> Layer:
    """A convolution of stride 1 without padding; shape: (out, in / groups, height, width)."""
    extra = {"stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1, **changes}
    return _weighted(name, "conv2d", read, shape, density, seed, extra)


def pool(name: str, read: str, kind: str = "max_pool", size: int = 2) -> Layer:
    """A pooling layer whose windows do not overlap."""
    return {"name": name, "op": kind, "inputs": [read], "kernel": [size] * 2, "stride": [size] * 2, "padding": [0, 0]}


def neuron(name: str, read: str, **changes: Any) -> Layer:
    """Grad R's neuron of time constant 2."""
    fields = {"threshold": 1.0, "gain": 0.5, "current_decay": 1.0, "voltage_decay": 0.5}
    return {
        "name": name,
        "op": "neuron",
        "inputs": [read],
        **fields,
        "reset": "zero",
        "refractory": 0,
        "recurrent": None,
        **changes,
    }


def plain(name: str, op: str, *read: str, **extra: Any) -> Layer:
    """A layer without weights: flatten, add, concat, delay."""
    return {"name": name, "op": op, "inputs": list(read), **extra}


def recurrent(name: str, n: int, delay: int = 1, seed: int = 0) -> Layer:
    """The recurrent layer of n neurons, for `neuron(recurrent=...)`."""
    own = linear(name, "", n, n, density=0.5, seed=seed)
    return {**{key: own[key] for key in ("name", "weight", "mask", "weight_step", "weight_bits")}, "delay": delay}


def digits_layers(channels: int = 4) -> list[Layer]:
    """For the digits (1 x 8 x 8): convolution, max pooling, a residual block, a recurrent layer, the output."""
    n = channels * 16
    return [
        conv2d("conv1", "input", (channels, 1, 3, 3), padding=[1, 1], seed=1),
        neuron("spikes1", "conv1"),
        pool("pool1", "spikes1"),
        conv2d("conv2", "pool1", (channels, 1, 3, 3), padding=[1, 1], groups=channels, seed=2),
        plain("sum", "add", "conv2", "pool1"),
        neuron("spikes2", "sum", reset="subtract"),
        plain("flat", "flatten", "spikes2"),
        linear("fc1", "flat", n, 16, density=0.6, seed=3),
        neuron("spikes3", "fc1", current_decay=0.5, recurrent=recurrent("back", 16)),
        linear("fc2", "spikes3", 16, 10, seed=4),
        neuron("out", "fc2"),
    ]


def model(layers: list[Layer], shape: tuple[int, ...] = (1, 8, 8), **changes: Any) -> dict[str, Any]:
    """The content of a model.pt of version 2 for the digits."""
    content = {
        "format": "snnc-model",
        "version": 2,
        "name": "maps",
        "seed": 0,
        "recipe": {"name": "maps", "data": {"dataset": "digits"}},
        "versions": {"snnc": "0.1.0"},
        "steps": 6,
        "input": {"shape": list(shape), "coding": "rate", "threshold": 127, "scale": 1.0, "offset": 0.0},
        "layers": layers,
        "metrics": {},
    }
    return {**content, **changes}


def write_model(path: Path, layers: list[Layer], shape: tuple[int, ...] = (1, 8, 8), **changes: Any) -> Path:
    """Write such a model and return its path."""
    import torch

    torch.save(model(layers, shape, **changes), path)
    return path

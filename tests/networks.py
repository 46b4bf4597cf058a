"""Small trained-looking models for tests of the command line, made without training."""

from __future__ import annotations

import itertools
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


def write_checkpoint(path: Path, **options: Any) -> Path:
    """Write such a model and return its path."""
    import torch

    torch.save(checkpoint(**options), path)
    return path

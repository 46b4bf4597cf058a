"""Files of a training run: the checkpoint that continues it, and the model that it ends with."""

from __future__ import annotations

import io
import pickle
import platform
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import toolchain
from toolchain.errors import SnncError
from toolchain.files import atomic_write
from toolchain.training import quantise
from toolchain.training.modules import SpikingNetwork

CHECKPOINT_VERSION = 1
MODEL_VERSION = 1


def save(path: Path, content: dict[str, Any]) -> None:
    """Write plain tensors and values, whole or not at all.

    Raises:
        SnncError: the file system refused.
    """
    # torch.save would hide a full disk in an error of its own, so it writes to memory.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with atomic_write(path) as stream:
        stream.write(buffer.getbuffer())


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint; nothing in it is executed.

    Raises:
        SnncError: missing, damaged, or of another version.
    """
    try:
        content = torch.load(path, weights_only=True)
    except FileNotFoundError:
        raise SnncError(
            f"there is no checkpoint in {path.parent}",
            where=str(path),
            remedy="start without --resume",
        ) from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise SnncError(
            f"{path} is damaged or no checkpoint",
            where=str(path),
            got=str(error).splitlines()[0] if str(error) else type(error).__name__,
            remedy="start again without --resume",
        ) from None
    if not isinstance(content, dict) or content.get("format") != "snnc-checkpoint":
        raise SnncError(f"{path} is not a checkpoint of snnc", where=str(path))
    if content["version"] != CHECKPOINT_VERSION:
        raise SnncError(
            f"{path} was written by another version of snnc",
            where=str(path),
            got=content["version"],
            allowed=CHECKPOINT_VERSION,
            remedy="continue with the version that began it, or start again without --resume",
        )
    return content


def model(network: SpikingNetwork, masks: list[Tensor], metrics: dict[str, Any]) -> dict[str, Any]:
    """The trained network as a plain dictionary (docs/formats.md).

    Weights trained on an integer grid are written as the grid's own values, so rounding them again changes nothing.
    Graded inputs are folded into the first layer: their payload counts as it is, with scale 1.
    """
    recipe = network.recipe
    net = recipe.network
    scale = network.input_scale
    fold = scale.scale if recipe.input.coding == "graded" else 1.0
    inputs: dict[str, Any] = {
        "size": network.layers[0].weight.shape[1],
        "coding": recipe.input.coding,
        "scale": scale.scale / fold,
        "offset": scale.offset,
    }
    if recipe.input.coding == "rate":
        inputs["threshold"] = recipe.input.threshold
    if recipe.input.coding == "graded":
        inputs["payload_bits"] = recipe.input.payload_bits
    first = network.layers[0].grid
    if recipe.input.coding == "current" and first is not None:
        inputs["shift"] = first.shift
    layers = []
    for index, (layer, mask) in enumerate(zip(network.layers, masks, strict=True)):
        factor = fold if index == 0 else 1.0
        weight, step = layer.weight.detach().double(), None
        if layer.grid is not None:
            step = layer.grid.step * factor
            weight = quantise.mantissas(layer.weight.detach(), layer.grid).double() * layer.grid.step
        layers.append(
            {
                "name": layer.name,
                "weight": (weight * factor * mask).float(),
                "mask": mask.clone(),
                "bias": None if layer.bias is None else layer.bias.detach().clone(),
                "weight_step": step,
                "weight_bits": None if layer.grid is None else recipe.quantise.bits,
                "neuron": {
                    "kind": "lif",
                    "tau": net.tau,
                    "threshold": net.threshold,
                    "reset": "zero",
                    "compare": ">",
                },
            }
        )
    return {
        "format": "snnc-model",
        "version": MODEL_VERSION,
        "name": recipe.name,
        "seed": recipe.seed,
        "recipe": recipe.to_dict(),
        "versions": {
            "snnc": toolchain.__version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
        "steps": net.steps,
        "input": inputs,
        "layers": layers,
        "metrics": metrics,
    }

"""Files of a training run: the checkpoint that continues it, and the model that it ends with."""

from __future__ import annotations

import io
import math
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
from toolchain.training.architecture import INPUT, READOUT, NeuronOptions
from toolchain.training.layers import ToMap, Weights
from toolchain.training.modules import SpikingNetwork

CHECKPOINT_VERSION = 4
MODEL_VERSION = 2


def save(path: Path, content: dict[str, Any]) -> None:
    """Write plain tensors and values, whole or not at all.

    Raises:
        SnncError: the file system refused.
    """
    # torch.save would hide a full disk in an error of its own, so it writes to memory.
    buffer = io.BytesIO()
    torch.save(_on_processor(content), buffer)
    with atomic_write(path) as stream:
        stream.write(buffer.getbuffer())


def _on_processor(value: Any) -> Any:
    """Nested dictionaries and lists with all their tensors there, so that a file can be read anywhere."""
    if isinstance(value, Tensor):
        return value.cpu()
    if isinstance(value, dict):
        return {key: _on_processor(item) for key, item in value.items()}
    return [_on_processor(item) for item in value] if isinstance(value, list) else value


def load(path: Path, device: torch.device) -> dict[str, Any]:
    """Read a checkpoint onto a device; nothing in it is executed.

    Raises:
        SnncError: missing, damaged, or of another version.
    """
    try:
        content = torch.load(path, weights_only=True, map_location=device)
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
    Graded inputs are folded into the first layer: their payload counts as it is, with scale 1. What pools divide by
    is folded into the weights after them.
    """
    recipe = network.recipe
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
        "steps": recipe.network.steps,
        "input": _input(network),
        "layers": _layers(network, masks),
        "metrics": metrics,
    }


def _input(network: SpikingNetwork) -> dict[str, Any]:
    options, scale = network.recipe.input, network.input_scale
    shape = network.input_shape
    entry: dict[str, Any] = {
        "shape": list(shape) if isinstance(network.stages[0], ToMap) else [math.prod(shape)],
        "coding": options.coding,
        "scale": scale.scale / _input_fold(network),
        "offset": scale.offset,
    }
    if options.coding == "rate":
        entry["threshold"] = options.threshold
    if options.coding == "graded":
        entry["payload_bits"] = options.payload_bits
    hosted = [layer.grid for layer in network.layers if network.on_host(layer) and layer.grid is not None]
    if hosted:
        entry["shift"] = hosted[0].shift
    return entry


def _input_fold(network: SpikingNetwork) -> float:
    """What weights from the input are multiplied by in place of its scale."""
    return network.input_scale.scale if network.recipe.input.coding == "graded" else 1.0


def _layers(network: SpikingNetwork, masks: list[Tensor]) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    by_name = {layer.name: mask for layer, mask in zip(network.layers, masks, strict=True)}

    # The name under which each part's output stands in the file.
    stands = {INPUT: INPUT}

    def add(name: str, entry: dict[str, Any], *inputs: str) -> str:
        entries.append({"name": name, "inputs": list(inputs), **entry})
        return name

    for stage in network.stages:
        entry, inputs = stage.entry(), [stands[name] for name in stage.inputs]
        if entry is None:
            (stands[stage.name],) = inputs
        elif isinstance(stage, Weights):
            read = add(f"{stage.name}.weight", {**entry, **_weights(network, stage, by_name[stage.name])}, *inputs)
            stands[stage.name] = add(stage.name, _neuron(stage.neurons, _recurrent(network, stage, by_name)), read)
        else:
            stands[stage.name] = add(stage.name, entry, *inputs)
    votes = network.recipe.network.vote
    if votes > 1:
        ballots = torch.eye(network.classes).repeat_interleave(votes, dim=1)
        bits = network.recipe.quantise.bits if network.on_grid else None
        step = 1.0 if network.on_grid else None
        counts = {"weight": ballots, "mask": ballots > 0, "bias": None, "weight_step": step, "weight_bits": bits}
        add("vote", _neuron(READOUT), add("vote.weight", {"op": "linear", **counts}, entries[-1]["name"]))
    return entries


def _recurrent(network: SpikingNetwork, layer: Weights, masks: dict[str, Tensor]) -> dict[str, Any] | None:
    back = layer.feedback
    if back is None:
        return None
    return {"name": back.name, "delay": layer.late, **_weights(network, back, masks[back.name])}


def _weights(network: SpikingNetwork, layer: Weights, mask: Tensor) -> dict[str, Any]:
    factor = layer.factor * (_input_fold(network) if layer.outside else 1.0)
    weight, step = layer.weight.detach().double(), None
    if layer.grid is not None:
        step = layer.grid.step * factor
        weight = quantise.mantissas(layer.weight.detach(), layer.grid).double() * layer.grid.step
    return {
        "weight": (weight * factor * mask).float(),
        "mask": mask.clone(),
        "bias": None if layer.bias is None else layer.bias.detach().clone(),
        "weight_step": step,
        "weight_bits": None if layer.grid is None else network.recipe.quantise.bits,
    }


def _neuron(options: NeuronOptions, recurrent: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "op": "neuron",
        "threshold": options.threshold,
        "gain": 1 / options.resistance,
        "current_decay": options.current_decay,
        "voltage_decay": options.voltage_decay,
        "reset": options.reset,
        "refractory": options.refractory,
        "recurrent": recurrent,
    }

"""Weights of a layer in a model.pt, the same in every version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from toolchain.errors import Diagnostic
from toolchain.frontends.entries import Entries
from toolchain.frontends.layers import outside
from toolchain.ir.graph import EXPONENT_MAX

WEIGHT_KEYS = ("weight", "mask", "bias", "weight_step", "weight_bits")
WEIGHT_OPTIONAL = ("weight_exponent",)


def read_weights(
    entries: Entries, layer: Mapping[Any, Any], place: str, name: str, ndim: int, diagnostics: list[Diagnostic]
) -> dict[str, Any]:
    """weight float32, mask bool, bias float32 or None, and the grid: the fields of `layers.Weighted`.

    name: of the layer, where it is said that weights outside the mask were ignored.

    Raises:
        SnncError: wrong kinds, shapes that differ, values that are no numbers, or half a grid.
    """
    weight = entries.tensor(layer["weight"], torch.float32, ndim, f"{place}.weight")
    mask = entries.tensor(layer["mask"], torch.bool, ndim, f"{place}.mask")
    if mask.shape != weight.shape:
        raise entries.refuse("mask and weight differ in shape", f"{place}.mask", got=mask.shape, allowed=weight.shape)
    entries.finite(weight, f"{place}.weight")
    bias = None
    if layer.get("bias") is not None:
        bias = entries.tensor(layer["bias"], torch.float32, 1, f"{place}.bias")
        if bias.shape != weight.shape[:1]:
            each = "neuron" if ndim == 2 else "output channel"
            raise entries.refuse(f"one bias for each {each}", f"{place}.bias", got=bias.shape, allowed=weight.shape[:1])
        entries.finite(bias, f"{place}.bias")
    diagnostics.extend(outside(name, weight, mask))
    step, bits = _grid(entries, layer, place)
    grid = {"weight_step": step, "weight_bits": bits, "weight_exponent": _exponent(entries, layer, place)}
    return {"weight": weight, "mask": mask, "bias": bias, **grid}


def _grid(entries: Entries, layer: Mapping[Any, Any], place: str) -> tuple[float | None, int | None]:
    if layer["weight_step"] is None and layer["weight_bits"] is None:
        return None, None
    if layer["weight_step"] is None or layer["weight_bits"] is None:
        raise entries.refuse("weight_step and weight_bits stand together or not at all", place)
    step = entries.number(layer, "weight_step", place)
    if not step > 0:
        raise entries.refuse("the weight step must be positive", f"{place}.weight_step", got=step)
    return step, entries.whole(layer, "weight_bits", place, low=1, high=8)


def _exponent(entries: Entries, layer: Mapping[Any, Any], place: str) -> int | None:
    """Of weights that were trained in registers."""
    if layer.get("weight_exponent") is None:
        return None
    if layer["weight_step"] is None:
        raise entries.refuse("a trained exponent needs a trained step", f"{place}.weight_exponent")
    return entries.whole(layer, "weight_exponent", place, low=0, high=EXPONENT_MAX)

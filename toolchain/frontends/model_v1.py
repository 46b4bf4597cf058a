"""Layers of a model.pt of version 1: dense, one behind another, each with its own neurons.

Each has `weight` (out, in) float32, `mask` (out, in) bool, `bias` or None, `weight_step` and `weight_bits` where
training kept to an integer grid, and a `neuron`. A synapse exists exactly where the mask is set.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from toolchain.errors import Diagnostic
from toolchain.frontends.entries import Entries, shown
from toolchain.frontends.layers import Linear, Neuron, Node
from toolchain.frontends.model_weights import WEIGHT_KEYS, read_weights

SIZE_MAX = (1 << 31) - 1
LAYER_KEYS = ("name", *WEIGHT_KEYS, "neuron")
NEURON_KEYS = ("kind", "tau", "threshold", "reset", "compare")
NEURON_CHOICES = {"kind": "lif", "reset": "zero", "compare": ">"}
"""What this version of the format computes; anything else would be another neuron."""


def input_shape(entries: Entries, given: Mapping[Any, Any]) -> tuple[int, ...]:
    size = entries.whole(given, "size", "input", low=1, high=SIZE_MAX)
    if size * 4 > entries.unclaimed_bytes:
        raise entries.refuse("the file is too small for the weights of such an input", "input.size", got=size)
    return (size,)


def read(entries: Entries, layers: list[Any], diagnostics: list[Diagnostic]) -> Iterator[Node]:
    """Two layers for each: the weights, called after the neurons, and the neurons."""
    before, names = "input", {"input", ""}
    for number, layer in enumerate(layers):
        place = f"layers[{number}]"
        if not isinstance(layer, dict):
            raise entries.refuse("a layer must be a dictionary", place, got=type(layer).__name__)
        entries.require(layer, LAYER_KEYS, place)
        name = entries.text(layer, "name", place)
        place = f"{place} {name[:80]!r}"
        entries.known(layer, LAYER_KEYS, place)
        if name in names:
            raise entries.refuse(
                "layer names must be unique", place, got=repr(name[:80]), allowed="not 'input', not empty"
            )
        names.add(name)
        weights = read_weights(entries, layer, place, name, 2, diagnostics)
        yield Linear(name=f"{name}.weight", inputs=(before,), place=f"{entries.path}, {place}.weight", **weights)
        yield _neuron(entries, layer, place, name)
        before = name


def _neuron(entries: Entries, layer: Mapping[Any, Any], place: str, name: str) -> Neuron:
    neuron = entries.mapping(layer, "neuron", place)
    at = f"{place}.neuron"
    entries.require(neuron, NEURON_KEYS, at)
    entries.known(neuron, NEURON_KEYS, at)
    for key, allowed in NEURON_CHOICES.items():
        if not isinstance(neuron[key], str) or neuron[key] != allowed:
            raise entries.refuse(
                f"a neuron with this {key} is not supported",
                f"{at}.{key}",
                got=shown(neuron[key]),
                allowed=repr(allowed),
                remedy="train with this one: it is never replaced in silence",
            )
    tau = entries.number(neuron, "tau", at)
    if not tau > 1:
        raise entries.refuse("the time constant must exceed one step", f"{at}.tau", got=tau, allowed="more than 1")
    threshold = entries.number(neuron, "threshold", at)
    if not threshold > 0:
        raise entries.refuse("the threshold must be positive", f"{at}.threshold", got=threshold)
    return Neuron(
        name=name,
        inputs=(f"{name}.weight",),
        place=f"{entries.path}, {place}",
        threshold=threshold,
        gain=1 / tau,
        current_decay=1.0,
        voltage_decay=1 / tau,
    )

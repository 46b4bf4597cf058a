"""Layers of a model.pt of version 2: in the order of computation, each naming the layers that it reads."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from toolchain.errors import Diagnostic
from toolchain.frontends import layers as nodes
from toolchain.frontends.entries import Entries
from toolchain.frontends.model_weights import WEIGHT_KEYS, WEIGHT_OPTIONAL, read_weights
from toolchain.frontends.network import SIZE_LIMIT, TERMS_LIMIT
from toolchain.ir.neurons import REFRACTORY_LIMIT, RESETS

DELAY_MAX = 1 << 16
COMMON_KEYS = ("name", "op", "inputs")
RECURRENT_KEYS = ("name", "weight", "mask", "weight_step", "weight_bits", "delay")
LIMITS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "threshold": (lambda x: x > 0, "more than 0"),
    "gain": (lambda x: x > 0, "more than 0"),
    "current_decay": (lambda x: (x > 0) & (x <= 1), "more than 0, at most 1"),
    "voltage_decay": (lambda x: (x >= 0) & (x <= 1), "0 to 1"),
}
"""Parameter of neurons -> what holds for it, and in words."""


def input_shape(entries: Entries, given: Mapping[Any, Any]) -> tuple[int, ...]:
    return _axes(entries, given, "input")


def _axes(entries: Entries, given: Mapping[Any, Any], place: str) -> tuple[int, ...]:
    shape, where = entries.entry(given, "shape", place)
    if not isinstance(shape, (list, tuple)) or len(shape) not in (1, 3):
        raise entries.refuse("must be [n] or [channels, height, width]", where, got=type(shape).__name__)
    axes = tuple(entries.whole({"": axis}, "", where, low=1, high=SIZE_LIMIT) for axis in shape)
    if math.prod(axes) > SIZE_LIMIT:
        raise entries.refuse("the shape is too large", where, got=axes, allowed=f"{SIZE_LIMIT} values")
    return axes


def read(entries: Entries, layers: list[Any], diagnostics: list[Diagnostic]) -> Iterator[nodes.Node]:
    """The layers in order, each checked when it is asked for."""
    for number, layer in enumerate(layers):
        place = f"layers[{number}]"
        if not isinstance(layer, dict):
            raise entries.refuse("a layer must be a dictionary", place, got=type(layer).__name__)
        entries.require(layer, COMMON_KEYS, place)
        name = entries.text(layer, "name", place)
        place = f"{place} {name[:80]!r}"
        op = OPS[entries.one_of(layer, "op", place, OPS)]
        entries.require(layer, op.keys, place)
        entries.known(layer, (*COMMON_KEYS, *op.keys, *op.optional), place)
        inputs = _inputs(entries, layer, place, op)
        fields = op.read(entries, layer, place, name, diagnostics)
        yield op.node(name=name, inputs=inputs, place=f"{entries.path}, {place}", **fields)


def _inputs(entries: Entries, layer: Mapping[Any, Any], place: str, op: _Op) -> tuple[str, ...]:
    inputs, where = entries.entry(layer, "inputs", place)
    if not isinstance(inputs, (list, tuple)) or not all(isinstance(name, str) for name in inputs):
        raise entries.refuse("must be a list of names of layers", where, got=type(inputs).__name__)
    if not op.least <= len(inputs) <= op.most:
        allowed = "1" if op.most == 1 else f"{op.least} or more"
        raise entries.refuse("a wrong number of inputs", where, got=len(inputs), allowed=allowed)
    return tuple(inputs)


Reader = Callable[[Entries, Mapping[Any, Any], str, str, list[Diagnostic]], dict[str, Any]]


@dataclass(frozen=True)
class _Op:
    """A kind of layer. read: its own entries as fields of the node.  least, most: how many layers it reads."""

    node: type[nodes.Node]
    keys: tuple[str, ...]
    read: Reader
    least: int = 1
    most: int = 1
    optional: tuple[str, ...] = ()


def _linear(entries: Entries, layer: Mapping[Any, Any], place: str, name: str, found: list[Diagnostic]) -> dict:
    return read_weights(entries, layer, place, name, 2, found)


def _conv2d(entries: Entries, layer: Mapping[Any, Any], place: str, name: str, found: list[Diagnostic]) -> dict:
    return {
        **read_weights(entries, layer, place, name, 4, found),
        "stride": entries.pair(layer, "stride", place, low=1),
        "padding": _padding(entries, layer, place),
        "dilation": entries.pair(layer, "dilation", place, low=1),
        "groups": entries.whole(layer, "groups", place, low=1),
    }


def _padding(entries: Entries, layer: Mapping[Any, Any], place: str) -> tuple[nodes.Pair, nodes.Pair]:
    """[y, x], or [[top, bottom], [left, right]]."""
    given = layer["padding"]
    if isinstance(given, (list, tuple)) and given and all(isinstance(sides, (list, tuple)) for sides in given):
        y, x = entries.two(given, f"{place}.padding", "two pairs, [[top, bottom], [left, right]]")
        sides = [entries.pair({"": part}, "", f"{place}.padding", low=0) for part in (y, x)]
        return sides[0], sides[1]
    y, x = entries.pair(layer, "padding", place, low=0)
    return (y, y), (x, x)


def _batch_norm(entries: Entries, layer: Mapping[Any, Any], place: str, name: str, found: list[Diagnostic]) -> dict:
    values = {}
    for key in ("scale", "shift"):
        values[key] = entries.tensor(layer[key], torch.float32, 1, f"{place}.{key}").astype(np.float64)
        entries.finite(values[key], f"{place}.{key}")
    return values


def _pool(entries: Entries, layer: Mapping[Any, Any], place: str, name: str, found: list[Diagnostic]) -> dict:
    kernel, padding = entries.pair(layer, "kernel", place, low=1), entries.pair(layer, "padding", place, low=0)
    if any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
        raise entries.refuse(
            "more padding than half a window", f"{place}.padding", got=padding, allowed=f"{kernel}, halved"
        )
    return {"kernel": kernel, "stride": entries.pair(layer, "stride", place, low=1), "padding": padding}


def _reshape(entries: Entries, layer: Mapping[Any, Any], place: str, name: str, found: list[Diagnostic]) -> dict:
    return {"shape": _axes(entries, layer, place)}


def _bias(entries: Entries, layer: Mapping[Any, Any], place: str, name: str, found: list[Diagnostic]) -> dict:
    bias = entries.tensor(layer["bias"], torch.float32, 1, f"{place}.bias").astype(np.float64)
    entries.finite(bias, f"{place}.bias")
    return {"bias": bias}


def _nothing(entries: Entries, layer: Mapping[Any, Any], place: str, name: str, found: list[Diagnostic]) -> dict:
    return {}


def _delay(entries: Entries, layer: Mapping[Any, Any], place: str, name: str, found: list[Diagnostic]) -> dict:
    return {"steps": entries.whole(layer, "steps", place, low=0, high=DELAY_MAX)}


def _neuron(entries: Entries, layer: Mapping[Any, Any], place: str, name: str, found: list[Diagnostic]) -> dict:
    fields: dict[str, Any] = {key: _reals(entries, layer, key, place) for key in LIMITS}
    fields["reset"] = entries.one_of(layer, "reset", place, RESETS)
    fields["refractory"] = entries.whole(layer, "refractory", place, low=0, high=REFRACTORY_LIMIT)
    if fields["refractory"] and fields["reset"] != "zero":
        raise entries.refuse(
            "a refractory period needs a reset to zero",
            f"{place}.refractory",
            got=fields["refractory"],
            allowed="0, or reset 'zero'",
        )
    if layer["recurrent"] is not None:
        fields["recurrent"] = _recurrent(entries, entries.mapping(layer, "recurrent", place), place, found)
    return fields


def _reals(entries: Entries, layer: Mapping[Any, Any], key: str, place: str) -> Any:
    """One number, or float64 numbers that broadcast to the neurons."""
    value, where = entries.entry(layer, key, place)
    if isinstance(value, torch.Tensor):
        value = entries.tensor(value, torch.float64, min(max(value.ndim, 1), 3), where)
        entries.finite(value, where)
    else:
        value = entries.number(layer, key, place)
    holds, allowed = LIMITS[key]
    if not np.all(holds(np.asarray(value))):
        raise entries.refuse(
            "the value has no meaning", where, got=value if isinstance(value, float) else None, allowed=allowed
        )
    return value


def _recurrent(entries: Entries, layer: Mapping[Any, Any], place: str, found: list[Diagnostic]) -> nodes.Recurrence:
    """From neurons to themselves: dense, or a convolution of stride 1 that keeps the size of their map."""
    place = f"{place}.recurrent"
    entries.require(layer, RECURRENT_KEYS, place)
    entries.known(layer, (*RECURRENT_KEYS, "bias", *WEIGHT_OPTIONAL), place)
    name = entries.text(layer, "name", place)
    delay = entries.whole(layer, "delay", place, high=DELAY_MAX)
    ndim = layer["weight"].ndim if isinstance(layer["weight"], torch.Tensor) else 2
    weights = read_weights(entries, layer, place, name, 4 if ndim == 4 else 2, found)
    common: dict[str, Any] = {"name": name, "inputs": ("its own spikes",), "place": f"{entries.path}, {place}"}
    if ndim != 4:
        return nodes.Recurrence(nodes.Linear(**common, **weights), delay)
    (y, x) = weights["weight"].shape[2:]
    padding = (((y - 1) // 2, y // 2), ((x - 1) // 2, x // 2))
    return nodes.Recurrence(nodes.Conv2d(**common, **weights, padding=padding), delay)


OPS: dict[str, _Op] = {
    "linear": _Op(nodes.Linear, WEIGHT_KEYS, _linear, optional=WEIGHT_OPTIONAL),
    "conv2d": _Op(
        nodes.Conv2d,
        (*WEIGHT_KEYS, "stride", "padding", "dilation", "groups"),
        _conv2d,
        optional=WEIGHT_OPTIONAL,
    ),
    "batch_norm": _Op(nodes.BatchNorm, ("scale", "shift"), _batch_norm),
    "sum_pool": _Op(nodes.SumPool, ("kernel", "stride", "padding"), _pool),
    "avg_pool": _Op(nodes.AvgPool, ("kernel", "stride", "padding"), _pool),
    "max_pool": _Op(nodes.MaxPool, ("kernel", "stride", "padding"), _pool),
    "flatten": _Op(nodes.Flatten, (), _nothing),
    "reshape": _Op(nodes.Reshape, ("shape",), _reshape),
    "bias": _Op(nodes.Bias, ("bias",), _bias),
    "add": _Op(nodes.Add, (), _nothing, 2, TERMS_LIMIT),
    "concat": _Op(nodes.Concat, (), _nothing, 1, TERMS_LIMIT),
    "delay": _Op(nodes.Delay, ("steps",), _delay),
    "neuron": _Op(nodes.Neuron, (*LIMITS, "reset", "refractory", "recurrent"), _neuron),
}
"""Every kind of layer by its entry `op`."""

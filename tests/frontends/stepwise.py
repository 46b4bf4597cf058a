"""Layers run in torch, step by step in float64: what a lowered graph must equal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from toolchain.frontends import layers
from toolchain.ir import Input


def simulate(
    nodes: Sequence[layers.Node], source: Input, shape: tuple[int, ...], steps: int, samples: NDArray[np.integer]
) -> dict[str, NDArray[np.float64]]:
    """What every layer gives at each step: name -> (steps, n_samples, *shape). Of neurons, of a readout its v."""
    payload = source.offset + source.scale * source.encode(samples, steps)
    state: dict[str, Any] = {}
    out: dict[str, list[torch.Tensor]] = {node.name: [] for node in nodes}
    out[source.name] = []
    for t in range(steps):
        out[source.name].append(torch.from_numpy(payload[t]).reshape(len(samples), *shape))
        for node in nodes:
            inputs = [out[name][t] for name in node.inputs]
            out[node.name].append(RULES[type(node)](node, inputs, state))
    return {name: torch.stack(values).numpy() for name, values in out.items()}


def _tensor(values: Any) -> torch.Tensor:
    return torch.from_numpy(np.asarray(values, np.float64))


def _linear(node: layers.Linear, inputs: list[torch.Tensor], state: dict[str, Any]) -> torch.Tensor:
    bias = None if node.bias is None else _tensor(node.bias)
    return functional.linear(inputs[0], _tensor(node.weight * node.mask), bias)


def _conv(node: layers.Conv2d, inputs: list[torch.Tensor], state: dict[str, Any]) -> torch.Tensor:
    (top, bottom), (left, right) = node.padding
    x = functional.pad(inputs[0], (left, right, top, bottom))
    bias = None if node.bias is None else _tensor(node.bias)
    weight = _tensor(node.weight * node.mask)
    return functional.conv2d(x, weight, bias, node.stride, 0, node.dilation, node.groups)


def _norm(node: layers.BatchNorm, inputs: list[torch.Tensor], state: dict[str, Any]) -> torch.Tensor:
    axes = (1, -1) + (1,) * (inputs[0].ndim - 2)
    return inputs[0] * _tensor(node.scale).reshape(axes) + _tensor(node.shift).reshape(axes)


def _scale(node: layers.Scale, inputs: list[torch.Tensor], state: dict[str, Any]) -> torch.Tensor:
    return inputs[0] * _tensor(node.factor) + _tensor(node.shift)


def _sum_pool(node: layers.SumPool, inputs: list[torch.Tensor], state: dict[str, Any]) -> torch.Tensor:
    return functional.avg_pool2d(inputs[0], node.kernel, node.stride, node.padding, divisor_override=1)


def _avg_pool(node: layers.AvgPool, inputs: list[torch.Tensor], state: dict[str, Any]) -> torch.Tensor:
    return functional.avg_pool2d(inputs[0], node.kernel, node.stride, node.padding)


def _max_pool(node: layers.MaxPool, inputs: list[torch.Tensor], state: dict[str, Any]) -> torch.Tensor:
    return functional.max_pool2d(inputs[0], node.kernel, node.stride, node.padding, node.dilation)


def _reshape(node: layers.Reshape, inputs: list[torch.Tensor], state: dict[str, Any]) -> torch.Tensor:
    return inputs[0].reshape(len(inputs[0]), *(node.shape or (-1,)))


def _add(node: layers.Add, inputs: list[torch.Tensor], state: dict[str, Any]) -> torch.Tensor:
    return torch.stack(inputs).sum(0)


def _concat(node: layers.Concat, inputs: list[torch.Tensor], state: dict[str, Any]) -> torch.Tensor:
    return torch.cat(inputs, 1)


def _delay(node: layers.Delay, inputs: list[torch.Tensor], state: dict[str, Any]) -> torch.Tensor:
    line = state.setdefault(node.name, [torch.zeros_like(inputs[0])] * node.steps)
    line.append(inputs[0])
    return line.pop(0)


def _neuron(node: layers.Neuron, inputs: list[torch.Tensor], state: dict[str, Any]) -> torch.Tensor:
    (x,) = inputs
    zero = torch.zeros_like(x)
    u, v, wait, sent = state.get(node.name, (zero, zero, zero, []))
    if node.recurrent is not None:
        layer, delay = node.recurrent.layer, node.recurrent.delay
        x = x + RULES[type(layer)](layer, [sent[-delay] if len(sent) >= delay else zero], state)
    u = (1 - _tensor(node.current_decay)) * u + _tensor(node.gain) * x
    v = (1 - _tensor(node.voltage_decay)) * v + u
    if node.reset == "none":
        state[node.name] = (u, v, wait, sent)
        return v
    v = torch.where(wait > 0, zero, v)
    spikes = (v > _tensor(node.threshold)).to(v.dtype)
    v = v - spikes * _tensor(node.threshold) if node.reset == "subtract" else v * (1 - spikes)
    wait = torch.where(spikes > 0, float(node.refractory), (wait - 1).clamp(min=0))
    state[node.name] = (u, v, wait, [*sent, spikes])
    return spikes


RULES: dict[type, Callable[[Any, list[torch.Tensor], dict[str, Any]], torch.Tensor]] = {
    layers.Linear: _linear,
    layers.Conv2d: _conv,
    layers.BatchNorm: _norm,
    layers.Scale: _scale,
    layers.SumPool: _sum_pool,
    layers.AvgPool: _avg_pool,
    layers.MaxPool: _max_pool,
    layers.Reshape: _reshape,
    layers.Flatten: _reshape,
    layers.Add: _add,
    layers.Concat: _concat,
    layers.Delay: _delay,
    layers.Neuron: _neuron,
}

"""What each node of NIR is among our layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from toolchain.frontends import layers, nir_neurons
from toolchain.frontends.network import Network, Tensor, Term
from toolchain.frontends.nir_fields import Fields, as_map
from toolchain.frontends.operators import Listed, Operator

WHOLE_STEPS = 1e-6
"""A delay may miss a whole number of steps by this part of a step."""
DELAY_MAX = 1 << 16


@dataclass(frozen=True)
class Around:
    """What a node's meaning depends on besides its fields. flat: whether all that reads it takes one axis."""

    dt: float
    reset: str
    flat: bool


Make = Callable[[Fields, tuple[str, ...], Around], layers.Node]


def _common(fields: Fields, inputs: tuple[str, ...]) -> dict[str, object]:
    return {"name": fields.name, "inputs": inputs, "place": fields.place}


def _linear(fields: Fields, inputs: tuple[str, ...], around: Around, *, biased: bool) -> layers.Node:
    fields.known(("weight", "bias") if biased else ("weight",))
    weight = fields.weights("weight", (2,))
    bias = fields.weights("bias", (0, 1)) if biased else None
    if bias is not None:
        bias = _one_each(fields, bias, len(weight))
    return layers.Linear(**_common(fields, inputs), weight=weight, mask=weight != 0, bias=bias)  # type: ignore[arg-type]


def _one_each(fields: Fields, bias: np.ndarray, outputs: int) -> np.ndarray:
    if bias.size not in (1, outputs):
        raise fields.refuse("one bias for each output", "bias", got=bias.shape, allowed=(outputs,))
    return np.broadcast_to(bias.reshape(-1), (outputs,))


def _conv(fields: Fields, inputs: tuple[str, ...], around: Around, *, axes: int) -> layers.Node:
    fields.known(("input_shape", "weight", "stride", "padding", "dilation", "groups", "bias"))
    weight = fields.weights("weight", (2 + axes,))
    line = axes == 1
    stride, dilation = (
        (1, fields.whole(name, 1, default=1)) if line else fields.pair(name, 1, default=1)
        for name in ("stride", "dilation")
    )
    if line:
        weight = weight[:, :, None, :]
    spans = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
    padding = _padding(fields, line, spans, stride)
    bias = fields.weights("bias", (0, 1)) if fields.has("bias") else np.zeros(1, np.float32)
    return Convolution(
        **_common(fields, inputs),  # type: ignore[arg-type]
        weight=weight,
        mask=weight != 0,
        bias=_one_each(fields, bias, len(weight)) if bias.any() else None,
        padding=padding,
        groups=fields.whole("groups", 1, default=1),
        reads=_input_shape(fields, line),
        fields=fields,
        stride=stride,
        dilation=dilation,
    )


def _padding(
    fields: Fields, line: bool, spans: list[int], stride: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    given = fields.values.get("padding", 0)
    if isinstance(given, str):
        if given not in ("same", "valid"):
            raise fields.refuse("unknown padding", "padding", got=given[:40], allowed="'same', 'valid' or numbers")
        if given == "same" and stride != (1, 1):
            raise fields.refuse("'same' has a meaning only with stride 1", "padding", got=f"stride {stride}")
        # As torch has it: where the zeros cannot be halved, one more behind than before.
        y, x = ((span // 2, span - span // 2) if given == "same" else (0, 0) for span in spans)
        return y, x
    if line:
        width = fields.whole("padding", 0, default=0)
        return (0, 0), (width, width)
    height, width = fields.pair("padding", 0, default=0)
    return (height, height), (width, width)


def _input_shape(fields: Fields, line: bool) -> tuple[int, int] | None:
    if not fields.has("input_shape"):
        return None
    return (1, fields.whole("input_shape", 1)) if line else fields.pair("input_shape", 1)


@dataclass(frozen=True, eq=False, kw_only=True)
class Convolution(layers.Conv2d):
    """A convolution that may say which map it reads. reads: (height, width), or None."""

    reads: tuple[int, int] | None
    fields: Fields

    def value(self, inputs: Sequence, network: Network) -> Tensor:
        (x,) = inputs
        if self.reads is not None and self.map_of(x)[1:] != self.reads:
            raise self.fields.refuse("the node reads another map", "input_shape", got=self.reads, allowed=x.shape[1:])
        return super().value(inputs, network)


def _scale(fields: Fields, inputs: tuple[str, ...], around: Around) -> layers.Node:
    fields.known(("scale",))
    factor = as_map(fields.reals("scale", axes=(0, 1, 2, 3)))
    return layers.Scale(**_common(fields, inputs), factor=factor)  # type: ignore[arg-type]


def _pool(fields: Fields, inputs: tuple[str, ...], around: Around, *, kind: type[layers.SumPool]) -> layers.Node:
    fields.known(("kernel_size", "stride", "padding"))
    kernel, padding = fields.pair("kernel_size", 1), fields.pair("padding", 0, default=0)
    if any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
        raise fields.refuse("more padding than half a window", "padding", got=padding, allowed=f"half of {kernel}")
    return kind(**_common(fields, inputs), kernel=kernel, stride=fields.pair("stride", 1), padding=padding)  # type: ignore[arg-type]


def _flatten(fields: Fields, inputs: tuple[str, ...], around: Around) -> layers.Node:
    """All axes, or those from the second on. What counts a batch as first axis is seen from what reads it."""
    fields.known(("start_dim", "end_dim", "input_type"))
    start = fields.whole("start_dim", -8, 8, default=1)
    end = fields.whole("end_dim", -8, 8, default=-1)
    return Flatten(**_common(fields, inputs), start=start, end=end, flat=around.flat, fields=fields)  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False, kw_only=True)
class Flatten(layers.Node):
    """Axes `start` to `end`, both included, in one."""

    start: int
    end: int
    flat: bool
    fields: Fields

    def value(self, inputs: Sequence, network: Network) -> Tensor:
        (x,) = inputs
        axes = len(x.shape)
        last = self.end in (-1, axes - 1) or (self.start == 1 and self.end == axes)
        if axes == 1 or (last and self.start in (0, -axes)):
            shape: tuple[int, ...] = (x.size,)
        elif last and self.start == 1 and self.flat:
            shape = (x.size,)
            self.fields.note("NIR004", "start_dim 1 is read as behind the batch: what reads it takes one axis")
        elif last and self.start == 1:
            shape = (x.shape[0], 1, x.size // x.shape[0])
        else:
            raise self.fields.refuse(
                "only all axes, or all but the channels, are flattened",
                "start_dim",
                got=f"{self.start} to {self.end} of {axes} axes",
                allowed="0 or 1 to -1",
            )
        reshape = layers.Reshape(name=self.name, inputs=self.inputs, place=self.place, shape=shape)
        return reshape.value(inputs, network)


def _delay(fields: Fields, inputs: tuple[str, ...], around: Around) -> layers.Node:
    fields.known(("delay",))
    steps = as_map(fields.reals("delay", axes=(0, 1, 2, 3))) / around.dt
    whole = np.rint(steps)
    if (whole < 0).any() or (whole > DELAY_MAX).any() or (np.abs(steps - whole) > WHOLE_STEPS).any():
        worst = steps.reshape(-1)[np.argmax(np.abs(steps - whole))] if (whole >= 0).all() else steps.min()
        raise fields.refuse(
            "a delay is a whole number of steps",
            "delay",
            got=f"{worst:g} steps of {around.dt:g}",
            allowed=f"0 to {DELAY_MAX} steps",
            remedy="choose another --dt",
        )
    if (whole == whole.reshape(-1)[0]).all():
        return layers.Delay(**_common(fields, inputs), steps=int(whole.reshape(-1)[0]))  # type: ignore[arg-type]
    return Delays(**_common(fields, inputs), steps=whole.astype(np.int64))  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False, kw_only=True)
class Delays(layers.Node):
    """What each entry of its input was some steps ago: a connection for each number of steps.

    steps: whole numbers that broadcast to the axes of the input.
    """

    steps: NDArray[np.int64]

    def value(self, inputs: Sequence[Tensor], network: Network) -> Tensor:
        (x,) = inputs
        each = layers.fitted(self.steps.astype(np.float64), x.shape, f"{self.where}.delay")
        each = np.broadcast_to(each, x.shape).reshape(-1)
        terms: list[Term] = []
        for steps in np.unique(each):
            late = layers.Delay(name=self.name, inputs=self.inputs, place=self.place, steps=int(steps))
            part = network.mapped(x, partial(_some, targets=each == steps, where=self.where), self.where)
            offset = np.where((each == steps).reshape(x.shape), x.offset, 0.0) if x.offset.any() else x.offset
            terms += late.value((replace(x, terms=part, offset=offset),), network).terms
        network.check_terms((replace(x, terms=tuple(terms)),), self.where)
        return replace(x, terms=tuple(terms))


def _some(operator: Operator, targets: NDArray[np.bool_], where: str) -> Operator:
    """The synapses that lead to these targets."""
    listed = operator.listed(where)
    pattern, there = listed.pattern, targets[listed.pattern.targets]
    before = np.concatenate([[0], np.cumsum(there, dtype=np.int64)])
    some = replace(pattern, indptr=before[pattern.indptr], targets=pattern.targets[there])
    return Listed(some, listed.values[there])


def _threshold(fields: Fields, inputs: tuple[str, ...], around: Around) -> layers.Node:
    fields.known(("threshold",))
    level = as_map(fields.reals("threshold", axes=(0, 1, 2, 3)))
    return nir_neurons.Threshold(**_common(fields, inputs), threshold=level)  # type: ignore[arg-type]


def _neuron(fields: Fields, inputs: tuple[str, ...], around: Around) -> layers.Node:
    return nir_neurons.neuron(fields, inputs, around.dt, around.reset)


KINDS: dict[str, Make] = {
    "Affine": partial(_linear, biased=True),
    "Linear": partial(_linear, biased=False),
    "Scale": _scale,
    "Conv1d": partial(_conv, axes=1),
    "Conv2d": partial(_conv, axes=2),
    "SumPool2d": partial(_pool, kind=layers.SumPool),
    "AvgPool2d": partial(_pool, kind=layers.AvgPool),
    "Flatten": _flatten,
    "Delay": _delay,
    "Threshold": _threshold,
    **dict.fromkeys(nir_neurons.MEMORY, _neuron),
}
"""Every node that computes something; Input, Output and NIRGraph are wiring."""
FLAT = ("Affine", "Linear")
"""Kinds that read one axis."""
AXES = {**dict.fromkeys(FLAT, 1), "Conv1d": 2, "Conv2d": 3, "SumPool2d": 3, "AvgPool2d": 3}
"""Kinds that read so many axes, whatever their fields."""

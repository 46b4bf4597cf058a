"""What each torch module and function is among our layers, and why some are none."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from torch.nn.utils import prune

from toolchain.errors import Diagnostic
from toolchain.frontends import layers
from toolchain.frontends.operators import Shape
from toolchain.training import spiking


class Unsupported(Exception):
    """Why something cannot be a layer of a spiking network."""


@dataclass(frozen=True)
class Output:
    """What a traced node gives: the layer's name and the axes of the torch tensor, batch first."""

    layer: str
    shape: tuple[int, ...]

    @property
    def meta(self) -> torch.Tensor:
        """A tensor of its shape without numbers."""
        return torch.empty(self.shape, device="meta")


class Tracing(ABC):
    """What the translations below need of the tracer."""

    @abstractmethod
    def layer(
        self, kind: type[layers.Node], inputs: Sequence[Output], *, axes: Shape | None = None, **fields: Any
    ) -> Output:
        """Add a layer named after what is traced. axes: of the torch tensor, where the inputs' do not tell them."""

    @abstractmethod
    def mask(self, name: str, weight: NDArray[Any]) -> NDArray[np.bool_]:
        """Where a weight has synapses: as the user says, else where it is not 0."""

    @abstractmethod
    def note(self, diagnostic: Diagnostic) -> None:
        """Something that was changed on the way."""

    @abstractmethod
    def reads_potential(self) -> bool:
        """Whether nothing but the network's answer reads what is traced, and that reads a potential too."""


# -------------------------------------------------------------------------------------------------------- shapes


def layer_shape(shape: Sequence[int]) -> Shape:
    """Axes of a layer's tensor for those of a torch tensor (batch first); a sequence is a map of height 1."""
    if len(shape) == 3:
        return (shape[1], 1, shape[2])
    if len(shape) in (2, 4):
        return tuple(shape[1:])
    raise Unsupported(f"a tensor of {len(shape)} axes; a batch of vectors, sequences or maps has 2 to 4")


def torch_shape(shape: Shape, like: Output) -> tuple[int, ...]:
    """The torch tensor's axes for a layer's shape: a sequence stays one."""
    sequence = len(like.shape) == 3 and len(shape) == 3
    return (like.shape[0], shape[0], shape[2]) if sequence else (like.shape[0], *shape)


def _numbers(value: Any, shape: Sequence[int]) -> float | NDArray[np.float64]:
    """A number, or a tensor that broadcasts to one of `shape` (batch first), in the axes of our layers."""
    if not isinstance(value, torch.Tensor):
        return float(value)
    array: NDArray[np.float64] = value.detach().cpu().to(torch.float64).numpy()
    if array.ndim > len(shape):
        raise Unsupported(f"numbers of shape {tuple(value.shape)} for a tensor of shape {tuple(shape)}")
    array = array.reshape((1,) * (len(shape) - array.ndim) + array.shape)
    if len(array) != 1:
        raise Unsupported("numbers that differ from sample to sample")
    each = np.asarray(array[0])
    return each[:, None, :] if each.ndim == 2 else each


def _pair(value: Any) -> tuple[int, int]:
    """Of the y and x axis; one number in a tuple is that of a sequence."""
    if isinstance(value, int):
        return value, value
    values = tuple(value)
    return (values[0], values[1]) if len(values) == 2 else (1, values[0])


def _of_sequence(value: Any, rest: int) -> tuple[int, int]:
    """A setting along a sequence as one of a map of height 1."""
    return rest, value if isinstance(value, int) else next(iter(value))


Translation = Callable[[Tracing, Any, str, Output], Output]
"""(tracing, module, path, input) -> output."""


# ------------------------------------------------------------------------------------------------ layers with weights


def _plain(tensor: torch.Tensor) -> NDArray[Any]:
    """As an array; less than float32 becomes float32."""
    tensor = tensor.detach().cpu()
    return (tensor if tensor.dtype == torch.float64 else tensor.to(torch.float32)).numpy()


def _weights(trace: Tracing, module: Any, path: str, axes: Callable[[NDArray[Any]], NDArray[Any]]) -> dict[str, Any]:
    """Weight, mask and bias. What pruning has masked is read as it will be used next, not as it was used last."""
    weight = module.weight
    if hasattr(module, "weight_orig") and hasattr(module, "weight_mask"):
        weight = module.weight_orig * module.weight_mask
    values = _plain(weight)
    bias = module.bias
    if hasattr(module, "bias_orig") and hasattr(module, "bias_mask"):
        bias = module.bias_orig * module.bias_mask
    mask = trace.mask(f"{path}.weight", values)
    return {"weight": axes(values), "mask": axes(mask), "bias": None if bias is None else _plain(bias)}


def _linear_fields(trace: Tracing, module: nn.Linear, path: str) -> dict[str, Any]:
    return _weights(trace, module, path, lambda weight: weight)


def _linear(trace: Tracing, module: nn.Linear, path: str, x: Output) -> Output:
    if len(x.shape) != 2:
        raise Unsupported(f"a dense layer on a tensor of shape {x.shape}: flatten it to (batch, features) first")
    return trace.layer(layers.Linear, [x], **_linear_fields(trace, module, path))


def _conv_fields(trace: Tracing, module: Any, path: str) -> dict[str, Any]:
    """Of a Conv1d or Conv2d."""
    if module.padding_mode != "zeros":
        raise Unsupported(f"padding_mode {module.padding_mode!r}: on the chip there is nothing beside a map")
    flat = len(module.kernel_size) == 1
    kernel, stride, dilation = (
        [1, *value] if flat else list(value) for value in (module.kernel_size, module.stride, module.dilation)
    )
    if module.padding == "valid":
        padding = [(0, 0), (0, 0)]
    elif module.padding == "same":
        spans = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        padding = [(span // 2, span - span // 2) for span in spans]
    else:
        padding = [(p, p) for p in ([0, *module.padding] if flat else module.padding)]
    return {
        **_weights(trace, module, path, lambda weight: weight[:, :, None, :] if flat else weight),
        "stride": tuple(stride),
        "padding": tuple(padding),
        "dilation": tuple(dilation),
        "groups": module.groups,
    }


def _conv(trace: Tracing, module: Any, path: str, x: Output) -> Output:
    if len(x.shape) != len(module.kernel_size) + 2:
        raise Unsupported(f"a tensor of shape {x.shape}: it needs a batch and {len(module.kernel_size) + 1} axes")
    return trace.layer(layers.Conv2d, [x], **_conv_fields(trace, module, path))


def _batch_norm(trace: Tracing, module: Any, path: str, x: Output) -> Output:
    if module.running_mean is None or module.running_var is None:
        raise Unsupported(
            "it has no running statistics (track_running_stats=False): it would differ from batch to batch"
        )
    if module.training:
        raise Unsupported("it is in training mode and normalises by the batch: call module.eval() first")
    mean, var = (value.detach().cpu().double().numpy() for value in (module.running_mean, module.running_var))
    scale = 1 / np.sqrt(var + module.eps)
    if module.weight is not None:
        scale = scale * _plain(module.weight)
    shift = -mean * scale
    if module.bias is not None:
        shift = shift + _plain(module.bias)
    return trace.layer(layers.BatchNorm, [x], scale=scale, shift=shift)


# ----------------------------------------------------------------------------------------------------------- pooling


def _window(module: Any, x: Output, axes: int) -> dict[str, tuple[int, int]]:
    if len(x.shape) != axes + 2:
        raise Unsupported(f"a tensor of shape {x.shape}: it needs a batch and {axes + 1} axes")
    if getattr(module, "ceil_mode", False):
        raise Unsupported("ceil_mode=True: windows that reach over the edge would be smaller than the others")
    stride = module.kernel_size if module.stride is None else module.stride
    values = {"kernel": (module.kernel_size, 1), "stride": (stride, 1), "padding": (module.padding, 0)}
    return {key: _of_sequence(v, rest) if axes == 1 else _pair(v) for key, (v, rest) in values.items()}


def _avg_pool(axes: int) -> Translation:
    def translate(trace: Tracing, module: Any, path: str, x: Output) -> Output:
        window = _window(module, x, axes)
        if not module.count_include_pad and any(window["padding"]):
            raise Unsupported(
                "count_include_pad=False with padding: windows at the edge would have other weights than the rest"
            )
        return trace.layer(layers.AvgPool, [x], **window, divisor=getattr(module, "divisor_override", None))

    return translate


def _sum_pool(trace: Tracing, module: Any, path: str, x: Output) -> Output:
    return trace.layer(layers.SumPool, [x], **_window(module, x, 2))


def _max_pool(axes: int) -> Translation:
    def translate(trace: Tracing, module: Any, path: str, x: Output) -> Output:
        if module.return_indices:
            raise Unsupported("return_indices=True: there are no indices on the chip")
        dilation = _of_sequence(module.dilation, 1) if axes == 1 else _pair(module.dilation)
        return trace.layer(layers.MaxPool, [x], **_window(module, x, axes), dilation=dilation)

    return translate


def _adaptive(axes: int) -> Translation:
    def translate(trace: Tracing, module: Any, path: str, x: Output) -> Output:
        if len(x.shape) != axes + 2:
            raise Unsupported(f"a tensor of shape {x.shape}: it needs a batch and {axes + 1} axes")
        size = module.output_size
        wanted = (size,) * axes if isinstance(size, int) else tuple(size)
        there = x.shape[2:]
        sizes = [n if w is None else w for w, n in zip(wanted, there, strict=True)]
        if any(n % w for w, n in zip(sizes, there, strict=True)):
            raise Unsupported(f"from {there} to {tuple(sizes)}: windows of unequal size; choose sizes that divide")
        kernel = _pair(tuple(n // w for w, n in zip(sizes, there, strict=True)))
        return trace.layer(layers.AvgPool, [x], kernel=kernel, stride=kernel)

    return translate


def _mean(trace: Tracing, x: Output, dim: Any = None, keepdim: bool = False) -> Output:
    rank = len(x.shape)
    dims = sorted(d % rank for d in ([dim] if isinstance(dim, int) else dim or range(rank)))
    if dims != list(range(2, rank)):
        raise Unsupported(f"a mean over the axes {dims}: only over all places of each channel")
    kernel = _pair(x.shape[2:])
    pooled = trace.layer(layers.AvgPool, [x], kernel=kernel, stride=kernel)
    return pooled if keepdim else _reshaped(trace, pooled, pooled.shape[:2])


# ------------------------------------------------------------------------------------------------------ our own modules


def _neurons(trace: Tracing, module: spiking.Neurons, path: str, x: Output) -> Output:
    names = ("threshold", "gain", "current_decay", "voltage_decay")
    numbers: dict[str, Any] = {name: _numbers(getattr(module, name), x.shape) for name in names}
    recurrent = None
    if module.recurrent is not None:
        own, at = module.recurrent, f"{path}.recurrent"
        check_module(own)
        kind, fields = RECURRENT.get(_table_class(own, MODULES), (None, None))
        if kind is None or fields is None:
            raise Unsupported(f"a recurrent layer of type {type(own).__name__}: use nn.Linear or a convolution")
        layer = kind(name=at, inputs=(path,), place=at, **fields(trace, own, at))
        recurrent = layers.Recurrence(layer, module.delay)
    return trace.layer(
        layers.Neuron,
        [x],
        **numbers,
        reset=module.reset,
        refractory=module.refractory,
        recurrent=recurrent,
        filters_bias=True,
    )


def _delay(trace: Tracing, module: spiking.Delay, path: str, x: Output) -> Output:
    return trace.layer(layers.Delay, [x], steps=module.steps)


def _nothing(trace: Tracing, module: nn.Module, path: str, x: Output) -> Output:
    return x


def _reshape_module(trace: Tracing, module: nn.Module, path: str, x: Output) -> Output:
    return _reshaped(trace, x, module(x.meta).shape)


# ----------------------------------------------------------------------------------------------------------- functions


def _reshaped(trace: Tracing, x: Output, shape: Sequence[int]) -> Output:
    if len(shape) == 0 or shape[0] != x.shape[0]:
        raise Unsupported(f"{x.shape} becomes {tuple(shape)}: samples of a batch must stay apart")
    if tuple(shape) == x.shape:
        return x
    return trace.layer(layers.Reshape, [x], axes=tuple(shape), shape=layer_shape(shape))


def _reshape(name: str) -> Callable[..., Output]:
    def translate(trace: Tracing, x: Output, *args: Any, **options: Any) -> Output:
        return _reshaped(trace, x, getattr(x.meta, name)(*args, **options).shape)

    return translate


def _scaled(trace: Tracing, x: Output, factor: Any, shift: Any = 0.0) -> Output:
    return trace.layer(layers.Scale, [x], factor=_numbers(factor, x.shape), shift=_numbers(shift, x.shape))


def _add(trace: Tracing, a: Any, b: Any, *, alpha: float = 1) -> Output:
    if alpha != 1:
        b = _mul(trace, b, alpha)
    if not isinstance(a, Output):
        return _scaled(trace, b, 1.0, a)
    if not isinstance(b, Output):
        return _scaled(trace, a, 1.0, b)
    return trace.layer(layers.Add, [a, b])


def _sub(trace: Tracing, a: Any, b: Any, *, alpha: float = 1) -> Output:
    return _add(trace, a, b, alpha=-alpha)


def _mul(trace: Tracing, a: Any, b: Any) -> Any:
    if isinstance(a, Output) and isinstance(b, Output):
        raise Unsupported("a product of two tensors: synapses only add")
    if isinstance(a, Output):
        return _scaled(trace, a, b)
    return _scaled(trace, b, a) if isinstance(b, Output) else a * b


def _div(trace: Tracing, a: Any, b: Any) -> Output:
    if not isinstance(a, Output) or isinstance(b, Output):
        raise Unsupported("a division by a tensor: synapses only add")
    return _scaled(trace, a, 1 / b)


def _neg(trace: Tracing, x: Output) -> Output:
    return _scaled(trace, x, -1.0)


def _cat(trace: Tracing, tensors: Sequence[Any], dim: int = 0) -> Output:
    if not all(isinstance(x, Output) for x in tensors):
        raise Unsupported("a concatenation with constants")
    if dim % len(tensors[0].shape) != 1:
        raise Unsupported(f"a concatenation along axis {dim}: only along the channels, axis 1")
    return trace.layer(layers.Concat, list(tensors))


def _pool_function(module: type[nn.Module]) -> Callable[..., Output]:
    def translate(trace: Tracing, x: Output, *args: Any, **options: Any) -> Output:
        # The first settings stand in the same order as the module's.
        if len(args) > 4:
            raise Unsupported("name the settings after the dilation")
        return MODULES[module](trace, module(*args, **options), "", x)

    return translate


def _same(trace: Tracing, x: Output, *args: Any, **options: Any) -> Output:
    return x


def _converted(trace: Tracing, x: Output, *args: Any, **options: Any) -> Output:
    if any(isinstance(value, torch.dtype) and not value.is_floating_point for value in (*args, *options.values())):
        raise Unsupported("a conversion to whole numbers, which is not linear")
    return x


def _attribute(trace: Tracing, x: Output, name: str) -> Any:
    if name not in ("shape", "ndim", "dtype"):
        raise Unsupported(f"the attribute {name!r} of a tensor")
    return getattr(x.meta, name)


def _size(trace: Tracing, x: Output, *args: Any) -> Any:
    return x.meta.size(*args)


# ------------------------------------------------------------------------------------------------------- the tables

MODULES: Mapping[type, Translation] = {
    nn.Linear: _linear,
    nn.Conv1d: _conv,
    nn.Conv2d: _conv,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.AvgPool1d: _avg_pool(1),
    nn.AvgPool2d: _avg_pool(2),
    nn.MaxPool1d: _max_pool(1),
    nn.MaxPool2d: _max_pool(2),
    nn.AdaptiveAvgPool1d: _adaptive(1),
    nn.AdaptiveAvgPool2d: _adaptive(2),
    nn.Flatten: _reshape_module,
    nn.Unflatten: _reshape_module,
    nn.Dropout: _nothing,
    nn.Dropout1d: _nothing,
    nn.Dropout2d: _nothing,
    nn.Identity: _nothing,
    spiking.Neurons: _neurons,
    spiking.Readout: _neurons,
    spiking.Delay: _delay,
    spiking.SumPool2d: _sum_pool,
}
RECURRENT: Mapping[Any, tuple[type[layers.Weighted], Callable[..., dict[str, Any]]]] = {
    nn.Linear: (layers.Linear, _linear_fields),
    nn.Conv1d: (layers.Conv2d, _conv_fields),
    nn.Conv2d: (layers.Conv2d, _conv_fields),
}
FUNCTIONS: Mapping[Any, Callable[..., Any]] = {
    operator.add: _add,
    torch.add: _add,
    operator.sub: _sub,
    torch.sub: _sub,
    operator.mul: _mul,
    torch.mul: _mul,
    operator.truediv: _div,
    torch.div: _div,
    operator.neg: _neg,
    torch.neg: _neg,
    torch.cat: _cat,
    torch.concat: _cat,
    torch.mean: _mean,
    torch.flatten: _reshape("flatten"),
    torch.reshape: _reshape("reshape"),
    torch.squeeze: _reshape("squeeze"),
    torch.unsqueeze: _reshape("unsqueeze"),
    functional.dropout: _same,
    functional.avg_pool1d: _pool_function(nn.AvgPool1d),
    functional.avg_pool2d: _pool_function(nn.AvgPool2d),
    functional.max_pool1d: _pool_function(nn.MaxPool1d),
    functional.max_pool2d: _pool_function(nn.MaxPool2d),
    functional.adaptive_avg_pool1d: _pool_function(nn.AdaptiveAvgPool1d),
    functional.adaptive_avg_pool2d: _pool_function(nn.AdaptiveAvgPool2d),
    getattr: _attribute,
}
FRESH = (
    *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d),
    *(nn.AvgPool1d, nn.AvgPool2d, nn.MaxPool1d, nn.MaxPool2d, spiking.SumPool2d),
    *(operator.add, operator.mul, operator.sub, torch.add, torch.cat),
)
"""What gives a tensor that nothing else holds, so that it may be changed in place."""
METHODS: Mapping[str, Callable[..., Any]] = {
    **{name: _reshape(name) for name in ("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze")},
    **dict.fromkeys(("contiguous", "clone", "detach", "float", "double"), _same),
    "to": _converted,
    "add": _add,
    "add_": _add,
    "sub": _sub,
    "mul": _mul,
    "mul_": _mul,
    "div": _div,
    "neg": _neg,
    "mean": _mean,
    "size": _size,
}
ACTIVATIONS = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh, nn.Softmax),
    *(functional.relu, torch.relu, torch.sigmoid, torch.tanh, functional.softmax, functional.gelu),
)
_NOT_LINEAR = "not linear: on the chip only neurons are; put spiking neurons (toolchain.training.spiking) in its place"
_BY_SAMPLE = "it normalises by what is in the sample, which synapses cannot; use a batch norm"
_TRANSPOSED = (
    "a transposed convolution: each output place has another part of the kernel, so there is no list of synapses that "
    "sources share as for a convolution; use convolutions on the larger map, or a dense layer"
)
REASONS: Mapping[Any, str] = {
    nn.ConvTranspose1d: _TRANSPOSED,
    nn.ConvTranspose2d: _TRANSPOSED,
    nn.ConvTranspose3d: _TRANSPOSED,
    functional.conv_transpose1d: _TRANSPOSED,
    functional.conv_transpose2d: _TRANSPOSED,
    functional.conv_transpose3d: _TRANSPOSED,
    **dict.fromkeys(
        (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh, nn.Softmax), _NOT_LINEAR
    ),
    **dict.fromkeys(
        (functional.relu, torch.relu, torch.sigmoid, torch.tanh, functional.softmax, functional.gelu), _NOT_LINEAR
    ),
    **dict.fromkeys(("relu", "relu_", "sigmoid", "tanh", "softmax", "clamp"), _NOT_LINEAR),
    **dict.fromkeys((nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d), _BY_SAMPLE),
}
"""Why something is not supported, where there is more to say than that."""


def translation(module: nn.Module) -> Translation | None:
    """How a module becomes a layer; None for one that computes otherwise than those we know."""
    known = _table_class(module, MODULES)
    return None if known is None else MODULES[known]


def is_of_tensors(target: Any) -> bool:
    """Whether a function, or a method of this name, can only be one of tensors."""
    return target in REASONS or str(getattr(target, "__module__", "")).startswith("torch")


def reason(kind: Any) -> str:
    """Why a module, a function or the name of a method is not supported."""
    if isinstance(kind, nn.Module):
        found = _table_class(kind, REASONS)
        return "not a layer that snnc knows" if found is None else REASONS[found]
    return REASONS.get(kind, "not an operation that snnc knows")


def _table_class(module: nn.Module, table: Mapping[Any, object]) -> Any:
    """The class of the table that a module is an instance of, unless it computes something else than that class."""
    known: Any = next((kind for kind in type(module).__mro__ if kind in table), None)
    return known if known is not None and type(module).forward is known.forward else None


def check_module(module: nn.Module) -> None:
    """Refuse a module that does more than its class says."""
    before = [hook for hook in module._forward_pre_hooks.values() if not isinstance(hook, prune.BasePruningMethod)]
    if before or module._forward_hooks:
        raise Unsupported("it has forward hooks, which may change what it computes: remove them")

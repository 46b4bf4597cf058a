"""How the weights of a connection lie in a file: in which tensor, in which order, and which of its places they take.

Where every place of the tensor is a synapse the tensor is stored as it is. Where not, its values stand in a list beside
the distances from each position to the next, in the narrowest type that holds them: 1 or 2 bytes a synapse where a
sparse tensor of ONNX takes 8. What is there with the value 0 is a synapse all the same.

    Connectivity  tensor (sources, targets)
    Convolution   tensor (output channels, input channels / groups, kernel height, kernel width), as Conv has it,
                  with the most groups between which the kernel has no entries
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from toolchain.errors import SnncError
from toolchain.ir import Connectivity, Convolution, Pattern

GAP_TYPES: dict[int, np.dtype[Any]] = {
    TensorProto.UINT8: np.dtype("u1"),
    TensorProto.UINT16: np.dtype("<u2"),
    TensorProto.UINT32: np.dtype("<u4"),
    TensorProto.INT64: np.dtype("<i8"),
}
"""What a distance between two positions is stored as: the first that holds all of a connection."""
TAPS_FREE = 1 << 20
"""Kernel taps (channels * height * width) that a file may claim without as many neurons in it."""
CHUNK = 1 << 22


@dataclass(frozen=True)
class Layout:
    """In what tensor the weights of one pattern lie.

    operator: how our operators for this kind of pattern end.  shape: of the tensor.  terms: most weights in one sum.
    listed: whether some places of the tensor are no synapses.  attributes: geometry for the operator.
    """

    operator: str
    shape: tuple[int, ...]
    terms: int
    listed: bool
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Places:
    """Where each weight of one pattern lies.

    gaps: distances between positions, where the weights are listed.  order: what is stored is `weights[order]`; None
    where that changes nothing.
    """

    gaps: NDArray[Any] | None
    order: NDArray[np.int64] | None

    def stored(self, weights: NDArray[Any]) -> NDArray[Any]:
        """Weights from the order of the pattern into that of the file."""
        return weights if self.order is None else weights[self.order]

    def weights(self, stored: NDArray[Any]) -> NDArray[Any]:
        """The inverse of `stored`."""
        if self.order is None:
            return stored
        weights = np.empty_like(stored)
        weights[self.order] = stored
        return weights


def layout_of(pattern: Pattern) -> Layout:
    """The layout of a pattern; the same for equal patterns."""
    return _KINDS[type(pattern)][0](pattern)


def places_of(pattern: Pattern, layout: Layout) -> Places:
    """The places of a pattern's weights; the same for equal patterns."""
    return _KINDS[type(pattern)][1](pattern, layout)


def check_layout(layout: Layout, where: str) -> None:
    """Raise SnncError for a kernel that lists few entries in a place so large that no file may claim it."""
    if layout.listed and layout.attributes:
        taps = layout.attributes["group"] * layout.terms
        _check_taps(taps, math.prod(layout.attributes["source_shape"]), where)


def _layout_of_lists(lists: Connectivity) -> Layout:
    shape = (lists.n_sources, lists.n_targets)
    return Layout("Synapses", shape, lists.n_sources, lists.n_weights < math.prod(shape))


def _places_of_lists(lists: Connectivity, layout: Layout) -> Places:
    if not layout.listed:
        return Places(None, None)
    gaps = lists.targets.copy()
    gaps[1:] -= lists.targets[:-1]
    # The first synapse of a list: all rows since that of the synapse before it lie in between.
    rows = np.flatnonzero(lists.fan_out)
    first = lists.indptr[rows]
    start = gaps[first] + np.diff(rows, prepend=0) * np.int64(lists.n_targets)
    narrow = gaps.astype(_gap_type(max(int(gaps.max(initial=0)), int(start.max(initial=0)))))
    narrow[first] = start
    return Places(narrow, None)


def _layout_of_kernel(c: Convolution) -> Layout:
    groups = _groups(c)
    shape = (c.target[0], c.source[0] // groups, *c.size)
    (top, bottom), (left, right) = c.padding
    attributes = {
        "source_shape": list(c.source),
        "target_shape": list(c.target),
        "kernel_shape": list(c.size),
        "strides": list(c.stride),
        "pads": [top, left, bottom, right],
        "dilations": list(c.dilation),
        "group": groups,
    }
    return Layout("Convolution", shape, math.prod(shape[1:]), c.n_weights < math.prod(shape), attributes)


def _places_of_kernel(c: Convolution, layout: Layout) -> Places:
    # Taps within a group: the kernel's own run through all groups.
    taps = layout.terms
    if not layout.listed:
        groups = c.kernel.n_sources // taps
        by_tap = np.arange(c.n_weights).reshape(groups, taps, layout.shape[0] // groups)
        return Places(None, by_tap.transpose(0, 2, 1).reshape(-1))
    tap = np.repeat(np.arange(c.kernel.n_sources) % taps, c.kernel.fan_out)
    position = c.kernel.targets.astype(np.int64) * taps + tap
    order = np.argsort(position)
    gaps = np.diff(position[order], prepend=0)
    return Places(gaps.astype(_gap_type(int(gaps.max(initial=0)))), order)


_KINDS: dict[type[Pattern], tuple[Callable[[Any], Layout], Callable[[Any, Layout], Places]]] = {
    Connectivity: (_layout_of_lists, _places_of_lists),
    Convolution: (_layout_of_kernel, _places_of_kernel),
}


def _groups(c: Convolution) -> int:
    """The most groups of consecutive channels between which the kernel has no entries."""
    both, places = math.gcd(c.source[0], c.target[0]), math.prod(c.size)
    used = np.flatnonzero(c.kernel.fan_out)
    channel = used // places
    lowest, highest = c.kernel.targets[c.kernel.indptr[used]], c.kernel.targets[c.kernel.indptr[used + 1] - 1]
    small = [k for k in range(1, math.isqrt(both) + 1) if both % k == 0]
    for groups in sorted({*small, *(both // k for k in small)}, reverse=True):
        group, outer = channel // (c.source[0] // groups), c.target[0] // groups
        if np.array_equal(group, lowest // outer) and np.array_equal(group, highest // outer):
            break
    return groups


def _gap_type(largest: int) -> np.dtype[Any]:
    return next(t for t in GAP_TYPES.values() if largest <= np.iinfo(t).max)


# The way back, from what a file claims. Nothing here grows with a claim alone.


def read_lists(sizes: tuple[int, int], stored: tuple[int, ...], gaps: NDArray[Any] | None, where: str) -> Connectivity:
    """Synapse lists of a layer between populations of these sizes; stored: shape of the values in the file."""
    n_sources, n_targets = sizes
    _check_stored(stored, sizes, gaps, where)
    if gaps is None:
        indptr = np.arange(n_sources + 1, dtype=np.int64) * n_targets
        return Connectivity(n_sources, n_targets, indptr, np.tile(np.arange(n_targets, dtype=np.int32), n_sources))
    targets = np.empty(len(gaps), np.int32)
    count = np.zeros(n_sources, np.int64)
    done = 0
    for position in _positions(gaps, n_sources * n_targets, where):
        source = position // n_targets
        count += np.bincount(source, minlength=n_sources)
        targets[done : done + len(position)] = position - source * n_targets
        done += len(position)
    return Connectivity(n_sources, n_targets, _ends(count), targets)


def read_kernel(
    sizes: tuple[int, int],
    attributes: dict[str, tuple[int, ...]],
    group: int,
    stored: tuple[int, ...],
    gaps: NDArray[Any] | None,
    where: str,
) -> Convolution:
    """A convolution between populations of these sizes; stored: shape of the values in the file.

    attributes: those of `Layout`, each of the right length, with numbers from 0 to 2**31 - 1.
    """
    source, target, size = (attributes[name] for name in ("source_shape", "target_shape", "kernel_shape"))
    if (math.prod(source), math.prod(target)) != sizes:
        raise SnncError("layer sizes do not chain", where=where, got=[source, target], allowed=list(sizes))
    if min(*source, *target, *size, group) < 1 or source[0] % group or target[0] % group:
        raise SnncError(
            "the kernel does not match the channels",
            where=where,
            got=f"{group} groups, a kernel of {list(size)}, {list(source)} to {list(target)}",
            allowed="groups that divide the channels of both sides, sizes of 1 or more",
        )
    outer, inner = target[0] // group, math.prod(size) * (source[0] // group)
    taps = inner * group
    _check_stored(stored, (target[0], source[0] // group, *size), gaps, where)
    if gaps is None:
        by_group = np.arange(target[0], dtype=np.int32).reshape(group, 1, outer)
        outputs = np.broadcast_to(by_group, (group, inner, outer)).reshape(-1)
        ends = np.arange(taps + 1, dtype=np.int64) * outer
    else:
        _check_taps(taps, sizes[0], where)
        position = np.concatenate([np.zeros(0, np.int64), *_positions(gaps, target[0] * inner, where)])
        outputs, tap = np.divmod(position, inner)
        tap += outputs // outer * inner
        outputs = outputs[np.lexsort((outputs, tap))].astype(np.int32)
        ends = _ends(np.bincount(tap, minlength=taps))
    top, left, bottom, right = attributes["pads"]
    return Convolution(
        _three(source),
        _three(target),
        _two(size),
        _two(attributes["strides"]),
        ((top, bottom), (left, right)),
        _two(attributes["dilations"]),
        Connectivity(taps, target[0], ends, outputs),
    )


def _check_stored(stored: tuple[int, ...], shape: tuple[int, ...], gaps: NDArray[Any] | None, where: str) -> None:
    expected = shape if gaps is None else gaps.shape
    if stored != expected:
        raise SnncError("weights and synapses differ in number", where=where, got=stored, allowed=expected)


def _ends(count: NDArray[np.int64]) -> NDArray[np.int64]:
    ends = np.zeros(len(count) + 1, np.int64)
    np.cumsum(count, out=ends[1:])
    return ends


def _two(numbers: tuple[int, ...]) -> tuple[int, int]:
    first, second = numbers
    return first, second


def _three(numbers: tuple[int, ...]) -> tuple[int, int, int]:
    first, second, third = numbers
    return first, second, third


def _check_taps(taps: int, sources: int, where: str) -> None:
    limit = TAPS_FREE + 4 * sources
    if taps > limit:
        raise SnncError("the kernel is too large for its map", where=where, got=f"{taps} taps", allowed=f"{limit}")


def _positions(gaps: NDArray[Any], places: int, where: str) -> Iterator[NDArray[np.int64]]:
    """The ascending positions, a chunk at a time."""
    last = 0
    for start in range(0, len(gaps), CHUNK):
        part = gaps[start : start + CHUNK].astype(np.int64)
        if int(part[1:].min(initial=1)) < 1 or int(part[0]) < (1 if start else 0):
            raise SnncError("synapses are out of order or stand twice", where=where, allowed="ascending positions")
        if int(part.max()) >= places:
            raise SnncError("a synapse lies outside the layer", where=where, allowed=f"0 to {places - 1}")
        position = np.cumsum(part)
        position += last
        # Beyond 64 bits a sum comes out negative before it can come back.
        if int(position.min()) < 0 or int(position[-1]) >= places:
            raise SnncError("a synapse lies outside the layer", where=where, allowed=f"0 to {places - 1}")
        last = int(position[-1])
        yield position

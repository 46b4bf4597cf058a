"""Convolutions: one kernel at every position of a feature map, kept as a kernel from training to the chip."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from toolchain.errors import SnncError
from toolchain.ir.connectivity import Connectivity
from toolchain.ir.pattern import Pattern, Product

Pair = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Convolution(Pattern):
    """Synapses of a two-dimensional cross-correlation (one-dimensional: height 1), as torch.nn.Conv2d has it.

        a[o, v, w] = sum over c, i, j of kernel[o, c, i, j] * payload[c, v * stride_y - top + i * dilation_y,
                                                                         w * stride_x - left + j * dilation_x]

    Places outside the source map send nothing. A neuron (c, y, x) has number (c * height + y) * width + x.

    source, target: (channels, height, width).  size: of the kernel, (height, width).  padding: ((top, bottom),
    (left, right)).  kernel: which entries exist, as lists by *tap* (c, i, j), numbered (c * kernel height + i) *
    kernel width + j, of output channels. Groups and depthwise kernels are kernels without the entries between
    groups; a pruned kernel is one without the entries that were pruned. One weight is stored for each entry.
    """

    source: tuple[int, int, int]
    target: tuple[int, int, int]
    size: Pair
    stride: Pair
    padding: tuple[Pair, Pair]
    dilation: Pair
    kernel: Connectivity

    @classmethod
    def of(
        cls,
        source: tuple[int, int, int],
        mask: NDArray[np.bool_],
        *,
        stride: Pair = (1, 1),
        padding: tuple[Pair, Pair] = ((0, 0), (0, 0)),
        dilation: Pair = (1, 1),
        groups: int = 1,
        where: str = "convolution",
    ) -> tuple[Convolution, NDArray[np.int64]]:
        """From a dense mask (out channels, in channels / groups, kernel height, kernel width) over a source map.

        Also returns the position of every stored weight in the flattened mask: `weight.ravel()[positions]` are
        the weights in the pattern's order.

        Raises:
            SnncError: shapes do not chain, or the kernel is larger than its padded input.
        """
        mask = np.asarray(mask, bool)
        if mask.ndim != 4 or groups < 1 or mask.shape[0] % groups or mask.shape[1] * groups != source[0]:
            raise SnncError(
                "the kernel does not match the channels of its input",
                where=where,
                got=f"weight of shape {mask.shape}, {groups} groups, input of {source[0]} channels",
                allowed="(out channels, in channels / groups, height, width), groups dividing both channels",
            )
        outputs, _, height, width = mask.shape
        target = tuple(
            _extent(source[1 + k], (height, width)[k], stride[k], padding[k], dilation[k], "yx"[k], where)
            for k in range(2)
        )
        out, inner, i, j = np.nonzero(mask)
        channel = inner + (out // (outputs // groups)) * mask.shape[1]
        tap = (channel * height + i) * width + j
        order = np.lexsort((out, tap))
        indptr = np.zeros(source[0] * height * width + 1, np.int64)
        np.cumsum(np.bincount(tap, minlength=source[0] * height * width), out=indptr[1:])
        kernel = Connectivity(source[0] * height * width, outputs, indptr, out[order].astype(np.int32))
        positions = np.flatnonzero(mask)[order]
        made = cls(source, (outputs, *target), (height, width), stride, padding, dilation, kernel)
        return made, positions

    @cached_property
    def groups(self) -> int:
        """The most equal parts into which the channels can be split so that no entry leads from one to another."""
        inputs, outputs = self.source[0], self.target[0]
        starts = self.kernel.indptr[:: self.size[0] * self.size[1]]  # of each input channel's entries
        used = np.flatnonzero(np.diff(starts))
        if not len(used):
            return 1
        # The output channels that each input channel reaches, first and last.
        ends = [edge.reduceat(self.kernel.targets, starts[used]) for edge in (np.minimum, np.maximum)]
        for groups in range(gcd(inputs, outputs), 1, -1):
            own = used // (inputs // groups)
            divides = inputs % groups == 0 and outputs % groups == 0
            if divides and all(np.array_equal(end // (outputs // groups), own) for end in ends):
                return groups
        return 1

    @property
    def title(self) -> str:
        kind = f"conv1d {self.size[1]}" if self._is_line else f"conv {self.size[0]}x{self.size[1]}"
        steps = (("stride", self.stride), ("dilation", self.dilation))
        extra = "".join(f" {word} {self._step(each)}" for word, each in steps if each != (1, 1))
        if self.groups == self.source[0] > 1:
            return f"depthwise {kind}{extra}"
        return f"{kind}{extra}" + (f", {self.groups} groups" if self.groups > 1 else "")

    @property
    def _is_line(self) -> bool:
        return self.source[1] == self.size[0] == 1

    def _step(self, step: Pair) -> str:
        """A stride or dilation in one number where one says it."""
        return f"{step[0]}x{step[1]}" if step[0] != step[1] and not self._is_line else f"{step[1]}"

    @property
    def window(self) -> str | None:
        own_channel = self.source[0] == self.target[0] == self.groups
        if not own_channel or self.size == (1, 1) or self.dilation != (1, 1) or self.n_weights != self.capacity:
            return None
        size = f"{self.size[1]}" if self._is_line else f"{self.size[0]}x{self.size[1]}"
        return size if self.stride == self.size else f"{size} stride {self._step(self.stride)}"

    @property
    def capacity(self) -> int:
        return self.source[0] * self.target[0] // self.groups * self.size[0] * self.size[1]

    @property
    def full(self) -> Convolution:
        """Every kernel entry within the groups."""
        within = (self.target[0], self.source[0] // self.groups, *self.size)
        return Convolution.of(
            self.source,
            np.ones(within, bool),
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
        )[0]

    @property
    def stored(self) -> Connectivity:
        return self.kernel

    @property
    def source_shape(self) -> tuple[int, ...]:
        return self.source

    @property
    def target_shape(self) -> tuple[int, ...]:
        return self.target

    @property
    def n_sources(self) -> int:
        return int(np.prod(self.source))

    @property
    def n_targets(self) -> int:
        return int(np.prod(self.target))

    @property
    def n_weights(self) -> int:
        return self.kernel.n_synapses

    @property
    def pairs(self) -> int:
        """Synapses that the kernel would make with all its entries within its groups."""
        rows, columns = self.reach
        return self.source[0] * self.target[0] // self.groups * int(rows.sum()) * int(columns.sum())

    @cached_property
    def reach(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """For each axis which kernel row (column) reads inside the map at which target row: (kernel, target)."""
        axes = []
        for k in range(2):
            read = self.reads(k)
            axes.append((read >= 0) & (read < self.source[1 + k]))
        return axes[0], axes[1]

    def reads(self, axis: int) -> NDArray[np.int64]:
        """The source row (axis 0) or column (axis 1) that each kernel row reads at each target row; may lie outside."""
        places = np.arange(self.target[1 + axis]) * self.stride[axis] - self.padding[axis][0]
        return places[None, :] + np.arange(self.size[axis])[:, None] * self.dilation[axis]

    @property
    def entries(self) -> NDArray[np.int64]:
        """Channel, kernel row, kernel column and output channel of every stored weight, shape (4, n_weights).

        Worked out anew each time: kept, it would take more memory than the weights.
        """
        tap = self.kernel.sources.astype(np.int64)
        rest, j = np.divmod(tap, self.size[1])
        c, i = np.divmod(rest, self.size[0])
        return np.stack([c, i, j, self.kernel.targets.astype(np.int64)])

    @property
    def uses(self) -> NDArray[np.int64]:
        """Synapses that each stored weight makes, shape (n_weights,)."""
        rows, columns = (axis.sum(axis=1) for axis in self.reach)
        _, i, j, _ = self.entries
        return rows[i] * columns[j]

    @property
    def n_synapses(self) -> int:
        rows, columns = (axis.sum(axis=1) for axis in self.reach)
        return int(np.einsum("cij,i,j->", self.kernel.fan_out.reshape(-1, *self.size), rows, columns))

    @property
    def fan_out(self) -> NDArray[np.int64]:
        # How often each source row is read by each kernel row (at most once), and columns alike.
        hits = []
        for k in range(2):
            read, inside = self.reads(k), self.reach[k]
            hit = np.zeros((self.size[k], self.source[1 + k]), np.int64)
            for row in range(self.size[k]):
                hit[row, read[row, inside[row]]] = 1
            hits.append(hit)
        per_tap = self.kernel.fan_out.reshape(self.source[0], *self.size)
        return np.einsum("cij,iy,jx->cyx", per_tap, hits[0], hits[1], optimize=True).reshape(-1)

    @property
    def fan_in(self) -> NDArray[np.int64]:
        return self.target_sums(np.ones(self.n_weights, np.int64)).astype(np.int64)

    def target_sums(self, values: NDArray[Any]) -> NDArray[Any]:
        kind = np.result_type(values, np.int64)
        _, i, j, o = self.entries
        taps = self.size[0] * self.size[1]
        at = (o * self.size[0] + i) * self.size[1] + j
        summed = np.bincount(at, values.astype(np.float64), minlength=self.target[0] * taps)
        rows, columns = (axis.astype(np.float64) for axis in self.reach)
        sums = np.einsum("oij,iv,jw->ovw", summed.reshape(-1, *self.size), rows, columns, optimize=True)
        return sums.reshape(-1).astype(kind)

    def product(self, values: NDArray[np.generic]) -> Product:
        c, i, j, o = self.entries
        per_tap = []
        for tap in range(self.size[0] * self.size[1]):
            here = i * self.size[1] + j == tap
            shape = (self.target[0], self.source[0])
            per_tap.append(sparse.csr_array((values[here], (o[here], c[here])), shape=shape))
        (top, bottom), (left, right) = self.padding
        (_, height, width), (sy, sx), (dy, dx) = self.target, self.stride, self.dilation

        def total(payload: NDArray[Any]) -> NDArray[Any]:
            n = len(payload)
            maps = payload.reshape(n, *self.source).transpose(1, 0, 2, 3)
            maps = np.pad(maps, ((0, 0), (0, 0), (top, bottom), (left, right)))
            out = np.zeros((self.target[0], n * height * width), np.result_type(values, payload))
            for tap, weights in enumerate(per_tap):
                if weights.nnz:
                    y, x = (tap // self.size[1]) * dy, (tap % self.size[1]) * dx
                    seen = maps[:, :, y : y + sy * (height - 1) + 1 : sy, x : x + sx * (width - 1) + 1 : sx]
                    out += weights @ seen.reshape(self.source[0], -1)
            return out.reshape(self.target[0], n, height * width).transpose(1, 0, 2).reshape(n, -1)

        return total

    def unroll(self) -> tuple[Connectivity, NDArray[np.int64]]:
        c, i, j, o = self.entries
        (rows, columns), (_, height, width) = self.reach, self.target
        v, w = (part.reshape(-1) for part in np.meshgrid(np.arange(height), np.arange(width), indexing="ij"))
        inside = rows[i][:, v] & columns[j][:, w]
        weight, place = np.nonzero(inside)
        y = self.reads(0)[i[weight], v[place]]
        x = self.reads(1)[j[weight], w[place]]
        sources = (c[weight] * self.source[1] + y) * self.source[2] + x
        targets = (o[weight] * height + v[place]) * width + w[place]
        order = np.lexsort((targets, sources))
        indptr = np.zeros(self.n_sources + 1, np.int64)
        np.cumsum(np.bincount(sources, minlength=self.n_sources), out=indptr[1:])
        return Connectivity(self.n_sources, self.n_targets, indptr, targets[order].astype(np.int32)), weight[order]

    def keep_weights(self, keep: NDArray[np.bool_]) -> Convolution:
        return replace(self, kernel=self.kernel.keep_weights(keep))

    def select(self, sources: NDArray[np.bool_], targets: NDArray[np.bool_]) -> tuple[Convolution, NDArray[np.bool_]]:
        """Whole channels only: the marks of a channel must be equal at all its places."""
        inputs, outputs = _channels(sources, self.source), _channels(targets, self.target)
        taps = np.repeat(inputs, self.size[0] * self.size[1])
        kernel, keep = self.kernel.select(taps, outputs)
        source = (int(inputs.sum()), *self.source[1:])
        target = (int(outputs.sum()), *self.target[1:])
        return replace(self, source=source, target=target, kernel=kernel), keep

    def describe(self, weight: int) -> str:
        c, i, j, o = self.entries[:, weight]
        return f"kernel entry [{o}, {c}, {i}, {j}] (output channel, input channel, row, column)"

    def verify(self, where: str) -> None:
        for k in range(2):
            extent = _extent(
                self.source[1 + k], self.size[k], self.stride[k], self.padding[k], self.dilation[k], "yx"[k], where
            )
            if extent != self.target[1 + k]:
                raise SnncError(
                    "the map has another size", where=where, got=self.target, allowed=f"{extent} on {'yx'[k]}"
                )
        expected = (self.source[0] * self.size[0] * self.size[1], self.target[0])
        if (self.kernel.n_sources, self.kernel.n_targets) != expected or min(*self.source, *self.target) < 1:
            raise SnncError(
                "the kernel does not match the channels",
                where=where,
                got=f"{self.kernel.n_sources} taps to {self.kernel.n_targets} channels",
                allowed=f"{expected[0]} taps to {expected[1]} channels",
            )
        self.kernel.verify(where)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Convolution)
            and (self.source, self.target, self.size, self.stride, self.padding, self.dilation)
            == (other.source, other.target, other.size, other.stride, other.padding, other.dilation)
            and self.kernel == other.kernel
        )

    __hash__ = None  # type: ignore[assignment]


def _extent(n: int, kernel: int, stride: int, padding: Pair, dilation: int, axis: str, where: str) -> int:
    """Places of a kernel along one axis of n places."""
    if min(n, kernel, stride, dilation) < 1 or min(padding) < 0:
        raise SnncError(
            "sizes, strides and dilations are 1 or more, padding 0 or more",
            where=where,
            got=f"input {n}, kernel {kernel}, stride {stride}, dilation {dilation}, padding {padding} on {axis}",
        )
    span = dilation * (kernel - 1) + 1
    if span > n + sum(padding):
        raise SnncError(
            "the kernel is larger than its input",
            where=where,
            got=f"{span} places on {axis}",
            allowed=f"at most {n + sum(padding)}: {n} and {sum(padding)} of padding",
            remedy="use a smaller kernel or dilation, more padding, or pool less before it",
        )
    return (n + sum(padding) - span) // stride + 1


def _channels(marks: NDArray[np.bool_], shape: tuple[int, int, int]) -> NDArray[np.bool_]:
    by_channel = np.asarray(marks, bool).reshape(shape[0], -1)
    assert bool((by_channel.all(axis=1) == by_channel.any(axis=1)).all()), "a convolution keeps whole channels"
    return by_channel[:, 0]

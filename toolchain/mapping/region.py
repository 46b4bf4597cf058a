"""A box of a population's neurons: what a slice holds."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

Range = tuple[int, int]


@dataclass(frozen=True, order=True)
class Region:
    """Neurons of a population from a first to behind a last on each of its axes.

    shape: axes of the whole population, (n,) or (channels, height, width).  ranges: (first, behind the last) on
    each axis. Regions of one population are ordered by their first neurons, axis by axis.
    """

    shape: tuple[int, ...]
    ranges: tuple[Range, ...]

    def __post_init__(self) -> None:
        inside = all(0 <= a < b <= n for (a, b), n in zip(self.ranges, self.shape, strict=True))
        if not inside:
            raise ValueError(f"no region {self.ranges} in a population of shape {self.shape}")

    @classmethod
    def whole(cls, shape: tuple[int, ...]) -> Region:
        """All neurons."""
        return cls(shape, tuple((0, n) for n in shape))

    @classmethod
    def flat(cls, size: int, start: int, stop: int) -> Region:
        """Neurons [start, stop) of a population with one axis."""
        return cls((size,), ((start, stop),))

    @property
    def extents(self) -> tuple[int, ...]:
        """Neurons on each axis."""
        return tuple(b - a for a, b in self.ranges)

    def __len__(self) -> int:
        return prod(self.extents)

    @property
    def is_whole(self) -> bool:
        return self.extents == self.shape

    @property
    def start(self) -> int:
        """First neuron; only where the population has one axis."""
        ((start, _),) = self.ranges
        return start

    @property
    def stop(self) -> int:
        """Behind the last neuron; only where the population has one axis."""
        ((_, stop),) = self.ranges
        return stop

    def of(self, values: NDArray) -> NDArray:
        """The part of an array with one value a neuron, shape (size,), as a view of the region's extents."""
        return values.reshape(self.shape)[tuple(slice(a, b) for a, b in self.ranges)]

    def neurons(self) -> NDArray[np.int64]:
        """Numbers of the neurons in the population, int64, in the order of the core's compartments.

        A population with one axis is in order. A map goes channel by channel, in each from left to right, column by
        column (source: NxTF). Where kernels are shared, columns are interleaved besides: see `convolution.Layout`.
        """
        numbers = self.of(np.arange(prod(self.shape), dtype=np.int64))
        return np.ascontiguousarray(np.swapaxes(numbers, -1, -2)).reshape(-1) if numbers.ndim > 1 else numbers.copy()

    def __str__(self) -> str:
        return f"[{', '.join(f'{a}:{b}' for a, b in self.ranges)}]"

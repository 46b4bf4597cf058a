"""The fields of one node of a NIR file, each checked before it is used."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import Diagnostic, SnncError

Reals = NDArray[np.float64]
SHAPE_LIMIT = 1 << 24
"""Most values of a tensor whose shape a file states."""
EXTENT_MAX = 1 << 16
"""Largest kernel, stride, padding or dilation that is taken for one."""


@dataclass(frozen=True, eq=False)
class Fields:
    """What a node holds.

    name: with those of the graphs around it (`graph.node`).  kind: NIR's word for it.  outer: whether it stands in
    no graph within the graph."""

    file: str
    name: str
    kind: str
    values: Mapping[str, Any]
    found: list[Diagnostic]
    outer: bool = True

    @property
    def place(self) -> str:
        return f"{self.file}, {self.kind} {self.name!r}"

    def refuse(self, message: str, field: str, **details: object) -> SnncError:
        return SnncError(message, where=f"{self.place}.{field}", **details)  # type: ignore[arg-type]

    def note(self, code: str, message: str, count: int = 0, effect: str = "") -> None:
        self.found.append(Diagnostic(code, self.name, message, count, effect))

    def known(self, names: Sequence[str]) -> None:
        """Unknown fields may change what the node computes, so they are not ignored."""
        for key in self.values:
            if key not in (*names, "type", "metadata"):
                raise self.refuse("unknown field", str(key)[:40], allowed=", ".join(names) or "none")

    def has(self, field: str) -> bool:
        return self.values.get(field) is not None

    def raw(self, field: str) -> Any:
        if not self.has(field):
            raise self.refuse("a field is missing", field)
        return self.values[field]

    def reals(self, field: str, default: float | None = None, axes: Sequence[int] | None = None) -> Reals:
        """Finite numbers in double precision. axes: the numbers of axes that are allowed."""
        value = default if default is not None and not self.has(field) else self.raw(field)
        array = self._numbers(value, field, axes)
        return array.astype(np.float64)

    def weights(self, field: str, axes: Sequence[int]) -> NDArray[np.float32]:
        """Finite numbers in single precision, in which we hold weights; what rounding changes is noted."""
        array = self._numbers(self.raw(field), field, axes)
        with np.errstate(over="ignore"):
            single = array.astype(np.float32)
        self.finite(single, field)
        changed = single != array
        if changed.any():
            near = np.abs(single[changed].astype(np.float64) - array[changed])
            effect = f"by {float((near / np.abs(array[changed])).max()):.1e} of its value at most"
            self.note("NIR003", f"{field}: numbers rounded to single precision", int(changed.sum()), effect)
        return single

    def _numbers(self, value: Any, field: str, axes: Sequence[int] | None) -> NDArray[Any]:
        if not isinstance(value, (int, float, np.ndarray)) or isinstance(value, bool):
            raise self.refuse("must be numbers", field, got=type(value).__name__)
        array = np.asarray(value)
        if array.dtype.kind not in "fiu" or array.size == 0:
            raise self.refuse("must be numbers", field, got=f"{array.dtype}, shape {array.shape}")
        if axes is not None and array.ndim not in axes:
            raise self.refuse(
                "a wrong number of axes", field, got=array.shape, allowed=" or ".join(map(str, axes)) + " axes"
            )
        self.finite(array, field)
        return array

    def finite(self, array: NDArray[Any], field: str) -> None:
        bad = ~np.isfinite(array)
        if bad.any():
            index = [int(i) for i in np.argwhere(bad)[0]]
            raise self.refuse(
                f"{int(bad.sum())} values are NaN or infinite (or too large for single precision)",
                f"{field}{index}",
                got=float(array[tuple(index)]),
                allowed="finite numbers",
            )

    def wholes(self, field: str, low: int, high: int = EXTENT_MAX, default: int | None = None) -> tuple[int, ...]:
        """Whole numbers of one axis, or one of none."""
        value = default if default is not None and not self.has(field) else self.raw(field)
        array = self._numbers(value, field, (0, 1)).reshape(-1)
        if (array != np.rint(array)).any() or (array < low).any() or (array > high).any():
            raise self.refuse(
                "must be whole numbers in range", field, got=array[:4].tolist(), allowed=f"{low} to {high}"
            )
        return tuple(int(each) for each in array)

    def pair(self, field: str, low: int, default: int | None = None) -> tuple[int, int]:
        """One number for both axes, or one for each."""
        values = self.wholes(field, low, default=default)
        if len(values) not in (1, 2):
            raise self.refuse("one number, or one for each axis", field, got=list(values)[:4])
        return (values[0], values[-1])

    def whole(self, field: str, low: int, high: int = EXTENT_MAX, default: int | None = None) -> int:
        values = self.wholes(field, low, high, default)
        if len(values) != 1:
            raise self.refuse("one whole number", field, got=list(values)[:4])
        return values[0]

    def axes(self, field: str) -> tuple[int, ...]:
        """Axes of a tensor as they are stated."""
        axes = self.wholes(field, 1, SHAPE_LIMIT)
        if math.prod(axes) > SHAPE_LIMIT:
            raise self.refuse("larger than any chip", field, got=axes[:6], allowed=f"{SHAPE_LIMIT} values")
        return axes

    def shape(self, field: str, taken: int | None = None) -> tuple[int, ...]:
        """Axes of a tensor as our layers have them: a sequence is a map of height 1.

        taken: so many last axes are those of a sample, the others of batch and time; None where nobody says, and then
        only a batch of one before a map is known as such.
        """
        axes = self.axes(field)
        if taken is None:
            taken = 3 if len(axes) == 4 and axes[0] == 1 else len(axes)
        before, axes = axes[: len(axes) - taken], axes[len(axes) - taken :]
        if before:
            self.without(field, before, axes)
        if len(axes) not in (1, 2, 3):
            raise self.refuse("must be (n,), (channels, length) or (channels, height, width)", field, got=axes[:6])
        return (axes[0], 1, axes[1]) if len(axes) == 2 else axes

    def without(self, field: str, before: tuple[int, ...], axes: tuple[int, ...]) -> None:
        """Tell that axes were left out."""
        message = f"{field} {before + axes}: the axes {before} of batch or time were left out"
        self.note("NIR011", message, len(before), f"a sample is {axes}")


def leading(axes: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """The stated axes before those of a shape as our layers have it; None where they do not end so."""
    flat = (shape[0], shape[2]) if len(shape) == 3 and shape[1] == 1 else shape
    for end in (shape, flat):
        if axes[len(axes) - len(end) :] == end:
            return axes[: len(axes) - len(end)]
    return None


def as_map(array: Reals) -> Reals:
    """Numbers of neurons along a sequence as those of a map of height 1."""
    return array[:, None, :] if array.ndim == 2 else array

"""The fields of one layer of a .net file, each checked before it is used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import Diagnostic, SnncError
from toolchain.frontends.entries import EXTENT_MAX, shown

Integers = NDArray[np.int64]
SIZE_MAX = 1 << 28
"""Largest extent of a shape that is taken for one."""
INTEGER_MAX = 1 << 31
"""Numbers beyond this are no register's."""


@dataclass(frozen=True, eq=False)
class Layer:
    """What a layer holds. name: of the layer, `layer/NUMBER` in the file.  found: where changes are noted."""

    file: str
    name: str
    kind: str
    values: Mapping[str, Any]
    found: list[Diagnostic]

    @classmethod
    def of(cls, file: str, number: str, values: Mapping[str, Any], found: list[Diagnostic]) -> Layer:
        nameless = cls(file, number, "", values, found)
        kind = nameless.text("type")
        return cls(file, f"{kind}{number}", kind, values, found)

    @property
    def place(self) -> str:
        return f"{self.file}, layer/{self.name.removeprefix(self.kind)} {self.kind}".rstrip()

    def refuse(self, message: str, field: str, **details: object) -> SnncError:
        return SnncError(message, where=f"{self.place}.{field}", **details)  # type: ignore[arg-type]

    def note(self, code: str, message: str, count: int = 0, effect: str = "") -> None:
        self.found.append(Diagnostic(code, self.name, message, count, effect))

    def has(self, field: str) -> bool:
        return self._value(field) is not None

    def known(self, names: Iterable[str], inside: str = "") -> None:
        """Unknown fields may change what the layer computes, so they are not ignored."""
        values = self._value(inside) if inside else self.values
        for key in values if isinstance(values, Mapping) else ():
            if key not in names:
                raise self.refuse("unknown field", f"{inside}/{key}".strip("/")[:60], allowed=", ".join(names))

    def text(self, field: str) -> str:
        value = self._value(field)
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if not isinstance(value, str) or not value:
            raise self.refuse("must be text", field, got=shown(value))
        return value

    def integers(self, field: str, axes: Iterable[int]) -> Integers:
        """Whole numbers with one of these numbers of axes; floats where they are whole."""
        value = self._value(field)
        if value is None:
            raise self.refuse("a field is missing", field)
        if isinstance(value, (Mapping, str, list)):
            raise self.refuse("must be whole numbers", field, got=type(value).__name__)
        array = np.asarray(value)
        if array.ndim not in axes or not array.size:
            raise self.refuse("has the wrong shape", field, got=array.shape, allowed=f"{list(axes)} axes")
        real = array.astype(np.float64)
        bad = ~(np.abs(real) <= INTEGER_MAX) | (real != np.rint(real))
        if bad.any():
            at = tuple(int(k) for k in np.argwhere(bad)[0])
            raise self.refuse(
                f"{int(bad.sum())} numbers are no integers of the chip",
                f"{field}{list(at) if at else ''}",
                got=float(real[at]),
                allowed="whole numbers, as slayer's quantise hooks leave them",
                remedy="netx would cut the fraction off in silence: train with slayer's quantise hook for this layer",
            )
        return real.astype(np.int64)

    def whole(self, field: str, default: int | None = None) -> int:
        """One whole number, alone or in an array of one."""
        if default is not None and not self.has(field):
            return default
        array = self.integers(field, (0, 1))
        if array.size != 1:
            raise self.refuse("must be one whole number", field, got=array.shape)
        return int(array.reshape(-1)[0])

    def shape(self, field: str) -> tuple[int, ...]:
        extents = tuple(int(n) for n in self.integers(field, (1,)))
        if len(extents) not in (1, 3) or min(extents) < 1 or max(extents) > SIZE_MAX:
            raise self.refuse("no shape of a layer", field, got=extents, allowed="(n,) or (channels, height, width)")
        return extents

    def pair(self, field: str, low: int, default: int | None = None) -> tuple[int, int]:
        """Of the y and of the x axis; one number stands for both."""
        if default is not None and not self.has(field):
            return default, default
        values = self.integers(field, (0, 1)).reshape(-1)
        values = np.repeat(values, 2) if values.size == 1 else values
        if values.size != 2 or int(values.min()) < low or int(values.max()) > EXTENT_MAX:
            raise self.refuse("must be whole numbers of y and x", field, got=values.tolist(), allowed=f"{low} or more")
        return int(values[0]), int(values[1])

    def _value(self, field: str) -> Any:
        found: Any = self.values
        for part in field.split("/"):
            if not isinstance(found, Mapping):
                return None
            found = found.get(part)
        return found

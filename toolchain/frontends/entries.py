"""Entries of a nested dictionary that anyone may have written, each checked before it is used."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from toolchain.errors import SnncError, nearest

FLOAT_MAX = sys.float_info.max
EXTENT_MAX = 1 << 16
"""Largest kernel, stride, padding or dilation that is taken for one."""


def shown(value: object) -> str:
    """A value for an error message; Python refuses to print some."""
    try:
        return repr(value)[:80]
    except (ValueError, RecursionError):
        return f"a very long {type(value).__name__}"


class Entries:
    """Checked access; `path` is the file. Places are written `layers[1] 'fc2'.neuron.tau`.

    size: bytes of the file, which all tensors together cannot exceed.
    """

    def __init__(self, path: str, size: int) -> None:
        self.path = path
        self.unclaimed_bytes = size

    def refuse(self, message: str, place: str, **details: object) -> SnncError:
        return SnncError(message, where=f"{self.path}, {place}", **details)  # type: ignore[arg-type]

    def require(self, entries: Mapping[Any, Any], keys: Iterable[str], place: str) -> None:
        missing = [key for key in keys if key not in entries]
        if missing:
            raise self.refuse(
                f"{len(missing)} entries are missing", place or "top level", got=f"no {', '.join(missing)}"
            )

    def known(self, entries: Mapping[Any, Any], keys: Iterable[str], place: str) -> None:
        """Unknown entries here would change what the network computes, so they are not ignored."""
        for key in entries:
            if key not in tuple(keys):
                text = str(key)[:40]
                raise self.refuse("unknown entry", f"{place}.{text}", allowed=nearest(text, keys))

    def entry(self, entries: Mapping[Any, Any], key: str, place: str) -> tuple[Any, str]:
        where = f"{place}.{key}" if place else key
        if key not in entries:
            raise self.refuse("an entry is missing", where)
        return entries[key], where

    def mapping(self, entries: Mapping[Any, Any], key: str, place: str) -> Mapping[Any, Any]:
        value, where = self.entry(entries, key, place)
        if not isinstance(value, dict):
            raise self.refuse("must be a dictionary", where, got=type(value).__name__)
        return value

    def text(self, entries: Mapping[Any, Any], key: str, place: str) -> str:
        value, where = self.entry(entries, key, place)
        if not isinstance(value, str) or not value:
            raise self.refuse("must be text", where, got=shown(value))
        return value

    def whole(
        self, entries: Mapping[Any, Any], key: str, place: str, low: int | None = None, high: int | None = None
    ) -> int:
        value, where = self.entry(entries, key, place)
        within = isinstance(value, int) and not isinstance(value, bool)
        if within:
            within = (low is None or value >= low) and (high is None or value <= high)
        if not within:
            limits = f"{'' if low is None else f', at least {low}'}{'' if high is None else f', at most {high}'}"
            raise self.refuse("must be a whole number in range", where, got=shown(value), allowed=f"int{limits}")
        return int(value)

    def number(self, entries: Mapping[Any, Any], key: str, place: str) -> float:
        value, where = self.entry(entries, key, place)
        number = isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool))
        if not number or abs(value) > FLOAT_MAX or math.isnan(value):
            raise self.refuse("must be a finite number", where, got=shown(value))
        return float(value)

    def one_of(self, entries: Mapping[Any, Any], key: str, place: str, known: Iterable[str]) -> str:
        value = self.text(entries, key, place)
        if value not in known:
            raise self.refuse(f"unknown {key}", f"{place}.{key}", got=value[:40], allowed=nearest(value[:40], known))
        return value

    def pair(self, entries: Mapping[Any, Any], key: str, place: str, low: int) -> tuple[int, int]:
        """Two whole numbers, of the y and of the x axis."""
        value, where = self.entry(entries, key, place)
        y, x = self.two(value, where, "two whole numbers, [y, x]")
        y, x = (self.whole({"": part}, "", where, low=low, high=EXTENT_MAX) for part in (y, x))
        return y, x

    def two(self, value: object, where: str, what: str) -> tuple[Any, Any]:
        if not isinstance(value, (list, tuple)) or len(value) != 2:
            raise self.refuse(f"must be {what}", where, got=shown(value))
        return value[0], value[1]

    def tensor(self, value: object, dtype: torch.dtype, ndim: int, place: str) -> NDArray[Any]:
        """A dense tensor as an array. What all tensors claim together must be in the file."""
        if not isinstance(value, torch.Tensor):
            raise self.refuse("must be a tensor", place, got=type(value).__name__)
        plain = value.layout == torch.strided and value.device.type == "cpu"
        if not plain or value.dtype != dtype or value.ndim != ndim or value.numel() == 0:
            raise self.refuse(
                "wrong kind of tensor",
                place,
                got=f"{value.dtype}, {value.layout}, shape {tuple(value.shape)}".replace("torch.", ""),
                allowed=f"{dtype}, strided, {ndim} dimension{'s' if ndim > 1 else ''}".replace("torch.", ""),
            )
        self.unclaimed_bytes -= value.numel() * value.element_size()
        if self.unclaimed_bytes < 0:
            raise self.refuse("the tensors claim more than the file holds", place, got=f"shape {tuple(value.shape)}")
        return value.detach().contiguous().numpy()

    def finite(self, values: NDArray[Any], place: str) -> None:
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            index = [int(i) for i in bad[0]]
            raise self.refuse(
                f"{len(bad)} values are NaN or infinite",
                f"{place}{index}",
                got=float(values[tuple(index)]),
                allowed="finite numbers",
                remedy="train again with a smaller learning rate, or repair the checkpoint",
            )

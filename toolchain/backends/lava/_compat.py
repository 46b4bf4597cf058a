"""Lets lava-nc 0.10.0 (made for Python 3.10) run on Python 3.11 and 3.12. Import it before anything from lava.

Import-safe and idempotent; each change is made only where it is needed:
- From 3.11 a dataclass refuses a field default without a hash, and one of Lava's has such a default.
- Numpy 2.1 and later deprecate and drop the `newshape` argument that Lava's reshaping ports pass by name.
- Numpy 2 keeps int8 strides and padding of convolutions in int8, which overflow for images of 128 or more pixels.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from typing import Any

import numpy as np


def _allow_unhashable_default() -> None:
    if sys.version_info < (3, 11) or "lava.magma.compiler.var_model" in sys.modules:
        return
    plain = dataclasses.dataclass

    def with_hash(cls: type | None = None, /, **options: Any) -> Any:
        def wrap(decorated: type) -> type:
            # ByteEncoder is the class whose instance is the unhashable default.
            extra = {"unsafe_hash": True} if decorated.__name__ == "ByteEncoder" else {}
            return plain(**{**options, **extra})(decorated)

        return wrap if cls is None else wrap(cls)

    dataclasses.dataclass = with_hash
    try:
        import lava.magma.compiler.var_model  # noqa: F401
    finally:
        dataclasses.dataclass = plain


def _reshape_to(array: np.ndarray, to: tuple[int, ...]) -> np.ndarray:
    return np.reshape(array, to)


def _mend_numpy_2() -> None:
    if int(np.__version__.split(".")[0]) < 2:
        return
    from lava.magma.core.process.ports import ports
    from lava.proc.conv import utils

    ports.ReshapePort.get_transform_func_fwd = lambda self: functools.partial(_reshape_to, to=self.shape)
    ports.ReshapePort.get_transform_func_bwd = lambda self: functools.partial(_reshape_to, to=self.old_shape)
    stock = utils.conv
    if getattr(stock, "plain_integers", False):
        return

    def conv(values: np.ndarray, weight: np.ndarray, *shape: Any) -> np.ndarray:
        *pairs, groups = shape
        return stock(values, weight, *([int(x) for x in pair] for pair in pairs), int(groups))

    conv.plain_integers = True  # type: ignore[attr-defined]
    utils.conv = conv


_allow_unhashable_default()
_mend_numpy_2()

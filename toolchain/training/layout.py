"""How numbers lie in memory. The weights (out, in) of wide dense layers lie input by input: outputs side by side.

A spike then adds one row to the sums, and each row of the gradient is written once (`events`).
"""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


def by_input(weight: Tensor) -> Tensor:
    """The same weights (out, in), input by input in memory."""
    return weight.t().contiguous().t()


def alike(*tensors: Tensor) -> bool:
    """Whether they fill their memory without gaps, in the same order."""
    first = tensors[0]
    dense = first.is_contiguous() or (first.ndim == 2 and first.t().is_contiguous())
    return dense and all(x.stride() == first.stride() for x in tensors)


def memory(x: Tensor) -> NDArray[Any]:
    """All numbers (n,) as they lie in memory, which is shared. x fills it without gaps, on the processor."""
    array = x.detach().numpy()
    return (array if x.is_contiguous() else array.T).reshape(-1)


def lying_as(x: Tensor, other: Tensor) -> Tensor:
    """x in the order in which `other` lies in memory, which has its shape; itself where it does."""
    return x if alike(other, x) else torch.empty_like(other, dtype=x.dtype).copy_(x)

"""What stands for the derivative of a spike by the membrane potential's distance from the threshold.

Each is a function of x, the distance times a slope, and 1 at the threshold. The larger the slope, the nearer to the
threshold a potential has to come for its neuron to learn. `kernels.BELOW` has the same functions, compiled.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Surrogate:
    """slope: where no other is asked for.  derivative: of x, see above."""

    slope: float
    derivative: Callable[[Tensor], Tensor]


def arctangent(x: Tensor) -> Tensor:
    """1 / (1 + x**2). Source: Fang et al. 2021; their alpha is 2 slope / pi."""
    return 1 / (1 + x**2)


def sigmoid(x: Tensor) -> Tensor:
    """4 s(x) (1 - s(x)), s the logistic function; with slope 4 the derivative of s(4 distance)."""
    # s(-x) is 1 - s(x), without the cancellation.
    return 4 * x.sigmoid() * (-x).sigmoid()


def fast_sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + |x|)**2. Source: Zenke and Ganguli 2018."""
    return 1 / (1 + x.abs()) ** 2


def triangle(x: Tensor) -> Tensor:
    """max(0, 1 - |x|). Source: Esser et al. 2016."""
    return (1 - x.abs()).clamp(min=0)


SURROGATES: dict[str, Surrogate] = {
    "arctangent": Surrogate(math.pi, arctangent),
    "sigmoid": Surrogate(4.0, sigmoid),
    "fast-sigmoid": Surrogate(10.0, fast_sigmoid),
    "triangle": Surrogate(1.0, triangle),
}


def slope_of(name: str, slope: float | Literal["auto"] | None) -> float:
    """The slope that is asked for, or the surrogate's own. `auto` has to be chosen before, by `slopes.choose`."""
    if slope == "auto":
        raise ValueError("the slope is not chosen yet")
    return SURROGATES[name].slope if slope is None else slope

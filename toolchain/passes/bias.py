"""Biases as registers hold them: a 12 bit mantissa with sign for each neuron, one exponent for the population."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from toolchain.ir.arithmetic import BIAS_EXPONENT_LIMIT, BIAS_LIMIT


def exact_bias(bias: NDArray[np.int64]) -> tuple[NDArray[np.int16], int] | None:
    """Mantissas and the exponent that hold these integer biases without rounding; None where there are none."""
    for exponent in range(BIAS_EXPONENT_LIMIT, -1, -1):
        mantissa = bias >> exponent
        if np.array_equal(mantissa << exponent, bias):
            fits = int(np.abs(mantissa).max(initial=0)) <= BIAS_LIMIT
            return (mantissa.astype(np.int16), exponent) if fits else None
    raise AssertionError("exponent 0 holds every integer")


def nearest_bias(
    bias: NDArray[np.float64], least_exponent: int = 0
) -> tuple[NDArray[np.int16], int, NDArray[np.bool_]]:
    """Mantissas and the smallest exponent that hold these biases rounded, and which of them had to be clipped."""
    largest = float(np.abs(bias).max(initial=0.0))
    exponent = least_exponent
    while exponent < BIAS_EXPONENT_LIMIT and np.rint(largest / 2**exponent) > BIAS_LIMIT:
        exponent += 1
    rounded = np.rint(bias / 2**exponent)
    clipped = np.abs(rounded) > BIAS_LIMIT
    return np.clip(rounded, -BIAS_LIMIT, BIAS_LIMIT).astype(np.int16), exponent, clipped

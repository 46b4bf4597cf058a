"""The chip's integer arithmetic, in one place: what every simulator states or is compared with.

Source: Davies et al., "Loihi", IEEE Micro 2018, and the fixed-point models of Lava 0.10; see docs/semantics.md.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

STATE_LIMIT = (1 << 23) - 1
"""Largest magnitude of a membrane potential: 23 bits and a sign."""
STATE_SHIFT = 6
"""Synaptic sums and thresholds stand 6 bits above the lowest bit of the membrane potential."""
DECAY_ONE = 4096
"""A decay of 1.0: decays are 12 bit fractions."""
THRESHOLD_LIMIT = (1 << 17) - 1
BIAS_LIMIT = (1 << 12) - 1
BIAS_EXPONENT_LIMIT = 7
SUM_LIMIT = 1 << 25
"""A synaptic sum must stay below this magnitude to survive the shift into an int32 (Lava's ports)."""


def decay(state: NDArray[np.int64], amount: int | NDArray[np.int32]) -> NDArray[np.int64]:
    """`trunc(state * (4096 - amount) / 4096)`, rounded toward zero; one amount, or one a neuron."""
    magnitude = (np.abs(state) * (DECAY_ONE - np.asarray(amount, np.int64))) >> 12
    return np.sign(state) * magnitude


def wrap24(state: NDArray[np.int64]) -> NDArray[np.int64]:
    """Wrap beyond 24 bits once, as Lava's model does: 2**23 itself stays, -2**23 becomes 2**23."""
    full = 1 << 24
    half = 1 << 23
    wrapped = np.where(state > half, state - full, state)
    return np.where(wrapped <= -half, wrapped + full, wrapped)


def clip(state: NDArray[np.int64]) -> NDArray[np.int64]:
    """Saturate at +-(2**23 - 1)."""
    return np.clip(state, -STATE_LIMIT, STATE_LIMIT)

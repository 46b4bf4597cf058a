"""What a readout computes that is not known, from what it answers to a single input."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from toolchain.errors import SnncError
from toolchain.frontends.probe import CLOSE, LENGTH, TOLERANCE, Steps, Values


def probe_readout(neurons: Steps, shape: Sequence[int], *, where: str) -> tuple[Values, Values, Values]:
    """gain, current_decay and voltage_decay of `toolchain.ir.LIF`, each of the shape that was probed.

    An input of 1 leaves v = gain * (1, a + b, a a + a b + b b, ...) with a = 1 - voltage_decay, b = 1 - current_decay.
    neurons: their `step` gives potentials.  where: for messages.

    Raises:
        SnncError: they answer otherwise, shown on random inputs.
    """
    random = np.random.default_rng(0)
    x = random.uniform(-1, 1, (LENGTH, 2, *shape))
    x[:, 0] = 0.0
    x[0, 0] = 1.0
    neurons.reset()
    v = np.stack([neurons.step(step) for step in x])
    gain = v[0, 0]
    if not (gain > 0).all():
        raise SnncError("probed readout: an input adds nothing", where=where, got=float(gain.min()), allowed="above 0")
    total = v[1, 0] / gain
    product = total**2 - v[2, 0] / gain
    product = np.where(np.abs(product) < CLOSE, 0.0, product)
    root = np.sqrt(np.maximum(total**2 - 4 * product, 0.0))
    keeps, current_keeps = (total + root) / 2, (total - root) / 2
    keeps = np.where(np.abs(keeps - 1) < CLOSE, 1.0, keeps)
    current_keeps = np.where(np.abs(current_keeps) < CLOSE, 0.0, current_keeps)
    u = np.zeros_like(v[0])
    ours = np.zeros_like(v[0])
    for t in range(LENGTH):
        u = current_keeps * u + gain * x[t]
        ours = keeps * ours + u
        wrong = np.abs(ours - v[t]) > TOLERANCE * np.maximum(1.0, np.abs(v[t]))
        if wrong.any():
            at = tuple(np.argwhere(wrong)[0])
            raise SnncError(
                "probed readout: it is none that snnc knows",
                where=where,
                got=f"at step {t + 1} a potential of {v[t][at]:.6g}, where one or two decays give {ours[at]:.6g}",
                allowed="one or two decays of what came in",
            )
    return gain, 1.0 - current_keeps, 1.0 - keeps

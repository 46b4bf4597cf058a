"""The time step of a NIR file, whose equations are continuous."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from toolchain.errors import SnncError
from toolchain.frontends.nir_fields import Fields

TIMES = ("tau", "tau_mem", "tau_syn", "delay")
NEAR = 1e-4
"""Two step lengths that differ by no more than this part are one: exporters round to single precision."""


def choose(file: str, nodes: Iterable[Fields], given: float | None, stored: object) -> tuple[float, str]:
    """The step in the file's unit of time, and why it is that.

    given: by the user.  stored: what the file's metadata say. Else 1, where the file holds no times; else the one
    step for which every input counts with weight 1 (r dt / tau = 1 and w_in dt / tau_syn = 1), as exporters write
    networks that were trained in steps.

    Raises:
        SnncError: a step without meaning, or none that follows from the file.
    """
    if given is not None:
        return _checked(given, "--dt"), "as given"
    if stored is not None:
        return _checked(stored, f"{file}, metadata.dt"), "the file's own"
    nodes = list(nodes)
    times = [float(f.reals(name).min()) for f in nodes for name in TIMES if f.has(name)]
    if not times:
        return 1.0, "the file holds no times, so r is taken as per step"
    unit = [step for fields in nodes for step in _unit_steps(fields)]
    if unit and max(unit) - min(unit) <= NEAR * min(unit) and min(unit) < min(t for t in times if t > 0):
        return float(f"{unit[0]:.5g}"), "the step at which every input counts with weight 1"
    raise SnncError(
        "the file does not say how long a time step is",
        where=file,
        allowed=f"less than its shortest time, {min(times):g}",
        remedy="pass --dt, in the unit of the file's time constants: the step that the network was trained with",
    )


def _checked(value: object, where: str) -> float:
    number = value.item() if isinstance(value, np.ndarray) and value.size == 1 else value
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not (0 < number < math.inf):
        raise SnncError("a time step is more than 0", where=where, got=str(value)[:40])
    return float(number)


def _unit_steps(fields: Fields) -> Iterable[float]:
    for tau, factor in (("tau", "r"), ("tau_mem", "r"), ("tau_syn", "w_in")):
        if fields.has(tau) and fields.has(factor):
            steps = fields.reals(tau) / fields.reals(factor)
            yield from (float(steps.min()), float(steps.max()))

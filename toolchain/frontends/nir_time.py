"""The time step of a NIR file, whose equations are continuous."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from toolchain.errors import SnncError
from toolchain.frontends.nir_fields import Fields, Reals

TIMES = ("tau", "tau_mem", "tau_syn", "delay")
NEAR = 1e-4
"""Two step lengths that differ by no more than this part are one: exporters round to single precision."""


def choose(file: str, nodes: Iterable[Fields], given: float | None, stored: object) -> tuple[float, str]:
    """The step in the file's unit of time, and why it is that.

    given: by the user.  stored: what the file's metadata say. Else the one step for which every input counts with
    weight 1 (r dt of IF and I, r dt / tau and w_in dt / tau_syn of others), as exporters write networks that were
    trained in steps; or for which those of IF and I do, as leaky neurons may scale what they read. Else 1, where the
    file holds no times.

    Raises:
        SnncError: a step without meaning, or none that follows from the file.
    """
    if given is not None:
        return _checked(given, "--dt"), "as given"
    if stored is not None:
        return _checked(stored, f"{file}, metadata.dt"), "the file's own"
    nodes = list(nodes)
    times = [float(f.reals(name).min()) for f in nodes for name in TIMES if f.has(name)]
    shortest = min((t for t in times if t > 0), default=math.inf)
    plain = [step for fields in nodes for step in _plain_steps(fields)]
    leaky = [step for fields in nodes for step in _leaky_steps(fields)]
    for steps, whose in ((plain + leaky, "every input"), (plain, "every input of IF and I")):
        if steps and max(steps) - min(steps) <= NEAR * min(steps) and min(steps) < shortest:
            return float(f"{steps[0]:.5g}"), f"the step at which {whose} counts with weight 1"
    if not times:
        return 1.0, "the file holds no times, so r is taken as per step"
    raise SnncError(
        "the file does not say how long a time step is",
        where=file,
        allowed=f"at most its shortest time, {min(times):g}",
        remedy="pass --dt, in the unit of the file's time constants: the step that the network was trained with "
        "(exporters of SpikingJelly and snnTorch write 0.0001)",
    )


def _checked(value: object, where: str) -> float:
    number = value.item() if isinstance(value, np.ndarray) and value.size == 1 else value
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not (0 < number < math.inf):
        raise SnncError("a time step is more than 0", where=where, got=str(value)[:40])
    return float(number)


def _plain_steps(fields: Fields) -> Iterable[float]:
    """Of neurons without a leak."""
    if fields.kind in ("IF", "I"):
        yield from _ends(1.0, fields.reals("r"))


def _leaky_steps(fields: Fields) -> Iterable[float]:
    for tau, factor in (("tau", "r"), ("tau_mem", "r"), ("tau_syn", "w_in")):
        if fields.has(tau) and fields.has(factor):
            yield from _ends(fields.reals(tau), fields.reals(factor))


def _ends(time: Reals | float, factor: Reals) -> Iterable[float]:
    if (factor > 0).all():
        steps = time / factor
        yield from (float(steps.min()), float(steps.max()))

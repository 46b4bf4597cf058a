"""Many networks in one Lava run: they share its start, and the processes of their input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from numpy.typing import NDArray
from strategies import programs

from toolchain.backends import lava as backend
from toolchain.backends.lava import _spec
from toolchain.backends.trace import Trace
from toolchain.ir import Program


def distinct_programs(n: int, first_seed: int = 0, **options: Any) -> list[Program]:
    """n different programs that the strategy of that name draws."""
    found: list[Program] = []

    def collect(program: Program) -> None:
        if program not in found:
            found.append(program)

    # Within one run of hypothesis examples are variations of each other: many short runs are more varied.
    rules = settings(max_examples=12, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    for attempt in range(n):
        if len(found) < n:
            seed(1000 * first_seed + attempt)(rules(given(programs(**options))(collect)))()
    assert len(found) >= n, f"only {len(found)} different programs were drawn"
    return found[:n]


def side_by_side(
    networks: Sequence[Program], samples: NDArray[np.integer] | Sequence[NDArray[np.integer]]
) -> _spec.Spec:
    """One spec of many programs with the same steps; number k's names begin with `k.`.

    samples: for all, where they have the same input (which they then share; its names stay), or as many for each.
    """
    alike = isinstance(samples, np.ndarray)
    entry = networks[0].input
    assert not alike or all(program.input == entry for program in networks)
    shared = {entry.name, f"{entry.name}.values"} if alike else set()
    given = [samples] * len(networks) if alike else samples
    parts = [
        _prefixed(backend.to_spec(program, values, slices={}), f"{k}.", shared)
        for k, (program, values) in enumerate(zip(networks, given, strict=True))
    ]
    assert len({(part.steps, part.samples) for part in parts}) == 1
    return replace(
        parts[0],
        populations=_once(p for part in parts for p in part.populations),
        connections=tuple(c for part in parts for c in part.connections),
        sources=_once(s for part in parts for s in part.sources),
        record=tuple(dict.fromkeys(name for part in parts for name in part.record)),
        inputs={name: values for part in parts for name, values in part.inputs.items()},
    )


def _prefixed(spec: _spec.Spec, prefix: str, shared: set[str]) -> _spec.Spec:
    def name(old: Any) -> Any:
        return old if old is None or old in shared else prefix + old

    return replace(
        spec,
        populations=tuple(replace(p, name=name(p.name)) for p in spec.populations),
        connections=tuple(
            replace(c, name=prefix + c.name, source=name(c.source), target=name(c.target)) for c in spec.connections
        ),
        sources=tuple(replace(s, name=name(s.name), target=name(s.target)) for s in spec.sources),
        record=tuple(map(name, spec.record)),
        inputs={name(old): values for old, values in spec.inputs.items()},
    )


def _once(items: Any) -> tuple[Any, ...]:
    return tuple({item.name: item for item in items}.values())


def part_of(recorded: backend.Recorded, k: int, wanted: Trace) -> Trace:
    """What network k did, under its own names. (An input that is no process sent what it was given.)"""

    def own(values: Any, name: str, given: Any) -> Any:
        return values.get(f"{k}.{name}", values.get(name, given))

    return Trace(
        spikes={name: own(recorded.spikes, name, spikes) for name, spikes in wanted.spikes.items()},
        counts={name: own(recorded.counts, name, counts) for name, counts in wanted.counts.items()},
        output=wanted.output,
        seconds=0.0,
        potentials={name: recorded.potentials[f"{k}.{name}"] for name in wanted.potentials},
    )

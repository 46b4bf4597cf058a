"""Run a deployed network on data, and compare what it computes with the trained one, row by row."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from toolchain.backends import physical, reference
from toolchain.backends.trace import Divergence, Trace, first_divergence
from toolchain.errors import Diagnostic, SnncError, UsageError, nearest
from toolchain.formats.events import Binned, Bins, microseconds, read_binned
from toolchain.ir import Graph, Program
from toolchain.ir.verify import shapes
from toolchain.pipeline import Compilation

BACKENDS: dict[str, str] = {
    "reference": "toolchain.backends.reference:run",
    "fast": "toolchain.backends.fast:run",
    "lava": "toolchain.backends.lava:run",
    "onnx": "toolchain.backends.onnx_runtime:run",
}

DT = "1ms"
"""Time of a step of event data where nobody says."""
SPIKES_AT_ONCE = 1 << 27
"""Neurons x steps x samples that a comparison keeps at once, one byte each for every simulation."""

Progress = Callable[[int, int], None]


class Backend(Protocol):
    """What every back end offers."""

    def __call__(
        self, program: Program, samples: NDArray[np.integer], *, progress: Progress | None = None, **options: Any
    ) -> Trace: ...


def backend(name: str) -> Backend:
    """The back end of that name, imported only now.

    Raises:
        UsageError: there is none.
    """
    if name not in BACKENDS:
        raise UsageError(f"unknown back end {name!r}", where="--backend", allowed=nearest(name, BACKENDS))
    module, attribute = BACKENDS[name].split(":")
    found: Backend = getattr(import_module(module), attribute)
    return found


def synaptic_operations(program: Program, trace: Trace) -> dict[str, float]:
    """Mean synaptic operations per sample by connection: spikes times the synapses that they reach on the chip."""
    samples = max(1, len(trace.counts[program.input.name]))
    found = {}
    for c in program.connections:
        if program.input.on_host and c.source == program.input.name:
            found[c.name] = 0.0
            continue
        spikes = trace.counts[c.source].sum(axis=0, dtype=np.int64)
        found[c.name] = float(spikes @ c.synapses.connectivity.fan_out) / samples
    return found


def event_samples(
    graph: Graph,
    path: str | os.PathLike[str],
    count: int | None = None,
    *,
    dt: str | None = None,
    event_map: str | None = None,
    downsample: int | None = None,
) -> Binned:
    """Recordings of events as samples of a network.

    dt: time of a step (1ms).  event_map: axes of the input, CxHxW or a number, where the network's own are not to be
    taken.

    Raises:
        SnncError: the network reads no spikes of every step, or whatever is wrong with the recordings.
    """
    entry = graph.input
    if entry.coding != "spikes":
        raise SnncError(
            "the network reads values that stay the same, not events",
            where=entry.name,
            got=f"input coding {entry.coding!r}",
            allowed="'spikes'",
            remedy="compile a .net or .nir file with --coding spikes",
        )
    shape = shapes(graph)[entry.name] if event_map is None else _axes(event_map)
    if math.prod(shape) != entry.sample_size or len(shape) not in (1, 3):
        raise UsageError(
            "the map does not hold the network's input",
            where="--map",
            got="x".join(map(str, shape)),
            allowed=f"CHANNELSxHEIGHTxWIDTH, or one number, of {entry.sample_size} neurons",
        )
    bins = Bins(microseconds(dt or DT), graph.steps, shape, downsample or 1)
    return read_binned(path, bins, count)


def _axes(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.lower().split("x"))
    except ValueError:
        raise UsageError("no map", where="--map", got=text, allowed="such as 2x34x34, or 700") from None


def accuracy(trace: Trace, labels: NDArray[np.integer]) -> float:
    """Part of the samples whose decision is the label (0 to 1)."""
    return float(np.mean(trace.decisions == labels))


@dataclass(frozen=True)
class Row:
    """One simulation in the comparison.

    accuracy: None without labels.  agreement: equal decisions with the row above; None in the first row.

    exact: whether this row must equal the one above spike for spike, and in the potentials of a readout.
    notes: what the back end did that its user should know.
    """

    name: str
    accuracy: float | None
    agreement: float | None
    divergence: Divergence | None
    exact: bool
    seconds: float
    notes: tuple[Diagnostic, ...] = ()

    @property
    def failed(self) -> bool:
        return self.exact and self.divergence is not None

    def to_dict(self) -> dict[str, Any]:
        where = self.divergence
        return {
            "name": self.name,
            "accuracy": self.accuracy,
            "agreement": self.agreement,
            "must_be_exact": self.exact,
            "first_divergence": None if where is None else vars(where),
            "seconds": round(self.seconds, 3),
            "notes": [str(note) for note in self.notes],
        }


@dataclass(frozen=True, eq=False)
class _Compared:
    """One simulation of a part of the samples, beside the one above it."""

    name: str
    decisions: NDArray[np.int64]
    divergence: Divergence | None
    exact: bool
    seconds: float
    notes: tuple[Diagnostic, ...] = ()


def verify(
    state: Compilation,
    samples: NDArray[np.integer],
    labels: NDArray[np.integer] | None,
    *,
    exact_backends: Mapping[str, Mapping[str, Any]],
    observe: Callable[[str], None] | None = None,
) -> list[Row]:
    """Float, quantised and reference simulation, then every named back end (with its options), side by side.

    The rows float and quantised keep the trained neurons. So does the reference that they are compared with: the
    program before dead neurons were removed; its output must equal that of the deployed program.
    Samples are taken in parts, so that the spikes of a large network fit in memory.
    """
    neurons = state.whole.input.size + sum(p.size for p in state.whole.populations)
    at_once = max(1, SPIKES_AT_ONCE // (neurons * state.whole.steps))
    parts: list[list[_Compared]] = []
    for start in range(0, len(samples), at_once):

        def say(name: str, start: int = start) -> None:
            if observe is not None:
                observe(name if not start else f"{name}, after {start} of {len(samples)} samples")

        part = _compare(state, samples[start : start + at_once], exact_backends, say)
        parts.append([_from(row, start) for row in part])
    return _rows(parts, labels)


def _compare(
    state: Compilation,
    samples: NDArray[np.integer],
    exact_backends: Mapping[str, Mapping[str, Any]],
    say: Callable[[str], None],
) -> list[_Compared]:
    say("float")
    trained = physical.run(state.graph, samples)
    say("quantised")
    quantised = physical.run(state.quantised.dequantise(), samples)
    say("reference")
    whole = reference.run(state.whole, samples)
    deployed = reference.run(state.program, samples)
    _check_same_output(whole, deployed, state.program.output.name)
    rows = [
        _Compared("float", trained.decisions, None, False, trained.seconds),
        _Compared("quantised", quantised.decisions, first_divergence(trained, quantised), False, quantised.seconds),
        _Compared("reference", whole.decisions, first_divergence(quantised, whole), False, deployed.seconds),
    ]
    for name, options in exact_backends.items():
        say(name)
        trace = backend(name)(state.program, samples, **options)
        apart = first_divergence(deployed, trace, potentials=True)
        rows.append(_Compared(name, trace.decisions, apart, True, trace.seconds, trace.notes))
    return rows


def _check_same_output(whole: Trace, deployed: Trace, output: str) -> None:
    read = output in whole.potentials
    same = np.array_equal(whole.spikes[output], deployed.spikes[output]) and (
        not read or np.array_equal(whole.potentials[output], deployed.potentials[output])
    )
    if not same:
        raise SnncError(
            "removing dead neurons changed the output: this is a fault of the compiler",
            where=output,
            remedy="please report it with the model",
        )


def _from(row: _Compared, start: int) -> _Compared:
    """The same with its samples counted from the first of all parts."""
    where = row.divergence
    return row if where is None else replace(row, divergence=replace(where, sample=where.sample + start))


def _rows(parts: list[list[_Compared]], labels: NDArray[np.integer] | None) -> list[Row]:
    rows: list[Row] = []
    above: NDArray[np.int64] | None = None
    for same in zip(*parts, strict=True):
        decisions = np.concatenate([part.decisions for part in same])
        rows.append(
            Row(
                name=same[0].name,
                accuracy=None if labels is None else float(np.mean(decisions == labels)),
                agreement=None if above is None else float(np.mean(decisions == above)),
                divergence=next((part.divergence for part in same if part.divergence is not None), None),
                exact=same[0].exact,
                seconds=sum(part.seconds for part in same),
                notes=tuple(note for part in same for note in part.notes),
            )
        )
        above = decisions
    return rows

"""Run a deployed network on data, and compare what it computes with the trained one, row by row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from toolchain.backends import physical, reference
from toolchain.backends.trace import Trace
from toolchain.errors import SnncError, UsageError, nearest
from toolchain.ir import Program
from toolchain.pipeline import Compilation

BACKENDS: dict[str, str] = {
    "reference": "toolchain.backends.reference:run",
    "lava": "toolchain.backends.lava:run",
    "onnx": "toolchain.backends.onnx_runtime:run",
}

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


def accuracy(trace: Trace, labels: NDArray[np.integer]) -> float:
    """Part of the samples whose decision is the label (0 to 1)."""
    return float(np.mean(trace.decisions == labels))


@dataclass(frozen=True)
class Divergence:
    """The first spike in which two simulations differ: by sample, then step of the layer's window, then layer."""

    sample: int
    layer: str
    neuron: int
    step: int

    def __str__(self) -> str:
        return f"{self.layer} neuron {self.neuron} step {self.step} (sample {self.sample})"


def first_divergence(one: Trace, other: Trace) -> Divergence | None:
    """Where two traces first differ, or None where every recorded spike is equal.

    Raises:
        SnncError: the two did not record the same populations.
    """
    if set(one.spikes) != set(other.spikes):
        raise SnncError(
            "the simulations recorded different populations",
            got=", ".join(sorted(set(one.spikes) ^ set(other.spikes))),
        )
    found: list[tuple[int, int, int, int, str]] = []
    for depth, name in enumerate(one.spikes):
        different = one.spikes[name] != other.spikes[name]
        if different.any():
            sample, step, neuron = (int(k) for k in np.unravel_index(int(np.argmax(different)), different.shape))
            found.append((sample, step, depth, neuron, name))
    if not found:
        return None
    first, at_step, _, at_neuron, layer = min(found)
    return Divergence(first, layer, at_neuron, at_step)


@dataclass(frozen=True)
class Row:
    """One simulation in the comparison. agreement: equal decisions with the row above; None in the first row.

    exact: whether this row must equal the one above spike for spike.
    """

    name: str
    accuracy: float
    agreement: float | None
    divergence: Divergence | None
    exact: bool
    seconds: float

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
        }


def verify(
    state: Compilation,
    samples: NDArray[np.integer],
    labels: NDArray[np.integer],
    *,
    exact_backends: Mapping[str, Mapping[str, Any]],
    observe: Callable[[str], None] | None = None,
) -> list[Row]:
    """Float, quantised and reference simulation, then every named back end (with its options), side by side.

    The rows float and quantised keep the trained neurons. So does the reference that they are compared with: the
    program before dead neurons were removed; its output must equal that of the deployed program.
    """

    def say(name: str) -> None:
        if observe is not None:
            observe(name)

    say("float")
    float_trace = physical.run(state.graph, samples)
    rows = [Row("float", accuracy(float_trace, labels), None, None, False, float_trace.seconds)]
    say("quantised")
    quantised = physical.run(state.quantised.dequantise(), samples)
    rows.append(_row("quantised", quantised, float_trace, labels, exact=False))
    say("reference")
    whole = reference.run(state.whole, samples)
    deployed = reference.run(state.program, samples)
    row = _row("reference", whole, quantised, labels, exact=False)
    rows.append(Row(row.name, accuracy(deployed, labels), row.agreement, row.divergence, False, deployed.seconds))
    output = state.program.output.name
    if not np.array_equal(whole.spikes[output], deployed.spikes[output]):
        raise SnncError(
            "removing dead neurons changed the output: this is a fault of the compiler",
            where=output,
            remedy="please report it with the model",
        )
    for name, options in exact_backends.items():
        say(name)
        trace = backend(name)(state.program, samples, **options)
        rows.append(_row(name, trace, deployed, labels, exact=True))
    return rows


def _row(name: str, trace: Trace, above: Trace, labels: NDArray[np.integer], *, exact: bool) -> Row:
    agreement = float(np.mean(trace.decisions == above.decisions))
    return Row(name, accuracy(trace, labels), agreement, first_divergence(above, trace), exact, trace.seconds)

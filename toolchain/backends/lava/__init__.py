"""The Lava back end: fixed-point processes of lava-nc 0.10, in a child process with an interpreter of its own.

This is the parent's side. The child is `worker.py` (with `batched.py` for many samples at once); it shares no class
with the toolchain, only the spec folder that `_spec.py` describes.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.backends import child
from toolchain.backends.lava import _plan, _spec
from toolchain.backends.trace import Trace, first_divergence
from toolchain.environment import find_lava
from toolchain.errors import Diagnostic, SnncError, ToolError
from toolchain.ir import Compartments, Program
from toolchain.ir.convolution import Convolution
from toolchain.ir.pattern import Pattern

WORKER = Path(__file__).with_name("worker.py")
WORKER_FILES = ("worker.py", "_spec.py", "_compat.py")

# For the default deadline: several times what a loaded machine of two cores was seen to need.
START_S = 0.15
STEP_S = 0.004
DEADLINE = 5
"""Times the estimated time of the stock processes, for large networks."""
STALL_S = child.STALL_S


def run(
    program: Program,
    samples: NDArray[np.integer],
    *,
    record: Collection[str] | None = None,
    slices: Mapping[str, Sequence[int]] | None = None,
    processes: str = "auto",
    deadline_s: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Trace:
    """Simulate every sample in Lava, as one long run in which each population's state is cleared between samples.

    Large sets run side by side in processes with a batch dimension; the first samples then run through the stock
    processes as well, and must agree in every spike.

    samples: integers 0 to 255, shape (n_samples, sample_size).
    record: populations whose spikes are kept (all when None); spike counts are kept for all.
    slices: population or input name -> inner cut points; each slice becomes a Lava process of its own.
    processes: "stock", "batched", or "auto", which chooses by the time that stock ones would take.
    deadline_s: seconds after which the run is ended (None: a generous estimate from the network's size).
    progress: called with (samples done, samples in all).

    Raises:
        SnncError: a value that Lava cannot represent, naming the place; or stock and batched processes that disagree.
        ToolError: no interpreter with Lava, or the run failed, died or passed its deadline.
    """
    began = time.perf_counter()
    known = [program.input.name, *(p.name for p in program.populations)]
    wanted = known if record is None else [name for name in known if name in record]
    if not len(samples):
        raise SnncError("there are no samples to run", where=program.name, got=0, allowed="one or more")
    spec = to_spec(program, samples, slices=slices or {})
    spec = replace(spec, batch=_plan.batch(spec, processes, wanted))
    found = execute(spec, record=wanted, deadline_s=deadline_s, progress=progress)
    spikes, counts = found.spikes, found.counts
    if program.input.name not in counts:
        # These spikes come from outside and are no process's output: they are what was sent.
        lasts = program.steps if program.input.steady else 1
        sent = program.input.encode(samples, program.steps // lasts).transpose(1, 0, 2) != 0
        counts[program.input.name] = sent.sum(axis=1, dtype=np.int32) * np.int32(lasts)
        if program.input.name in wanted:
            spikes[program.input.name] = np.repeat(sent.astype(np.uint8), lasts, axis=1)
    return Trace(
        spikes={name: spikes[name] for name in wanted},
        counts={name: counts[name] for name in known},
        output=program.output.name,
        seconds=time.perf_counter() - began,
        potentials=found.potentials,
        notes=found.notes,
    )


@dataclass(frozen=True, eq=False)
class Recorded:
    """What the populations of a spec did: as in a Trace. report: times and sizes, from the worker."""

    spikes: dict[str, NDArray[np.uint8]]
    counts: dict[str, NDArray[np.integer]]
    potentials: dict[str, NDArray[np.int64]]
    report: dict[str, Any]
    notes: tuple[Diagnostic, ...] = ()


def execute(
    spec: _spec.Spec,
    *,
    record: Collection[str] | None = None,
    deadline_s: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Recorded:
    """Run a spec in a child process; one spec may hold many networks side by side. Options and errors as of `run`.

    Lava can stop without an error, all its processes waiting for each other (docs/decisions/0008). Such a run is ended
    and made once more; a note (LAV001) says so.
    """
    interpreter = find_lava()
    estimate = _deadline_s(spec)
    left = given = estimate if deadline_s is None else deadline_s
    notes: tuple[Diagnostic, ...] = ()
    began = time.monotonic()
    while True:
        with tempfile.TemporaryDirectory(prefix="snnc-lava-") as name:
            folder = Path(name)
            with _refusals():
                _spec.write(spec, folder)
            watch = _Progress(folder, spec, progress)
            try:
                status = child.supervise(
                    # -u: what it says is there even when it is killed.
                    [interpreter.path, "-u", WORKER, folder, str(os.getpid())],
                    folder=folder,
                    deadline_s=left,
                    what="Lava",
                    on_poll=watch,
                    advance=watch.place,
                    stall_s=STALL_S,
                )
            except child.Stalled as stalled:
                if notes:
                    raise
                notes = (Diagnostic("LAV001", "Lava", "a run stalled and was made again", 1, str(stalled.got or "")),)
                left = estimate if deadline_s is None else max(given - (time.monotonic() - began), 0.0)
                continue
            _raise_failure(folder, status)
            found = _read(folder, spec, spec.record if record is None else record)
            return replace(found, notes=notes + _compare(folder, spec))


def _deadline_s(spec: _spec.Spec) -> float:
    processes = sum(len(spec.bounds(p.name)) * 3 for p in spec.populations) + sum(
        len(spec.bounds(c.source)) * len(spec.bounds(c.target)) for c in spec.connections
    )
    if spec.batch is None:
        steps, parts = spec.total_steps, 1
    else:
        steps, parts = -(-spec.total_steps // spec.batch.size), spec.batch.shards + 1
    return 60 + processes * (START_S * parts + STEP_S * steps) + DEADLINE * _plan.seconds(spec)


def _compare(folder: Path, spec: _spec.Spec) -> tuple[Diagnostic, ...]:
    """Hold the samples that ran both ways against each other; what was run, in words."""
    if spec.batch is None:
        return ()
    n, neurons = spec.batch.compared, "LIFReset" if spec.batch.stock_neurons else "neurons of our own"
    few = replace(spec, batch=None, inputs={name: values[:n] for name, values in spec.inputs.items()})
    if n:
        stock = _read(folder / "compared", few, spec.record)
        apart = first_divergence(_read(folder, few, spec.record), stock, potentials=True)
        if apart is not None:
            raise SnncError(
                "Lava's stock processes and the batched ones differ",
                where=str(apart),
                allowed="every spike equal",
                remedy="this is a fault of the toolchain: please report it; --lava-processes stock does without them",
            )
    ran = f"{spec.samples} samples, {spec.batch.size} side by side in {len(spec.batch.rows(spec.samples))} runs"
    also = f"{n} also by stock processes, every spike equal"
    return (Diagnostic("LAV002", "Lava", "batched processes", spec.samples, f"{ran}, {neurons}; {also}"),)


def export(program: Program, directory: str | Path) -> None:
    """Write a network and the worker's files to a folder, for a Lava program of one's own (see docs).

    The folder needs nothing of the toolchain: in an interpreter that has Lava, `import worker` from it and call
    `worker.build(folder)`.

    Raises:
        SnncError: a value that Lava cannot represent.
        OSError: the folder exists already, or cannot be written.
    """
    folder = Path(directory)
    folder.mkdir(parents=True)
    with _refusals():
        _spec.write(to_spec(program, None, slices={}), folder)
    for name in WORKER_FILES:
        shutil.copyfile(WORKER.with_name(name), folder / name)


def to_spec(
    program: Program, samples: NDArray[np.integer] | None, *, slices: Mapping[str, Sequence[int]]
) -> _spec.Spec:
    """A program (and the samples to run it on) in the worker's terms."""
    depths = program.depths
    populations, sources, inputs, on_host = _ENTRIES[program.input.coding](program, samples)
    populations += [_population(p, depths[p.name]) for p in program.populations]
    connections = [
        _spec.Connection(
            name=c.name,
            source=c.source,
            target=c.target,
            **_pattern(c.synapses.connectivity),
            mantissas=c.synapses.mantissa,
            sign_mode=c.synapses.sign_mode,
            weight_bits=int(c.synapses.weight_bits),
            exponent=int(c.synapses.exponent),
            delay=int(c.delay),
        )
        for c in program.connections
        if c.name not in on_host
    ]
    return _spec.Spec(
        steps=int(program.steps),
        populations=tuple(populations),
        connections=tuple(connections),
        sources=tuple(sources),
        record=tuple(p.name for p in populations),
        slices={name: tuple(int(cut) for cut in cuts) for name, cuts in slices.items()},
        inputs=inputs if samples is not None else {},
    )


def _pattern(pattern: Pattern) -> dict[str, Any]:
    """The lists of a connection, or those of its kernel and where it is applied."""
    fields: dict[str, Any] = {"indptr": pattern.stored.indptr, "targets": pattern.stored.targets}
    if isinstance(pattern, Convolution):
        fields["kernel"] = _spec.Kernel(
            pattern.source, pattern.target, pattern.size, pattern.stride, pattern.padding, pattern.dilation
        )
    return fields


def _population(compartments: Compartments, depth: int) -> _spec.Population:
    return _spec.Population(
        name=compartments.name,
        size=compartments.size,
        depth=depth,
        decay_u=_registers(compartments.du),
        decay_v=_registers(compartments.dv),
        threshold=_registers(compartments.vth),
        bias_mantissas=compartments.bias_mantissa,
        bias_exponent=_registers(compartments.bias_exponent),
        reset=compartments.reset,
        refractory=int(compartments.refractory),
    )


def _registers(value: Any) -> Any:
    """A numpy integer, or an array of equal ones, as Python's own; anything else as it is, for the check to refuse."""
    values = np.asarray(value)
    if np.issubdtype(values.dtype, np.integer) and values.size and (values == values.flat[0]).all():
        return int(values.flat[0])
    return value


# --- what each input coding becomes: populations, sources, their values, connections that the host computes ------

Entry = tuple[list[_spec.Population], list[_spec.Source], dict[str, np.ndarray], set[str]]


def _rate(program: Program, samples: NDArray[np.integer] | None) -> Entry:
    # A current of x into a memoryless neuron equals a bias of x * 2^6.
    source = _spec.Source(f"{program.input.name}.values", "rate", program.input.size, program.input.name)
    neurons = program.input.compartments
    values = {} if samples is None else {source.name: program.input.read(samples)}
    return [_population(neurons, 0)], [source], values, set()


def _graded(program: Program, samples: NDArray[np.integer] | None) -> Entry:
    source = _spec.Source(program.input.name, "graded", program.input.size)
    return [], [source], {} if samples is None else {source.name: program.input.encode(samples, 1)[0]}, set()


def _current(program: Program, samples: NDArray[np.integer] | None) -> Entry:
    sources, values = [], {}
    on_host = program.out_of(program.input.name)
    for connection in on_host:
        name = f"{connection.name}.current"
        sources.append(_spec.Source(name, "current", connection.synapses.connectivity.n_targets, connection.target))
        if samples is not None:
            total = connection.synapses.connectivity.product(connection.synapses.values)
            # Once a sample, whatever the number of steps: the same integers at each of them.
            values[name] = program.input.inject(total(program.input.encode(samples, 1)[0]))
    return [], sources, values, {connection.name for connection in on_host}


def _spikes(program: Program, samples: NDArray[np.integer] | None) -> Entry:
    source = _spec.Source(program.input.name, "spikes", program.input.size)
    if samples is None:
        return [], [source], {}, set()
    return [], [source], {source.name: program.input.encode(samples, program.steps).transpose(1, 0, 2)}, set()


_ENTRIES: dict[str, Callable[[Program, NDArray[np.integer] | None], Entry]] = {
    "rate": _rate,
    "graded": _graded,
    "current": _current,
    "spikes": _spikes,
}


# --- what comes back ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except _spec.SpecError as error:
        raise SnncError(
            f"Lava cannot represent this: {error.message}", where=error.where, got=error.got, allowed=error.allowed
        ) from None


class _Progress:
    """Reads the worker's progress file and passes on what is new, in samples."""

    def __init__(self, folder: Path, spec: _spec.Spec, report: Callable[[int, int], None] | None) -> None:
        self.path, self.spec, self.report, self.seen = folder / "progress", spec, report, -1

    def place(self) -> int:
        """How far the worker has come: the length of what it wrote."""
        return self.path.stat().st_size if self.path.exists() else 0

    def __call__(self) -> None:
        if self.report is None or not self.path.exists():
            return
        parts = dict(line.split() for line in self.path.read_text().split("\n")[:-1])
        done = sum(map(int, parts.values()))
        if done > self.seen:
            self.seen = done
            self.report(done, self.spec.samples)


def _raise_failure(folder: Path, status: int) -> None:
    if (folder / "result.json").exists():
        return
    log = child.tail(folder)
    if (folder / "failure.json").exists():
        failure = json.loads((folder / "failure.json").read_text())
        if failure["kind"] == "spec":
            raise SnncError(
                f"Lava cannot represent this: {failure['message']}",
                where=failure["where"],
                got=failure["got"],
                allowed=failure["allowed"],
            )
        first, _, rest = failure["message"].partition("\n")
        raise ToolError(f"the Lava run failed: {first}", got=rest.strip() or log or None, remedy="see `snnc doctor`")
    ended = f"by signal {signal.Signals(-status).name}" if status < 0 else f"with exit status {status}"
    raise ToolError(
        f"the Lava worker ended {ended} before it had finished",
        got=log or "no output",
        remedy="see `snnc doctor`; if memory ran out, run fewer samples",
    )


def _read(folder: Path, spec: _spec.Spec, wanted: Collection[str]) -> Recorded:
    """What a run left of the spec's samples; files may hold those of more.

    Counts of a large set stay where they are: their file lives on without its name as long as they are in use.
    """
    report = folder / "result.json"
    found = Recorded({}, {}, {}, json.loads(report.read_text()) if report.exists() else {})

    def load(name: str) -> NDArray:
        return np.asarray(np.load(folder / f"{name}.npy", mmap_mode="c", allow_pickle=False)[: spec.samples])

    for i, name in enumerate(spec.record):
        shape = (spec.samples, spec.steps, spec.sizes[name])
        if (folder / f"potentials_{i}.npy").exists():
            # A readout: it never spikes.
            found.potentials[name] = load(f"potentials_{i}").astype(np.int64)
            found.counts[name] = np.zeros((shape[0], shape[2]), np.int32)
            if name in wanted:
                found.spikes[name] = np.zeros(shape, np.uint8)
            continue
        found.counts[name] = load(f"counts_{i}")
        if name in wanted:
            found.spikes[name] = np.unpackbits(load(f"trace_{i}"), axis=2, count=shape[2])
    return found

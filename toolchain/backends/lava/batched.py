"""Many samples side by side in Lava: every process has a batch dimension, and the runs of several shards go at once.

The network, its windows, depths and registers are those of `worker.py`; a window now holds one step of `size` samples.
Everything between processes has the shape (neurons, samples): a weighted sum is then a product of a matrix with it, as
it lies in memory. Neurons are Lava's own (`LIFReset` of that shape) where the spec asks for them, else `Neurons`.
"""

import functools
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import _spec
import numpy as np
import scipy.sparse
import worker  # which must come before lava
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPortVectorDense, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol
from lava.proc.lif.process import LIFReset

CHANNEL_SIZE = 2
"""Messages that a channel holds. No process is ever more than one step ahead; Lava's 64 would take that much memory."""
DENSE_FROM = 0.3
"""Above this share of connected pairs a dense product is the faster one."""
EVENTS_TO = 0.2
"""Up to this share of sources that spike, a dense matrix is summed for these alone."""
LISTED = 2**24
"""Most entries of a kernel that is repeated for every row of its map (6 to 12 bytes each)."""
BLOCK = 2**15
"""Neurons x samples that are updated at once: what fits the cache of a core."""


class Port(PyInPortVectorDense):
    """Sums what arrives, as Lava's own port, without adding zeros to it first: large arrays cost a pass each time."""

    def recv(self) -> np.ndarray:
        if not self.csp_ports:
            return super().recv()
        first, *others = self.csp_ports
        total = first.recv()
        for port in others:
            total = total + port.recv()
        return total


# --- input -----------------------------------------------------------------------------------------------------------


class BatchSource(AbstractProcess):
    """Sends rows k * size to (k + 1) * size of `values` (samples, n) as (n, size) in every step of window k.

    values of shape (samples, steps, n): those of the window's step.
    """

    def __init__(self, *, values: np.ndarray, size: int, steps: int, lag: int, **options: Any) -> None:
        super().__init__(values=values, size=size, steps=steps, lag=lag, **options)
        self.s_out = OutPort(shape=(values.shape[-1], size))


@implements(proc=BatchSource, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyBatchSource(PyLoihiProcessModel):
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.window, self.block = -1, np.zeros((proc_params["values"].shape[-1], proc_params["size"]), np.int32)

    def run_spk(self) -> None:
        values, size = self.proc_params["values"], self.proc_params["size"]
        window, step = divmod(self.time_step - 1 - self.proc_params["lag"], self.proc_params["steps"])
        if window != self.window or values.ndim == 3:
            self.window = window
            rows = values[max(window, 0) * size : max(window + 1, 0) * size]
            rows = rows if values.ndim == 2 else rows[:, step]
            # The last window may hold fewer samples; the others of it are zeros, whose spikes nobody keeps.
            self.block[:, : len(rows)] = rows.T
            self.block[:, len(rows) :] = 0
        self.s_out.send(self.block)


# --- connections -----------------------------------------------------------------------------------------------------

Product = Callable[[np.ndarray], np.ndarray]
"""Payloads (sources, samples) -> weighted sums (targets, samples)."""


class Sums(AbstractProcess):
    """A connection: weighted sums of what (sources, samples) sent, held as `held` says. payload: the highest."""

    def __init__(
        self,
        *,
        connection: _spec.Connection,
        n_sources: int,
        n_targets: int,
        size: int,
        payload: int,
        held: worker.Held,
        **options: Any,
    ) -> None:
        shape = (n_targets, size)
        super().__init__(connection=connection, shape=shape, payload=payload, held=held, **options)
        self.s_in = InPort(shape=(n_sources, size))
        self.a_out = OutPort(shape=shape)


class SumsModel(PyLoihiProcessModel):
    s_in: Port = LavaPyType(Port, np.int8)
    a_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.a_buff = np.zeros(proc_params["shape"], np.int32)
        self.product = product_of(proc_params["connection"], len(self.a_buff), proc_params["payload"])

    def run_spk(self) -> None:
        self.a_out.send(self.a_buff)
        # Numbers of any kind; sending makes them integers of 32 bits.
        self.a_buff = self.product(self.s_in.recv())


@implements(proc=Sums, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PySums(worker.HoldsSums, SumsModel):
    pass


def product_of(connection: _spec.Connection, n_targets: int, payload: int) -> Product:
    """The connection's weighted sums, exactly, in the smallest numbers that hold every one of them.

    Floats hold integers of 24 or 53 bits, times any power of two; the spec allows no sum above 25 bits. Dense products
    are fast in floats alone.
    """
    kernel = connection.kernel
    mantissas = worker.csr_by_target(connection, n_targets if kernel is None else kernel.target[0])
    largest = int(abs(mantissas).sum(axis=1).max()) * payload if mantissas.nnz else 0
    dense = mantissas.nnz > DENSE_FROM * mantissas.shape[0] * mantissas.shape[1]
    small = largest < 1 << 15 and not dense
    # Shifted afterwards, if the sums of shifted weights would need more bits.
    shift = connection.exponent if small and largest << connection.exponent >= 1 << 15 else 0
    kind = np.int16 if small else np.float32 if largest < 1 << 24 else np.float64
    weights = (mantissas * (1 << connection.exponent - shift)).astype(kind)
    if kernel is not None:
        sums = convolution(weights, kernel, dense)
    elif dense:
        sums = functools.partial(dense_product, np.ascontiguousarray(weights.toarray().T))
    else:
        sums = functools.partial(sparse_product, weights)
    return sums if not shift else lambda payloads: sums(payloads).astype(np.int32) << shift


def sparse_product(weights: scipy.sparse.csr_matrix, payloads: np.ndarray) -> np.ndarray:
    return weights @ payloads.astype(weights.dtype)


def dense_product(by_source: np.ndarray, payloads: np.ndarray) -> np.ndarray:
    """By a matrix product, or where few sources spike by summing the weights of these alone."""
    if np.count_nonzero(payloads) > EVENTS_TO * payloads.size:
        return by_source.T @ payloads.astype(by_source.dtype)
    return np.ascontiguousarray((scipy.sparse.csr_matrix(payloads.T, dtype=by_source.dtype) @ by_source).T)


def convolution(weights: scipy.sparse.csr_matrix, kernel: _spec.Kernel, dense: bool) -> Product:
    """weights: (output channels, taps); dense: to be used as such.

    The map is laid out once for every kernel column, shifted by it: (kernel column, channel, row, place, sample). What
    a kernel row reads for a target row is then one piece of memory. So a sparse kernel becomes a sparse matrix of such
    rows, repeated for every target row, while its columns and the samples are not listed. A dense one is a dense
    product for each kernel row.
    """
    (channels, height, width), (_, rows, columns) = kernel.source, kernel.target
    (top, bottom), (left, _) = kernel.padding
    (sy, sx), (dy, dx) = kernel.stride, kernel.dilation
    n_rows, n_columns = kernel.size
    padded = height + top + bottom

    buffer = np.zeros((n_columns, channels, padded, columns, 0), weights.dtype)

    def laid_out(payloads: np.ndarray) -> np.ndarray:
        """(kernel columns, channels, padded rows, places of a row, samples); what lies outside of the map stays 0."""
        nonlocal buffer
        maps = payloads.reshape(channels, height, width, -1)
        if buffer.shape[4] != maps.shape[3]:
            buffer = np.zeros((*buffer.shape[:4], maps.shape[3]), weights.dtype)
        for j in range(n_columns):
            # Places whose column lies inside of the map: 0 <= place * sx - left + j * dx < width.
            first = max(0, -(-(left - j * dx) // sx))
            last = min(columns, (width - 1 + left - j * dx) // sx + 1)
            if first < last:
                start = first * sx - left + j * dx
                seen = slice(start, start + (last - first - 1) * sx + 1, sx)
                buffer[j, :, top : top + height, first:last] = maps[:, :, seen]
        return buffer

    entries = weights.tocoo()
    channel, i, j = np.unravel_index(entries.col, (channels, n_rows, n_columns))
    if not dense and weights.nnz * rows <= LISTED:
        row = np.arange(rows)[:, None]
        reads = row * sy + i * dy
        inside = (reads >= top) & (reads < top + height)
        source = ((j * channels + channel) * padded + reads)[inside]
        target = (entries.row.astype(np.int64) * rows + row)[inside]
        values = np.broadcast_to(entries.data, inside.shape)[inside]
        shape = (weights.shape[0] * rows, n_columns * channels * padded)
        matrix = scipy.sparse.coo_matrix((values, (target, source)), shape=shape).tocsr()

        def by_rows(payloads: np.ndarray) -> np.ndarray:
            return (matrix @ laid_out(payloads).reshape(shape[1], -1)).reshape(-1, payloads.shape[1])

        return by_rows

    parts = []
    for kernel_row in np.unique(i):
        here = i == kernel_row
        places = (entries.row[here], (j * channels + channel)[here])
        shape = (weights.shape[0], n_columns * channels)
        part = scipy.sparse.csr_matrix((entries.data[here], places), shape=shape)
        parts.append((kernel_row * dy, part.toarray() if dense else part))

    def by_kernel_rows(payloads: np.ndarray) -> np.ndarray:
        found = laid_out(payloads).reshape(n_columns * channels, padded, -1)
        total = np.zeros((weights.shape[0], rows * found.shape[2]), found.dtype)
        for start, matrix in parts:
            seen = found[:, start : start + (rows - 1) * sy + 1 : sy]
            total += matrix @ seen.reshape(len(seen), -1)
        return total.reshape(-1, payloads.shape[1])

    return by_kernel_rows


# --- neurons ---------------------------------------------------------------------------------------------------------


class Neurons(AbstractProcess):
    """Neurons of every kind, (n, size); their registers are arrays of n or one number. They send spikes.

    largest: bound of their input sum.
    """

    def __init__(
        self,
        *,
        population: _spec.Population,
        size: int,
        interval: int,
        offset: int,
        largest: int,
        **options: Any,
    ) -> None:
        rule = {"population": population, "interval": interval, "offset": offset, "largest": largest}
        super().__init__(size=size, **rule, **options)
        self.a_in = InPort(shape=(population.size, size))
        self.s_out = OutPort(shape=(population.size, size))


class Readout(Neurons):
    """Neurons that send their potential."""


class NeuronsModel(PyLoihiProcessModel):
    """The rule of `worker.PyCompartments` in place, in floats that hold all its integers exactly.

    Of 64 bits, or of 32 (all integers up to 2^24) where that is enough: the current never reaches the wrap at 2^23, and
    decays keep nothing, all, or a half, a quarter and so on, so that a product has no more bits than before. A sum of
    potential, current and bias may exceed 2^24, but is then clipped, rounded or not.
    """

    a_in: Port = LavaPyType(Port, np.int32)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        p: _spec.Population = proc_params["population"]
        self.shape = (p.size, proc_params["size"])
        self.refractory, self.subtract, self.spiking = p.refractory, p.reset == "subtract", p.reset != "none"
        # What a register keeps in a step, as a factor: exact, because its denominator is a power of two.
        keep_u, keep_v = ((4096 - np.asarray(decay)) / 4096 for decay in (p.decay_u, p.decay_v))
        bias = p.bias_mantissas.astype(np.int64) << p.bias_exponent
        self.holds, self.leaks, self.biased = (bool(np.any(x)) for x in (keep_u, keep_v != 1, bias))
        self.wraps = self.holds or proc_params["largest"] << 6 >= 1 << 23
        # The highest potential that a window can reach, were there no clip and no reset.
        lasts = min(proc_params["interval"], 1 / max(1 - np.max(keep_v), 2**-20))
        highest = lasts * ((proc_params["largest"] << 6) + np.abs(bias).max())
        self.clips = self.holds or highest >= 1 << 23
        halves = np.all(np.isin(keep_v, [0.0, *0.5 ** np.arange(13)]))
        self.kind = np.float32 if halves and not self.wraps else np.float64
        registers = (keep_u, keep_v, bias, np.asarray(p.threshold) * 64)
        self.keep_u, self.keep_v, self.bias, self.limit = map(self.register, registers)
        # All flat, and updated in pieces that fit the cache.
        size = p.size * proc_params["size"]
        self.u = np.zeros(size if self.holds else 0, self.kind)
        self.v = np.zeros(size, self.kind)
        self.waits = np.zeros(size if p.refractory else 0, np.int8)
        self.sent = np.zeros(size, np.int8 if self.spiking else np.int32)
        self.current, self.quiet = np.zeros(BLOCK, self.kind), np.zeros(BLOCK, bool)

    def register(self, values: np.ndarray) -> np.ndarray:
        """One number where all neurons have the same, else one for each neuron and sample."""
        values = np.atleast_1d(values).astype(self.kind)
        return values[:1] if np.all(values == values[0]) else np.repeat(values, self.shape[1])

    def run_spk(self) -> None:
        a = self.a_in.recv().reshape(-1)
        if self.time_step % self.proc_params["interval"] == self.proc_params["offset"]:
            for state in (self.u, self.v, self.waits):
                state[:] = 0
        for first in range(0, len(a), BLOCK):
            self.step(a[first : first + BLOCK], slice(first, first + BLOCK))
        self.s_out.send(self.sent.reshape(self.shape))

    def step(self, a: np.ndarray, here: slice) -> None:
        def of(register: np.ndarray) -> np.ndarray:
            return register[here] if len(register) > 1 else register

        # In as few and as plain passes as there are: clip and copyto take several times longer.
        current, v = self.current[: len(a)], self.v[here]
        current[:] = a
        current *= 64
        if self.holds:
            u = self.u[here]
            u *= of(self.keep_u)
            np.trunc(u, out=u)
            u += current
            current = u
        if self.wraps:
            wrap(current)
        if self.leaks:
            v *= of(self.keep_v)
            np.trunc(v, out=v)
        v += current
        if self.biased:
            v += of(self.bias)
        if self.clips:
            np.minimum(v, self.kind(2**23 - 1), out=v)
            np.maximum(v, self.kind(1 - 2**23), out=v)
        if not self.spiking:
            self.sent[here] = v
            return
        if self.refractory:
            waits = self.waits[here]
            v *= waits == 0
            waits -= waits > 0
        fired, quiet = self.sent[here].view(bool), self.quiet[: len(a)]
        np.greater(v, of(self.limit), out=fired)
        if self.subtract:
            v -= of(self.limit) * fired
        else:
            np.logical_not(fired, out=quiet)
            v *= quiet
        if self.refractory:
            self.waits[here][fired] = self.refractory


@implements(proc=Neurons, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyNeurons(NeuronsModel):
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int8)


@implements(proc=Readout, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyReadout(NeuronsModel):
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)


def wrap(u: np.ndarray) -> None:
    """Into 24 bits, as Lava does it: 2^23 itself stays."""
    half = 1 << 23
    if u.max() > half or u.min() <= -half:
        u[u > half] -= 2 * half
        u[u <= -half] += 2 * half


# --- output ----------------------------------------------------------------------------------------------------------


class Tally(NamedTuple):
    """Where a population's results go: files that all shards share, each writing the rows of its own samples.

    counts: (samples, n).  bits: spikes (samples or fewer, steps, bytes).  potentials: instead of both, of a readout.
    """

    lag: int
    counts: str | None = None
    bits: str | None = None
    potentials: str | None = None


class BatchSink(AbstractProcess):
    """Counts the spikes of up to worker.SINK_PORTS populations in every window, and keeps those that are wanted."""

    def __init__(
        self, *, sizes: list[int], size: int, tallies: list[Tally], steps: int, rows: tuple[int, int], **options: Any
    ) -> None:
        super().__init__(tallies=tallies, size=size, steps=steps, rows=rows, **options)
        for k in range(worker.SINK_PORTS):
            setattr(self, f"a_in{k}", InPort(shape=(sizes[k], size) if k < len(sizes) else (1,)))


@implements(proc=BatchSink, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyBatchSink(PyLoihiProcessModel):
    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)

        def opened(path: str | None) -> np.ndarray | None:
            return None if path is None else np.load(path, mmap_mode="r+")

        self.files = [(t.lag, *map(opened, (t.counts, t.bits, t.potentials))) for t in proc_params["tallies"]]
        self.counts: dict[int, np.ndarray] = {}

    def run_spk(self) -> None:
        steps, size, (first, stop) = (self.proc_params[name] for name in ("steps", "size", "rows"))
        for k, (lag, counts, bits, potentials) in enumerate(self.files):
            sent = getattr(self, f"a_in{k}").recv()
            window, step = divmod(self.time_step - 1 - lag, steps)
            start = first + window * size
            if not first <= start < stop:
                continue
            rows = slice(start, min(start + size, stop))
            if potentials is not None:
                if step == steps - 1:
                    potentials[rows] = sent.T[: rows.stop - start]
                continue
            # A byte is a byte where counts are bytes too; spikes of Lava's neurons are integers of 32 bits.
            sent = sent.view(np.uint8) if sent.dtype == np.int8 else sent.astype(np.uint8)
            if step == 0:
                self.counts[k] = sent.astype(counts.dtype)
            else:
                self.counts[k] += sent
            if step == steps - 1:
                counts[rows] = self.counts[k].T[: rows.stop - start]
            kept = min(rows.stop, len(bits)) - start
            if kept > 0:
                bits[start : start + kept, step] = np.packbits(sent[:, :kept].T, axis=1)


for _port in range(worker.SINK_PORTS):
    setattr(PyBatchSink, f"a_in{_port}", LavaPyType(Port, np.int8))


# --- from a spec to processes ----------------------------------------------------------------------------------------


def build(spec: _spec.Spec, batch: _spec.Batch, rows: tuple[int, int], folder: Path) -> worker.Network:
    """The processes of one shard, with sources and sinks."""
    size, steps = batch.size, spec.steps
    neurons = {p.name: _neurons(p, spec) for p in spec.populations}
    network = worker.Network(steps, {}, {}, spec.depths, list(neurons.values()), list(neurons.values()))
    sources = {}
    for source in spec.sources:
        values = spec.inputs[source.name][slice(*rows)]
        sources[source.name] = BatchSource(values=values, size=size, steps=steps, lag=spec.depths[source.name])
        if source.target is not None:
            sources[source.name].s_out.connect(neurons[source.target].a_in)
    for connection in spec.connections:
        outside = connection.source in sources
        graded = any(s.name == connection.source and s.kind == "graded" for s in spec.sources)
        sums = Sums(
            connection=connection,
            n_sources=spec.sizes[connection.source],
            n_targets=spec.sizes[connection.target],
            size=size,
            payload=_spec.PAYLOAD[1] if graded else 1,
            held=worker.Held(spec.takes(connection), connection.delay, steps, spec.depths[connection.target]),
            name=connection.name,
        )
        (sources if outside else neurons)[connection.source].s_out.connect(sums.s_in)
        sums.a_out.connect(neurons[connection.target].a_in)
        network.processes.append(sums)
    network.processes.extend(sources.values())
    wanted = list(enumerate(spec.record))
    for start in range(0, len(wanted), worker.SINK_PORTS):
        chosen = wanted[start : start + worker.SINK_PORTS]
        sizes, tallies = [spec.sizes[name] for _, name in chosen], [_tally(spec, folder, i) for i, _ in chosen]
        sink = BatchSink(sizes=sizes, size=size, tallies=tallies, steps=steps, rows=rows)
        for k, (_, name) in enumerate(chosen):
            neurons[name].s_out.connect(getattr(sink, f"a_in{k}"))
        network.processes.append(sink)
    return network


def _neurons(population: _spec.Population, spec: _spec.Spec) -> Any:
    assert spec.batch is not None
    size, interval = spec.batch.size, spec.steps
    offset = (population.depth + 1) % interval
    if not (spec.batch.stock_neurons and population.stock):
        kind = Readout if population.reset == "none" else Neurons
        largest = _spec.largest_input(spec, population)[0]
        times = {"interval": interval, "offset": offset}
        return kind(population=population, size=size, largest=largest, name=population.name, **times)
    shape = (population.size, size)
    return LIFReset(
        shape=shape,
        du=int(population.decay_u) - 1,
        dv=int(population.decay_v),
        vth=int(population.threshold),
        bias_mant=np.repeat(np.asarray(population.bias_mantissas, np.int32)[:, None], size, axis=1),
        bias_exp=int(population.bias_exponent),
        reset_interval=interval,
        reset_offset=offset,
        name=population.name,
    )


def link(hub: Any, process: Any, name: str) -> Sums:
    """A connection without synapses."""
    (n_sources, size), n_targets = hub.s_out.shape, process.a_in.shape[0]
    nothing = np.zeros(0, np.int32)
    empty = _spec.Connection(name, "", "", np.zeros(n_sources + 1, np.int64), nothing, nothing, "mixed", 8, 0)
    held = worker.Held(1, 0, None, 0)
    return Sums(connection=empty, n_sources=n_sources, n_targets=n_targets, size=size, payload=1, held=held, name=name)


def _tally(spec: _spec.Spec, folder: Path, i: int) -> Tally:
    lag = spec.depths[spec.record[i]]
    if (folder / f"potentials_{i}.npy").exists():
        return Tally(lag, potentials=str(folder / f"potentials_{i}.npy"))
    return Tally(lag, counts=str(folder / f"counts_{i}.npy"), bits=str(folder / f"trace_{i}.npy"))


# --- a run -----------------------------------------------------------------------------------------------------------


def make_files(spec: _spec.Spec, batch: _spec.Batch, folder: Path) -> None:
    """Files of the results, which all shards write to: each its own rows."""

    def make(name: str, kind: type, *shape: int) -> None:
        np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=kind, shape=shape)

    readouts = {population.name for population in spec.populations if population.reset == "none"}
    for i, name in enumerate(spec.record):
        size = spec.sizes[name]
        if name in readouts:
            make(f"potentials_{i}", np.int32, spec.samples, size)
            continue
        make(f"counts_{i}", np.uint8 if spec.steps < 256 else np.int32, spec.samples, size)
        # An empty map cannot be made, so that there is a row that nobody reads where none is kept.
        kept = spec.samples if name in batch.traced else max(batch.compared, 1)
        make(f"trace_{i}", np.uint8, kept, spec.steps, (size + 7) // 8)


def run_shard(spec: _spec.Spec, batch: _spec.Batch, rows: tuple[int, int], folder: Path, name: str) -> dict[str, Any]:
    """Run a part of the samples in a Lava runtime of its own."""
    network = build(spec, batch, rows, folder)
    links = worker.link_strays(network, link)
    windows = -(-(rows[1] - rows[0]) // batch.size)
    total = windows * spec.steps + max(population.depth for population in spec.populations)
    report = worker.progress(folder, name, rows[1] - rows[0])
    return worker.run_to_end(network, total, spec.steps, report, CHANNEL_SIZE) | {"links": links, "windows": windows}


def execute(spec: _spec.Spec, folder: Path) -> dict[str, Any]:
    """Run all shards at once, and the compared samples beside them, each in a process of its own."""
    batch = spec.batch
    assert batch is not None
    make_files(spec, batch, folder)
    jobs: dict[str, Callable[[], dict[str, Any]]] = {}
    for k, rows in enumerate(batch.rows(spec.samples)):
        jobs[f"{k}"] = functools.partial(run_shard, spec, batch, rows, folder, f"{k}")
    if batch.compared:
        (folder / "compared").mkdir()
        few = replace(spec, batch=None, inputs={name: x[: batch.compared] for name, x in spec.inputs.items()})
        # They are samples of the shards too, so they count for nothing in the progress.
        report = worker.progress(folder, "compared", 0)
        jobs["compared"] = lambda: worker.execute(few, folder / "compared", report)
    started = time.monotonic()
    children = {}
    for name, job in jobs.items():
        pid = os.fork()
        if not pid:
            worker.conclude(folder, f"part_{name}.json", job)
            while True:  # The group is ended when all of it is done.
                signal.pause()
        children[pid] = name
    reports = dict(_reports(folder, children))
    return {"seconds": time.monotonic() - started, "parts": reports}


def _reports(folder: Path, children: dict[int, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Wait for the parts. One that fails writes down why and ends the group; one that dies is found here."""
    left = dict(children)
    while left:
        for pid, name in list(left.items()):
            path = folder / f"part_{name}.json"
            if path.exists():
                yield name, json.loads(path.read_text())
                del left[pid]
            elif os.waitpid(pid, os.WNOHANG)[0]:
                raise worker.LavaFailure(f"the process of part {name} died")
        time.sleep(worker.Run.POLL_S)

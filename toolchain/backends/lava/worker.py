"""The Lava side: builds Lava processes from a spec folder, stock ones where Lava has them, and runs them.

Runs in an interpreter that has Lava and needs only numpy and scipy besides. Two uses:
- `python worker.py FOLDER`, started by the parent (`toolchain.backends.lava.run`): runs the network of FOLDER on its
  inputs and writes `trace_<i>.npy`, `counts_<i>.npy` and, last, `result.json` there. On failure it writes
  `failure.json`. Samples follow each other, or lie side by side (`batched.py`), as the spec says. It ends its whole
  process group either way, because Lava's own stop() hangs after an error.
- `import worker; network = worker.build(FOLDER)`: hands out the processes with their ports, to be connected
  inside a Lava program of the user's own.

Lava executes every .py file that lies beside a custom process while it looks for process models. The files of this
folder are therefore safe to import; keep it so.
"""

import contextlib
import ctypes
import faulthandler
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse

if str(Path(__file__).parent) not in sys.path:
    sys.path.append(str(Path(__file__).parent))

import _compat  # noqa: F401  (must come before lava)
import _spec
from lava.magma.compiler.compiler_graphs import ProcGroupDiGraphs
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.resources import CPU
from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.run_configs import Loihi2SimCfg
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol
from lava.proc.dense.process import Dense
from lava.proc.io.sink import RingBuffer as StockSink
from lava.proc.io.source import RingBuffer as StockSource
from lava.proc.lif.process import LIF, LIFReset
from lava.proc.sparse.models import AbstractPySparseModelBitAcc
from lava.proc.sparse.process import DelaySparse, Sparse
from lava.utils.weightutils import SignMode

STARTED = time.monotonic()
# Above this share of connected pairs a dense matrix is the faster process; both compute the same sums.
DENSE_FROM = 0.5
SIGN_MODES = {"mixed": SignMode.MIXED, "excitatory": SignMode.EXCITATORY, "inhibitory": SignMode.INHIBITORY}


# --- processes of our own: input and output that cost memory per sample, not per step -------------------------------


class WindowSource(AbstractProcess):
    """Sends row k of `values` (rows, n) in the k-th `steps` steps behind `lag`, and zeros before and after."""

    def __init__(self, *, values: np.ndarray, steps: int, lag: int, **options: Any) -> None:
        super().__init__(values=values, steps=steps, lag=lag, **options)
        self.s_out = OutPort(shape=(values.shape[1],))


@implements(proc=WindowSource, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyWindowSource(PyLoihiProcessModel):
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def run_spk(self) -> None:
        values = self.proc_params["values"]
        sample = (self.time_step - 1 - self.proc_params["lag"]) // self.proc_params["steps"]
        inside = 0 <= sample < len(values)
        self.s_out.send(np.asarray(values[sample]) if inside else np.zeros(values.shape[1], np.int32))


SINK_PORTS = 8


class BitSink(AbstractProcess):
    """Writes the spikes of step t, packed eight to a byte, into row t of one memory-mapped file for each in-port.

    Up to SINK_PORTS in-ports (`a_in0` and so on), because every process costs about as much as a layer of neurons.
    """

    def __init__(self, *, sizes: list[int], paths: list[str], **options: Any) -> None:
        super().__init__(paths=paths, **options)
        for k in range(SINK_PORTS):
            # Lava wants every port of the process model to exist; those left over stay unconnected.
            setattr(self, f"a_in{k}", InPort(shape=(sizes[k] if k < len(sizes) else 1,)))


@implements(proc=BitSink, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyBitSink(PyLoihiProcessModel):
    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.rows = [np.load(path, mmap_mode="r+") for path in proc_params["paths"]]

    def run_spk(self) -> None:
        for k, rows in enumerate(self.rows):
            spikes = getattr(self, f"a_in{k}").recv()
            if self.time_step <= len(rows):
                rows[self.time_step - 1] = np.packbits(spikes != 0)


for _port in range(SINK_PORTS):
    setattr(PyBitSink, f"a_in{_port}", LavaPyType(PyInPort.VEC_DENSE, np.int32))


class LastValueSink(AbstractProcess):
    """Writes what arrives at the last step of sample k's window into row k of a memory-mapped file."""

    def __init__(self, *, size: int, steps: int, lag: int, path: str, **options: Any) -> None:
        super().__init__(steps=steps, lag=lag, path=path, **options)
        self.a_in = InPort(shape=(size,))


@implements(proc=LastValueSink, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyLastValueSink(PyLoihiProcessModel):
    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        self.rows = np.load(proc_params["path"], mmap_mode="r+")

    def run_spk(self) -> None:
        values = self.a_in.recv()
        sample, step = divmod(self.time_step - 1 - self.proc_params["lag"], self.proc_params["steps"])
        if 0 <= sample < len(self.rows) and step == self.proc_params["steps"] - 1:
            self.rows[sample] = values


# --- processes of our own: what a Loihi core does and Lava's fixed-point processes do not --------------------------


class Compartments(AbstractProcess):
    """Neurons with soft reset, refractory period, registers of their own, or none but a potential to read.

    Lava's LIF has one decay and threshold for all neurons, resets to zero only, and has its refractory period in
    floating point only. With reset "none" the potential is sent at every step in place of spikes.
    """

    def __init__(
        self,
        *,
        size: int,
        decay_u: np.ndarray,
        decay_v: np.ndarray,
        threshold: np.ndarray,
        bias: np.ndarray,
        reset: str,
        refractory: int,
        interval: int | None,
        offset: int,
        **options: Any,
    ) -> None:
        registers = {"keep_u": 4096 - decay_u, "keep_v": 4096 - decay_v, "limit": threshold << 6, "bias": bias}
        rule = {"reset": reset, "refractory": refractory, "interval": interval, "offset": offset}
        super().__init__(**registers, **rule, **options)
        self.a_in = InPort(shape=(size,))
        self.s_out = OutPort(shape=(size,))


@implements(proc=Compartments, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyCompartments(PyLoihiProcessModel):
    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        for name in ("keep_u", "keep_v", "limit", "bias", "reset", "refractory", "interval", "offset"):
            setattr(self, name, proc_params[name])
        self.clear()

    def clear(self) -> None:
        self.u, self.v, self.waits = (np.zeros(self.bias.shape, np.int64) for _ in range(3))

    def run_spk(self) -> None:
        a = self.a_in.recv().astype(np.int64)
        if self.interval and self.time_step % self.interval == self.offset:
            self.clear()
        full = 1 << 24
        u = toward_zero(self.u * self.keep_u) + (a << 6)
        u = np.where(u > full // 2, u - full, u)
        self.u = np.where(u <= -full // 2, u + full, u)
        v = toward_zero(self.v * self.keep_v) + self.u + self.bias
        self.v = np.clip(v, 1 - full // 2, full // 2 - 1)
        if self.reset == "none":
            self.s_out.send(self.v.astype(np.int32))
            return
        self.v[self.waits > 0] = 0
        self.waits = np.maximum(self.waits - 1, 0)
        fired = self.v > self.limit
        self.v = np.where(fired, self.v - self.limit if self.reset == "subtract" else 0, self.v)
        self.waits[fired] = self.refractory
        self.s_out.send(fired)


def toward_zero(product: np.ndarray) -> np.ndarray:
    """A product with a decay's 12 bit fraction, those bits cut."""
    return np.sign(product) * (np.abs(product) >> 12)


class Held(NamedTuple):
    """How a connection holds its sums: they arrive `takes` steps after the spikes that they come from, 1 or more.

    Stock connections hold them for one step and clear nothing between samples; nor does LIFReset. What arrives in the
    first `silent` steps of a window of the target, `interval` steps long and beginning at step `lag`, was sent in the
    window before, and is left out. Without interval nothing is.
    """

    takes: int
    silent: int
    interval: int | None
    lag: int

    @property
    def stock(self) -> bool:
        """Whether it is what stock connections do."""
        return self.takes == 1 and (not self.silent or self.interval is None)


class HoldsSums:
    """For process models: holds the sums of a model that sends `a_buff`, receives, and puts new sums there."""

    proc_params: Any
    time_step: int
    a_buff: np.ndarray
    ring: list[np.ndarray] | None = None

    def run_spk(self) -> None:
        held: Held = self.proc_params["held"]
        if self.ring is None:
            self.ring = [np.zeros_like(self.a_buff)] * held.takes
        place = self.time_step % held.takes
        self.a_buff = self.ring[place]
        if held.interval and (self.time_step - 1 - held.lag) % held.interval < held.silent:
            self.a_buff = np.zeros_like(self.a_buff)
        super().run_spk()  # type: ignore[misc]
        self.ring[place] = self.a_buff


class HeldSparse(Sparse):
    """Lava's sparse connection, with its own arithmetic, whose sums are held as `held` says."""

    def __init__(self, *, held: Held, **options: Any) -> None:
        super().__init__(held=held, **options)


@implements(proc=HeldSparse, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyHeldSparse(HoldsSums, AbstractPySparseModelBitAcc):
    pass


class Convolution(AbstractProcess):
    """A large kernel, applied without listing its synapses; the sums are held as `held` says.

    (Lava's own convolution flips its kernel, has maps as (x, y, channel), ignores the weight exponent, and is slower.)
    rows, columns: the slices (start, stop) of source and target that it serves.
    """

    def __init__(
        self,
        *,
        connection: _spec.Connection,
        rows: tuple[int, int],
        columns: tuple[int, int],
        held: Held,
        **options: Any,
    ) -> None:
        super().__init__(connection=connection, rows=rows, columns=columns, held=held, **options)
        self.s_in = InPort(shape=(rows[1] - rows[0],))
        self.a_out = OutPort(shape=(columns[1] - columns[0],))


class ConvolutionModel(PyLoihiProcessModel):
    s_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    a_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: Any) -> None:
        super().__init__(proc_params)
        connection, (self.first, self.last) = proc_params["connection"], proc_params["rows"]
        start, stop = proc_params["columns"]
        kernel = connection.kernel
        # The output channels of which the slice holds at least a part, and its place among theirs.
        low, high = start // kernel.places, -(-stop // kernel.places)
        self.part = slice(start - low * kernel.places, stop - low * kernel.places)
        weights = csr_by_target(connection, kernel.target[0])[low:high]
        used = np.unique(weights.indices)
        self.reads = kernel.reads()[used]
        weights = weights[:, used].astype(np.int64) * (1 << connection.exponent)
        # Sums stay below 2^25, so float64 is exact, and a dense product in it several times faster.
        dense = weights.nnz > DENSE_FROM * weights.shape[0] * weights.shape[1]
        self.weights = weights.toarray().astype(np.float64) if dense else weights
        # One place more than there are sources stands for all that lies outside of the map.
        self.spikes = np.zeros(int(np.prod(kernel.source)) + 1, self.weights.dtype)
        self.a_buff = np.zeros(stop - start, np.int32)

    def run_spk(self) -> None:
        self.a_out.send(self.a_buff)
        self.spikes[self.first : self.last] = self.s_in.recv()
        self.a_buff = (self.weights @ self.spikes[self.reads]).reshape(-1)[self.part].astype(np.int32)


@implements(proc=Convolution, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyConvolution(HoldsSums, ConvolutionModel):
    pass


# --- from a spec to processes -----------------------------------------------------------------------------------------


class Part(NamedTuple):
    """The ports of one slice [start, stop) of a population or input: one out-port, or the in-ports to feed."""

    start: int
    stop: int
    ports: tuple[Any, ...]


@dataclass(frozen=True)
class Network:
    """Lava processes of one compiled network, connected among themselves, open at both ends.

    `inputs[name]` are the in-ports of an input (integers per neuron and step), `outputs[name]` the spike out-port of a
    population (a readout's sends its potential), each as one Part unless it was sliced. `lags[name]` is the step at
    which the first window of an input or population begins, counted from 0; windows are `steps` long and follow each
    other without a gap. `neurons` are the processes that hold them, `processes` all.
    """

    steps: int
    inputs: dict[str, tuple[Part, ...]]
    outputs: dict[str, tuple[Part, ...]]
    lags: dict[str, int]
    neurons: list[Any] = field(default_factory=list)
    processes: list[Any] = field(default_factory=list)

    def feed(self, port: Any) -> None:
        """Connect an out-port to all in-ports of the network's only (unsliced) input."""
        ((part,),) = self.inputs.values()
        for target in part.ports:
            port.connect(target)

    def spikes(self, name: str) -> Any:
        """The spike out-port of the (unsliced) population `name`."""
        (part,) = self.outputs[name]
        return part.ports[0]


def build(directory: str | Path | _spec.Spec, *, reset: bool = True) -> Network:
    """The processes of a spec folder, without sources and sinks.

    With `reset` every population clears its state at the start of each window of `steps` steps, with its layer's lag;
    without it state is never cleared, for a stream that has no samples.

    Raises:
        SpecError: a value that Lava would take without a word and compute wrongly with.
    """
    if isinstance(directory, _spec.Spec):
        spec = directory
        _spec.check(spec)
    else:
        spec = _spec.read(directory)
    neurons: dict[str, list[Any]] = {}
    for population in spec.populations:
        bounds = spec.bounds(population.name)
        neurons[population.name] = [_neurons(population, a, b, spec.steps if reset else None) for a, b in bounds]
    processes = [process for parts in neurons.values() for process in parts]
    # In-ports of graded sources by slice; rate and current sources feed a population's input sum directly.
    entries: dict[str, list[list[Any]]] = {s.name: [[] for _ in spec.bounds(s.name)] for s in spec.sources}
    for connection in spec.connections:
        whole = _matrix(connection, spec)
        for i, source_bounds in enumerate(spec.bounds(connection.source)):
            for j, target_bounds in enumerate(spec.bounds(connection.target)):
                synapses = _synapses(connection, spec, whole, source_bounds, target_bounds, reset)
                if connection.source in entries:
                    entries[connection.source][i].append(synapses.s_in)
                else:
                    neurons[connection.source][i].s_out.connect(synapses.s_in)
                synapses.a_out.connect(neurons[connection.target][j].a_in)
                processes.append(synapses)
    for source in spec.sources:
        if source.target is not None:
            # A source is cut where the population it feeds is cut.
            entries[source.name] = [[process.a_in] for process in neurons[source.target]]
    inputs = {
        source.name: tuple(
            Part(a, b, tuple(ports))
            for (a, b), ports in zip(spec.bounds(source.target or source.name), entries[source.name], strict=True)
        )
        for source in spec.sources
    }
    outputs = {
        name: tuple(Part(a, b, (p.s_out,)) for (a, b), p in zip(spec.bounds(name), parts, strict=True))
        for name, parts in neurons.items()
    }
    cells = [process for parts in neurons.values() for process in parts]
    return Network(spec.steps, inputs, outputs, spec.depths, cells, processes)


def _neurons(population: _spec.Population, start: int, stop: int, interval: int | None) -> Any:
    name = f"{population.name}[{start}:{stop}]"
    # Time steps count from 1, so the window of depth 0 begins at step 1.
    offset = (population.depth + 1) % interval if interval is not None else 0
    mantissas = np.asarray(population.bias_mantissas[start:stop], np.int32)
    if not population.stock:

        def registers(values: int | np.ndarray) -> np.ndarray:
            return np.broadcast_to(np.asarray(values, np.int64), (population.size,))[start:stop]

        return Compartments(
            size=stop - start,
            decay_u=registers(population.decay_u),
            decay_v=registers(population.decay_v),
            threshold=registers(population.threshold),
            bias=mantissas.astype(np.int64) << population.bias_exponent,
            reset=population.reset,
            refractory=population.refractory,
            interval=interval,
            offset=offset,
            name=name,
        )
    options = {} if interval is None else {"reset_interval": interval, "reset_offset": offset}
    return (LIF if interval is None else LIFReset)(
        shape=(stop - start,),
        # The register of the current decay has an offset of one; that of the voltage decay has none.
        du=int(population.decay_u) - 1,
        dv=int(population.decay_v),
        vth=int(population.threshold),
        bias_mant=mantissas,
        bias_exp=int(population.bias_exponent),
        name=name,
        **options,
    )


def csr_by_target(connection: _spec.Connection, n_targets: int) -> scipy.sparse.csr_matrix:
    """The lists of a connection, or of a kernel, as a matrix of mantissas: (n_targets, sources or taps)."""
    shape = (len(connection.indptr) - 1, n_targets)
    by_source = scipy.sparse.csr_matrix(
        (connection.mantissas.astype(np.int32), connection.targets, connection.indptr), shape=shape
    )
    return by_source.T.tocsr()


def _synapses(
    connection: _spec.Connection,
    spec: _spec.Spec,
    whole: scipy.sparse.csr_matrix | None,
    rows: tuple[int, int],
    columns: tuple[int, int],
    reset: bool,
) -> Any:
    """One slice of a connection. whole: its mantissas, or None for a kernel that is not listed."""
    held = Held(
        takes=spec.takes(connection),
        silent=connection.delay,
        interval=spec.steps if reset else None,
        lag=spec.depths[connection.target],
    )
    name = f"{connection.name}[{rows[0]}:{rows[1]}][{columns[0]}:{columns[1]}]"
    if whole is None:
        return Convolution(connection=connection, rows=rows, columns=columns, held=held, name=name)
    # Lava's mantissas fill 8 bits (9 with the sign) whatever their width, so ours are shifted left by the unused low
    # bits and the exponent lowered by as many; the sum comes out the same, and no bit is lost on the way.
    unused_bits = 8 - connection.weight_bits + (connection.sign_mode == "mixed")
    weights = whole[columns[0] : columns[1], rows[0] : rows[1]] * (1 << unused_bits)
    options: dict[str, Any] = {
        "weight_exp": connection.exponent - unused_bits,
        "num_weight_bits": connection.weight_bits,
        "sign_mode": SIGN_MODES[connection.sign_mode],
        "name": name,
    }
    if held.stock and weights.nnz > DENSE_FROM * weights.shape[0] * weights.shape[1]:
        binary = all(source.name != connection.source or source.kind == "spikes" for source in spec.sources)
        return Dense(weights=weights.toarray(), num_message_bits=0 if binary else 8, **options)
    # Binary spikes through a sparse matrix: a product is several times faster than picking columns, same sums.
    options |= {"weights": weights, "num_message_bits": 8}
    if held.stock:
        return Sparse(**options)
    if spec.all_stock and not held.silent:
        delays = weights.astype(int)
        delays.data[:] = held.takes - 1
        return DelaySparse(delays=delays, max_delay=held.takes - 1, **options)
    return HeldSparse(held=held, **options)


def _matrix(connection: _spec.Connection, spec: _spec.Spec) -> scipy.sparse.csr_matrix | None:
    """The mantissas of all synapses: (n_targets, n_sources); None for a kernel with too many to list."""
    if connection.kernel is None:
        return csr_by_target(connection, spec.sizes[connection.target])
    if connection.n_synapses > spec.unroll_to:
        return None
    sources, targets, mantissas = connection.unroll()
    shape = (spec.sizes[connection.target], spec.sizes[connection.source])
    return scipy.sparse.coo_matrix((mantissas.astype(np.int32), (targets, sources)), shape=shape).tocsr()


# --- a run ------------------------------------------------------------------------------------------------------------


SIGBUS = " (SIGBUS: there may be too little shared memory, /dev/shm)"


class LavaFailure(RuntimeError):
    """A process model raised or died, or Lava could not start."""


def attach_inputs(network: Network, spec: _spec.Spec) -> None:
    """One source per input slice, in step with the windows that it feeds."""
    for name, parts in network.inputs.items():
        lag, values = network.lags[name], spec.inputs[name]
        # A row lasts a sample's window, or a step where every step has its own.
        lasts = spec.steps if values.ndim == 2 else 1
        values = values.reshape(-1, values.shape[-1])
        for part in parts:
            if spec.all_stock:
                series = np.zeros((part.stop - part.start, spec.total_steps), np.int32)
                end = lag + spec.samples * spec.steps
                series[:, lag:end] = np.repeat(values[:, part.start : part.stop], lasts, axis=0).T
                source: Any = StockSource(data=series)
            else:
                source = WindowSource(values=values[:, part.start : part.stop], steps=lasts, lag=lag)
            for port in part.ports:
                source.s_out.connect(port)
            network.processes.append(source)


def attach_sinks(network: Network, spec: _spec.Spec, folder: Path) -> Callable[[str], list[np.ndarray]]:
    """Sinks for every recorded population.

    Returns a function that, after the run, gives what a population sent, slice by slice: spikes (total steps, n) packed
    along n, and of a readout its potentials at the last steps of the windows, (samples, n).
    """
    readouts = {population.name for population in spec.populations if population.reset == "none"}
    parts = [(name, part) for name in spec.record for part in network.outputs[name]]
    if spec.all_stock:
        stock: dict[str, list[Any]] = {name: [] for name in spec.record}
        for name, part in parts:
            sink: Any = StockSink(shape=(part.stop - part.start,), buffer=spec.total_steps)
            part.ports[0].connect(sink.a_in)
            stock[name].append(sink)
            network.processes.append(sink)

        def series(name: str, sink: Any) -> np.ndarray:
            values = sink.data.get().T
            if name not in readouts:
                return np.packbits(values != 0, axis=1)
            last = spec.depths[name] + spec.steps - 1
            return values[last : last + spec.samples * spec.steps : spec.steps].astype(np.int32)

        return lambda name: [series(name, sink) for sink in stock[name]]
    paths: dict[str, list[Path]] = {name: [] for name in spec.record}
    spiking = [(name, part) for name, part in parts if name not in readouts]
    for first in range(0, len(spiking), SINK_PORTS):
        chosen = spiking[first : first + SINK_PORTS]
        files = [folder / f"spikes_{first + k}.npy" for k in range(len(chosen))]
        sizes = [part.stop - part.start for _, part in chosen]
        for path, size in zip(files, sizes, strict=True):
            shape = (spec.total_steps, (size + 7) // 8)
            np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
        sink = BitSink(sizes=sizes, paths=[str(path) for path in files])
        for k, (name, part) in enumerate(chosen):
            part.ports[0].connect(getattr(sink, f"a_in{k}"))
            paths[name].append(files[k])
        network.processes.append(sink)
    for k, (name, part) in enumerate((name, part) for name, part in parts if name in readouts):
        path, size = folder / f"readout_{k}.npy", part.stop - part.start
        np.lib.format.open_memmap(path, mode="w+", dtype=np.int32, shape=(spec.samples, size))
        sink = LastValueSink(size=size, steps=spec.steps, lag=spec.depths[name], path=str(path))
        part.ports[0].connect(sink.a_in)
        paths[name].append(path)
        network.processes.append(sink)
    return lambda name: [np.load(path, mmap_mode="r") for path in paths[name]]


def stock_link(hub: Any, process: Any, name: str) -> Any:
    """A connection of weight zero."""
    nothing = scipy.sparse.csr_matrix((process.a_in.shape[0], hub.s_out.shape[0]), dtype=np.int32)
    return Sparse(weights=nothing, sign_mode=SignMode.MIXED, num_message_bits=8, name=name)


def link_strays(network: Network, link: Callable[[Any, Any, str], Any] = stock_link) -> int:
    """Join processes that no connection joins to the first one, by connections of no effect, and return how many.

    Lava runs what it reaches from one process; side by side networks would be left out without a word.
    link: makes such a connection between two processes, with that name.
    """
    parent = {process: process for process in network.processes}

    def root(process: Any) -> Any:
        while parent[process] is not process:
            parent[process] = process = parent[parent[process]]
        return process

    for process in network.processes:
        for port in process.out_ports:
            for target in port.out_connections:
                parent[root(process)] = root(target.process)
    hub, *others = network.neurons
    links = 0
    for process in others:
        if root(process) is not root(hub):
            between = link(hub, process, f"link{links}")
            hub.s_out.connect(between.s_in)
            between.a_out.connect(process.a_in)
            network.processes.append(between)
            parent[between] = parent[root(process)] = root(hub)
            links += 1
    return links


def remember_process_models() -> None:
    """Let Lava search the process models of a process class once; it executes whole folders for every process."""
    search = ProcGroupDiGraphs._find_proc_models
    if getattr(search, "remembers", False):
        return
    known: dict[type, list[Any]] = {}

    def find(proc: Any) -> list[Any]:
        if type(proc) not in known:
            known[type(proc)] = search(proc)
        return known[type(proc)]

    find.remembers = True  # type: ignore[attr-defined]
    ProcGroupDiGraphs._find_proc_models = staticmethod(find)


class Run:
    """One Lava runtime, watched: a process model that raises or dies ends the run instead of hanging it."""

    POLL_S = 0.002
    WATCH_S = 0.25

    def __init__(self, lead: Any) -> None:
        self.lead = lead

    def check(self) -> None:
        """Raise LavaFailure when a process model has raised or its process has died."""
        infrastructure = self.lead.runtime and self.lead.runtime._messaging_infrastructure
        actors = infrastructure.actors if infrastructure else []
        for actor in actors:
            if actor.exception is not None:
                error, trace = actor.exception
                raise LavaFailure(f"a process model raised {type(error).__name__}: {error}\n{trace}")
        for actor in actors:
            if not actor.is_alive():
                why = SIGBUS if actor.exitcode == -signal.SIGBUS else ""
                raise LavaFailure(f"a process of the Lava run died, exit code {actor.exitcode}{why}")

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Check several times a second, from wherever Lava may be waiting for an answer that will never come.

        By a timer's signal: it interrupts the waits inside Lava, needs no thread (Lava forks), and comes again where
        a SIGCHLD that arrives before Lava has noted its new process would be lost.
        """
        before = signal.signal(signal.SIGALRM, lambda *_: self.check())
        signal.setitimer(signal.ITIMER_REAL, self.WATCH_S, self.WATCH_S)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def cpu_s(self) -> float:
        """Processor time of the run's processes, this one among them; where there is no /proc, of this one alone."""
        found = time.process_time()
        for actor in self.lead.runtime._messaging_infrastructure.actors:
            with contextlib.suppress(OSError):
                fields = Path("/proc", str(actor.pid), "stat").read_text().rpartition(")")[2].split()
                found += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return found

    def start(self, channel_size: int) -> None:
        remember_process_models()
        compile_config = {"pypy_channel_size": channel_size}
        self.lead.create_runtime(run_cfg=Loihi2SimCfg(select_tag="fixed_pt"), compile_config=compile_config)

    def advance(self, steps: int) -> None:
        """Run that many steps, then return; Lava's blocking run would never return after an error."""
        self.lead.run(condition=RunSteps(num_steps=steps, blocking=False))
        while not all(port.probe() for port in self.lead.runtime.service_to_runtime):
            time.sleep(self.POLL_S)
        self.lead.wait()


def allow_open_files(needed: int) -> None:
    """Raise the soft limit of open files as far as is allowed.

    Raises:
        LavaFailure: the hard limit is too low for a network of this many processes.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise LavaFailure(
                f"Lava needs about {needed} open files for this network, the limit of this system is {hard}; "
                "raise it (ulimit -Hn) or record fewer populations"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def open_files_needed(network: Network) -> int:
    """Open files of the fullest process of the run: 13 per Lava process were measured, and a margin."""
    return 14 * len(network.processes) + 200


def collect(spec: _spec.Spec, recorded: Callable[[str], list[np.ndarray]], folder: Path) -> None:
    """Cut the windows out of what the sinks hold.

    Bits (samples, steps, ceil(n / 8)) and counts (samples, n); of a readout its potentials (samples, n).
    """
    readouts = {population.name for population in spec.populations if population.reset == "none"}
    block = max(1, 2**24 // max(spec.steps * max(spec.sizes.values()), 1))
    for i, name in enumerate(spec.record):
        if name in readouts:
            np.save(folder / f"potentials_{i}.npy", np.concatenate(recorded(name), axis=1))
            continue
        size, depth = spec.sizes[name], spec.depths[name]
        shape = (spec.samples, spec.steps, (size + 7) // 8)
        bits = np.lib.format.open_memmap(folder / f"trace_{i}.npy", mode="w+", dtype=np.uint8, shape=shape)
        counts = np.zeros((spec.samples, size), np.int32)
        slices = recorded(name)
        for first in range(0, spec.samples, block):
            last = min(first + block, spec.samples)
            rows = slice(depth + first * spec.steps, depth + last * spec.steps)
            pieces = [
                np.unpackbits(values[rows], axis=1, count=b - a)
                for (a, b), values in zip(spec.bounds(name), slices, strict=True)
            ]
            spikes = np.concatenate(pieces, axis=1).reshape(last - first, spec.steps, size)
            bits[first:last] = np.packbits(spikes, axis=2)
            counts[first:last] = spikes.sum(axis=1)
        bits.flush()
        np.save(folder / f"counts_{i}.npy", counts)


Report = Callable[[int, int], None]
"""Called with (steps done, steps in all)."""


def progress(folder: Path, part: str, samples: int) -> Report:
    """Appends lines "part, samples of it done" to the file that the parent reads. (Short ones: no two mix.)"""

    def report(done: int, total: int) -> None:
        with open(folder / "progress", "a") as stream:
            stream.write(f"{part} {samples * done // total}\n")

    return report


def run_to_end(network: Network, total: int, window: int, report: Report, channel_size: int = 64) -> dict[str, Any]:
    """Start the network's runtime and run it for `total` steps; returns times and sizes. window: fewest steps at once.

    channel_size: messages that a channel holds (Lava's default is 64).
    """
    started = time.monotonic()
    allow_open_files(open_files_needed(network))
    run = Run(network.neurons[0])
    with run.watch():
        run.start(channel_size)
        running = time.monotonic()
        # Small enough for a live bar, large enough that its cost does not show.
        chunk = max(window, total // 50)
        for done in range(0, total, chunk):
            report(done, total)
            run.advance(min(chunk, total - done))
        report(total, total)
    times = {
        "cpu_s": run.cpu_s(),
        "ready_s": started - STARTED,
        "start_s": running - started,
        "run_s": time.monotonic() - running,
    }
    return {"processes": len(network.processes), "total_steps": total, **times}


def execute(spec: _spec.Spec, folder: Path, report: Report) -> dict[str, Any]:
    """Run a network on its inputs, one sample after the other, and leave the trace in `folder`."""
    network = build(spec)
    attach_inputs(network, spec)
    recorded = attach_sinks(network, spec, folder)
    links = link_strays(network)
    times = run_to_end(network, spec.total_steps, spec.steps, report)
    ran = time.monotonic()
    collect(spec, recorded, folder)
    return {**times, "links": links, "collect_s": time.monotonic() - ran}


def execute_folder(folder: Path) -> dict[str, Any]:
    """Run the network of a spec folder, in the way that the spec asks for, and leave the trace there."""
    spec = _spec.read(folder)
    if not spec.inputs:
        raise LavaFailure("the spec folder holds no inputs, so there is nothing to run")
    if spec.batch is None:
        found = execute(spec, folder, progress(folder, "all", spec.samples))
    else:
        import batched

        found = batched.execute(spec, folder)
    return {**found, "python": ".".join(map(str, sys.version_info[:3])), "numpy": np.__version__}


def conclude(folder: Path, name: str, job: Callable[[], dict[str, Any]]) -> None:
    """Do a job and write what it returns to a file of that name, or to failure.json why it failed; then end the group.

    Returns after a success only.
    """
    try:
        _write_whole(folder / name, job())
        return
    except _spec.SpecError as error:
        fields = {"kind": "spec", "message": error.message, "where": error.where}
        _write_whole(folder / "failure.json", {**fields, "got": str(error.got), "allowed": str(error.allowed)})
    except BaseException as error:
        _write_whole(
            folder / "failure.json",
            {"kind": "run", "message": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()},
        )
    end_group()


def end_group() -> None:
    """End this process group.

    Lava's stop() takes its time and hangs after any error, and exit handlers would wait for its children. The
    resource tracker of the standard library ignores this signal and unlinks the shared memory.
    """
    os.killpg(0, signal.SIGTERM)
    time.sleep(60)


def _write_whole(path: Path, content: dict[str, Any]) -> None:
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(content))
    os.replace(temporary, path)


def die_with_parent() -> None:
    """Ask Linux to end this process when its parent dies, so that even kill -9 leaves no orphan."""
    with contextlib.suppress(OSError, AttributeError):
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def keep_memory() -> None:
    """Ask the C library not to give large arrays back at every free: each step would fault all their pages in again."""
    with contextlib.suppress(OSError, AttributeError):
        trim_threshold, mmap_threshold = -1, -3
        for parameter in (trim_threshold, mmap_threshold):
            ctypes.CDLL(None).mallopt(parameter, 2**30)


def main(arguments: list[str]) -> None:
    """Run one spec folder and end this process group, whatever happened; the parent reads the files."""
    folder = Path(arguments[0])
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
    die_with_parent()
    keep_memory()
    # Lava's processes are forked, so they have it too: the parent asks for it when nothing moves any more.
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    if len(arguments) > 1 and os.getppid() != int(arguments[1]):
        return  # the parent was gone before the line above could take effect
    os.register_at_fork(after_in_child=die_with_parent)
    conclude(folder, "result.json", lambda: execute_folder(folder))
    end_group()


if __name__ == "__main__":
    # Under its own name, by which `batched.py` imports it too: a class must not be there twice.
    import worker

    worker.main(sys.argv[1:])

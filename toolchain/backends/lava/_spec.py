"""The file that the parent hands to the Lava worker, and every check that Lava itself does not make.

Import-safe (standard library, numpy): the parent imports it in the toolchain's interpreter, the worker in Lava's.
A spec is a folder: `spec.json` (names, numbers), `arrays.npz` (synapses, biases, registers that differ between neurons)
and one `inputs_<i>.npy` per source.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

VERSION = 3

# Register ranges of a Loihi compartment and of Lava's fixed-point models, which check none of them.
DECAY_U = (1, 4096)  # effective decay; the register holds one less
DECAY_V = (0, 4095)
THRESHOLD = (0, 2**17 - 1)
BIAS_MANTISSA = (-(2**12), 2**12 - 1)
BIAS_EXPONENT = (0, 7)
WEIGHT_EXPONENT = (0, 15)
WEIGHT_BITS = {"mixed": (2, 8), "excitatory": (1, 8), "inhibitory": (1, 8)}
PAYLOAD = (0, 255)
REFRACTORY = (0, 62)
RESETS = ("zero", "subtract", "none")
TAKES = (1, 63)  # steps from a spike to its arrival; the register holds one less
# Lava shifts the summed input by 6 bits in int32: at 2^25 the shift would lose the sign.
INPUT_LIMIT = 2**25

SOURCE_KINDS = ("rate", "graded", "current", "spikes")
SENT = ("graded", "spikes")
"""Kinds that send spikes over connections."""


class SpecError(ValueError):
    """A value that Lava would take without a word and compute wrongly (or hang) with."""

    def __init__(self, message: str, *, where: str, got: object, allowed: object) -> None:
        super().__init__(f"{where}: {message}: got {got}, allowed {allowed}")
        self.message, self.where, self.got, self.allowed = message, where, got, allowed


@dataclass(frozen=True, eq=False)
class Population:
    """Neurons: `decay_u` is the effective current decay, `bias_mantissas` (size,).

    Decays and threshold are one integer, or an array (size,). After a spike `reset` "zero" clears the potential and
    "subtract" takes the threshold away; then it stays 0 for `refractory` steps. With "none" the population never spikes
    and sends its potential at every step.
    """

    name: str
    size: int
    depth: int
    decay_u: int | np.ndarray
    decay_v: int | np.ndarray
    threshold: int | np.ndarray
    bias_mantissas: np.ndarray
    bias_exponent: int
    reset: str = "zero"
    refractory: int = 0

    @property
    def stock(self) -> bool:
        """Whether Lava's own neurons compute it."""
        one = not any(isinstance(x, np.ndarray) for x in (self.decay_u, self.decay_v, self.threshold))
        return one and self.reset == "zero" and not self.refractory


Pair = tuple[int, int]


@dataclass(frozen=True)
class Kernel:
    """Where a convolution applies its kernel: maps (channels, height, width); padding ((top, bottom), (left, right)).

    It is a cross-correlation: target row v reads the source row v * stride - top + i * dilation through kernel row i.
    """

    source: tuple[int, int, int]
    target: tuple[int, int, int]
    size: Pair
    stride: Pair
    padding: tuple[Pair, Pair]
    dilation: Pair

    @property
    def n_taps(self) -> int:
        return self.source[0] * self.size[0] * self.size[1]

    @property
    def places(self) -> int:
        """Positions at which the kernel is applied."""
        return self.target[1] * self.target[2]

    def reads(self) -> np.ndarray:
        """The source neuron that every tap reads at every place, or n_sources where it lies outside: int32."""
        channels, height, width = self.source
        rows, columns = (
            np.arange(self.target[1 + k]) * self.stride[k]
            - self.padding[k][0]
            + np.arange(self.size[k])[:, None] * self.dilation[k]
            for k in range(2)
        )
        y, x = rows[None, :, None, :, None], columns[None, None, :, None, :]
        found = (np.arange(channels)[:, None, None, None, None] * height + y) * width + x
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        outside = channels * height * width
        return np.where(inside, found, outside).reshape(self.n_taps, self.places).astype(np.int32)


@dataclass(frozen=True, eq=False)
class Connection:
    """Synapses in CSR by source neuron; effective weight = mantissa * 2^exponent.

    With a kernel the lists lead from its taps, (channel * kernel height + row) * kernel width + column, to output
    channels. A spike of the source's step t of a sample reaches the target in its step t + delay of the same sample, or
    never.
    """

    name: str
    source: str
    target: str
    indptr: np.ndarray
    targets: np.ndarray
    mantissas: np.ndarray
    sign_mode: str
    weight_bits: int
    exponent: int
    delay: int = 0
    kernel: Kernel | None = None

    def unroll(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Source, target and mantissa of every synapse."""
        listed = np.repeat(np.arange(len(self.indptr) - 1), np.diff(self.indptr))
        if self.kernel is None:
            return listed, self.targets, self.mantissas
        sources = self.kernel.reads()[listed]
        targets = self.targets[:, None].astype(np.int64) * self.kernel.places + np.arange(self.kernel.places)
        mantissas = np.broadcast_to(self.mantissas[:, None], sources.shape)
        inside = sources < np.prod(self.kernel.source)
        return sources[inside], targets[inside], mantissas[inside]

    @property
    def n_synapses(self) -> int:
        """Synapses listed, borders of a map not left out."""
        return len(self.targets) * (1 if self.kernel is None else self.kernel.places)


@dataclass(frozen=True)
class Source:
    """What comes from outside, the same value at every step of a sample's window; of `spikes`, one for each step.

    `rate` and `current` add their integers to the input sum of the population `target`, in step with its window;
    `graded` sends them as spike payloads over the connections that name this source (depth 0, `target` is None), and
    `spikes` sends those that it is given, of shape (samples, steps, size).
    """

    name: str
    kind: str
    size: int
    target: str | None = None


@dataclass(frozen=True)
class Batch:
    """How samples run side by side: `size` of them in every process, window after window, in `shards` runs at once.

    stock_neurons: Lava's own neurons wherever they compute the population.
    traced: populations whose spikes are kept of all samples.
    compared: so many of the first samples also run one by one through the processes of a run without a batch, and the
    spikes of all populations are kept of these.
    """

    size: int
    shards: int = 1
    stock_neurons: bool = True
    traced: tuple[str, ...] = ()
    compared: int = 0

    def rows(self, samples: int) -> list[tuple[int, int]]:
        """(start, stop) of the samples of every shard; whole windows, but for the last."""
        windows = -(-samples // self.size)
        edges = [min(k * windows // self.shards * self.size, samples) for k in range(self.shards + 1)]
        return [(a, b) for a, b in itertools.pairwise(edges) if a < b]


@dataclass(frozen=True, eq=False)
class Spec:
    """One network and its run. `slices` maps a population or graded source to its inner cut points.

    unroll_to: kernels of at most so many synapses become Lava's own sparse connections.
    all_stock: Lava's own sources, sinks and delays wherever it has them; slower, for tests.
    batch: samples side by side (`batched.py`); none, and they follow each other.
    """

    steps: int
    populations: tuple[Population, ...]
    connections: tuple[Connection, ...]
    sources: tuple[Source, ...]
    record: tuple[str, ...] = ()
    slices: dict[str, tuple[int, ...]] = field(default_factory=dict)
    inputs: dict[str, np.ndarray] = field(default_factory=dict)
    unroll_to: int = 2**20
    all_stock: bool = False
    batch: Batch | None = None

    @property
    def samples(self) -> int:
        return len(next(iter(self.inputs.values()))) if self.inputs else 0

    @cached_property
    def depths(self) -> dict[str, int]:
        """Window offset of every population and source, in steps."""
        depths = {population.name: population.depth for population in self.populations}
        for source in self.sources:
            depths[source.name] = depths[source.target] if source.target is not None else 0
        return depths

    @cached_property
    def sizes(self) -> dict[str, int]:
        sizes = {population.name: population.size for population in self.populations}
        return sizes | {source.name: source.size for source in self.sources}

    @property
    def total_steps(self) -> int:
        """Steps of the whole run: all windows of all samples, and the lag of the deepest population."""
        return self.samples * self.steps + max(population.depth for population in self.populations)

    def takes(self, connection: Connection) -> int:
        """Steps of the run from a spike to its arrival."""
        return self.depths[connection.target] - self.depths[connection.source] + connection.delay

    def bounds(self, name: str) -> tuple[tuple[int, int], ...]:
        """(start, stop) of every slice of a population or source."""
        edges = (0, *self.slices.get(name, ()), self.sizes[name])
        return tuple(itertools.pairwise(edges))


def mantissa_range(sign_mode: str, weight_bits: int) -> tuple[int, int]:
    """Lowest and highest mantissa of `weight_bits` bits (the sign costs one bit in mixed mode only)."""
    if sign_mode == "mixed":
        return -(2 ** (weight_bits - 1)), 2 ** (weight_bits - 1) - 1
    return (0, 2**weight_bits - 1) if sign_mode == "excitatory" else (1 - 2**weight_bits, 0)


def _integer(value: object, where: str, name: str, allowed: tuple[int, int]) -> None:
    # A float decay hangs Lava, a bool is no number here: only int will do.
    if type(value) is not int or not allowed[0] <= value <= allowed[1]:
        raise SpecError(f"{name} must be an integer in range", where=where, got=repr(value), allowed=list(allowed))


def _registers(value: object, where: str, name: str, size: int, allowed: tuple[int, int]) -> None:
    """One integer, or one a neuron."""
    if isinstance(value, np.ndarray):
        _array(value, where, name, (size,), allowed)
    else:
        _integer(value, where, name, allowed)


def _array(value: np.ndarray, where: str, name: str, shape: tuple[int, ...], allowed: tuple[int, int]) -> None:
    if value.dtype.kind not in "iu":
        raise SpecError(f"{name} must be integers", where=where, got=value.dtype, allowed="an integer type")
    if value.shape != shape:
        raise SpecError(f"{name} has the wrong shape", where=where, got=value.shape, allowed=shape)
    if value.size and not (allowed[0] <= int(value.min()) and int(value.max()) <= allowed[1]):
        raise SpecError(
            f"{name} out of range", where=where, got=[int(value.min()), int(value.max())], allowed=list(allowed)
        )


def check(spec: Spec) -> None:
    """Refuse what Lava would compute wrongly.

    Raises:
        SpecError: naming the population, connection or source, the value and what is allowed.
    """
    _integer(spec.steps, "network", "steps", (1, 2**20))
    names = [*(population.name for population in spec.populations), *(source.name for source in spec.sources)]
    if len(set(names)) != len(names):
        raise SpecError("names must differ", where="network", got=sorted(names), allowed="each name once")
    if not spec.populations:
        raise SpecError("nothing to run", where="network", got=0, allowed="at least one population")
    for population in spec.populations:
        _check_population(population)
    for source in spec.sources:
        _check_source(source, spec)
    for connection in spec.connections:
        _check_connection(connection, spec)
    _check_input_bound(spec)
    for name in spec.record:
        if name not in {population.name for population in spec.populations}:
            raise SpecError("cannot record this", where=name, got=name, allowed="the name of a population")
    for name, cuts in spec.slices.items():
        edges = (0, *cuts, spec.sizes.get(name, 0))
        if name not in spec.sizes or any(a >= b for a, b in itertools.pairwise(edges)):
            raise SpecError("cuts must ascend inside it", where=name, got=cuts, allowed="1 .. size - 1, ascending")
    if spec.batch is not None:
        _check_batch(spec.batch, spec)


def _check_batch(batch: Batch, spec: Spec) -> None:
    _integer(batch.size, "network", "samples side by side", (1, 2**20))
    _integer(batch.shards, "network", "shards", (1, 2**10))
    _integer(batch.compared, "network", "compared samples", (0, spec.samples))
    if spec.slices or spec.all_stock:
        raise SpecError("samples side by side need whole populations", where="network", got="slices", allowed="none")
    for name in batch.traced:
        if name not in spec.record:
            raise SpecError("spikes are kept of recorded populations", where=name, got=name, allowed=spec.record)


def _check_population(population: Population) -> None:
    where = population.name
    _integer(population.size, where, "size", (1, 2**31 - 1))
    _integer(population.depth, where, "depth", (0, 2**20))
    _registers(population.decay_u, where, "du", population.size, DECAY_U)
    _registers(population.decay_v, where, "dv", population.size, DECAY_V)
    _registers(population.threshold, where, "vth", population.size, THRESHOLD)
    _integer(population.bias_exponent, where, "bias_exp", BIAS_EXPONENT)
    _array(population.bias_mantissas, where, "bias_mant", (population.size,), BIAS_MANTISSA)
    if population.reset not in RESETS:
        raise SpecError("unknown reset", where=where, got=population.reset, allowed=list(RESETS))
    _integer(population.refractory, where, "refractory period", REFRACTORY)
    if population.refractory and population.reset != "zero":
        raise SpecError("a refractory period needs reset 'zero'", where=where, got=population.reset, allowed="zero")


def _check_source(source: Source, spec: Spec) -> None:
    if source.kind not in SOURCE_KINDS:
        raise SpecError("unknown kind of input", where=source.name, got=source.kind, allowed=SOURCE_KINDS)
    sizes = {population.name: population.size for population in spec.populations}
    if source.kind in SENT:
        if source.target is not None:
            raise SpecError(
                f"{source.kind} input goes over connections", where=source.name, got=source.target, allowed=None
            )
    elif sizes.get(source.target or "") != source.size:
        raise SpecError(
            "must feed a population of its own size",
            where=source.name,
            got=f"{source.size} into {source.target} of {sizes.get(source.target or '')}",
            allowed="equal sizes",
        )
    if spec.inputs:
        if source.name not in spec.inputs:
            raise SpecError("has no values", where=source.name, got=sorted(spec.inputs), allowed="one array per source")
        limit = {"current": (1 - INPUT_LIMIT, INPUT_LIMIT - 1), "spikes": (0, 1)}.get(source.kind, PAYLOAD)
        shape: tuple[int, ...] = (spec.samples, source.size)
        if source.kind == "spikes":
            shape = (spec.samples, spec.steps, source.size)
        _array(spec.inputs[source.name], source.name, "input values", shape, limit)


def _check_connection(connection: Connection, spec: Spec) -> None:
    where = connection.name
    sizes = spec.sizes
    graded = {source.name for source in spec.sources if source.kind in SENT}
    populations = {population.name for population in spec.populations}
    if connection.source not in populations | graded or connection.target not in populations:
        raise SpecError(
            "ends must be known",
            where=where,
            got=f"{connection.source} -> {connection.target}",
            allowed=f"{sorted(populations | graded)} -> {sorted(populations)}",
        )
    readouts = {population.name for population in spec.populations if population.reset == "none"}
    if connection.source in readouts:
        raise SpecError("a readout sends no spikes", where=where, got=connection.source, allowed="a spiking population")
    _integer(connection.delay, where, "delay", (0, 2**20))
    # The registers that spikes wait in; LIFReset does not clear them, so a sample's end is theirs to know.
    _integer(spec.takes(connection), where, "steps from spike to arrival", TAKES)
    if connection.sign_mode not in WEIGHT_BITS:
        raise SpecError("unknown sign mode", where=where, got=connection.sign_mode, allowed=list(WEIGHT_BITS))
    _integer(connection.weight_bits, where, "weight bits", WEIGHT_BITS[connection.sign_mode])
    _integer(connection.exponent, where, "weight exponent", WEIGHT_EXPONENT)
    synapses = len(connection.targets)
    n_sources, n_targets = sizes[connection.source], sizes[connection.target]
    if connection.kernel is not None:
        n_sources, n_targets = _check_kernel(connection.kernel, where, n_sources, n_targets)
    _array(connection.indptr, where, "indptr", (n_sources + 1,), (0, synapses))
    if connection.indptr[0] != 0 or connection.indptr[-1] != synapses or np.any(np.diff(connection.indptr) < 0):
        raise SpecError(
            "indptr must ascend from 0 to the synapse count", where=where, got="it does not", allowed=synapses
        )
    _array(connection.targets, where, "targets", (synapses,), (0, n_targets - 1))
    same_source = np.ones(max(synapses - 1, 0), bool)
    starts = connection.indptr[1:-1]
    same_source[starts[(starts > 0) & (starts < synapses)] - 1] = False
    if np.any(np.diff(connection.targets)[same_source] <= 0):
        raise SpecError("targets must ascend within a source", where=where, got="they do not", allowed="ascending")
    limits = mantissa_range(connection.sign_mode, connection.weight_bits)
    _array(connection.mantissas, where, "weight mantissas", (synapses,), limits)


def _check_kernel(kernel: Kernel, where: str, n_sources: int, n_targets: int) -> tuple[int, int]:
    """Refuse one that does not lie on its maps; returns its number of taps and output channels."""
    for name in ("source", "target", "size", "stride", "dilation"):
        for value in getattr(kernel, name):
            _integer(value, where, f"kernel {name}", (1, 2**20))
    for value in itertools.chain(*kernel.padding):
        _integer(value, where, "kernel padding", (0, 2**20))
    if (int(np.prod(kernel.source)), int(np.prod(kernel.target))) != (n_sources, n_targets):
        raise SpecError(
            "the maps are not of the populations' sizes",
            where=where,
            got=f"{kernel.source} -> {kernel.target}",
            allowed=f"{n_sources} -> {n_targets} neurons",
        )
    for k in range(2):
        span = kernel.dilation[k] * (kernel.size[k] - 1) + 1
        places = (kernel.source[1 + k] + sum(kernel.padding[k]) - span) // kernel.stride[k] + 1
        if places != kernel.target[1 + k]:
            raise SpecError("a map has another size", where=where, got=kernel.target, allowed=f"{places} on axis {k}")
    return kernel.n_taps, kernel.target[0]


def _check_input_bound(spec: Spec) -> None:
    for population in spec.populations:
        bound, where = largest_input(spec, population)
        if bound >= INPUT_LIMIT:
            raise SpecError(
                f"the input sum of {population.name} can leave 32 bits",
                where=", ".join(where),
                got=bound,
                allowed=f"|a| < {INPUT_LIMIT}",
            )


def largest_input(spec: Spec, population: Population) -> tuple[int, list[str]]:
    """Bound of a population's input sum over all patterns of spikes, and all that it comes from."""
    graded = {source.name for source in spec.sources if source.kind == "graded"}
    bound, where = np.zeros(population.size), []
    for connection in spec.connections:
        if connection.target == population.name:
            payload = PAYLOAD[1] if connection.source in graded else 1
            weights = np.abs(connection.mantissas.astype(np.float64)) * (payload << connection.exponent)
            kernel = connection.kernel
            rows = population.size if kernel is None else kernel.target[0]
            sums = np.bincount(connection.targets, weights=weights, minlength=rows)
            bound += sums if kernel is None else np.repeat(sums, kernel.places)
            where.append(connection.name)
    for source in spec.sources:
        if source.target == population.name and source.name in spec.inputs:
            bound += np.abs(spec.inputs[source.name].astype(np.int64)).max(axis=0, initial=0)
            where.append(source.name)
    return int(bound.max(initial=0)), where


def write(spec: Spec, directory: str | Path) -> None:
    """Check and write a spec folder (which exists and is empty).

    Raises:
        SpecError: as `check`.
    """
    check(spec)
    folder = Path(directory)
    arrays: dict[str, np.ndarray] = {}
    for i, population in enumerate(spec.populations):
        arrays[f"bias_{i}"] = population.bias_mantissas.astype(np.int16)
        arrays |= {f"{name}_{i}": getattr(population, name).astype(np.int32) for name in _differing(population)}
    for i, connection in enumerate(spec.connections):
        arrays[f"indptr_{i}"] = connection.indptr.astype(np.int64)
        arrays[f"targets_{i}"] = connection.targets.astype(np.int32)
        arrays[f"mantissas_{i}"] = connection.mantissas.astype(np.int16)
    np.savez(folder / "arrays.npz", **arrays)  # type: ignore[arg-type]
    for i, source in enumerate(spec.sources):
        if source.name in spec.inputs:
            values = spec.inputs[source.name]
            np.save(folder / f"inputs_{i}.npy", values.astype(np.int32 if source.kind == "current" else np.uint8))
    header = {
        "format": "snnc-lava",
        "version": VERSION,
        "steps": spec.steps,
        "populations": [
            _fields(p, [name for name in POPULATION_FIELDS if name not in _differing(p)]) for p in spec.populations
        ],
        "connections": [
            {**_fields(c, CONNECTION_FIELDS), "kernel": c.kernel and dataclasses.asdict(c.kernel)}
            for c in spec.connections
        ],
        "sources": [_fields(s, ("name", "kind", "size", "target")) for s in spec.sources],
        "record": list(spec.record),
        "slices": {name: list(cuts) for name, cuts in spec.slices.items()},
        "unroll_to": spec.unroll_to,
        "all_stock": spec.all_stock,
        "batch": spec.batch and dataclasses.asdict(spec.batch),
    }
    (folder / "spec.json").write_text(json.dumps(header, indent=1))


REGISTERS = ("decay_u", "decay_v", "threshold")
POPULATION_FIELDS = ("name", "size", "depth", *REGISTERS, "bias_exponent", "reset", "refractory")
CONNECTION_FIELDS = ("name", "source", "target", "sign_mode", "weight_bits", "exponent", "delay")


def _differing(population: Population) -> list[str]:
    """Registers that are one a neuron, and so an array of their own."""
    return [name for name in REGISTERS if isinstance(getattr(population, name), np.ndarray)]


def _fields(item: object, names: Iterable[str]) -> dict[str, object]:
    return {name: getattr(item, name) for name in names}


def _kernel(fields: dict[str, list] | None) -> Kernel | None:
    """From JSON, where tuples are lists."""
    if fields is None:
        return None
    padding = tuple(tuple(side) for side in fields.pop("padding"))
    return Kernel(**{name: tuple(value) for name, value in fields.items()}, padding=padding)  # type: ignore[arg-type]


def _batch(fields: dict | None) -> Batch | None:
    return None if fields is None else Batch(**{**fields, "traced": tuple(fields["traced"])})


def read(directory: str | Path) -> Spec:
    """Read a spec folder and check it again; input arrays stay on disk (memory-mapped).

    Raises:
        SpecError: as `check`, or an unknown format version.
    """
    folder = Path(directory)
    header = json.loads((folder / "spec.json").read_text())
    if header.get("format") != "snnc-lava" or header.get("version") != VERSION:
        raise SpecError(
            "unknown format",
            where=str(folder),
            got=f"{header.get('format')} {header.get('version')}",
            allowed=f"snnc-lava {VERSION}",
        )
    inputs = {}
    with np.load(folder / "arrays.npz", allow_pickle=False) as arrays:
        populations = tuple(
            Population(
                **fields,
                **{name: arrays[f"{name}_{i}"] for name in REGISTERS if name not in fields},
                bias_mantissas=arrays[f"bias_{i}"],
            )
            for i, fields in enumerate(header["populations"])
        )
        connections = tuple(
            Connection(
                **{name: fields[name] for name in CONNECTION_FIELDS},
                **{key: arrays[f"{key}_{i}"] for key in ("indptr", "targets", "mantissas")},
                kernel=_kernel(fields["kernel"]),
            )
            for i, fields in enumerate(header["connections"])
        )
    sources = tuple(Source(**fields) for fields in header["sources"])
    for i, source in enumerate(sources):
        path = folder / f"inputs_{i}.npy"
        if path.exists():
            inputs[source.name] = np.load(path, mmap_mode="r", allow_pickle=False)
    spec = Spec(
        steps=header["steps"],
        populations=populations,
        connections=connections,
        sources=sources,
        record=tuple(header["record"]),
        slices={name: tuple(cuts) for name, cuts in header["slices"].items()},
        inputs=inputs,
        unroll_to=header["unroll_to"],
        all_stock=header["all_stock"],
        batch=_batch(header["batch"]),
    )
    check(spec)
    return spec

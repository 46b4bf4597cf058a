"""Random networks for property tests (hypothesis), small enough for slow simulators.

`programs()` draws integer programs: layers of one or two populations, every sign mode and bit width, decays,
thresholds and biases at their ends, all input codings. By default the synaptic current of every population provably
stays within its 24 bits, as in any program that the compiler lets pass; `programs(may_wrap=True)` also draws ones that
wrap around (`may_wrap(program)` tells which). `graphs()` draws trained networks in physical units.

Both draw layered networks of plain neurons unless `wide` asks for more: True for all of `FEATURES`, or some of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from toolchain.ir import (
    LIF,
    Compartments,
    Connection,
    Connectivity,
    FloatSynapses,
    Graph,
    Input,
    IntegerConnection,
    IntegerSynapses,
    Program,
    make_input,
    mantissa_range,
)
from toolchain.ir.arithmetic import BIAS_LIMIT, DECAY_ONE, STATE_SHIFT, THRESHOLD_LIMIT
from toolchain.ir.convolution import Convolution
from toolchain.ir.pattern import Pattern

CODINGS = ("rate", "graded", "current", "spikes")
FORMATS = (
    *(("mixed", bits) for bits in range(2, 9)),
    *(("excitatory", bits) for bits in range(1, 9)),
    *(("inhibitory", bits) for bits in range(1, 9)),
)
LIVELY = tuple(f for f in FORMATS for _ in range(1 if f[0] == "inhibitory" else 3))
"""The same with fewer that only inhibit: in wide networks most neurons should have a chance to fire."""
HALF = 1 << 23
"""The synaptic current wraps above this and at or below its negative."""
FEATURES = frozenset(
    {
        "convolution",  # any stride, padding, dilation, groups, pruned kernels; one dimension is height 1
        "pooling",  # sums and averages as depthwise kernels; maxima as populations of OR neurons
        "skip",  # sources before the layer before
        "recurrent",  # from a population to itself, or back from a later one
        "delay",
        "subtract",  # soft reset
        "refractory",
        "per neuron",  # registers
        "readout",  # as last population
    }
)

Shape = tuple[int, ...]


# --- the wiring, in either unit -----------------------------------------------------------------------------


@dataclasses.dataclass
class Edge:
    """A connection to be: its weights are drawn later, or all equal where it pools."""

    source: str
    target: str
    pattern: Pattern
    delay: int = 0
    pooling: bool = False


@dataclasses.dataclass
class Wiring:
    """Populations by name with their sizes, in order, and what connects them. maxima: populations of OR neurons."""

    entry: Input
    sizes: dict[str, int]
    edges: list[Edge]
    steps: int
    features: frozenset[str]
    maxima: set[str]

    def into(self, name: str) -> list[Edge]:
        return [edge for edge in self.edges if edge.target == name]


@st.composite
def wirings(
    draw: st.DrawFn,
    random: np.random.Generator,
    *,
    max_layers: int,
    max_size: int,
    steps: st.SearchStrategy[int],
    codings: tuple[str, ...],
    branches: bool,
    wide: bool | Collection[str],
    entry: Input | None = None,
) -> Wiring:
    features = FEATURES if wide is True else frozenset(wide or ())
    assert features <= FEATURES, features - FEATURES
    maps = bool(features & {"convolution", "pooling"})
    if entry is None:
        entry = draw(inputs(codings=codings, max_size=max_size, shape=draw(_shapes(max_size)) if maps else None))
    shapes: dict[str, Shape] = {entry.name: draw(_shapes_of(entry.size)) if maps else (entry.size,)}
    edges: list[Edge] = []
    maxima: set[str] = set()
    before, earlier = [entry.name], [entry.name]
    layers = draw(st.integers(1, max_layers))
    for layer in range(layers):
        two = branches and layer < layers - 1 and draw(st.integers(0, 3)) == 0
        here: list[str] = []
        for branch in range(2 if two else 1):
            name = f"layer{layer}{'ab'[branch] if two else ''}"
            candidates = earlier if "skip" in features and draw(st.booleans()) else before
            source = draw(st.sampled_from(candidates)) if branches else before[0]
            first = draw(_first_edges(source, name, shapes, max_size, features, random))
            edges.append(first)
            shapes[name] = first.pattern.target_shape
            if maps and len(shapes[name]) == 1:
                shapes[name] = draw(_shapes_of(shapes[name][0]))
            if first.pooling and len(first.pattern.target_shape) == 3 and draw(st.booleans()):
                maxima.add(name)
            elif branches and draw(st.integers(0, 3)) == 0:
                other = draw(st.sampled_from(candidates))
                edges.append(draw(_edges_between(other, name, shapes, features, random)))
            here.append(name)
        before = here
        earlier = [*earlier, *here]
    wiring = Wiring(
        entry,
        {name: int(np.prod(shape)) for name, shape in shapes.items() if name != entry.name},
        edges,
        draw(steps),
        features,
        maxima,
    )
    if "delay" in features:
        for edge in edges:
            if not (entry.on_host and edge.source == entry.name):
                edge.delay = draw(st.sampled_from((0, 0, 0, 0, 0, 1, 2, 7)))
    if "recurrent" in features:
        _close_loops(draw, wiring, shapes, random)
    return wiring


def _close_loops(draw: st.DrawFn, wiring: Wiring, shapes: dict[str, Shape], random: np.random.Generator) -> None:
    """Connections from a population to itself or back, as soon as the chip can deliver them or later."""
    depths = {wiring.entry.name: 0}
    for name in wiring.sizes:
        depths[name] = max([0, *(depths[e.source] + 1 - e.delay for e in wiring.into(name))])
    names = [name for name in wiring.sizes if name not in wiring.maxima]
    spiking = names if "readout" not in wiring.features else [name for name in names if name != [*wiring.sizes][-1]]
    for source in spiking:
        if draw(st.integers(0, 2)) == 0:
            target = source if draw(st.booleans()) else draw(st.sampled_from(names[: names.index(source) + 1]))
            edge = draw(_edges_between(source, target, shapes, wiring.features, random))
            soonest = max(1, depths[source] - depths[target] + 1)
            edge.delay = soonest + (draw(st.sampled_from((0, 0, 1, 2))) if "delay" in wiring.features else 0)
            wiring.edges.append(edge)


@st.composite
def _first_edges(
    draw: st.DrawFn,
    source: str,
    target: str,
    shapes: dict[str, Shape],
    max_size: int,
    features: frozenset[str],
    random: np.random.Generator,
) -> Edge:
    """The connection that gives a population its shape."""
    shape = shapes[source]
    kinds = ["lists"]
    if len(shape) == 3:
        kinds += ["convolution"] * 2 * ("convolution" in features)
        kinds += ["pooling"] * ("pooling" in features)
    kind = draw(st.sampled_from(kinds))
    if kind == "lists":
        maps = bool(features & {"convolution", "pooling"})
        size = int(np.prod(draw(_shapes(max_size)))) if maps else draw(st.integers(1, max_size))
        return Edge(source, target, _lists(draw, int(np.prod(shape)), size, random))
    assert len(shape) == 3
    if kind == "pooling":
        kernel = tuple(draw(st.integers(1, min(3, n))) for n in shape[1:])
        stride = tuple(draw(st.integers(1, k)) for k in kernel)
        mask = np.ones((shape[0], 1, *kernel), bool)
        pattern, _ = Convolution.of(shape, mask, stride=stride, groups=shape[0])
        return Edge(source, target, pattern, pooling=True)
    groups = draw(st.sampled_from([g for g in range(1, shape[0] + 1) if shape[0] % g == 0]))
    outputs = groups * draw(st.integers(1, max(1, 3 // groups)))
    padding = tuple((draw(st.integers(0, 1)), draw(st.integers(0, 1))) for _ in range(2))
    dilation = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
    room = [(shape[1 + k] + sum(padding[k]) - 1) // dilation[k] + 1 for k in range(2)]
    kernel = tuple(draw(st.integers(1, min(3, n))) for n in room)
    mask = random.random((outputs, shape[0] // groups, *kernel)) < draw(st.sampled_from((1.0, 1.0, 0.6, 0.2)))
    stride = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
    pattern, _ = Convolution.of(shape, mask, stride=stride, padding=padding, dilation=dilation, groups=groups)
    return Edge(source, target, pattern)


@st.composite
def _edges_between(
    draw: st.DrawFn,
    source: str,
    target: str,
    shapes: dict[str, Shape],
    features: frozenset[str],
    random: np.random.Generator,
) -> Edge:
    """A connection between populations whose shapes are settled: lists, or a kernel that keeps height and width."""
    from_shape, to_shape = shapes[source], shapes[target]
    same_map = len(from_shape) == len(to_shape) == 3 and from_shape[1:] == to_shape[1:]
    if "convolution" in features and same_map and draw(st.booleans()):
        kernel = draw(st.sampled_from((1, 3)))
        mask = random.random((to_shape[0], from_shape[0], kernel, kernel)) < 0.8
        margin = (kernel // 2, kernel // 2)
        pattern, _ = Convolution.of(from_shape, mask, padding=(margin, margin))  # type: ignore[arg-type]
        return Edge(source, target, pattern)
    return Edge(source, target, _lists(draw, int(np.prod(from_shape)), int(np.prod(to_shape)), random))


def _lists(draw: st.DrawFn, n_sources: int, n_targets: int, random: np.random.Generator) -> Connectivity:
    density = draw(st.sampled_from((0.3, 0.7, 1.0, 1.0, 1.0, 0.0)))
    return Connectivity.from_mask(random.random((n_targets, n_sources)) < density)


def _shapes(max_size: int) -> st.SearchStrategy[Shape]:
    """(channels, height, width) of at most about four times max_size neurons."""
    side = max(1, int(np.sqrt(max_size)) + 1)
    return st.tuples(st.integers(1, 3), st.integers(1, side), st.integers(1, side))


def _shapes_of(size: int) -> st.SearchStrategy[Shape]:
    """Ways to see a population as a map."""
    ways = [
        (c, h, size // (c * h)) for c in range(1, 4) for h in range(1, 5) if size % (c * h) == 0 and size // (c * h) < 9
    ]
    return st.sampled_from(ways) if ways else st.just((size,))


# --- programs and graphs -----------------------------------------------------------------------------


@st.composite
def programs(
    draw: st.DrawFn,
    *,
    max_layers: int = 4,
    max_size: int = 8,
    max_steps: int = 6,
    steps: int | None = None,
    codings: tuple[str, ...] = CODINGS,
    branches: bool = True,
    may_wrap: bool = False,
    max_exponent: int = 8,
    wide: bool | Collection[str] = False,
    entry: Input | None = None,
) -> Program:
    """A program that verifies.

    branches: several populations in a layer, several connections into a population.  steps: exactly so many.
    wide: see above.  entry: this input.
    """
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    wiring = draw(
        wirings(
            random,
            max_layers=max_layers,
            max_size=max_size,
            steps=st.integers(1, max_steps) if steps is None else st.just(steps),
            codings=codings,
            branches=branches,
            wide=wide,
            entry=entry,
        )
    )
    populations: list[Compartments] = []
    connections: list[IntegerConnection] = []
    for name, size in wiring.sizes.items():
        edges = wiring.into(name)
        new = []
        for edge in edges:
            formats = LIVELY if wiring.features else FORMATS
            synapses = draw(_synapses(edge, max_exponent, random, formats, or_gate=name in wiring.maxima))
            label = f"{edge.source}-{name}-{len(new)}"
            new.append(IntegerConnection(label, edge.source, name, synapses, edge.delay))
        if name in wiring.maxima:
            population = Compartments(name, size, 4096, 0, 0, np.zeros(size, np.int16))
        else:
            readout = "readout" in wiring.features and name == [*wiring.sizes][-1] and draw(st.integers(0, 3)) == 3
            population = draw(_compartments(name, size, random, wiring.features, readout))
        if not may_wrap:
            population, new = _tamed(population, new, wiring.entry, wiring.steps)
        if wiring.features and name not in wiring.maxima:
            population = draw(_near_the_drive(population, new, wiring.entry, random))
        populations.append(population)
        connections.extend(new)
    program = Program(
        "random", wiring.entry, tuple(populations), tuple(connections), wiring.steps, {"origin": "hypothesis"}
    )
    program.verify()
    return program


@st.composite
def inputs(
    draw: st.DrawFn, *, codings: tuple[str, ...] = CODINGS, max_size: int = 8, shape: Shape | None = None
) -> Input:
    """An input of any coding that reads all or some entries of a sample; all, where its shape is given."""
    coding = draw(st.sampled_from(codings))
    sample_size = draw(st.integers(1, max_size)) if shape is None else int(np.prod(shape))
    read = draw(st.lists(st.integers(0, sample_size - 1), min_size=1, max_size=sample_size, unique=True))
    channels = np.array(sorted(read) if draw(st.booleans()) and shape is None else range(sample_size), np.int32)
    parameters = {}
    if coding == "rate":
        parameters["threshold"] = draw(st.one_of(st.just(254), st.integers(0, 600)))
    if coding == "graded":
        parameters["payload_bits"] = draw(st.integers(1, 8))
    if coding == "current":
        parameters["shift"] = draw(st.integers(0, 10))
    return make_input(coding, "input", sample_size, channels, scale=1 / 255, **parameters)


@st.composite
def samples(draw: st.DrawFn, program: Program | Graph, *, max_samples: int = 4) -> NDArray[np.uint8]:
    """Samples for a program, shape (n, sample_size): black, white, and everything between; or spikes of each step."""
    n = draw(st.integers(1, max_samples))
    return random_samples(np.random.default_rng(draw(st.integers(0, 2**32 - 1))), program, n)


def random_samples(random: np.random.Generator, program: Program | Graph, n: int) -> NDArray[np.uint8]:
    """The same from a generator."""
    if program.input.coding == "spikes":
        density = random.choice((0.1, 0.5, 0.9))
        return (random.random((n, program.steps, program.input.sample_size)) < density).astype(np.uint8)
    values = random.integers(0, 256, (n, program.input.sample_size))
    edge = random.random(values.shape)
    return np.where(edge < 0.2, 0, np.where(edge > 0.7, 255, values)).astype(np.uint8)


@st.composite
def programs_and_samples(
    draw: st.DrawFn, *, max_samples: int = 4, **options: object
) -> tuple[Program, NDArray[np.uint8]]:
    """A program with samples that fit it; options as of `programs`."""
    program = draw(programs(**options))  # type: ignore[arg-type]
    return program, draw(samples(program, max_samples=max_samples))


@st.composite
def graphs(draw: st.DrawFn, *, max_layers: int = 3, max_size: int = 8, wide: bool | Collection[str] = False) -> Graph:
    """A trained network in physical units: a chain of layers with any connectivity, or what `wide` asks for."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    wiring = draw(
        wirings(
            random,
            max_layers=max_layers,
            max_size=max_size,
            steps=st.integers(1, 32),
            codings=CODINGS,
            branches=bool(wide),
            wide=wide,
        )
    )
    entry = dataclasses.replace(
        wiring.entry,
        scale=draw(st.floats(1e-6, 10)),
        offset=draw(st.floats(-1, 1)) if wiring.entry.on_host else 0.0,
    )
    populations: list[LIF] = []
    connections: list[Connection] = []
    for name, size in wiring.sizes.items():
        maximum = name in wiring.maxima
        if maximum:
            populations.append(LIF(name, size, 0.5, 1.0, 1.0, 0.0, np.zeros(size, np.float32)))
        else:
            readout = "readout" in wiring.features and name == [*wiring.sizes][-1] and draw(st.integers(0, 3)) == 3
            populations.append(draw(_lif(name, size, random, wiring.features, readout)))
        for edge in wiring.into(name):
            n = edge.pattern.n_weights
            weights = np.full(n, 1.0 if maximum else random.normal()) if edge.pooling else random.normal(size=n)
            on_grid = draw(st.booleans()) and not edge.pooling
            connections.append(
                Connection(
                    name=f"fc{len(connections)}",
                    source=edge.source,
                    target=name,
                    synapses=FloatSynapses(edge.pattern, weights.astype(np.float32)),
                    weight_step=draw(st.floats(1e-6, 1)) if on_grid else None,
                    weight_bits=draw(st.integers(2, 8)) if on_grid else None,
                    weight_exponent=draw(st.sampled_from((None, None, 0, 1, 7))) if on_grid else None,
                    delay=edge.delay,
                )
            )
    graph = Graph("random", entry, tuple(populations), tuple(connections), wiring.steps, {"seed": "1"})
    graph.verify()
    return graph


# --- bounds of the synaptic current -----------------------------------------------------------------------------


def may_wrap(program: Program) -> bool:
    """Whether some population's synaptic current cannot be proven to stay within its 24 bits."""
    return any(
        _peak(population, list(program.into(population.name)), program.input, program.steps) >= HALF
        for population in program.populations
    )


def _drive(connections: list[IntegerConnection], entry: Input) -> NDArray[np.int64]:
    """For each neuron of a population an upper bound of |a|: what arrives when every source fires."""
    total = np.zeros(connections[0].synapses.connectivity.n_targets, np.int64)
    for c in connections:
        sums = c.synapses.connectivity.target_sums(np.abs(c.synapses.values))
        total += entry.inject(sums * entry.payload_max) if c.source == entry.name else sums
    return total


def _peak(population: Compartments, connections: list[IntegerConnection], entry: Input, steps: int) -> int:
    """An upper bound for |u|: the largest sum of one step, gathered over the steps that the decay leaves."""
    one_step = int(_drive(connections, entry).max(initial=0)) << STATE_SHIFT
    # Geometric series of (4096 - du) / 4096, or as many terms as there are steps.
    return min(-(-one_step * DECAY_ONE // int(np.min(population.du))), one_step * steps)


def _tamed(
    population: Compartments, connections: list[IntegerConnection], entry: Input, steps: int
) -> tuple[Compartments, list[IntegerConnection]]:
    """Lower exponents, then mantissas, until the current provably fits."""
    while _peak(population, connections, entry, steps) >= HALF:
        connections = [
            dataclasses.replace(
                c,
                synapses=dataclasses.replace(c.synapses, exponent=c.synapses.exponent - 1)
                if c.synapses.exponent > 0
                else dataclasses.replace(c.synapses, mantissa=(c.synapses.mantissa / 2).astype(np.int16)),
            )
            for c in connections
        ]
    return population, connections


# --- registers and weights -----------------------------------------------------------------------------


@st.composite
def _compartments(
    draw: st.DrawFn, name: str, size: int, random: np.random.Generator, features: frozenset[str], readout: bool
) -> Compartments:
    largest = draw(st.sampled_from((0, 50, BIAS_LIMIT)))
    reset, refractory = _kind(draw, features, readout)
    du = draw(st.one_of(st.sampled_from((1, 2, 4095, 4096)), st.integers(1, 4096)))
    dv = draw(st.one_of(st.sampled_from((0, 1, 2048, 4095)), st.integers(0, 4095)))
    vth = draw(st.one_of(st.sampled_from((0, 1, THRESHOLD_LIMIT)), st.integers(0, 20), st.integers(0, 300)))
    each = "per neuron" in features and draw(st.integers(0, 2)) == 0
    return Compartments(
        name=name,
        size=size,
        du=_one_or_each(du, random.choice([1, 7, 2048, 4095, 4096, du], size), draw, each),
        dv=_one_or_each(dv, random.choice([0, 1, 300, 4095, dv], size), draw, each),
        vth=_one_or_each(vth, random.integers(0, 2 * vth + 2, size), draw, each),
        bias_mantissa=random.integers(-largest, largest + 1, size).astype(np.int16),
        bias_exponent=draw(st.one_of(st.just(STATE_SHIFT), st.integers(0, 7))),
        reset=reset,
        refractory=refractory,
    )


def _kind(draw: st.DrawFn, features: frozenset[str], readout: bool) -> tuple[str, int]:
    """Reset and refractory period."""
    if readout:
        return "none", 0
    if "subtract" in features and draw(st.integers(0, 3)) == 0:
        return "subtract", 0
    if "refractory" in features and draw(st.integers(0, 3)) == 0:
        return "zero", draw(st.sampled_from((1, 2, 5, 62)))
    return "zero", 0


def _one_or_each(one: int, each: NDArray[np.int64], draw: st.DrawFn, per_neuron: bool) -> int | NDArray[np.int32]:
    return np.minimum(each, THRESHOLD_LIMIT).astype(np.int32) if per_neuron and draw(st.booleans()) else one


@st.composite
def _near_the_drive(
    draw: st.DrawFn,
    population: Compartments,
    connections: list[IntegerConnection],
    entry: Input,
    random: np.random.Generator,
) -> Compartments:
    """Mostly a threshold about which the potential moves, so that spikes come and stay away."""
    part = draw(st.sampled_from((None, 0.02, 0.05, 0.1, 0.2, 0.4)))
    if part is None:
        return population
    vth = min(int(float(_drive(connections, entry).mean()) * part), THRESHOLD_LIMIT)
    if np.ndim(population.vth):
        low, high = vth // 2, min(2 * vth + 1, THRESHOLD_LIMIT)
        return dataclasses.replace(population, vth=random.integers(low, high + 1, population.size).astype(np.int32))
    return dataclasses.replace(population, vth=vth)


@st.composite
def _lif(
    draw: st.DrawFn, name: str, size: int, random: np.random.Generator, features: frozenset[str], readout: bool
) -> LIF:
    tau = draw(st.floats(1.0, 20.0, exclude_min=True))
    threshold = draw(st.floats(1e-3, 10))
    current_decay = draw(st.sampled_from((1.0, 0.5, 0.1)))
    voltage_decay = draw(st.sampled_from((0.0, 1 / tau)))
    reset, refractory = _kind(draw, features, readout)
    per_neuron = "per neuron" in features and draw(st.integers(0, 2)) == 0

    def each(value: float, low: float, high: float) -> float | NDArray[np.float64]:
        return random.uniform(low, high, size) if per_neuron and draw(st.booleans()) else value

    return LIF(
        name=name,
        size=size,
        threshold=each(threshold, threshold / 2, threshold * 2),
        gain=1 / tau,
        current_decay=each(current_decay, 0.05, 1.0),
        voltage_decay=each(voltage_decay, 0.0, 0.9),
        bias=(random.normal(size=size) * draw(st.integers(0, 1))).astype(np.float32),
        reset=reset,
        refractory=refractory,
    )


@st.composite
def _synapses(
    draw: st.DrawFn,
    edge: Edge,
    max_exponent: int,
    random: np.random.Generator,
    formats: tuple[tuple[str, int], ...],
    *,
    or_gate: bool,
) -> IntegerSynapses:
    n = edge.pattern.n_weights
    if or_gate:
        return IntegerSynapses(edge.pattern, np.ones(n, np.int16), 0, 1, "excitatory")
    sign_mode, bits = draw(st.sampled_from(formats))
    low, high = mantissa_range(sign_mode, bits)
    mantissa = np.full(n, random.integers(low, high + 1)) if edge.pooling else random.integers(low, high + 1, n)
    place = random.random(n)
    if not edge.pooling:
        mantissa = np.where(place < 0.1, low, np.where(place > 0.9, high, mantissa))
    exponent = draw(st.one_of(st.just(0), st.integers(0, max_exponent)))
    return IntegerSynapses(edge.pattern, mantissa.astype(np.int16), exponent, bits, sign_mode)

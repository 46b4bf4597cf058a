"""Random networks for property tests (hypothesis), small enough for slow simulators.

`programs()` draws integer programs: layers of one or two populations, every sign mode and bit width, decays,
thresholds and biases at their ends, all input codings. By default the synaptic current of every population provably
stays within its 24 bits, as in any program that the compiler lets pass; `programs(may_wrap=True)` also draws ones that
wrap around (`may_wrap(program)` tells which).
"""

from __future__ import annotations

import dataclasses

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

CODINGS = ("rate", "graded", "current")
FORMATS = (
    *(("mixed", bits) for bits in range(2, 9)),
    *(("excitatory", bits) for bits in range(1, 9)),
    *(("inhibitory", bits) for bits in range(1, 9)),
)
HALF = 1 << 23
"""The synaptic current wraps above this and at or below its negative."""


@st.composite
def programs(
    draw: st.DrawFn,
    *,
    max_layers: int = 4,
    max_size: int = 8,
    max_steps: int = 6,
    codings: tuple[str, ...] = CODINGS,
    branches: bool = True,
    may_wrap: bool = False,
    max_exponent: int = 8,
) -> Program:
    """A program that verifies. `branches`: several populations in a layer, several connections into a population."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    steps = draw(st.integers(1, max_steps))
    entry = draw(inputs(codings=codings, max_size=max_size))
    populations: list[Compartments] = []
    connections: list[IntegerConnection] = []
    before: list[tuple[str, int]] = [(entry.name, entry.size)]
    layers = draw(st.integers(1, max_layers))
    for layer in range(layers):
        wide = branches and layer < layers - 1 and draw(st.integers(0, 3)) == 0
        here: list[tuple[str, int]] = []
        for branch in range(2 if wide else 1):
            population = draw(_compartments(f"layer{layer}{'ab'[branch] if wide else ''}", max_size, random))
            sources = [draw(st.sampled_from(before))] if branches else before[:1]
            if branches and draw(st.integers(0, 3)) == 0:
                sources.append(draw(st.sampled_from(before)))
            new = [
                IntegerConnection(
                    name=f"{source}-{population.name}-{number}",
                    source=source,
                    target=population.name,
                    synapses=draw(_synapses(size, population.size, max_exponent, random)),
                )
                for number, (source, size) in enumerate(sources)
            ]
            if not may_wrap:
                payload = entry.payload_max if layer == 0 else 1
                population, new = _tamed(population, new, payload, steps)
            here.append((population.name, population.size))
            populations.append(population)
            connections.extend(new)
        before = here
    program = Program("random", entry, tuple(populations), tuple(connections), steps, {"origin": "hypothesis"})
    program.verify()
    return program


@st.composite
def inputs(draw: st.DrawFn, *, codings: tuple[str, ...] = CODINGS, max_size: int = 8) -> Input:
    """An input of any coding that reads all or some entries of a sample."""
    coding = draw(st.sampled_from(codings))
    sample_size = draw(st.integers(1, max_size))
    read = draw(st.lists(st.integers(0, sample_size - 1), min_size=1, max_size=sample_size, unique=True))
    channels = np.array(sorted(read) if draw(st.booleans()) else range(sample_size), np.int32)
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
    """Samples for a program, shape (n, sample_size): black, white, and everything between."""
    n = draw(st.integers(1, max_samples))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
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
def graphs(draw: st.DrawFn, *, max_layers: int = 3, max_size: int = 8) -> Graph:
    """A trained network in physical units: a chain of layers with any connectivity."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    entry = draw(inputs(max_size=max_size))
    entry = dataclasses.replace(
        entry,
        scale=draw(st.floats(1e-6, 10)),
        offset=draw(st.floats(-1, 1)) if entry.on_host else 0.0,
    )
    populations: list[LIF] = []
    connections: list[Connection] = []
    source, n_sources = entry.name, entry.size
    for layer in range(draw(st.integers(1, max_layers))):
        size = draw(st.integers(1, max_size))
        tau = draw(st.floats(1.0, 20.0, exclude_min=True))
        populations.append(
            LIF(
                name=f"layer{layer}",
                size=size,
                threshold=draw(st.floats(1e-3, 10)),
                gain=1 / tau,
                current_decay=draw(st.sampled_from((1.0, 0.5, 0.1))),
                voltage_decay=draw(st.sampled_from((0.0, 1 / tau))),
                bias=(random.normal(size=size) * draw(st.integers(0, 1))).astype(np.float32),
            )
        )
        connectivity = Connectivity.from_mask(random.random((size, n_sources)) < draw(st.sampled_from((0.0, 0.4, 1.0))))
        on_grid = draw(st.booleans())
        connections.append(
            Connection(
                name=f"fc{layer}",
                source=source,
                target=f"layer{layer}",
                synapses=FloatSynapses(connectivity, random.normal(size=connectivity.n_synapses).astype(np.float32)),
                weight_step=draw(st.floats(1e-6, 1)) if on_grid else None,
                weight_bits=draw(st.integers(2, 8)) if on_grid else None,
            )
        )
        source, n_sources = f"layer{layer}", size
    graph = Graph("random", entry, tuple(populations), tuple(connections), draw(st.integers(1, 32)), {"seed": "1"})
    graph.verify()
    return graph


def may_wrap(program: Program) -> bool:
    """Whether some population's synaptic current cannot be proven to stay within its 24 bits."""
    return any(
        _peak(population, list(program.into(population.name)), _payload(program, population.name), program.steps)
        >= HALF
        for population in program.populations
    )


def _payload(program: Program, population: str) -> int:
    from_input = any(c.source == program.input.name for c in program.into(population))
    return program.input.payload_max if from_input else 1


def _peak(population: Compartments, connections: list[IntegerConnection], payload: int, steps: int) -> int:
    """An upper bound for |u|: the largest sum of one step, gathered over the steps that the decay leaves."""
    total = np.zeros(population.size, np.int64)
    for c in connections:
        total += np.bincount(
            c.synapses.connectivity.targets, weights=np.abs(c.synapses.values), minlength=population.size
        ).astype(np.int64)
    one_step = int(total.max(initial=0)) * payload << STATE_SHIFT
    # Geometric series of (4096 - du) / 4096, or as many terms as there are steps.
    return min(-(-one_step * DECAY_ONE // population.du), one_step * steps)


def _tamed(
    population: Compartments, connections: list[IntegerConnection], payload: int, steps: int
) -> tuple[Compartments, list[IntegerConnection]]:
    """Lower exponents, then mantissas, until the current provably fits."""
    while _peak(population, connections, payload, steps) >= HALF:
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


@st.composite
def _compartments(draw: st.DrawFn, name: str, max_size: int, random: np.random.Generator) -> Compartments:
    size = draw(st.integers(1, max_size))
    largest = draw(st.sampled_from((0, 50, BIAS_LIMIT)))
    return Compartments(
        name=name,
        size=size,
        du=draw(st.one_of(st.sampled_from((1, 2, 4095, 4096)), st.integers(1, 4096))),
        dv=draw(st.one_of(st.sampled_from((0, 1, 2048, 4095)), st.integers(0, 4095))),
        vth=draw(st.one_of(st.sampled_from((0, 1, THRESHOLD_LIMIT)), st.integers(0, 20), st.integers(0, 300))),
        bias_mantissa=random.integers(-largest, largest + 1, size).astype(np.int16),
        bias_exponent=draw(st.one_of(st.just(STATE_SHIFT), st.integers(0, 7))),
    )


@st.composite
def _synapses(
    draw: st.DrawFn, n_sources: int, n_targets: int, max_exponent: int, random: np.random.Generator
) -> IntegerSynapses:
    sign_mode, bits = draw(st.sampled_from(FORMATS))
    low, high = mantissa_range(sign_mode, bits)
    density = draw(st.sampled_from((0.3, 0.7, 1.0, 1.0, 1.0, 0.0)))
    connectivity = Connectivity.from_mask(random.random((n_targets, n_sources)) < density)
    mantissa = random.integers(low, high + 1, connectivity.n_synapses)
    edge = random.random(connectivity.n_synapses)
    mantissa = np.where(edge < 0.1, low, np.where(edge > 0.9, high, mantissa)).astype(np.int16)
    exponent = draw(st.one_of(st.just(0), st.integers(0, max_exponent)))
    return IntegerSynapses(connectivity, mantissa, exponent, bits, sign_mode)

"""Random programs for the tests of the Lava back end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from toolchain.ir import Compartments, Connectivity, IntegerConnection, IntegerSynapses, Program, make_input
from toolchain.ir.weights import mantissa_range


def random_program(
    rng: np.random.Generator,
    *,
    coding: str,
    steps: int,
    families: int,
    members: int,
    largest: int = 9,
) -> Program:
    """`families` x `members` independent networks of 1 to 4 layers, side by side in one program.

    The members of a family share registers and weight formats, layer by layer, and stand as blocks in the same
    populations; size, wiring, weights, biases and input of each are its own. (A Lava process costs an operating
    system process, so hundreds of networks with a process per layer would take minutes.)
    """
    inputs = [[int(rng.integers(1, largest)) for _ in range(members)] for _ in range(families)]
    sample_size = sum(map(sum, inputs))
    parameters = {"threshold": int(rng.choice([1, 100, 254, 600]))} if coding == "rate" else {}
    if coding == "current":
        parameters = {"shift": int(rng.integers(0, 6))}
    network_input = make_input(coding, "in", sample_size, **parameters)
    populations, connections, start = [], [], 0
    for family in range(families):
        source, source_sizes, offset = "in", inputs[family], start
        start += sum(source_sizes)
        for layer in range(int(rng.integers(1, 5))):
            name = f"n{family}.{layer}"
            sizes = [int(rng.integers(1, largest)) for _ in range(members)]
            total = sample_size if source == "in" else sum(source_sizes)
            synapses = _synapses(rng, source_sizes, sizes, offset if source == "in" else 0, total)
            drive = float(np.abs(synapses.values).mean()) if synapses.connectivity.n_synapses else 1.0
            payload = 120 if source == "in" and coding != "rate" else 1
            populations.append(_compartments(rng, name, sum(sizes), drive * payload, steps))
            connections.append(IntegerConnection(f"c{family}.{layer}", source, name, synapses))
            source, source_sizes = name, sizes
    program = Program("random", network_input, tuple(populations), tuple(connections), steps)
    program.verify()
    return program


def _synapses(
    rng: np.random.Generator, sources: list[int], targets: list[int], offset: int, n_sources: int
) -> IntegerSynapses:
    mask = np.zeros((sum(targets), n_sources), bool)
    density = rng.choice([0.15, 0.5, 1.0], p=[0.4, 0.4, 0.2])
    row, column = 0, offset
    for n_in, n_out in zip(sources, targets, strict=True):
        mask[row : row + n_out, column : column + n_in] = rng.random((n_out, n_in)) < density
        row, column = row + n_out, column + n_in
    connectivity = Connectivity.from_mask(mask)
    sign_mode = str(rng.choice(["mixed", "mixed", "excitatory", "inhibitory"]))
    bits = int(rng.integers(2 if sign_mode == "mixed" else 1, 9))
    low, high = mantissa_range(sign_mode, bits)
    mantissa = rng.integers(low, high + 1, connectivity.n_synapses)
    # Both ends of the range, so that a clip or a lost bit at either shows.
    edge = rng.random(len(mantissa))
    mantissa = np.where(edge < 0.1, low, np.where(edge > 0.9, high, mantissa))
    return IntegerSynapses(connectivity, mantissa.astype(np.int16), int(rng.integers(0, 7)), bits, sign_mode)


def _compartments(rng: np.random.Generator, name: str, size: int, drive: float, steps: int) -> Compartments:
    du = int(rng.choice([1, 4095, 4096, 4096, rng.integers(1, 4097)]))
    dv = int(rng.choice([0, 0, 1, 4095, rng.integers(0, 4096)]))
    # Near what arrives, so that about half the neurons fire; now and then at an end of the register.
    vth = int(rng.choice([0, 1, 2**17 - 1])) if rng.random() < 0.15 else int(rng.integers(0, max(2, 2 * drive)))
    exponent = int(rng.integers(0, 8))
    limit = 4095 if rng.random() < 0.3 else int(min(4095, 1 + (vth << 6 >> exponent)))
    bias = rng.integers(-limit, limit + 1, size) * (rng.random(size) < 0.5)
    return Compartments(name, size, du, dv, min(vth, 2**17 - 1), bias.astype(np.int16), exponent)


def random_cuts(rng: np.random.Generator, program: Program, parts: int) -> dict[str, list[int]]:
    """Random inner cut points for every population of two or more neurons, and the input where it can be cut."""
    sizes = {p.name: p.size for p in program.populations}
    if program.input.coding != "current":
        sizes[program.input.name] = program.input.size
    return {
        name: sorted(int(cut) for cut in rng.choice(np.arange(1, size), min(parts, size) - 1, replace=False))
        for name, size in sizes.items()
        if size > 1
    }


def random_samples(rng: np.random.Generator, program: Program, n_samples: int) -> np.ndarray:
    """Integers 0 to 255 with both ends well represented; or spikes of each step."""
    if program.input.coding == "spikes":
        return rng.integers(0, 2, (n_samples, program.steps, program.input.sample_size))
    values = rng.integers(0, 256, (n_samples, program.input.sample_size))
    edge = rng.random(values.shape)
    return np.where(edge < 0.2, 0, np.where(edge > 0.9, 255, values))


def chain(layers: int, *, size: int = 4, steps: int = 4, coding: str = "rate") -> Program:
    """A small network with spikes in every layer: `layers` synaptic layers of `size` neurons."""
    populations, connections, source = [], [], "in"
    for layer in range(layers):
        mask = np.ones((size, size), bool)
        connectivity = Connectivity.from_mask(mask)
        mantissa = (np.arange(connectivity.n_synapses) % 7 - 2).astype(np.int16)
        populations.append(Compartments(f"n{layer}", size, 4096, 1024, 2, np.zeros(size, np.int16)))
        connections.append(
            IntegerConnection(f"c{layer}", source, f"n{layer}", IntegerSynapses(connectivity, mantissa, 0, 4, "mixed"))
        )
        source = f"n{layer}"
    return Program("chain", make_input(coding, "in", size), tuple(populations), tuple(connections), steps)


def skip_and_loop() -> Program:
    """Input -> a -> b -> c with a skip from the input to c, a loop at b, and a delayed connection into c."""
    random = np.random.default_rng(5)

    def connection(name: str, source: str, target: str, delay: int = 0) -> IntegerConnection:
        connectivity = Connectivity.from_mask(random.random((4, 4)) < 0.7)
        mantissa = random.integers(-3, 8, connectivity.n_synapses).astype(np.int16)
        return IntegerConnection(name, source, target, IntegerSynapses(connectivity, mantissa, 0, 4, "mixed"), delay)

    populations = tuple(Compartments(name, 4, 4096, 512, 6, np.zeros(4, np.int16)) for name in "abc")
    connections = (
        connection("in-a", "in", "a"),
        connection("a-b", "a", "b"),
        connection("b-b", "b", "b", 1),
        connection("b-c", "b", "c"),
        connection("in-c", "in", "c"),
        connection("a-c", "a", "c", 2),
    )
    program = Program("skip", make_input("rate", "in", 4), populations, connections, 5)
    program.verify()
    assert program.chip_delays == {"in-a": 1, "a-b": 1, "b-b": 1, "b-c": 1, "in-c": 3, "a-c": 4}
    return program


def with_compartments(program: Program, **changes: object) -> Program:
    """The program with fields of its first population replaced, unchecked."""
    first = replace(program.populations[0], **changes)
    return replace(program, populations=(first, *program.populations[1:]))

"""Every kind of layer and neuron in Lava: hundreds of different random graphs, spike for spike as the reference."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from lava_networks import random_cuts, skip_and_loop
from side_by_side import distinct_programs, part_of, side_by_side
from strategies import FEATURES, random_samples
from test_lava import assert_equal

from toolchain.backends import lava as backend
from toolchain.backends import reference
from toolchain.environment import Interpreter
from toolchain.ir import Program, make_input
from toolchain.ir.convolution import Convolution

pytestmark = pytest.mark.lava

Run = tuple[str, dict[str, int], int, int, int]
RUNS: list[Run] = [
    ("rate", {"threshold": 254}, 12, 4, 3),
    ("rate", {"threshold": 100}, 8, 2, 2),
    ("graded", {"payload_bits": 8}, 16, 3, 3),
    ("graded", {"payload_bits": 3}, 9, 5, 2),
    ("current", {"shift": 2}, 12, 4, 3),
    ("current", {"shift": 6}, 6, 1, 2),
    ("spikes", {}, 10, 4, 3),
]
"""Input coding, its parameters, input neurons, steps of a sample, most layers."""
NETWORKS = 50
assert len(RUNS) * NETWORKS >= 300


def networks(
    coding: str, parameters: dict[str, int], size: int, steps: int, layers: int, n: int = NETWORKS
) -> list[Program]:
    entry = make_input(coding, "input", size, **parameters)
    return distinct_programs(n, 10 * size + steps, wide=True, steps=steps, max_layers=layers, max_size=6, entry=entry)


def equal_to_reference(programs: list[Program], samples: np.ndarray, **changes: object) -> None:
    """Run them side by side and compare all spikes and potentials."""
    spec = dataclasses.replace(side_by_side(programs, samples), **changes)
    found = backend.execute(spec)
    for k, program in enumerate(programs):
        wanted = reference.run(program, samples)
        got = part_of(found, k, wanted)
        assert_equal(got, wanted, f"network {k}: ")
        for name, potentials in wanted.potentials.items():
            assert np.array_equal(got.potentials[name], potentials), f"network {k}: potentials of {name}"


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"{run[0]}-{run[3]}")
def test_random_graphs(lava: Interpreter, run: Run) -> None:
    programs = networks(*run)
    samples = random_samples(np.random.default_rng(run[2]), programs[0], 3)
    equal_to_reference(programs, samples)


def test_the_random_graphs_hold_every_feature() -> None:
    seen: set[str] = set()
    fired = []
    for run in RUNS:
        for program in (programs := networks(*run, n=20)):
            order = {name: k for k, name in enumerate([program.input.name, *(p.name for p in program.populations)])}
            patterns = [c.synapses.connectivity for c in program.connections]
            equal = [len(c.synapses.mantissa) > 1 == len(set(c.synapses.mantissa)) for c in program.connections]
            registers = [(p.du, p.dv, p.vth) for p in program.populations]
            marks = {
                "convolution": any(isinstance(p, Convolution) for p in patterns),
                "pooling": any(isinstance(p, Convolution) and e for p, e in zip(patterns, equal, strict=True)),
                "skip": any(order[c.target] - order[c.source] > 1 for c in program.connections),
                "recurrent": any(order[c.target] <= order[c.source] for c in program.connections),
                "delay": any(c.delay and order[c.target] > order[c.source] for c in program.connections),
                "subtract": any(p.reset == "subtract" for p in program.populations),
                "refractory": any(p.refractory for p in program.populations),
                "per neuron": any(np.ndim(x) for x in itertools.chain(*registers)),
                "readout": not program.output.spiking,
            }
            seen |= {name for name, there in marks.items() if there}
        samples = random_samples(np.random.default_rng(run[2]), programs[0], 3)
        for program in programs:
            trace = reference.run(program, samples)
            fired += [trace.counts[p.name].any() for p in program.populations if p.spiking]
    assert seen == FEATURES
    assert np.mean(fired) > 0.5, "most populations must fire for this to say anything"


# --- kernels that are applied, not listed; slices; Lava's own delays --------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("unroll_to", [0, 2**20])
def test_cut_into_slices(lava: Interpreter, unroll_to: int) -> None:
    random = np.random.default_rng(7)
    programs = networks("graded", {"payload_bits": 8}, 12, 3, 3, n=5)
    assert any(isinstance(c.synapses.connectivity, Convolution) for p in programs for c in p.connections)
    samples = random_samples(random, programs[0], 3)
    slices = {
        f"{k}.{name}": tuple(cuts)
        for k, program in enumerate(programs)
        for name, cuts in random_cuts(random, program, 2).items()
        if name != "input"
    }
    equal_to_reference(programs, samples, slices={"input": (5,), **slices}, unroll_to=unroll_to)


@pytest.mark.slow
def test_kernels_without_listing_their_synapses(lava: Interpreter) -> None:
    programs = networks("rate", {"threshold": 254}, 18, 4, 2, n=40)
    programs = [p for p in programs if any(isinstance(c.synapses.connectivity, Convolution) for c in p.connections)]
    samples = random_samples(np.random.default_rng(1), programs[0], 3)
    equal_to_reference(programs[:15], samples, unroll_to=0)


@pytest.mark.parametrize("all_stock", [False, True])
def test_skips_loops_and_delays(lava: Interpreter, all_stock: bool) -> None:
    # With all_stock the skip is Lava's DelaySparse; what must forget at a sample's end is ours in any case.
    program = skip_and_loop()
    samples = np.random.default_rng(6).integers(100, 256, (4, 4))
    assert all(0 < s.mean() < 1 for name, s in reference.run(program, samples).spikes.items() if name != "in")
    equal_to_reference([program], samples, all_stock=all_stock)

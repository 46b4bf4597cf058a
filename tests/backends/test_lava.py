"""Lava computes what the reference computes, spike for spike."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from lava_networks import chain, random_cuts, random_program, random_samples
from numpy.typing import NDArray

from toolchain.backends import lava as backend
from toolchain.backends import reference
from toolchain.backends.lava import _spec
from toolchain.backends.trace import Trace
from toolchain.environment import Interpreter
from toolchain.errors import SnncError
from toolchain.ir import Compartments, Connectivity, IntegerConnection, IntegerSynapses, Program, make_input

pytestmark = pytest.mark.lava


def assert_equal(got: Trace, wanted: Trace, note: str = "") -> None:
    assert got.spikes.keys() == wanted.spikes.keys()
    assert got.counts.keys() == wanted.counts.keys()
    for name, spikes in wanted.spikes.items():
        assert got.spikes[name].dtype == np.uint8
        differ = np.argwhere(got.spikes[name] != spikes)
        assert not len(differ), f"{note}{name}: first of {len(differ)} at sample, step, neuron {differ[0]}"
    for name, counts in wanted.counts.items():
        assert np.array_equal(got.counts[name], counts), f"{note}counts of {name}"
    assert np.array_equal(got.decisions, wanted.decisions)


def one_long_run(program: Program, samples: NDArray[np.int64]) -> dict[str, NDArray[np.uint8]]:
    """A second definition, independent of the reference: neuron by neuron over the steps of one long run.

    Every connection holds its sums for a step; a population forgets its state where its window begins. (Rate input.)
    """
    depths = {name: depth for name, depth in program.depths.items() if name != program.input.name}
    n, steps = len(samples), program.steps
    total = n * steps + max(depths.values())
    sizes = {p.name: p.size for p in program.populations}
    register = {c.name: [0] * sizes[c.target] for c in program.connections}
    state = {name: [[0, 0] for _ in range(size)] for name, size in sizes.items()}
    rate = [0] * program.input.size
    out = {name: np.zeros((n, steps, size), np.uint8) for name, size in [("in", len(rate)), *sizes.items()]}
    for t in range(total):
        fired: dict[str, list[int]] = {"in": []}
        if t % steps == 0:
            rate = [0] * len(rate)
        for i in range(len(rate)):
            rate[i] += int(samples[t // steps][program.input.channels[i]]) if t < n * steps else 0
            if rate[i] > program.input.parameters()["threshold"]:
                rate[i] = 0
                fired["in"].append(i)
        for p in program.populations:
            fired[p.name] = []
            for i, cell in enumerate(state[p.name]):
                if t % steps == depths[p.name] % steps:
                    cell[:] = [0, 0]
                a = sum(register[c.name][i] for c in program.connections if c.target == p.name)
                kept_u = abs(cell[0]) * (4096 - p.du) // 4096 * (1 if cell[0] > 0 else -1)
                kept_v = abs(cell[1]) * (4096 - p.dv) // 4096 * (1 if cell[1] > 0 else -1)
                cell[0] = kept_u + a * 64
                cell[1] = kept_v + cell[0] + int(p.bias_mantissa[i]) * 2**p.bias_exponent
                assert abs(cell[0]) < 2**23, "outside of what this definition covers"
                cell[1] = max(-(2**23) + 1, min(2**23 - 1, cell[1]))
                if cell[1] > p.vth * 64:
                    cell[1] = 0
                    fired[p.name].append(i)
        for c in program.connections:
            sums = [0] * sizes[c.target]
            for source in fired[c.source]:
                connectivity = c.synapses.connectivity
                for k in range(connectivity.indptr[source], connectivity.indptr[source + 1]):
                    sums[connectivity.targets[k]] += int(c.synapses.mantissa[k]) * 2**c.synapses.exponent
            register[c.name] = sums
        for name, spikes in fired.items():
            sample, step = divmod(t - (0 if name == "in" else depths[name]), steps)
            if 0 <= sample < n:
                out[name][sample, step, spikes] = 1
    return out


@pytest.mark.parametrize("coding", ["rate", "graded", "current", "spikes"])
def test_small_network_in_every_coding(lava: Interpreter, coding: str) -> None:
    program = chain(3, coding=coding)
    samples = random_samples(np.random.default_rng(2), program, 5)
    seen: list[tuple[int, int]] = []
    got = backend.run(program, samples, progress=lambda done, total: seen.append((done, total)))
    wanted = reference.run(program, samples)
    assert_equal(got, wanted)
    assert all(0 < spikes.mean() < 1 for name, spikes in wanted.spikes.items() if name != "in")
    assert seen[-1] == (5, 5)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_graded_payloads_of_fewer_bits(lava: Interpreter) -> None:
    samples = np.random.default_rng(4).integers(0, 256, (5, 4))
    program = chain(2, coding="graded")
    program = dataclasses.replace(program, input=dataclasses.replace(program.input, payload_bits=4))
    assert_equal(backend.run(program, samples), reference.run(program, samples))
    wide = reference.run(chain(2, coding="graded"), samples)
    assert any(
        not np.array_equal(wide.spikes[name], got) for name, got in reference.run(program, samples).spikes.items()
    )


def test_equals_a_second_definition_over_one_long_run(lava: Interpreter) -> None:
    samples = np.random.default_rng(3).integers(0, 256, (6, 4))
    # A window of 2 steps is shorter than the depth of 3: windows of several samples are under way at once.
    program = chain(3, steps=2)
    got = backend.run(program, samples, record=["in", "n2"])
    wanted = one_long_run(program, samples)
    assert set(got.spikes) == {"in", "n2"}
    assert wanted["n2"].any()
    for name in ("in", "n2"):
        assert np.array_equal(got.spikes[name], wanted[name])
    for name, spikes in wanted.items():
        assert np.array_equal(got.counts[name], spikes.sum(axis=1))


def test_stock_sources_and_sinks_agree_with_ours(lava: Interpreter, tmp_path: Path) -> None:
    samples = np.random.default_rng(4).integers(0, 256, (3, 4))
    for coding in ("rate", "graded"):
        program = chain(2, coding=coding)
        spec = backend.to_spec(program, samples, slices={"n0": [1]})
        stock = dataclasses.replace(spec, all_stock=True)
        wanted = reference.run(program, samples)
        folder = tmp_path / coding
        folder.mkdir()
        _spec.write(stock, folder)
        backend.child.supervise([lava.path, backend.WORKER, folder], folder=folder, deadline_s=60, what="Lava")
        for i, name in enumerate(stock.record):
            bits = np.load(folder / f"trace_{i}.npy")
            assert np.array_equal(np.unpackbits(bits, axis=2, count=4), wanted.spikes[name])


def test_worker_builds_stock_processes_with_pinned_formats(lava: Interpreter, tmp_path: Path) -> None:
    program = random_program(np.random.default_rng(5), coding="rate", steps=4, families=3, members=2)
    backend.export(program, tmp_path / "net")
    script = """
import json, worker
network = worker.build(".")
rows = []
for p in network.processes:
    q = p.proc_params
    rows.append([type(p).__module__, type(p).__name__, p.name] + [str(q.get(k)) for k in
                ("sign_mode", "num_weight_bits", "weight_exp", "du", "dv", "reset_interval", "reset_offset")])
print(json.dumps(rows))
"""
    done = subprocess.run(
        [lava.path, "-W", "ignore", "-c", script], cwd=tmp_path / "net", capture_output=True, text=True, check=True
    )
    rows = {row[2].partition("[")[0]: row for row in json.loads(done.stdout.splitlines()[-1])}
    depths = program.depths
    for p in program.populations:
        row = rows[p.name]
        assert row[:2] == ["lava.proc.lif.process", "LIFReset"]
        assert row[6:] == [str(p.du - 1), str(p.dv), "4", str((depths[p.name] + 1) % 4)]
    for c in program.connections:
        row, s = rows[c.name], c.synapses
        assert row[:2] in (["lava.proc.dense.process", "Dense"], ["lava.proc.sparse.process", "Sparse"])
        unused = 9 - s.weight_bits if s.sign_mode == "mixed" else 8 - s.weight_bits
        assert row[3:6] == [f"SignMode.{s.sign_mode.upper()}", str(s.weight_bits), str(s.exponent - unused)]


def ruler(name: str, du: int, dv: int) -> tuple[Compartments, list[IntegerConnection]]:
    """65 neurons that read one potential to the last bit: the same drive, biases from -32 to 32.

    Channel 0 fires at step 1 and takes the potential far down; channel 1 fires at step 2 and brings what the decays
    left of it back to the threshold.
    """
    lowest = -128 * 2**9  # of its format, where Lava clips unless the sign mode is pinned: no synapse is positive
    u = lowest * 64
    kept_u = -(-u * (4096 - du) // 4096)
    kept_v = -(-u * (4096 - dv) // 4096)
    back = -(kept_u + kept_v) // 64 + 1
    neurons = Compartments(name, 65, du, dv, 1, np.arange(-32, 33).astype(np.int16), 0)
    parts = [(0, -128, 9, "mixed"), (1, back >> 12, 12, "excitatory"), (1, (back >> 6) & 63, 6, "excitatory")]
    parts.append((1, back & 63, 0, "excitatory"))
    connections = []
    for k, (channel, mantissa, exponent, mode) in enumerate(parts):
        mask = np.zeros((65, 2), bool)
        mask[:, channel] = True
        synapses = IntegerSynapses(Connectivity.from_mask(mask), np.full(65, mantissa, np.int16), exponent, 8, mode)
        connections.append(IntegerConnection(f"{name}.{k}", "in", name, synapses))
    return neurons, connections


def test_decays_and_the_lowest_weight_to_the_last_bit(lava: Interpreter) -> None:
    decays = [(1, 0), (2, 1), (3000, 4095), (4095, 4094), (4096, 0), (4096, 777)]
    parts = [ruler(f"du{du}dv{dv}", du, dv) for du, dv in decays]
    network_input = make_input("rate", "in", 2)
    connections = tuple(c for _, cs in parts for c in cs)
    program = Program("rulers", network_input, tuple(neurons for neurons, _ in parts), connections, 3)
    program.verify()
    samples = np.array([[130, 100], [130, 100]])
    wanted = reference.run(program, samples)
    for neurons in program.populations:
        spikes = wanted.spikes[neurons.name]
        assert not spikes[:, :2].any()
        assert 0 < spikes[0, 2].sum() < 65, f"{neurons.name}: the ruler must end inside of its scale"
    assert_equal(backend.run(program, samples), wanted)


# --- the property, for networks cut into slices (whole ones: test_lava_wide.py) -------------------------------------

RUNS = [
    ("spikes", 4, 6),
    ("rate", 5, 0),
    ("rate", 2, 1),
    ("graded", 4, 2),
    ("graded", 1, 3),
    ("current", 6, 4),
    ("current", 3, 5),
]
FAMILIES, MEMBERS = 9, 6
assert len(RUNS) * FAMILIES * MEMBERS >= 300


@pytest.mark.slow
@pytest.mark.parametrize(("coding", "steps", "seed"), RUNS)
def test_random_networks_cut_into_slices(lava: Interpreter, coding: str, steps: int, seed: int) -> None:
    rng = np.random.default_rng([20240, seed])
    program = random_program(rng, coding=coding, steps=steps, families=FAMILIES, members=MEMBERS)
    samples = random_samples(rng, program, 3)
    slices = random_cuts(rng, program, 2)
    wanted = reference.run(program, samples)
    fired = np.mean([spikes.any() for spikes in wanted.spikes.values()])
    assert fired > 0.5, "most populations must fire for this to say anything"
    assert_equal(backend.run(program, samples, slices=slices), wanted, f"seed {seed}, slices {slices}: ")


def test_the_random_networks_cover_what_they_should() -> None:
    formats, decays, layers, thresholds = set(), set(), set(), set()
    for coding, steps, seed in RUNS:
        rng = np.random.default_rng([20240, seed])
        program = random_program(rng, coding=coding, steps=steps, families=FAMILIES, members=MEMBERS)
        formats |= {(c.synapses.sign_mode, c.synapses.weight_bits) for c in program.connections}
        decays |= {("du", p.du) for p in program.populations} | {("dv", p.dv) for p in program.populations}
        layers |= {len([p for p in program.populations if p.name.startswith(f"n{f}.")]) for f in range(FAMILIES)}
        thresholds |= {p.vth for p in program.populations}
    assert {bits for mode, bits in formats if mode == "mixed"} == set(range(2, 9))
    assert {bits for mode, bits in formats if mode != "mixed"} == set(range(1, 9))
    assert {mode for mode, _ in formats} == {"mixed", "excitatory", "inhibitory"}
    assert decays >= {("du", 1), ("du", 4096), ("dv", 0), ("dv", 4095)}
    assert layers == {1, 2, 3, 4}
    assert thresholds >= {0, 2**17 - 1}


# --- what is refused --------------------------------------------------------------------------------------------------


def test_no_samples(lava: Interpreter) -> None:
    with pytest.raises(SnncError, match="no samples"):
        backend.run(chain(1), np.zeros((0, 4), int))


@pytest.mark.slow
def test_sixty_layers_are_more_than_1024_open_files_and_run(lava: Interpreter) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    program = chain(60, size=2, steps=2)
    samples = np.array([[255, 128]])
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, hard), hard))
    try:
        got = backend.run(program, samples)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert_equal(got, reference.run(program, samples))

"""Samples side by side in Lava: as the reference on all of them, as the stock processes on a part."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from faulty_worker import Reaped
from lava_networks import chain, skip_and_loop
from side_by_side import part_of, side_by_side
from strategies import random_samples
from test_lava import assert_equal
from test_lava_wide import RUNS, Run, networks

from toolchain.backends import lava as backend
from toolchain.backends import reference
from toolchain.backends.lava import _plan, _spec
from toolchain.environment import Interpreter
from toolchain.errors import SnncError, ToolError, UsageError
from toolchain.ir import Compartments, Connectivity, IntegerConnection, IntegerSynapses, Program, make_input
from toolchain.training.data import load

pytestmark = pytest.mark.lava


def equal_to_reference(programs: list[Program], samples: np.ndarray, batch: _spec.Batch) -> None:
    """Run them side by side and compare all spikes, counts and potentials."""
    spec = side_by_side(programs, samples)
    found = backend.execute(replace(spec, batch=replace(batch, traced=spec.record)))
    for k, program in enumerate(programs):
        wanted = reference.run(program, samples)
        got = part_of(found, k, wanted)
        assert_equal(got, wanted, f"network {k}: ")
        for name, potentials in wanted.potentials.items():
            assert np.array_equal(got.potentials[name], potentials), f"network {k}: potentials of {name}"


@pytest.mark.slow
@pytest.mark.parametrize(("run", "stock_neurons"), [(run, k % 2 == 0) for k, run in enumerate(RUNS)], ids=str)
def test_random_graphs(lava: Interpreter, run: Run, stock_neurons: bool) -> None:
    # Every coding with Lava's neurons and with ours; windows of 3 samples, and an uneven rest.
    programs = networks(*run, n=20)
    samples = random_samples(np.random.default_rng(run[2]), programs[0], 7)
    equal_to_reference(programs, samples, _spec.Batch(3, 1, stock_neurons))


@pytest.mark.parametrize("stock_neurons", [True, False])
def test_skips_loops_and_delays(lava: Interpreter, stock_neurons: bool) -> None:
    program = skip_and_loop()
    samples = np.random.default_rng(6).integers(100, 256, (10, 4))
    assert all(0 < s.mean() < 1 for name, s in reference.run(program, samples).spikes.items() if name != "in")
    equal_to_reference([program], samples, _spec.Batch(2, 2, stock_neurons, compared=3))


@pytest.mark.parametrize("coding", ["rate", "graded", "current", "spikes"])
def test_every_coding_in_shards(lava: Interpreter, coding: str) -> None:
    program = chain(3, coding=coding)
    samples = random_samples(np.random.default_rng(2), program, 11)
    seen: list[tuple[int, int]] = []
    got = backend.run(
        program,
        samples,
        record=["n1"],
        processes="batched",
        progress=lambda done, total: seen.append((done, total)),
    )
    wanted = reference.run(program, samples, record=["n1"])
    assert 0 < wanted.spikes["n1"].mean() < 1
    assert_equal(got, wanted)
    assert seen[-1] == (11, 11)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    (note,) = got.notes
    assert (note.code, note.count) == ("LAV002", 11)
    assert "LIFReset; 8 also by stock processes, every spike equal" in note.effect


@pytest.mark.slow
def test_mnist(lava: Interpreter, mnist: Path) -> None:
    """784-800-10 on 3,000 images: what `auto` does with a whole test set, in every spike."""
    random = np.random.default_rng(1)
    populations, connections, source = [], [], "in"
    for name, n_in, n_out, scale in (("fc1", 784, 800, 20), ("fc2", 800, 10, 8)):
        connectivity = Connectivity.from_mask(random.random((n_out, n_in)) < 0.5)
        mantissa = np.clip(random.normal(1, scale, connectivity.n_synapses), -128, 127).astype(np.int16)
        synapses = IntegerSynapses(connectivity, mantissa, 1, 8, "mixed")
        populations.append(Compartments(name, n_out, 4096, 2048, 120, np.zeros(n_out, np.int16)))
        connections.append(IntegerConnection(f"c.{name}", source, name, synapses))
        source = name
    program = Program("mnist", make_input("rate", "in", 784), tuple(populations), tuple(connections), 8)
    samples = load("mnist", mnist).test_x[:3000]
    wanted = reference.run(program, samples)
    assert all(0.05 < spikes.mean() < 0.6 for spikes in wanted.spikes.values())
    got = backend.run(program, samples)
    assert_equal(got, wanted)
    assert [note.code for note in got.notes] == ["LAV002"]


# --- the choice ------------------------------------------------------------------------------------------------------


def spec_of(n: int, size: int = 4) -> _spec.Spec:
    program = chain(2, size=size)
    return backend.to_spec(program, np.zeros((n, size), int), slices={})


def test_few_samples_are_left_to_the_stock_processes() -> None:
    assert _plan.batch(spec_of(100), "auto", ()) is None
    assert _plan.batch(spec_of(10**6), "stock", ()) is None
    assert _plan.batch(replace(spec_of(10**6), slices={"n0": (1,)}), "auto", ()) is None
    assert _plan.batch(spec_of(100), "batched", ()) is not None
    batch = _plan.batch(spec_of(10**5), "auto", ("n1", "no population"))
    assert batch is not None
    assert (batch.compared, batch.traced, batch.stock_neurons) == (_plan.COMPARED, ("n1",), True)
    with pytest.raises(UsageError, match="unknown processes 'stok'"):
        _plan.batch(spec_of(1), "stok", ())


def test_samples_side_by_side_are_bounded_by_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of(10**5, size=40)
    batch = _plan.batch(spec, "batched", ())
    assert batch is not None
    assert batch.size <= _plan.MOST
    own, each = _plan.network_bytes(spec), _plan.sample_bytes(spec)
    for memory, shards, size in (
        (2 * (own + 3 * each), 2, 3),
        (2 * own + 2.5 * each, 2, 1),
        (own + 1.5 * each, 1, 1),
        (own, 1, 1),
    ):
        monkeypatch.setattr(_plan, "cores", lambda: 2)
        monkeypatch.setattr(_plan, "machine_bytes", lambda memory=memory: memory / _plan.MEMORY)
        batch = _plan.batch(spec, "batched", ())
        assert batch is not None
        assert (batch.shards, batch.size) == (shards, size)
    monkeypatch.setattr(_plan, "STOCK_NEURONS_TO", 1000)
    batch = _plan.batch(spec, "batched", ())
    assert batch is not None
    assert not batch.stock_neurons


@pytest.mark.parametrize(("samples", "size", "shards"), [(1, 1, 2), (7, 3, 2), (100, 7, 3), (5, 8, 4), (12, 4, 3)])
def test_shards_cover_every_sample_once(samples: int, size: int, shards: int) -> None:
    rows = _spec.Batch(size, shards).rows(samples)
    assert [a for a, _ in rows] == [0, *(b for _, b in rows[:-1])]
    assert rows[-1][1] == samples
    assert all(a < b and a % size == 0 for a, b in rows)
    assert len(rows) <= shards


def test_a_batch_that_cannot_be_is_refused() -> None:
    spec = spec_of(5)
    for batch in (_spec.Batch(0), _spec.Batch(1, 0), _spec.Batch(1, compared=6), _spec.Batch(1, traced=("in.values",))):
        with pytest.raises(_spec.SpecError):
            _spec.check(replace(spec, batch=batch))
    with pytest.raises(_spec.SpecError, match="whole populations"):
        _spec.check(replace(spec, batch=_spec.Batch(1), slices={"n0": (1,)}))


# --- what must not pass in silence -----------------------------------------------------------------------------------

FAULT = """
import batched
stock_batch = batched.PyBatchSource.run_spk

def at_step_3(self):
    if self.time_step == 3:
        {fault}
    stock_batch(self)

batched.PyBatchSource.run_spk = at_step_3
"""


def test_processes_that_disagree_are_an_error(lava: Interpreter, fault: Callable[..., None]) -> None:
    fault(
        more="import batched\n"
        "right = batched.product_of\n"
        "batched.product_of = lambda c, n, p: (lambda sums: lambda x: sums(x) + (c.name == 'c1'))(right(c, n, p))\n"
    )
    samples = np.random.default_rng(2).integers(0, 256, (3, 4))
    with pytest.raises(SnncError, match="stock processes and the batched ones differ") as caught:
        backend.run(chain(3), samples, processes="batched")
    assert "n1 neuron" in str(caught.value.where)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise ZeroDivisionError('at step three')", "a process model raised ZeroDivisionError: at step three"),
        ("os._exit(5)", "a process of the Lava run died, exit code 5"),
        ("os.kill(os.getppid(), 9)", "the process of part [01] died"),
        ("time.sleep(3); os.killpg(0, 9)", "the Lava worker ended by signal SIGKILL"),
        ("time.sleep(600)", "passed its deadline of 10 s"),
    ],
)
def test_a_shard_that_fails_ends_the_run(
    lava: Interpreter, reaped: Reaped, fault: Callable[..., None], code: str, message: str
) -> None:
    fault(more=FAULT.format(fault=code))
    deadline_s = 10 if "deadline" in message else 60
    with pytest.raises(ToolError, match=message):
        backend.run(chain(1), np.full((9, 4), 200), processes="batched", deadline_s=deadline_s)
    if "deadline" in message:
        assert reaped.size > 2 * 5, "two shards, each with its processes"
        assert reaped.segments
    reaped.assert_nothing_left()


# --- products --------------------------------------------------------------------------------------------------------

PRODUCTS = """
import sys
import numpy as np
import batched, _spec

random = np.random.default_rng(3)
kinds = ["int16", "int32", "float32", "float64"]
seen = dict.fromkeys(["listed", "rows", "kernel rows", *kinds, "nothing", "few", "many"], 0)
for example in range(600):
    way = ("listed", "rows", "kernel rows")[example % 3]
    # Now and then so many and so large weights that sums need more than 24 bits.
    large = example % 10 == 0
    batched.DENSE_FROM = float(random.choice([0.0, 0.1, 1.0]))
    batched.LISTED = 0 if way == "kernel rows" else 2**26
    size, stride, dilation = (tuple(int(x) for x in random.integers(1, 4, 2)) for _ in range(3))
    padding = tuple(tuple(int(x) for x in random.integers(0, 4, 2)) for _ in range(2))
    span = [dilation[k] * (size[k] - 1) + 1 for k in range(2)]
    least = [max(1, span[k] - sum(padding[k])) for k in range(2)]
    source = (120 if large else int(random.integers(1, 4)), *(int(n + random.integers(0, 5)) for n in least))
    places = [(source[1 + k] + sum(padding[k]) - span[k]) // stride[k] + 1 for k in range(2)]
    target = (int(random.integers(1, 4)), *places)
    kernel = _spec.Kernel(source, target, size, stride, padding, dilation)
    mask = random.random((kernel.n_taps, target[0])) < random.choice([0.05, 0.5, 1.0])
    indptr, targets = np.concatenate([[0], np.cumsum(mask.sum(axis=1))]), np.nonzero(mask)[1]
    mantissas = random.integers(-128, 128, len(targets)).astype(np.int16)
    if large:
        mantissas[:] = np.where(mantissas < 0, -128, 127)
    exponent = 0 if large else int(random.integers(0, 12))
    connection = _spec.Connection("c", "a", "b", indptr, targets, mantissas, "mixed", 8, exponent, 0, kernel)
    n_sources, n_targets = int(np.prod(source)), int(np.prod(target))
    matrix = np.zeros((n_targets, n_sources), np.int64)
    s, t, m = connection.unroll()
    np.add.at(matrix, (t, s), m.astype(np.int64) << exponent)
    if way == "listed":
        t, s = np.nonzero(matrix.T)[::-1]
        indptr = np.concatenate([[0], np.cumsum((matrix != 0).sum(axis=0))])
        values = (matrix >> exponent)[t, s].astype(np.int16)
        connection = _spec.Connection("c", "a", "b", indptr, t, values, "mixed", 8, exponent)
    payload = 255 if large else int(random.choice([1, 255]))
    if np.abs(matrix).sum(axis=1).max() * payload >= 2**25:
        continue
    payloads = random.integers(0, payload + 1, (n_sources, int(random.integers(1, 5)))).astype(np.int32)
    many = bool(random.random() < 0.5)
    payloads *= random.random(payloads.shape) < (0.9 if many else 0.1)
    product = batched.product_of(connection, n_targets, payload)
    got = product(payloads)
    assert np.array_equal(got, matrix @ payloads), (example, way, kernel)
    assert np.array_equal(product(0 * payloads), 0 * got), "nothing is left from the call before"
    seen[way] += 1
    seen["many" if many else "few"] += 1
    seen["nothing"] += not len(mantissas)
    seen[str(got.dtype)] += 1
print(seen)
assert min(seen.values()) > 5, seen
"""


def run_script(lava: Interpreter, script: str) -> None:
    """In Lava's interpreter, beside the worker."""
    done = subprocess.run(
        [lava.path, "-W", "ignore", "-c", script],
        cwd=backend.WORKER.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_products_are_exact_in_every_layout(lava: Interpreter) -> None:
    run_script(lava, PRODUCTS)


# --- neurons ---------------------------------------------------------------------------------------------------------

NEURONS = """
import numpy as np
import batched, worker, _spec

class Ports:
    def recv(self): return self.value
    def send(self, value): self.sent = np.array(value)

def model(kind, **parameters):
    made = kind(parameters)
    made.a_in, made.s_out = Ports(), Ports()
    return made

random = np.random.default_rng(4)
names = ["float32", "float64", "clips", "wraps", "held", "waits", "subtract", "none", "clipped in float32"]
seen = dict.fromkeys(names, 0)
fired = []
batched.BLOCK = 16
for example in range(500):
    n, size, interval = (int(x) for x in random.integers(1, (9, 6, 12)))
    def register(*ends, high):
        def draw(): return int(random.choice([*ends, random.integers(ends[0], high)]))
        return draw() if random.random() < 0.7 else np.array([draw() for _ in range(n)])
    # The largest of inputs: near the wrap, near the clip, or as in a network.
    largest = int(random.choice([2**25 - 1, 2**17 - 1, 2**17, 2**15, 300]))
    p = _spec.Population(
        name="p", size=n, depth=0,
        decay_u=4096 if random.random() < 0.6 else register(1, 4095, 4096, high=4096),
        decay_v=register(0, 2048, 1024, 4095, high=4096),
        threshold=register(0, largest % 2**17, high=2**17),
        bias_mantissas=random.integers(-4096, 4096, n) * (random.random() < 0.7),
        bias_exponent=int(random.integers(0, 8)),
        reset=str(random.choice(["zero", "subtract", "none"])),
        refractory=0,
    )
    if p.reset == "zero" and random.random() < 0.5:
        p = _spec.Population(**{**vars(p), "refractory": int(random.integers(1, 5))})
    offset = int(random.integers(0, interval))
    readout = p.reset == "none"
    ours = model(
        batched.PyReadout if readout else batched.PyNeurons,
        population=p, size=size, interval=interval, offset=offset, largest=largest,
    )
    def whole(values): return np.broadcast_to(np.asarray(values, np.int64), (n,))
    plain = [
        model(
            worker.PyCompartments,
            keep_u=4096 - whole(p.decay_u), keep_v=4096 - whole(p.decay_v), limit=whole(p.threshold) << 6,
            bias=p.bias_mantissas.astype(np.int64) << p.bias_exponent,
            reset=p.reset, refractory=p.refractory, interval=interval, offset=offset,
        )
        for _ in range(size)
    ]
    clipped = False
    # From a reset on: what a window computes.
    for step in range(offset if offset else interval, 40):
        scale = random.choice([largest, largest // 2, 1])
        a = random.integers(-scale, scale + 1, (n, size)).astype(np.int32)
        a = np.where(random.random(a.shape) < 0.3, np.sign(a) * largest, a).astype(np.int32)
        ours.time_step, ours.a_in.value = step, a
        ours.run_spk()
        for k, other in enumerate(plain):
            other.time_step, other.a_in.value = step, a[:, k]
            other.run_spk()
            got = ours.s_out.sent[:, k]
            assert np.array_equal(got, other.s_out.sent), (example, step, p, got, other.s_out.sent)
            assert np.array_equal(ours.v.reshape(n, size)[:, k], other.v), (example, step, p)
            clipped |= bool((np.abs(other.v) == 2**23 - 1).any())
        if not readout:
            fired.append(ours.s_out.sent.mean())
    kind = np.dtype(ours.kind).name
    marks = {
        kind: True, "clips": ours.clips, "wraps": ours.wraps, "held": ours.holds, "waits": p.refractory,
        p.reset: p.reset != "zero", "clipped in float32": clipped and kind == "float32",
    }
    for name, mark in marks.items():
        if name in seen:
            seen[name] += bool(mark)
    assert ours.clips or not clipped
print(seen, np.mean(fired))
assert min(seen.values()) > 15, seen
assert 0.05 < np.mean(fired) < 0.95
"""


def test_neurons_of_our_own_are_those_of_the_stock_run_to_the_last_bit(lava: Interpreter) -> None:
    run_script(lava, NEURONS)

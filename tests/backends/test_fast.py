"""The fast back end must equal the reference in every spike and potential, whichever way it takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import golden
import numpy as np
import pytest
import strategies
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_lava import assert_equal

from toolchain.backends import fast, reference
from toolchain.backends.fast import chunks, delivery, device, kernels, pieces, tables
from toolchain.backends.fast.plan import Plan
from toolchain.backends.trace import Trace, counted
from toolchain.errors import UsageError
from toolchain.ir import (
    Compartments,
    Connectivity,
    Convolution,
    IntegerConnection,
    IntegerSynapses,
    Program,
    make_input,
)
from toolchain.training.data import load


def assert_same(got: Trace, wanted: Trace) -> None:
    assert_equal(got, wanted)
    assert got.potentials.keys() == wanted.potentials.keys()
    assert all(np.array_equal(got.potentials[name], values) for name, values in wanted.potentials.items())


@pytest.mark.parametrize("kind", golden.KINDS)
def test_golden(kind: str) -> None:
    wanted = golden.read(kind)
    wanted.assert_equal(chunks.run(wanted.program, wanted.samples))


def choosing(way: str | None) -> Callable[..., str]:
    """What takes the way for every connection that offers it; None: what is cheapest."""
    usual = delivery.Delivery.choose

    def choose(self: delivery.Delivery, lanes: int, spikes: int) -> str:
        found = way if way in self.costs(lanes, spikes) else usual(self, lanes, spikes)
        taken.add(found)
        return found

    return choose


taken: set[str] = set()


@settings(max_examples=250, deadline=None)
@given(
    strategies.programs_and_samples(wide=True, max_samples=7),
    st.sampled_from((None, *delivery.WAYS)),
    st.sampled_from((1, 3, 512)),
    st.booleans(),
)
def check_random_networks(drawn: tuple, way: str | None, lanes: int, threads: bool) -> None:
    program, samples = drawn
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delivery.Delivery, "choose", choosing(way))
        patch.setattr(chunks, "CHUNK_LANES", lanes)
        if threads:
            patch.setattr(chunks, "cores", lambda: 3)
        assert_same(chunks.run(program, samples), reference.run(program, samples))


def test_random_networks() -> None:
    """In every way that a connection offers, in chunks of any size, by one thread or the parts of several."""
    check_random_networks()
    assert taken == set(delivery.WAYS)


@settings(max_examples=60, deadline=None)
@given(strategies.programs_and_samples(wide=True, may_wrap=True, max_exponent=24))
def test_currents_that_wrap(drawn: tuple) -> None:
    program, samples = drawn
    assert_same(chunks.run(program, samples), reference.run(program, samples))


def perceptron(hidden: int, density: float, coding: str = "rate") -> Program:
    """784-hidden-10 with random weights, and thresholds at which a part of the neurons fires."""
    random = np.random.default_rng(hidden)
    connections = []
    for source, target, shape in (("input", "fc1", (hidden, 784)), ("fc1", "fc2", (10, hidden))):
        pattern = Connectivity.from_mask(random.random(shape) < density)
        mantissa = np.clip(np.round(random.normal(4, 20, pattern.n_synapses)), -127, 127).astype(np.int16)
        connections.append(
            IntegerConnection(f"{target}.weight", source, target, IntegerSynapses(pattern, mantissa, 0, 8, "mixed"))
        )
    populations = tuple(
        Compartments(name, size, 4096, 2048, 100, np.zeros(size, np.int16))
        for name, size in (("fc1", hidden), ("fc2", 10))
    )
    program = Program("perceptron", make_input(coding, "input", 784), populations, tuple(connections), 8)
    program.verify()
    return program


def test_sums_too_large_for_32_bits() -> None:
    """Their neurons are updated by the definition, as a shift by 6 bits would leave an int32."""
    program, samples = perceptron(20, 0.5), np.arange(5 * 784).reshape(5, 784).astype(np.uint8)
    connections = [
        dataclasses.replace(c, synapses=dataclasses.replace(c.synapses, exponent=18)) for c in program.connections
    ]
    program = dataclasses.replace(program, connections=tuple(connections))
    assert not any(p.small for group in Plan.of(program).groups for p in group)
    assert_same(fast.run(program, samples, at_any_size=True), reference.run(program, samples))


def test_sums_that_float32_would_round() -> None:
    # An odd number of odd products is odd, and above 2**24 float32 holds even numbers only.
    random = np.random.default_rng(0)
    mantissa = (2 * random.integers(50, 64, 701 * 3) + 1).astype(np.int16)
    synapses = IntegerSynapses(Connectivity.from_mask(np.ones((3, 701), bool)), mantissa, 0, 8, "mixed")
    wanted = mantissa.reshape(701, 3).T.astype(np.int64)
    sent = np.zeros((702, 5), np.uint8)
    sent[:701] = 255 - 2 * random.integers(0, 4, (701, 5))
    wanted = wanted @ sent[:701]
    assert (wanted != wanted.astype(np.float32)).any()
    made = delivery.Delivery(
        IntegerConnection("c", "a", "b", synapses), delivery.Sums(0, 1 << 25, 0), 255, int(wanted.max())
    )
    assert made.real is np.float64
    for way in made.costs(5, 3505):
        sums = np.zeros((3, 5), np.int32)
        delivery.WAYS[way](made, sums, False, 0, sent, 0, 5, 1)
        assert np.array_equal(sums, wanted), way


@pytest.mark.parametrize("steps", [1, 8, 254, 255, 256, 300])
@pytest.mark.parametrize("threshold", [0, 1, 100, 254, 70_000])
def test_rate_inputs_of_every_value(steps: int, threshold: int) -> None:
    """Counted down in bytes up to 255 steps, and above that in 32 bits."""
    samples = np.arange(256).reshape(1, -1).repeat(3, axis=0).astype(np.uint8)
    entry = make_input("rate", "input", 256, threshold=threshold)
    wanted = entry.encode(samples, steps)
    sent, counts = np.full((257, steps * 3), 7, np.uint8), np.zeros((3, 256), counted(steps))
    total = kernels.rate(samples, entry.channels, np.full(256, threshold), sent, counts)
    assert total == wanted.sum()
    assert np.array_equal(sent[:-1].reshape(256, steps, 3), wanted.transpose(2, 0, 1))
    assert np.array_equal(counts, wanted.sum(axis=0))


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.int64])
@pytest.mark.parametrize("bits", [2, 5, 9])
def test_tables_of_a_convolution(kind: type[np.signedinteger], bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """More outputs than a square, more lanes than a block; sums that are set, and sums that are added to."""
    monkeypatch.setattr(pieces, "MOST_BITS", bits)
    random = np.random.default_rng(bits)
    mask = random.random((37, 3, 3, 2)) < 0.8
    pattern, _ = Convolution.of((3, 5, 6), mask, stride=(2, 1), padding=((1, 1), (1, 0)))
    mantissa = random.integers(-9, 10, pattern.n_weights).astype(np.int16)
    synapses = IntegerSynapses(pattern, mantissa, 0, 8, "mixed")
    top = int(np.iinfo(kind).max)
    made = delivery.Delivery(IntegerConnection("c", "a", "b", synapses), delivery.Sums(-top, top, 0), 1, 200)
    assert made.sums.kind is kind
    assert made.pieces.bits <= bits
    lanes = tables.BLOCK + 21
    sent = np.zeros((91, lanes), np.uint8)
    sent[:90] = random.random((90, lanes)) < 0.4
    wanted = pattern.product(synapses.values.astype(np.int64))(sent[:90].T.astype(np.int64)).T
    for fresh in (True, False):
        sums = np.full((pattern.n_targets, lanes), 3, kind)
        delivery.WAYS["tables"](made, sums, fresh, 0, sent, 0, lanes, 1)
        assert np.array_equal(sums, wanted + (0 if fresh else 3))


def test_all_of_mnist(mnist: Path) -> None:
    program, samples = perceptron(300, 0.05), load("mnist", mnist).test_x
    got = fast.run(program, samples, at_any_size=True)
    assert_same(got, reference.run(program, samples))
    assert all(0.001 < spikes.mean() < 0.5 for spikes in got.spikes.values())


def test_what_is_small_is_left_to_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    program, samples = perceptron(10, 0.1), np.full((2, 784), 200, np.uint8)
    called: list[str] = []
    monkeypatch.setattr(chunks, "run", lambda *_: called.append("fast"))
    monkeypatch.setattr(reference, "run", lambda *_, **__: called.append("reference"))
    monkeypatch.setattr(fast, "_start_up", lambda: 0.5)
    fast.run(program, samples)
    fast.run(program, samples, at_any_size=True)
    fast.run(program, np.repeat(samples, 10_000, axis=0))
    assert called == ["reference", "fast", "fast"]


def test_only_what_is_asked_for_is_recorded() -> None:
    program, samples = perceptron(10, 0.5), np.full((5, 784), 200, np.uint8)
    done: list[tuple[int, int]] = []
    trace = fast.run(
        program, samples, record=["fc2"], at_any_size=True, progress=lambda n, whole: done.append((n, whole))
    )
    assert set(trace.spikes) == {"fc2"}
    assert_same(trace, reference.run(program, samples, record=["fc2"]))
    assert done[-1] == (5, 5)


@settings(max_examples=120, deadline=None)
@given(strategies.programs_and_samples(wide=True, max_samples=7), st.booleans(), st.sampled_from((0.0, 2.0)))
def check_random_networks_by_torch(drawn: tuple, small: bool, sparse: float) -> None:
    program, samples = drawn
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "SPARSE", sparse)
        if small:
            patch.setattr(device, "CHUNK_BYTES", 1)
        assert_same(device.run(program, samples, "cpu"), reference.run(program, samples))


def test_random_networks_by_torch() -> None:
    """The code for GPUs, on the processor: kernels written out and kept sparse, one sample at a time and all."""
    check_random_networks_by_torch()


@pytest.mark.parametrize("kind", golden.KINDS)
def test_golden_by_torch(kind: str) -> None:
    wanted = golden.read(kind)
    wanted.assert_equal(device.run(wanted.program, wanted.samples, "cpu"))


def test_products_on_a_device_are_of_full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, seen = golden.read(golden.KINDS[0]), []
    product = device._Product.__call__

    def watched(self: device._Product, sent: torch.Tensor) -> torch.Tensor:
        seen.append(torch.get_float32_matmul_precision())
        return product(self, sent)

    monkeypatch.setattr(device._Product, "__call__", watched)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        device.run(wanted.program, wanted.samples, "cpu")
        assert set(seen) == {"highest"}
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("name", ["cuda", "cuda:7", "tpu"])
def test_a_device_that_is_not_there(name: str) -> None:
    wanted = golden.read(golden.KINDS[0])
    with pytest.raises(UsageError, match="torch cannot compute") as caught:
        fast.run(wanted.program, wanted.samples, device=name)
    assert "--device" in str(caught.value)
    assert name in str(caught.value)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
def test_golden_on_a_gpu() -> None:
    for kind in golden.KINDS:
        wanted = golden.read(kind)
        wanted.assert_equal(fast.run(wanted.program, wanted.samples, device="cuda"))

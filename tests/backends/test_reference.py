"""The reference simulator against a second definition in plain Python (scalar.py), and against hand computation.

The second one is one long run without a gap, as a chip does it: a spike is under way for some steps, samples follow
each other, and every population's state is cleared where its own window begins. That the reference equals it, with
windows laid on top of each other and each sample alone, is the claim on which every window in the toolchain rests.
"""

from dataclasses import replace

import numpy as np
import pytest
import scalar
from hypothesis import given, settings
from strategies import may_wrap, programs, programs_and_samples

from toolchain.backends import reference
from toolchain.errors import SnncError
from toolchain.ir import (
    Compartments,
    Connectivity,
    CurrentInput,
    GradedInput,
    IntegerConnection,
    IntegerSynapses,
    Program,
    RateInput,
)


def assert_equals_scalar(program: Program, samples) -> None:
    trace = reference.run(program, samples)
    spikes, potentials = scalar.simulate(program, samples)
    assert set(trace.spikes) == set(spikes)
    for name, expected in spikes.items():
        assert np.array_equal(trace.spikes[name], expected), name
        assert np.array_equal(trace.counts[name], expected.sum(axis=1)), name
    assert set(trace.potentials) == set(potentials)
    for name, potential in potentials.items():
        assert np.array_equal(trace.potentials[name], potential), name


@settings(max_examples=100)
@given(programs_and_samples())
def test_equals_one_long_run_with_delays(case):
    assert_equals_scalar(*case)


@settings(max_examples=50)
@given(programs_and_samples(may_wrap=True))
def test_equals_it_where_currents_wrap(case):
    assert_equals_scalar(*case)


@settings(max_examples=200)
@given(programs_and_samples(wide=True))
def test_equals_it_for_every_kind_of_layer_and_neuron(case):
    assert_equals_scalar(*case)


@given(programs(wide=True))
def test_random_programs_stay_within_24_bits(program):
    assert not may_wrap(program)


# Small networks, computed by hand.


def one_neuron(weight=1, *, du=4096, dv=0, vth=1, bias=0, steps=4, entry=None) -> Program:
    """One input neuron, one synapse, one neuron. By default the input spikes at every step for x = 255."""
    entry = entry or RateInput("input", 1, np.zeros(1, np.int32))
    synapse = Connectivity(1, 1, np.array([0, 1]), np.zeros(1, np.int32))
    return Program(
        "one",
        entry,
        (Compartments("out", 1, du, dv, vth, np.full(1, bias, np.int16)),),
        (
            IntegerConnection(
                "w", "input", "out", IntegerSynapses(synapse, np.full(1, weight, np.int16), 0, 8, "mixed")
            ),
        ),
        steps,
    )


def spikes(program: Program, value: int) -> list[int]:
    return reference.run(program, np.array([[value]], np.uint8)).spikes["out"][0, :, 0].tolist()


def test_integration_and_strict_threshold():
    # v: 1, 2 (not above 2), 3 spikes and starts again.
    assert spikes(one_neuron(1, vth=2, steps=7), 255) == [0, 0, 1, 0, 0, 1, 0]


def test_membrane_decay_rounds_toward_zero():
    # dv 2048 halves: v is 64 a step; 64, 96, 112, 120, 124, 126, 127, 127: never above 2 * 64.
    assert spikes(one_neuron(1, dv=2048, vth=2, steps=12), 255) == [0] * 12
    # The bias adds 2**6 more, so twice the limit is approached and passed.
    assert spikes(one_neuron(1, dv=2048, vth=2, bias=1, steps=4), 255) == [0, 1, 0, 1]


def test_negative_state_decays_toward_zero():
    # v: -64 then trunc(-64 * 3/4096) = 0 each step: rounding down would give -1 - 64.
    neuron = Compartments("n", 1, 4096, 4093, 0, np.zeros(1, np.int16))
    before = replace(neuron.start(1), v=np.full((1, 1), -64))
    after, _ = neuron.step(before, np.zeros((1, 1), np.int64))
    assert (int(after.u[0, 0]), int(after.v[0, 0])) == (0, 0)


def test_current_decay():
    # du 2048: u is 64, 96, 112, 120 and v its sum 64, 160, 272, 392: above 4 * 64 at the third step.
    assert spikes(one_neuron(1, du=2048, vth=4, steps=4), 255) == [0, 0, 1, 0]


@pytest.mark.parametrize(
    ("mantissa", "exponent", "spike"),
    [
        (64, 11, 1),  # u = 2**23 stays
        (65, 11, 0),  # beyond it the current turns negative
        (-64, 11, 1),  # u = -2**23 becomes 2**23
        (-63, 11, 0),
    ],
)
def test_wrap_at_24_bits(mantissa, exponent, spike):
    program = one_neuron(mantissa, vth=(1 << 17) - 1, steps=1)
    (w,) = program.connections
    wrapping = replace(w, synapses=replace(w.synapses, exponent=exponent))
    assert spikes(replace(program, connections=(wrapping,)), 255) == [spike]


def test_inhibition_and_bias():
    assert spikes(one_neuron(-3, vth=0, bias=2), 255) == [0, 0, 0, 0]
    assert spikes(one_neuron(-3, vth=0, bias=2), 0) == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (0, [0] * 6),
        (255, [1] * 6),
        (254, [0, 1, 0, 1, 0, 1]),
        (128, [0, 1, 0, 1, 0, 1]),
        (127, [0, 0, 1, 0, 0, 1]),
        (85, [0, 0, 1, 0, 0, 1]),
        (84, [0, 0, 0, 1, 0, 0]),
    ],
)
def test_rate_coding(x, expected):
    """Pixel 255 spikes every step, 128 to 254 every second, 85 to 127 every third."""
    entry = RateInput("input", 1, np.zeros(1, np.int32))
    assert entry.encode(np.array([[x]], np.uint8), 6)[:, 0, 0].tolist() == expected


def test_graded_payload_multiplies():
    entry = GradedInput("input", 1, np.zeros(1, np.int32))
    # 3 * 20 = 60 a step against a threshold of 100: 60, 120 spikes.
    assert spikes(one_neuron(3, vth=100, entry=entry), 20) == [0, 1, 0, 1]


def test_current_is_rounded_and_clipped():
    entry = CurrentInput("input", 1, np.zeros(1, np.int32), shift=1)
    assert entry.inject(np.array([5, 4, -5, -4, 10_000, -10_000])).tolist() == [3, 2, -2, -2, 4095, -4095]
    # 127 * 255 = 32385, halved and rounded 16193, clipped to 4095: above 4094, not above 4095.
    assert spikes(one_neuron(127, vth=4094, entry=entry), 255) == [1, 1, 1, 1]
    # The leakiest membrane keeps trunc(262080 / 4096) = 63 of a step, so every second step passes 4095 * 64.
    assert spikes(one_neuron(127, vth=4095, dv=4095, entry=entry), 255) == [0, 1, 0, 1]


def test_state_is_cleared_between_samples():
    program = one_neuron(1, vth=2, steps=2)
    trace = reference.run(program, np.full((3, 1), 255, np.uint8))
    assert not trace.spikes["out"].any()  # 2 steps reach 2, and each sample starts at 0


def test_ties_go_to_the_lowest_index():
    synapses = Connectivity(1, 3, np.array([0, 3]), np.arange(3, dtype=np.int32))
    program = Program(
        "tie",
        RateInput("input", 1, np.zeros(1, np.int32)),
        (Compartments("out", 3, 4096, 0, 0, np.zeros(3, np.int16)),),
        (
            IntegerConnection(
                "w", "input", "out", IntegerSynapses(synapses, np.array([0, 1, 1], np.int16), 0, 8, "mixed")
            ),
        ),
        2,
    )
    assert reference.run(program, np.array([[255], [0]], np.uint8)).decisions.tolist() == [1, 0]


def test_records_what_was_asked_and_counts_all():
    program = one_neuron()
    trace = reference.run(program, np.array([[255]], np.uint8), record=["out"])
    assert set(trace.spikes) == {"out"}
    assert set(trace.counts) == {"input", "out"}


def test_progress_and_batches():
    done = []
    samples = np.arange(1100, dtype=np.int64)[:, None] % 256
    trace = reference.run(one_neuron(1, vth=0), samples, progress=lambda n, total: done.append((n, total)))
    assert done == [(500, 1100), (1000, 1100), (1100, 1100)]
    single = [reference.run(one_neuron(1, vth=0), samples[k : k + 1]).counts["out"][0, 0] for k in (0, 499, 500, 1099)]
    assert trace.counts["out"][[0, 499, 500, 1099], 0].tolist() == single


def test_batches_are_as_small_as_memory_asks(monkeypatch):
    program, samples = one_neuron(1, vth=2), np.arange(7, dtype=np.uint8)[:, None] + 249
    whole = reference.run(program, samples)
    done = []
    monkeypatch.setattr(reference, "BATCH_BYTES", 3 * 140 + 5)  # 4 * 9 for the input and 4 + 100 for the neuron
    small = reference.run(program, samples, progress=lambda n, total: done.append(n))
    assert done == [3, 6, 7]
    assert np.array_equal(small.spikes["out"], whole.spikes["out"])
    assert not reference.run(program, samples[:0]).decisions.size


@pytest.mark.parametrize("exponent", [0, 16, 45, 52])
def test_sums_are_exact_however_large(exponent):
    # Two synapses that cancel but for a 1: lost in a float32 from exponent 17 on, in a float64 from 46 on.
    entry = GradedInput("input", 3, np.arange(3, dtype=np.int32))
    large = Connectivity(3, 1, np.array([0, 1, 2, 2]), np.zeros(2, np.int32))
    small = Connectivity(3, 1, np.array([0, 0, 0, 1]), np.zeros(1, np.int32))
    program = Program(
        "large",
        entry,
        (Compartments("out", 1, 4096, 0, 0, np.zeros(1, np.int16)),),
        (
            IntegerConnection(
                "a", "input", "out", IntegerSynapses(large, np.array([127, -127], np.int16), exponent, 8, "mixed")
            ),
            IntegerConnection("b", "input", "out", IntegerSynapses(small, np.array([1], np.int16), 0, 8, "mixed")),
        ),
        1,
    )
    assert reference.run(program, np.array([[1, 1, 1]])).spikes["out"].tolist() == [[[1]]]
    assert reference.run(program, np.array([[1, 1, 0]])).spikes["out"].tolist() == [[[0]]]


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (np.zeros((2, 3), np.uint8), "do not match the input"),
        (np.zeros((2, 1)), "not integers"),
        (np.array([[256]]), "not integers"),
        (np.array([[-1]]), "not integers"),
    ],
)
def test_samples_that_do_not_fit(samples, words):
    with pytest.raises(SnncError, match=words):
        reference.run(one_neuron(), samples)

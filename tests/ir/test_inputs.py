"""Input codings against their wording, value by value."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolchain.errors import SnncError
from toolchain.ir import make_input


@pytest.mark.parametrize(
    ("value", "period"), [(255, 1), (254, 2), (128, 2), (127, 3), (85, 3), (84, 4), (1, 255), (0, 0)]
)
def test_rate_spikes_every_so_many_steps(value: int, period: int) -> None:
    entry = make_input("rate", "input", 1)
    spikes = entry.encode(np.array([[value]]), 600)[:, 0, 0]
    expected = [int(period > 0 and (t + 1) % period == 0) for t in range(600)]
    assert spikes.tolist() == expected


@given(st.integers(0, 255), st.integers(0, 2000))
def test_rate_by_its_own_arithmetic(value: int, threshold: int) -> None:
    entry = make_input("rate", "input", 1, threshold=threshold)
    entry.verify()
    spikes, v = [], 0
    for _ in range(40):
        v += value
        spikes.append(int(v > threshold))
        v = 0 if v > threshold else v
    assert entry.encode(np.array([[value]]), 40)[:, 0, 0].tolist() == spikes


def test_graded_sends_the_value_at_every_step() -> None:
    entry = make_input("graded", "input", 3, np.array([0, 2], np.int32))
    assert entry.encode(np.array([[5, 6, 0]]), 2).tolist() == [[[5, 0]], [[5, 0]]]
    assert not entry.on_chip
    assert entry.payload_max == 255


def test_a_graded_payload_keeps_the_first_bits() -> None:
    entry = make_input("graded", "input", 4, payload_bits=3)
    assert entry.encode(np.array([[255, 224, 63, 31]]), 1).tolist() == [[[7, 7, 1, 0]]]
    assert entry.payload_max == 7
    for bits in (0, 9):
        with pytest.raises(SnncError, match=r"payload_bits[\s\S]*1 to 8"):
            make_input("graded", "input", 4, payload_bits=bits).verify()


@given(st.integers(-(2**30), 2**30), st.integers(0, 20))
def test_injection_rounds_to_nearest_and_clips(total: int, shift: int) -> None:
    entry = make_input("current", "input", 1, shift=shift)
    found = int(entry.inject(np.array([total], np.int64))[0])
    exact = total / 2**shift
    if abs(exact) < 4095:
        assert abs(found - exact) <= 0.5
        if abs(exact - np.floor(exact) - 0.5) < 1e-12:
            assert found == np.floor(exact) + 1  # ties up
    else:
        assert abs(found) in (4094, 4095)
    assert abs(found) <= 4095


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros(3, np.uint8),
        np.zeros((2, 4), np.uint8),
        np.zeros((2, 3)),
        np.zeros((2, 3), bool),
        np.full((2, 3), 256),
        np.full((2, 3), -1),
    ],
)
def test_samples_of_the_wrong_kind(samples: np.ndarray) -> None:
    with pytest.raises(SnncError) as caught:
        make_input("rate", "pixels", 3).encode(samples, 2)
    assert caught.value.where == "pixels"


def test_unknown_codings_and_parameters() -> None:
    with pytest.raises(SnncError, match="unknown input coding 'rat'") as caught:
        make_input("rat", "input", 3)
    assert "did you mean 'rate'" in str(caught.value.allowed)
    with pytest.raises(SnncError, match="does not have these parameters") as caught:
        make_input("graded", "input", 3, threshold=3)
    assert caught.value.got == "threshold"
    with pytest.raises(SnncError, match="vth is out of range"):
        make_input("rate", "input", 3, threshold=131072).verify()

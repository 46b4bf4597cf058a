"""Neurons that are not known are found out by their spikes, or refused at the first step that differs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolchain.errors import SnncError
from toolchain.frontends.probe import probe


class Theirs:
    """Neurons with whatever a framework may do. Parameters: numbers, or arrays of the neurons' shape.

    late: steps by which spikes come late.  after_leak: the reset by subtraction waits for the next step.  rest: where a
    hard reset leads to.  floor: below which no potential falls.  drift: per step.  lateral: from the neighbour.
    """

    def __init__(self, **given) -> None:
        defaults = {"theta": 1.0, "gain": 1.0, "a": 0.0, "b": 0.5, "reset": "zero", "inclusive": False, "wait": 0}
        extras = {"late": 0, "after_leak": False, "rest": 0.0, "floor": -np.inf, "drift": 0.0, "lateral": 0.0}
        self.__dict__.update({**defaults, **extras, "height": 1.0, "many": False, **given})
        self.clear()

    def clear(self) -> None:
        self.u = self.v = self.owed = 0.0
        self.waiting = 0
        self.line = []

    def step(self, x):
        self.line.append(np.array(x))
        x = self.line[-1 - self.late] if len(self.line) > self.late else np.zeros_like(x)
        self.u = self.a * self.u + self.gain * x + self.lateral * np.roll(x, 1, -1)
        v = np.maximum(self.b * self.v + self.u - self.owed + self.drift, self.floor)
        v = np.where(self.waiting > np.zeros_like(x), 0.0, v)
        fired = v >= self.theta if self.inclusive else v > self.theta
        self.owed = 0.0
        spikes = fired * self.height
        if self.many:
            spikes = np.floor(np.maximum(v / self.theta, 0.0)) * fired
        if self.reset == "zero":
            v = np.where(fired, self.rest, v)
        elif self.reset == "subtract" and self.after_leak:
            self.owed = fired * self.theta
        elif self.reset == "subtract":
            v = v - fired * self.theta
        elif self.reset == "half":
            v = np.where(fired, v / 2, v)
        self.v = v
        self.waiting = np.where(fired, self.wait, np.maximum(self.waiting - 1, 0))
        return spikes.astype(np.float64)


class Wrapped:
    def __init__(self, **given) -> None:
        self.neurons = Theirs(**given)

    def reset(self) -> None:
        self.neurons.clear()

    def step(self, x):
        return self.neurons.step(x)


def found(shape=(2,), **given):
    return probe(Wrapped(**given), shape, where="lif (Theirs)")


def refused(*words: str, **given) -> None:
    with pytest.raises(SnncError) as caught:
        found(**given)
    assert caught.value.where == "lif (Theirs)"
    for word in words:
        assert word in str(caught.value), str(caught.value)


factors = st.one_of(st.just(0.0), st.floats(0.05, 0.98))


@settings(max_examples=25)
@given(
    theta=st.floats(0.05, 50),
    gain=st.floats(0.05, 5),
    a=factors,
    b=st.one_of(st.just(1.0), st.floats(0.05, 0.98)),
    reset=st.sampled_from(["zero", "subtract", "none"]),
    after_leak=st.booleans(),
    inclusive=st.booleans(),
    wait=st.integers(0, 3),
    late=st.integers(0, 2),
)
def test_what_neurons_compute_is_found(theta, gain, a, b, reset, after_leak, inclusive, wait, late) -> None:
    wait = wait if reset == "zero" else 0
    result = found(
        theta=theta,
        gain=gain,
        a=a,
        b=b,
        reset=reset,
        after_leak=after_leak,
        inclusive=inclusive,
        wait=wait,
        late=late,
    )
    limit = theta / gain
    assert result.kind == ("CUBA" if a else "LIF" if b < 1 else "IF")
    assert result.reset == ("zero" if reset == "zero" else "subtract")
    assert (result.refractory, result.delay, result.payload) == (wait, late, 1.0)
    taken = {"zero": 0.0, "none": b * limit, "subtract": (b - 1) * limit if after_leak else 0.0}[reset]
    symmetric = reset == "none"  # then the factors of current and potential can be exchanged
    close = {"rtol": 0, "atol": 1e-5}
    np.testing.assert_allclose(result.threshold, limit, rtol=1e-12)
    pair = 1 - result.current_decay, 1 - result.voltage_decay
    for got, expected in zip(
        np.sort(pair, 0) if symmetric else pair, sorted((a, b)) if symmetric else (a, b), strict=True
    ):
        np.testing.assert_allclose(got, expected, **close)
    if not symmetric:
        np.testing.assert_allclose(result.kick / limit, taken / limit, **close)


def test_a_neuron_may_have_its_own_numbers() -> None:
    theta, b = np.array([[0.5, 1.0, 3.0]]), np.array([[0.2, 0.9, 1.0]])
    result = found((1, 3), theta=theta, b=b, reset="subtract")
    np.testing.assert_allclose(result.threshold, theta, rtol=1e-12)
    np.testing.assert_allclose(1 - result.voltage_decay, b, atol=1e-9)


def test_a_reset_elsewhere_is_a_kick_after_the_leak() -> None:
    np.testing.assert_allclose(found(rest=0.25, b=0.5).kick, 0.125, atol=1e-12)


@pytest.mark.parametrize("theta", [1.0, 0.3, 0.75])
def test_at_least_is_told_from_more_than(theta) -> None:
    least, more = found(theta=theta, inclusive=True), found(theta=theta)
    assert (least.inclusive, more.inclusive) == (True, False)
    assert (more.threshold == theta).all()
    assert (least.threshold == np.nextafter(theta, 0)).all()


def test_a_spike_may_weigh_something_else() -> None:
    assert found(height=0.5).payload == 0.5


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"drift": 0.01}, ["moves without input"]),
        ({"floor": 0.0}, ["at step", "potential of 0 before"]),
        ({"lateral": 0.25}, ["at step"]),
        ({"many": True}, ["once a step", "0 and 1"]),
        ({"reset": "half"}, ["neither to a potential nor by an amount"]),
        ({"theta": np.inf}, ["do not spike", "membrane potential"]),
        ({"theta": -1.0}, ["spike without input"]),
        ({"b": 1.25}, ["after a step", "1.25"]),
        ({"b": 0.0}, ["after a step"]),
        ({"wait": 70}, ["do not spike again", "62"]),
        ({"wait": np.array([1, 2])}, ["do not spike again", "1 to 2 steps"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_no_neuron_of_the_chip_is_refused(given, words) -> None:
    refused(*words, **given)

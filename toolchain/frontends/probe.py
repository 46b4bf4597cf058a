"""Finds out what somebody else's neurons compute, by feeding them numbers and watching their spikes.

Frameworks differ in where the input is scaled, in > against >=, in what a reset takes away and when. Names and defaults
do not say; so nothing is read from attributes here. `probe` takes anything that steps::

    class Theirs:                                   # a `Steps`
        def reset(self): ...                        # as before a sample's first step
        def step(self, x): ...                      # float64 (batch, *shape) -> spikes, 0 where none

    found = probe(Theirs(), shape=(2,), where="lif1 (Leaky)")

and gives `Found`, in the terms of `toolchain.ir.LIF` with gain 1, or refuses. The measure behind it all is the critical
input: the least one that makes a neuron spike in a given step after a given past. Threshold less critical input is the
membrane potential that the past has left behind, to the last bits, though nothing but spikes is seen.

    u[t] = (1 - current_decay) u[t-1] + x[t - delay]
    v[t] = (1 - voltage_decay) v[t-1] + u[t] + kick * s[t-1],   0 while the neuron waits
    s[t] = v[t] > threshold;   then v = 0 (reset "zero") or v -= threshold (reset "subtract")

`kick` is what a reset does beyond that, one step later: snnTorch takes the threshold away after the leak, not before
it, which is a kick of -voltage_decay * threshold; a neuron that is never reset has one that gives all back. What was
fitted is then compared with the neurons on random inputs, spikes and potentials, step by step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import SnncError
from toolchain.ir import LIF
from toolchain.ir.neurons import REFRACTORY_LIMIT

Values = NDArray[np.float64]

TOLERANCE = 1e-5
"""Largest difference of a potential, in thresholds, between the neurons and what was fitted."""
CLOSE = 1e-9
"""Differences of measured factors, and of potentials in thresholds, that are rounding."""
LATEST = 4
"""Steps after an input within which its spike has to come."""
HUGE = 2.0**40
"""In inputs, for a threshold; more than that never comes."""
REACH = 2.0**12
"""Potentials that are measured, in thresholds."""
SEQUENCES, LENGTH = 2, 12
"""Random inputs that a fit is compared on."""


class Steps(Protocol):
    """Neurons that are not known. Those that take a whole sequence at once may have `run(x)` for x (T, batch, ...)."""

    def reset(self) -> None:
        """Forget everything: the next step is the first of a sample."""

    def step(self, x: Values) -> Values:
        """Spikes (batch, ...) of one step for inputs (batch, ...), computed in double precision."""


@dataclass(frozen=True, eq=False)
class Found:
    """What neurons compute (see above). Each array has the shape that was probed.

    threshold, current_decay, voltage_decay, kick: float64, in units of the input.  reset: "zero" or "subtract".
    refractory, delay: steps.  payload: what a spike is sent as.  inclusive: whether the neurons seem to have been
    written with >=; threshold is then the largest number below theirs, which spikes at the same potentials.
    """

    threshold: Values
    current_decay: Values
    voltage_decay: Values
    kick: Values
    reset: str
    refractory: int
    delay: int
    payload: float
    inclusive: bool

    @property
    def kind(self) -> str:
        """IF, LIF or CUBA, as docs/semantics.md has them."""
        if (self.current_decay != 1).any():
            return "CUBA"
        return "LIF" if self.voltage_decay.any() else "IF"

    def run(self, x: Values) -> tuple[NDArray[np.bool_], Values]:
        """Spikes for inputs (T, batch, *shape), and the potential before each step; -inf while a neuron waits."""
        steps, batch = x.shape[:2]
        each = x.reshape(steps, batch, -1)
        size = each.shape[2]
        theta, du, dv, kick = (
            np.broadcast_to(value, x.shape[2:]).reshape(-1)
            for value in (self.threshold, self.current_decay, self.voltage_decay, self.kick)
        )
        bias = np.zeros(size, np.float32)
        lif = LIF("probe", size, theta, 1.0, du, dv, bias, self.reset, self.refractory)
        state, sent, before = lif.start(batch), np.zeros((steps, batch, size), bool), np.empty(each.shape)
        none = np.zeros((batch, size))
        for t in range(steps):
            # The second term takes back what the kick leaves in a synaptic current.
            late = kick * (sent[t - 1] if t > 0 else none) - (1 - du) * kick * (sent[t - 2] if t > 1 else none)
            before[t] = np.where(state.wait > 0, -np.inf, (1 - dv) * state.v + (1 - du) * state.u + late)
            came = each[t - self.delay] if t >= self.delay else none
            state, sent[t] = lif.step(state, came + late)
        return sent.reshape(x.shape), before.reshape(x.shape)


def probe(neurons: Steps, shape: Sequence[int], *, where: str) -> Found:
    """What neurons compute, measured and compared; module docstring.

    shape: of the neurons of a sample; two along an axis are enough where parameters do not differ along it, and show
    whether neurons act on each other.  where: for messages.

    Raises:
        SnncError: they compute something else than the equations above, naming what was seen first.
    """
    return _Probe(neurons, tuple(shape), where).found()


@dataclass(frozen=True, eq=False)
class Membrane:
    """Neurons that never spike, as `toolchain.ir.LIF` has them with reset "none"; arrays of the shape probed."""

    gain: Values
    current_decay: Values
    voltage_decay: Values

    def run(self, x: Values) -> Values:
        """Potentials (T, batch, *shape) for inputs of that shape."""
        u, v, potentials = np.zeros(x.shape[1:]), np.zeros(x.shape[1:]), np.empty(x.shape)
        for t, step in enumerate(x):
            u = (1 - self.current_decay) * u + self.gain * step
            v = (1 - self.voltage_decay) * v + u
            potentials[t] = v
        return potentials


def probe_membrane(neurons: Steps, shape: Sequence[int], *, where: str) -> Membrane:
    """What neurons compute whose `step` gives their membrane potential, and which never spike.

    Raises:
        SnncError: it is no sum of inputs that fade with one or two decays.
    """
    x = np.zeros((3, 1, *shape))
    x[0] = 1.0
    first, second, third = _stepped(neurons, x)[:, 0]
    if (first == 0).any():
        raise SnncError("probed membranes: an input has no effect in its own step", where=where, got=_shown(first))
    one, two = second / first, third / first
    product = one**2 - two
    if (np.abs(product) < CLOSE).all():
        fast, slow = np.zeros_like(one), one
    else:
        root = np.sqrt(np.maximum(one**2 - 4 * product, 0.0))
        fast, slow = (one - root) / 2, (one + root) / 2
    found = Membrane(first, 1.0 - _snapped(fast), 1.0 - _snapped(slow))
    x = np.random.default_rng(0).uniform(-2.0, 3.0, (4 * LENGTH, SEQUENCES, *shape))
    theirs, expected = _stepped(neurons, x), found.run(x)
    wrong = ~(np.abs(theirs - expected) <= TOLERANCE * np.maximum(np.abs(first), np.abs(expected)))
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise SnncError(
            "probed membranes: they are none that snnc knows",
            where=where,
            got=f"at step {at[0] + 1} of the inputs {_listed(x, at)} a potential of {theirs[at]:.6g}, where one that "
            f"fades by {_shown(found.current_decay)} and {_shown(found.voltage_decay)} a step has {expected[at]:.6g}",
            allowed="a sum of inputs that fade with one or two decays, without a reset",
        )
    return found


def _stepped(neurons: Steps, x: Values) -> Values:
    neurons.reset()
    whole = getattr(neurons, "run", None)
    return np.stack([neurons.step(step) for step in x]) if whole is None else np.asarray(whole(x))


class _Probe:
    def __init__(self, neurons: Steps, shape: tuple[int, ...], where: str) -> None:
        self.neurons, self.shape, self.where = neurons, shape, where
        self.payload = 0.0
        self.delay = 0

    def found(self) -> Found:
        self.delay = self._latency()
        threshold, above = self._threshold()
        self.threshold = threshold
        first, second = self._impulse()
        refractory, reset, fast, slow, kick = self._reset(first, second)
        found = Found(
            threshold=threshold,
            current_decay=1.0 - _snapped(fast),
            voltage_decay=1.0 - _snapped(slow),
            kick=np.where(np.abs(kick) < CLOSE * threshold, 0.0, kick),
            reset=reset,
            refractory=refractory,
            delay=self.delay,
            payload=self.payload,
            inclusive=_shorter(above, threshold),
        )
        du, dv = found.current_decay, found.voltage_decay
        if not ((du > 0) & (du <= 1) & (dv >= 0) & (dv < 1)).all():
            got = f"of the current {_shown(1 - du)}, of the potential {_shown(1 - dv)}"
            raise self._refused("what is left of their state after a step", got, "less than 1, and above 0 to 1")
        self._compare(found)
        return found

    # ------------------------------------------------------------------------------------------------- measurements

    def _run(self, x: Values) -> NDArray[np.bool_]:
        """Where they spiked, (T, batch, *shape), for inputs of that shape, from a cleared state."""
        sent = _stepped(self.neurons, x)
        values = np.unique(sent)
        values = values[values != 0]
        if len(values) and not self.payload:
            self.payload = float(values[0])
        if (values != self.payload).any():
            raise self._refused(
                "a spike is one number, once a step", f"values of {', '.join(f'{v:g}' for v in values[:4])}", "0 and 1"
            )
        return sent != 0

    def _latency(self) -> int:
        x = np.zeros((1 + LATEST, 1, *self.shape))
        x[0] = HUGE
        fired = self._run(x)
        if not fired.any(axis=0).all():
            raise self._refused(
                "they do not spike",
                f"no spike within {LATEST} steps of an input of {HUGE:g}",
                remedy="neurons whose membrane potential is read belong at the end of the network",
            )
        first = np.argmax(fired, axis=0)
        if (first != first.reshape(-1)[0]).any():
            raise self._refused("some spike earlier than others", f"after {first.min()} to {first.max()} steps")
        return int(first.reshape(-1)[0])

    def _threshold(self) -> tuple[Values, Values]:
        """The largest input that makes no spike in the first step, and the next number, which does."""
        high = np.full((1, *self.shape), HUGE)
        low = np.zeros_like(high)
        nothing = np.zeros((0, 1, *self.shape))
        if self._spikes(nothing, low).any():
            raise self._refused("they spike without input", "a spike in the first step")
        # First the exponent, then the digits: a threshold may be small.
        for _ in range(100):
            middle = high / 2
            fired = self._spikes(nothing, middle)
            if not fired.any():
                break
            high = np.where(fired, middle, high)
        low = np.where(self._spikes(nothing, high / 2), 0.0, high / 2)
        while True:
            middle = low + (high - low) / 2
            between = (middle > low) & (middle < high)
            if not between.any():
                break
            fired = self._spikes(nothing, middle)
            low, high = np.where(between & ~fired, middle, low), np.where(between & fired, middle, high)
        self.threshold = low[0]
        if (low <= 0).any():
            raise self._refused("their threshold is not above their rest", f"{_shown(low)} above it")
        left = self._left(np.zeros((2, 1, *self.shape)))
        if (np.abs(left) > CLOSE * low).any():
            raise self._refused("their potential moves without input", f"by {_shown(left)} in two steps")
        return low[0], high[0]

    def _spikes(self, past: Values, last: Values) -> NDArray[np.bool_]:
        """Whether they spike in the step of `last` (batch, *shape), which comes after `past` (T, batch, *shape)."""
        rest = np.zeros((self.delay, *last.shape))
        return self._run(np.concatenate([past, last[None], rest]))[-1]

    def _left(self, past: Values) -> Values:
        """What the past (T, batch, *shape) has left for the next step; -inf where nothing makes a spike."""
        steps = np.full(past.shape[1], len(past))
        return self._left_at(np.concatenate([past, np.zeros((1, *past.shape[1:]))]), steps)

    def _fired_at(self, x: Values, at: NDArray[np.int64], last: Values) -> NDArray[np.bool_]:
        """Whether each entry of a batch spikes in a step of its own, which gets `last`; nothing comes after."""
        x = np.concatenate([x, np.zeros((self.delay, *x.shape[1:]))])
        entries = np.arange(x.shape[1])
        x[np.arange(len(x))[:, None] > at] = 0.0
        x[at, entries] = last
        return self._run(x)[at + self.delay, entries]

    def _left_at(self, x: Values, at: NDArray[np.int64]) -> Values:
        """The same for each entry of a batch, before a step of its own."""
        reach = REACH * np.broadcast_to(self.threshold, x.shape[1:])
        high, low = reach.copy(), -reach
        never = ~self._fired_at(x, at, high)
        for _ in range(64):
            middle = (low + high) / 2
            there = self._fired_at(x, at, middle)
            low, high = np.where(there, low, middle), np.where(there, middle, high)
        return np.where(never, -np.inf, self.threshold - low)

    def _impulse(self) -> tuple[Values, Values]:
        """What an input of 1 has left of itself after one and two steps."""
        small = self.threshold / 128
        x = np.zeros((2, 2, *self.shape))
        x[1, 0] = x[0, 1] = small
        left = self._left(x) / small
        return left[0], left[1]

    def _silence(self) -> int:
        """Steps after a spike in which nothing makes another."""
        x = np.tile(REACH * self.threshold, (2 + REFRACTORY_LIMIT + self.delay, 1, *(1,) * len(self.shape)))
        again = self._run(x)[1 + self.delay :]
        steps = np.argmax(again, axis=0)
        if not again.any(axis=0).all() or (steps != steps.reshape(-1)[0]).any():
            raise self._refused(
                "they do not spike again",
                f"silent for {steps.min()} to {steps.max()} steps after a spike"
                if again.any(axis=0).all()
                else f"silent for more than {REFRACTORY_LIMIT} steps after a spike",
                f"the same for all neurons, at most {REFRACTORY_LIMIT} steps",
            )
        return int(steps.reshape(-1)[0])

    def _reset(self, first: Values, second: Values) -> tuple[int, str, Values, Values, Values]:
        """(refractory steps, reset, factor of the current, factor of the potential, kick)."""
        theta = self.threshold
        inputs = np.stack([1.5 * theta, 2.5 * theta])
        refractory = self._silence()
        past = np.zeros((1 + refractory, 2, *self.shape))
        past[0] = inputs
        after = self._left(past)
        slope = (after[1] - after[0]) / theta
        # With factors a and b a step, the first two answers to a single input are a + b and (a + b)^2 - a b.
        product = first**2 - second
        if (np.abs(product) < CLOSE).all():
            # One factor. A hard reset forgets what came before it.
            fast, slow = np.zeros_like(theta), first
            if (np.abs(slope) < CLOSE).all():
                return refractory, "zero", fast, slow, self._no_kick(after[0], refractory)
            if (np.abs(slope - first) < CLOSE).all() and not refractory:
                return 0, "subtract", fast, slow, after[0] - slow * (inputs[0] - theta)
            raise self._no_reset(slope)
        root = np.sqrt(np.maximum(first**2 - 4 * product, 0.0))
        roots = (first + root) / 2, (first - root) / 2
        loose = math.sqrt(CLOSE)  # a root of numbers that are right to `CLOSE`
        if (np.abs(slope - first) < loose).all() and not refractory:
            taken = after[0] - first * inputs[0]
            fast, slow = roots[::-1]
            if (np.abs(taken) > CLOSE * theta).all():
                # What the reset takes decays as the potential does; the second input keeps the neurons from spiking.
                past = np.stack([inputs, -first * inputs])
                slow = (self._left(past)[0] - (second - first**2) * inputs[0]) / taken
                fast = first - slow
            return 0, "subtract", fast, slow, taken + slow * theta
        for fast, slow in (roots, roots[::-1]):
            if (np.abs(slope - fast ** (refractory + 1)) < loose).all():
                kick = self._no_kick(after[0] - fast ** (refractory + 1) * inputs[0], refractory, loose)
                return refractory, "zero", fast, slow, kick
        raise self._no_reset(slope)

    def _no_kick(self, offset: Values, refractory: int, close: float = CLOSE) -> Values:
        """What a hard reset leaves in place of 0: nothing at all with a refractory period."""
        kick = np.where(np.abs(offset) < close * self.threshold, 0.0, offset)
        if refractory and kick.any():
            raise self._refused("they wait at another potential than they start from", f"{_shown(kick)} above it", "0")
        return kick

    # --------------------------------------------------------------------------------------------------- comparison

    def _compare(self, found: Found) -> None:
        """Spikes, and potentials within `TOLERANCE`, on random inputs."""
        random = np.random.default_rng(0)
        x = self.threshold * random.uniform(-1.5, 3.0, (LENGTH, SEQUENCES, *self.shape))
        padded = np.concatenate([x, np.zeros((self.delay, *x.shape[1:]))])
        spikes, left = found.run(padded)
        theirs = self._run(padded)
        # Each entry of a larger batch stands for one step of one sequence: there the critical input must lie within
        # the tolerance of the expected one.
        at = np.repeat(np.arange(LENGTH), SEQUENCES)
        each = np.tile(x, (1, LENGTH, *(1,) * len(self.shape)))
        expected = left[self.delay :]
        slack = TOLERANCE * np.maximum(self.threshold, np.abs(expected))
        waits = np.isneginf(expected)
        with np.errstate(invalid="ignore"):
            high = np.where(waits, 0.0, self.threshold - expected + slack).reshape(-1, *self.shape)
            low = np.where(waits, REACH * self.threshold, self.threshold - expected - slack).reshape(-1, *self.shape)
        enough, too_much = self._fired_at(each, at, high), self._fired_at(each, at, low)
        wrong = ~enough.reshape(expected.shape) & ~waits | too_much.reshape(expected.shape)
        wrong |= (spikes != theirs)[self.delay :]
        if wrong.any():
            first = tuple(int(i) for i in np.argwhere(wrong)[0])
            past = _listed(x, first)
            measured = self._left_at(each, at).reshape(expected.shape)
            raise self._refused(
                "they are no neurons that snnc knows",
                f"at step {first[0] + 1} of the inputs {past} a potential of {measured[first]:.6g} before the last and "
                f"spike {int(theirs[self.delay :][first])}, where {found.kind} neurons with reset "
                f"{found.reset!r} have {expected[first]:.6g} and {int(spikes[self.delay :][first])}",
                "the equations of docs/semantics.md: one or two decays, reset to rest or by a fixed amount",
            )

    def _no_reset(self, slope: Values) -> SnncError:
        return self._refused(
            "their reset is neither to a potential nor by an amount",
            f"of an input above the threshold {_shown(slope)} is left after the spike",
            "none of it, or as much as without the spike",
        )

    def _refused(self, rule: str, got: str, allowed: Any = None, remedy: str | None = None) -> SnncError:
        return SnncError(f"probed neurons: {rule}", where=self.where, got=got, allowed=allowed, remedy=remedy)


def _snapped(factor: Values) -> Values:
    """A factor that can only be 0 or 1 but for rounding."""
    factor = np.where(np.abs(factor) < CLOSE, 0.0, factor)
    return np.where(np.abs(factor - 1) < CLOSE, 1.0, factor)


def _listed(x: Values, at: tuple[int, ...]) -> str:
    """The inputs of one neuron in one sequence, up to a step: at (t, batch, ...)."""
    one = x.reshape(*x.shape[:2], -1)[: at[0] + 1, at[1], np.ravel_multi_index(at[2:], x.shape[2:]) if at[2:] else 0]
    return ", ".join(f"{value:.6g}" for value in one)


def _shorter(a: Values, b: Values) -> bool:
    """Whether a is the number that somebody would have written, not its neighbour b."""
    return len(repr(float(a.reshape(-1)[0]))) < len(repr(float(b.reshape(-1)[0])))


def _shown(values: Values) -> str:
    low, high = float(np.min(values)), float(np.max(values))
    return f"{low:.6g}" if low == high else f"{low:.6g} to {high:.6g}"

"""Runs a plan, a chunk of samples at a time: whole populations over all steps, and loops step by step."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from toolchain.backends.fast import kernels
from toolchain.backends.fast.delivery import Delivery, spread
from toolchain.backends.fast.plan import WRAP, Plan, Population
from toolchain.backends.trace import Trace
from toolchain.ir import Program
from toolchain.ir.arithmetic import STATE_SHIFT
from toolchain.ir.neurons import State
from toolchain.parallel import cores, in_order

CHUNK_LANES = 1024
"""Steps x samples of a chunk, about: they fill the vector units, and what a layer sends stays in the cache."""
FEW_SYNAPSES = 50_000
"""Below so many a chunk is over so soon that Python between chunks shows; it then has three times the lanes."""
WHOLE = 32
"""Samples of a chunk are a multiple of this where there are so many: no vector of the neurons' loop is then cut."""
LEAST_LANES = 64
"""A chunk is not made smaller than this for the sake of a second thread."""
CHUNK_BYTES = 1 << 30
"""Memory that the chunks at work may take together."""


def run(
    program: Program,
    samples: NDArray[np.integer],
    record: Collection[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Trace:
    """Simulate every sample; arguments as of the back end."""
    began = time.perf_counter()
    plan, n, entry = Plan.of(program), len(samples), program.input
    values = np.ascontiguousarray(entry.check(samples), np.uint8)
    trace = Trace.room(program, n, record, np.int64)
    at_once = _chunk_samples(plan, n)
    starts = range(0, n, at_once)
    parts = max(1, cores() // max(1, len(starts)))
    done, lock = 0, Lock()

    rooms: list[Rooms] = []

    def one(start: int) -> None:
        nonlocal done
        here = slice(start, min(start + at_once, n))
        own = rooms.pop() if rooms else Rooms()
        Chunk(plan, values[here], here, trace, parts, own).run()
        rooms.append(own)
        with lock:
            done += here.stop - here.start
            if progress is not None:
                progress(done, n)

    # BLAS's own threads and those of several chunks would wait for each other.
    with threadpool_limits(1 if len(starts) > 1 else None, "blas"):
        in_order(one, starts, program.n_synapses * program.steps * n)
    return trace.after(time.perf_counter() - began)


def _chunk_samples(plan: Plan, n: int) -> int:
    """Samples of a chunk: enough lanes, chunks for every core, and not more memory than allowed."""
    steps = plan.program.steps
    fair = max(-(-n // cores()), -(-LEAST_LANES // steps))
    fits = CHUNK_BYTES // (cores() * plan.bytes_per_lane * steps)
    lanes = CHUNK_LANES if plan.program.n_synapses >= FEW_SYNAPSES else 3 * CHUNK_LANES
    found = max(1, min(lanes // steps, fair, fits))
    return found if found < WHOLE else found - found % WHOLE


class Rooms:
    """Arrays that one chunk leaves to the next: memory that is new to a process is several times slower."""

    def __init__(self) -> None:
        self.free: list[NDArray[np.uint8]] = []

    def take(self, shape: tuple[int, int], kind: type[np.generic]) -> NDArray[Any]:
        """An array whose values are anything."""
        need = shape[0] * shape[1] * np.dtype(kind).itemsize
        fitting = [k for k, room in enumerate(self.free) if need <= room.nbytes <= 2 * need]
        best = min(fitting, key=lambda k: self.free[k].nbytes, default=None)
        room = np.empty(need, np.uint8) if best is None else self.free.pop(best)
        return room[:need].view(kind).reshape(shape)

    def give(self, array: NDArray[Any]) -> None:
        """Leave an array that was taken."""
        room = array.base
        assert room is not None
        self.free.append(room)


@dataclass(eq=False)
class Chunk:
    """Some samples on their way through the plan. sent, spikes: what each population sent and in how many lanes."""

    plan: Plan
    samples: NDArray[np.uint8]
    here: slice
    trace: Trace
    parts: int
    rooms: Rooms
    sent: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    spikes: dict[str, int] = field(default_factory=dict)

    @property
    def many(self) -> int:
        return len(self.samples)

    @property
    def steps(self) -> int:
        return self.plan.program.steps

    def run(self) -> None:
        self.enter()
        for k, group in enumerate(self.plan.groups):
            if len(group) > 1 or group[0].inner:
                self.loop(group)
            else:
                self.straight(group[0])
            for name in [name for name in self.sent if self.plan.last_use[name] <= k]:
                self.rooms.give(self.sent.pop(name))

    def rows(self, size: int, lanes: int) -> NDArray[np.uint8]:
        """Room for what a population sends."""
        sent = self.rooms.take((size + 1, lanes), np.uint8)
        sent[size] = 0
        return sent

    def enter(self) -> None:
        """What the input sends: spikes of every step, or payloads that stay the same."""
        entry, counts = self.plan.program.input, self.trace.counts[self.plan.program.input.name][self.here]
        if entry.on_chip:
            sent = self.rows(entry.size, self.steps * self.many)
            thresholds = entry.compartments.per_neuron("vth")
            self.spikes[entry.name] = kernels.rate(self.samples, entry.channels, thresholds, sent, counts)
            self.keep(entry.name, sent)
            return
        if not entry.steady:
            sent = self.rows(entry.size, self.steps * self.many)
            payload = entry.encode(self.samples, self.steps)
            sent[:-1] = payload.transpose(2, 0, 1).reshape(entry.size, -1)
            counts[:] = payload.sum(axis=0)
            self.spikes[entry.name] = int(np.count_nonzero(payload))
            self.keep(entry.name, sent)
            return
        sent = self.rows(entry.size, self.many)
        sent[:-1] = entry.encode(self.samples, 1)[0].T
        fired = sent[:-1] != 0
        counts[:] = fired.T * counts.dtype.type(self.steps)
        self.spikes[entry.name], self.sent[entry.name] = int(np.count_nonzero(fired)), sent
        if entry.name in self.trace.spikes:
            self.trace.spikes[entry.name][self.here] = fired.T[:, None, :]

    def keep(self, name: str, sent: NDArray[np.uint8]) -> None:
        """Remember what a population sent, for those that read it and for the trace."""
        self.sent[name] = sent
        if name in self.trace.spikes:
            by_step = sent[:-1].reshape(-1, self.steps, self.many)
            self.trace.spikes[name][self.here] = by_step.transpose(2, 1, 0)

    def sums(self, p: Population) -> NDArray[np.signedinteger]:
        """What reaches a population from outside of its loop, shape (size, lanes), or (size, samples) if constant."""
        steps = 1 if p.constant else self.steps
        sums = self.rooms.take((p.size, steps * self.many), p.sums.kind)
        fresh = not p.steady and bool(p.outer) and not p.outer[0].delay
        if not fresh:
            sums[:] = 0
        for d in p.steady:
            if d.delay < steps:
                by_step = sums.reshape(p.size, steps, self.many)
                by_step[:, d.delay :] += self.steady(p, d)[:, None, :]
        for d in p.outer:
            if d.delay < steps:
                self.deliver(d, sums, 0, steps - d.delay, fresh)
                fresh = False
        return sums

    def steady(self, p: Population, d: Delivery) -> NDArray[np.signedinteger]:
        """What a connection from outside brings at every step, shape (size, samples), as the population keeps it."""
        own = np.zeros((p.size, self.many), d.sums.kind)
        d.add(own, 0, self.sent[d.source], 0, self.many, self.spikes[d.source], parts=self.parts)
        total = self.plan.program.input.inject(own.astype(np.int64) << d.sums.unit)
        return (total >> p.sums.unit).astype(p.sums.kind)

    def deliver(self, d: Delivery, sums: NDArray[np.signedinteger], begin: int, end: int, fresh: bool = False) -> None:
        """Bring what the source sent in the steps `begin` to `end`."""
        # A part of all steps' spikes; none only where there are none at all.
        spikes = -(-self.spikes[d.source] * (end - begin) // self.steps)
        first, last, to = (t * self.many for t in (begin, end, begin + d.delay))
        d.add(sums, to, self.sent[d.source], first, last, spikes, fresh=fresh, parts=self.parts)

    def straight(self, p: Population) -> None:
        kept = not (p.small and p.neurons.spiking)
        sums, sent = self.sums(p), self.rows(p.size, self.steps * self.many)
        state = _start(p, self.many if kept else 0)
        self.spikes[p.name] = self.update(p, sums, sent, state, 0, self.steps, kept)
        self.rooms.give(sums)
        self.keep(p.name, sent)
        self.read_out(p, state)

    def loop(self, group: tuple[Population, ...]) -> None:
        sums = {p.name: self.sums(p) for p in group}
        state = {p.name: _start(p, self.many) for p in group}
        for p in group:
            self.sent[p.name] = self.rows(p.size, self.steps * self.many)
            self.spikes[p.name] = 0
        for t in range(self.steps):
            for p in group:
                for d in p.inner:
                    if t >= d.delay:
                        self.deliver(d, sums[p.name], t - d.delay, t - d.delay + 1)
                self.spikes[p.name] += self.update(p, sums[p.name], self.sent[p.name], state[p.name], t, t + 1)
        for p in group:
            self.rooms.give(sums[p.name])
            self.keep(p.name, self.sent[p.name])
            self.read_out(p, state[p.name])

    def read_out(self, p: Population, state: State) -> None:
        if not p.neurons.spiking:
            self.trace.potentials[p.name][self.here] = state.v.T

    def update(
        self,
        p: Population,
        sums: NDArray[Any],
        sent: NDArray[np.uint8],
        state: State,
        begin: int,
        end: int,
        kept: bool = True,
    ) -> int:
        """Steps `begin` to `end` of a population; how many spikes there were. kept: as of `kernels.advance`."""
        counts, stride = self.trace.counts[p.name][self.here], 0 if p.constant else self.many
        if not p.small:
            return _by_definition(p, sums, stride, begin, end, state, sent, counts)
        wraps = p.sums.largest >= WRAP
        rule = (p.registers, wraps, p.neurons.reset == "subtract", p.neurons.refractory, kept)
        arrays = (state.u, state.v, state.wait, sent, counts)
        shift = STATE_SHIFT + p.sums.unit

        def part(first: int, last: int) -> int:
            return kernels.advance(sums, stride, shift, self.many, begin, end, *rule, *arrays, first, last)

        return sum(spread(part, p.size, self.parts, p.size * self.many * (end - begin)))


def _start(p: Population, samples: int) -> State:
    """The state before the first step, neurons first: shape (size, samples)."""
    shape, kind = (p.size, samples), np.int32 if p.small else np.int64
    return State(np.zeros(shape, kind), np.zeros(shape, kind), np.zeros(shape, np.int8))


def _by_definition(
    p: Population,
    sums: NDArray[Any],
    stride: int,
    begin: int,
    end: int,
    state: State,
    sent: NDArray[np.uint8],
    counts: NDArray[np.integer],
) -> int:
    """The same as `kernels.advance` in the reference's own words, for sums that may wrap the synaptic current."""
    samples, total = len(counts), 0
    for t in range(begin, end):
        a = sums[:, t * stride : t * stride + samples].T.astype(np.int64) << p.sums.unit
        now, fired = p.neurons.step(State(state.u.T, state.v.T, state.wait.T), a)
        for old, new in ((state.u, now.u), (state.v, now.v), (state.wait, now.wait)):
            old[:] = new.T
        sent[:-1, t * samples : (t + 1) * samples] = fired.T
        counts += fired
        total += int(np.count_nonzero(fired))
    return total

"""The fast back end on a device of torch: a GPU, or, to test the same code, the processor.

Sums are floating-point matrix products, and exact: they are taken only where the magnitudes of all that a target can
receive add up to less than 2**24 (float32) or 2**53 (float64), so that every partial sum, in whatever order a device
adds them, is an integer that the type holds. Reduced precision (TF32) is switched off for the run, and convolutions are
products with the windows of the map written side by side: the transforms by which libraries shorten convolutions
round. Everything behind the sums is integers of 64 bits, in the reference's own words.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor
from torch.nn import functional

from toolchain.backends.fast.delivery import Delivery
from toolchain.backends.fast.plan import Plan, Population
from toolchain.backends.trace import Trace
from toolchain.errors import SnncError, UsageError
from toolchain.ir import Convolution, Program
from toolchain.ir.arithmetic import DECAY_ONE, STATE_LIMIT, STATE_SHIFT

SPARSE = 0.1
"""Kernels with a smaller part of their entries are kept as sparse matrices."""
CHUNK_BYTES = 1 << 30
"""Memory that a batch of samples may take on the device, about."""
FLOATS = 4
"""Floats a lane and neuron that products and windows take beside what the plan counts."""


def run(
    program: Program,
    samples: NDArray[np.integer],
    device: str,
    record: Collection[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Trace:
    """Simulate every sample on a device of torch; the other arguments as of the back end.

    Raises:
        UsageError: torch has no such device.
        SnncError: a sum could pass 2**53.
    """
    began = time.perf_counter()
    plan, n, entry, where = Plan.of(program), len(samples), program.input, _device(device)
    values = np.ascontiguousarray(entry.check(samples)[..., entry.channels], np.uint8)
    trace = Trace.room(program, n, record, np.int64)
    with _exact(), torch.inference_mode():
        work = _Device(plan, where)
        at_once = max(1, CHUNK_BYTES // (program.steps * FLOATS * 4 * work.widest))
        for start in range(0, n, at_once):
            here = slice(start, min(start + at_once, n))
            _Batch(work, values[here], here, trace).run()
            if progress is not None:
                progress(here.stop, n)
    return trace.after(time.perf_counter() - began)


def _device(name: str) -> torch.device:
    """The device, if something can be computed there."""
    try:
        found = torch.device(name)
        torch.zeros(1, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        gpus = [f"cuda:{k}" for k in range(torch.cuda.device_count())]
        raise UsageError(
            "torch cannot compute on this device",
            where="--device",
            got=f"{name}: {str(error).splitlines()[0]}",
            allowed=", ".join(["cpu", *gpus]),
        ) from None
    return found


@contextmanager
def _exact() -> Iterator[None]:
    """Matrix products of float32 without reduced precision."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


class _Product:
    """The weighted sums of one connection, as a matrix on the device."""

    def __init__(self, d: Delivery, device: torch.device) -> None:
        if d.magnitude >= 1 << 53:
            raise SnncError(
                "a sum could pass 2**53, so that no float holds it",
                where=d.source,
                got=d.magnitude,
                remedy="simulate on the processor: --device cpu",
            )
        self.real = torch.float32 if d.magnitude < 1 << 24 else torch.float64
        self.shift, self.targets = d.synapses.exponent, d.n_targets
        pattern = d.synapses.connectivity
        self.convolution = pattern if isinstance(pattern, Convolution) else None
        lists, mantissa = d.lists, d.synapses.mantissa
        if lists.n_synapses < SPARSE * lists.capacity:
            by_source = sparse.csr_array(
                (mantissa.astype(np.float64), lists.targets, lists.indptr), shape=(lists.n_sources, lists.n_targets)
            )
            by_target = by_source.T.tocsr()
            begins, indices, values = (
                torch.from_numpy(x) for x in (by_target.indptr, by_target.indices, by_target.data)
            )
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Sparse CSR", category=UserWarning)
                self.matrix = torch.sparse_csr_tensor(
                    begins,
                    indices,
                    values,
                    size=by_target.shape,
                    dtype=self.real,
                    device=device,
                    check_invariants=True,
                )
        else:
            self.matrix = torch.from_numpy(lists.dense(mantissa.astype(np.float64))).to(device, self.real)

    @property
    def width(self) -> int:
        """Floats that a lane takes at the most."""
        c = self.convolution
        windows = 0 if c is None else self.matrix.shape[1] * c.target[1] * c.target[2]
        return max(self.matrix.shape[1], windows) + self.targets

    def __call__(self, sent: Tensor) -> Tensor:
        """Sums for what was sent, uint8 (lanes, sources): int64 (lanes, targets)."""
        x, c = sent.to(self.real), self.convolution
        if c is None:
            total = (self.matrix @ x.T).T
        else:
            (top, bottom), (left, right) = c.padding
            maps = functional.pad(x.view(-1, *c.source), (left, right, top, bottom))
            windows = functional.unfold(maps, c.size, c.dilation, 0, c.stride)
            lanes, taps, places = windows.shape
            side_by_side = windows.transpose(0, 1).reshape(taps, lanes * places)
            total = (self.matrix @ side_by_side).view(-1, lanes, places).transpose(0, 1).reshape(lanes, self.targets)
        return total.long() << self.shift


class _Device:
    """A plan with its weights and registers on the device."""

    def __init__(self, plan: Plan, device: torch.device) -> None:
        self.plan, self.device = plan, device
        populations = [p for group in plan.groups for p in group]
        deliveries = [d for p in populations for d in (*p.steady, *p.outer, *p.inner)]
        self.products = {d: _Product(d, device) for d in deliveries}
        self.registers = {
            p.name: {
                name: torch.from_numpy(p.neurons.per_neuron(name).astype(np.int64)).to(device)
                for name in ("du", "dv", "vth")
            }
            | {"bias": torch.from_numpy(p.neurons.bias).to(device)}
            for p in populations
        }
        self.rates = self._rates()

    @property
    def widest(self) -> int:
        """Floats that a step of a sample takes at the most, about."""
        every = sum(p.size for group in self.plan.groups for p in group)
        return max([product.width for product in self.products.values()], default=1) + every

    def _rates(self) -> Tensor | None:
        """Spikes of a rate input with one threshold for all, by step and value: uint8 (steps, 256)."""
        entry = self.plan.program.input
        if not entry.on_chip or np.ptp(entry.compartments.per_neuron("vth")):
            return None
        values = np.zeros((256, entry.sample_size), np.int64)
        values[:, entry.channels[0]] = np.arange(256)
        return torch.from_numpy(entry.encode(values, self.plan.program.steps)[:, :, 0].astype(np.uint8)).to(self.device)


@dataclass(eq=False)
class _Batch:
    """Some samples on their way through the plan. sent: of each population, uint8 (steps, samples, size)."""

    work: _Device
    values: NDArray[np.uint8]
    here: slice
    trace: Trace
    sent: dict[str, Tensor] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        return self.work.plan.program.steps

    def run(self) -> None:
        self.enter()
        for k, group in enumerate(self.work.plan.groups):
            sums = [self.outer(p) for p in group]
            if len(group) > 1 or group[0].inner:
                self.loop(group, sums)
            else:
                state = _State(group[0], self.work, len(self.values))
                self.keep(group[0], torch.stack([state.step(a) for a in sums[0]]), state)
            for name in [name for name in self.sent if self.work.plan.last_use[name] <= k]:
                del self.sent[name]

    def enter(self) -> None:
        entry, device = self.work.plan.program.input, self.work.device
        if self.work.rates is not None:
            payload = self.work.rates[:, torch.from_numpy(self.values).to(device).long()]
        else:
            whole = np.zeros((*self.values.shape[:-1], entry.sample_size), np.int64)
            whole[..., entry.channels] = self.values
            encoded = entry.encode(whole, 1 if entry.steady else self.steps).astype(np.uint8)
            payload = torch.from_numpy(encoded).to(device).expand(self.steps, -1, -1)
        self.sent[entry.name] = payload
        self.write(entry.name, payload != 0)

    def write(self, name: str, fired: Tensor) -> None:
        self.trace.counts[name][self.here] = fired.sum(0, dtype=torch.int32).cpu().numpy()
        if name in self.trace.spikes:
            self.trace.spikes[name][self.here] = fired.transpose(0, 1).to(torch.uint8).cpu().numpy()

    def keep(self, p: Population, sent: Tensor, state: _State) -> None:
        self.sent[p.name] = sent
        self.write(p.name, sent)
        if not p.neurons.spiking:
            self.trace.potentials[p.name][self.here] = state.v.cpu().numpy()

    def outer(self, p: Population) -> Tensor:
        """What reaches a population from outside of its loop: int64 (steps, samples, size)."""
        total = torch.zeros((self.steps, len(self.values), p.size), dtype=torch.int64, device=self.work.device)
        for d in p.steady:
            own = self.work.products[d](self.sent[d.source][0])
            injected = self.work.plan.program.input.inject(own.cpu().numpy())
            total[d.delay :] += torch.from_numpy(injected).to(self.work.device)
        for d in p.outer:
            if d.delay < self.steps:
                came = self.sent[d.source][: self.steps - d.delay].flatten(0, 1)
                total[d.delay :] += self.work.products[d](came).view(-1, len(self.values), p.size)
        return total

    def loop(self, group: tuple[Population, ...], sums: list[Tensor]) -> None:
        states = [_State(p, self.work, len(self.values)) for p in group]
        for p in group:
            self.sent[p.name] = torch.zeros((*sums[0].shape[:2], p.size), dtype=torch.uint8, device=self.work.device)
        for t in range(self.steps):
            for p, own, state in zip(group, sums, states, strict=True):
                a = own[t]
                for d in p.inner:
                    if t >= d.delay:
                        a = a + self.work.products[d](self.sent[d.source][t - d.delay])
                self.sent[p.name][t] = state.step(a)
        for p, state in zip(group, states, strict=True):
            self.keep(p, self.sent[p.name], state)


class _State:
    """Neurons of some samples between two steps; `Compartments.step` for tensors."""

    def __init__(self, p: Population, work: _Device, samples: int) -> None:
        self.neurons, self.registers = p.neurons, work.registers[p.name]
        self.u, self.v = (torch.zeros((samples, p.size), dtype=torch.int64, device=work.device) for _ in range(2))
        self.wait = torch.zeros_like(self.u) if p.neurons.refractory else None

    def step(self, a: Tensor) -> Tensor:
        """One step with the sums `a`, int64 (samples, size); the spikes, uint8."""
        own, neurons = self.registers, self.neurons
        self.u = _wrap24(_decay(self.u, own["du"]) + (a << STATE_SHIFT))
        v = (_decay(self.v, own["dv"]) + self.u + own["bias"]).clamp(-STATE_LIMIT, STATE_LIMIT)
        if not neurons.spiking:
            self.v = v
            return torch.zeros_like(v, dtype=torch.uint8)
        if self.wait is not None:
            v = v.masked_fill(self.wait > 0, 0)
        threshold = own["vth"] << STATE_SHIFT
        fired = v > threshold
        self.v = torch.where(fired, v - threshold, v) if neurons.reset == "subtract" else v.masked_fill(fired, 0)
        if self.wait is not None:
            self.wait = torch.where(fired, neurons.refractory, (self.wait - 1).clamp(min=0))
        return fired.to(torch.uint8)


def _decay(state: Tensor, amount: Tensor) -> Tensor:
    return state.sign() * ((state.abs() * (DECAY_ONE - amount)) >> 12)


def _wrap24(state: Tensor) -> Tensor:
    full, half = 1 << 24, 1 << 23
    wrapped = torch.where(state > half, state - full, state)
    return torch.where(wrapped <= -half, wrapped + full, wrapped)

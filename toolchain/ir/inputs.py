"""How a sample enters the network. One class for each coding; what differs between them stands on the class.

A sample is a vector of integers, 0 to 255 (an image's pixels), or such a vector for each time step (spikes that were
recorded elsewhere); `channels` names the entries that the input neurons read, so that inputs which nothing listens to
can be left out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import SnncError, nearest
from toolchain.ir.arithmetic import BIAS_LIMIT
from toolchain.ir.neurons import Compartments

VALUE_BITS = 8
VALUE_MAX = (1 << VALUE_BITS) - 1


@dataclass(frozen=True, eq=False)
class Input:
    """Common to all codings. channels: int32, ascending, entries of a sample of `sample_size` values.

    scale, offset: a value x stands for `offset + scale * x` physical units (rate: a spike stands for `scale`).
    """

    name: str
    sample_size: int
    channels: NDArray[np.int32]
    scale: float = 1.0
    offset: float = 0.0

    coding: ClassVar[str]
    on_chip: ClassVar[bool]
    """Whether the input neurons are compartments of the chip."""
    on_host: ClassVar[bool] = False
    """Whether the first connection is computed on the host."""
    steady: ClassVar[bool] = False
    """Whether it sends the same at every step of a sample."""
    spiking: ClassVar[bool] = False
    """Whether what it sends are spikes without a payload, whatever its parameters."""

    @property
    def size(self) -> int:
        return len(self.channels)

    @property
    def payload_max(self) -> int:
        """Largest value that one spike (or one injection) carries."""
        raise NotImplementedError

    @property
    def compartments(self) -> Compartments:
        """The input neurons as compartments; only where `on_chip`."""
        raise NotImplementedError

    def encode(self, samples: NDArray[np.integer], steps: int) -> NDArray[np.int64]:
        """What the input neurons send: shape (steps, n_samples, size), 0 for no spike, else the payload.

        samples: integers 0 to 255, shape (n_samples, sample_size), or of each step (n_samples, steps, sample_size).
        """
        raise NotImplementedError

    def at(self, samples: NDArray[np.integer], step: int) -> NDArray[np.integer]:
        """The part of the samples that is read at a step, shape (n_samples, sample_size)."""
        return samples

    def inject(self, total: NDArray[np.int64]) -> NDArray[np.int64]:
        """The sums of the first connection as they reach its neurons (changed only where the host computes them)."""
        return total

    def parameters(self) -> dict[str, int]:
        """Integer parameters of the coding, for files and reports."""
        return {}

    def keep(self, neurons: NDArray[np.bool_]) -> Input:
        """The marked input neurons alone."""
        return replace(self, channels=self.channels[neurons])

    def read(self, samples: NDArray[np.integer]) -> NDArray[np.int64]:
        """The values that the input neurons read, checked: shape (n_samples, size). Raises as `check` does."""
        return self.check(samples)[:, self.channels].astype(np.int64)

    def check(self, samples: NDArray[np.integer]) -> NDArray[np.integer]:
        """The samples, if this input can read them.

        Raises:
            SnncError: wrong shape, not integers, or values outside 0 to 255.
        """
        values = np.asarray(samples)
        if values.ndim != 2 or values.shape[1] != self.sample_size:
            raise SnncError(
                "the samples do not match the input",
                where=self.name,
                got=f"shape {values.shape}",
                allowed=f"(n, {self.sample_size})",
            )
        if not np.issubdtype(values.dtype, np.integer) or (
            values.size and (int(values.min()) < 0 or int(values.max()) > VALUE_MAX)
        ):
            raise SnncError(
                "sample values are not integers from 0 to 255",
                where=self.name,
                got=f"{values.dtype}",
                allowed="integers, 0 to 255",
                remedy="scale the data to 8 bits without sign",
            )
        return values

    def verify(self) -> None:
        """Raise SnncError for parameters without meaning."""
        channels = self.channels
        ordered = len(channels) == 0 or (
            int(channels[0]) >= 0
            and int(channels[-1]) < self.sample_size
            and bool(np.all(np.diff(channels.astype(np.int64)) > 0))
        )
        if not ordered:
            raise SnncError(
                "input channels are out of order or range",
                where=f"{self.name}.channels",
                allowed=f"ascending, 0 to {self.sample_size - 1}",
            )
        if not (np.isfinite(self.scale) and self.scale > 0 and np.isfinite(self.offset)):
            raise SnncError(
                "scale must be positive, scale and offset finite",
                where=f"{self.name}.scale",
                got=(self.scale, self.offset),
            )

    def __eq__(self, other: object) -> bool:
        return (
            type(self) is type(other)
            and isinstance(other, Input)
            and (self.name, self.sample_size, self.scale, self.offset, self.parameters())
            == (other.name, other.sample_size, other.scale, other.offset, other.parameters())
            and np.array_equal(self.channels, other.channels)
        )

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, eq=False)
class RateInput(Input):
    """On-chip integrate-and-fire neurons, each driven by a bias of x * 2**6 while the sample lasts.

    They follow the chip's own rule with du 4096, dv 0: the potential grows by x each step and the neuron spikes
    when it exceeds `threshold`, then starts from 0. With the default of 254 a value of 255 spikes every step,
    128 to 254 every second, 85 to 127 every third. One compartment for each input neuron; binary spikes.
    """

    threshold: int = 254

    coding: ClassVar[str] = "rate"
    on_chip: ClassVar[bool] = True
    spiking: ClassVar[bool] = True

    @property
    def payload_max(self) -> int:
        return 1

    @property
    def compartments(self) -> Compartments:
        """The input neurons as compartments (the bias, which is the sample, left at 0)."""
        return Compartments(
            name=self.name,
            size=self.size,
            du=4096,
            dv=0,
            vth=self.threshold,
            bias_mantissa=np.zeros(self.size, np.int16),
        )

    def encode(self, samples: NDArray[np.integer], steps: int) -> NDArray[np.int64]:
        values = self.read(samples)
        neurons = self.compartments
        state = neurons.start(len(values))
        out = np.zeros((steps, *values.shape), np.int64)
        for t in range(steps):
            # A bias of x * 2**6 and a memoryless current of x give the same potential.
            state, out[t] = neurons.step(state, values)
        return out

    def parameters(self) -> dict[str, int]:
        return {"threshold": self.threshold}

    def verify(self) -> None:
        super().verify()
        if self.size:
            self.compartments.verify()


@dataclass(frozen=True, eq=False)
class GradedInput(Input):
    """A spike whose payload is the value, at every step where that is not 0. Needs a chip with such spikes.

    The payload is the value's first `payload_bits` bits: x >> (8 - payload_bits). Fewer bits leave more of the
    synaptic current's 24 bits to the weights.
    """

    payload_bits: int = VALUE_BITS

    coding: ClassVar[str] = "graded"
    on_chip: ClassVar[bool] = False
    steady: ClassVar[bool] = True

    @property
    def payload_max(self) -> int:
        return (1 << self.payload_bits) - 1

    def encode(self, samples: NDArray[np.integer], steps: int) -> NDArray[np.int64]:
        values = self.read(samples) >> (VALUE_BITS - self.payload_bits)
        return np.broadcast_to(values, (steps, *values.shape)).copy()

    def parameters(self) -> dict[str, int]:
        return {"payload_bits": self.payload_bits}

    def verify(self) -> None:
        super().verify()
        if not 1 <= self.payload_bits <= VALUE_BITS:
            raise SnncError(
                "a payload has 1 to 8 bits", where=f"{self.name}.payload_bits", got=self.payload_bits, allowed="1 to 8"
            )


@dataclass(frozen=True, eq=False)
class CurrentInput(Input):
    """The first connection is computed on the host, once a sample, and injected as a bias at every step.

    Its synapses are then not on the chip. The integer sum of weight * x is shifted right by `shift`, rounded to
    nearest (ties up), and clipped to the 13 bits of a bias mantissa, whose exponent is 6; so it enters the
    neuron like a synaptic sum. Source of the coding: Chen et al. 2021 (Grad R), section 5.
    """

    shift: int = 0

    coding: ClassVar[str] = "current"
    on_chip: ClassVar[bool] = False
    on_host: ClassVar[bool] = True
    steady: ClassVar[bool] = True

    @property
    def payload_max(self) -> int:
        return VALUE_MAX

    def encode(self, samples: NDArray[np.integer], steps: int) -> NDArray[np.int64]:
        values = self.read(samples)
        return np.broadcast_to(values, (steps, *values.shape)).copy()

    def inject(self, total: NDArray[np.int64]) -> NDArray[np.int64]:
        half = (1 << self.shift) >> 1
        return np.clip((total + half) >> self.shift, -BIAS_LIMIT, BIAS_LIMIT)

    def parameters(self) -> dict[str, int]:
        return {"shift": self.shift}


@dataclass(frozen=True, eq=False)
class SpikeInput(Input):
    """Binary spikes from outside, as an event camera or another network sends them: a sample says which at each step.

    Samples are 0 or 1, shape (n_samples, steps, sample_size). They take no compartment: spikes enter the chip by its
    mesh, as those of other chips do.
    """

    coding: ClassVar[str] = "spikes"
    on_chip: ClassVar[bool] = False
    spiking: ClassVar[bool] = True

    @property
    def payload_max(self) -> int:
        return 1

    def encode(self, samples: NDArray[np.integer], steps: int) -> NDArray[np.int64]:
        values = self.check(samples)
        if values.shape[1] != steps:
            raise SnncError(
                "the samples last another number of steps than the network",
                where=self.name,
                got=values.shape[1],
                allowed=steps,
                remedy="bin the events in as many steps",
            )
        return np.ascontiguousarray(values[:, :, self.channels].transpose(1, 0, 2), np.int64)

    def at(self, samples: NDArray[np.integer], step: int) -> NDArray[np.integer]:
        return samples[:, step]

    def read(self, samples: NDArray[np.integer]) -> NDArray[np.int64]:
        return self.check(samples)[:, :, self.channels].astype(np.int64)

    def check(self, samples: NDArray[np.integer]) -> NDArray[np.integer]:
        values = np.asarray(samples)
        if values.ndim != 3 or values.shape[2] != self.sample_size:
            raise SnncError(
                "the samples do not match the input, which reads spikes of every step",
                where=self.name,
                got=f"shape {values.shape}",
                allowed=f"(n, steps, {self.sample_size})",
                remedy="give event data (--events), or use input coding 'rate' for images",
            )
        whole = np.issubdtype(values.dtype, np.integer)
        if not whole or (values.size and (int(values.min()) < 0 or int(values.max()) > 1)):
            raise SnncError(
                "spikes are 0 or 1",
                where=self.name,
                got=f"{values.dtype}" if not whole else int(values.max()),
                allowed="integers, 0 or 1",
                remedy="merge events of one step into one spike",
            )
        return values


INPUTS: dict[str, type[Input]] = {
    "rate": RateInput,
    "graded": GradedInput,
    "current": CurrentInput,
    "spikes": SpikeInput,
}


def make_input(
    coding: str,
    name: str,
    sample_size: int,
    channels: NDArray[np.int32] | None = None,
    *,
    scale: float = 1.0,
    offset: float = 0.0,
    **parameters: int,
) -> Input:
    """An input of the named coding; all entries of a sample unless `channels` says which.

    Raises:
        SnncError: an unknown coding, or a parameter that the coding does not have.
    """
    if coding not in INPUTS:
        raise SnncError(f"unknown input coding {coding!r}", where=name, allowed=nearest(coding, INPUTS))
    chosen = np.arange(sample_size, dtype=np.int32) if channels is None else np.asarray(channels, np.int32)
    try:
        return INPUTS[coding](name, sample_size, chosen, scale, offset, **parameters)
    except TypeError:
        raise SnncError(
            f"input coding {coding!r} does not have these parameters",
            where=name,
            got=", ".join(sorted(parameters)),
        ) from None

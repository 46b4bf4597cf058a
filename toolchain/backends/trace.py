"""What a simulation returns, whichever back end ran it, and where two of them differ."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import Diagnostic, SnncError
from toolchain.ir import Graph, Program


def counted(steps: int) -> type[np.integer]:
    """The type that spike counts are kept in: a byte where it holds them, as the table is the size of the samples."""
    return np.uint8 if steps < 256 else np.int32


@dataclass(frozen=True, eq=False)
class Trace:
    """Spikes of the recorded populations, each in its own window, so that step t of a sample is index t everywhere.

    spikes: name -> uint8, shape (n_samples, steps, size), 1 where the neuron fired (the input: 1 where it sent
    a spike, whatever its payload).  counts: name -> integers, int32 or as small as `steps` allows, shape
    (n_samples, size), for every population.
    potentials: readout -> its membrane potentials at the last step, shape (n_samples, size).
    notes: what the back end did that its user should know, such as a second start.
    """

    spikes: Mapping[str, NDArray[np.uint8]]
    counts: Mapping[str, NDArray[np.integer]]
    output: str
    seconds: float
    potentials: Mapping[str, NDArray] = field(default_factory=dict)
    notes: tuple[Diagnostic, ...] = ()

    @classmethod
    def room(
        cls, network: Program | Graph, samples: int, record: Collection[str] | None, kind: type[np.generic]
    ) -> Trace:
        """Zeros for so many samples, to be filled in. record: populations whose spikes are kept (all when None).

        kind: of the potentials.
        """
        sizes = {network.input.name: network.input.size, **{p.name: p.size for p in network.populations}}
        return cls(
            spikes={
                name: np.zeros((samples, network.steps, size), np.uint8)
                for name, size in sizes.items()
                if record is None or name in record
            },
            counts={name: np.zeros((samples, size), counted(network.steps)) for name, size in sizes.items()},
            output=network.populations[-1].name,
            seconds=0.0,
            potentials={p.name: np.zeros((samples, p.size), kind) for p in network.populations if not p.spiking},
        )

    def after(self, seconds: float) -> Trace:
        """The same, as it took so long."""
        return replace(self, seconds=seconds)

    @property
    def decisions(self) -> NDArray[np.int64]:
        """The output neuron with most spikes, or a readout's highest potential; ties to the lowest; (n_samples,)."""
        return np.argmax(self.potentials.get(self.output, self.counts[self.output]), axis=1)


class Recording(Protocol):
    """What can be compared: the spikes and potentials of a Trace."""

    @property
    def spikes(self) -> Mapping[str, NDArray[np.uint8]]: ...

    @property
    def potentials(self) -> Mapping[str, NDArray]: ...


@dataclass(frozen=True)
class Divergence:
    """The first value in which two simulations differ: by sample, then step of the layer's window, then layer.

    potential: whether it is a readout's membrane potential at the last step, and not a spike.
    """

    sample: int
    layer: str
    neuron: int
    step: int
    potential: bool = False

    def __str__(self) -> str:
        what = "potential at " if self.potential else ""
        return f"{self.layer} neuron {self.neuron} {what}step {self.step} (sample {self.sample})"


def first_divergence(one: Recording, other: Recording, *, potentials: bool = False) -> Divergence | None:
    """Where two simulations first differ, or None where every recorded spike is equal.

    potentials: compare those of readouts too; only simulations in the same units can agree in them.

    Raises:
        SnncError: the two did not record the same populations.
    """
    recorded = [set(one.spikes) ^ set(other.spikes)]
    if potentials:
        recorded.append(set(one.potentials) ^ set(other.potentials))
    if any(recorded):
        raise SnncError("the simulations recorded different populations", got=", ".join(sorted(set.union(*recorded))))
    found: list[tuple[int, int, int, int, bool, str]] = []
    for depth, name in enumerate(one.spikes):
        different = one.spikes[name] != other.spikes[name]
        if different.any():
            sample, step, neuron = (int(k) for k in np.unravel_index(int(np.argmax(different)), different.shape))
            found.append((sample, step, depth, neuron, False, name))
        if potentials and name in one.potentials:
            apart = one.potentials[name] != other.potentials[name]
            if apart.any():
                sample, neuron = (int(k) for k in np.unravel_index(int(np.argmax(apart)), apart.shape))
                found.append((sample, different.shape[1] - 1, depth, neuron, True, name))
    if not found:
        return None
    sample, step, _, neuron, potential, layer = min(found)
    return Divergence(sample, layer, neuron, step, potential)

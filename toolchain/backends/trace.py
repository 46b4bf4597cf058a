"""What a simulation returns, whichever back end ran it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import Diagnostic


@dataclass(frozen=True, eq=False)
class Trace:
    """Spikes of the recorded populations, each in its own window, so that step t of a sample is index t everywhere.

    spikes: name -> uint8, shape (n_samples, steps, size), 1 where the neuron fired (the input: 1 where it sent
    a spike, whatever its payload).  counts: name -> int32, shape (n_samples, size), for every population.
    potentials: readout -> its membrane potentials at the last step, shape (n_samples, size).
    notes: what the back end did that its user should know, such as a second start.
    """

    spikes: Mapping[str, NDArray[np.uint8]]
    counts: Mapping[str, NDArray[np.int32]]
    output: str
    seconds: float
    potentials: Mapping[str, NDArray] = field(default_factory=dict)
    notes: tuple[Diagnostic, ...] = ()

    @property
    def decisions(self) -> NDArray[np.int64]:
        """The output neuron with most spikes, or a readout's highest potential; ties to the lowest; (n_samples,)."""
        return np.argmax(self.potentials.get(self.output, self.counts[self.output]), axis=1)

"""What a simulation returns, whichever back end ran it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Trace:
    """Spikes of the recorded populations, each in its own window, so that step t of a sample is index t everywhere.

    spikes: name -> uint8, shape (n_samples, steps, size), 1 where the neuron fired (the input: 1 where it sent
    a spike, whatever its payload).  counts: name -> int32, shape (n_samples, size), for every population.
    """

    spikes: Mapping[str, NDArray[np.uint8]]
    counts: Mapping[str, NDArray[np.int32]]
    output: str
    seconds: float

    @property
    def decisions(self) -> NDArray[np.int64]:
        """The output neuron with the most spikes, ties to the lowest index; shape (n_samples,)."""
        return np.argmax(self.counts[self.output], axis=1)

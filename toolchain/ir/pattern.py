"""What every kind of connectivity answers: which source reaches which target, and what sums its weights make."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

if TYPE_CHECKING:
    from toolchain.ir.connectivity import Connectivity

Product = Callable[[NDArray[Any]], NDArray[Any]]
"""Payloads (samples, n_sources) -> weighted sums (samples, n_targets)."""


class Pattern(ABC):
    """The synapses of one connection. Weights are stored beside it, `n_weights` of them, in the order of the pattern.

    `Connectivity` lists every synapse and stores one weight for each. `Convolution` applies one kernel at all
    positions of a map: it stores one weight for each kernel entry and never lists its synapses unless asked to.
    """

    if TYPE_CHECKING:  # a field of one kind, a property of the other

        @property
        def n_sources(self) -> int: ...
        @property
        def n_targets(self) -> int: ...

    @property
    @abstractmethod
    def title(self) -> str:
        """What it is, in two or three words: `linear`, `conv 3x3 stride 2`."""

    @property
    def window(self) -> str | None:
        """Of synapses that could be a pooling layer its window (`2x2`, `3x3 stride 2`), else None."""
        return None

    @property
    @abstractmethod
    def capacity(self) -> int:
        """Weights that it would store with nothing pruned."""

    @property
    @abstractmethod
    def full(self) -> Pattern:
        """The same with every weight that it could store, nothing pruned."""

    @property
    @abstractmethod
    def stored(self) -> Connectivity:
        """The stored weights as lists: by source of targets, or, of a kernel, by tap of output channels."""

    @property
    @abstractmethod
    def source_shape(self) -> tuple[int, ...]:
        """Axes of the source population: (n,) or (channels, height, width); its neurons are numbered row by row."""

    @property
    @abstractmethod
    def target_shape(self) -> tuple[int, ...]:
        """Axes of the target population."""

    @property
    @abstractmethod
    def n_weights(self) -> int:
        """Weights that are stored."""

    @property
    @abstractmethod
    def n_synapses(self) -> int:
        """Pairs of neurons that are connected (a shared weight counts at every place where it is used)."""

    @property
    @abstractmethod
    def fan_out(self) -> NDArray[np.int64]:
        """Synapses per source neuron, shape (n_sources,)."""

    @property
    @abstractmethod
    def fan_in(self) -> NDArray[np.int64]:
        """Synapses per target neuron, shape (n_targets,)."""

    @abstractmethod
    def unroll(self) -> tuple[Connectivity, NDArray[np.int64]]:
        """Every synapse listed, and the number of its weight: for small networks, and for checks."""

    @abstractmethod
    def product(self, values: NDArray[np.generic]) -> Product:
        """The weighted sum as a function, prepared for many calls; it computes in the type of `values`."""

    @abstractmethod
    def target_sums(self, values: NDArray[Any]) -> NDArray[Any]:
        """For every target the sum of the given values over its synapses: what it gets when every source fires."""

    @abstractmethod
    def keep_weights(self, keep: NDArray[np.bool_]) -> Pattern:
        """The pattern without the weights that are not marked."""

    @abstractmethod
    def select(self, sources: NDArray[np.bool_], targets: NDArray[np.bool_]) -> tuple[Pattern, NDArray[np.bool_]]:
        """The synapses between the marked neurons, renumbered, and the mask over the old weights that kept them."""

    @abstractmethod
    def describe(self, weight: int) -> str:
        """Where a stored weight stands, for messages."""

    @abstractmethod
    def verify(self, where: str) -> None:
        """Raise SnncError unless the pattern is well formed."""

    @property
    def pairs(self) -> int:
        """Pairs that a synapse could connect: of all neurons, or, in a convolution, those within the kernel's reach."""
        return self.n_sources * self.n_targets

    @property
    def density(self) -> float:
        """Synapses that exist, as a part of all pairs (0 to 1)."""
        return self.n_synapses / self.pairs if self.pairs else 0.0

    def matrix(self, values: NDArray[np.generic]) -> sparse.csr_array:
        """The given values, one a weight, as a sparse matrix of shape (n_targets, n_sources), every synapse listed."""
        listed, weight = self.unroll()
        chosen = values[weight]
        by_source = sparse.csr_array((chosen, listed.targets, listed.indptr), shape=(self.n_sources, self.n_targets))
        return by_source.T.tocsr()

"""Which synapses exist, kept sparse from the end of training to the chip."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from toolchain.errors import SnncError
from toolchain.ir.pattern import Pattern, Product

_PART = 1 << 22
"""Synapses that are added up at a time."""


@dataclass(frozen=True, eq=False)
class Connectivity(Pattern):
    """Every synapse of one connection listed, in compressed rows by source neuron; one weight for each.

    The list of source `i` is `targets[indptr[i]:indptr[i + 1]]`, strictly ascending: the same list that a
    neuromorphic core stores for one input axon.

    indptr: int64, shape (n_sources + 1,).  targets: int32, shape (n_synapses,), each in [0, n_targets).
    """

    n_sources: int
    n_targets: int
    indptr: NDArray[np.int64]
    targets: NDArray[np.int32]

    @classmethod
    def from_mask(cls, mask: NDArray[np.bool_]) -> Connectivity:
        """From a dense mask of shape (n_targets, n_sources), as a layer's weight matrix has it."""
        by_source = np.ascontiguousarray(np.asarray(mask, bool).T)
        sources, targets = np.nonzero(by_source)
        n_sources, n_targets = by_source.shape
        indptr = np.zeros(n_sources + 1, np.int64)
        np.cumsum(np.bincount(sources, minlength=n_sources), out=indptr[1:])
        return cls(n_sources, n_targets, indptr, targets.astype(np.int32))

    @property
    def title(self) -> str:
        return "linear"

    @property
    def capacity(self) -> int:
        return self.n_sources * self.n_targets

    @property
    def full(self) -> Connectivity:
        indptr = np.arange(self.n_sources + 1, dtype=np.int64) * self.n_targets
        targets = np.tile(np.arange(self.n_targets, dtype=np.int32), self.n_sources)
        return Connectivity(self.n_sources, self.n_targets, indptr, targets)

    @property
    def stored(self) -> Connectivity:
        return self

    @property
    def source_shape(self) -> tuple[int, ...]:
        return (self.n_sources,)

    @property
    def target_shape(self) -> tuple[int, ...]:
        return (self.n_targets,)

    @property
    def n_weights(self) -> int:
        return len(self.targets)

    @property
    def n_synapses(self) -> int:
        return len(self.targets)

    @cached_property
    def sources(self) -> NDArray[np.int32]:
        """The source of every synapse, shape (n_synapses,)."""
        return np.repeat(np.arange(self.n_sources, dtype=np.int32), self.fan_out)

    @property
    def fan_out(self) -> NDArray[np.int64]:
        return np.diff(self.indptr)

    @cached_property
    def fan_in(self) -> NDArray[np.int64]:
        return np.bincount(self.targets, minlength=self.n_targets).astype(np.int64)

    def unroll(self) -> tuple[Connectivity, NDArray[np.int64]]:
        return self, np.arange(self.n_synapses)

    def matrix(self, values: NDArray[np.generic]) -> sparse.csr_array:
        by_source = sparse.csr_array((values, self.targets, self.indptr), shape=(self.n_sources, self.n_targets))
        return by_source.T.tocsr()

    def product(self, values: NDArray[np.generic]) -> Product:
        matrix = self.matrix(values)
        return lambda payload: (matrix @ payload.T).T

    def target_sums(self, values: NDArray[Any]) -> NDArray[Any]:
        # bincount adds in float64: exact for integers, no sum of which comes near 2**53 here. So integers may be added
        # in parts, which keeps the float64 copies small; a sum of floats is taken in one piece, in order.
        exact = np.issubdtype(values.dtype, np.integer)
        part = _PART if exact else max(1, len(values))
        sums = np.zeros(self.n_targets)
        for first in range(0, len(values), part):
            at = slice(first, first + part)
            sums += np.bincount(self.targets[at], values[at], minlength=self.n_targets)
        return sums.astype(np.result_type(values, np.int64))

    def keep_weights(self, keep: NDArray[np.bool_]) -> Connectivity:
        return Connectivity(self.n_sources, self.n_targets, self._ends(keep), self.targets[keep])

    def _ends(self, keep: NDArray[np.bool_]) -> NDArray[np.int64]:
        """The list pointers when only the marked synapses are left."""
        dropped = np.flatnonzero(~keep)
        return self.indptr - np.searchsorted(dropped, self.indptr)

    def dense(self, values: NDArray[np.generic]) -> NDArray[np.generic]:
        """The given values as a dense (n_targets, n_sources) array, zero where no synapse is. For small layers."""
        by_source = np.zeros((self.n_sources, self.n_targets), values.dtype)
        by_source[self.sources, self.targets] = values  # in the order of memory, which is many times faster
        return np.ascontiguousarray(by_source.T)

    def select(self, sources: NDArray[np.bool_], targets: NDArray[np.bool_]) -> tuple[Connectivity, NDArray[np.bool_]]:
        keep = np.repeat(sources, self.fan_out) & targets[self.targets]
        # Lists of sources that are not kept are empty by now: their ends are simply left out.
        indptr = np.concatenate([[0], self._ends(keep)[1:][sources]])
        new_target = np.cumsum(targets, dtype=np.int32) - np.int32(1)
        chosen = Connectivity(int(sources.sum()), int(targets.sum()), indptr, new_target[self.targets[keep]])
        return chosen, keep

    def describe(self, weight: int) -> str:
        source = int(np.searchsorted(self.indptr, weight, side="right")) - 1
        return f"synapse {source} -> {int(self.targets[weight])}"

    def verify(self, where: str) -> None:
        """Raise SnncError unless the lists are well formed: bounds, order, no synapse twice."""
        ok = (
            self.indptr.shape == (self.n_sources + 1,)
            and self.indptr[0] == 0
            and self.indptr[-1] == len(self.targets)
            and bool(np.all(np.diff(self.indptr) >= 0))
        )
        if ok and len(self.targets):
            ok = int(self.targets.min()) >= 0 and int(self.targets.max()) < self.n_targets
            if ok:
                ascends = self.targets[1:] > self.targets[:-1]
                starts = self.indptr[1:-1]
                ascends[starts[(starts > 0) & (starts < len(self.targets))] - 1] = True
                ok = bool(ascends.all())
        if not ok:
            raise SnncError(
                "the synapse lists are damaged",
                where=where,
                allowed=f"{self.n_sources} lists of strictly ascending targets in 0..{self.n_targets - 1}",
                remedy="export the network again",
            )

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Connectivity)
            and (self.n_sources, self.n_targets) == (other.n_sources, other.n_targets)
            and np.array_equal(self.indptr, other.indptr)
            and np.array_equal(self.targets, other.targets)
        )

    __hash__ = None  # type: ignore[assignment]

"""Parts of a connection by target neurons, each at a cost that grows with the synapses in it alone.

A partitioner looks at many cuts of one population, and at few slices of most of them. So the synapses are brought into
the order of their targets once, and the lists of any slice are then made from its own synapses:

    by_target = ByTarget.of(lists)                    # once a connection and population, about 10 ns a synapse
    for start, stop in itertools.pairwise(edges):
        part = by_target.window(start, stop)          # SynapseLists, as lists.window(targets=(start, stop))
    part = by_target.select(region.neurons())         # any neurons, in the order of the core's compartments

It holds 6 bytes a synapse (source and mantissa): drop it when its population is cut.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from toolchain.ir.connectivity import Connectivity
from toolchain.mapping.synapse_memory import SynapseLists


@dataclass(frozen=True, eq=False)
class ByTarget:
    """The synapses of one connection in compressed columns: by target, and by source within a target.

    lists: what they came from.  columns: shape (n_sources, n_targets), values are mantissas.
    """

    lists: SynapseLists
    columns: sparse.csc_array

    @classmethod
    def of(cls, lists: SynapseLists) -> ByTarget:
        whole = lists.connectivity
        rows = sparse.csr_array(
            (lists.mantissas, whole.targets, whole.indptr), shape=(whole.n_sources, whole.n_targets)
        )
        return cls(lists, rows.tocsc())

    @property
    def fan_in(self) -> NDArray[np.int64]:
        """Synapses of every target neuron, shape (n_targets,)."""
        return np.diff(self.columns.indptr).astype(np.int64)

    def window(self, start: int, stop: int) -> SynapseLists:
        """The lists onto the targets [start, stop), counted from `start`."""
        whole = self.columns
        if (start, stop) == (0, whole.shape[1]):
            return self.lists
        first, last = int(whole.indptr[start]), int(whole.indptr[stop])
        indptr = whole.indptr[start : stop + 1] - whole.indptr[start]
        return self._lists(whole.indices[first:last], whole.data[first:last], indptr)

    def select(self, neurons: NDArray[np.integer]) -> SynapseLists:
        """The lists onto these targets, no target twice; target neurons[k] becomes number k."""
        part = self.columns[:, neurons]
        return self._lists(part.indices, part.data, part.indptr)

    def _lists(
        self, sources: NDArray[np.integer], mantissas: NDArray[np.integer], indptr: NDArray[np.integer]
    ) -> SynapseLists:
        n_sources, n_targets = self.columns.shape[0], len(indptr) - 1
        rows = sparse.csc_array((mantissas, sources, indptr), shape=(n_sources, n_targets)).tocsr()
        connectivity = Connectivity(n_sources, n_targets, rows.indptr.astype(np.int64), rows.indices.astype(np.int32))
        return replace(self.lists, connectivity=connectivity, mantissas=rows.data)

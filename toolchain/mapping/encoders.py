"""How the lists of a slice are cut into entries, for each encoding (rule `nxtf`, all lists at once).

Source: the entry rules of Intel's published compiler (NxTF, synapse encoder), re-stated in docs as the accounting
of synaptic memory. An entry holds at most `entry_synapses` synapses and ends earlier
- SPARSE: never;
- RUNLENGTH: where the next index is more than a skip field can express (`2^skip_bits_max`) away;
- DENSE1: where the next index is not the following one;
- DENSE2: where the next index is not among the `entry_synapses` that start at the entry's first; gaps in between
  are stored as zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import SnncError
from toolchain.mapping.synapse_memory import Parameters, cumulated


@dataclass(frozen=True, eq=False)
class Entries:
    """Entries of one encoding and one sign, in the order of the lists. All arrays int64, shape (n_entries,).

    row: the source. start, stop: its synapses, as positions in the (sign-filtered) targets. stored: synapses
    written, zeros in gaps included. index: the largest value its index field must hold. skip: largest skip.
    """

    row: NDArray[np.int64]
    start: NDArray[np.int64]
    stop: NDArray[np.int64]
    stored: NDArray[np.int64]
    index: NDArray[np.int64]
    skip: NDArray[np.int64]


def ragged_arange(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """0..counts[0]-1, 0..counts[1]-1, ... as one int64 array."""
    return np.arange(int(counts.sum()), dtype=np.int64) - np.repeat(cumulated(counts)[:-1], counts)


def _rows(indptr: NDArray[np.int64], positions: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.searchsorted(indptr, positions, side="right") - 1


def _cut(
    indptr: NDArray[np.int64], n_synapses: int, breaks: NDArray[np.bool_] | None, longest: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Start and stop of entries of at most `longest` synapses; `breaks[k]`: synapse k + 1 starts a new one."""
    list_starts = indptr[:-1][np.diff(indptr) > 0]
    runs = list_starts
    if breaks is not None:
        breaks[list_starts[1:] - 1] = True
        runs = np.concatenate([list_starts[:1], np.flatnonzero(breaks) + 1])
    length = np.diff(np.append(runs, n_synapses))
    pieces = -(-length // longest)
    start = np.repeat(runs, pieces) + longest * ragged_arange(pieces)
    return start, np.append(start[1:], n_synapses)


def _sparse(indptr: NDArray[np.int64], targets: NDArray[np.int32], rule: Parameters) -> Entries:
    start, stop = _cut(indptr, len(targets), None, rule["entry_synapses"])
    last = targets[stop - 1].astype(np.int64)
    return Entries(_rows(indptr, start), start, stop, stop - start, last, np.zeros_like(start))


def _runlength(indptr: NDArray[np.int64], targets: NDArray[np.int32], rule: Parameters) -> Entries:
    skips = np.zeros(len(targets), np.int32)
    skips[1:] = np.diff(targets)
    far = skips[1:] >= 1 << rule["skip_bits_max"]
    start, stop = _cut(indptr, len(targets), far, rule["entry_synapses"])
    skips[start] = 0
    widest = np.maximum.reduceat(skips, start).astype(np.int64)
    return Entries(_rows(indptr, start), start, stop, stop - start, targets[start].astype(np.int64), widest)


def _dense1(indptr: NDArray[np.int64], targets: NDArray[np.int32], rule: Parameters) -> Entries:
    start, stop = _cut(indptr, len(targets), np.diff(targets) != 1, rule["entry_synapses"])
    first = targets[start].astype(np.int64)
    return Entries(_rows(indptr, start), start, stop, stop - start, first, np.zeros_like(start))


def _dense2(indptr: NDArray[np.int64], targets: NDArray[np.int32], rule: Parameters) -> Entries:
    longest = rule["entry_synapses"]
    # One ascending key for all lists, with room so that the window of one list never reaches into the next.
    stride = (int(targets.max()) if len(targets) else 0) + longest + 1
    fan_out = np.diff(indptr)
    key = targets + np.repeat(np.arange(len(fan_out), dtype=np.int64) * stride, fan_out)
    rows = np.flatnonzero(fan_out)
    at, rounds = indptr[rows], []
    count = np.zeros(len(fan_out), np.int64)
    while len(rows):  # one round a window: at most (target range) / (entry length) rounds, not one a source
        beyond = np.searchsorted(key, key[at] + longest)
        rounds.append((rows, at, beyond))
        count[rows] += 1
        more = beyond < indptr[rows + 1]
        rows, at = rows[more], beyond[more]
    row, start, stop = np.empty((3, int(count.sum())), np.int64)
    first = cumulated(count)
    for k, (rows, at, beyond) in enumerate(rounds):  # round k found the entry k of each of its lists
        place = first[rows] + k
        row[place], start[place], stop[place] = rows, at, beyond
    first = targets[start].astype(np.int64)
    return Entries(row, start, stop, targets[stop - 1] - first + 1, first, np.zeros_like(start))


_CUTTERS: Mapping[str, Callable[[NDArray[np.int64], NDArray[np.int32], Parameters], Entries]] = {
    "dense1": _dense1,
    "dense2": _dense2,
    "sparse": _sparse,
    "runlength": _runlength,
}


def entries(encoding: str, indptr: NDArray[np.int64], targets: NDArray[np.int32], rule: Parameters) -> Entries:
    """The entries of all lists in one encoding.

    Raises:
        SnncError: a target index that the widest index field cannot hold.
    """
    if not len(targets):
        none = np.zeros(0, np.int64)
        return Entries(none, none, none, none, none, none)
    limit = (1 << rule["index_bits_max"]) - 1
    if int(targets.max()) > limit:
        raise SnncError(
            "a compartment index does not fit the index field of a synapse entry",
            got=int(targets.max()),
            allowed=f"0..{limit} ({rule['index_bits_max']} bits)",
            remedy="give the core fewer compartments",
        )
    return _CUTTERS[encoding](indptr, targets, rule)


def field_bits(values: NDArray[np.int64], least: int, most: int) -> NDArray[np.int64]:
    """Bits to hold each value, ceil(log2(value + 1)), clamped to the widths that the field has."""
    powers = np.int64(1) << np.arange(least, most, dtype=np.int64)
    return least + np.searchsorted(powers, values, side="right")


def index_bits(index: NDArray[np.int64], rule: Parameters) -> NDArray[np.int64]:
    return field_bits(index, rule["index_bits_min"], rule["index_bits_max"])


def skip_bits(skip: NDArray[np.int64], rule: Parameters) -> NDArray[np.int64]:
    return field_bits(skip, rule["skip_bits_min"], rule["skip_bits_max"])


def sign_lists(
    indptr: NDArray[np.int64], mantissas: NDArray[np.integer]
) -> dict[str, tuple[NDArray[np.int64], NDArray[np.bool_] | None]]:
    """For each sign mode the list pointers and which synapses belong to it (None: all).

    Weights >= 0 are excitatory, weights < 0 inhibitory, as in the published encoder.
    """
    negative = mantissas < 0
    below = cumulated(negative)[indptr]
    return {
        "mixed": (indptr, None),
        "excitatory": (indptr - below, ~negative),
        "inhibitory": (below, negative),
    }

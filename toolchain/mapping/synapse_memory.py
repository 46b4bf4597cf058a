"""What synapses cost in a core's synaptic memory: one function a published rule, whole cores at a time.

The synapses of one source neuron onto one core are one *list*: the core's input axon points at it. A slice is the
set of lists that one connection brings onto one core. Every function takes a slice and returns its exact cost; the
numbers of a rule (word length, entry length, register counts) are data of the target file, not of this module.

Rule `nxtf`, in the encoder that Intel published (Rueckauer et al., NxTF): a list is cut into entries, entries are
packed one after another, six bits must remain free behind the last one, and the list is rounded up to words.
Every entry names one of the core's few *format registers*, which hold the encoding, the sign mode and the bit
widths. The rule for one list takes the narrowest widths for each entry; a core that has seven registers cannot
offer all of them at once, so a slice is charged with the widths of the registers that it really gets (encoders.py
cuts the lists, encoders_registers.py chooses, cost_models.py adds up).

What a partitioner may rely on (tested): with given registers, or as many as are needed, a list's cost depends on that
list alone and never falls when targets are appended behind its last one. It may fall when a target is inserted: a
filled gap joins two entries, or pushes a far index into the next one. Cutting a window from the front renumbers
the targets and so may do either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import UsageError, nearest
from toolchain.ir.connectivity import Connectivity
from toolchain.ir.weights import IntegerSynapses

COST_MODELS: Mapping[str, str] = {
    "nxtf": "toolchain.mapping.cost_models:cost_nxtf",
    "nengo": "toolchain.mapping.cost_models:cost_nengo",
    "loihi2-fitted": "toolchain.mapping.cost_models:cost_loihi2_fitted",
    "count": "toolchain.mapping.cost_count:cost_count",
}

ENCODINGS = ("dense1", "dense2", "sparse", "runlength")
SIGN_LISTS = ("one_list", "shared_sign")
COMBINATIONS = tuple(f"{encoding}/{signs}" for encoding in ENCODINGS for signs in SIGN_LISTS)

# What a format register holds for each encoding: DENSE1 and DENSE2 differ only in how the compiler cuts entries.
REGISTER_KIND = {"dense1": "dense", "dense2": "dense", "sparse": "sparse", "runlength": "runlength"}

Parameters = Mapping[str, Any]


def cumulated(counts: NDArray[Any]) -> NDArray[np.int64]:
    """Running sums with a leading 0: int64, one longer than `counts`."""
    out = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=out[1:])
    return out


Senders = tuple[tuple[slice, ...], NDArray[np.bool_], "NDArray[np.bool_] | None"]
"""A box of the source population, on the axes that the connection gives it; which sources in it have a synapse onto the
slice; and which of them reach this slice only, and share an axon with the others in their column (None: nobody)."""


class Axons(Protocol):
    """How the source neurons of a connection point at the lists that a slice stores.

    The sources in one column of a map that reach one slice only share an axon: one input axon, and two output axon
    entries for all of them together. Every other source takes one of each for every slice that it reaches.
    """

    @property
    def n_axons(self) -> int:
        """Input axons: one for each source, or for each column of sources that reach nothing else."""
        ...

    @property
    def shared_groups(self) -> int:
        """Stored lists that serve several sources."""
        ...

    @property
    def n_synapses(self) -> int:
        """Pairs of neurons that are connected, however often their weights are stored."""
        ...

    def sources(self) -> Senders:
        """Who sends here (see `Senders`)."""
        ...

    def source(self, stored: int) -> int:
        """A source of a stored list, by its number."""
        ...


@dataclass(frozen=True, eq=False)
class OwnLists:
    """Every source has a list of its own. used: bool, shape (n_sources,), whether it is not empty."""

    used: NDArray[np.bool_]
    n_synapses: int
    shared_groups: int = 0

    @cached_property
    def n_axons(self) -> int:
        return int(np.count_nonzero(self.used))

    def sources(self) -> Senders:
        return (slice(0, len(self.used)),), self.used, None

    def source(self, stored: int) -> int:
        return stored


@dataclass(frozen=True, eq=False)
class SynapseLists:
    """The synapses of one slice: lists by source neuron, targets counted from the first compartment of the slice.

    connectivity: n_sources lists; its targets are local compartment indices, strictly ascending in a list.
    mantissas: integer, shape (n_synapses,), in the order of the targets. weight_bits, delay_bits: bits of each.
    weight_exponent: weight = mantissa * 2**weight_exponent; it costs no bits, but a register holds only one.
    shared: how sources point at the lists, where these are not one for each source but groups that sources share.
    """

    connectivity: Connectivity
    mantissas: NDArray[np.integer]
    weight_bits: int
    delay_bits: int = 0
    weight_exponent: int = 0
    shared: Axons | None = None

    @property
    def axons(self) -> Axons:
        """How the sources point at the lists."""
        return self.shared or OwnLists(self.connectivity.fan_out > 0, self.connectivity.n_synapses)

    @classmethod
    def of(cls, synapses: IntegerSynapses) -> SynapseLists:
        """All synapses of a connection with explicit lists, as one slice."""
        assert isinstance(synapses.connectivity, Connectivity), "a convolution has no lists"
        return cls(
            synapses.connectivity,
            synapses.mantissa,
            synapses.weight_bits,
            weight_exponent=synapses.exponent,
        )

    def cost(self, model: str, parameters: Parameters, choice: FormatChoice) -> SliceCost:
        """The cost as one slice under a named rule."""
        return cost_slice(model, self, parameters, choice)

    def written(self, where: str) -> SynapseLists:
        """The lists as an image of the synaptic memory holds them: these."""
        return self

    def window(self, sources: tuple[int, int] | None = None, targets: tuple[int, int] | None = None) -> SynapseLists:
        """The part between two source numbers and two target numbers (each first, last + 1), renumbered from 0."""
        whole = self.connectivity
        first, stop = sources or (0, whole.n_sources)
        low, high = targets or (0, whole.n_targets)
        indptr = whole.indptr[first : stop + 1]
        part = slice(int(indptr[0]), int(indptr[-1]))
        kept, mantissas, indptr = whole.targets[part], self.mantissas[part], indptr - indptr[0]
        if (low, high) != (0, whole.n_targets):
            inside = (kept >= low) & (kept < high)
            indptr = cumulated(inside)[indptr]
            kept, mantissas = kept[inside] - np.int32(low), mantissas[inside]
        chosen = Connectivity(stop - first, high - low, indptr, kept)
        return replace(self, connectivity=chosen, mantissas=mantissas)


@dataclass(frozen=True, order=True)
class Format:
    """What one format register of a core holds, so far as slices of our kind differ in it.

    The exponent decides no bits, but layers of different weight scale cannot share a register.
    """

    encoding: str  # sparse, runlength or dense
    sign_mode: str  # mixed, excitatory or inhibitory
    weight_bits: int
    delay_bits: int
    index_bits: int
    skip_bits: int  # 0 except for runlength
    weight_exponent: int = 0
    index_offset: int = 0
    index_multiplier: int = 0  # an index n stands for compartment index_offset + (index_multiplier + 1) * n


@dataclass(frozen=True, eq=False)
class SliceCost:
    """Synaptic memory of one slice. payload + index + header + padding bits = 64 * words.

    words_per_axon: int64, shape (n_lists,): one for each source, 0 where it has no synapse here (it needs no input
    axon), or, of a convolution, one for each stored group; `source` names a source of a list.
    combination: int8, shape (n_lists,), index into `combinations` of the cheapest way to write that list, or -1.
    synapses: pairs of neurons; a weight that is stored once may make many.  axons: how sources point at the lists.
    payload_bits: weights and delays as stored. index_bits: indices, skips and prefixes. header_bits: format
    numbers and counts. padding_bits: zeros in gaps, weight bits that the memory cannot omit, ends of words.
    formats: the format registers in use (`nxtf` only); `max_formats` was the number allowed, None for no limit.
    longest: words of the longest list, where `words_per_axon` counts groups of lists.
    """

    model: str
    words: int
    words_per_axon: NDArray[np.int64]
    axons: Axons
    synapses: int
    entries: int
    payload_bits: int
    index_bits: int
    header_bits: int
    padding_bits: int
    combination: NDArray[np.int8]
    combinations: tuple[str, ...]
    formats: tuple[Format, ...] = ()
    max_formats: int | None = None
    longest: int | None = None

    @property
    def n_axons(self) -> int:
        """Input axons: one for each source, or for each column of sources that reach nothing else."""
        return self.axons.n_axons

    @property
    def shared_groups(self) -> int:
        """Stored lists that serve several sources."""
        return self.axons.shared_groups

    def source(self, stored: int) -> int:
        """A source of a stored list, by its number."""
        return self.axons.source(stored)

    @property
    def bits(self) -> int:
        """All bits of the words used."""
        return self.payload_bits + self.index_bits + self.header_bits + self.padding_bits

    @property
    def largest_list_words(self) -> int:
        """Words of the longest list (a core limits the words of one input axon)."""
        return int(self.words_per_axon.max(initial=0)) if self.longest is None else self.longest

    def axons_by_combination(self) -> dict[str, int]:
        """How many lists each encoding won, by name."""
        counts = np.bincount(self.combination[self.combination >= 0], minlength=len(self.combinations))
        return {name: int(count) for name, count in zip(self.combinations, counts, strict=True) if count}

    def words_by_combination(self) -> dict[str, int]:
        """Words in each encoding, by name."""
        used = self.combination >= 0
        words = np.bincount(self.combination[used], self.words_per_axon[used], minlength=len(self.combinations))
        return {name: int(count) for name, count in zip(self.combinations, words, strict=True) if count}


@dataclass(frozen=True)
class FormatChoice:
    """What a slice may use: encodings, sign lists, and how many format registers (None: as many as it likes).

    `formats` fixes the registers instead of searching for the best ones; those with other weight bits, delay bits or
    exponent than the slice has are of no use to it. With fixed registers the cost of a list
    depends on that list alone, so slices may be cut by sources and their costs added.
    """

    encodings: tuple[str, ...] = ENCODINGS
    sign_lists: tuple[str, ...] = SIGN_LISTS
    max_formats: int | None = 7
    formats: tuple[Format, ...] | None = None


class CostModel(Protocol):
    def __call__(self, lists: SynapseLists, parameters: Parameters, choice: FormatChoice) -> SliceCost: ...


def cost_model(name: str) -> CostModel:
    """The cost model of that name.

    Raises:
        UsageError: no such model.
    """
    if name not in COST_MODELS:
        raise UsageError(f"unknown cost model {name!r}", allowed=nearest(name, COST_MODELS))
    module, attribute = COST_MODELS[name].split(":")
    return cast(CostModel, getattr(import_module(module), attribute))


def cost_slice(
    model: str, lists: SynapseLists, parameters: Parameters, choice: FormatChoice | None = None
) -> SliceCost:
    """The cost of one slice under a named rule; `parameters` are the target's `cost_models[model]`.

    `choice` matters to `nxtf` only; without it, every encoding and as many registers as `parameters` allow.
    """
    return cost_model(model)(lists, parameters, choice or FormatChoice(max_formats=parameters.get("formats")))

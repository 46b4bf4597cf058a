"""The cost models: a slice in, its words and bits out. Their numbers come from the target file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import SnncError
from toolchain.mapping.encoders_registers import (
    IMPOSSIBLE,
    SIGN_MODES_OF,
    Search,
    Written,
    define,
    every_register,
    formats_of,
    gather,
)
from toolchain.mapping.synapse_memory import (
    ENCODINGS,
    SIGN_LISTS,
    FormatChoice,
    Parameters,
    SliceCost,
    SynapseLists,
)


def stored_weight_bits(weight_bits: int, parameters: Parameters) -> int:
    """The narrowest weight field of the memory that holds so many bits.

    Raises:
        SnncError: no field is wide enough.
    """
    able = [bits for bits in parameters["weight_bits"] if bits >= max(weight_bits, 1)]
    if not able:
        raise SnncError(
            "no weight field of this target is wide enough",
            got=f"{weight_bits} bits",
            allowed=f"at most {max(parameters['weight_bits'])}",
            remedy="quantise to fewer bits",
        )
    return min(able)


Write = Callable[[SynapseLists, FormatChoice, int, Parameters], Written]


@dataclass
class _Paths:
    """Which of two equal ways costs the next slice: numpy at first, the compiled one once numpy has had much to do.

    Loading the compiled way takes half a second, as long as numpy needs for `enough`; a small network is done before.
    On a machine that has not compiled it yet it takes 15 seconds, once, so numpy goes on for `patience`.
    Both count synapses and sources, and 5000 a slice.
    """

    work: int = 0
    enough: int = 600_000
    patience: int = 10_000_000

    def write(self, lists: SynapseLists) -> Write:
        if self.work < self.limit:
            self.work += len(lists.mantissas) + lists.connectivity.n_sources + 5000
            return define
        return self.compiled

    @cached_property
    def limit(self) -> int:
        return self.enough if _is_compiled() else self.patience

    @cached_property
    def compiled(self) -> Write:
        try:
            from toolchain.mapping.nxtf_compiled import write
        except (ImportError, RuntimeError):  # numba finds no folder where it may keep what it compiles
            return define
        return write


def _is_compiled() -> bool:
    """Whether numba has kept the compiled functions next to their source."""
    return next((Path(__file__).parent / "__pycache__").glob("nxtf_kernels.settle-*.nbi"), None) is not None


_PATHS = _Paths()


@dataclass(frozen=True, eq=False)
class CombinationCost:
    """The published rule for one combination, every list at its narrowest widths. int64, shape (n_sources,)."""

    bits: NDArray[np.int64]
    words: NDArray[np.int64]
    entries: NDArray[np.int64]


def combination_costs(lists: SynapseLists, parameters: Parameters) -> dict[str, CombinationCost]:
    """Bits, words and entries of every list in each combination, by the published rule for one list.

    As the rule has it: widths are chosen for each entry, however many format registers that takes, weight bits are
    taken as given, and nobody asks whether the weights fit. This is what Intel's encoder counts.
    """
    per_synapse = lists.weight_bits + lists.delay_bits
    everything = FormatChoice(max_formats=None)
    needs = gather(lists, ENCODINGS, SIGN_LISTS, None, parameters)
    search = Search(needs, everything, per_synapse, parameters)
    table = every_register(search)
    out = {}
    for encoding, signs in search.pairs:
        count = sum(needs[encoding, mode].entries.sum(axis=1) for mode in SIGN_MODES_OF[signs])
        pair = (encoding, signs)
        out[f"{encoding}/{signs}"] = CombinationCost(
            search.bits(pair, table), search.words(pair, table), np.asarray(count, np.int64)
        )
    return out


def cost_nxtf(lists: SynapseLists, parameters: Parameters, choice: FormatChoice) -> SliceCost:
    """Rule of Intel's NxTF compiler, every list in its cheapest combination, within the registers that there are.

    Raises:
        SnncError: an index or a weight that cannot be stored, or no combination fits the registers.
    """
    weight_bits = stored_weight_bits(lists.weight_bits, parameters)
    per_synapse = weight_bits + lists.delay_bits
    write = _PATHS.write(lists)
    written = write(lists, choice, weight_bits, parameters)
    per_axon = written.words
    names = tuple(f"{e}/{s}" for e in choice.encodings for s in choice.sign_lists)
    if len(per_axon) and int(per_axon.max()) >= IMPOSSIBLE // parameters["word_bits"]:
        raise SnncError(
            "no register of the slice can hold some of its lists",
            where=f"source {lists.axons.source(int(per_axon.argmax()))} of the slice",
            got=f"{int((per_axon >= IMPOSSIBLE // parameters['word_bits']).sum())} lists",
            allowed=", ".join(names),
            remedy="allow more combinations or more registers, or quantise to more weight bits",
        )
    n_synapses, total = lists.connectivity.n_synapses, int(per_axon.sum())
    payload = n_synapses * (lists.weight_bits + lists.delay_bits)
    header = written.entries * (parameters["format_id_bits"] + parameters["count_bits"])
    index = written.bits - header - written.stored * per_synapse
    return SliceCost(
        model="nxtf",
        words=total,
        words_per_axon=per_axon,
        axons=lists.axons,
        synapses=lists.axons.n_synapses,
        entries=written.entries,
        payload_bits=payload,
        index_bits=index,
        header_bits=header,
        padding_bits=total * parameters["word_bits"] - payload - index - header,
        combination=written.combination,
        combinations=names,
        formats=formats_of(written.used, lists, weight_bits),
        max_formats=choice.max_formats if choice.formats is None else len(choice.formats),
    )


def cost_nengo(lists: SynapseLists, parameters: Parameters, choice: FormatChoice) -> SliceCost:
    """Rule of nengo-loihi 1.1.0: every run of 64 synapses has its own header and is rounded up to words.

    Source: `SynapseConfig.bits_per_axon`. `sparse` (its compression 0) stores an index with each synapse, of the
    width that the largest index of the slice needs; `dense` (its compression 3) stores none, so every compartment
    of the slice up to the last one of the list is stored, zeros included. The cheaper of the two is taken for the
    slice, as its format belongs to all lists of a slice. It has no encoding that saves on runs.
    Unlike nengo-loihi, a sparse matrix is not charged as if its synapses needed no index.
    """
    weight_bits = stored_weight_bits(lists.weight_bits, parameters)
    per_synapse = weight_bits + lists.delay_bits
    whole = lists.connectivity
    fan_out = whole.fan_out
    has = fan_out > 0
    last = np.zeros_like(fan_out)
    last[has] = whole.targets[whole.indptr[1:][has] - 1] + 1
    top = int(last.max(initial=0)) - 1
    fields = [bits for bits in parameters["index_bits"] if bits >= max(top, 0).bit_length()]
    if not fields:
        raise SnncError(
            "a compartment index does not fit the index field of a synapse",
            got=top,
            allowed=f"{max(parameters['index_bits'])} bits",
            remedy="give the core fewer compartments",
        )
    variants = {"dense": (last, 0), "sparse": (fan_out, min(fields))}
    chosen: tuple[int, str, NDArray[np.int64]] | None = None
    for name, (stored, index) in variants.items():
        words = nengo_words(stored, per_synapse + index, parameters)
        if chosen is None or int(words.sum()) < chosen[0]:
            chosen = (int(words.sum()), name, words)
    assert chosen is not None
    total, name, per_axon = chosen
    stored, index = variants[name]
    runs = int((-(-stored // parameters["run_synapses"])).sum())
    header = runs * (parameters["format_id_bits"] + parameters["count_bits"])
    payload = whole.n_synapses * (lists.weight_bits + lists.delay_bits)
    index_total = int(stored.sum()) * index
    return SliceCost(
        model="nengo",
        words=total,
        words_per_axon=per_axon,
        axons=lists.axons,
        synapses=lists.axons.n_synapses,
        entries=runs,
        payload_bits=payload,
        index_bits=index_total,
        header_bits=header,
        padding_bits=total * parameters["word_bits"] - payload - index_total - header,
        combination=np.where(has, tuple(variants).index(name), -1).astype(np.int8),
        combinations=tuple(variants),
    )


def nengo_words(stored: NDArray[np.int64], bits_per_synapse: int, parameters: Parameters) -> NDArray[np.int64]:
    """Words of lists of so many stored synapses: full runs and the rest, each with header and rounded up."""
    header = parameters["format_id_bits"] + parameters["count_bits"]
    run, word = parameters["run_synapses"], parameters["word_bits"]
    full, rest = np.divmod(stored, run)
    full_words = -(-(run * bits_per_synapse + header) // word)
    rest_words = np.where(rest > 0, -(-(rest * bits_per_synapse + header) // word), 0)
    return full * full_words + rest_words


def cost_loihi2_fitted(lists: SynapseLists, parameters: Parameters, choice: FormatChoice) -> SliceCost:
    """Loihi 2, FITTED to published utilisation rows, not a published rule: ceil((n * b + h) / 64) words a list.

    n synapses of the list, b `bits_per_synapse` (20), h `header_bits` (the largest of the fitted range, 16).
    The rows behind the fit are dense layers. For sparse lists it is ASSUMED that only the synapses that exist are
    stored, at the same b: 20 bits are room for an 8-bit weight and a 12-bit index, so the dense rows of the fit
    look like index lists already. The bits beyond the weight are therefore reported as index bits.
    """
    fan_out = lists.connectivity.fan_out
    has = fan_out > 0
    each, header = parameters["bits_per_synapse"], parameters["header_bits"]
    bits = fan_out * each + header
    per_axon = np.where(has, -(-bits // parameters["word_bits"]), 0)
    total, n_synapses = int(per_axon.sum()), lists.connectivity.n_synapses
    real = lists.weight_bits + lists.delay_bits
    if real > each:
        raise SnncError(
            "the fitted rule of Loihi 2 knows no synapse so wide",
            got=f"{lists.weight_bits} weight bits and {lists.delay_bits} delay bits",
            allowed=f"{each} bits together",
            remedy="quantise to 8 bits or fewer",
        )
    payload, index, head = n_synapses * real, n_synapses * (each - real), int(has.sum()) * header
    return SliceCost(
        model="loihi2-fitted",
        words=total,
        words_per_axon=per_axon,
        axons=lists.axons,
        synapses=lists.axons.n_synapses,
        entries=int(has.sum()),
        payload_bits=payload,
        index_bits=index,
        header_bits=head,
        padding_bits=total * parameters["word_bits"] - payload - index - head,
        combination=np.where(has, 0, -1).astype(np.int8),
        combinations=("row",),
    )


@dataclass(frozen=True)
class PoolUse:
    """Words of a Loihi 2 core's memory pool by consumer (fitted, see `cost_loihi2_fitted`)."""

    synapse_words: int
    neuron_words: int
    input_axon_words: int
    axon_map_words: int
    axon_memory_words: int

    @property
    def words(self) -> int:
        return (
            self.synapse_words
            + self.neuron_words
            + self.input_axon_words
            + self.axon_map_words
            + self.axon_memory_words
        )


def pool_use(
    parameters: Parameters, *, synapse_words: int, neurons: int, input_axons: int, axon_entries: int, axon_maps: int
) -> PoolUse:
    """The pool of a core.

    axon_entries: entries of the axon memory, one for each core that a neuron's spikes go to.  axon_maps: neurons, or,
    of a convolution, the positions of the map.
    """
    return PoolUse(
        synapse_words,
        neurons * parameters["words_per_neuron"],
        input_axons * parameters["words_per_input_axon"],
        axon_maps * parameters["axon_map_words_per_neuron"],
        axon_entries * parameters["words_per_axon_entry"],
    )

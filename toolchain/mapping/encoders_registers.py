"""Which format registers a core gets, and what its lists then cost (rule `nxtf`).

A register fixes encoding, sign mode, weight bits, delay bits, index bits, skip bits and the weight exponent. The first
six are in the format record of Intel's compiler (with an index offset and multiplier that a dense slice leaves alone);
the exponent nengo-loihi writes to the same register. Intel's compiler allows itself seven a core and merges formats to
the wider widths when it needs more. Here the registers are chosen instead: from the fewest that write every list,
registers are added as long as one saves words.

An entry takes the narrowest register that holds it: skip bits first (they are paid for every synapse), then index
bits. Number 0 is never given to a register: nengo-loihi keeps it unused, and Intel's limit of 7 with the plan
to raise it to 15 fits 8 or 16 registers of which one is reserved.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import SnncError
from toolchain.mapping.encoders import Entries, entries, index_bits, sign_lists, skip_bits
from toolchain.mapping.synapse_memory import (
    REGISTER_KIND,
    Format,
    FormatChoice,
    Parameters,
    SynapseLists,
)

# Larger than any real list (a core has 2^20 bits), small enough that sums of it stay far inside int64.
IMPOSSIBLE = 1 << 44

SIGN_MODES_OF = {"one_list": ("mixed",), "shared_sign": ("excitatory", "inhibitory")}

Widths = tuple[int, int]  # index bits, skip bits (0 where the encoding has none)
Group = tuple[str, str]  # register kind, sign mode
Table = dict[Group, tuple[Widths, ...]]


@dataclass(frozen=True, eq=False)
class Needs:
    """What the lists of a slice need in one encoding and one sign mode, counted by width class.

    widths: the classes present, ascending. entries, stored: int64, (n_sources, n_classes). fits: bool
    (n_sources,), False where a weight is outside the range of the sign mode.
    """

    encoding: str
    widths: tuple[Widths, ...]
    entries: NDArray[np.int64]
    stored: NDArray[np.int64]
    fits: NDArray[np.bool_]

    def bits(self, offered: Iterable[Widths], per_synapse: int, per_entry: int) -> NDArray[np.int64]:
        """Bits of every list with these registers, int64 (n_sources,); IMPOSSIBLE or more where they do not do."""
        a = np.empty(len(self.widths), np.int64)
        b = np.empty(len(self.widths), np.int64)
        for k, need in enumerate(self.widths):
            width = narrowest(offered, need)
            index, skip = width or (IMPOSSIBLE, 0)
            a[k], b[k] = (0, index) if self.encoding == "sparse" else (index, skip)
        total = self.entries @ (a + per_entry) + self.stored @ (b + per_synapse)
        return np.where(self.fits, total, IMPOSSIBLE)

    def taken(self, offered: tuple[Widths, ...], rows: NDArray[np.bool_]) -> set[Widths]:
        """The registers that the entries of these lists take."""
        present = (self.entries[rows] > 0).sum(axis=0) > 0
        found = (narrowest(offered, need) for need, here in zip(self.widths, present, strict=True) if here)
        return {width for width in found if width is not None}


def list_words(bits: NDArray[np.int64], end_bits: int, word_bits: int) -> NDArray[np.int64]:
    """Words of lists of so many bits: `end_bits` (6) stay free behind the last entry; no bits, no words.

    This equals the published form, ceil(S / 64), and one more where S % 64 is 0 or at least 59.
    """
    return np.where(bits == 0, 0, -(-(bits + end_bits) // word_bits))


def narrowest(offered: Iterable[Widths], need: Widths) -> Widths | None:
    """The register that an entry takes: fewest skip bits, then fewest index bits; None when none is wide enough."""
    able = [width for width in offered if width[0] >= need[0] and width[1] >= need[1]]
    return min(able, key=lambda width: (width[1], width[0]), default=None)


def widths_needed(encoding: str, found: Entries, rule: Parameters) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Index bits and skip bits that each entry needs (skip bits 0 where the encoding has no skips)."""
    index = index_bits(found.index, rule)
    return index, skip_bits(found.skip, rule) if encoding == "runlength" else np.zeros_like(index)


def weight_fits(lists: SynapseLists, sign_mode: str, encoding: str, weight_bits: int) -> NDArray[np.bool_]:
    """Which lists a register of this sign mode can hold exactly, bool (n_sources,).

    Intel's encoder does not ask: it writes what it is given. DENSE2 fills gaps with zeros, so a synapse whose
    weight is zero could not be told from a gap; a list that has one is not offered DENSE2.
    """
    mantissas = lists.mantissas
    top = (1 << weight_bits) - 1
    if sign_mode == "mixed":
        half = 1 << (weight_bits - 1)
        bad = (mantissas < -half) | (mantissas >= half)
    else:
        bad = mantissas > top if sign_mode == "excitatory" else mantissas < -top
    if encoding == "dense2":
        bad = bad | (mantissas == 0)
    fits = np.ones(lists.connectivity.n_sources, bool)
    fits[lists.connectivity.sources[bad]] = False
    return fits


def gather(
    lists: SynapseLists, encodings: Iterable[str], signs: Iterable[str], weight_bits: int | None, rule: Parameters
) -> dict[tuple[str, str], Needs]:
    """The needs of a slice for every encoding and sign mode asked for (no weight bits: nobody asks what fits)."""
    whole = lists.connectivity
    n = whole.n_sources
    parts = sign_lists(whole.indptr, lists.mantissas)
    encodings = tuple(encodings)
    everything_fits = np.ones(n, bool)
    needs: dict[tuple[str, str], Needs] = {}
    for mode in (mode for sign in signs for mode in SIGN_MODES_OF[sign]):
        indptr, chosen = parts[mode]
        targets = whole.targets if chosen is None else whole.targets[chosen]
        for encoding in encodings:
            found = entries(encoding, indptr, targets, rule)
            index, skip = widths_needed(encoding, found, rule)
            code = index * 64 + skip
            classes, which = np.unique(code, return_inverse=True)
            at = found.row * len(classes) + which
            shape = (n, len(classes))
            count = np.bincount(at, minlength=n * len(classes)).astype(np.int64).reshape(shape)
            stored = np.bincount(at, found.stored, minlength=n * len(classes)).astype(np.int64).reshape(shape)
            needs[encoding, mode] = Needs(
                encoding,
                tuple((int(c) // 64, int(c) % 64) for c in classes),
                count,
                stored,
                everything_fits if weight_bits is None else weight_fits(lists, mode, encoding, weight_bits),
            )
    return needs


class Search:
    """Words of every list under any table of registers; what was computed once is kept."""

    def __init__(
        self, needs: Mapping[tuple[str, str], Needs], choice: FormatChoice, per_synapse: int, rule: Parameters
    ) -> None:
        self.needs, self.per_synapse, self.rule = needs, per_synapse, rule
        self.per_entry = rule["format_id_bits"] + rule["count_bits"]
        self.pairs = [(e, s) for e in choice.encodings for s in choice.sign_lists]
        self.groups: dict[Group, list[Needs]] = {}
        for (encoding, mode), need in needs.items():
            self.groups.setdefault((REGISTER_KIND[encoding], mode), []).append(need)
        self._bits: dict[tuple[str, str, tuple[Widths, ...]], NDArray[np.int64]] = {}
        self._words: dict[tuple[tuple[str, str], tuple[tuple[Widths, ...], ...]], NDArray[np.int64]] = {}

    def bits(self, pair: tuple[str, str], table: Table) -> NDArray[np.int64]:
        """Bits of every list in one combination, int64 (n_sources,)."""
        encoding, signs = pair
        total = np.int64(0)
        for mode in SIGN_MODES_OF[signs]:
            offered = table.get((REGISTER_KIND[encoding], mode), ())
            key = (encoding, mode, offered)
            if key not in self._bits:
                self._bits[key] = self.needs[encoding, mode].bits(offered, self.per_synapse, self.per_entry)
            total = total + self._bits[key]
        return total

    def words(self, pair: tuple[str, str], table: Table) -> NDArray[np.int64]:
        """Words of every list in one combination, int64 (n_sources,); none for a source without synapses."""
        kind = REGISTER_KIND[pair[0]]
        key = (pair, tuple(table.get((kind, mode), ()) for mode in SIGN_MODES_OF[pair[1]]))
        if key not in self._words:
            bits = self.bits(pair, table)
            self._words[key] = list_words(bits, self.rule["end_bits"], self.rule["word_bits"])
        return self._words[key]

    def total(self, table: Table) -> int:
        """Words of the slice, each list in its cheapest combination."""
        return int(np.minimum.reduce([self.words(pair, table) for pair in self.pairs]).sum())

    def widest(self, kind: str, mode: str) -> Widths | None:
        widths = [width for need in self.groups.get((kind, mode), ()) for width in need.widths]
        return (max(i for i, _ in widths), max(k for _, k in widths)) if widths else None

    def single(self) -> Iterator[tuple[Group, Widths]]:
        """Every register that could be useful."""
        for group, members in self.groups.items():
            index = sorted({i for need in members for i, _ in need.widths})
            skip = sorted({k for need in members for _, k in need.widths})
            for i in index:
                for k in skip:
                    yield group, (i, k)

    def starts(self) -> Iterator[Table]:
        """Tables that can write every list (where the weights fit): the widest registers of one combination."""
        for encoding, signs in self.pairs:
            kind = REGISTER_KIND[encoding]
            yield {
                (kind, mode): (width,)
                for mode in SIGN_MODES_OF[signs]
                if (width := self.widest(kind, mode)) is not None
            }


def _with(table: Table, added: Iterable[tuple[Group, Widths]]) -> Table:
    out = dict(table)
    for group, width in added:
        if width not in out.get(group, ()):
            out[group] = tuple(sorted((*out.get(group, ()), width)))
    return out


def _size(table: Table) -> int:
    return sum(len(widths) for widths in table.values())


def choose_registers(search: Search, limit: int) -> Table:
    """A table of at most `limit` registers with which the slice takes few words.

    Greedy: the best combination alone, then the addition that saves most words a register, as long as one saves.
    An addition is one register, or the widest pair of a sign-shared combination.

    Raises:
        SnncError: every combination needs more registers.
    """
    starts = sorted(
        (search.total(table), _size(table), sorted(table.items())) for table in search.starts() if _size(table) <= limit
    )
    if not starts:
        raise SnncError(
            "too few format registers for any of the combinations",
            got=limit,
            allowed=f"at least {min(_size(table) for table in search.starts())}",
            remedy="allow more registers or the combination one_list, or place fewer slices on this core",
        )
    table, words = dict(starts[0][2]), starts[0][0]
    additions: list[tuple[tuple[Group, Widths], ...]] = [(single,) for single in search.single()]
    additions += [tuple((group, widths[0]) for group, widths in start.items()) for start in search.starts()]
    while True:
        best: tuple[float, int, Table] | None = None
        for added in additions:
            grown = _with(table, added)
            cost = _size(grown) - _size(table)
            if cost == 0 or _size(grown) > limit:
                continue
            total = search.total(grown)
            rate = (words - total) / cost
            if rate > 0 and (best is None or rate > best[0]):
                best = (rate, total, grown)
        if best is None:
            return table
        _, words, table = best


@dataclass(frozen=True, eq=False)
class Written:
    """The lists of a slice, each in its cheapest combination.

    words: int64, (n_sources,). combination: int8, (n_sources,), its number, encodings outer and sign lists inner, or -1
    where the source has no synapse. entries, stored (synapses, zeros in gaps included), bits: sums over the lists.
    used: the registers that are taken.
    """

    words: NDArray[np.int64]
    combination: NDArray[np.int8]
    entries: int
    stored: int
    bits: int
    used: Table


def define(lists: SynapseLists, choice: FormatChoice, weight_bits: int, rule: Parameters) -> Written:
    """Every list in its cheapest combination, within the registers that there are; `weight_bits` are those stored.

    This is the definition, in numpy; nxtf_compiled.py gives the same for large networks.

    Raises:
        SnncError: an index that cannot be stored, or no combination fits the registers.
    """
    needs = gather(lists, choice.encodings, choice.sign_lists, weight_bits, rule)
    search = Search(needs, choice, weight_bits + lists.delay_bits, rule)
    if choice.formats is not None:
        table = table_of(choice.formats, lists, weight_bits)
    elif choice.max_formats is None:
        table = every_register(search)
    else:
        table = choose_registers(search, choice.max_formats)
    fan_out = lists.connectivity.fan_out
    words = np.stack([search.words(pair, table) for pair in search.pairs])
    winner = words.argmin(axis=0)
    entries = stored = bits = 0
    used: Table = {}
    for k, pair in enumerate(search.pairs):
        rows = (winner == k) & (fan_out > 0)
        bits += int(search.bits(pair, table)[rows].sum())
        for mode in SIGN_MODES_OF[pair[1]]:
            need = needs[pair[0], mode]
            entries += int(need.entries[rows].sum())
            stored += int(need.stored[rows].sum())
            group = (REGISTER_KIND[pair[0]], mode)
            taken = need.taken(table.get(group, ()), rows)
            if taken:
                used[group] = tuple(sorted({*used.get(group, ()), *taken}))
    combination = np.where(fan_out > 0, winner, -1).astype(np.int8)
    return Written(words[winner, np.arange(len(fan_out))], combination, entries, stored, bits, used)


def every_register(search: Search) -> Table:
    """A register for every class of widths: the rule for one list, as if a core had as many as it liked."""
    table: Table = {}
    for group, members in search.groups.items():
        table[group] = tuple(sorted({width for need in members for width in need.widths}))
    return table


def table_of(formats: Iterable[Format], lists: SynapseLists, weight_bits: int) -> Table:
    """The table that these registers make for a slice stored with so many weight bits; others are left out."""
    table: Table = {}
    for one in formats:
        if one == _format(one.encoding, one.sign_mode, one.index_bits, one.skip_bits, lists, weight_bits):
            table = _with(table, [((one.encoding, one.sign_mode), (one.index_bits, one.skip_bits))])
    return table


def formats_of(table: Table, lists: SynapseLists, weight_bits: int) -> tuple[Format, ...]:
    """The registers of a slice's table, in a fixed order."""
    return tuple(
        sorted(
            _format(kind, mode, index, skip, lists, weight_bits)
            for (kind, mode), widths in table.items()
            for index, skip in widths
        )
    )


def _format(kind: str, mode: str, index_bits: int, skip_bits: int, lists: SynapseLists, weight_bits: int) -> Format:
    return Format(kind, mode, weight_bits, lists.delay_bits, index_bits, skip_bits, lists.weight_exponent)

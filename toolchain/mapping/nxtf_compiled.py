"""Rule `nxtf`, compiled: the same answer as `encoders_registers.write`, for networks where numpy takes too long."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from toolchain.mapping import nxtf_kernels as kernels
from toolchain.mapping.encoders_registers import (
    SIGN_MODES_OF,
    Group,
    Table,
    Widths,
    Written,
    define,
    table_of,
)
from toolchain.mapping.synapse_memory import (
    ENCODINGS,
    REGISTER_KIND,
    SIGN_LISTS,
    FormatChoice,
    Parameters,
    SynapseLists,
)

Marks = NDArray[np.bool_]


def write(lists: SynapseLists, choice: FormatChoice, weight_bits: int, rule: Parameters) -> Written:
    """What every list of a slice takes in its cheapest combination: `encoders_registers.define`, compiled.

    Raises:
        SnncError: as `encoders_registers.define`.
    """
    whole = lists.connectivity
    if int(whole.targets.max(initial=0)) >> rule["index_bits_max"]:
        return define(lists, choice, weight_bits, rule)  # it says what is wrong
    numbers = kernels.numbers(rule, weight_bits, weight_bits + lists.delay_bits)
    pairs = np.array([(ENCODINGS.index(e), SIGN_LISTS.index(s)) for e in choice.encodings for s in choice.sign_lists])
    both = np.array([signs in choice.sign_lists for signs in SIGN_LISTS])
    # A core hears few of a wide layer's neurons: lists without synapses are left out, so that they cost no time.
    rows = np.flatnonzero(whole.fan_out)
    indptr = np.append(whole.indptr[rows], whole.indptr[-1]).astype(np.int64)
    targets = np.ascontiguousarray(whole.targets, np.int32)
    mantissas = np.ascontiguousarray(lists.mantissas, np.int16)
    *records, present = kernels.count(indptr, targets, mantissas, both, numbers)
    offer = _Offer(choice, present, rule)
    if choice.formats is not None:
        table = offer.marks(table_of(choice.formats, lists, weight_bits))
    elif choice.max_formats is None:
        table = offer.marks(offer.every())
    else:
        # Of tables with as few words the one with fewer registers is taken, then the first by name.
        starts = {tuple(sorted(start.items())): start for start in offer.starts() if len(start) <= choice.max_formats}
        tables = [offer.marks(starts[key]) for key in sorted(starts, key=lambda key: (len(key), key))]
        if not tables:
            return define(lists, choice, weight_bits, rule)  # it says how many registers it takes
        additions = offer.additions()
        table = kernels.choose(*records, present, pairs, np.stack(tables), additions, choice.max_formats, numbers)
    found_words, found_combination, totals, used = kernels.settle(*records, pairs, table, numbers)
    words, combination = np.zeros(whole.n_sources, np.int64), np.full(whole.n_sources, -1, np.int8)
    words[rows], combination[rows] = found_words, found_combination
    entries, stored, bits = totals.tolist()
    return Written(words, combination, entries, stored, bits, offer.table(used))


class _Offer:
    """Registers that could be useful to a slice, in the order in which the definition tries them."""

    def __init__(self, choice: FormatChoice, present: Marks, rule: Parameters) -> None:
        self.choice, self.rule = choice, rule
        self.n_skips = rule["skip_bits_max"] - rule["skip_bits_min"] + 1
        self.widths: dict[Group, list[Widths]] = {}
        for mode in (mode for signs in choice.sign_lists for mode in SIGN_MODES_OF[signs]):
            for encoding in choice.encodings:
                need = kernels.MODES.index(mode) * len(ENCODINGS) + ENCODINGS.index(encoding)
                found = self.widths.setdefault((REGISTER_KIND[encoding], mode), [])
                found += [self._widths(c, REGISTER_KIND[encoding]) for c in np.flatnonzero(present[need]).tolist()]

    def _widths(self, number: int, kind: str) -> Widths:
        index, skip = divmod(number, self.n_skips)
        return index + self.rule["index_bits_min"], skip + self.rule["skip_bits_min"] if kind == "runlength" else 0

    def _number(self, widths: Widths, kind: str) -> int:
        skip = widths[1] - self.rule["skip_bits_min"] if kind == "runlength" else 0
        return (widths[0] - self.rule["index_bits_min"]) * self.n_skips + skip

    def marks(self, table: Table) -> Marks:
        """A table as the compiled functions take it: bool, (3 kinds, 3 modes, classes)."""
        n_index = self.rule["index_bits_max"] - self.rule["index_bits_min"] + 1
        out = np.zeros((len(kernels.KINDS), len(kernels.MODES), n_index * self.n_skips), bool)
        for (kind, mode), widths in table.items():
            for width in widths:
                out[kernels.KINDS.index(kind), kernels.MODES.index(mode), self._number(width, kind)] = True
        return out

    def table(self, marks: Marks) -> Table:
        found: dict[Group, list[Widths]] = {}
        for kind, mode, number in np.argwhere(marks).tolist():
            group = (kernels.KINDS[kind], kernels.MODES[mode])
            found.setdefault(group, []).append(self._widths(number, group[0]))
        return {group: tuple(sorted(widths)) for group, widths in found.items()}

    def every(self) -> Table:
        return {group: tuple(sorted(set(widths))) for group, widths in self.widths.items()}

    def widest(self, group: Group) -> Widths | None:
        found = self.widths[group]
        return (max(i for i, _ in found), max(k for _, k in found)) if found else None

    def starts(self) -> Iterable[Table]:
        for encoding in self.choice.encodings:
            for signs in self.choice.sign_lists:
                groups = [(REGISTER_KIND[encoding], mode) for mode in SIGN_MODES_OF[signs]]
                yield {group: (width,) for group in groups if (width := self.widest(group)) is not None}

    def additions(self) -> NDArray[np.int64]:
        """Each as (kind, mode, class, second mode or -1, its class), int64, shape (n, 5)."""
        out = []
        for (kind, mode), found in self.widths.items():
            k, m = kernels.KINDS.index(kind), kernels.MODES.index(mode)
            for index in sorted({i for i, _ in found}):
                out += [(k, m, self._number((index, skip), kind), -1, -1) for skip in sorted({s for _, s in found})]
        for start in self.starts():
            parts = [
                (kernels.KINDS.index(kind), kernels.MODES.index(mode), self._number(width, kind))
                for (kind, mode), (width,) in start.items()
            ]
            if parts:
                out.append((*parts[0], *(parts[1][1:] if len(parts) > 1 else (-1, -1))))
        return np.array(out, np.int64).reshape(-1, 5)

"""Rule `nxtf` for many lists at once, compiled: the loops of encoders.py and encoders_registers.py, number for number.

Those two modules are the definition, in numpy; this one exists because large networks cost tens of thousands of slices
(docs/decisions/0007-compiled-encoders.md). Its functions release Python's lock, so several threads can cost slices.

A *need* is what the synapses of one sign mode need in one encoding. Needs are numbered mode * 4 + encoding, modes and
encodings in the order of `MODES` and of `synapse_memory.ENCODINGS`. The entries of list k in need d are kept as records
(class, entries, stored), numbers `ptr[12 * k + d]` to `ptr[12 * k + d + 1]`. The class of an entry is its widths:
(index bits - least) * (number of skip widths) + skip bits - least, with skip 0 where the encoding has none. A *kind* is
what a register holds: dense, sparse or runlength; a table of registers is bool, (3 kinds, 3 modes, classes).
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

compiled: Any = numba.njit(cache=True, nogil=True)

MODES = ("mixed", "excitatory", "inhibitory")
KINDS = ("dense", "sparse", "runlength")

N_NEEDS = 12
DENSE1, DENSE2, SPARSE, RUNLENGTH = 0, 1, 2, 3
KIND_OF = np.array([0, 0, 1, 2])

MIXED_BAD, EXCITATORY_BAD, INHIBITORY_BAD, HAS_ZERO = 1, 2, 4, 8

# Larger than any real list; the same number as in encoders_registers.
IMPOSSIBLE = 1 << 44


def numbers(rule: Any, weight_bits: int, per_synapse: int) -> NDArray[np.int64]:
    """The numbers of the rule that the compiled functions take, in the order in which they name them."""
    assert rule["word_bits"] & (rule["word_bits"] - 1) == 0
    return np.array(
        [
            rule["entry_synapses"],
            rule["index_bits_min"],
            rule["index_bits_max"],
            rule["skip_bits_min"],
            rule["skip_bits_max"],
            rule["format_id_bits"] + rule["count_bits"],
            rule["end_bits"],
            rule["word_bits"],
            per_synapse,
            1 << (weight_bits - 1),
            (1 << weight_bits) - 1,
            # Words are powers of two long: a shift in place of a division, which is ten times slower.
            (rule["word_bits"] - 1).bit_length(),
        ],
        np.int64,
    )


@compiled
def _class_tables(rule):  # type: ignore[no-untyped-def]
    """The class of an index without a skip, and what a largest skip adds to it, by value."""
    n_skips = rule[4] - rule[3] + 1
    by_index = np.empty(1 << rule[2], np.uint8)
    by_skip = np.empty(1 << rule[4], np.uint8)
    bits = rule[1]
    for value in range(len(by_index)):
        if value >> bits:
            bits += 1
        by_index[value] = (bits - rule[1]) * n_skips
    bits = rule[3]
    for value in range(len(by_skip)):
        if value >> bits:
            bits += 1
        by_skip[value] = bits - rule[3]
    return by_index, by_skip


@compiled
def _cut(targets, n, longest, by_index, by_skip, entries, stored):  # type: ignore[no-untyped-def]
    """Entries, and synapses stored in them, of one list by encoding and class: added to two arrays (4, classes)."""
    far = len(by_skip)

    at = 0
    while at < n:
        stop = min(at + longest, n)
        c = by_index[targets[stop - 1]]
        entries[SPARSE, c] += 1
        stored[SPARSE, c] += stop - at
        at = stop

    start = 0
    for k in range(1, n):
        if targets[k] - targets[k - 1] != 1 or k - start == longest:
            c = by_index[targets[start]]
            entries[DENSE1, c] += 1
            stored[DENSE1, c] += k - start
            start = k
    c = by_index[targets[start]]
    entries[DENSE1, c] += 1
    stored[DENSE1, c] += n - start

    start = widest = 0
    for k in range(1, n):
        gap = targets[k] - targets[k - 1]
        if gap >= far or k - start == longest:
            c = by_index[targets[start]] + by_skip[widest]
            entries[RUNLENGTH, c] += 1
            stored[RUNLENGTH, c] += k - start
            start = k
            widest = 0
        else:
            widest = max(widest, gap)
    c = by_index[targets[start]] + by_skip[widest]
    entries[RUNLENGTH, c] += 1
    stored[RUNLENGTH, c] += n - start

    at = 0
    while at < n:
        first = targets[at]
        at += 1
        while at < n and targets[at] < first + longest:
            at += 1
        c = by_index[first]
        entries[DENSE2, c] += 1
        stored[DENSE2, c] += targets[at - 1] - first + 1


@compiled
def count(indptr, targets, mantissas, both, rule):  # type: ignore[no-untyped-def]
    """Records of the needs of every list.

    both: bool (2,), whether one list, and whether lists by sign, are asked for.
    Returns ptr int64 (12 n + 1,), classes uint8, entries int32, stored int32 (records,), flags uint8 (n,) of what no
    register can hold, and present bool (12, classes).
    """
    n = len(indptr) - 1
    longest, n_skips = rule[0], rule[4] - rule[3] + 1
    n_classes = (rule[2] - rule[1] + 1) * n_skips
    half, top = rule[9], rule[10]
    by_index, by_skip = _class_tables(rule)
    longest_list = room = 0
    for k in range(n):
        length = indptr[k + 1] - indptr[k]
        longest_list = max(longest_list, length)
        room += min(length * 8, N_NEEDS * n_classes)
    ptr = np.zeros(N_NEEDS * n + 1, np.int64)
    classes = np.empty(room, np.uint8)
    out_entries = np.empty(room, np.int32)
    out_stored = np.empty(room, np.int32)
    flags = np.zeros(n, np.uint8)
    present = np.zeros((N_NEEDS, n_classes), np.bool_)
    entries = np.zeros((4, n_classes), np.int32)
    stored = np.zeros((4, n_classes), np.int32)
    positive = np.empty(longest_list + 1, np.int32)
    negative = np.empty(longest_list + 1, np.int32)
    at = 0
    for k in range(n):
        low, high = indptr[k], indptr[k + 1]
        above = below = zeros = 0
        least = most = 0
        for j in range(low, high):
            m = mantissas[j]
            positive[above] = targets[j]
            negative[below] = targets[j]
            below += m < 0
            above += m >= 0
            zeros += m == 0
            least, most = min(least, m), max(most, m)
        flags[k] = (
            MIXED_BAD * (least < -half or most >= half)
            | EXCITATORY_BAD * (most > top)
            | INHIBITORY_BAD * (least < -top)
            | HAS_ZERO * (zeros > 0)
        )
        for mode in range(3):
            if mode == 0:
                length = high - low if both[0] else 0
                part = targets[low:high]
            elif mode == 1:
                length = above if both[1] else 0
                part = positive
            else:
                length = below if both[1] else 0
                part = negative
            if length:
                _cut(part, length, longest, by_index, by_skip, entries, stored)
            for encoding in range(4):
                need = mode * 4 + encoding
                for c in range(0, n_classes if length else 0, 1 if encoding == RUNLENGTH else n_skips):
                    if entries[encoding, c]:
                        classes[at] = c
                        out_entries[at] = entries[encoding, c]
                        out_stored[at] = stored[encoding, c]
                        present[need, c] = True
                        entries[encoding, c] = 0
                        stored[encoding, c] = 0
                        at += 1
                ptr[k * N_NEEDS + need + 1] = at
    return ptr, classes[:at].copy(), out_entries[:at].copy(), out_stored[:at].copy(), flags, present


@compiled
def _charge(table, need, rule, taken, per_entry, per_stored):  # type: ignore[no-untyped-def]
    """For every class of a need the register that an entry takes (-1: none), its bits and a synapse's bits; in place.

    Fewest skip bits first, then fewest index bits: skips are paid for every synapse.
    """
    n_skips = rule[4] - rule[3] + 1
    n_index = rule[2] - rule[1] + 1
    mode, encoding = need // 4, need % 4
    offered = table[KIND_OF[encoding], mode]
    step = 1 if encoding == RUNLENGTH else n_skips
    for c in range(0, n_index * n_skips, step):
        found = -1
        for s in range(c % n_skips, n_skips if encoding == RUNLENGTH else 1):
            for i in range(c // n_skips, n_index):
                if offered[i * n_skips + s]:
                    found = i * n_skips + s
                    break
            if found >= 0:
                break
        taken[c] = found
        index, skip = np.int64(IMPOSSIBLE), np.int64(0)
        if found >= 0:
            index = rule[1] + found // n_skips
            if encoding == RUNLENGTH:
                skip = rule[3] + found % n_skips
        if encoding == SPARSE:
            per_entry[c], per_stored[c] = rule[5], index + rule[8]
        else:
            per_entry[c], per_stored[c] = index + rule[5], skip + rule[8]


@compiled
def _unfit(flag, need):  # type: ignore[no-untyped-def]
    """Whether no register of this need can hold the weights of a list."""
    bad = MIXED_BAD if need < 4 else (EXCITATORY_BAD if need < 8 else INHIBITORY_BAD)
    if need % 4 == DENSE2:
        bad |= HAS_ZERO
    return flag & bad != 0


@compiled
def _add_bits(need, ptr, classes, entries, stored, flags, per_entry, per_stored, bits):  # type: ignore[no-untyped-def]
    """Add what the records of a need are charged to the bits of every list, one column of `bits`."""
    for k in range(len(flags)):
        if _unfit(flags[k], need):
            bits[k, need] = IMPOSSIBLE
            continue
        for r in range(ptr[k * N_NEEDS + need], ptr[k * N_NEEDS + need + 1]):
            c = classes[r]
            bits[k, need] += entries[r] * per_entry[c] + stored[r] * per_stored[c]


@compiled
def _pair_words(bits, k, encoding, signs, rule):  # type: ignore[no-untyped-def]
    """Words of a list in a combination, from its bits by need."""
    total = bits[k, encoding] if signs == 0 else bits[k, 4 + encoding] + bits[k, 8 + encoding]
    return 0 if total == 0 else (total + rule[6] + rule[7] - 1) >> rule[11]


@compiled
def _write(table, ptr, classes, entries, stored, flags, pairs, rule, taken, bits, words):  # type: ignore[no-untyped-def]
    """Registers taken (12, classes), bits (n, 12) and words (n, pairs) of every list with these registers; in place."""
    per_entry = np.zeros(taken.shape[1], np.int64)
    per_stored = np.zeros(taken.shape[1], np.int64)
    bits[:] = 0
    for need in range(N_NEEDS):
        _charge(table, need, rule, taken[need], per_entry, per_stored)
        _add_bits(need, ptr, classes, entries, stored, flags, per_entry, per_stored, bits)
    for k in range(len(flags)):
        for p in range(len(pairs)):
            words[k, p] = _pair_words(bits, k, pairs[p, 0], pairs[p, 1], rule)


@compiled
def _start_total(  # type: ignore[no-untyped-def]
    start, ptr, classes, entries, stored, flags, pairs, rule, without, bits, words
):
    """Words of the slice with the registers of `start` alone, each list in its cheapest combination.

    without, words: bits by need and words by combination without any register; bits is overwritten.
    """
    n_classes = start.shape[2]
    taken = np.zeros(n_classes, np.int64)
    per_entry, per_stored = np.zeros(n_classes, np.int64), np.zeros(n_classes, np.int64)
    served = np.zeros(N_NEEDS, np.bool_)
    for need in range(N_NEEDS):
        served[need] = np.any(start[KIND_OF[need % 4], need // 4])
        if served[need]:
            _charge(start, need, rule, taken, per_entry, per_stored)
            bits[:, need] = 0
            _add_bits(need, ptr, classes, entries, stored, flags, per_entry, per_stored, bits)
        else:
            bits[:, need] = without[:, need]
    changed = np.zeros(len(pairs), np.bool_)
    for p in range(len(pairs)):
        for mode in range(pairs[p, 1], 1 + 2 * pairs[p, 1]):
            changed[p] |= served[mode * 4 + pairs[p, 0]]
    total = np.int64(0)
    for k in range(len(flags)):
        least = np.int64(1 << 62)
        for p in range(len(pairs)):
            w = _pair_words(bits, k, pairs[p, 0], pairs[p, 1], rule) if changed[p] else words[k, p]
            least = min(least, w)
        total += least
    return total


@compiled
def choose(  # type: ignore[no-untyped-def]
    ptr, classes, entries, stored, flags, present, pairs, starts, additions, limit, rule
):
    """The table of `encoders_registers.choose_registers`.

    starts: bool (n, 3, 3, classes), tables to begin with; of those with the fewest words the first is taken.
    additions: int64 (m, 5), each (kind, mode, class, second mode or -1, its class). The one that saves most words a
    register is added, the first of equals, as long as one saves and there are at most `limit` registers.

    A list is looked at only where an addition can change its words: where a combination that the addition serves is the
    cheapest now, or would be with registers as narrow as its entries.
    """
    n, n_pairs, n_adds, n_classes = len(flags), len(pairs), len(additions), present.shape[1]
    taken = np.zeros((N_NEEDS, n_classes), np.int64)
    bits = np.zeros((n, N_NEEDS), np.int64)
    words = np.zeros((n, n_pairs), np.int64)
    floor = np.zeros((n, n_pairs), np.int64)

    table = np.zeros((3, 3, n_classes), np.bool_)
    for need in range(N_NEEDS):
        table[KIND_OF[need % 4], need // 4] |= present[need]
    _write(table, ptr, classes, entries, stored, flags, pairs, rule, taken, bits, floor)

    # A table to begin with serves one kind and one way of writing signs: the other needs stay as without any register.
    table[:] = False
    _write(table, ptr, classes, entries, stored, flags, pairs, rule, taken, bits, words)
    without = bits.copy()
    best, least = 0, np.int64(0)
    for s in range(len(starts)):
        total = _start_total(starts[s], ptr, classes, entries, stored, flags, pairs, rule, without, bits, words)
        if s == 0 or total < least:
            best, least = s, total
    table[:] = starts[best]
    _write(table, ptr, classes, entries, stored, flags, pairs, rule, taken, bits, words)

    size = np.sum(table)
    cost = np.zeros(n_adds, np.int64)
    raises = np.zeros(n_adds, np.bool_)
    # Changes in bits of an entry and of a synapse, by addition, need and class.
    entry_change = np.zeros((n_adds, N_NEEDS, n_classes), np.int64)
    stored_change = np.zeros((n_adds, N_NEEDS, n_classes), np.int64)
    touched = np.zeros((n_adds, N_NEEDS), np.bool_)
    unused = np.zeros(n_classes, np.int64)
    now_entry, now_stored = np.zeros(n_classes, np.int64), np.zeros(n_classes, np.int64)
    new_entry, new_stored = np.zeros(n_classes, np.int64), np.zeros(n_classes, np.int64)
    grown = np.empty_like(table)
    while True:
        usable = False
        for a in range(n_adds):
            kind, mode, c, second, second_c = additions[a]
            cost[a] = 0 if table[kind, mode, c] else 1
            if second >= 0 and not table[kind, second, second_c]:
                cost[a] += 1
            if size + cost[a] > limit:
                cost[a] = 0
            if cost[a] == 0:
                continue
            usable = True
            grown[:] = table
            grown[kind, mode, c] = True
            if second >= 0:
                grown[kind, second, second_c] = True
            raises[a] = False
            for need in range(N_NEEDS):
                touched[a, need] = False
                if KIND_OF[need % 4] != kind or (need // 4 != mode and need // 4 != second):
                    continue
                _charge(table, need, rule, unused, now_entry, now_stored)
                _charge(grown, need, rule, unused, new_entry, new_stored)
                for d in range(n_classes):
                    more, each = new_entry[d] - now_entry[d], new_stored[d] - now_stored[d]
                    entry_change[a, need, d], stored_change[a, need, d] = more, each
                    touched[a, need] |= more != 0 or each != 0
                    raises[a] |= more > 0 or each > 0
        if not usable:
            return table
        gains = _gains(
            ptr,
            classes,
            entries,
            stored,
            flags,
            pairs,
            additions,
            cost,
            raises,
            touched,
            entry_change,
            stored_change,
            bits,
            words,
            floor,
            rule,
        )
        best, best_rate = -1, 0.0
        for a in range(n_adds):
            if cost[a] > 0 and gains[a] > 0 and gains[a] / cost[a] > best_rate:
                best, best_rate = a, gains[a] / cost[a]
        if best < 0:
            return table
        kind, mode, c, second, second_c = additions[best]
        size += cost[best]
        table[kind, mode, c] = True
        if second >= 0:
            table[kind, second, second_c] = True
        for need in range(N_NEEDS):
            if touched[best, need]:
                _add_bits(
                    need,
                    ptr,
                    classes,
                    entries,
                    stored,
                    flags,
                    entry_change[best, need],
                    stored_change[best, need],
                    bits,
                )
        for k in range(n):
            for p in range(n_pairs):
                words[k, p] = _pair_words(bits, k, pairs[p, 0], pairs[p, 1], rule)


@compiled
def _gains(  # type: ignore[no-untyped-def]
    ptr,
    classes,
    entries,
    stored,
    flags,
    pairs,
    additions,
    cost,
    raises,
    touched,
    entry_change,
    stored_change,
    bits,
    words,
    floor,
    rule,
):
    """Words that each addition saves over all lists, int64 (n_additions,); 0 where it costs nothing, or too much."""
    n, n_pairs = words.shape
    # Additions of one kind for the same way of writing signs serve the same combinations: they are tried together.
    gains = np.zeros(len(cost), np.int64)
    members = np.zeros((6, len(cost)), np.int64)
    n_members = np.zeros(6, np.int64)
    any_raises = np.zeros(6, np.bool_)
    for a in range(len(cost)):
        if cost[a] > 0:
            f = additions[a, 0] * 2 + (additions[a, 1] > 0)
            members[f, n_members[f]] = a
            n_members[f] += 1
            any_raises[f] |= raises[a]
    pair_family = np.empty(n_pairs, np.int64)
    for p in range(n_pairs):
        pair_family[p] = KIND_OF[pairs[p, 0]] * 2 + pairs[p, 1]
    for k in range(n):
        now, lowest = words[k, 0], floor[k, 0]
        for p in range(1, n_pairs):
            now, lowest = min(now, words[k, p]), min(lowest, floor[k, p])
        for f in range(6):
            if n_members[f] == 0 or (lowest >= now and not any_raises[f]):
                continue
            can_fall = can_rise = False
            others = np.int64(1 << 62)
            for p in range(n_pairs):
                if pair_family[p] == f:
                    can_fall |= floor[k, p] < now
                    can_rise |= words[k, p] == now
                else:
                    others = min(others, words[k, p])
            can_rise = can_rise and any_raises[f] and others > now
            if not (can_fall or can_rise):
                continue
            for m in range(n_members[f]):
                a = members[f, m]
                if not (can_fall or raises[a]):
                    continue
                least = others
                for p in range(n_pairs):
                    if pair_family[p] != f:
                        continue
                    total = np.int64(0)
                    for mode in range(pairs[p, 1], 1 + 2 * pairs[p, 1]):
                        need = mode * 4 + pairs[p, 0]
                        total += bits[k, need]
                        if touched[a, need] and not _unfit(flags[k], need):
                            for r in range(ptr[k * N_NEEDS + need], ptr[k * N_NEEDS + need + 1]):
                                c = classes[r]
                                total += entries[r] * entry_change[a, need, c] + stored[r] * stored_change[a, need, c]
                    if total > 0:
                        total = (total + rule[6] + rule[7] - 1) >> rule[11]
                    least = min(least, total)
                gains[a] += now - least
    return gains


@compiled
def settle(ptr, classes, entries, stored, flags, pairs, table, rule):  # type: ignore[no-untyped-def]
    """What every list takes with these registers.

    Returns words int64 (n,), combination int8 (n,) (number of the pair, -1 without synapses), totals int64 (3,) of
    entries, stored synapses and bits, and the registers that are taken, a table.
    """
    n, n_pairs = len(flags), len(pairs)
    taken = np.zeros((N_NEEDS, table.shape[2]), np.int64)
    bits = np.zeros((n, N_NEEDS), np.int64)
    by_pair = np.zeros((n, n_pairs), np.int64)
    _write(table, ptr, classes, entries, stored, flags, pairs, rule, taken, bits, by_pair)
    words = np.empty(n, np.int64)
    combination = np.full(n, -1, np.int8)
    totals = np.zeros(3, np.int64)
    used = np.zeros(table.shape, np.bool_)
    for k in range(n):
        best = 0
        for p in range(1, n_pairs):
            if by_pair[k, p] < by_pair[k, best]:
                best = p
        words[k] = by_pair[k, best]
        if ptr[k * N_NEEDS] == ptr[(k + 1) * N_NEEDS]:
            continue
        combination[k] = best
        encoding, signs = pairs[best]
        for mode in range(signs, 1 + 2 * signs):
            need = mode * 4 + encoding
            totals[2] += bits[k, need]
            for r in range(ptr[k * N_NEEDS + need], ptr[k * N_NEEDS + need + 1]):
                totals[0] += entries[r]
                totals[1] += stored[r]
                if taken[need, classes[r]] >= 0:
                    used[KIND_OF[encoding], mode, taken[need, classes[r]]] = True
    return words, combination, totals, used

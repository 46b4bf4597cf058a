"""The published accounting rule, one list at a time in plain Python: what the vectorised cost must equal.

Written from the rule's wording alone; it shares no code with the package.
"""

from __future__ import annotations

import itertools
import math


def index_bits(value: int) -> int:
    bits = math.ceil(math.log2(value + 1)) if value else 0
    return min(max(bits, 6), 10)


def skip_bits(value: int) -> int:
    bits = math.ceil(math.log2(value + 1)) if value else 0
    return min(max(bits, 2), 5)


def cut(encoding: str, targets: list[int]) -> list[tuple[list[int], int]]:
    """Entries of a list as (targets, synapses stored)."""
    out: list[tuple[list[int], int]] = []
    k = 0
    while k < len(targets):
        entry = [targets[k]]
        k += 1
        while k < len(targets):
            gap = targets[k] - entry[-1]
            if encoding == "dense2":
                if targets[k] - entry[0] >= 60:
                    break
            elif len(entry) == 60 or (encoding == "dense1" and gap > 1) or (encoding == "runlength" and gap >= 32):
                break
            entry.append(targets[k])
            k += 1
        stored = entry[-1] - entry[0] + 1 if encoding == "dense2" else len(entry)
        out.append((entry, stored))
    return out


def needed(encoding: str, entry: list[int]) -> tuple[int, int]:
    """Index bits and skip bits of one entry."""
    if encoding == "sparse":
        return index_bits(max(entry)), 0
    if encoding == "runlength":
        skips = [b - a for a, b in itertools.pairwise(entry)]
        return index_bits(entry[0]), skip_bits(max(skips, default=0))
    return index_bits(entry[0]), 0


def entry_bits(encoding: str, stored: int, per_synapse: int, widths: tuple[int, int]) -> int:
    index, skip = widths
    bits = stored * per_synapse + 4 + 6
    if encoding == "sparse":
        return bits + stored * index
    return bits + index + (stored * skip if encoding == "runlength" else 0)


def split_signs(signs: str, targets: list[int], weights: list[int]) -> list[tuple[str, list[int]]]:
    if signs == "one_list":
        return [("mixed", targets)]
    return [
        ("excitatory", [t for t, w in zip(targets, weights, strict=True) if w >= 0]),
        ("inhibitory", [t for t, w in zip(targets, weights, strict=True) if w < 0]),
    ]


def words(bits: int) -> int:
    """Published form of the rounding; a list without synapses has no word."""
    if bits == 0:
        return 0
    return math.ceil(bits / 64) + (1 if bits % 64 == 0 or bits % 64 >= 59 else 0)


def list_cost(
    encoding: str, signs: str, targets: list[int], weights: list[int], per_synapse: int
) -> tuple[int, int, int]:
    """Bits, words and entries of one list, every entry at its narrowest widths."""
    bits = entries = 0
    for _, part in split_signs(signs, targets, weights):
        for entry, stored in cut(encoding, part):
            bits += entry_bits(encoding, stored, per_synapse, needed(encoding, entry))
            entries += 1
    return bits, words(bits), entries


def list_bits_with(
    registers: list[tuple[str, str, int, int]],
    encoding: str,
    signs: str,
    targets: list[int],
    weights: list[int],
    per_synapse: int,
) -> int | None:
    """Bits of one list when only these registers (kind, sign mode, index bits, skip bits) exist; None: impossible."""
    kind = "dense" if encoding.startswith("dense") else encoding
    bits = 0
    for mode, part in split_signs(signs, targets, weights):
        for entry, stored in cut(encoding, part):
            index, skip = needed(encoding, entry)
            able = [
                (k, i)
                for of_kind, of_mode, i, k in registers
                if (of_kind, of_mode) == (kind, mode) and i >= index and k >= skip
            ]
            if not able:
                return None
            k, i = min(able)
            bits += entry_bits(encoding, stored, per_synapse, (i, k))
    return bits

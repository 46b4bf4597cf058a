"""Synapse images: the words of a core's synaptic memory, written out and read back.

An image proves the account of rule `nxtf`: it is written in the accounted format, has exactly the accounted number of
words, and its reader finds the same synapses. It is not a file for a board: Intel published what an entry holds
and how many bits that takes, but not the order of the bits. Assumed here, and nowhere else:

- bits fill each 64-bit word from the least significant bit on; lists start at a word, sources ascending;
- an entry is: register number (4 bits), count - 1 (6), first index (not SPARSE), then for every synapse its index
  (SPARSE) or skip (RUNLENGTH), its delay (always 0 here), its weight;
- shared-sign lists write their excitatory entries first, then the inhibitory ones;
- a mixed weight is in two's complement, a shared-sign weight is its magnitude;
- register 0 does not exist, so a zero where a register number should be ends a list. The published word count leaves
  at least 6 bits free behind the last entry (one more word where S % 64 is 0 or 59 and more); that a mark of the
  end needs them is our reading, the source gives no reason.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import SnncError
from toolchain.files import atomic_write
from toolchain.ir.connectivity import Connectivity
from toolchain.mapping.encoders import entries, ragged_arange, sign_lists
from toolchain.mapping.encoders_registers import (
    SIGN_MODES_OF,
    list_words,
    narrowest,
    table_of,
    widths_needed,
)
from toolchain.mapping.synapse_memory import (
    REGISTER_KIND,
    Format,
    Parameters,
    SliceCost,
    SynapseLists,
    cumulated,
)

ID_BITS, COUNT_BITS, END_BITS, WORD_BITS = 4, 6, 6, 64
REGISTERS = (1 << ID_BITS) - 1  # numbers 1 to 15


@dataclass(frozen=True, eq=False)
class SynapseImage:
    """The words of one slice.

    words: uint64. list_words: int64, shape (n_sources,), words of each list, 0 where a source has none; lists follow
    each other. gapped: bool, shape (n_sources,), lists written with gaps (DENSE2), whose zeros are no synapses; the
    memory itself does not say so, and a core does not care. formats: register number -> what it holds.
    weight_bits, delay_bits, weight_exponent: those of the slice.
    """

    words: NDArray[np.uint64]
    list_words: NDArray[np.int64]
    gapped: NDArray[np.bool_]
    n_targets: int
    weight_bits: int
    delay_bits: int
    formats: Mapping[int, Format]
    weight_exponent: int = 0

    @property
    def n_sources(self) -> int:
        return len(self.list_words)


class ImageError(SnncError):
    """An image that is damaged, truncated, or not one of ours."""


def encode(
    lists: SynapseLists,
    cost: SliceCost,
    parameters: Parameters,
    numbers: Mapping[Format, int] | None = None,
) -> SynapseImage:
    """Write a slice as `cost` (of rule `nxtf`) accounts it.

    numbers: the register (1 to 15) of each format in use, where several slices share a core; without it they are
    numbered from 1.

    Raises:
        SnncError: a cost of another rule, stored delays, a format without a register, or (a fault of ours) a list
            whose length differs from the account.
    """
    if cost.model != "nxtf":
        raise SnncError(
            "only rule 'nxtf' says how synapses are written",
            got=cost.model,
            remedy="compile with the cost model nxtf to write images",
        )
    if lists.delay_bits:
        raise SnncError("synapses with delays are not written", got=f"{lists.delay_bits} delay bits", allowed=0)
    if numbers is None:
        numbers = {one: 1 + k for k, one in enumerate(cost.formats)}
    bad = [one for one in cost.formats if not 1 <= numbers.get(one, 0) <= REGISTERS]
    if bad:
        raise SnncError(
            "a format has no register that an entry can name",
            got=f"{bad[0]}, register {numbers.get(bad[0])}",
            allowed=f"1..{REGISTERS}",
        )
    pieces = [
        piece
        for k, name in enumerate(cost.combinations)
        for piece in _pieces(lists, cost, parameters, k, name, numbers)
    ]
    list_start = cumulated(cost.words_per_axon)[:-1] * WORD_BITS
    words = np.zeros(int(cost.words_per_axon.sum()), np.uint64)
    if pieces:
        _write(pieces, words, list_start, cost.words_per_axon)
    gapped = np.zeros(lists.connectivity.n_sources, bool)
    for k, name in enumerate(cost.combinations):
        if name.startswith("dense2/"):
            gapped |= cost.combination == k
    return SynapseImage(
        words,
        cost.words_per_axon,
        gapped,
        lists.connectivity.n_targets,
        lists.weight_bits,
        lists.delay_bits,
        {numbers[one]: one for one in cost.formats},
        lists.weight_exponent,
    )


@dataclass(frozen=True, eq=False)
class _Piece:
    """Entries of one encoding and sign mode that are going to be written. Arrays int64; per entry, then per synapse.

    rank: position of the sign mode within a list, so that excitatory entries come first. prefix_bits: 0 for SPARSE.
    synapse_bits: bits of one stored synapse in that entry. fields: the stored synapses' bits, entries in order.
    """

    row: NDArray[np.int64]
    rank: int
    number: NDArray[np.int64]
    stored: NDArray[np.int64]
    prefix: NDArray[np.int64]
    prefix_bits: NDArray[np.int64]
    synapse_bits: NDArray[np.int64]
    fields: NDArray[np.uint64]


def _pieces(
    lists: SynapseLists,
    cost: SliceCost,
    rule: Parameters,
    combination: int,
    name: str,
    numbers: Mapping[Format, int],
) -> list[_Piece]:
    encoding, signs = name.split("/")
    chosen = cost.combination == combination
    if not chosen.any():
        return []
    whole = lists.connectivity
    mine = chosen[whole.sources]
    fan_out = np.where(chosen, whole.fan_out, 0)
    indptr, targets, mantissas = cumulated(fan_out), whole.targets[mine], lists.mantissas[mine]
    parts = sign_lists(indptr, mantissas)
    weight_bits = cost.formats[0].weight_bits
    table, kind = table_of(cost.formats, lists, weight_bits), REGISTER_KIND[encoding]
    out = []
    for rank, mode in enumerate(SIGN_MODES_OF[signs]):
        pointers, kept = parts[mode]
        some_targets = targets if kept is None else targets[kept]
        weights = (mantissas if kept is None else mantissas[kept]).astype(np.int64)
        found = entries(encoding, pointers, some_targets, rule)
        if not len(found.row):
            continue
        need_index, need_skip = widths_needed(encoding, found, rule)
        classes, which = np.unique(need_index * 64 + need_skip, return_inverse=True)
        taken = [
            width for c in classes if (width := narrowest(table[kind, mode], (int(c) // 64, int(c) % 64))) is not None
        ]
        assert len(taken) == len(classes), "the account chose registers that hold every entry"
        widths = np.array(taken, np.int64)[which]
        registers = [Format(kind, mode, weight_bits, 0, i, k, lists.weight_exponent) for i, k in taken]
        ids = np.array([numbers[register] for register in registers], np.int64)[which]
        # One slot a stored synapse; only DENSE2 has slots without a synapse, they keep weight 0.
        slot_start = cumulated(found.stored)[:-1]
        real = found.stop - found.start
        inner = ragged_arange(real)
        first = np.repeat(some_targets[found.start].astype(np.int64), real)
        offset = some_targets - first if encoding == "dense2" else inner
        slots = np.repeat(slot_start, real) + offset
        magnitude = weights & ((1 << weight_bits) - 1) if mode == "mixed" else np.abs(weights)
        fields = np.zeros(int(found.stored.sum()), np.int64)
        fields[slots] = magnitude
        index_bits, skip_bits = widths[:, 0], widths[:, 1]
        if encoding == "sparse":
            bits = index_bits + weight_bits
            fields[slots] = some_targets | (magnitude << np.repeat(index_bits, real))
        elif encoding == "runlength":
            bits = skip_bits + weight_bits
            skips = np.diff(some_targets.astype(np.int64), prepend=0)
            skips[found.start] = 0
            fields[slots] = skips | (magnitude << np.repeat(skip_bits, real))
        else:
            bits = np.full_like(index_bits, weight_bits)
        none = np.zeros_like(index_bits)
        out.append(
            _Piece(
                found.row,
                rank,
                ids,
                found.stored,
                none if encoding == "sparse" else some_targets[found.start].astype(np.int64),
                none if encoding == "sparse" else index_bits,
                bits,
                fields.astype(np.uint64),
            )
        )
    return out


def _write(
    pieces: Sequence[_Piece], words: NDArray[np.uint64], list_start: NDArray[np.int64], allowed: NDArray[np.int64]
) -> None:
    """Place the entries of all pieces in their lists and write them."""
    row = np.concatenate([piece.row for piece in pieces])
    rank = np.concatenate([np.full(len(piece.row), piece.rank) for piece in pieces])
    header = ID_BITS + COUNT_BITS + np.concatenate([piece.prefix_bits for piece in pieces])
    size = header + np.concatenate([piece.stored * piece.synapse_bits for piece in pieces])
    # Entries of one list and sign are in order already, and a list has one encoding: a stable sort keeps both.
    order = np.lexsort((rank, row))
    ends = np.cumsum(size[order])
    in_list = np.bincount(row, size, minlength=len(list_start)).astype(np.int64)
    before = cumulated(in_list)[:-1]
    start = np.empty_like(size)
    start[order] = list_start[row[order]] + (ends - size[order]) - before[row[order]]
    if np.any(list_words(in_list, END_BITS, WORD_BITS) != allowed):
        raise SnncError("a list's image and its account differ in length: a fault of the account, please report it")
    at = 0
    for piece in pieces:
        n = len(piece.row)
        here = start[at : at + n]
        head = piece.number | ((piece.stored - 1) << ID_BITS) | (piece.prefix << (ID_BITS + COUNT_BITS))
        _put(words, here, head.astype(np.uint64), ID_BITS + COUNT_BITS + piece.prefix_bits)
        bits = np.repeat(piece.synapse_bits, piece.stored)
        body = np.repeat(here + ID_BITS + COUNT_BITS + piece.prefix_bits, piece.stored)
        _put(words, body + ragged_arange(piece.stored) * bits, piece.fields, bits)
        at += n


def _put(words: NDArray[np.uint64], at: NDArray[np.int64], values: NDArray[np.uint64], bits: NDArray[np.int64]) -> None:
    """Write fields of at most 63 bits at ascending or any bit positions; fields never overlap."""
    word, shift = at >> 6, (at & 63).astype(np.uint64)
    np.bitwise_or.at(words, word, values << shift)
    crosses = (at & 63) + bits > WORD_BITS
    rest = values[crosses] >> (np.uint64(WORD_BITS) - shift[crosses])
    np.bitwise_or.at(words, word[crosses] + 1, rest)


def _get(words: NDArray[np.uint64], at: NDArray[np.int64], bits: NDArray[np.int64] | int) -> NDArray[np.int64]:
    """Read fields of at most 63 bits; positions must lie in the image."""
    word, shift = at >> 6, (at & 63).astype(np.uint64)
    low = words[word] >> shift
    beyond = np.minimum(word + 1, len(words) - 1)
    # A shift by 64 is undefined: shift twice instead, which gives 0 where nothing crosses.
    high = (words[beyond] << (np.uint64(WORD_BITS - 1) - shift)) << np.uint64(1)
    mask = (np.uint64(1) << np.asarray(bits, np.uint64)) - np.uint64(1)
    return ((low | high) & mask).astype(np.int64)


def decode(image: SynapseImage) -> SynapseLists:
    """The synapses of an image, by reading entries until the end mark of each list.

    Raises:
        ImageError: an entry names no register, runs past its list, or leaves the compartments of the slice, a synapse
            comes twice, or a list has no end or goes on behind it.
    """
    limit_bits = image.list_words * WORD_BITS
    base = cumulated(image.list_words)[:-1] * WORD_BITS
    by_number = _registers(image.formats)
    rows_, starts_, numbers_, counts_, prefixes_ = [], [], [], [], []
    rows = np.flatnonzero(image.list_words)
    at = np.zeros(len(image.list_words), np.int64)
    while len(rows):  # one round an entry of the longest list, all lists at once
        room = limit_bits[rows] - at[rows]
        if np.any(room < ID_BITS):
            raise ImageError("a synapse list has no end mark", where=f"source {int(rows[room < ID_BITS][0])}")
        number = _get(image.words, base[rows] + at[rows], ID_BITS)
        more = number > 0
        rows, number, room = rows[more], number[more], room[more]
        if not len(rows):
            break
        known = by_number.known[number]
        if not known.all():
            raise ImageError(
                "an entry names a format register that the image does not have",
                where=f"source {int(rows[~known][0])}",
                got=int(number[~known][0]),
                allowed=sorted(image.formats),
            )
        head = ID_BITS + COUNT_BITS + by_number.prefix_bits[number]
        if np.any(head > room):
            raise ImageError("an entry runs past its list", where=f"source {int(rows[head > room][0])}")
        position = base[rows] + at[rows]
        count = _get(image.words, position + ID_BITS, COUNT_BITS) + 1
        prefix = _get(image.words, position + ID_BITS + COUNT_BITS, by_number.prefix_bits[number])
        size = head + count * by_number.synapse_bits[number]
        if np.any(size > room):
            raise ImageError("an entry runs past its list", where=f"source {int(rows[size > room][0])}")
        rows_.append(rows)
        starts_.append(position + head)
        numbers_.append(number)
        counts_.append(count)
        prefixes_.append(prefix)
        at[rows] += size
    wrong = list_words(at, END_BITS, WORD_BITS) != image.list_words
    if np.any(wrong):
        raise ImageError("a list is longer than its entries", where=f"source {int(np.flatnonzero(wrong)[0])}")
    empty = np.zeros(0, np.int64)
    row, start, number, count, prefix = (
        np.concatenate(parts) if parts else empty for parts in (rows_, starts_, numbers_, counts_, prefixes_)
    )
    return _synapses(image, by_number, row, start, number, count, prefix)


@dataclass(frozen=True, eq=False)
class _Registers:
    """What each register number (0 to 15) says, as arrays to look up in."""

    known: NDArray[np.bool_]
    prefix_bits: NDArray[np.int64]
    field_bits: NDArray[np.int64]  # index of SPARSE or skip of RUNLENGTH
    weight_bits: NDArray[np.int64]
    synapse_bits: NDArray[np.int64]
    kind: NDArray[np.int64]  # 0 dense, 1 sparse, 2 runlength
    sign: NDArray[np.int64]  # 0 mixed, 1 excitatory, -1 inhibitory


def _registers(formats: Mapping[int, Format]) -> _Registers:
    known = np.zeros(REGISTERS + 1, bool)
    prefix, field, weight, kind, sign = (np.zeros(REGISTERS + 1, np.int64) for _ in range(5))
    for number, one in formats.items():
        known[number] = True
        prefix[number] = 0 if one.encoding == "sparse" else one.index_bits
        field[number] = {"dense": 0, "sparse": one.index_bits, "runlength": one.skip_bits}[one.encoding]
        weight[number] = one.weight_bits
        kind[number] = ("dense", "sparse", "runlength").index(one.encoding)
        sign[number] = {"mixed": 0, "excitatory": 1, "inhibitory": -1}[one.sign_mode]
    return _Registers(known, prefix, field, weight, field + weight, kind, sign)


def _synapses(
    image: SynapseImage,
    registers: _Registers,
    row: NDArray[np.int64],
    start: NDArray[np.int64],
    number: NDArray[np.int64],
    count: NDArray[np.int64],
    prefix: NDArray[np.int64],
) -> SynapseLists:
    each = np.repeat(np.arange(len(row)), count)
    inner = ragged_arange(count)
    bits, field_bits = registers.synapse_bits[number][each], registers.field_bits[number][each]
    raw = _get(image.words, start[each] + inner * bits, bits) if len(each) else np.zeros(0, np.int64)
    field, weight = raw & ((1 << field_bits) - 1), raw >> field_bits
    kind, sign = registers.kind[number][each], registers.sign[number][each]
    walked = np.cumsum(field)
    if len(each):  # skips add up within their entry: take off what was walked before it
        first = cumulated(count)[:-1]
        walked = walked - (walked[first] - field[first])[each]
    target = np.select([kind == 0, kind == 1], [prefix[each] + inner, field], prefix[each] + walked)
    half = np.int64(1) << (registers.weight_bits[number][each] - 1)
    mantissa = np.select([sign == 1, sign == -1], [weight, -weight], (weight ^ half) - half)
    source = row[each]
    real = ~(image.gapped[source] & (mantissa == 0))
    source, target, mantissa = source[real], target[real], mantissa[real]
    if np.any((target < 0) | (target >= image.n_targets)):
        bad = int(source[(target < 0) | (target >= image.n_targets)][0])
        raise ImageError("a synapse leaves the compartments of its slice", where=f"source {bad}")
    return _lists(image, source, target, mantissa)


def _lists(
    image: SynapseImage, source: NDArray[np.int64], target: NDArray[np.int64], mantissa: NDArray[np.int64]
) -> SynapseLists:
    order = np.lexsort((target, source))
    source, target, mantissa = source[order], target[order], mantissa[order]
    twice = (np.diff(source) == 0) & (np.diff(target) == 0)
    if twice.any():
        raise ImageError("a synapse comes twice", where=f"source {int(source[1:][twice][0])}")
    indptr = cumulated(np.bincount(source, minlength=image.n_sources))
    return SynapseLists(
        Connectivity(image.n_sources, image.n_targets, indptr, target.astype(np.int32)),
        mantissa.astype(np.int16),
        image.weight_bits,
        image.delay_bits,
        image.weight_exponent,
    )


# The file of one core: magic, version, length of the JSON index, length of the rest, SHA-256 of both; the index; then
# for every slice its list lengths (uint16), its gap marks (bits, padded to bytes) and its words (uint64), all
# little-endian.
_MAGIC = b"SNNCSYN\0"
_VERSION = 1
_HEAD = struct.Struct("<8sIIQ32s")
_LARGEST_INDEX = 1 << 20
_LARGEST_FILE = 1 << 28
_SLICE_KEYS = {"name", "n_sources", "n_targets", "n_words", "weight_bits", "delay_bits", "weight_exponent", "formats"}


def write_core_image(path: str | os.PathLike[str], slices: Mapping[str, SynapseImage]) -> None:
    """Write the slices of one core, by name, as one file (whole or not at all; same slices, same bytes)."""
    index: list[dict[str, Any]] = []
    body = []
    for name, image in slices.items():
        if int(image.list_words.max(initial=0)) > 0xFFFF:
            raise SnncError("a synapse list is too long for an image file", where=name, allowed="65535 words")
        index.append(
            {
                "name": name,
                "n_sources": image.n_sources,
                "n_targets": image.n_targets,
                "n_words": len(image.words),
                "weight_bits": image.weight_bits,
                "delay_bits": image.delay_bits,
                "weight_exponent": image.weight_exponent,
                "formats": {str(number): asdict(one) for number, one in sorted(image.formats.items())},
            }
        )
        body += [
            image.list_words.astype("<u2").tobytes(),
            np.packbits(image.gapped, bitorder="little").tobytes(),
            image.words.astype("<u8").tobytes(),
        ]
    text = json.dumps({"slices": index}, sort_keys=True, separators=(",", ":")).encode()
    rest = b"".join(body)
    head = _HEAD.pack(_MAGIC, _VERSION, len(text), len(rest), hashlib.sha256(text + rest).digest())
    with atomic_write(path) as stream:
        stream.write(head + text + rest)


def read_core_image(path: str | os.PathLike[str]) -> dict[str, SynapseImage]:
    """Read what `write_core_image` wrote. Every size is checked before anything of that size is made.

    Raises:
        ImageError: not an image, another version, truncated, damaged, or sizes that contradict each other.
    """
    where = os.fspath(path)
    try:
        size = Path(path).stat().st_size
        if size > _LARGEST_FILE:
            raise ImageError("too large for a synapse image", where=where, got=size, allowed=_LARGEST_FILE)
        data = Path(path).read_bytes()
    except OSError as error:
        raise ImageError("could not read the image", where=where, got=error.strerror or str(error)) from error
    if len(data) < _HEAD.size or data[: len(_MAGIC)] != _MAGIC:
        raise ImageError("not a synapse image", where=where)
    _, version, index_bytes, rest_bytes, digest = _HEAD.unpack_from(data)
    if version != _VERSION:
        raise ImageError("a synapse image of another version", where=where, got=version, allowed=_VERSION)
    if index_bytes > _LARGEST_INDEX or len(data) != _HEAD.size + index_bytes + rest_bytes:
        raise ImageError(
            "the image is truncated or its sizes are wrong",
            where=where,
            got=f"{len(data)} bytes",
            allowed=f"{_HEAD.size + index_bytes + rest_bytes} bytes",
        )
    if hashlib.sha256(data[_HEAD.size :]).digest() != digest:
        raise ImageError("the image is damaged: its checksum differs", where=where)
    try:
        slices = json.loads(data[_HEAD.size : _HEAD.size + index_bytes])["slices"]
        at, out = _HEAD.size + index_bytes, {}
        for entry in slices:
            image, at = _read_slice(entry, data, at)
            if entry["name"] in out:
                raise ValueError(f"slice {entry['name']!r} comes twice")
            out[entry["name"]] = image
        if at != len(data):
            raise ValueError(f"{len(data) - at} bytes belong to no slice")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ImageError("the image's index is wrong", where=where, got=str(error)) from error
    return out


def _read_slice(entry: dict[str, Any], data: bytes, at: int) -> tuple[SynapseImage, int]:
    """One slice from position `at`, and the position behind it; ValueError where the index is wrong."""
    if set(entry) != _SLICE_KEYS:
        raise ValueError(f"a slice has the keys {sorted(entry)}, not {sorted(_SLICE_KEYS)}")
    name = entry["name"]
    if not isinstance(name, str):
        raise ValueError(f"a slice is named {name!r}")
    n_sources = _whole(entry, "n_sources", 0, 1 << 24)
    n_targets = _whole(entry, "n_targets", 0, 1 << 12)
    n_words = _whole(entry, "n_words", 0, 1 << 24)
    marks = -(-n_sources // 8)
    end = at + 2 * n_sources + marks + 8 * n_words
    if end > len(data):
        raise ValueError(f"slice {name!r} runs past the end of the file")
    lengths = np.frombuffer(data, "<u2", n_sources, at).astype(np.int64)
    if int(lengths.sum()) != n_words:
        raise ValueError(f"the lists of slice {name!r} have {int(lengths.sum())} words, not {n_words}")
    at += 2 * n_sources
    gapped = np.unpackbits(np.frombuffer(data, np.uint8, marks, at), count=n_sources, bitorder="little")
    words = np.frombuffer(data, "<u8", n_words, at + marks).astype(np.uint64)
    formats = {}
    for number, fields in entry["formats"].items():
        if number not in {str(k) for k in range(1, REGISTERS + 1)}:
            raise ValueError(f"register {number!r} does not exist")
        formats[int(number)] = _format(fields)
    image = SynapseImage(
        words,
        lengths,
        gapped.astype(bool),
        n_targets,
        _whole(entry, "weight_bits", 1, 8),
        _whole(entry, "delay_bits", 0, 0),
        formats,
        _whole(entry, "weight_exponent", -64, 64),
    )
    return image, end


def _whole(entry: dict[str, Any], key: str, low: int, high: int) -> int:
    value = entry[key]
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{key} is {value!r}, allowed {low}..{high}")
    return value


def _format(fields: dict[str, Any]) -> Format:
    if fields.get("encoding") not in ("dense", "sparse", "runlength"):
        raise ValueError(f"unknown encoding {fields.get('encoding')!r}")
    if fields.get("sign_mode") not in ("mixed", "excitatory", "inhibitory"):
        raise ValueError(f"unknown sign mode {fields.get('sign_mode')!r}")
    bits = {
        key: _whole(fields, key, low, high)
        for key, (low, high) in {
            "weight_bits": (1, 8),
            "delay_bits": (0, 0),
            "index_bits": (1, 12),
            "skip_bits": (0, 8),
            "weight_exponent": (-64, 64),
        }.items()
    }
    return Format(fields["encoding"], fields["sign_mode"], **bits)

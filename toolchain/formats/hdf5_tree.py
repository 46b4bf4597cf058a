"""An HDF5 file as nested dictionaries, whatever is in it: nothing large is read that the file does not hold.

A file may claim any shape; so the tree is walked here, with every size compared with the bytes that are there, links
followed nowhere, and no filter loaded that is not part of HDF5.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from toolchain.errors import SnncError

Tree = dict[str, Any]
"""Name -> a tree, an array of numbers, a list of texts (of each row), a text, or a number."""

DEPTH_LIMIT = 32
"""Most graphs and nodes within one another."""
ENTRIES_LIMIT = 200_000
"""Most groups and data sets of a file."""
BYTES_LIMIT = 1 << 32
"""Most bytes that all data sets take when they are unpacked."""
PACKING_LIMIT = 1100
"""Deflate makes 1032 bytes of one at most."""
FILTERS = frozenset({1, 2, 3, 4, 5, 6, 32000})
"""Deflate, shuffle, fletcher32, szip, nbit, scaleoffset, lzf: what h5py brings along."""
TEXT_BYTES = 16
"""Of an entry for a text of any length: its length (4 bytes), where it lies (8), and its number there (4)."""


def read_hdf5(path: str | os.PathLike[str], names: Sequence[str], expected: str, remedy: str) -> list[Any]:
    """What the named entries of the file's root hold; None where an entry behind the first is not there.

    expected, remedy: for messages: who writes such files, and what to do.

    Raises:
        SnncError: missing, empty, damaged, cut off, of another format, or claiming more than it holds.
    """
    where = str(path)
    with opened(path, expected, remedy) as root:
        if names[0] not in root:
            raise SnncError(
                "the file holds no network", where=where, got=f"{_some(root)}", allowed=f"a group {names[0]!r}"
            )
        walk = Walk(where, remedy)
        found = [walk.entry(root, name, name) if name in root else None for name in names]
    if not isinstance(found[0], dict):
        raise SnncError("the file holds no network", where=f"{where}, {names[0]}", allowed="a group")
    return found


@contextmanager
def opened(path: str | os.PathLike[str], expected: str, remedy: str) -> Iterator[h5py.File]:
    """An HDF5 file to read. Raises SnncError as `read_hdf5`, also for what goes wrong while it is open."""
    file = Path(path)
    where = str(file)
    with damage(where, remedy):
        try:
            size = file.stat().st_size
        except FileNotFoundError:
            raise SnncError("no such file", where=where) from None
        if size == 0:
            raise SnncError("the file is empty", where=where)
        if not h5py.is_hdf5(file):
            raise SnncError("the file is not an HDF5 file", where=where, allowed=expected, remedy=remedy)
        with h5py.File(file, "r", locking=False) as root:
            yield root


@contextmanager
def damage(where: str, remedy: str) -> Iterator[None]:
    """What h5py raises at a damaged file, in our words."""
    try:
        yield
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, NotImplementedError, OverflowError) as error:
        text = (str(error).splitlines() or [""])[0][:200]
        raise SnncError("the file is damaged or cut off", where=where, got=text, remedy=remedy) from None


def _some(group: h5py.Group) -> str:
    return ", ".join(repr(name)[:40] for _, name in zip(range(4), group, strict=False)) or "nothing"


class Walk:
    """Through the groups of one file, with what they may still take."""

    def __init__(self, file: str, remedy: str) -> None:
        self.file = file
        self.remedy = remedy
        self.entries = ENTRIES_LIMIT
        self.bytes = BYTES_LIMIT

    def refuse(self, message: str, place: str, **details: object) -> SnncError:
        return SnncError(message, where=f"{self.file}, {place[:200]}", **details)  # type: ignore[arg-type]

    def entry(self, group: h5py.Group, name: str, place: str, depth: int = 0) -> Any:
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise self.refuse("links are not followed", place, got=type(link).__name__, allowed="data in the file")
        found = group[name]
        self.entries -= 1
        if self.entries < 0 or depth > 2 * DEPTH_LIMIT:
            raise self.refuse(
                "too many entries, or within one another without end",
                place,
                allowed=f"{ENTRIES_LIMIT} entries, {DEPTH_LIMIT} graphs deep",
            )
        if isinstance(found, h5py.Group):
            if len(found) > self.entries:
                raise self.refuse("too many entries", place, got=len(found), allowed=ENTRIES_LIMIT)
            return {key: self.entry(found, key, f"{place}/{key}", depth + 1) for key in found}
        if isinstance(found, h5py.Dataset):
            return self.data(found, place)
        raise self.refuse("neither a group nor data", place, got=type(found).__name__)

    def data(self, found: h5py.Dataset, place: str) -> Any:
        if found.shape is None:
            return None
        self._check_size(found, place)
        if h5py.check_string_dtype(found.dtype) is not None:
            self._check_texts(found, place)
            return _texts(found[()])
        if found.dtype.kind not in "fiub" or found.dtype.itemsize > 8:
            raise self.refuse(
                "an entry is neither numbers nor text",
                place,
                got=str(found.dtype)[:80],
                allowed="floats of up to 64 bits, integers, truth values, text",
            )
        value = found[()]
        return value if isinstance(value, np.ndarray) else value.item()

    def _check_texts(self, found: h5py.Dataset, place: str) -> None:
        """Texts of any length: HDF5 makes room for the length that stands in the file before it looks for the text.

        So their entries are read first, of 16 bytes each, which begin with the length.
        """
        if h5py.check_string_dtype(found.dtype).length is not None or not found.size:
            return
        begin = found.id.get_offset()
        if begin is None or found.id.get_storage_size() != TEXT_BYTES * found.size:
            raise self.refuse("text that is packed is not read", place, remedy=self.remedy)
        lengths = np.fromfile(self.file, "<u4", found.size * TEXT_BYTES // 4, offset=begin)[:: TEXT_BYTES // 4]
        most = Path(self.file).stat().st_size
        if int(lengths.astype(np.int64).sum()) > most:
            raise self.refuse("an entry claims more than the file holds", place, got="text", allowed=f"{most} bytes")

    def _check_size(self, found: h5py.Dataset, place: str) -> None:
        """What the data set claims to hold must be there, packed or not."""
        plist = found.id.get_create_plist()
        if found.is_virtual or plist.get_external_count():
            raise self.refuse("the data lie in another file", place, allowed="data in the file itself")
        filters = [int(plist.get_filter(k)[0]) for k in range(plist.get_nfilters())]
        strange = [str(code) for code in filters if code not in FILTERS]
        if strange:
            raise self.refuse("the data are packed in an unknown way", place, got=f"filter {', '.join(strange)}")
        each = found.dtype.itemsize
        claimed = math.prod(found.shape) * each
        piece = math.prod(found.chunks) * each if found.chunks else 0
        stored = int(found.id.get_storage_size())
        most = (PACKING_LIMIT if filters else 1) * stored
        if claimed > most or (piece > max(most, 1 << 20) and piece > claimed):
            raise self.refuse(
                "an entry claims more than the file holds",
                place,
                got=f"shape {found.shape}, {max(claimed, piece)} bytes",
                allowed=f"{most} bytes: {stored} are stored",
                remedy=self.remedy,
            )
        self.bytes -= claimed
        if self.bytes < 0:
            raise self.refuse(
                "the file is too large", place, got=f"shape {found.shape}", allowed=f"{BYTES_LIMIT} bytes"
            )


def _texts(value: Any) -> Any:
    """Text as text, arrays of text as nested lists."""
    if isinstance(value, np.ndarray):
        return [_texts(each) for each in value]
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)

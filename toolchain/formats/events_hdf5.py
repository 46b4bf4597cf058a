"""Spike trains of unequal length in HDF5, as the Heidelberg digits have them.

`spikes/times` (seconds) and `spikes/units` hold one array a sample, `labels` one number. HDF5 makes room for the length
that stands in the file before it looks for what is there; so the lengths are read first, by hand, and compared with the
size of the file.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from toolchain.errors import SnncError
from toolchain.formats.hdf5_tree import Walk, opened

ENTRY = 16
"""Bytes of an entry of any length: its length (4), where it lies (8), and its number there (4)."""
DEFLATE, SHUFFLE = 1, 2
SAMPLES_LIMIT = 1 << 24
REMEDY = "save times and units as .npz with t, unit, sample and labels"


def spike_trains(path: str | os.PathLike[str]) -> Iterator[tuple[NDArray[Any], NDArray[Any], int]]:
    """Times in seconds, units and label (-1 where there is none) of each sample.

    Raises:
        SnncError: damaged, entries missing or of unequal length, or claiming more than the file holds.
    """
    where = str(path)
    with opened(path, "spikes/times and spikes/units of each sample", REMEDY) as root:
        walk = Walk(where, REMEDY)
        times, units = (_trains(root, name, where, kinds) for name, kinds in (("times", "f"), ("units", "iu")))
        if len(times) != len(units):
            got = f"{len(times)} and {len(units)}"
            raise SnncError("times and units of unequal number", where=f"{where}, spikes", got=got)
        labels = np.asarray(walk.entry(root, "labels", "labels")) if "labels" in root else np.full(len(times), -1)
        if labels.shape != (len(times),) or labels.dtype.kind not in "iu":
            raise SnncError(
                "one whole number for each sample",
                where=f"{where}, labels",
                got=f"{labels.dtype}, shape {labels.shape}",
                allowed=f"({len(times)},)",
            )
        for k in range(len(times)):
            yield times[k], units[k], int(labels[k])


def _trains(root: h5py.File, name: str, where: str, kinds: str) -> h5py.Dataset:
    place = f"{where}, spikes/{name}"
    found: Any = root
    for part in ("spikes", name):
        link = found.get(part, getlink=True) if isinstance(found, h5py.Group) else None
        found = found[part] if isinstance(link, h5py.HardLink) else None
    if not isinstance(found, h5py.Dataset):
        raise SnncError("an entry is missing", where=place, allowed="arrays of unequal length, one a sample")
    base = h5py.check_vlen_dtype(found.dtype)
    if base is None or found.ndim != 1 or base.kind not in kinds or base.itemsize > 8:
        raise SnncError(
            "no spike trains",
            where=place,
            got=f"{found.dtype}, shape {found.shape}"[:200],
            allowed="arrays of numbers of unequal length, one a sample",
            remedy=REMEDY,
        )
    size = Path(where).stat().st_size
    if found.shape[0] > min(SAMPLES_LIMIT, PACKED * size):
        raise SnncError("an entry claims more than the file holds", where=place, got=f"shape {found.shape}")
    # What the arrays hold lies in the file unpacked, whatever packs the list of them.
    claimed = sum(int(lengths.sum(dtype=np.int64)) for lengths in _lengths(found, where, place)) * base.itemsize
    if claimed > size:
        raise SnncError(
            "an entry claims more than the file holds", where=place, got=f"{claimed} bytes", allowed=f"{size} bytes"
        )
    return found


PACKED = 1100
"""Deflate makes 1032 bytes of one at most."""


def _lengths(found: h5py.Dataset, where: str, place: str) -> Iterator[NDArray[np.uint32]]:
    """The lengths that stand in the file, in parts; those of places that were never written are 0."""
    if found.is_virtual or found.id.get_create_plist().get_external_count():
        raise SnncError("the data lie in another file", where=place, allowed="data in the file itself")
    if found.chunks is None:
        begin = found.id.get_offset()
        if begin is not None:
            yield np.fromfile(where, "<u4", found.size * ENTRY // 4, offset=begin)[:: ENTRY // 4]
        elif found.id.get_storage_size():
            raise SnncError("arrays beside their header are not read", where=place, remedy=REMEDY)
        return
    plist = found.id.get_create_plist()
    filters = [int(plist.get_filter(k)[0]) for k in range(plist.get_nfilters())]
    if filters not in ([], [DEFLATE], [SHUFFLE, DEFLATE], [SHUFFLE]):
        raise SnncError("the data are packed in an unknown way", where=place, got=f"filters {filters}", remedy=REMEDY)
    whole = math.prod(found.chunks) * ENTRY
    if whole > max(1 << 20, PACKED * Path(where).stat().st_size):
        raise SnncError("an entry claims more than the file holds", where=place, got=f"parts of {found.chunks}")
    for k in range(found.id.get_num_chunks()):
        info = found.id.get_chunk_info(k)
        with open(where, "rb") as stream:
            stream.seek(info.byte_offset)
            data = stream.read(info.size)
        # A bit for each filter that was left out of this part, as HDF5 does with shuffling of such lists.
        used = {code for k, code in enumerate(filters) if not info.filter_mask >> k & 1}
        if SHUFFLE in used:
            raise SnncError("the data are packed in an unknown way", where=place, got="shuffled", remedy=REMEDY)
        if DEFLATE in used:
            data = zlib.decompressobj().decompress(data, whole)
        raw = np.frombuffer(data, np.uint8)
        if len(raw) != whole:
            raise SnncError("the file is damaged or cut off", where=place, got=f"{len(raw)} bytes of {whole}")
        yield np.ascontiguousarray(raw.reshape(-1, ENTRY)[:, :4]).view("<u4")[:, 0]

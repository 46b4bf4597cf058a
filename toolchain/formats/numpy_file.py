"""Arrays of .npy and .npz files: nothing is executed, and nothing is made that the file does not hold."""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from toolchain.errors import SnncError

BYTES_LIMIT = 1 << 32
"""Most bytes that all arrays of a file take when they are unpacked."""
HEADERS: dict[tuple[int, int], Any] = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def read_arrays(path: str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
    """Name -> array; the array of a .npy file has the name "".

    Raises:
        SnncError: damaged, cut off, an array of Python objects, or claiming more than the file holds.
    """
    where = str(path)
    try:
        if Path(path).suffix.lower() == ".npy":
            with open(path, "rb") as stream:
                return {"": _array(stream, os.fstat(stream.fileno()).st_size, where)}
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > BYTES_LIMIT:
                raise SnncError("the file is too large", where=where, allowed=f"{BYTES_LIMIT} bytes, unpacked")
            found = {}
            for member in members:
                name = member.filename.removesuffix(".npy")
                with archive.open(member) as stream:
                    found[name] = _array(stream, member.file_size, f"{where}, {name[:40]}")
            return found
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        text = (str(error).splitlines() or [""])[0][:200]
        raise SnncError("the file is damaged or cut off", where=where, got=text) from None


def _array(stream: IO[bytes], size: int, where: str) -> NDArray[Any]:
    """One array of a stream of so many bytes."""
    version = npy.read_magic(stream)
    if version not in HEADERS:
        raise ValueError(f"version {version} of the format")
    shape, fortran, dtype = HEADERS[version](stream)
    if dtype.hasobject:
        raise SnncError(
            "arrays of Python objects run code when they are loaded, and are not",
            where=where,
            got=str(dtype)[:80],
            allowed="numbers, or fields of numbers",
            remedy="save one array for each column",
        )
    claimed = math.prod(shape) * dtype.itemsize
    left = size - stream.tell()
    if min(shape, default=0) < 0 or claimed > left or claimed > BYTES_LIMIT:
        raise SnncError(
            "an array claims more than the file holds",
            where=where,
            got=f"shape {shape}, {claimed} bytes",
            allowed=f"{min(left, BYTES_LIMIT)} bytes",
        )
    data = stream.read(claimed)
    if len(data) != claimed:
        raise ValueError(f"{len(data)} bytes of {claimed}")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")

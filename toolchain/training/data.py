"""Data sets as integers 0 to 255, whole in memory.

MNIST is read from its IDX files (LeCun, Cortes, Burges), gzip or not; the digits come with scikit-learn.
"""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import SnncError, nearest

IMAGES_MAGIC = 2051
LABELS_MAGIC = 2049
MNIST_FILES = {
    "train_x": "train-images-idx3-ubyte",
    "train_y": "train-labels-idx1-ubyte",
    "test_x": "t10k-images-idx3-ubyte",
    "test_y": "t10k-labels-idx1-ubyte",
}
SIZE_LIMIT = 1 << 30
"""Bytes that an IDX file may announce; MNIST has 47 million."""


SHAPES = {"mnist": (784, 10), "digits": (64, 10)}
"""Input neurons and classes of each data set, known without its files."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples uint8 (N, n) and labels int64 (N,), for training and for testing. shape: of one image, rows first."""

    name: str
    shape: tuple[int, int]
    classes: int
    train_x: NDArray[np.uint8]
    train_y: NDArray[np.int64]
    test_x: NDArray[np.uint8]
    test_y: NDArray[np.int64]

    @property
    def size(self) -> int:
        return self.train_x.shape[1]


def load(dataset: str, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Load a data set by name; `data_dir` holds its files, or a folder of its name that does.

    Raises:
        SnncError: unknown name, files missing (all are listed), truncated or not what they should be.
    """
    if dataset not in DATASETS:
        raise SnncError(f"unknown data set {dataset!r}", where="dataset", allowed=nearest(dataset, DATASETS))
    return DATASETS[dataset](data_dir)


def _digits(data_dir: str | os.PathLike[str] | None) -> Dataset:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise SnncError(
            "the digits come with scikit-learn, which is not installed",
            where="dataset digits",
            remedy="pip install 'snnc[train]'",
        ) from error
    bunch = load_digits()
    # 0..16 becomes 0..255, rounded to the nearest integer.
    x = ((bunch.data.astype(np.int64) * 255 + 8) // 16).astype(np.uint8)
    y = bunch.target.astype(np.int64)
    # Every fifth sample is for testing: the same split everywhere, and all writers on both sides.
    test = np.arange(len(x)) % 5 == 0
    return Dataset("digits", (8, 8), 10, x[~test], y[~test], x[test], y[test])


def _mnist(data_dir: str | os.PathLike[str] | None) -> Dataset:
    paths = _mnist_paths(data_dir)
    arrays: dict[str, NDArray[np.uint8]] = {}
    for key, path in paths.items():
        arrays[key] = read_idx(path, IMAGES_MAGIC if key.endswith("x") else LABELS_MAGIC)
    for part in ("train", "test"):
        images, labels = arrays[f"{part}_x"], arrays[f"{part}_y"]
        if len(images) != len(labels):
            raise SnncError(
                "images and labels differ in number",
                where=f"{paths[f'{part}_x']}, {paths[f'{part}_y']}",
                got=f"{len(images)} images, {len(labels)} labels",
            )
        if not len(images) or labels.max() > 9:
            raise SnncError(
                "these are not the labels of ten digits",
                where=str(paths[f"{part}_y"]),
                got=f"{len(labels)} labels, largest {int(labels.max(initial=0))}",
                allowed="one or more, each 0 to 9",
            )
    if arrays["train_x"].shape[1:] != arrays["test_x"].shape[1:]:
        raise SnncError(
            "training and test images differ in size",
            where=str(paths["test_x"]),
            got=f"{arrays['train_x'].shape[1:]} and {arrays['test_x'].shape[1:]}",
        )
    rows, columns = arrays["train_x"].shape[1:]
    return Dataset(
        "mnist",
        (rows, columns),
        10,
        arrays["train_x"].reshape(len(arrays["train_x"]), -1),
        arrays["train_y"].astype(np.int64),
        arrays["test_x"].reshape(len(arrays["test_x"]), -1),
        arrays["test_y"].astype(np.int64),
    )


def _mnist_paths(data_dir: str | os.PathLike[str] | None) -> dict[str, Path]:
    expected = ", ".join(f"{name}[.gz]" for name in MNIST_FILES.values())
    remedy = "pass --data DIR, a folder that holds the four files or has a folder mnist/ that does"
    if data_dir is None:
        raise SnncError("MNIST needs its files", where="--data", got="nothing", allowed=expected, remedy=remedy)
    root = Path(data_dir)
    if not root.is_dir():
        raise SnncError(f"{root} is not a folder", where="--data", got=str(root), allowed=expected, remedy=remedy)
    missing: list[str] = []
    for folder in (root, root / "mnist"):
        found = {
            key: path
            for key, name in MNIST_FILES.items()
            for path in (folder / f"{name}.gz", folder / name)
            if path.is_file()
        }
        if len(found) == len(MNIST_FILES):
            return found
        if not missing or found:
            missing = [f"{name}[.gz]" for key, name in MNIST_FILES.items() if key not in found]
    raise SnncError(
        f"{root} does not hold MNIST",
        where="--data",
        got=f"missing: {', '.join(missing)}",
        allowed=expected,
        remedy=remedy,
    )


def read_idx(path: str | os.PathLike[str], magic: int) -> NDArray[np.uint8]:
    """An IDX file of unsigned bytes: uint8, as many dimensions as its magic number says (2051: 3, 2049: 1).

    Raises:
        SnncError: unreadable, wrong magic number, or fewer or more bytes than its header announces.
    """
    path = Path(path)
    try:
        with open(path, "rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rb") if zipped else open(path, "rb") as stream:
            dimensions = magic & 0xFF
            header = stream.read(4 + 4 * dimensions)
            if len(header) < 4:
                raise _idx_error(path, "is empty or ends in its header", f"{len(header)} bytes")
            (got,) = struct.unpack(">I", header[:4])
            if got != magic:
                kind = "images" if dimensions == 3 else "labels"
                raise _idx_error(path, "has the wrong magic number", got, f"{magic} ({kind})")
            if len(header) < 4 + 4 * dimensions:
                raise _idx_error(path, "is truncated in its header", len(header), f"{4 + 4 * dimensions} bytes")
            shape = struct.unpack(f">{dimensions}I", header[4:])
            size = math.prod(shape)
            if size > SIZE_LIMIT:
                raise _idx_error(path, "announces an unbelievable size", shape, f"at most {SIZE_LIMIT} bytes")
            content = stream.read(size + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise _idx_error(path, "cannot be read", error) from None
    if len(content) != size:
        problem = "is truncated" if len(content) < size else "is longer than its header says"
        got_bytes = f"{len(content)} bytes" if len(content) < size else "more bytes"
        raise _idx_error(path, problem, got_bytes, f"{size} bytes for {' x '.join(map(str, shape))}")
    return np.frombuffer(content, np.uint8).reshape(shape)


def _idx_error(path: Path, problem: str, got: object, allowed: object = None) -> SnncError:
    return SnncError(f"{path.name} {problem}", where=str(path), got=got, allowed=allowed, remedy="get the file again")


DATASETS: dict[str, Callable[[str | os.PathLike[str] | None], Dataset]] = {"mnist": _mnist, "digits": _digits}

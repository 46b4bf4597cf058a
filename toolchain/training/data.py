"""Data sets as integers 0 to 255, whole in memory.

MNIST is read from its IDX files (LeCun, Cortes, Burges), gzip or not; CIFAR-10 from its original batches for Python
(Krizhevsky 2009), without running what a pickle may name; the digits come with scikit-learn.
"""

from __future__ import annotations

import gzip
import math
import os
import pickle
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


IMAGES = {"mnist": ((1, 28, 28), 10), "digits": ((1, 8, 8), 10), "cifar10": ((3, 32, 32), 10)}
"""Shape of an image (channels, height, width) and classes of each data set, known without its files."""

CIFAR_FILES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")
CIFAR_FOLDERS = ("", "cifar10", "cifar-10-batches-py")
CIFAR_FILE_LIMIT = 1 << 28
"""Bytes of a batch that are read; an original one has 31 million."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples uint8 (N, n) and labels int64 (N,), for training and for testing.

    shape: of one image, (channels, height, width); a sample holds channel after channel, each row by row.
    """

    name: str
    shape: tuple[int, int, int]
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
    return Dataset("digits", (1, 8, 8), 10, x[~test], y[~test], x[test], y[test])


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
        (1, rows, columns),
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


class _ArraysOnly(pickle.Unpickler):
    """Reads plain values and arrays of numpy; every other name in the file is refused, and nothing is called."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {
            ("numpy.core.multiarray", "_reconstruct"): _empty_array,
            ("numpy._core.multiarray", "_reconstruct"): _empty_array,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("_codecs", "encode"): _bytes,
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return allowed[module, name]


def _empty_array(subtype: object, shape: object, kind: object) -> NDArray[np.uint8]:
    """What the file's contents are put into; numpy's own function would allocate what the file asks for."""
    return np.empty(0, np.uint8)


def _bytes(text: object, codec: object) -> bytes:
    """How Python 3 writes bytes for Python 2."""
    if not isinstance(text, str) or codec not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError(f"bytes in the code {codec!r}")
    return text.encode("latin1")


def read_cifar_batch(path: str | os.PathLike[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """One batch of CIFAR-10: images uint8 (N, 3072), channel after channel, and labels int64 (N,).

    Raises:
        SnncError: unreadable, or anything but such a batch.
    """
    path = Path(path)
    try:
        with open(path, "rb") as stream:
            if os.fstat(stream.fileno()).st_size > CIFAR_FILE_LIMIT:
                raise _cifar_error(path, "is too large", "an original batch has 31 MB")
            content = _ArraysOnly(stream, encoding="bytes").load()
    except SnncError:
        raise
    except Exception as error:  # a damaged pickle raises nearly anything
        raise _cifar_error(path, "cannot be read", str(error) or type(error).__name__) from None
    images = content.get(b"data") if isinstance(content, dict) else None
    labels = content.get(b"labels") if isinstance(content, dict) else None
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 2 or images.shape[1] != 3072:
        raise _cifar_error(path, "has no images", getattr(images, "shape", type(images).__name__), "uint8 (N, 3072)")
    right = isinstance(labels, list) and all(type(label) is int and 0 <= label <= 9 for label in labels)
    if not right or len(labels) != len(images) or not len(images):  # type: ignore[arg-type]
        raise _cifar_error(path, "has no labels for its images", type(labels).__name__, f"{len(images)} of 0 to 9")
    return images, np.array(labels, np.int64)


def _cifar_error(path: Path, problem: str, got: object, allowed: object = None) -> SnncError:
    remedy = "get the version for Python of CIFAR-10 again (cifar-10-python.tar.gz)"
    return SnncError(f"{path.name} {problem}", where=str(path), got=got, allowed=allowed, remedy=remedy)


def _cifar10(data_dir: str | os.PathLike[str] | None) -> Dataset:
    folder = _cifar_folder(data_dir)
    *train, test = (read_cifar_batch(folder / name) for name in CIFAR_FILES)
    train_x, train_y = (np.concatenate([batch[part] for batch in train]) for part in (0, 1))
    return Dataset("cifar10", (3, 32, 32), 10, train_x, train_y, *test)


def _cifar_folder(data_dir: str | os.PathLike[str] | None) -> Path:
    expected = ", ".join(CIFAR_FILES)
    remedy = "pass --data DIR, a folder that holds the six files or has a folder cifar-10-batches-py/ that does"
    if data_dir is None:
        raise SnncError("CIFAR-10 needs its files", where="--data", got="nothing", allowed=expected, remedy=remedy)
    missing = {
        folder: [name for name in CIFAR_FILES if not (folder / name).is_file()]
        for folder in (Path(data_dir) / name for name in CIFAR_FOLDERS)
    }
    best = min(missing, key=lambda folder: len(missing[folder]))
    if missing[best]:
        raise SnncError(
            f"{data_dir} does not hold CIFAR-10",
            where="--data",
            got=f"missing: {', '.join(missing[best])}",
            allowed=expected,
            remedy=remedy,
        )
    return best


DATASETS: dict[str, Callable[[str | os.PathLike[str] | None], Dataset]] = {
    "mnist": _mnist,
    "digits": _digits,
    "cifar10": _cifar10,
}

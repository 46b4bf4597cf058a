"""IDX files and batches of CIFAR-10, good and bad, and the digits."""

import gzip
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from toolchain.errors import SnncError
from toolchain.training import data


def idx(array):
    magic = 0x800 | array.ndim
    return struct.pack(f">{1 + array.ndim}I", magic, *array.shape) + array.tobytes()


@pytest.fixture
def folder(tmp_path):
    """A tiny MNIST: half of its files zipped."""
    rng = np.random.default_rng(0)
    for key, name in data.MNIST_FILES.items():
        count = 7 if key.startswith("train") else 3
        shape = (count, 4, 5) if key.endswith("x") else (count,)
        array = rng.integers(0, 256 if key.endswith("x") else 10, shape).astype(np.uint8)
        if key.startswith("train"):
            (tmp_path / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
        else:
            (tmp_path / name).write_bytes(idx(array))
    return tmp_path


def refused(folder, *words):
    with pytest.raises(SnncError) as caught:
        data.load("mnist", folder)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_mnist_zipped_or_not_and_from_the_folder_above(folder, tmp_path_factory):
    found = data.load("mnist", folder)
    assert found.train_x.shape == (7, 20)
    assert found.test_x.shape == (3, 20)
    assert found.shape == (1, 4, 5)
    assert found.train_x.dtype == np.uint8
    assert found.train_y.dtype == np.int64
    above = tmp_path_factory.mktemp("above")
    (above / "mnist").symlink_to(folder)
    assert np.array_equal(data.load("mnist", above).train_x, found.train_x)


def test_missing_files_are_all_named(folder, tmp_path_factory):
    (folder / "t10k-labels-idx1-ubyte").unlink()
    refused(folder, "missing: t10k-labels-idx1-ubyte[.gz]", "train-images-idx3-ubyte[.gz]")
    empty = tmp_path_factory.mktemp("empty")
    refused(empty, *(f"{name}[.gz]" for name in data.MNIST_FILES.values()), "--data DIR")
    refused(empty / "nowhere", "is not a folder")
    refused(None, "MNIST needs its files", "--data DIR")


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("t10k-images-idx3-ubyte", lambda b: b[:-1], ("is truncated", "59 bytes", "60 bytes for 3 x 4 x 5")),
        ("t10k-images-idx3-ubyte", lambda b: b + b"x", ("longer than its header",)),
        ("t10k-images-idx3-ubyte", lambda b: b[:9], ("truncated in its header",)),
        ("t10k-images-idx3-ubyte", lambda b: b"", ("is empty",)),
        ("t10k-images-idx3-ubyte", lambda b: b"\0\0\x08\x01" + b[4:], ("wrong magic number", "2049", "2051")),
        ("t10k-labels-idx1-ubyte", lambda b: b[:4] + b"\0\0\0\2" + b[8:10], ("differ in number", "3 images, 2 labels")),
        ("t10k-labels-idx1-ubyte", lambda b: b[:8] + b"\1\2\x0b", ("labels of ten digits", "11")),
        ("t10k-images-idx3-ubyte", lambda b: b[:4] + b"\xff" * 12, ("unbelievable size",)),
        ("train-images-idx3-ubyte.gz", lambda b: b[:-20], ("cannot be read",)),
        ("train-images-idx3-ubyte.gz", lambda b: b[:12] + b"\xff\xff\xff" + b[15:], ("cannot be read",)),
    ],
)
def test_damaged_files_are_refused_by_name(folder, name, change, words):
    path = folder / name
    path.write_bytes(change(path.read_bytes()))
    refused(folder, name, *words)


def test_images_of_different_sizes(folder):
    (folder / "t10k-images-idx3-ubyte").write_bytes(idx(np.zeros((3, 2, 2), np.uint8)))
    refused(folder, "differ in size")


def test_digits_are_integers_and_split_the_same_each_time():
    one, two = data.load("digits"), data.load("digits")
    assert one.train_x.shape == (1437, 64)
    assert one.test_x.shape == (360, 64)
    assert (one.train_x.min(), one.train_x.max()) == (0, 255)
    # 8 of 16 is 127.5, rounded up.
    assert set(np.unique(one.train_x)) == {(v * 255 + 8) // 16 for v in range(17)}
    assert np.array_equal(one.test_x, two.test_x)
    assert set(one.test_y) == set(range(10))


def test_an_unknown_data_set_suggests_the_nearest():
    with pytest.raises(SnncError, match="did you mean 'mnist'"):
        data.load("minst")


def batch(count=4, seed=0):
    """As the original files are: text of Python 2 is bytes to Python 3."""
    random = np.random.default_rng(seed)
    return {
        b"batch_label": b"training batch 1 of 5",
        b"labels": random.integers(0, 10, count).tolist(),
        b"data": random.integers(0, 256, (count, 3072)).astype(np.uint8),
        b"filenames": [b"a.png"] * count,
    }


@pytest.fixture
def cifar(tmp_path):
    """A tiny CIFAR-10, in the folder that its archive makes."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for number, name in enumerate(data.CIFAR_FILES):
        (folder / name).write_bytes(pickle.dumps(batch(seed=number), protocol=2))
    return tmp_path


def test_cifar_from_its_folder_or_the_one_above(cifar):
    found = data.load("cifar10", cifar)
    assert found.shape == (3, 32, 32)
    assert found.train_x.shape == (20, 3072)
    assert np.array_equal(found.test_x, batch(seed=5)[b"data"])
    assert found.train_y.tolist() == [label for seed in range(5) for label in batch(seed=seed)[b"labels"]]
    assert np.array_equal(data.load("cifar10", cifar / "cifar-10-batches-py").train_x, found.train_x)


def test_missing_batches_are_named(cifar):
    (cifar / "cifar-10-batches-py" / "data_batch_3").unlink()
    with pytest.raises(SnncError, match="missing: data_batch_3") as caught:
        data.load("cifar10", cifar)
    assert "--data DIR" in str(caught.value)
    with pytest.raises(SnncError, match="CIFAR-10 needs its files"):
        data.load("cifar10", None)


class Trap:
    def __reduce__(self):
        return Path.touch, (Path("it-ran"),)


def test_a_batch_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "data_batch_1"
    path.write_bytes(pickle.dumps(batch() | {b"labels": Trap()}, protocol=2))
    with pytest.raises(SnncError, match="cannot be read") as caught:
        data.read_cifar_batch(path)
    assert "it names" in str(caught.value)
    assert not (tmp_path / "it-ran").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ("cannot be read",)),
        (pickle.dumps(batch(), protocol=2)[:-500], ("cannot be read",)),
        (pickle.dumps([1, 2]), ("has no images",)),
        (pickle.dumps(batch() | {b"data": np.zeros((4, 5), np.uint8)}, 2), ("has no images", "(4, 5)")),
        (pickle.dumps(batch() | {b"data": np.zeros((4, 3072))}, 2), ("has no images",)),
        (pickle.dumps(batch() | {b"labels": [1, 2, 3]}, 2), ("has no labels",)),
        (pickle.dumps(batch() | {b"labels": [1, 2, 3, 10]}, 2), ("has no labels",)),
        (pickle.dumps(batch() | {b"labels": [1, 2, 3, True]}, 2), ("has no labels",)),
    ],
)
def test_files_that_are_no_batches(tmp_path, content, words):
    path = tmp_path / "data_batch_1"
    path.write_bytes(content)
    with pytest.raises(SnncError) as caught:
        data.read_cifar_batch(path)
    for word in ("data_batch_1", "cifar-10-python.tar.gz", *words):
        assert word in str(caught.value)


def test_a_batch_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "CIFAR_FILE_LIMIT", 10)
    path = tmp_path / "data_batch_1"
    path.write_bytes(pickle.dumps(batch(), protocol=2))
    with pytest.raises(SnncError, match="too large"):
        data.read_cifar_batch(path)


def test_shapes_are_known_without_files():
    assert set(data.IMAGES) == set(data.DATASETS)
    assert data.load("digits").shape == data.IMAGES["digits"][0]

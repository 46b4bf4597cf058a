"""Event data: every format reads back as a slow reference says, drops are counted, nothing hostile gets in."""

from __future__ import annotations

import importlib
import sys
import types
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolchain.errors import SnncError, UsageError
from toolchain.formats import events, numpy_file
from toolchain.formats.events import Bins, microseconds, read_binned

MAP = Bins(1000, 12, (2, 5, 6))


def drawn(seed: int, n: int = 300) -> dict[str, np.ndarray]:
    """Events inside of the map and the window, and some beside them."""
    random = np.random.default_rng(seed)
    found = {"t": random.integers(-500, 13_000, n), "x": random.integers(0, 7, n), "y": random.integers(0, 6, n)}
    return {**found, "p": random.integers(0, 2, n)}


def slow(columns: dict[str, np.ndarray], bins: Bins) -> tuple[np.ndarray, dict[str, int]]:
    """One event after the other."""
    channels, height, width = bins.shape
    spikes = np.zeros((bins.steps, bins.size), np.uint8)
    counts = dict.fromkeys(("EVT002", "EVT003", "EVT004"), 0)
    for t, x, y, p in zip(*(columns[name].tolist() for name in "txyp"), strict=True):
        x, y = x // bins.downsample, y // bins.downsample
        if not (x < width and y < height):
            counts["EVT003"] += 1
        elif not 0 <= t < bins.dt * bins.steps:
            counts["EVT002"] += 1
        else:
            place = ((p if channels == 2 else 0) * height + y) * width + x
            counts["EVT004"] += int(spikes[t // bins.dt, place])
            spikes[t // bins.dt, place] = 1
    return spikes, counts


def told(binned: events.Binned) -> dict[str, int]:
    return {d.code: d.count for d in binned.diagnostics}


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2]), st.sampled_from([1, 2, 3]), st.integers(1, 3000))
def test_binning_equals_the_slow_reference(seed: int, channels: int, downsample: int, dt: int) -> None:
    columns, bins = drawn(seed), Bins(dt, 9, (channels, 5, 6), downsample)
    found = events._Counts()
    given = {name: columns[name] for name in "xyp"}
    spikes = events.binned(events.Events(columns["t"], given, "here"), bins, found)
    expected, counts = slow(columns, bins)
    assert np.array_equal(spikes, expected)
    assert (found.late, found.outside, found.merged) == tuple(counts.values())


def structured(columns: dict[str, np.ndarray]) -> np.ndarray:
    table = np.zeros(len(columns["t"]), [("t", "<i8"), ("x", "<u2"), ("y", "<u2"), ("p", "?")])
    for name in "txyp":
        table[name] = columns[name]
    return table


def write_bin(path: Path, columns: dict[str, np.ndarray]) -> None:
    data = bytearray()
    for t, x, y, p in zip(*(columns[name].tolist() for name in "txyp"), strict=True):
        data += bytes([x, y, p << 7 | t >> 16, t >> 8 & 255, t & 255])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@pytest.mark.parametrize("kind", ["structured", "columns", "float columns", "npz", "npz table", "fortran"])
def test_numpy_files(tmp_path: Path, kind: str) -> None:
    columns = drawn(1)
    path = tmp_path / ("events.npz" if "npz" in kind else "events.npy")
    plain = np.stack([columns[name] for name in "txyp"], axis=1)
    if kind == "npz":
        np.savez_compressed(path, **columns, labels=np.array([3]))
    elif kind == "npz table":
        np.savez(path, events=structured(columns), labels=3)
    else:
        chosen = {"structured": structured(columns), "columns": plain, "fortran": np.asfortranarray(plain)}
        np.save(path, chosen.get(kind, plain.astype(float)))
    binned = read_binned(path, MAP)
    expected, counts = slow(columns, MAP)
    assert np.array_equal(binned.samples[0], expected)
    assert {code: told(binned)[code] for code in counts} == counts
    assert (binned.labels is None) if "npz" not in kind else binned.labels.tolist() == [3]


def test_samples_in_one_file(tmp_path: Path) -> None:
    parts = [drawn(seed, 40) for seed in range(4)]
    order = np.random.default_rng(0).permutation(160)
    whole = {name: np.concatenate([part[name] for part in parts])[order] for name in "txyp"}
    sample = np.repeat(np.arange(4), 40)[order]
    np.savez(tmp_path / "many.npz", **whole, sample=sample, labels=np.array([1, 0, 2, 1, 5]))
    binned = read_binned(tmp_path / "many.npz", MAP)
    assert binned.labels.tolist() == [1, 0, 2, 1, 5]
    for k in range(4):
        assert np.array_equal(binned.samples[k], slow(parts[k], MAP)[0])
    assert not binned.samples[4].any()
    assert read_binned(tmp_path / "many.npz", MAP, 2).samples.shape == (2, 12, 60)


def test_nmnist(tmp_path: Path) -> None:
    parts = {label: {**drawn(label), "t": np.sort(drawn(label)["t"].clip(0))} for label in (7, 0, 3)}
    for label, columns in parts.items():
        write_bin(tmp_path / "Test" / str(label) / "00001.bin", columns)
    binned = read_binned(tmp_path, MAP)
    assert binned.labels.tolist() == [0, 3, 7]
    for k, label in enumerate((0, 3, 7)):
        assert np.array_equal(binned.samples[k], slow(parts[label], MAP)[0])
    large = {"t": np.array([0x7FFFFF]), "x": np.array([33]), "y": np.array([33]), "p": np.array([1])}
    write_bin(tmp_path / "last.bin", large)
    (found,) = events.recordings(tmp_path / "last.bin")
    assert (found.times.tolist(), {k: v.tolist() for k, v in found.places.items()}) == (
        [0x7FFFFF],
        {"x": [33], "y": [33], "p": [1]},
    )


def write_shd(path: Path, trains, labels, **options) -> None:
    with h5py.File(path, "w") as file:
        for name, column, kind in (("times", 0, np.float32), ("units", 1, np.uint16)):
            data = file.create_dataset(f"spikes/{name}", len(trains), h5py.vlen_dtype(kind), **options)
            for k, train in enumerate(trains):
                data[k] = train[column]
        if labels is not None:
            file["labels"] = np.array(labels)


OPTIONS = {
    "plain": {},
    "chunks": {"chunks": (4,)},
    "packed": {"chunks": (4,), "compression": "gzip"},
    "shuffled": {"chunks": (4,), "compression": "gzip", "shuffle": True},
}


@pytest.mark.parametrize("options", OPTIONS)
def test_heidelberg_digits(tmp_path: Path, options: str) -> None:
    random, bins = np.random.default_rng(3), Bins(1000, 20, (9,))
    # Milliseconds in single precision: many are a little less than they should be.
    trains = [(random.integers(0, 25, n) / 1000, random.integers(0, 11, n)) for n in (30, 0, 12, 50, 7)]
    write_shd(tmp_path / "shd.h5", trains, [4, 3, 2, 1, 0], **OPTIONS[options])
    binned = read_binned(tmp_path / "shd.h5", bins)
    expected = np.zeros((5, 20, 9), np.uint8)
    for k, (seconds, units) in enumerate(trains):
        for second, unit in zip(seconds, units, strict=True):
            if unit < 9 and round(second * 1000) < 20:
                expected[k, round(second * 1000), unit] = 1
    assert np.array_equal(binned.samples, expected)
    assert binned.labels.tolist() == [4, 3, 2, 1, 0]
    write_shd(tmp_path / "bare.h5", trains, None)
    assert read_binned(tmp_path / "bare.h5", bins).labels is None


def test_tonic_is_asked_for_when_it_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "camera.aedat4"
    path.write_bytes(b"#!AER-DAT4.0\r\n")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SnncError, match="pip install tonic"):
        read_binned(path, MAP)
    assert "tonic" not in sys.modules


def test_aedat_counts_from_its_first_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = {**drawn(5), "t": np.sort(drawn(5)["t"].clip(0)) + 10**15}
    io = types.SimpleNamespace(read_aedat4=lambda file: structured(columns), read_dvs_ibm=lambda file: ((5, 6), None))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(importlib, "import_module", lambda name: io)
    (tmp_path / "camera.aedat4").touch()
    expected, _ = slow({**columns, "t": columns["t"] - columns["t"].min()}, MAP)
    assert np.array_equal(read_binned(tmp_path / "camera.aedat4", MAP).samples[0], expected)
    (tmp_path / "camera.aedat").touch()
    with pytest.raises(SnncError, match="tonic cannot read"):
        read_binned(tmp_path / "camera.aedat", MAP)


# --- what is told and refused ---------------------------------------------------------------------------------------


def test_what_happened_is_told(tmp_path: Path) -> None:
    given = {"t": [5, 3, 3, 900, -1, 12_000], "x": [0, 0, 0, 0, 1, 1], "y": [0] * 6, "p": [1, 1, 0, 1, 0, 0]}
    columns = {name: np.array(values) for name, values in given.items()}
    np.savez(tmp_path / "few.npz", **columns)
    binned = read_binned(tmp_path / "few.npz", Bins(1000, 12, (1, 4, 4)))
    assert told(binned) == {"EVT001": 6, "EVT002": 2, "EVT004": 3, "EVT005": 2, "EVT006": 6}
    assert binned.samples.sum() == 1


def test_a_map_of_another_size_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "wide.npz", **{name: np.arange(40) % 34 for name in "txy"}, p=np.zeros(40, int))
    with pytest.raises(SnncError, match="--downsample") as refused:
        read_binned(tmp_path / "wide.npz", MAP)
    assert "'x': 33" in str(refused.value)
    assert told(read_binned(tmp_path / "wide.npz", Bins(1000, 12, (2, 17, 17), 2)))["EVT007"] == 0
    for shape in ((60,), (3, 4, 5)):
        with pytest.raises(SnncError, match="--map"):
            read_binned(tmp_path / "wide.npz", Bins(1000, 12, shape))
    np.savez(tmp_path / "units.npz", t=np.arange(4), unit=np.arange(4))
    with pytest.raises(SnncError, match="one axis"):
        read_binned(tmp_path / "units.npz", MAP)


@pytest.mark.parametrize("text", ["1", "ms", "0ms", "1.5us", "-1ms", "nan s", "1h", "1e30s", "0.1us", ""])
def test_no_time(text: str) -> None:
    with pytest.raises(UsageError, match="--dt"):
        microseconds(text)


def test_times() -> None:
    assert [microseconds(text) for text in ("1ms", "500us", "0.01s", " 2.5ms ")] == [1000, 500, 10_000, 2500]


def refused(path: Path, *words: str, bins: Bins = MAP, count: int | None = None) -> None:
    with pytest.raises(SnncError) as error:
        read_binned(path, bins, count)
    for word in words:
        assert word in str(error.value)


def test_files_that_are_not_there_or_of_another_kind(tmp_path: Path) -> None:
    refused(tmp_path / "none.npy", "no such file")
    (tmp_path / "events.csv").touch()
    refused(tmp_path / "events.csv", ".csv", ".npy")
    refused(tmp_path, "no recordings")


def test_damaged_files(tmp_path: Path) -> None:
    np.save(tmp_path / "whole.npy", structured(drawn(1)))
    np.savez(tmp_path / "whole.npz", **drawn(1))
    write_shd(tmp_path / "whole.h5", [([0.1], [1])] * 3, [1, 2, 3])
    for name in ("whole.npy", "whole.npz", "whole.h5"):
        data = (tmp_path / name).read_bytes()
        for part in (0, 1, 8, len(data) // 3, len(data) // 2, len(data) - 1):
            path = tmp_path / f"cut{part}{name}"
            path.write_bytes(data[:part])
            refused(path, bins=Bins(1000, 12, (9,)) if name.endswith("h5") else MAP)
    (tmp_path / "cut.bin").write_bytes(bytes(12))
    refused(tmp_path / "cut.bin", "12 bytes", "multiple of 5")


def test_objects_are_never_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{"t": 1}], object), allow_pickle=True)
    refused(tmp_path / "objects.npy", "Python objects")
    np.savez(tmp_path / "objects.npz", t=np.array([print], object))
    refused(tmp_path / "objects.npz", "Python objects")


def test_claims_beyond_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "huge.npy", np.zeros((4, 4)))
    data = (tmp_path / "huge.npy").read_bytes().replace(b"(4, 4), }     ", b"(10000000000000,4)}")[:-5]
    (tmp_path / "huge.npy").write_bytes(data.replace(b"(4, 4)", b"(10**9, 4)"))
    refused(tmp_path / "huge.npy")
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 4), }"
    header = header.ljust(117) + b"\n"
    raw = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(64)
    (tmp_path / "huge.npy").write_bytes(raw)
    refused(tmp_path / "huge.npy", "claims more", "1000000000000")
    with zipfile.ZipFile(tmp_path / "huge.npz", "w") as archive:
        archive.writestr("t.npy", raw)
    refused(tmp_path / "huge.npz", "claims more")
    np.savez_compressed(tmp_path / "bomb.npz", t=np.zeros(1 << 18))
    monkeypatch.setattr(numpy_file, "BYTES_LIMIT", 1 << 20)
    refused(tmp_path / "bomb.npz", "too large")


def test_hostile_spike_trains(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "huge.h5", "w") as file:
        for name, kind in (("times", np.float32), ("units", np.int32)):
            file.create_dataset(f"spikes/{name}", 10**12, h5py.vlen_dtype(kind), chunks=(1000,))
    refused(tmp_path / "huge.h5", "claims more", "1000000000000")
    write_shd(tmp_path / "length.h5", [([0.1, 0.2], [1, 2])] * 3, None)
    with h5py.File(tmp_path / "length.h5") as file:
        begin = file["spikes/times"].id.get_offset()
    data = bytearray((tmp_path / "length.h5").read_bytes())
    data[begin : begin + 4] = (1 << 31).to_bytes(4, "little")
    (tmp_path / "length.h5").write_bytes(data)
    refused(tmp_path / "length.h5", "claims more")
    with h5py.File(tmp_path / "dense.h5", "w") as file:
        file["spikes/times"] = np.zeros((3, 4))
        file["spikes/units"] = np.zeros((3, 4), int)
    refused(tmp_path / "dense.h5", "no spike trains")
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["spikes/units"] = h5py.SoftLink("/elsewhere")
        file["spikes/times"] = h5py.ExternalLink("other.h5", "/times")
    refused(tmp_path / "link.h5", "an entry is missing")
    write_shd(tmp_path / "labels.h5", [([0.1], [1])] * 3, [1, 2])
    refused(tmp_path / "labels.h5", "one whole number for each sample")
    write_shd(tmp_path / "nan.h5", [([np.nan], [1])], None)
    refused(tmp_path / "nan.h5", "NaN")
    write_shd(tmp_path / "uneven.h5", [([0.1], [1, 2])], None)
    refused(tmp_path / "uneven.h5", "differ in number", bins=Bins(1000, 12, (9,)))


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"t": [1.0], "x": [np.nan], "y": [0], "p": [0]}, ("NaN",)),
        ({"t": [1, 2], "x": [0], "y": [0], "p": [0]}, ("unequal length",)),
        ({"t": [1], "x": [0], "y": [0]}, ("without p",)),
        ({"t": ["a"], "x": [0], "y": [0], "p": [0]}, ("must be numbers",)),
        ({"t": [1], "x": [0], "y": [0], "p": [0], "labels": [-1]}, ("0 or more",)),
        ({"t": [1], "x": [0], "y": [0], "p": [0], "sample": [-1]}, ("out of range",)),
        ({"t": [1], "x": [0], "y": [0], "p": [0], "sample": [2**62]}, ("out of range",)),
        ({"t": [1], "x": [0], "y": [0], "p": [0], "sample": [3], "labels": [1]}, ("0 to 0",)),
    ],
)
def test_columns_without_meaning(tmp_path: Path, columns: dict[str, list], words: tuple[str, ...]) -> None:
    np.savez(tmp_path / "odd.npz", **{name: np.array(values) for name, values in columns.items()})
    refused(tmp_path / "odd.npz", *words)


def test_huge_numbers_are_outside(tmp_path: Path) -> None:
    far = np.array([1, 2**63, 2**64 - 1, 5, 6], np.uint64)
    near = np.array([1, 2, 3, 4, 2**64 - 1], np.uint64)
    np.savez(tmp_path / "far.npz", t=far, x=near % 6, y=near % 5, p=near % 2)
    assert told(read_binned(tmp_path / "far.npz", MAP))["EVT002"] == 2
    np.savez(tmp_path / "far.npz", t=far % 7, x=near, y=near % 5, p=near % 2)
    assert told(read_binned(tmp_path / "far.npz", MAP))["EVT003"] == 1
    np.savez(tmp_path / "far.npz", t=np.array([1.0, 1e300]), unit=np.array([1.0, -1e300]))
    assert told(read_binned(tmp_path / "far.npz", Bins(1000, 12, (9,))))["EVT003"] == 1


def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "many.npz", **drawn(1), sample=np.arange(300) % 10)
    monkeypatch.setattr(events, "BYTES_LIMIT", 4 * 12 * 60)
    refused(tmp_path / "many.npz", "--samples 4")
    assert len(read_binned(tmp_path / "many.npz", MAP, 4).samples) == 4
    monkeypatch.setattr(events, "BYTES_LIMIT", 1 << 30)
    with pytest.raises(UsageError, match="not so many"):
        read_binned(tmp_path / "many.npz", MAP, 11)

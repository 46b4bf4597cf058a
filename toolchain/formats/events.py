"""Recordings of events, from event cameras and cochleas, as spikes of each time step.

An event is a time in microseconds and a place: a unit, or the column x, row y and polarity p of a map. Files:

    .npy, .npz     fields or columns t, x, y, p (or t, unit); also `sample` of each event, `labels` of the samples
    .bin           N-MNIST: 40 bits an event, a recording a file, labels from the folders' names
    .h5, .hdf5     as of the Heidelberg digits: spikes/times in seconds, spikes/units, labels
    .aedat*        through tonic, where that is installed

A bin of dt microseconds becomes one step: step k holds the events of k dt <= t < (k + 1) dt. Several events of one
place in one step are one spike. Whatever is left out on the way is counted.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolchain.errors import Diagnostic, SnncError, UsageError
from toolchain.formats.events_hdf5 import spike_trains
from toolchain.formats.numpy_file import read_arrays

Places = dict[str, NDArray[Any]]
"""`unit`, or `x`, `y` and `p`, of each event."""
BYTES_LIMIT = 1 << 32
"""Most bytes that the spikes of all samples take, one for each place and step."""
UNITS = {"us": 1, "ms": 1_000, "s": 1_000_000}
BIN_EVENT = 5
"""Bytes of an event of N-MNIST."""


@dataclass(frozen=True, eq=False)
class Events:
    """One recording. times: microseconds, any numeric type.  label: -1 where there is none.  where: for messages."""

    times: NDArray[Any]
    places: Places
    where: str
    label: int = -1


@dataclass(frozen=True)
class Bins:
    """How events become steps. dt: microseconds.  shape: of the input, (channels, height, width) or (n,).

    downsample: so many columns and rows of the recording are one of the map.
    """

    dt: int
    steps: int
    shape: tuple[int, ...]
    downsample: int = 1

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, eq=False)
class Binned:
    """samples: uint8, 0 or 1, shape (n, steps, size).  labels: shape (n,), None where not every recording has one."""

    samples: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    diagnostics: tuple[Diagnostic, ...]


def microseconds(text: str) -> int:
    """A time such as 1ms, 500us or 0.01s, in whole microseconds.

    Raises:
        UsageError: no time, or no whole number of microseconds.
    """
    number = text.strip().rstrip("smu")
    unit = text.strip()[len(number) :]
    try:
        value = float(number) * UNITS[unit]
    except (ValueError, KeyError):
        value = math.nan
    if not (1 <= value <= 1 << 53 and value == round(value)):
        raise UsageError("no time of a step", where="--dt", got=text, allowed="such as 1ms, 500us, 0.01s; whole us")
    return round(value)


def read_binned(path: str | os.PathLike[str], bins: Bins, count: int | None = None) -> Binned:
    """The first `count` recordings (all) of a file or folder, binned.

    Raises:
        SnncError: no such file, a damaged or unknown one, events that do not fit the map, or too many for memory.
    """
    found = _Counts()
    rows: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    for events in recordings(path):
        if count is not None and len(rows) == count:
            break
        if (len(rows) + 1) * bins.steps * bins.size > BYTES_LIMIT:
            raise SnncError(
                "the spikes of all samples take too much memory",
                where=str(path),
                got=f"more than {len(rows)} samples of {bins.steps} steps x {bins.size} places",
                allowed=f"{BYTES_LIMIT >> 30} GiB",
                remedy=f"--samples {len(rows)}",
            )
        rows.append(np.packbits(binned(events, bins, found)))  # eight to a byte, until their number is known
        labels.append(events.label)
    if not rows:
        raise SnncError("there are no recordings", where=str(path))
    if count is not None and len(rows) < count:
        raise UsageError("there are not so many recordings", where="--samples", got=count, allowed=f"1 to {len(rows)}")
    if found.outside * 2 > found.events:
        raise SnncError(
            "most events lie outside of the map",
            where=str(path),
            got=f"{found.outside} of {found.events}; places up to {found.largest}",
            allowed=f"{bins.shape} with --downsample {bins.downsample}",
            remedy="choose the recording's own --map, or a --downsample that brings it to the network's",
        )
    whole = np.array(labels, np.int64)
    samples = np.empty((len(rows), bins.steps, bins.size), np.uint8)
    for sample, row in zip(samples, rows, strict=True):
        sample[:] = np.unpackbits(row, count=sample.size).reshape(sample.shape)
    return Binned(samples, whole if (whole >= 0).all() else None, found.told(str(path), bins, len(rows)))


@dataclass
class _Counts:
    """What happened to events, over all recordings."""

    events: int = 0
    late: int = 0
    outside: int = 0
    merged: int = 0
    backwards: int = 0
    polarities: int = 0
    largest: Counter[str] = field(default_factory=Counter)

    def told(self, where: str, bins: Bins, samples: int) -> tuple[Diagnostic, ...]:
        window = f"{bins.steps} steps of {bins.dt} us"
        part = lambda count: f"{100 * count / max(1, self.events):.2f} % of the events"  # noqa: E731
        told = [Diagnostic("EVT001", where, f"{self.events} events of {samples} samples, in {window}", self.events)]
        for code, count, message in (
            ("EVT002", self.late, f"events before the first or after the last of {window} dropped"),
            ("EVT003", self.outside, f"events outside of the map {bins.shape} dropped"),
            ("EVT004", self.merged, "events in a place and step that had one already merged into one spike"),
            ("EVT005", self.backwards, "times earlier than the one before; the order has no effect"),
            ("EVT006", self.polarities, "events of both polarities taken into one channel"),
        ):
            if count:
                told.append(Diagnostic(code, where, f"{count} {message}", count, part(count)))
        if bins.downsample > 1:
            told.append(Diagnostic("EVT007", where, f"each {bins.downsample} x {bins.downsample} places are one"))
        return tuple(told)


def binned(events: Events, bins: Bins, found: _Counts) -> NDArray[np.uint8]:
    """The spikes of one recording, shape (steps, size)."""
    times = _numbers(events.times, f"{events.where}, t")
    lengths = {len(times), *(len(values) for values in events.places.values())}
    if len(lengths) != 1 or times.ndim != 1:
        raise SnncError("times and places differ in number", where=events.where, got=sorted(lengths))
    found.events += len(times)
    found.backwards += int(np.count_nonzero(times[1:] < times[:-1]))
    within = (times >= 0) & (times < bins.dt * bins.steps)
    found.late += len(times) - int(np.count_nonzero(within))
    place, inside = _place(events, bins, found)
    found.outside += int(np.count_nonzero(~inside))
    found.late -= int(np.count_nonzero(~inside & ~within))
    kept = within & inside
    step = times[kept].astype(np.int64) // bins.dt
    spikes = np.zeros(bins.steps * bins.size, np.uint8)
    spikes[step * bins.size + place[kept]] = 1
    found.merged += len(step) - int(np.count_nonzero(spikes))
    return spikes.reshape(bins.steps, bins.size)


def _place(events: Events, bins: Bins, found: _Counts) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The input neuron of each event, and whether there is one."""
    places = {name: _numbers(values, f"{events.where}, {name}") for name, values in events.places.items()}
    for name, values in places.items():
        found.largest[name] = max(found.largest[name], int(values.max(initial=0)))
    if "unit" in places:
        if len(bins.shape) != 1:
            raise _mismatch(events, bins, "units without rows and columns", "a network whose input has one axis")
        unit = places["unit"] // bins.downsample
        inside = (unit >= 0) & (unit < bins.size)
        return np.where(inside, unit, 0).astype(np.int64), inside
    if len(bins.shape) != 3 or bins.shape[0] > 2:
        allowed = "a map of 1 or 2 channels (polarities), height and width"
        raise _mismatch(events, bins, "events with x, y and polarity", allowed)
    channels, height, width = bins.shape
    x, y = places["x"] // bins.downsample, places["y"] // bins.downsample
    polarity = places["p"] > 0
    if channels == 1:
        found.polarities += len(x) if polarity.any() and not polarity.all() else 0
        polarity = np.zeros(len(x), bool)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    x, y = (np.where(inside, axis, 0).astype(np.int64) for axis in (x, y))
    return (polarity * height + y) * width + x, inside


def _mismatch(events: Events, bins: Bins, got: str, allowed: str) -> SnncError:
    return SnncError(
        "the events do not fit the network's input",
        where=events.where,
        got=f"{got}, for an input of shape {bins.shape}",
        allowed=allowed,
        remedy="--map CHANNELSxHEIGHTxWIDTH says how the input's neurons are ordered",
    )


def _numbers(values: NDArray[Any], where: str) -> NDArray[Any]:
    """Finite numbers, floats rounded down to whole ones."""
    if values.dtype.kind not in "iufb":
        raise SnncError("must be numbers", where=where, got=str(values.dtype))
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise SnncError("NaN or infinite", where=where, allowed="finite numbers")
        return np.floor(values.astype(np.float64))
    return values.astype(np.int8) if values.dtype.kind == "b" else values


# --- files ----------------------------------------------------------------------------------------------------------


def recordings(path: str | os.PathLike[str]) -> Iterator[Events]:
    """The recordings of a file, or of all files in a folder and below it, in the order of their names.

    Raises:
        SnncError: no such file, an unknown kind, or a damaged one.
    """
    file = Path(path)
    if not file.exists():
        raise SnncError("no such file", where=str(file))
    files = sorted(p for p in file.rglob("*") if p.suffix.lower() in READERS) if file.is_dir() else [file]
    for each in files:
        suffix = each.suffix.lower()
        if suffix not in READERS:
            raise SnncError("no file of events", where=str(each), got=suffix, allowed=", ".join(READERS))
        yield from READERS[suffix](each)


def _arrays(path: Path) -> Iterator[Events]:
    """A .npy or .npz file, with one recording or, where `sample` says which, many."""
    where = str(path)
    given = read_arrays(path)
    if "t" not in given and len(given) - ("labels" in given) == 1:
        (table,) = (values for name, values in given.items() if name != "labels")
        given = {**_columns(table, where), **{name: given[name] for name in ("labels",) if name in given}}
    names = ("unit",) if "unit" in given else ("x", "y", "p")
    missing = [name for name in ("t", *names) if name not in given or given[name].ndim != 1]
    if missing:
        raise SnncError(
            "columns are missing, or no columns",
            where=where,
            got=f"{', '.join(sorted(given)) or 'nothing'}; without {', '.join(missing)}",
            allowed="t, x, y, p or t, unit, each with one axis",
        )
    lengths = {name: len(given[name]) for name in ("t", *names, *(["sample"] if "sample" in given else []))}
    if len(set(lengths.values())) > 1:
        raise SnncError("columns of unequal length", where=where, got=lengths)
    labels = _labels(given.get("labels"), where)
    places = {name: given[name] for name in names}
    if "sample" not in given:
        yield Events(given["t"], places, where, labels[0] if labels is not None and len(labels) == 1 else -1)
        return
    sample = _numbers(given["sample"], f"{where}, sample")
    order = np.argsort(sample, kind="stable")
    last = int(sample.max(initial=-1)) if labels is None else len(labels) - 1
    if len(sample) and (int(sample.min()) < 0 or int(sample.max()) > last or last > len(sample) + (1 << 20)):
        raise SnncError(
            "numbers of samples out of range",
            where=f"{where}, sample",
            got=f"{sample.min()} to {sample.max()}",
            allowed=f"0 to {max(0, last)}" if labels is not None else "0 and more, without large gaps",
        )
    edges = np.searchsorted(sample[order], np.arange(last + 2))
    for k in range(last + 1):
        part = order[edges[k] : edges[k + 1]]
        own = {name: values[part] for name, values in places.items()}
        yield Events(given["t"][part], own, f"{where}, sample {k}", -1 if labels is None else labels[k])


def _columns(table: NDArray[Any], where: str) -> dict[str, NDArray[Any]]:
    """The fields of a structured array, or the columns t, x, y, p (or t, unit) of a plain one."""
    if table.dtype.names is not None and table.ndim == 1:
        return {name: table[name] for name in table.dtype.names if table[name].ndim == 1}
    if table.ndim == 2 and table.shape[1] in (2, 4):
        names = ("t", "unit") if table.shape[1] == 2 else ("t", "x", "y", "p")
        return {name: table[:, k] for k, name in enumerate(names)}
    raise SnncError(
        "no table of events",
        where=where,
        got=f"{table.dtype}, shape {table.shape}"[:200],
        allowed="a structured array with fields t, x, y, p, or columns t, x, y, p (n, 4) or t, unit (n, 2)",
    )


def _labels(values: NDArray[Any] | None, where: str) -> list[int] | None:
    if values is None:
        return None
    if values.dtype.kind not in "iu" or values.ndim > 1 or (values.size and int(values.min()) < 0):
        raise SnncError("labels are whole numbers, 0 or more", where=f"{where}, labels", got=str(values.dtype))
    return [int(value) for value in np.atleast_1d(values)]


def _nmnist(path: Path) -> Iterator[Events]:
    """40 bits an event: x, y, one bit of polarity and 23 of microseconds, the most significant first."""
    raw = np.fromfile(path, np.uint8)
    if len(raw) % BIN_EVENT:
        raise SnncError(
            "the file is cut off in the middle of an event",
            where=str(path),
            got=f"{len(raw)} bytes",
            allowed=f"a multiple of {BIN_EVENT}",
        )
    x, y, high, middle, low = raw.reshape(-1, BIN_EVENT).T
    wide = high.astype(np.int64)
    times = ((wide & 0x7F) << 16) | (middle.astype(np.int64) << 8) | low
    label = int(path.parent.name) if path.parent.name.isdecimal() and len(path.parent.name) < 10 else -1
    yield Events(times, {"x": x, "y": y, "p": wide >> 7}, str(path), label)


def _hdf5(path: Path) -> Iterator[Events]:
    for number, (seconds, units, label) in enumerate(spike_trains(path)):
        where = f"{path}, sample {number}"
        if not np.isfinite(seconds).all():
            raise SnncError("NaN or infinite", where=f"{where}, spikes/times", allowed="finite numbers of seconds")
        # Whole microseconds first: 0.007 s in single precision is less than 7 ms.
        yield Events(np.rint(seconds.astype(np.float64) * 1e6), {"unit": units}, where, label)


def _aedat(path: Path) -> Iterator[Events]:
    """Times count from the first event: the camera's clock starts anywhere."""
    if importlib.util.find_spec("tonic") is None:
        raise SnncError(
            "AEDAT files are read by tonic, which is not installed",
            where=str(path),
            remedy="pip install tonic, or save the events as .npy with fields t, x, y, p",
        )
    io = importlib.import_module("tonic.io")
    try:
        if path.suffix.lower() == ".aedat4":
            events = io.read_aedat4(str(path))
        else:
            _, events = io.read_dvs_ibm(str(path))
        columns = {name: np.asarray(events[name]) for name in ("t", "x", "y", "p")}
    except Exception as error:  # whatever an outside reader of damaged files raises
        raise SnncError("tonic cannot read the file", where=str(path), got=f"{error!r}"[:200]) from None
    times = columns.pop("t").astype(np.int64)
    yield Events(times - times.min(initial=times[0] if len(times) else 0), columns, str(path))


READERS: dict[str, Callable[[Path], Iterator[Events]]] = {
    ".npy": _arrays,
    ".npz": _arrays,
    ".bin": _nmnist,
    ".h5": _hdf5,
    ".hdf5": _hdf5,
    ".aedat": _aedat,
    ".aedat4": _aedat,
}
"""Suffix -> what yields the recordings of such a file."""

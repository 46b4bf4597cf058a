"""The table of a sweep, its files, and the points that no other beats."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain.errors import SnncError
from toolchain.files import atomic_write, write_text
from toolchain.sweep.plan import Point, Sweep

Row = dict[str, Any]

MEASURED: dict[str, type] = {
    "connectivity": float,
    "synapses": int,
    "accuracy_float": float,
    "accuracy_quantised": float,
    "accuracy": float,
    "samples": int,
    "synaptic_operations": float,
    "spikes": float,
    "input_spikes": float,
    "cores": int,
    "dense_cores": int,
    "chips": int,
    "kib": float,
    "training_seconds": float,
}
"""What a point's figures hold; accuracies are fractions of the samples, spikes and operations are per sample."""


def columns(sweep: Sweep) -> dict[str, type | None]:
    """Every column with its type, None where values are the user's own."""
    asked: dict[str, type | None] = {"method": str, "connectivity_asked": float, "bits": int, "seed": int}
    own: dict[str, type | None] = dict.fromkeys(sweep.varied)
    return {**asked, **own, "target": str, **MEASURED, "build": str, "folder": str, "error": str}


def row(sweep: Sweep, point: Point, figures: Mapping[str, Any] | None, error: str | None) -> Row:
    """One line of the table; what is not known is None. Each value that a recipe holds is the recipe's own."""
    recipe, asked = point.training.recipe, point.training.asked
    known = {
        "method": asked.get("method.name") if recipe is None else recipe.method.name,
        "connectivity_asked": asked.get("method.connectivity")
        if recipe is None
        else getattr(recipe.method, "connectivity", None),
        "bits": _bits(point),
        "seed": asked.get("seed") if recipe is None else recipe.seed,
        **{key: asked.get(key) for key in sweep.varied},
        "target": point.target.name,
        "folder": f"{point.training.label}/{point.label}",
        "error": error,
    }
    every = {**known, **(figures or {})}
    return {name: every.get(name) for name in columns(sweep)}


def _bits(point: Point) -> int | None:
    """The bits of weights, where the chip is not asked for them."""
    recipe = point.training.recipe
    if point.options.weight_bits is not None:
        return point.options.weight_bits
    if recipe is None:
        return point.training.asked.get("quantise.bits")
    return recipe.quantise.bits if recipe.quantise.aware else None


def write_csv(path: Path, names: Sequence[str], rows: Iterable[Row]) -> None:
    """The table as CSV; an empty field where there is no value, and every digit of what there is."""
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def need_parquet() -> None:
    """Refuse before the work what could not be written after it.

    Raises:
        SnncError: pyarrow is not installed.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise SnncError(
            "a Parquet file needs pyarrow", where="--format", remedy="pip install 'snnc[sweep]', or --format csv"
        ) from error


def write_parquet(path: Path, kinds: Mapping[str, type | None], rows: Sequence[Row]) -> None:
    """The table as Parquet, the same columns; values of the user's own that differ in type are written as text."""
    import pyarrow
    from pyarrow import parquet

    types = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64(), bool: pyarrow.bool_()}
    arrays = {}
    for name, declared in kinds.items():
        values = [each[name] for each in rows]
        seen = {type(value) for value in values if value is not None}
        if declared is None:
            declared = float if seen == {int, float} else seen.pop() if len(seen) == 1 else str
        if declared not in types:
            declared = str
        if declared is str:
            values = [None if value is None else str(value) for value in values]
        arrays[name] = pyarrow.array(values, types[declared])
    with atomic_write(path) as stream:
        parquet.write_table(pyarrow.table(arrays), stream)


@dataclass(frozen=True)
class Configuration:
    """The points that differ in nothing but the seed. accuracy (as deployed), cores: their means."""

    target: str
    method: str
    asked: Mapping[str, Any]
    rows: tuple[Row, ...]
    best: bool = False

    @property
    def accuracy(self) -> float:
        return sum(float(each["accuracy"]) for each in self.rows) / len(self.rows)

    @property
    def cores(self) -> float:
        return sum(float(each["cores"]) for each in self.rows) / len(self.rows)

    @property
    def name(self) -> str:
        """What tells it from the others, in short."""
        connectivity, bits = self.asked["connectivity_asked"], self.asked["bits"]
        parts = [self.method, *([] if connectivity is None else [f"{100 * connectivity:g} %"]), f"{bits} bits"]
        own = (key for key in self.asked if key not in ("connectivity_asked", "bits"))
        return ", ".join([*parts, *(f"{key.rpartition('.')[2]} {self.asked[key]}" for key in own)])


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the (accuracy, cores) that no other point beats: none is as good in both and better in one.

    Equal points stand or fall together.
    """
    chosen: list[int] = []
    best = float("-inf")
    order = sorted(range(len(points)), key=lambda k: (points[k][1], -points[k][0]))
    for k in order:
        accuracy, cores = points[k]
        same = bool(chosen) and points[chosen[-1]] == (accuracy, cores)
        if accuracy > best or same:
            chosen.append(k)
            best = accuracy
    return sorted(chosen)


def configurations(sweep: Sweep, rows: Iterable[Row]) -> list[Configuration]:
    """Rows without an error by what was asked, seeds together; `best` where a target has none better.

    Seeds are averaged first: the luckiest of several says little of what the next will reach.
    """
    keys = ("connectivity_asked", "bits", *sweep.telling)
    groups: dict[str, list[Row]] = {}
    for each in rows:
        if each["error"] is None:
            groups.setdefault(repr([each[key] for key in ("target", "method", *keys)]), []).append(each)
    found = [
        Configuration(same[0]["target"], same[0]["method"], {key: same[0][key] for key in keys}, tuple(same))
        for same in groups.values()
    ]
    marked: list[Configuration] = []
    for target in dict.fromkeys(c.target for c in found):
        here = [c for c in found if c.target == target]
        best = set(pareto([(c.accuracy, c.cores) for c in here]))
        marked += [Configuration(c.target, c.method, c.asked, c.rows, k in best) for k, c in enumerate(here)]
    return marked

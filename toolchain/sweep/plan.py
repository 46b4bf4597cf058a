"""A sweep file and the points that it asks for.

A training point is a recipe with everything filled in. A point is a training point on a chip, with the bits that its
weights are rounded to afterwards; several points share one training. Folders are named by what was asked and by a hash
of the recipe, so that the training of another recipe never stands in the place of this one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hw_targets
from toolchain.errors import SnncError, UsageError, nearest
from toolchain.mapping.partition import METHODS as SEARCHES
from toolchain.pipeline import Options
from toolchain.training.methods import METHODS, method_config
from toolchain.training.recipe import Recipe
from toolchain.training.settings import build, setting

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

LISTS = {"seed": "seeds", "method.name": "methods", "method.connectivity": "connectivities", "quantise.bits": "bits"}
"""Keys of a recipe that have a list of their own in a sweep file."""
NOT_TRAINED = ("name", "promise")
LABEL_LENGTH = 120
HASH_LENGTH = 8


@dataclass(frozen=True)
class SweepFile:
    """What a sweep file says; a list that is left out has the recipe's own value alone.

    recipe: a path, from the sweep file's folder.  targets: names, or TOML files of your own.
    bits: of the weights: of training where it is quantise-aware, of rounding afterwards elsewhere.
    samples: of the test set that are simulated (all when left out).
    chips, board, cost_model, search: as options of `snnc compile`.
    vary: any other key of a recipe, dotted, with the values that it takes.
    options: of methods, by their names: what they have in place of their defaults at every point.
    """

    recipe: str
    targets: tuple[str, ...] = setting(single=True)
    methods: tuple[str, ...] = setting((), choices=tuple(METHODS), single=True)
    connectivities: tuple[float, ...] = setting((), above=0.0, high=1.0)
    bits: tuple[int, ...] = setting((), low=1, high=8)
    seeds: tuple[int, ...] = setting((), low=0, high=2**32 - 1)
    samples: int | None = setting(None, low=1)
    chips: int = setting(1, low=1)
    board: str | None = None
    cost_model: str | None = None
    search: str = setting(SEARCHES[0], choices=tuple(SEARCHES))
    vary: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    options: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Training:
    """One training. recipe: None where it was refused, with `error`.  asked: what the sweep varies, dotted."""

    label: str
    asked: Mapping[str, Any]
    recipe: Recipe | None
    error: str | None = None

    @property
    def key(self) -> str:
        """The hash at the end of the label."""
        return self.label.rpartition("_")[2]


@dataclass(frozen=True)
class Point:
    """One row of the table. bits: that weights are rounded to after training, None for what training or chip say."""

    training: Training
    target: hw_targets.Target
    options: Options
    samples: int | None
    label: str

    @property
    def key(self) -> str:
        """A hash of all that decides the figures, beside the version of snnc."""
        recipe = self.training.recipe
        chosen = None if recipe is None else recipe.chosen()
        return _digest([chosen, self.target.to_dict(), dataclasses.asdict(self.options), self.samples])


@dataclass(frozen=True)
class Sweep:
    """All points, in the order of the table.

    varied: keys of [vary].  telling: those that take more than one value.  notes: what its user should know before.
    """

    path: Path
    points: tuple[Point, ...]
    varied: tuple[str, ...]
    telling: tuple[str, ...]
    notes: tuple[str, ...]

    def in_folder(self, names: Iterable[str]) -> Sweep:
        """The same with each training in the folder that has its hash already, however that was named."""
        there = {name.rpartition("_")[2]: name for name in names}
        found = {
            training.label: dataclasses.replace(training, label=there[training.key])
            for training in self.trainings
            if training.key in there
        }
        points = (
            dataclasses.replace(point, training=found.get(point.training.label, point.training))
            for point in self.points
        )
        return dataclasses.replace(self, points=tuple(points))

    @property
    def trainings(self) -> list[Training]:
        """Each once, those whose recipe was refused left out."""
        found = {p.training.label: p.training for p in self.points if p.training.recipe is not None}
        return list(found.values())


def load(path: Path) -> Sweep:
    """Read a sweep file and work out its points.

    Raises:
        SnncError: no such file, no TOML, an unknown key (the nearest is named), a wrong value, a recipe or target that
            is not there; or a recipe that is refused at every point.
    """
    asked = read(path)
    base = Recipe.load(path.parent / asked.recipe)
    _check_varied(asked, base, str(path))
    _check_options(asked, base, str(path))
    targets = [_target(name, path) for name in asked.targets]
    names = [target.name for target in targets]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SnncError("two targets have one name", where=f"{path}: targets", got=", ".join(twice))
    trainings, notes = _trainings(asked, base)
    refused = [training for training, _ in trainings if training.recipe is None]
    if len(refused) == len(trainings):
        raise SnncError("the recipe is refused at every point", where=str(path), got=refused[0].error)
    telling = tuple(key for key, values in asked.vary.items() if len(values) > 1)
    points: dict[tuple[str, str], Point] = {}
    for training, bits in trainings:
        options = Options(bits, asked.cost_model, asked.chips, asked.board, asked.search)
        for target in targets:
            label = target.name if bits is None else f"{target.name}_{bits}bit"
            point = Point(training, target, options, asked.samples, _slug(label))
            points.setdefault((training.label, point.label), point)
    return Sweep(path, tuple(points.values()), tuple(asked.vary), telling, tuple(notes))


def read(path: Path) -> SweepFile:
    """The file alone, checked key by key.

    Raises:
        SnncError: as `load`.
    """
    try:
        values = tomllib.loads(path.read_bytes().decode())
    except tomllib.TOMLDecodeError as error:
        raise SnncError(f"{path} is not valid TOML", where=str(path), got=str(error)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SnncError(
            f"{path} cannot be read as a sweep",
            where=str(path),
            got=getattr(error, "strerror", None) or str(error),
            remedy="name a TOML file, for example models/sweep_digits.toml",
        ) from None
    varied, options = values.pop("vary", {}), values.pop("options", {})
    _check_table(varied, "vary", path)
    _check_table(options, "options", path)
    for name, own in options.items():
        _check_table(own, f"options.{name}", path)
    for key, value in values.items():
        if isinstance(value, list):
            _check_list(value, f"{path}: {key}")
    built = build(SweepFile, values, str(path), skip=("vary", "options"), top=True)
    if not built.targets:
        raise SnncError("no target", where=f"{path}: targets", remedy='for example targets = ["loihi"]')
    flat: dict[str, tuple[Any, ...]] = {}
    for key, value in _flat(varied):
        where = f"{path}: [vary] {key}"
        if not isinstance(value, list):
            raise SnncError("a list of values is needed", where=where, got=repr(value))
        _check_list(value, where)
        flat[key] = tuple(value)
    return dataclasses.replace(built, vary=flat, options=options)


def _check_table(value: Any, name: str, path: Path) -> None:
    if not isinstance(value, Mapping):
        raise SnncError(f"[{name}] must be a table", where=str(path), got=repr(value))


def _check_list(values: list[Any], where: str) -> None:
    if not values:
        raise SnncError("the list is empty", where=where, remedy="leave the key out for the recipe's own value")
    for position, value in enumerate(values):
        if value in values[:position]:
            raise SnncError("a value is listed twice", where=where, got=repr(value))


def _check_varied(asked: SweepFile, base: Recipe, where: str) -> None:
    """Refuse keys that no recipe has; values are judged at each point, by the recipe itself."""
    known = set()
    for section in dataclasses.fields(base):
        value = getattr(base, section.name)
        if section.name not in (*NOT_TRAINED, "method") and dataclasses.is_dataclass(value):
            known |= {f"{section.name}.{item.name}" for item in dataclasses.fields(value)}
    for method in asked.methods or (base.method.name,):
        known |= {f"method.{item.name}" for item in dataclasses.fields(method_config(method))}
    known -= LISTS.keys()
    for key in asked.vary:
        at = f"{where}: [vary] {key}"
        if key in LISTS:
            raise SnncError(f"{key!r} has a list of its own", where=at, remedy=f"write {LISTS[key]} = [...] above")
        if key not in known:
            raise SnncError(f"unknown key {key!r}", where=at, allowed=nearest(key, known))


def _check_options(asked: SweepFile, base: Recipe, where: str) -> None:
    """Refuse options of methods that are not swept, that have no such option, or that the sweep itself sets."""
    swept = asked.methods or (base.method.name,)
    for name, options in asked.options.items():
        at = f"{where}: [options.{name}]"
        if name not in swept:
            raise SnncError("options of a method that is not swept", where=at, allowed=nearest(name, swept))
        known = {item.name for item in dataclasses.fields(method_config(name))} - {"connectivity"}
        for key in options:
            if key == "connectivity" or f"method.{key}" in asked.vary:
                raise SnncError(f"{key!r} is set twice", where=at, remedy="the sweep's own list has it already")
            if key not in known:
                raise SnncError(f"unknown option {key!r}", where=at, allowed=nearest(key, known))


def _target(name: str, path: Path) -> hw_targets.Target:
    beside = path.parent / name
    try:
        return hw_targets.load(str(beside) if name.endswith(".toml") and beside.exists() else name)
    except hw_targets.TargetError as error:
        raise UsageError(str(error), where=f"{path}: targets") from error


def _trainings(asked: SweepFile, base: Recipe) -> tuple[list[tuple[Training, int | None]], list[str]]:
    """Every training with the bits that its weights are rounded to afterwards; and notes."""
    found: list[tuple[Training, int | None]] = []
    notes: dict[str, None] = {}
    known: dict[str, Training] = {}
    for method in asked.methods or (None,):
        config = type(base.method) if method is None else method_config(method)
        has = "connectivity" in {item.name for item in dataclasses.fields(config)}
        if asked.connectivities and not has:
            notes[f"{method or base.method.name} has no connectivity: one point for all of them"] = None
        connectivities = asked.connectivities if has else ()
        options = asked.options.get(method or base.method.name, {})
        own = {f"method.{key}": value for key, value in options.items()}
        for values in itertools.product(*asked.vary.values()):
            varied = dict(zip(asked.vary, values, strict=True))
            grid = itertools.product(connectivities or (None,), asked.bits or (None,), asked.seeds or (None,))
            for connectivity, bits, seed in grid:
                overrides = {"method.name": method, "method.connectivity": connectivity, **own, **varied, "seed": seed}
                training, rounded, left_out = _training(base, overrides, bits)
                found.append((known.setdefault(training.label, training), rounded))
                if left_out:
                    keys = ", ".join(left_out)
                    notes[f"{method} starts from its own defaults; {base.method.name}'s {keys} left out"] = None
    return found, list(notes)


def _training(
    base: Recipe, overrides: dict[str, Any], bits: int | None
) -> tuple[Training, int | None, tuple[str, ...]]:
    """The training, the bits that are rounded to after it, and what of the base recipe's method is left out."""
    asked = {key: value for key, value in overrides.items() if value is not None}
    aware = bool(asked.get("quantise.aware", base.quantise.aware))
    if aware and bits is not None:
        asked["quantise.bits"] = bits
    try:
        recipe = base.resolve(asked)
    except SnncError as error:
        return Training(_label(None, asked, asked), asked, None, one_line(error)), None if aware else bits, ()
    training = Training(_label(recipe, asked, recipe.chosen()), asked, recipe)
    return training, None if aware else bits, tuple(base.left_out(recipe))


def one_line(error: Exception) -> str:
    """What an error says, on one line."""
    if not isinstance(error, SnncError):
        return " ".join(f"{type(error).__name__}: {error}".split())
    return "; ".join(" ".join(line.strip(" -").split()) for line in str(error).splitlines())


def _label(recipe: Recipe | None, asked: Mapping[str, Any], decides: Any) -> str:
    """What a folder is called; the last part is a hash, which alone tells one training from another."""
    if recipe is None:
        values = [asked.get("method.name"), asked.get("method.connectivity"), None, asked.get("seed")]
    else:
        bits = recipe.quantise.bits if recipe.quantise.aware else None
        values = [recipe.method.name, getattr(recipe.method, "connectivity", None), bits, recipe.seed]
    shapes = ("{}", "c{:g}", "{}bit", "s{}")
    parts = [shape.format(value) for shape, value in zip(shapes, values, strict=True) if value is not None]
    parts += [f"{key.rpartition('.')[2]}={_short(value)}" for key, value in asked.items() if key not in LISTS]
    return "_".join([_slug("_".join(parts)[:LABEL_LENGTH]), _digest(decides)[:HASH_LENGTH]])


def _short(value: Any) -> str:
    return "x".join(map(_short, value)) if isinstance(value, list) else str(value)


def _slug(text: str) -> str:
    return re.sub(r"[^\w.=+-]+", "-", text).strip(".-") or "x"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys, whether they were written as "train.epochs" or as a table [vary.train]."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value

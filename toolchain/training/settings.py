"""Frozen dataclasses from plain values, with everything checked, and back: the machinery under a recipe."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from dataclasses import field
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from toolchain.errors import SnncError, nearest

T = TypeVar("T")


def setting(
    default: Any = dataclasses.MISSING,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: tuple[str, ...] | None = None,
    kinds: Mapping[str, type] | None = None,
    key: str | None = None,
    single: bool | None = None,
    word: str | None = None,
) -> Any:
    """A dataclass field with its range: low and high belong to it, above and below do not.

    kinds: of a list of tables, each with the class that its key `kind` names.  key: what users call it, where that is
    no name in Python.  single: of a list, whether one item may stand for a list of one.  word: a text that may stand
    there in place of a number.
    """
    limits: dict[str, Any] = {"low": low, "high": high, "above": above, "below": below, "choices": choices}
    limits |= {"kinds": kinds, "key": key, "single": single, "word": word}
    return field(default=default, metadata={k: v for k, v in limits.items() if v is not None})


def plain(node: Any, skip: tuple[str, ...] = ()) -> dict[str, Any]:
    """Nested plain values of a dataclass, without those that are None and those to skip."""
    values = {_key(item): getattr(node, item.name) for item in dataclasses.fields(node) if item.name not in skip}
    return {name: _plain_value(value) for name, value in values.items() if value is not None}


def _key(item: dataclasses.Field[Any]) -> str:
    return str(item.metadata.get("key", item.name))


def _plain_value(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain_value(item) for item in value]
    if not dataclasses.is_dataclass(value):
        return value
    kind = {"kind": value.kind} if hasattr(value, "kind") else {}
    return {**kind, **plain(value)}


def build(cls: type[T], values: Mapping[str, Any], where: str, skip: tuple[str, ...] = (), *, top: bool = False) -> T:
    """An instance of the dataclass from plain values. top: its values need no name of a section in messages.

    Raises:
        SnncError: an unknown or missing key, a wrong type, a value out of range; with its place.
    """
    hints = get_type_hints(cls)
    items = {_key(item): item for item in dataclasses.fields(cls) if item.name not in skip}  # type: ignore[arg-type]
    for key in values:
        if key not in items:
            raise SnncError(f"unknown key {key!r}", where=where, allowed=nearest(key, [*items, *skip]))
    missing = [
        key
        for key, item in items.items()
        if item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING and key not in values
    ]
    if missing:
        raise SnncError(f"missing key {missing[0]!r}", where=where)
    built: dict[str, Any] = {}
    for key, value in values.items():
        name, limits = items[key].name, items[key].metadata
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            if not isinstance(value, Mapping):
                raise SnncError(f"[{key}] must be a table", where=where, got=repr(value))
            built[name] = build(hint, value, f"{where}: [{key}]")  # type: ignore[arg-type]
        elif "kinds" in limits:
            built[name] = _tables(value, limits["kinds"], f"{where} {key}")
        else:
            built[name] = _checked(value, hint, limits, f"{where}: {key}" if top else f"{where} {key}")
    return cls(**built)


def _tables(values: Any, kinds: Mapping[str, type], where: str) -> tuple[Any, ...]:
    if not isinstance(values, (list, tuple)):
        raise SnncError("a list of tables is needed", where=where, got=repr(values))
    made: list[Any] = []
    for number, table in enumerate(values):
        at = f"{where}[{number}]"
        kind = str(table.get("kind")) if isinstance(table, Mapping) else "None"
        if kind not in kinds:
            raise SnncError("a layer needs a known kind", where=at, got=repr(table), allowed=nearest(kind, kinds))
        rest = {key: value for key, value in table.items() if key != "kind"}
        made.append(build(kinds[kind], rest, f"{at} ({kind})"))
    return tuple(made)


_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def _checked(value: Any, hint: Any, limits: Mapping[str, Any], where: str) -> Any:
    if value is not None and value == limits.get("word"):
        return value
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(part for part in get_args(hint) if part is not type(None))
    if get_origin(hint) is tuple:
        if limits.get("single") and isinstance(value, get_args(hint)[0]):
            value = (value,)
        if not isinstance(value, (list, tuple)):
            raise SnncError("a list is needed", where=where, got=repr(value))
        return tuple(_checked(item, get_args(hint)[0], limits, where) for item in value)
    # bool is an int in Python, but not in a recipe.
    ok = isinstance(value, bool) if hint is bool else isinstance(value, hint) and not isinstance(value, bool)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value, ok = float(value), True
    if not ok or (hint is float and not math.isfinite(value)):
        words = _WORDS[hint] + (f', or "{limits["word"]}"' if "word" in limits else "")
        raise SnncError("wrong type of value", where=where, got=repr(value), allowed=words)
    if "choices" in limits and value not in limits["choices"]:
        raise SnncError("unknown choice", where=where, got=repr(value), allowed=nearest(value, limits["choices"]))
    rules = (
        ("low", "at least", lambda limit: value >= limit),
        ("above", "more than", lambda limit: value > limit),
        ("high", "at most", lambda limit: value <= limit),
        ("below", "less than", lambda limit: value < limit),
    )
    known = [(words, limits[name], holds) for name, words, holds in rules if name in limits]
    if not all(holds(limit) for _, limit, holds in known):
        allowed = ", ".join(f"{words} {limit:g}" for words, limit, _ in known)
        raise SnncError("value out of range", where=where, got=value, allowed=allowed)
    return value

"""Descriptions of neuromorphic chips: one TOML file each, every limit with value, unit, source and mark."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

from hw_targets.schema import (
    MARKS,
    CostModelData,
    Disagreement,
    EnergyModel,
    Limit,
    System,
    Target,
    TargetError,
    nearest_first,
    parse,
)

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

__all__ = [
    "MARKS",
    "CostModelData",
    "Disagreement",
    "EnergyModel",
    "Limit",
    "System",
    "Target",
    "TargetError",
    "available",
    "load",
    "parse",
]

# A description is a few hundred lines; anything far larger is not one.
_LARGEST_FILE_BYTES = 1 << 20


def available() -> tuple[str, ...]:
    """Names of the targets that come with the package."""
    here = files(__name__)
    return tuple(sorted(entry.name[:-5] for entry in here.iterdir() if entry.name.endswith(".toml")))


def load(name_or_path: str | os.PathLike[str]) -> Target:
    """A target by name, or from a TOML file of the user's own.

    What ends in .toml or has a folder in it is a path, anything else a name.

    Raises:
        TargetError: unknown name, unreadable file, or a description that breaks the schema.
    """
    text = os.fspath(name_or_path)
    if text.endswith(".toml") or Path(text).name != text:
        return _read(Path(text))
    if text not in available():
        raise TargetError(
            f"unknown target {text!r}: {nearest_first(text, available())}; or give the path of a .toml file"
        )
    return _parse_text((files(__name__) / f"{text}.toml").read_bytes(), f"{text}.toml")


def _read(path: Path) -> Target:
    try:
        with path.open("rb") as stream:
            data = stream.read(_LARGEST_FILE_BYTES + 1)
    except OSError as error:
        raise TargetError(f"could not read the target file {path}: {error.strerror or error}") from error
    if len(data) > _LARGEST_FILE_BYTES:
        raise TargetError(f"{path} is larger than {_LARGEST_FILE_BYTES} bytes: not a target file")
    return _parse_text(data, str(path))


def _parse_text(data: bytes, where: str) -> Target:
    try:
        document = tomllib.loads(data.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise TargetError(f"{where} is not a TOML file: {error}") from error
    return parse(document, where)

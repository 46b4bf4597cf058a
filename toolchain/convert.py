"""A network from one format to another, with a report of what changed on the way."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from toolchain.errors import Diagnostic, SnncError, UsageError, nearest
from toolchain.formats import WRITERS
from toolchain.frontends import CHOICES, load
from toolchain.ir import Graph


@dataclass(frozen=True)
class Converted:
    """The graph, what reading and writing had to say, and where the file read back differs from the graph."""

    graph: Graph
    read: tuple[Diagnostic, ...]
    written: tuple[Diagnostic, ...]
    differences: tuple[str, ...]


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    trust: bool = False,
    lossy: bool = False,
    choices: Mapping[str, Any],
) -> Converted:
    """Read a model, write it in the format of the target's suffix, and read that back.

    lossy: write also what the format can express only nearly.  choices: for reading, as
    `toolchain.frontends.CHOICES` names them; `dt` is for writing where only the target has a time step.

    Raises:
        SnncError: whatever is wrong with the model, or what the target's format cannot express.
    """
    suffix, reads = Path(target).suffix.lower(), Path(source).suffix.lower()
    if suffix not in WRITERS:
        raise UsageError(f"no format {suffix!r} to write", where=os.fspath(target), allowed=nearest(suffix, WRITERS))
    given, options = dict(choices), {}
    if suffix in CHOICES:
        options = {"lossy": lossy}
        if "dt" not in CHOICES.get(reads, ()):
            options["dt"] = given.pop("dt", None)
    elif lossy:
        raise UsageError(f"nothing is lost in a {suffix} file", where="--lossy")
    loaded = load(source, trust=trust, **given)
    module, _, attribute = WRITERS[suffix].partition(":")
    written = getattr(importlib.import_module(module), attribute)(loaded.graph, target, **options) or ()
    again = load(target)
    return Converted(
        loaded.graph, loaded.diagnostics, (*written, *again.diagnostics), tuple(differences(loaded.graph, again.graph))
    )


def differences(a: Graph, b: Graph) -> Iterator[str]:
    """Every field in which two graphs differ, by its path; none where they are equal in every bit."""
    for name in ("name", "input", "steps"):
        if getattr(a, name) != getattr(b, name):
            yield name
    if dict(a.metadata) != dict(b.metadata):
        yield "metadata"
    for kind in ("populations", "connections"):
        ours, theirs = getattr(a, kind), getattr(b, kind)
        if [part.name for part in ours] != [part.name for part in theirs]:
            yield kind
            continue
        for one, other in zip(ours, theirs, strict=True):
            for field in fields(one):
                if not _equal(getattr(one, field.name), getattr(other, field.name)):
                    yield f"{one.name}.{field.name}"


def _equal(a: Any, b: Any) -> bool:
    if hasattr(a, "connectivity"):
        return bool(a.connectivity == b.connectivity) and _equal(a.weights, b.weights)
    if isinstance(a, (np.ndarray, float)):
        one, other = np.asarray(a), np.asarray(b)
        return one.shape == other.shape and one.dtype == other.dtype and one.tobytes() == other.tobytes()
    return bool(a == b)


def check(done: Converted, target: str | os.PathLike[str]) -> None:
    """Raise SnncError where the written file does not give back what was written."""
    if done.differences:
        raise SnncError(
            "the file that was written reads back as another network",
            where=os.fspath(target),
            got=", ".join(done.differences[:8]),
            remedy="this is a fault of the toolchain: please report it with both files",
        )

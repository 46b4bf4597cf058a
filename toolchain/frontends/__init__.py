"""A trained model from a file: the front ends, by file name suffix."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolchain.errors import Diagnostic, SnncError, UsageError, nearest
from toolchain.ir import Graph

FRONTENDS: dict[str, str] = {
    ".pt": "toolchain.frontends.checkpoint:load",
    ".onnx": "toolchain.frontends.onnx_graph:load",
    ".nir": "toolchain.frontends.nir_graph:load",
    ".net": "toolchain.frontends.netx:load",
}
"""Suffix -> what reads such files, as "module:attribute"."""
CHOICES: dict[str, tuple[str, ...]] = {
    ".nir": ("dt", "steps", "coding", "reset", "dataset"),
    ".net": ("steps", "coding"),
}
"""Suffix -> what a user has to choose, or may, as the file does not say it."""
MODEL_FILE = "model.pt"
"""What `snnc train` leaves in its folder."""


@dataclass(frozen=True, eq=False)
class Loaded:
    """A trained network, what was changed or ignored while it was read, and the recipe it was trained by."""

    graph: Graph
    diagnostics: tuple[Diagnostic, ...] = ()
    recipe: Mapping[str, Any] = field(default_factory=dict)


def load(path: str | os.PathLike[str], *, trust: bool = False, **choices: Any) -> Loaded:
    """Read a trained model: a file with a known suffix, or the folder that `snnc train` made.

    trust: allow files that run code of their own to load. Without it nothing in a file is ever executed.
    choices: as CHOICES names them; None where nothing was chosen.

    Raises:
        SnncError: no such file, an unknown suffix, a choice where the file leaves none, or whatever the front end
            finds wrong.
    """
    file = Path(path)
    if not file.exists():
        raise SnncError("no such file", where=str(file))
    if file.is_dir():
        if not (file / MODEL_FILE).is_file():
            raise SnncError(
                f"the folder holds no {MODEL_FILE}",
                where=str(file),
                remedy="give a model file, or the folder that snnc train wrote",
            )
        file = file / MODEL_FILE
    suffix = file.suffix.lower()
    if suffix not in FRONTENDS:
        raise SnncError(
            f"unknown kind of model file {suffix!r}",
            where=str(file),
            allowed=nearest(suffix, FRONTENDS),
        )
    chosen = {name: value for name, value in choices.items() if value is not None}
    strange = [f"--{name}" for name in chosen if name not in CHOICES.get(suffix, ())]
    if strange:
        kinds = ", ".join(sorted(kind for kind, names in CHOICES.items() if strange[0][2:] in names))
        raise UsageError(
            f"a {suffix} file says this itself", where=", ".join(strange), allowed=f"with {kinds or 'no'} files"
        )
    module, _, attribute = FRONTENDS[suffix].partition(":")
    loaded: Loaded = getattr(importlib.import_module(module), attribute)(file, trust=trust, **chosen)
    return loaded

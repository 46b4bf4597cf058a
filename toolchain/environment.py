"""Which interpreters and packages there are. Nothing here imports torch or Lava."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from toolchain.errors import ToolError

LAVA_PYTHON = "SNNC_LAVA_PYTHON"
LAVA_PACKAGES = ("lava-nc", "numpy", "scipy", "networkx", "asteval")
HOW_TO_GET_LAVA = "run `make lava` in the repository (or `python -m toolchain.setup_lava`), or set SNNC_LAVA_PYTHON"

# Metadata only: importing Lava takes a second, this takes a few hundredths.
_PROBE = """
import importlib.metadata, json, sys
def version(name):
    try: return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError: return None
print(json.dumps({"python": ".".join(map(str, sys.version_info[:3])),
                  "versions": {name: version(name) for name in sys.argv[1:]}}))
"""


@dataclass(frozen=True)
class Interpreter:
    """A Python and what is installed in it; `how` says by which way it was found."""

    path: Path
    how: str
    python: str
    versions: tuple[tuple[str, str | None], ...]

    def version(self, package: str) -> str | None:
        return dict(self.versions).get(package)

    @property
    def has_lava(self) -> bool:
        return None not in (self.version("lava-nc"), self.version("numpy"), self.version("scipy"))


def version(package: str) -> str | None:
    """Version of a package in this interpreter, None when it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def cache_directory() -> Path:
    """The user's folder for what set-up makes when there is no repository to put it beside."""
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(base) / "snnc" if base else Path.home() / ".cache" / "snnc"


def lava_candidates() -> list[tuple[Path, str]]:
    """Where a Lava interpreter is looked for, first hit wins: (interpreter, by which way)."""
    named = os.environ.get(LAVA_PYTHON)
    if named:
        # What the user named is used or refused, never replaced by something else in silence.
        return [(Path(named).expanduser(), f"environment variable {LAVA_PYTHON}")]
    repository = Path(__file__).resolve().parent.parent
    return [
        (Path(sys.executable), "this interpreter"),
        (repository / ".venv-lava" / "bin" / "python", "made by set-up beside the toolchain"),
        (cache_directory() / "lava" / "bin" / "python", "made by set-up in the user's cache"),
    ]


@functools.lru_cache(maxsize=32)
def _probe(path: str, packages: tuple[str, ...]) -> tuple[str, tuple[tuple[str, str | None], ...]]:
    done = subprocess.run([path, "-c", _PROBE, *packages], capture_output=True, text=True, timeout=60, check=True)
    answer = json.loads(done.stdout)
    return answer["python"], tuple(answer["versions"].items())


def probe(path: Path, how: str, packages: tuple[str, ...] = LAVA_PACKAGES) -> Interpreter:
    """Ask an interpreter for its version and its packages.

    Raises:
        ToolError: it is not there, does not start, or does not answer.
    """
    try:
        python, versions = _probe(str(path), packages)
    except FileNotFoundError:
        raise ToolError("there is no such interpreter", where=str(path), remedy=HOW_TO_GET_LAVA) from None
    except (OSError, subprocess.SubprocessError, ValueError, KeyError) as error:
        stderr = getattr(error, "stderr", None)
        raise ToolError(
            "this is not a Python interpreter that answers",
            where=f"{path} ({how})",
            got=stderr or error,
            remedy=HOW_TO_GET_LAVA,
        ) from None
    return Interpreter(path, how, python, versions)


def find_lava() -> Interpreter:
    """The interpreter that runs Lava.

    Raises:
        ToolError: there is none; says where it was looked for and how to get one.
    """
    candidates = lava_candidates()
    for path, how in candidates:
        if len(candidates) > 1 and not path.exists():
            continue
        interpreter = probe(path, how)
        if interpreter.has_lava:
            return interpreter
    raise ToolError(
        "no Python interpreter with Lava was found",
        got="; ".join(f"{path} ({how})" for path, how in candidates) + ": without lava-nc",
        allowed="lava-nc 0.10 on Python 3.10, or on 3.11 and 3.12 past its version bound",
        remedy=HOW_TO_GET_LAVA,
    )

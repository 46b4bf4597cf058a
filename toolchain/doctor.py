"""`snnc doctor`: what is there, what is missing, and the command that gets it.

Each check is a plain function that returns rows; the command line prints them.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

from toolchain import environment, parallel
from toolchain.errors import ToolError

OK, MISSING, OPTIONAL = "ok", "missing", "optional"

PYTHON_RANGE = ((3, 10), (3, 13))
SCRATCH_NEEDED_BYTES = 2**30
SHARED_NEEDED_BYTES = 64 * 2**20
REQUIREMENT = re.compile(r"^([A-Za-z0-9_.-]+)\s*([^;]*?)\s*(?:;\s*(.*))?$")
EXTRA = re.compile(r"extra\s*==\s*['\"]([^'\"]+)['\"]")
# Older than a marker that names it: the only other marker in our requirements.
BELOW = re.compile(r"python_version\s*<\s*['\"](\d+)\.(\d+)['\"]")


@dataclass(frozen=True)
class Row:
    """One line of the report. state: 'ok', 'missing' (snnc needs it) or 'optional' (a part of snnc needs it)."""

    state: str
    what: str
    found: str
    needed: str = ""
    remedy: str = ""


def python() -> list[Row]:
    """The interpreter of the toolchain."""
    low, high = PYTHON_RANGE
    good = low <= sys.version_info[:2] <= high
    needed = f"{low[0]}.{low[1]} to {high[0]}.{high[1]}"
    remedy = "" if good else "make clean && make setup PYTHON=/path/to/python3.11"
    return [Row(OK if good else MISSING, "Python", f"{platform.python_version()} ({sys.executable})", needed, remedy)]


def packages() -> list[Row]:
    """Every package that snnc declares, with those of its extras."""
    try:
        declared = importlib.metadata.requires("snnc") or []
        found = environment.version("snnc") or ""
    except importlib.metadata.PackageNotFoundError:
        return [Row(MISSING, "snnc", "not installed", "", "make setup, or pip install -e '.[train,plot,test]'")]
    rows = [Row(OK, "snnc", found)]
    for requirement in declared:
        match = REQUIREMENT.match(requirement)
        if match is None:
            continue
        name, needed, marker = match.group(1), match.group(2), match.group(3) or ""
        below = BELOW.search(marker)
        if below and sys.version_info[:2] >= (int(below.group(1)), int(below.group(2))):
            continue
        extra = EXTRA.search(marker)
        rows.append(package(name, needed, extra.group(1) if extra else None))
    return rows


def package(name: str, needed: str, extra: str | None) -> Row:
    """One package of this interpreter: its version against the lower bound that is asked for."""
    found = environment.version(name)
    good = found is not None and _at_least(found, needed)
    what = name if extra is None else f"{name} [{extra}]"
    if good:
        return Row(OK, what, found or "", needed)
    target = "snnc" if extra is None else f"'snnc[{extra}]'"
    return Row(MISSING if extra is None else OPTIONAL, what, found or "not installed", needed, f"pip install {target}")


def _at_least(found: str, needed: str) -> bool:
    """Whether a version meets a bound such as '>=1.26'; only lower bounds are compared, others count as met."""
    match = re.search(r">=\s*([\d.]+)", needed)
    return match is None or _numbers(found) >= _numbers(match.group(1))


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match.group().split(".")) if match else ()


def lava() -> list[Row]:
    """The interpreter that runs Lava, with what is in it."""
    needed = "lava-nc 0.10 on Python 3.10 (3.11, 3.12 past its bound)"
    try:
        interpreter = environment.find_lava()
    except ToolError as error:
        found = error.message if error.got is None else f"{error.message}: {error.got}"
        return [Row(OPTIONAL, "Lava", found, needed, error.remedy or environment.HOW_TO_GET_LAVA)]
    versions = ", ".join(f"{name} {version}" for name, version in interpreter.versions if version is not None)
    rows = [Row(OK, "Lava", f"{versions}, Python {interpreter.python}: {interpreter.path} ({interpreter.how})", needed)]
    lava_version = interpreter.version("lava-nc") or ""
    if not lava_version.startswith("0.10."):
        rows.append(Row(OPTIONAL, "Lava version", lava_version, "0.10, the only one tested", "make lava"))
    return rows


def nengo_loihi() -> list[Row]:
    """Only for comparing our synapse cost model with nengo-loihi's own."""
    found = environment.version("nengo-loihi")
    remedy = "" if found else "pip install nengo-loihi, to compare the cost model `nengo` with its origin"
    return [Row(OK if found else OPTIONAL, "nengo-loihi", found or "not installed", "only for a test", remedy)]


def machine() -> list[Row]:
    """Cores, scratch space, and the shared memory that Lava's processes talk through."""
    rows = [Row(OK, "processor cores", str(parallel.cores()), "1 or more")]
    scratch = tempfile.gettempdir()
    rows.append(_space(f"free in {scratch}", scratch, SCRATCH_NEEDED_BYTES, MISSING, "free space, or set TMPDIR"))
    if os.path.isdir("/dev/shm"):
        remedy = "free /dev/shm; in a container give it more (--shm-size=1g)"
        rows.append(_space("free in /dev/shm", "/dev/shm", SHARED_NEEDED_BYTES, OPTIONAL, remedy))
    return rows


def _space(what: str, path: str, needed_bytes: int, otherwise: str, remedy: str) -> Row:
    free = shutil.disk_usage(path).free
    good = free >= needed_bytes
    needed = f"{needed_bytes / 2**20:.0f} MiB"
    return Row(OK if good else otherwise, what, f"{free / 2**20:.0f} MiB", needed, "" if good else remedy)


CHECKS: tuple[Callable[[], list[Row]], ...] = (python, packages, lava, nengo_loihi, machine)


def check() -> list[Row]:
    """All rows, in the order in which they are printed."""
    return [row for one in CHECKS for row in one()]

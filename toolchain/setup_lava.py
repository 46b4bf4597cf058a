"""Makes the environment that Lava runs in. Standard library alone, so that any Python from 3.10 on can run it.

Lava 0.10 was made for Python 3.10 and numpy 1. A 3.10 is looked for first; without one, 3.11 or 3.12 serve as well,
past Lava's version bound and with the shim in backends/lava/_compat.py.

    python -m toolchain.setup_lava [--target FOLDER] [--python INTERPRETER | --versions VERSION ...]
"""

from __future__ import annotations

import argparse
import glob
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

# Everything that the worker imports, with all that it needs in turn, so that pip has nothing to resolve (and would not
# refuse Lava on a later Python). Lava also declares scikit-learn, which no module of it imports.
PINS = (
    "lava-nc==0.10.0",
    "numpy==1.26.4",
    "scipy==1.15.3",
    "networkx==2.8.7",
    "asteval==0.9.33",
)
PYTHONS = ("3.10", "3.11", "3.12")
STAMP = "snnc-lava.json"
WORKER_FOLDER = Path(__file__).resolve().parent / "backends" / "lava"


class SetupError(Exception):
    """Set-up cannot go on; the message says what to do."""


def default_target() -> Path:
    """Beside the toolchain in a checkout, else in the user's cache (as `environment.lava_candidates` looks for it)."""
    repository = Path(__file__).resolve().parent.parent
    if (repository / "pyproject.toml").exists():
        return repository / ".venv-lava"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "snnc" / "lava"


def candidates(version: str) -> Iterator[tuple[str, str]]:
    """Interpreters that may be of a version such as 3.10: (path, by which way)."""
    if version == ".".join(map(str, sys.version_info[:2])):
        yield sys.executable, "the running interpreter"
    on_path = shutil.which(f"python{version}")
    if on_path:
        yield on_path, "PATH"
    pyenv = os.environ.get("PYENV_ROOT") or str(Path.home() / ".pyenv")
    for path in sorted(glob.glob(f"{pyenv}/versions/{version}*/bin/python"), reverse=True):
        yield path, "pyenv"
    uv = shutil.which("uv")
    if uv:
        found = subprocess.run([uv, "python", "find", version], capture_output=True, text=True, check=False)
        if found.returncode == 0 and found.stdout.strip():
            yield found.stdout.strip(), "uv"


def usable(path: str, version: str) -> bool:
    """Whether an interpreter starts, is of that version and can make environments."""
    code = "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run([path, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and done.stdout.strip() == version


def find_python(versions: Sequence[str] = PYTHONS) -> tuple[str, str, str]:
    """(path, version, way) of the best interpreter for Lava: the first version that is there.

    Raises:
        SetupError: there is none.
    """
    for version in versions:
        for path, way in candidates(version):
            if usable(path, version):
                return path, version, way
    raise SetupError(
        f"no Python for Lava: looked for {', '.join(versions)} (able to make environments: venv, ensurepip)\n"
        "  on the PATH, among pyenv's versions and with uv\n"
        "  to do: `uv python install 3.10`, or `pyenv install 3.10`, or the system's python3.10 and its venv package;\n"
        "  or name one: make lava LAVA_BASE=/path/to/python3.10"
    )


def run(*command: str | Path) -> None:
    """Run a command of the set-up and show what it says only when it fails."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-20:])
        raise SetupError(f"failed: {' '.join(map(str, command))}\n{said}")


def ready(target: Path) -> bool:
    """Whether the environment is there and was made from these pins."""
    try:
        stamp = json.loads((target / STAMP).read_text())
    except (OSError, ValueError):
        return False
    return stamp.get("pins") == list(PINS) and (target / "bin" / "python").exists()


def make(target: Path, python: str | None = None, versions: Sequence[str] = PYTHONS) -> str:
    """Make the environment unless it is there already; returns one line that says what was done.

    Raises:
        SetupError: no interpreter, or an installation that failed; the unfinished environment is removed.
    """
    if ready(target):
        return f"Lava environment is ready: {target}"
    if python is None:
        path, version, way = find_python(versions)
    else:
        path, way = python, "named"
        version = next((v for v in PYTHONS if usable(python, v)), "")
        if not version:
            raise SetupError(f"{python} is no usable Python {', '.join(PYTHONS)}")
    print(f"making the Lava environment {target} with Python {version} ({way}: {path})", flush=True)
    shutil.rmtree(target, ignore_errors=True)
    try:
        run(path, "-m", "venv", target)
        inside = target / "bin" / "python"
        run(inside, "-m", "pip", "install", "--quiet", "--no-deps", "--ignore-requires-python", *PINS)
        check = f"import sys; sys.path.insert(0, {str(WORKER_FOLDER)!r}); import worker"
        run(inside, "-W", "ignore", "-c", check)
    except SetupError:
        shutil.rmtree(target, ignore_errors=True)
        raise
    (target / STAMP).write_text(json.dumps({"pins": PINS, "python": version}))
    return f"Lava environment made: {target}"


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status (3: an outside tool is missing or failed)."""
    parser = argparse.ArgumentParser(prog="python -m toolchain.setup_lava", description=__doc__.partition("\n")[0])
    parser.add_argument("--target", type=Path, default=default_target(), help="folder of the environment")
    parser.add_argument("--python", help="interpreter to make it with (3.10, 3.11 or 3.12)")
    parser.add_argument(
        "--versions", nargs="+", default=PYTHONS, choices=PYTHONS, help="versions to look for, in order"
    )
    options = parser.parse_args(arguments)
    try:
        print(make(options.target.absolute(), options.python or None, options.versions))
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Puts the frameworks that tests compare with into folders of their own, beside the toolchain's environment.

    python tests/frameworks/setup_frameworks.py [NAME ...]

NAME.txt lists pinned packages; they go to .venv-frameworks/NAME without what they depend on: torch and numpy are the
toolchain's own, so list there whatever else an import needs. Two versions of one framework are two files. A package
that a Python has no version of is left out by a marker (`; python_version >= "3.11"`). Standard library alone.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
TARGET = HERE.parents[1] / ".venv-frameworks"
STAMP = ".ready"


def names() -> list[str]:
    """All frameworks that there is a list for."""
    return sorted(path.stem for path in HERE.glob("*.txt"))


def wanted(name: str) -> str:
    """What the stamp of a folder says that is as it should be: the packages and the Python they are for."""
    return f"# Python {sys.version_info[0]}.{sys.version_info[1]}\n{(HERE / f'{name}.txt').read_text()}"


def ready(name: str) -> bool:
    """Whether a framework's folder holds what its list says."""
    stamp = TARGET / name / STAMP
    return stamp.exists() and stamp.read_text() == wanted(name)


def provide(name: str) -> None:
    """Install a framework unless it is there.

    Raises:
        CalledProcessError: pip could not.
    """
    if ready(name):
        return
    folder = TARGET / name
    print(f"putting {name} into {folder}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    what = ["--no-deps", "--target", str(folder), "--requirement", str(HERE / f"{name}.txt")]
    subprocess.run([*pip, "install", *what], check=True)
    (folder / STAMP).write_text(wanted(name))


def main(chosen: Sequence[str]) -> int:
    for name in chosen or names():
        try:
            provide(name)
        except subprocess.CalledProcessError:
            print(f"error: {name} could not be installed; `make test FRAMEWORKS=no` does without", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

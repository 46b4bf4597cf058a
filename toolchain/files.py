"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from toolchain.errors import SnncError


def _failed(path: Path, error: OSError) -> SnncError:
    return SnncError(
        f"could not write {path}",
        where=str(path),
        got=error.strerror or str(error),
        remedy="free space or choose another place with -o; nothing was left half-written",
    )


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file for binary writing that takes its final name only when the block ends without an error.

    Raises:
        SnncError: the file system refused (full, read-only, no such folder); nothing is left behind.
    """
    final = Path(path)
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{final.name}.", dir=final.parent)
    except OSError as error:
        raise _failed(final, error) from error
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        # mkstemp makes the file private; give it the permissions that open() would have given.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, final)
        _keep_name(final.parent)
    except OSError as error:
        raise _failed(final, error) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _keep_name(folder: Path) -> None:
    """Have a new name in a folder outlast a loss of power, where folders can be opened for that."""
    with contextlib.suppress(PermissionError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove_unfinished(path: str | os.PathLike[str]) -> None:
    """Remove what `atomic_write` leaves of a file when its process is killed."""
    final = Path(path)
    for left in final.parent.glob(f".{final.name}.????????"):
        left.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file whole (UTF-8, newline as given)."""
    with atomic_write(path) as stream:
        stream.write(text.encode())


@contextlib.contextmanager
def only_one(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Work in a folder that no other process works in; ends with the process, however that ends.

    Raises:
        SnncError: another process does, or the file system refused.
    """
    import fcntl

    path = Path(folder) / ".lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("ab")
    except OSError as error:
        raise _failed(path, error) from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise SnncError(
                "another process works in this folder", where=str(folder), remedy="wait for it, or stop it"
            ) from error
        yield


def refuse_existing(path: str | os.PathLike[str]) -> None:
    """Raise SnncError when an output path exists already."""
    if os.path.lexists(path):
        raise SnncError(
            f"{path} exists already",
            where=str(path),
            remedy="choose another name, or pass --force to replace it",
        )


@contextlib.contextmanager
def atomic_directory(path: str | os.PathLike[str], *, force: bool = False) -> Iterator[Path]:
    """A folder to fill that takes its final name only when the block ends without an error.

    With `force` an existing folder of that name is replaced, but only one that holds nothing beside what our own
    `build.json` lists (or is empty), so that a mistyped path does not cost the user a home directory.

    Raises:
        SnncError: the path exists and `force` is not given, or the file system refused.
    """
    final = Path(path)
    exists = os.path.lexists(final)
    if exists and not force:
        refuse_existing(final)
    if exists:
        _refuse_foreign(final)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=final.parent))
    except OSError as error:
        raise _failed(final, error) from error
    try:
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o777 & ~mask)
        if exists:
            _swap(temporary, final)
        else:
            os.rename(temporary, final)
    except OSError as error:
        raise _failed(final, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _swap(new: Path, final: Path) -> None:
    """Put a folder in the place of an older one, which is gone only once the new one stands."""
    old = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=final.parent))
    os.rename(final, old)
    try:
        os.rename(new, final)
    except OSError:
        os.rename(old, final)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _refuse_foreign(path: Path) -> None:
    """Raise SnncError unless a path is an empty folder, or a build and nothing else."""
    remedy = "choose another place with -o"
    if path.is_symlink() or not path.is_dir():
        raise SnncError(f"{path} is not a folder, so --force does not replace it", where=str(path), remedy=remedy)
    there = {str(each.relative_to(path)) for each in path.rglob("*") if each.is_symlink() or not each.is_dir()}
    try:
        about = json.loads((path / "build.json").read_bytes()) if there else {"snnc": "", "files": {}}
        ours = {"build.json", *about["files"]} if "snnc" in about else set()
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        ours = set()
    foreign = sorted(there - ours)
    if foreign:
        raise SnncError(
            f"{path} {'holds more than' if ours else 'is not'} a build of snnc, so --force does not replace it",
            where=str(path),
            got=", ".join(foreign[:5]) + (", ..." if len(foreign) > 5 else ""),
            remedy=remedy,
        )

"""Opening a file that torch.save wrote: nothing in it is executed unless trusted, and it is never more than it says."""

from __future__ import annotations

import pickle
import pickletools
import warnings
import zipfile
from pathlib import Path

import torch

from toolchain.errors import Diagnostic, SnncError

PLAIN_GLOBALS = {
    "torch._utils _rebuild_tensor_v2",
    "torch FloatStorage",
    "torch BoolStorage",
    "collections OrderedDict",
}
"""What the pickle of plain tensors names; these run nothing of their own."""
HOW_TO_EXPORT = "train with snnc train, or save the plain dictionary of docs/formats.md with torch.save"


def unpickle(file: Path, *, trust: bool) -> tuple[object, int, tuple[Diagnostic, ...]]:
    """What the file holds, its size in bytes, and what was executed to load it.

    trust: allow the file to run its own code when it cannot be loaded otherwise; a diagnostic then says so.

    Raises:
        SnncError: missing, empty, damaged, or needing code without trust.
    """
    size = _check_archive(file)
    content, executed = _unpickle(file, trust)
    return content, size, executed


def _check_archive(file: Path) -> int:
    """Refuse what is no archive of torch.save, or one that claims more than it holds; the file's size in bytes."""
    where = str(file)
    try:
        size = file.stat().st_size
        if file.is_dir():
            raise SnncError("this is a folder, not a model file", where=where)
        if size == 0:
            raise SnncError("the file is empty", where=where)
        if not zipfile.is_zipfile(file):
            with file.open("rb") as stream:
                cut = stream.read(2) == b"PK"
            raise SnncError(
                "the file is cut off" if cut else "the file is not a checkpoint",
                where=where,
                allowed="a file that torch.save wrote (a zip archive)",
                remedy=HOW_TO_EXPORT,
            )
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            # Stored, not deflated, is how torch writes; so sizes in the file bound what loading needs.
            packed = [e.filename for e in entries if e.compress_type != zipfile.ZIP_STORED]
            if packed or sum(entry.file_size for entry in entries) > size:
                raise SnncError("the archive unpacks to more than it holds", where=where, remedy=HOW_TO_EXPORT)
            if any(name.endswith("/constants.pkl") for name in names):
                raise SnncError("this is a TorchScript program, not a model of snnc", where=where, remedy=HOW_TO_EXPORT)
            if sum(name.endswith("/data.pkl") for name in names) != 1:
                raise SnncError("the archive is not a checkpoint", where=where, remedy=HOW_TO_EXPORT)
            damaged = archive.testzip()
            if damaged is not None:
                raise SnncError("the file is damaged: a checksum does not match", where=f"{where}, {damaged}")
    except FileNotFoundError:
        raise SnncError("no such file", where=where) from None
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        raise SnncError("the file is damaged", where=where, got=_first_line(error)) from None
    except OSError as error:
        raise SnncError("the file cannot be read", where=where, got=error.strerror or str(error)) from None
    return size


def _unpickle(file: Path, trust: bool) -> tuple[object, tuple[Diagnostic, ...]]:
    with warnings.catch_warnings():
        # What torch has to say about pickles is said below, in our words.
        warnings.simplefilter("ignore")
        try:
            return torch.load(file, map_location="cpu", weights_only=True), ()
        except pickle.UnpicklingError:
            needed = _globals(file)
            if not needed:
                raise SnncError("the file is damaged", where=f"{file}, data.pkl", remedy=HOW_TO_EXPORT) from None
            if not trust:
                raise SnncError(
                    "the file runs code when it is loaded, so it was not loaded",
                    where=str(file),
                    got=f"it needs {', '.join(needed[:4])}{' ...' if len(needed) > 4 else ''}",
                    allowed="plain tensors, numbers, text, lists and dictionaries",
                    remedy=f"{HOW_TO_EXPORT}; or pass --trust if you know who made the file",
                ) from None
        except Exception as error:
            # torch raises whatever a damaged archive leads it to; no list of types is complete.
            raise SnncError("the file is damaged", where=str(file), got=_first_line(error)) from None
        try:
            content = torch.load(file, map_location="cpu", weights_only=False)
        except Exception as error:
            # Foreign code ran; it may raise anything.
            raise SnncError(
                "the file's own code failed while it was loaded",
                where=str(file),
                got=f"{type(error).__name__}: {_first_line(error)}",
                remedy=HOW_TO_EXPORT,
            ) from error
    note = f"code named in the file was run to load it, as --trust allows: {', '.join(needed[:4])}"
    return content, (Diagnostic("MDL003", str(file), note, len(needed)),)


def _globals(file: Path) -> list[str]:
    """Names of code that the pickle asks for beyond plain tensors, found without executing anything."""
    found: dict[str, None] = {}
    try:
        with zipfile.ZipFile(file) as archive:
            name = next(n for n in archive.namelist() if n.endswith("/data.pkl"))
            texts: list[str] = []
            for opcode, argument, _ in pickletools.genops(archive.read(name)):
                if opcode.name == "GLOBAL":
                    found[str(argument)] = None
                elif opcode.name == "STACK_GLOBAL":
                    found[" ".join(texts[-2:])] = None
                elif isinstance(argument, str):
                    texts.append(argument)
    except (ValueError, KeyError, IndexError, OSError, zipfile.BadZipFile):
        return []
    return [name.replace(" ", ".") for name in found if name not in PLAIN_GLOBALS]


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]

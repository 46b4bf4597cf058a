"""A child process that cannot outlive us: own process group, a deadline, and nothing left behind.

Shared memory is the hard part. Python's resource tracker unlinks it, ignores SIGTERM and ends when all
processes that use it have ended; so the group gets SIGTERM first, SIGKILL only after a grace, and what is left then is
unlinked here.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from toolchain.errors import ToolError

POLL_S = 0.02
GRACE_S = 5.0


def supervise(
    command: Sequence[str | os.PathLike[str]],
    *,
    folder: Path,
    deadline_s: float,
    what: str,
    on_poll: Callable[[], None] = lambda: None,
) -> int:
    """Run a command in `folder` until it ends; its output goes to `folder`/output. Returns its exit status.

    Every process of its group, and every shared memory segment that one of them had mapped, is gone afterwards:
    also on Ctrl-C, on a deadline, and when `on_poll` (called about fifty times a second) raises.

    Raises:
        ToolError: the deadline passed, or the command cannot be started.
    """
    with open(folder / "output", "wb") as output:
        try:
            child = subprocess.Popen(
                [os.fspath(part) for part in command],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # One thread for each of many small processes; more would only wait for each other.
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
            )
        except OSError as error:
            raise ToolError(f"could not start {what}", where=os.fspath(command[0]), got=error.strerror) from error
    end = time.monotonic() + deadline_s
    segments: set[str] = set()
    looked = 0.0
    try:
        while child.poll() is None:
            on_poll()
            now = time.monotonic()
            if now > end:
                raise ToolError(
                    f"{what} passed its deadline of {deadline_s:g} s and was ended",
                    got=tail(folder) or "no output",
                    remedy="give it more time with --deadline, or fewer samples",
                )
            if now - looked > 1:
                # Known beforehand, so that it can be unlinked even when all that used it were killed at once.
                segments |= shared_memory(child.pid)
                looked = now
            time.sleep(POLL_S)
        on_poll()
        return child.returncode
    finally:
        reap(child, segments)


def reap(child: subprocess.Popen[bytes], segments: set[str]) -> None:
    """End the whole group of a child that leads one, and unlink the shared memory that it leaves."""
    segments |= {name for pid in group(child.pid) for name in shared_memory(pid)}
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, number)
        end = time.monotonic() + GRACE_S
        while time.monotonic() < end:
            child.poll()
            if not group(child.pid):
                break
            time.sleep(POLL_S)
        else:
            continue
        break
    child.wait()
    for name in segments:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def group(leader: int) -> list[int]:
    """The living processes (no zombies) of a process group."""
    members = []
    try:
        entries = [entry for entry in os.listdir("/proc") if entry.isdigit()]
    except FileNotFoundError:  # not Linux: only whether there is any
        try:
            os.killpg(leader, 0)
        except (ProcessLookupError, PermissionError):
            return []
        return [leader]
    for entry in entries:
        with contextlib.suppress(OSError, ValueError):
            # pid (name) state parent group ...; the name may hold spaces and brackets.
            fields = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
            if int(fields[2]) == leader and fields[0] not in "ZX":
                members.append(int(entry))
    return members


def shared_memory(pid: int) -> set[str]:
    """Shared memory segments of Python's multiprocessing that a process has mapped."""
    found = set()
    with contextlib.suppress(OSError):
        for line in Path("/proc", str(pid), "maps").read_text().splitlines():
            name = line.partition("/dev/shm/")[2]
            if name.startswith("psm_") and " " not in name:
                found.add("/dev/shm/" + name)
    return found


def tail(folder: Path, lines: int = 15) -> str:
    """The last lines that the child wrote."""
    with contextlib.suppress(OSError):
        text = (folder / "output").read_text(errors="replace").rstrip()
        return "\n".join(text.splitlines()[-lines:])
    return ""

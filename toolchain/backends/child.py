"""A child process that cannot outlive us: own process group, a deadline, a watch for stalls, and nothing left behind.

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
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from toolchain.errors import ToolError

POLL_S = 0.02
GRACE_S = 5.0
STALL_S = 30.0
"""How long a group of processes may do nothing before it counts as stalled."""
LOOK_S = 0.5
"""How often that is looked at."""
SPARINGLY = 30
"""Times as long as looking for shared memory took is waited before it is done again: some groups have many members."""
IDLE = 0.5
"""Part of one core's time, and of the looks, up to which a group does nothing: work takes a whole core, or waits for
one at every look, while the waiting processes of a small network in Lava were seen to take 3 % of one."""
DUMP_S = 0.5
"""Longest time that one process is given to write its stacks."""
STACKS = 8
"""How many different stacks a message holds."""


class Stalled(ToolError):
    """The child and all that it started wait for something that will not come."""


def supervise(
    command: Sequence[str | os.PathLike[str]],
    *,
    folder: Path,
    deadline_s: float,
    what: str,
    on_poll: Callable[[], None] = lambda: None,
    advance: Callable[[], object] | None = None,
    stall_s: float = STALL_S,
) -> int:
    """Run a command in `folder` until it ends; its output goes to `folder`/output. Returns its exit status.

    advance: tells how far the child has come, as any value. Where it stays the same for `stall_s` seconds while no
    process of the group has work to do, the child is stalled; one that is only slow, or starved, is not. Python
    processes that have called `faulthandler.register(SIGUSR1)` then write their stacks to the output first.

    Every process of its group, and every shared memory segment that one of them had mapped, is gone afterwards:
    also on Ctrl-C, on a deadline, and when `on_poll` (called about fifty times a second) raises.

    Raises:
        Stalled: as said; with the stacks of its threads.
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
    look = 0.0
    watch = None if advance is None else _StallWatch(child.pid, advance, stall_s)
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
            if watch is not None and watch.stalled(now):
                seen = stacks(child.pid, folder)
                raise Stalled(f"{what} did nothing for {stall_s:g} s and was ended", got=seen or tail(folder) or None)
            if now > look:
                # Known beforehand, so that it can be unlinked even when all that used it were killed at once.
                segments |= {name for pid in group(child.pid) for name in shared_memory(pid)}
                look = now + max(1.0, SPARINGLY * (time.monotonic() - now))
            time.sleep(POLL_S)
        on_poll()
        return child.returncode
    finally:
        reap(child, segments)


class _StallWatch:
    """Looks now and then whether a group of processes still gets anywhere."""

    def __init__(self, leader: int, advance: Callable[[], object], stall_s: float) -> None:
        self.leader, self.advance, self.stall_s = leader, advance, stall_s
        self.next = time.monotonic()
        self.since: float | None = None
        self.place: object = None
        self.cpu_s, self.looks, self.busy = 0.0, 0, 0

    def stalled(self, now: float) -> bool:
        if now < self.next:
            return False
        self.next = now + LOOK_S
        place, (cpu_s, ready) = self.advance(), activity(self.leader)
        if self.since is None or place != self.place:
            self._start(now, place, cpu_s)
            return False
        self.looks += 1
        self.busy += ready
        if now - self.since < self.stall_s:
            return False
        # Processes that end take their time with them, so less may be left than there was: that is nothing done.
        idle = cpu_s - self.cpu_s <= IDLE * (now - self.since) and self.busy <= IDLE * self.looks
        self._start(now, place, cpu_s)
        return idle

    def _start(self, now: float, place: object, cpu_s: float) -> None:
        self.since, self.place, self.cpu_s = now, place, cpu_s
        self.looks = self.busy = 0


def activity(leader: int) -> tuple[float, bool]:
    """CPU seconds that the living processes of a group have taken, and whether one of them could use a core now.

    Where there is no /proc to tell, they always could.
    """
    if not os.path.isdir("/proc/self"):
        return 0.0, True
    ticks, ready = 0, False
    for pid in group(leader):
        with contextlib.suppress(OSError, ValueError):
            fields = Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
            # R: runs or waits for a core. D: waits for a disk.
            ready |= fields[0] in "RD"
    return ticks / os.sysconf("SC_CLK_TCK"), ready


def stacks(leader: int, folder: Path) -> str:
    """Have the processes of a group write their stacks, and sum them up: innermost lines, the rarest first.

    Most processes of a stalled group wait for the same; who waits for something else is where to look.
    """
    output = folder / "output"
    found: Counter[str] = Counter()
    for pid in group(leader):
        begin = output.stat().st_size
        with contextlib.suppress(OSError, ValueError, StopIteration):
            status = Path("/proc", str(pid), "status").read_text().splitlines()
            caught = next(int(line.split()[1], 16) for line in status if line.startswith("SigCgt:"))
            if not caught >> (signal.SIGUSR1 - 1) & 1:
                continue  # it would be ended by it
            os.kill(pid, signal.SIGUSR1)
        for block in _written(output, begin).split("hread 0x")[1:]:
            lines = [line.strip() for line in block.splitlines()[1:] if line.startswith("  File ")]
            found["\n    ".join(lines[:3])] += 1
    rarest = sorted(found.items(), key=lambda item: item[1])[:STACKS]
    return "\n".join(f"{count} threads at\n    {where}" for where, count in rarest)


def _written(output: Path, begin: int) -> str:
    """What is written behind `begin`, once it has stopped growing. One process at a time, or their lines would mix."""
    end = time.monotonic() + DUMP_S
    size, before = begin, -1
    while time.monotonic() < end and (size == begin or size != before):
        time.sleep(POLL_S / 2)
        before, size = size, output.stat().st_size
    with open(output, "rb") as stream:
        stream.seek(begin)
        return stream.read().decode(errors="replace")


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

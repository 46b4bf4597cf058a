"""A supervised child leaves nothing behind. No Lava is needed here."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from toolchain.backends import child
from toolchain.errors import ToolError


def supervise(folder: Path, code: str, deadline_s: float = 30.0) -> int:
    return child.supervise([sys.executable, "-c", code], folder=folder, deadline_s=deadline_s, what="the test")


def test_exit_status_and_output(tmp_path: Path) -> None:
    assert supervise(tmp_path, "import sys; print('hello'); print('there', file=sys.stderr); sys.exit(7)") == 7
    assert child.tail(tmp_path).split() == ["hello", "there"]
    assert child.tail(tmp_path, lines=1) == "there"


def test_no_such_program(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="could not start Lava"):
        child.supervise(["/no/such/program"], folder=tmp_path, deadline_s=1, what="Lava")


def test_grandchildren_end_with_the_child(tmp_path: Path) -> None:
    code = "import os, subprocess; subprocess.Popen(['sleep', '600']); print(os.getpid())"
    assert supervise(tmp_path, code) == 0
    assert child.group(int(child.tail(tmp_path))) == []


def test_shared_memory_of_a_killed_process_is_unlinked(tmp_path: Path) -> None:
    code = """
import os, signal, subprocess, time
from multiprocessing import shared_memory, resource_tracker
memory = shared_memory.SharedMemory(create=True, size=4096)
print(memory.name, flush=True)
time.sleep(2.2)
os.killpg(0, signal.SIGKILL)
"""
    assert supervise(tmp_path, code) == -9
    assert not Path("/dev/shm", child.tail(tmp_path)).exists()


def test_deadline_names_the_last_output(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(ToolError, match="the test passed its deadline of 1 s") as caught:
        supervise(tmp_path, "import time; print('still here', flush=True); time.sleep(600)", deadline_s=1)
    assert "still here" in str(caught.value)
    assert time.monotonic() - began < 5


def test_an_error_while_polling_ends_the_child(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def poll() -> None:
        if child.tail(tmp_path):
            raise Stop

    with pytest.raises(Stop):
        child.supervise(
            [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(600)"],
            folder=tmp_path,
            deadline_s=60,
            what="the test",
            on_poll=poll,
        )
    assert child.group(int(child.tail(tmp_path))) == []


def stall(folder: Path, code: str, advance: object = None) -> int:
    """Supervise with a short watch; `advance` is what the child has reached, the same at every look."""
    return child.supervise(
        [sys.executable, "-c", code],
        folder=folder,
        deadline_s=60,
        what="the test",
        advance=lambda: advance,
        stall_s=3,
    )


WAITS = """
import faulthandler, os, signal, threading
faulthandler.register(signal.SIGUSR1)
os.fork()
def wait_for_what_never_comes():
    threading.Lock().acquire() and threading.Event().wait()
wait_for_what_never_comes()
"""


def test_a_stall_is_seen_and_says_where(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(child.Stalled, match="the test did nothing for 3 s and was ended") as caught:
        stall(tmp_path, WAITS)
    assert time.monotonic() - began < 20
    text = str(caught.value)
    assert "2 threads at" in text
    assert "wait_for_what_never_comes" in text


def test_processes_without_a_handler_are_not_asked_for_stacks(tmp_path: Path) -> None:
    with pytest.raises(child.Stalled, match="the last word"):
        stall(tmp_path, "import time; print('the last word', flush=True); time.sleep(600)")


def test_work_is_no_stall(tmp_path: Path) -> None:
    code = "import time\nend = time.monotonic() + 6\nwhile time.monotonic() < end: pass"
    assert stall(tmp_path, code) == 0


def test_progress_without_work_is_no_stall(tmp_path: Path) -> None:
    code = "import time; time.sleep(6)"
    status = child.supervise(
        [sys.executable, "-c", code],
        folder=tmp_path,
        deadline_s=60,
        what="the test",
        advance=lambda: int(time.monotonic()),
        stall_s=3,
    )
    assert status == 0

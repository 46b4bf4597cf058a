"""Everything that makes Lava hang, or leave processes and shared memory behind, is provoked here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from faulty_worker import Reaped
from lava_networks import chain

from toolchain.backends import child, reference
from toolchain.backends import lava as backend
from toolchain.environment import Interpreter
from toolchain.errors import ToolError

pytestmark = pytest.mark.lava

SAMPLES = np.full((4, 4), 200)
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("where", "code", "message"),
    [
        ("fault", "raise ZeroDivisionError('at step five')", "a process model raised ZeroDivisionError: at step five"),
        ("fault", "os._exit(5)", "a process of the Lava run died, exit code 5"),
        ("fault", "os.kill(os.getpid(), 9)", "a process of the Lava run died, exit code -9"),
        ("fault", "os.kill(os.getpid(), 7)", "exit code -7 (SIGBUS: there may be too little shared memory, /dev/shm)"),
        ("build_fault", "raise KeyError('no such parameter')", "no such parameter"),
        ("build_fault", "os._exit(6)", "a process of the Lava run died, exit code 6"),
    ],
)
def test_a_failing_process_model_ends_the_run(
    lava: Interpreter, reaped: Reaped, fault: Callable[..., None], where: str, code: str, message: str
) -> None:
    fault(**{where: code})
    began = time.monotonic()
    with pytest.raises(ToolError) as caught:
        backend.run(chain(2), SAMPLES, deadline_s=60)
    assert message in str(caught.value)
    assert caught.value.exit_code == 3
    assert time.monotonic() - began < 30, "found at once, not at the deadline"
    reaped.assert_nothing_left()


def test_a_process_that_dies_before_lava_has_noted_it(
    lava: Interpreter, reaped: Reaped, fault: Callable[..., None]
) -> None:
    # Its death is over when Lava enters it in its list, and Lava then waits for its first message for ever.
    slow_start = """
from lava.magma.runtime.message_infrastructure.multiprocessing import SystemProcess
stock_start = SystemProcess.start
SystemProcess.start = lambda self: (stock_start(self), time.sleep(0.3))
"""
    fault(build_fault="os._exit(6)", more=slow_start)
    with pytest.raises(ToolError, match="a process of the Lava run died, exit code 6"):
        backend.run(chain(1), SAMPLES, deadline_s=20)
    reaped.assert_nothing_left()


def test_the_message_carries_the_traceback_of_the_process_model(
    lava: Interpreter, reaped: Reaped, fault: Callable[..., None]
) -> None:
    fault("raise ZeroDivisionError('at step five')")
    with pytest.raises(ToolError, match="at_step_5"):
        backend.run(chain(1), SAMPLES)


def test_deadline(lava: Interpreter, reaped: Reaped, fault: Callable[..., None]) -> None:
    fault("time.sleep(600)")
    began = time.monotonic()
    with pytest.raises(ToolError, match="passed its deadline of 6 s") as caught:
        backend.run(chain(1), SAMPLES, deadline_s=6)
    assert caught.value.exit_code == 3
    assert "--deadline" in str(caught.value)
    assert time.monotonic() - began < 6 + child.GRACE_S + 2
    assert reaped.size > 4
    assert reaped.segments
    reaped.assert_nothing_left()


def stalling(once: Path | None) -> str:
    """Code that waits for ever; with a file only where that is not there yet, and makes it."""
    wait = "time.sleep(10**6)"
    return wait if once is None else f"os.path.exists({str(once)!r}) or (open({str(once)!r}, 'w').close(), {wait})"


def test_a_run_that_stalls_is_made_once_more_and_says_so(
    lava: Interpreter, reaped: Reaped, fault: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "STALL_S", 6.0)
    fault(stalling(tmp_path / "stalled"))
    trace = backend.run(chain(2), SAMPLES)
    reaped.assert_nothing_left()
    wanted = reference.run(chain(2), SAMPLES)
    assert all(np.array_equal(trace.spikes[name], spikes) for name, spikes in wanted.spikes.items())
    (note,) = trace.notes
    assert (note.code, note.count) == ("LAV001", 1)
    assert "at_step_5" in note.effect


def test_a_second_stall_is_an_error(
    lava: Interpreter, reaped: Reaped, fault: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "STALL_S", 6.0)
    fault(stalling(None))
    with pytest.raises(ToolError, match="Lava did nothing for 6 s and was ended") as caught:
        backend.run(chain(2), SAMPLES)
    reaped.assert_nothing_left()
    assert "at_step_5" in str(caught.value)


def test_processes_that_ignore_the_first_signal(
    lava: Interpreter, reaped: Reaped, fault: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "GRACE_S", 1.0)
    fault("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)")
    with pytest.raises(ToolError, match="deadline"):
        backend.run(chain(1), SAMPLES, deadline_s=6)
    assert reaped.segments
    reaped.assert_nothing_left()


def test_worker_killed(lava: Interpreter, reaped: Reaped, fault: Callable[..., None]) -> None:
    fault(more="worker.Run.advance = lambda self, steps: os.kill(os.getpid(), 9)")
    with pytest.raises(ToolError, match="the Lava worker ended by signal SIGKILL") as caught:
        backend.run(chain(2), SAMPLES)
    assert caught.value.exit_code == 3
    reaped.assert_nothing_left()


def test_whole_group_killed_with_the_tracker(lava: Interpreter, reaped: Reaped, fault: Callable[..., None]) -> None:
    # Nobody is left to unlink the shared memory but us; it is known because it was looked at before.
    fault(more="worker.Run.advance = lambda self, steps: (time.sleep(2.5), os.killpg(0, 9))")
    with pytest.raises(ToolError, match="SIGKILL"):
        backend.run(chain(2), SAMPLES)
    assert reaped.segments
    reaped.assert_nothing_left()


def test_worker_that_cannot_import_says_why(
    lava: Interpreter, reaped: Reaped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "broken.py"
    script.write_text("import no_such_module_at_all\n")
    monkeypatch.setattr(backend, "WORKER", script)
    with pytest.raises(ToolError, match="exit status 1") as caught:
        backend.run(chain(1), SAMPLES)
    assert "no_such_module_at_all" in str(caught.value)


def test_too_many_open_files_are_refused_before_lava_starts(
    lava: Interpreter, reaped: Reaped, fault: Callable[..., None]
) -> None:
    fault(more="worker.resource.setrlimit(worker.resource.RLIMIT_NOFILE, (210, 210))")
    with pytest.raises(ToolError, match=r"Lava needs about [0-9]+ open files for this network, .* is 210"):
        backend.run(chain(2), SAMPLES)


PARENT = """
import signal, subprocess, sys
# As in a terminal; what runs in the background of a shell inherits that SIGINT is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
import numpy as np
sys.path[:0] = [{root!r}, {tests!r}]
from pathlib import Path
from lava_networks import chain
from faulty_worker import Reaped
from toolchain.backends import child, lava
lava.WORKER = Path({worker!r})
start = subprocess.Popen.__init__
def note(self, *arguments, **options):
    start(self, *arguments, **options)
    if options.get("start_new_session"):
        print(self.pid, flush=True)
subprocess.Popen.__init__ = note
lava.run(chain(2), np.full((4, 4), 200), deadline_s=500)
"""


def start_parent(tmp_path: Path) -> tuple[subprocess.Popen[str], int, set[str]]:
    """A Python that runs a network which never ends; its worker's group, once it runs, and the shared memory."""
    code = PARENT.format(root=str(ROOT), tests=str(ROOT / "tests" / "backends"), worker=str(backend.WORKER))
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert parent.stdout is not None
    leader = int(parent.stdout.readline())
    end = time.monotonic() + 60
    while not list(tmp_path.glob("snnc-lava-*/progress")):
        assert time.monotonic() < end, "the worker never began to run"
        assert parent.poll() is None, parent.communicate()
        time.sleep(0.05)
    members = child.group(leader)
    assert len(members) > 4
    segments = set().union(*(child.shared_memory(pid) for pid in members))
    assert segments
    return parent, leader, segments


def wait_until_gone(leader: int, segments: set[str], seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and (child.group(leader) or any(map(os.path.exists, segments))):
        time.sleep(0.05)
    left = child.group(leader), [segment for segment in segments if os.path.exists(segment)]
    if left[0]:
        os.killpg(leader, signal.SIGTERM)  # a failed test must not leave them either
    assert left == ([], [])


def test_ctrl_c_in_the_parent(lava: Interpreter, fault: Callable[..., None], tmp_path: Path) -> None:
    fault("time.sleep(600)")
    parent, leader, segments = start_parent(tmp_path)
    parent.send_signal(signal.SIGINT)
    _, stderr = parent.communicate(timeout=90)
    assert "KeyboardInterrupt" in stderr
    wait_until_gone(leader, segments, 0.2)
    assert not list(tmp_path.glob("snnc-lava-*")), "the scratch folder is gone too"


def test_parent_killed_leaves_no_orphan(lava: Interpreter, fault: Callable[..., None], tmp_path: Path) -> None:
    fault("time.sleep(600)")
    parent, leader, segments = start_parent(tmp_path)
    parent.kill()
    parent.communicate(timeout=90)
    wait_until_gone(leader, segments, 15)

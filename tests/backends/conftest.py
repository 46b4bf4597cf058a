"""Shared by the tests of the back ends."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from faulty_worker import FAULTY_WORKER, Reaped

from toolchain.backends import child
from toolchain.backends import lava as backend


@pytest.fixture
def reaped(monkeypatch: pytest.MonkeyPatch) -> Reaped:
    seen = Reaped()
    stock = child.reap

    def reap(process: subprocess.Popen[bytes], segments: set[str]) -> None:
        members = child.group(process.pid)
        seen.leader, seen.size = process.pid, len(members)
        seen.segments = frozenset(segments.union(*(child.shared_memory(pid) for pid in members)))
        stock(process, segments)

    monkeypatch.setattr(child, "reap", reap)
    return seen


@pytest.fixture
def fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def put(fault: str = "pass", *, build_fault: str = "pass", more: str = "") -> None:
        script = tmp_path / "faulty_worker.py"
        folder = str(backend.WORKER.parent)
        script.write_text(FAULTY_WORKER.format(folder=folder, fault=fault, build_fault=build_fault, more=more))
        monkeypatch.setattr(backend, "WORKER", script)

    return put

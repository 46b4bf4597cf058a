"""Work on several threads gives what one thread gives."""

from __future__ import annotations

import threading

import pytest

from toolchain import parallel


@pytest.mark.parametrize("work", [0, parallel.WORTHWHILE])
@pytest.mark.parametrize("cores", [1, 3])
def test_results_come_in_order(work: int, cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "cores", lambda: cores)
    assert parallel.in_order(lambda x: x * x, range(20), work) == [x * x for x in range(20)]
    assert parallel.in_order(lambda x: x, [], work) == []


def test_much_work_is_done_on_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "cores", lambda: 2)
    meeting = threading.Barrier(2, timeout=20)  # passed only when two threads are there at a time
    assert sorted(parallel.in_order(lambda _: meeting.wait(), range(2), parallel.WORTHWHILE)) == [0, 1]


@pytest.mark.parametrize("work", [0, parallel.WORTHWHILE])
def test_the_first_failure_is_raised(work: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "cores", lambda: 2)
    with pytest.raises(ZeroDivisionError):
        parallel.in_order(lambda x: 1 // x, [2, 0, 1], work)


def test_this_machine_has_a_core() -> None:
    assert parallel.cores() >= 1

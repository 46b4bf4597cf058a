"""Work shared out to threads: all of it, once, and what goes wrong in a part is heard of."""

import threading

import pytest
import torch

from toolchain.training import threads


@pytest.fixture(params=["torch's", "our own"], autouse=True)
def team(request, monkeypatch):
    if request.param == "our own":
        monkeypatch.setattr(threads, "torchs_team", lambda: None)
    elif threads.torchs_team() is None:
        pytest.skip("torch brings no OpenMP library along that others can use")
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_every_number_is_in_one_part(size):
    parts = []
    threads.split(lambda first, last: parts.append((first, last)), size, threads.PARALLEL_FROM)
    assert len(parts) == 3
    assert sorted(n for first, last in parts for n in range(first, last)) == list(range(size))


def test_little_work_is_done_here():
    seen = []
    threads.split(lambda first, last: seen.append((first, last, threading.get_ident())), 7, threads.PARALLEL_FROM - 1)
    assert seen == [(0, 7, threading.get_ident())]


def test_parts_are_computed_at_the_same_time():
    together = threading.Barrier(3)
    threads.split(lambda first, last: together.wait(timeout=20) and None, threads.PARALLEL_FROM)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("part", [0, 2])
def test_what_a_part_raises_is_raised(error, part):
    size = threads.PARALLEL_FROM

    def kernel(first, last):
        if first == size * part // 3:
            raise error("of a part")

    with pytest.raises(error, match="of a part"):
        threads.split(kernel, size)

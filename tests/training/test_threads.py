"""Work shared out to threads: all of it, once, by torch's threads or our own."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from toolchain.training import threads
from toolchain.training.kernels import compiled


@compiled
def note(done, begun, scale, first, last):
    """Add scale to every number of a part, and 1 where the part begins."""
    begun[first] += 1
    for i in range(first, last):
        done[i] += scale


@pytest.fixture(params=["torch's", "our own"])
def team(request, monkeypatch):
    if request.param == "our own":
        monkeypatch.setattr(threads, "torchs_team", lambda: None)
    elif threads.torchs_team() is None:
        pytest.skip("torch brings no OpenMP library along that others can use")


@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("size", [8, 9, 1000])
def test_every_number_is_in_one_part(team, count, size):
    torch.set_num_threads(count)
    done, begun = np.zeros(size, np.float32), np.zeros(size, np.int64)
    threads.split(note, (done, begun, np.float32(3)), size, threads.PARALLEL_FROM)
    assert (done == 3).all()
    assert np.flatnonzero(begun).tolist() == [size * part // count for part in range(count)]
    assert begun.sum() == count


def test_little_work_is_one_part(team):
    torch.set_num_threads(3)
    done, begun = np.zeros(9, np.float32), np.zeros(9, np.int64)
    threads.split(note, (done, begun, np.float32(1)), 9, threads.PARALLEL_FROM - 1)
    assert (done == 1).all()
    assert begun.sum() == 1


def test_a_torch_without_such_a_library_has_no_team(monkeypatch, tmp_path):
    threads.torchs_team.cache_clear()
    (tmp_path / "_C.so").write_bytes(b"not a library")
    monkeypatch.setattr(threads.torch._C, "__file__", str(tmp_path / "_C.so"))
    assert threads.torchs_team() is None
    threads.torchs_team.cache_clear()


KEPT = """
import torch
from toolchain.training import neurons
torch.set_num_threads(2)
current = torch.ones(2, 100_000, requires_grad=True)
neurons.run(current, 2, neurons.Neuron(0.5, 1.0, 1.0, False)).sum().backward()
"""


def test_what_is_compiled_is_found_again_by_the_next_process(tmp_path):
    """numba gives closures over compiled functions a new name in each process, and compiles them again."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    found = []
    for _ in range(2):
        subprocess.run([sys.executable, "-c", KEPT], env=environment, check=True)
        found.append({path.name for path in tmp_path.rglob("*.nbc")})
    assert found[0] == found[1]
    kinds = 4 if threads.torchs_team() is not None else 2
    assert len(found[0]) == kinds

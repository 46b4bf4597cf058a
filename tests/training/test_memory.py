"""The C library keeps what is freed: an array made again costs no new pages."""

import resource
import subprocess
import sys

import pytest

from toolchain.training import memory

FAULTS = """
import resource, sys
import torch
from toolchain.training import memory
if sys.argv[1] == "reuse" and not memory.reuse_freed():
    sys.exit(3)
# The heap has found its size after ten or so.
for _ in range(20):
    torch.ones(2_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    torch.ones(2_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how):
    done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True)
    if done.returncode == 3:
        pytest.skip("the C library is not glibc")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_an_array_made_again_takes_no_new_pages():
    pages = 50 * 8_000_000 // resource.getpagesize()
    assert faults("reuse") < pages / 10


def test_a_c_library_without_mallopt_is_left_alone(monkeypatch):
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    assert memory.reuse_freed() is False

"""Keeping freed memory is a matter of speed alone."""

import ctypes

import torch

from toolchain.training import memory


def test_it_ends_with_the_block_and_does_nothing_without_glibc(monkeypatch):
    called = []

    class Library:
        def mallopt(self, parameter, value):
            called.append((parameter, value))

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library())
    with memory.kept():
        assert dict(called) == memory.KEPT
    assert dict(called) == memory.DEFAULTS
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    with memory.kept():
        assert torch.ones(3).sum() == 3

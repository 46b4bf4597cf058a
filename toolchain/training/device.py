"""Where training computes. Everything is written for the processor; on another device new tensors lie there."""

from __future__ import annotations

import contextlib
import os

import torch

from toolchain.errors import SnncError, nearest

DEVICES = ("auto", "cpu", "cuda")


def resolve(asked: str) -> torch.device:
    """`auto` is a GPU where torch has one, else the processor. Of several processes each takes a GPU of its own.

    Raises:
        SnncError: unknown, or no such device here.
    """
    if asked not in DEVICES:
        raise SnncError(f"unknown device {asked!r}", where="--device", allowed=nearest(asked, DEVICES))
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if asked == "cpu" or (asked == "auto" and not there):
        return torch.device("cpu")
    number = int(os.environ.get("LOCAL_RANK", "0"))
    if number >= there:
        raise SnncError(
            "torch finds too few GPUs" if there else "torch finds no GPU",
            where="--device",
            got=f"process {number} of this machine, {there} GPUs",
            remedy="train with --device cpu, start fewer processes, or install a torch for this machine's GPU",
        )
    return torch.device("cuda", number)


def default(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """New tensors are made on the device."""
    return contextlib.nullcontext() if device.type == "cpu" else device

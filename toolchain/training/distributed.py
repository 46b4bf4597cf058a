"""Several processes that train one network: each computes its part of every batch, all do the same step.

torchrun starts them and tells each in its environment which one it is. Everything that is drawn is drawn for the whole
batch, sums over samples are summed over the processes, and the rest is computed alike by each. torch's own wrapper for
this takes the mean over processes, whatever their parts, and keeps each one's batch statistics; so this is ours.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as processes
from torch import Tensor

from toolchain.errors import SnncError

TIMEOUT = timedelta(minutes=10)
"""After so long without an answer from the others a process gives up."""


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Together with the processes that were started with this one, where there are any; gloo, on a GPU NCCL.

    Raises:
        SnncError: another one ended or did not answer in time, here or in any function below.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    _answered(processes.init_process_group, backend, timeout=TIMEOUT)
    try:
        yield
        # One that ends while the others still talk would take its end of their connections along.
        _answered(processes.barrier)
    finally:
        processes.destroy_process_group()


def _answered(call: Callable[..., Any], *args: Any, **options: Any) -> None:
    try:
        call(*args, **options)
    except RuntimeError as error:
        raise SnncError(
            "another process of this run has ended, or did not answer",
            where=f"process {os.environ.get('RANK')} of {os.environ.get('WORLD_SIZE')}",
            got=str(error).splitlines()[0],
            remedy="see what the others said; the same command with --resume continues from the last checkpoint",
        ) from error


def leave(code: int) -> None:
    """End this process now if it is one of several that torchrun started; else do nothing.

    gloo leaves threads behind that the orderly end of a process trips over now and then, all work done ("terminate
    called without an active exception"): with torch 2.13 about one of 50 processes on a busy machine.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def size() -> int:
    return processes.get_world_size() if processes.is_initialized() else 1


def rank() -> int:
    return processes.get_rank() if processes.is_initialized() else 0


def part(count: int) -> slice:
    """This process's share of so many samples."""
    return slice(count * rank() // size(), count * (rank() + 1) // size())


def total(x: Tensor) -> Tensor:
    """The sum over all processes, in place; the same bits in each."""
    if size() > 1:
        _answered(processes.all_reduce, x)
    return x


def anyone(wish: bool) -> bool:
    """Whether any process wishes it."""
    return bool(total(torch.tensor(float(wish)))) if size() > 1 else wish


def total_gradients(parameters: Iterable[Tensor], loss: float) -> float:
    """Sum the gradients over all processes, in place, in one message with the loss, whose sum is returned."""
    if size() == 1:
        return loss
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = total(torch.cat([gradients[0].new_tensor([loss]), *(g.flatten() for g in gradients)]))
    summed, *parts = flat.split([1, *(g.numel() for g in gradients)])
    for gradient, part_ in zip(gradients, parts, strict=True):
        gradient.copy_(part_.view_as(gradient))
    return float(summed)


def check_alike(tensors: Iterable[Tensor]) -> None:
    """Processes that do not hold the same numbers train different networks.

    Raises:
        SnncError: they do not.
    """
    if size() == 1:
        return
    mine = torch.stack([x.detach().double().sum() for x in tensors])
    mean = total(mine.clone()) / size()
    # Sums of equal numbers, and their mean, may differ in the last place.
    apart = total(((mine - mean).abs() > 1e-12 * mean.abs()).double())
    if bool(apart.any()):
        raise SnncError(
            "the processes no longer hold the same weights",
            where=f"parameters {apart.nonzero().flatten().tolist()}",
            remedy="use the same torch, the same files and the same kind of processor or GPU for all of them",
        )


class _Sum(torch.autograd.Function):
    """`total`, differentiable; the loss is the sum of all processes' losses."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return total(x.clone())

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        return total(upstream.clone())


def batch_norm(
    x: Tensor, mean: Tensor, var: Tensor, scale: Tensor, shift: Tensor, *, momentum: float, eps: float
) -> Tensor:
    """torch's batch norm in training over the last axis of x (..., C), with the statistics of all processes' samples.

    mean, var: running statistics (C), which follow.
    """
    axes = tuple(range(x.ndim - 1))
    wide = x.float()
    count = wide.new_tensor([wide[..., 0].numel()])
    sums = _Sum.apply(torch.cat([wide.sum(axes), count]))
    centre, count = sums[:-1] / sums[-1], sums[-1].detach()
    apart = wide - centre
    spread = _Sum.apply(apart.square().sum(axes)) / count
    with torch.no_grad():
        mean.lerp_(centre, momentum)
        var.lerp_(spread * (count / (count - 1)), momentum)
    return (apart * (torch.rsqrt(spread + eps) * scale) + shift).to(x.dtype)

"""Training in processes of its own, that can be killed. They are copies of one that has imported everything."""

import multiprocessing
import os
import socket

import torch

from toolchain.training.loop import train
from toolchain.training.progress import Silent

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["sklearn.datasets", "torch._dynamo", "toolchain.training.loop"])


class Begun(Silent):
    """Says once that training is under way."""

    def __init__(self, sender):
        self.sender = sender

    def update(self, status, *, epoch_ended):
        if self.sender is not None:
            self.sender.send(True)
        self.sender = None


def _train(recipe, folder, options, environment, sender):
    os.environ.update(environment)
    torch.set_num_threads(1)
    train(recipe, out_dir=folder, reporter=Begun(sender), device="cpu", **options)


def start(recipe, folder, *, environment=None, sender=None, **options):
    """A process that trains; the options are those of `train`."""
    process = CONTEXT.Process(target=_train, args=(recipe, folder, options, environment or {}, sender))
    process.start()
    return process


def start_and_wait(recipe, folder, **options):
    """A process that is training, steps and all.

    Raises:
        EOFError: it ended before it took a step.
    """
    begun, sender = CONTEXT.Pipe(duplex=False)
    process = start(recipe, folder, sender=sender, **options)
    sender.close()
    begun.recv()
    begun.close()
    return process


def start_together(recipe, folder, size, **options):
    """Several processes that train one network, as torchrun would start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size)}
    return [
        start(recipe, folder, environment={**where, "RANK": str(rank), "LOCAL_RANK": str(rank)}, **options)
        for rank in range(size)
    ]

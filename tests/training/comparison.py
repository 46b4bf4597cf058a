"""What two runs are compared by, and what stops one of them."""

import json

import torch

from toolchain.training.progress import Silent

TIMES = ("seconds", "data_seconds", "data_share")


def plain(value):
    """Tensors as nested lists with their type, so that == compares every bit's value."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), value.tolist()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if key not in TIMES}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def content(folder):
    """A run's model and metrics, without the time they took."""
    model = plain(torch.load(folder / "model.pt", weights_only=True))
    lines = [plain(json.loads(line)) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {**model, "lines": lines}


class StopAt(Silent):
    """Asks for a stop after so many steps, as a signal does."""

    def __init__(self, stopped, step):
        self.stopped, self.step = stopped, step

    def update(self, status, *, epoch_ended):
        if status.step >= self.step:
            self.stopped.set()

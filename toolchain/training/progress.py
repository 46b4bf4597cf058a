"""Progress of a training run: a bar with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@dataclass(frozen=True)
class Status:
    """What is shown. step counts finished steps; accuracy is None until the first measurement."""

    step: int
    total: int
    epoch: int
    epochs: int
    loss: float
    accuracy: float | None
    connectivity: float

    def words(self) -> str:
        accuracy = "" if self.accuracy is None else f"  accuracy {self.accuracy:.2%}"
        return f"epoch {self.epoch}/{self.epochs}  loss {self.loss:.4f}{accuracy}  connectivity {self.connectivity:.2%}"


class Reporter(Protocol):
    """Receives the course of a run."""

    def update(self, status: Status, *, epoch_ended: bool) -> None: ...

    def close(self) -> None: ...


class Silent:
    """Says nothing."""

    def update(self, status: Status, *, epoch_ended: bool) -> None:
        pass

    def close(self) -> None:
        pass


class Lines:
    """One line each epoch, at most one a second (the last epoch always)."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._began = time.monotonic()
        self._first: int | None = None
        self._last = -1.0

    def update(self, status: Status, *, epoch_ended: bool) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first, self._began = status.step, now
        over = status.step == status.total
        if not epoch_ended or (not over and now - self._last < 1.0):
            return
        self._last = now
        done = max(status.step - self._first, 1)
        left = (now - self._began) / done * (status.total - status.step)
        print(f"{status.words()}  {left:.0f} s left", file=self._stream, flush=True)

    def close(self) -> None:
        pass


class Bar:
    """A bar of rich's with the time left."""

    def __init__(self, stream: TextIO) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(file=stream),
        )
        self._task = self._progress.add_task("training", total=None)
        self._progress.start()

    def update(self, status: Status, *, epoch_ended: bool) -> None:
        self._progress.update(self._task, total=status.total, completed=status.step, description=status.words())

    def close(self) -> None:
        self._progress.stop()


def automatic(stream: TextIO | None = None) -> Reporter:
    """A bar where the stream (standard error) is a terminal, else lines."""
    stream = sys.stderr if stream is None else stream
    return Bar(stream) if stream.isatty() else Lines(stream)

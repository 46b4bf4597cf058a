"""The figures of each epoch for TensorBoard, on request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toolchain.errors import SnncError


class Board:
    """Writes the numbers of records; those of layers under the name of their key."""

    def __init__(self, folder: Path, step: int) -> None:
        """step: what an earlier part of the run wrote of later steps is left out.

        Raises:
            SnncError: the package is missing.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError as error:
            raise SnncError(
                "tensorboard is not installed",
                where="--tensorboard",
                got=str(error),
                remedy="pip install 'snnc[tensorboard]', or train without --tensorboard",
            ) from error
        self._writer = SummaryWriter(str(folder), purge_step=step + 1)

    def write(self, record: dict[str, Any], step: int) -> None:
        for key, value in record.items():
            parts = value if isinstance(value, dict) else {None: value}
            for name, number in parts.items():
                self._writer.add_scalar(key if name is None else f"{key}/{name}", float(number), step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()

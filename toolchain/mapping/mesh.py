"""Where cores stand: tiles of a chip in rows and columns, chips beside each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Mesh:
    """A chip of `rows` x `columns` tiles with so many cores each. chips_per_row: of the board; None: all in one row.

    Cores are numbered tile by tile and row by row, chip after chip. A message goes straight along a row and straight
    along a column; from chip to chip the meshes continue each other. Numbering and links between chips are assumptions.
    """

    columns: int
    rows: int
    cores_per_tile: int
    chips_per_row: int | None = None

    def place(self, chips: NDArray[np.int64], cores: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Row and column of the tile of each core, over all chips. cores: numbers within their chip."""
        tile = cores // self.cores_per_tile
        down, right = (chips * 0, chips) if self.chips_per_row is None else np.divmod(chips, self.chips_per_row)
        return down * self.rows + tile // self.columns, right * self.columns + tile % self.columns

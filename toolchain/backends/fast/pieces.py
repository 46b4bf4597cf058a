"""How the taps of a kernel are cut for tables (tables.py): apart from that, as it needs no compiled code."""

from __future__ import annotations

from dataclasses import dataclass

LINE = 64
"""Bytes of a cache line."""
MOST_BITS = 9
"""Of a piece: two bytes hold them wherever they begin."""
TABLE_BYTES = 1 << 21
"""Tables that are larger than a core's second cache would be waited for."""


@dataclass(frozen=True)
class Pieces:
    """A kernel row's taps (columns times source channels, side by side) in pieces of `bits` or one less.

    of_row: pieces of a kernel row.  many: of all rows.  row_items: output channels, up to whole cache lines.
    """

    bits: int
    of_row: int
    many: int
    row_items: int

    @classmethod
    def of(cls, taps: int, rows: int, outputs: int, item: int) -> Pieces:
        """The widest whose tables fit; the narrowest where none do.  item: bytes of a sum."""
        row_items = -(-outputs * item // LINE) * LINE // item
        for most in range(MOST_BITS, 1, -1):
            of_row = max(1, -(-taps // most))
            bits = -(-taps // of_row)
            size = rows * of_row * row_items * item << bits
            if size <= TABLE_BYTES:
                break
        return cls(bits, of_row, rows * of_row, row_items)

    @property
    def entries(self) -> int:
        """Of all tables."""
        return self.many * self.row_items << self.bits

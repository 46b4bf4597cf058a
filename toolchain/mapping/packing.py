"""Slices onto the cores of chips: first fit, near linear in the slices, as the cores of one chip alone are searched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from toolchain.mapping.slices import Limits, Slice
from toolchain.mapping.usage import Usage

Refit = Callable[[Slice, Usage], "Slice | None"]
"""A slice written in the formats of a core that holds so much already; None where that cannot be."""

REFITS = 3
"""Cores on which a slice is tried in other formats than its own, which is dear, before it gets a core of its own."""

REPACKS = 2
"""How often a full chip is packed anew, largest slices first, before the next chip is begun."""


@dataclass(frozen=True, eq=False)
class Packer:
    """How slices are packed. crossing: of every slice the output axons to other chips.

    parts: used part of every limit on amounts that add up, (slices, limits).
    """

    slices: Sequence[Slice]
    crossing: NDArray[np.int64]
    limits: Limits
    capacity: int
    share: bool
    refit: Refit
    base: NDArray[np.float64]

    @classmethod
    def of(cls, slices: Sequence[Slice], limits: Limits, capacity: int, share: bool, refit: Refit) -> Packer:
        """Where no axon crosses chips."""
        known: dict[Usage, NDArray[np.float64]] = {}
        rows = []
        for s in slices:
            if s.usage not in known:
                known[s.usage] = _shares(s.usage, limits)
            rows.append(known[s.usage])
        return cls(slices, np.zeros(len(slices), np.int64), limits, capacity, share, refit, np.array(rows))

    @cached_property
    def slope(self) -> NDArray[np.float64]:
        """What one more axon to another chip adds to the used part of every limit."""
        return _shares(Usage(output_axons=1, crossing_axons=1), self.limits) - _shares(Usage(), self.limits)

    @cached_property
    def parts(self) -> NDArray[np.float64]:
        return self.base + self.crossing[:, None] * self.slope

    @cached_property
    def size(self) -> NDArray[np.float64]:
        """The most used limit of every slice."""
        return self.parts.max(axis=1, initial=0.0)

    def usage(self, k: int, s: Slice) -> Usage:
        """What slice k, or another writing of it, takes with its axons to other chips."""
        n, usage = int(self.crossing[k]), s.usage
        return usage.sending(usage.output_axons + n, usage.crossing_axons + n) if n else usage

    def fill(self, order: Iterable[int], capacity: int) -> list[Chip]:
        """Chip after chip in the given order, so many cores each."""
        chips: list[Chip] = []
        chip, repacks = Chip(self, capacity), 0
        for k in order:
            if chip.add(k):
                continue
            members = [*chip.members(), k]
            again = None
            if self.share and repacks < REPACKS and np.count_nonzero(self.size[members] > 0.5) <= capacity:
                again, repacks = self.first_fit(members, capacity), repacks + 1
            if again is None or len(again.cores) > capacity:
                chips.append(chip)
                chip, repacks = Chip(self, capacity), 0
                chip.add(k)
            else:
                again.capacity = capacity
                chip = again
        return [*chips, chip]

    def first_fit(self, members: Iterable[int], stop: int | None = None) -> Chip:
        """Largest first onto as many cores as it takes, or onto one more than `stop`."""
        chip = Chip(self, len(self.slices) if stop is None else stop + 1)
        for k in sorted(members, key=lambda k: (-float(self.size[k]), k)):
            chip.add(k)
            if stop is not None and len(chip.cores) > stop:
                break
        return chip


class Chip:
    """Cores of one chip that are being filled with slices, which go by number."""

    def __init__(self, packer: Packer, capacity: int) -> None:
        self.packer = packer
        self.capacity = capacity
        self.cores: list[dict[int, Slice]] = []
        self.totals: list[Usage] = []
        self.room = np.zeros((16, packer.base.shape[1]))

    def members(self) -> list[int]:
        """The slices of all cores."""
        return [k for core in self.cores for k in core]

    def add(self, k: int) -> bool:
        """The slice on the first core that has room for it, or on a new one; False where there is neither."""
        packer, n = self.packer, len(self.cores)
        if packer.share and n:
            tries = 0
            for core in np.flatnonzero((self.room[:n] >= packer.parts[k] - 1e-9).all(axis=1)).tolist():
                fitted, dear = self._beside(k, self.totals[core], tries < REFITS)
                tries += dear
                if fitted is not None:
                    self.cores[core][k] = fitted
                    self.totals[core] += packer.usage(k, fitted)
                    self.room[core] = 1.0 - _shares(self.totals[core], packer.limits)
                    return True
        if n >= self.capacity:
            return False
        if n >= len(self.room):
            self.room = np.concatenate([self.room, np.zeros_like(self.room)])
        self.cores.append({k: packer.slices[k]})
        self.totals.append(packer.usage(k, packer.slices[k]))
        self.room[n] = 1.0 - packer.parts[k]
        return True

    def _beside(self, k: int, total: Usage, may_refit: bool) -> tuple[Slice | None, bool]:
        """The slice as it would stand beside what a core holds, None where it does not fit; and whether that was dear.

        Where the two together want too many format registers, the slice is written in those that the core has.
        """
        packer = self.packer
        whole, limits = packer.slices[k], packer.limits
        usage = packer.usage(k, whole)
        if not any(limit.broken for limit in limits(total + usage)):
            return whole, False
        plain = replace(total + usage, formats=frozenset())
        if not may_refit or any(limit.broken for limit in limits(plain)):
            return None, False
        made = packer.refit(whole, total)
        if made is None or any(limit.broken for limit in limits(total + packer.usage(k, made))):
            return None, True
        return made, True


def _shares(usage: Usage, limits: Limits) -> NDArray[np.float64]:
    """The used part of every limit on an amount that adds up when slices share a core."""
    bare = replace(
        usage,
        formats=frozenset(),
        compartment_configs=frozenset(),
        threshold_configs=frozenset(),
        largest_list_words=0,
        delay_bits=0,
        destination_groups=0,
    )
    return np.array([limit.share for limit in limits(bare)])

"""Random numbers by what they are for and when: no generator's state has to be kept, and a resumed run draws alike.

They are drawn on the processor and then moved, so that every device computes with the same ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ORDER, AUGMENT, DROPOUT, REWIRING, SLOPE = 1, 2, 3, 4, 5
"""Purposes of random numbers."""


def generator(seed: int, purpose: int, number: int) -> torch.Generator:
    """Fresh, seeded by the recipe's seed, a purpose and the number of the step or epoch."""
    return torch.Generator("cpu").manual_seed((seed << 40) ^ (purpose << 36) ^ number)


def rand_like(x: Tensor, random: torch.Generator) -> Tensor:
    """Uniform in 0..1, float32, of a tensor's shape and on its device."""
    return torch.rand(x.shape, generator=random, device="cpu").to(x.device)


@dataclass(frozen=True)
class Draws:
    """Random numbers for the samples of a batch, of which another process may compute a part.

    Numbers are drawn for the whole batch, so however it is divided a sample gets the same ones.
    before, after: samples of the batch that other processes have.
    """

    generator: torch.Generator
    before: int = 0
    after: int = 0

    def uniform(self, count: int, *shape: int) -> Tensor:
        """In 0..1, (count, ...), on the processor."""
        return self._own(torch.rand(self._whole(count), *shape, generator=self.generator, device="cpu"), count)

    def integers(self, limit: int, pairs: int, count: int) -> Tensor:
        """In 0..limit - 1, (pairs, count), on the processor."""
        shape = (pairs, self._whole(count))
        drawn = torch.randint(limit, shape, generator=self.generator, device="cpu")
        return self._own(drawn.t(), count).t()

    def _whole(self, count: int) -> int:
        return self.before + count + self.after

    def _own(self, drawn: Tensor, count: int) -> Tensor:
        return drawn[self.before : self.before + count]

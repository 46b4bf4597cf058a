"""Random numbers by what they are for and when: no generator's state has to be kept, and a resumed run draws alike."""

from __future__ import annotations

import torch

ORDER, AUGMENT, DROPOUT, REWIRING, SLOPE = 1, 2, 3, 4, 5
"""Purposes of random numbers."""


def generator(seed: int, purpose: int, number: int) -> torch.Generator:
    """Fresh, seeded by the recipe's seed, a purpose and the number of the step or epoch."""
    return torch.Generator().manual_seed((seed << 40) ^ (purpose << 36) ^ number)

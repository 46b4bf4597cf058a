"""Weights before the first step, by torch's own initialisations."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from toolchain.training.recipe import Network

RULES: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "kaiming": lambda weight, random: nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=random),
    "xavier": lambda weight, random: nn.init.xavier_uniform_(weight, generator=random),
    "orthogonal": lambda weight, random: nn.init.orthogonal_(weight, generator=random),
}
"""kaiming: normal, variance 2 / inputs (He et al. 2015).  xavier: uniform, variance 2 / (inputs + outputs) (Glorot and
Bengio 2010).  orthogonal: rows or columns of length 1 at right angles (Saxe et al. 2014)."""


@torch.no_grad()
def initialise(weights: Iterable[nn.Parameter], options: Network, random: torch.Generator) -> None:
    """Replace weights that are uniform within 1 / sqrt(inputs) by those that the recipe asks for, times its gain."""
    for weight in weights:
        if options.init != "uniform":
            RULES[options.init](weight, random)
        if options.gain != 1.0:
            weight.mul_(options.gain)

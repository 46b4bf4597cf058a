"""The surrogate's slope with which gradients neither grow nor shrink from the last hidden layer to the first.

A narrow surrogate lets few neurons pass a gradient on, so it fades with every layer; a wide one lets it grow. In
between, at the start of training, lies a slope that keeps its norm level, and deep networks train with it. Source:
Ledinauskas, Ruseckas, Juršėnas, Buračas: Training deep spiking neural networks, 2020 (arXiv 2006.04436), with batch
norm on the input currents. They derive the slope; here it is found by halving, with gradients that are measured.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from toolchain.errors import SnncError
from toolchain.training.data import Dataset
from toolchain.training.layers import Weights
from toolchain.training.modules import SpikingNetwork
from toolchain.training.recipe import Recipe
from toolchain.training.seeds import SLOPE, generator
from toolchain.training.surrogates import SURROGATES

SAMPLES = 256
"""Samples of the training set that the gradient is measured on, in one batch."""
SPAN = 64.0
"""Slopes from the surrogate's own / SPAN to its own * SPAN are looked at."""
HALVINGS = 14
"""Leaves an interval of 0.05 % of the slope; the result is rounded to three digits."""


class _Watched(SpikingNetwork):
    """Keeps what each layer's neurons send, with its gradient."""

    sent: list[Tensor]

    def _layer(self, layer: Weights, x: Tensor, dtype: torch.dtype) -> Tensor:
        spikes = super()._layer(layer, x, dtype)
        spikes.retain_grad()
        self.sent.append(spikes)
        return spikes


class Probe:
    """The network of a recipe before its first step, and a batch."""

    def __init__(self, recipe: Recipe, dataset: Dataset) -> None:
        random = generator(recipe.seed, SLOPE, 0)
        chosen = torch.randperm(len(dataset.train_x), generator=random)[:SAMPLES].numpy()
        self.x, self.y = torch.from_numpy(dataset.train_x[chosen]), torch.from_numpy(dataset.train_y[chosen])
        self.recipe = recipe
        self.network = _Watched(recipe, dataset.shape, dataset.classes)

    def norms(self, slope: float) -> list[float]:
        """The norm of the loss's gradient by the spikes of each hidden layer, all steps and samples, first layer first.

        The loss is the cross-entropy of the output's rates whatever the recipe's: every sample has a gradient.
        """
        network, recipe = self.network, self.recipe
        network.recipe = replace(recipe, network=replace(recipe.network, slope=slope))
        network.sent = []
        functional.cross_entropy(network.rates(network(self.x)), self.y).backward()
        return [0.0 if x.grad is None else float(x.grad.norm()) for x in network.sent[:-1]]

    def growth(self, slope: float) -> float:
        """By how much the norm's logarithm grows with each layer toward the first: 0 where it is level.

        The best line through all hidden layers; -inf where no gradient reaches the first.
        """
        norms = self.norms(slope)
        if not all(norm > 0 for norm in norms):
            return -math.inf
        return -float(np.polyfit(range(len(norms)), np.log(norms), 1)[0])


def choose(recipe: Recipe, dataset: Dataset) -> float:
    """The slope of the recipe's surrogate with which gradients are level over its hidden layers, to three digits.

    The same recipe gives the same slope.

    Raises:
        SnncError: there are less than two hidden layers, or none of the slopes makes the gradient level.
    """
    probe = Probe(recipe, dataset)
    where = "[network] slope"
    if len(probe.network.populations) < 3:
        raise SnncError(
            "a slope is chosen by comparing hidden layers",
            where=where,
            got="one hidden layer",
            allowed="two or more",
            remedy="leave the slope out, or give a number",
        )
    own = SURROGATES[recipe.network.surrogate].slope
    low, high = math.log(own / SPAN), math.log(own * SPAN)
    ends = probe.growth(math.exp(low)), probe.growth(math.exp(high))
    if not ends[0] > 0 > ends[1]:
        raise SnncError(
            "no slope keeps the gradient level over the layers",
            where=where,
            got=f"log norm a layer: {ends[0]:+.2f} at {own / SPAN:.3g}, {ends[1]:+.2f} at {own * SPAN:.3g}",
            allowed="growth with the smallest slope, decrease with the largest",
            remedy="give each hidden layer batch_norm = true, or a larger [network] gain, so that it spikes",
        )
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if probe.growth(math.exp(middle)) > 0:
            low = middle
        else:
            high = middle
    return float(f"{math.exp((low + high) / 2):.3g}")

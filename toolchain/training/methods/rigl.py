"""RigL: a fixed number of synapses, of which the smallest move to where the gradient is largest."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from toolchain.training.methods.base import Clock, MethodConfig
from toolchain.training.methods.masked import MaskedRun
from toolchain.training.settings import setting

if TYPE_CHECKING:
    from toolchain.training.modules import SpikingNetwork


@dataclass(frozen=True)
class RigL(MethodConfig):
    """Training starts with random synapses, more dense in small layers (`masks.erdos_renyi`). Every `interval` steps t,
    until step T_end, in each layer of n synapses

        k = n * fraction / 2 * (1 + cos(pi * t / T_end))

    synapses of the smallest weights go, and k come where, of all places that are not kept, the gradient is largest.
    Such a step moves no weights; at all others Adam does. Source: Evci et al. 2020 (arXiv 1911.11134), algorithm 1.

    connectivity: of all weights, from the first step to the last.  fraction: (alpha there) that moves at the start.
    interval: (Dt there) in steps.  freeze: fraction of training at the end in which the synapses stay where they are:
    T_end = (1 - freeze) of all steps.
    """

    name: ClassVar[str] = "rigl"

    connectivity: float = setting(0.1, above=0.0, high=1.0)
    fraction: float = setting(0.3, low=0.0, high=1.0)
    interval: int = setting(100, low=1)
    freeze: float = setting(0.25, low=0.0, high=1.0)

    def start(self, network: SpikingNetwork, *, total_steps: int, weight_decay: float) -> RigLRun:
        return RigLRun(self, network, total_steps, weight_decay)


class RigLRun(MaskedRun):
    """Adam on the synapses that there are."""

    def __init__(self, config: RigL, network: SpikingNetwork, total_steps: int, weight_decay: float) -> None:
        from toolchain.training.masks import thin_out
        from toolchain.training.seeds import REWIRING, generator

        self._config = config
        masks = thin_out(network.weights(), config.connectivity, generator(network.recipe.seed, REWIRING, 0))
        super().__init__(network, weight_decay, masks, total_steps - round(config.freeze * total_steps))

    def _due(self, step: int) -> bool:
        return not self.frozen and step > 0 and step % self._config.interval == 0

    def after_backward(self, clock: Clock) -> None:
        if self._due(clock.step):
            self._rewire(clock.step)
        else:
            super().after_backward(clock)

    def step(self, clock: Clock) -> None:
        if not self._due(clock.step):
            super().step(clock)

    def _rewire(self, step: int) -> None:
        from toolchain.training.masks import largest_of

        share = self._config.fraction / 2 * (1 + math.cos(math.pi * step / self._freeze_at))
        masks, starts = [], []
        for weight, mask in zip(self._network.weights(), self._masks, strict=True):
            there = int(mask.sum())
            moving = min(round(share * there), mask.numel() - there)
            sizes = weight.detach().abs().masked_fill(~mask, -1.0)
            (kept,) = largest_of([sizes], there - moving)
            assert weight.grad is not None
            wanted = weight.grad.abs().masked_fill(kept, -1.0)
            masks.append(kept | largest_of([wanted], moving)[0])
            # The first step of descent goes there.
            starts.append(-weight.grad)
        self.replace(masks, starts)

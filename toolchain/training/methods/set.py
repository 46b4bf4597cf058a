"""Sparse evolutionary training: a fixed number of synapses, of which weak ones move to random places."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from toolchain.training.methods.base import Clock, MethodConfig
from toolchain.training.methods.masked import MaskedRun
from toolchain.training.settings import setting

if TYPE_CHECKING:
    from toolchain.training.modules import SpikingNetwork


@dataclass(frozen=True)
class SparseEvolution(MethodConfig):
    """Training starts with random synapses, more dense in small layers (`masks.erdos_renyi`). Every `interval` steps
    the fraction zeta of the smallest positive weights of each layer goes, and of its negative weights nearest to 0,
    and as many synapses come at random places. Adam moves the weights. Source: Mocanu et al. 2018 (Nature
    Communications 9, 2383), algorithm 1.

    connectivity: of all weights, from the first step to the last.  zeta: as above.  interval: in steps; in the paper an
    epoch.  freeze: (ours) fraction of training at the end in which the synapses stay where they are, so that the last
    to come are trained too.
    """

    name: ClassVar[str] = "set"

    connectivity: float = setting(0.1, above=0.0, high=1.0)
    zeta: float = setting(0.3, low=0.0, high=1.0)
    interval: int = setting(100, low=1)
    freeze: float = setting(0.1, low=0.0, high=1.0)

    def start(self, network: SpikingNetwork, *, total_steps: int, weight_decay: float) -> EvolutionRun:
        return EvolutionRun(self, network, total_steps, weight_decay)


class EvolutionRun(MaskedRun):
    """Adam on the synapses that there are."""

    def __init__(self, config: SparseEvolution, network: SpikingNetwork, total_steps: int, weight_decay: float) -> None:
        from toolchain.training.masks import thin_out
        from toolchain.training.seeds import REWIRING, generator

        self._config = config
        masks = thin_out(network.weights(), config.connectivity, generator(network.recipe.seed, REWIRING, 0))
        super().__init__(network, weight_decay, masks, total_steps - round(config.freeze * total_steps))

    def before_step(self, clock: Clock) -> None:
        super().before_step(clock)
        if not self.frozen and clock.step > 0 and clock.step % self._config.interval == 0:
            self._rewire(clock.step)

    def _rewire(self, step: int) -> None:
        import torch

        from toolchain.training.masks import largest_of
        from toolchain.training.seeds import REWIRING, generator, rand_like

        random = generator(self._network.recipe.seed, REWIRING, step)
        masks, starts = [], []
        for weight, mask in zip(self._network.weights(), self._masks, strict=True):
            kept = torch.zeros_like(mask)
            for side in (weight.detach(), -weight.detach()):
                there = int((side > 0).sum())
                # Where there are none of this sign, all values are negative, and none is taken.
                kept |= largest_of([side], there - round(self._config.zeta * there))[0]
            places = rand_like(weight, random).masked_fill(kept, -1.0)
            masks.append(kept | largest_of([places], int(mask.sum()) - int(kept.sum()))[0])
            starts.append(rand_like(weight, random) - 0.5)
        self.replace(masks, starts)

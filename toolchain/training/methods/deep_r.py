"""Deep rewiring: a fixed number of synapses that shrink, tremble, die and come back at random places."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from toolchain.training.methods.base import Clock, MethodConfig
from toolchain.training.methods.rewiring import RewiringRun
from toolchain.training.settings import setting

if TYPE_CHECKING:
    from toolchain.training.modules import SpikingNetwork


@dataclass(frozen=True)
class DeepRewiring(MethodConfig):
    """Deep R; the rule and its source stand at `optimisers.DeepR`. Training starts with random synapses, more dense in
    small layers (`masks.erdos_renyi`), and each layer keeps their number.

    connectivity: of all weights, from the first step to the last.  l1: (alpha there) how fast synapses shrink.
    temperature: (T there) of the noise; without, eta * l1**2 / 18.  freeze: (ours) fraction of training at the end in
    which the synapses stay where they are, without shrinking and noise.
    """

    name: ClassVar[str] = "deep-r"

    connectivity: float = setting(0.1, above=0.0, high=1.0)
    l1: float = setting(1e-3, low=0.0)
    temperature: float | None = setting(None, low=0.0)
    freeze: float = setting(0.1, low=0.0, high=1.0)

    def start(self, network: SpikingNetwork, *, total_steps: int, weight_decay: float) -> DeepRRun:
        return DeepRRun(self, network, total_steps, weight_decay)


class DeepRRun(RewiringRun):
    """Deep R on all weights, with random numbers of its own for each step."""

    def __init__(self, config: DeepRewiring, network: SpikingNetwork, total_steps: int, weight_decay: float) -> None:
        from toolchain.training.masks import thin_out
        from toolchain.training.optimisers import DeepR
        from toolchain.training.seeds import REWIRING, generator

        # A dormant synapse has a sign too: that of the weight it was initialised with.
        signs = [weight.detach().clone() for weight in network.weights()]
        thin_out(network.weights(), config.connectivity, generator(network.recipe.seed, REWIRING, 0))
        self._deep_r = DeepR(network.weights(), l1=config.l1, temperature=config.temperature, weight_decay=weight_decay)
        for weight, sign in zip(network.weights(), signs, strict=True):
            self._deep_r.state[weight]["sign"].masked_fill_(sign < 0, -1.0)
        super().__init__(network, self._deep_r, total_steps - round(config.freeze * total_steps))

    def step(self, clock: Clock) -> None:
        from toolchain.training.seeds import REWIRING, generator

        self._deep_r.random = generator(self._network.recipe.seed, REWIRING, clock.step + 1)
        super().step(clock)

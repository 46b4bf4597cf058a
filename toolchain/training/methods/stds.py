"""State transition of dendritic spines: weights behind a threshold that rises, through which gradients pass."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from toolchain.training.methods.base import Clock, MethodConfig
from toolchain.training.methods.hidden import HiddenRun
from toolchain.training.settings import setting

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from toolchain.training.modules import SpikingNetwork


@dataclass(frozen=True)
class DendriticSpines(MethodConfig):
    """A synapse exists where its parameter is beyond a threshold d, and Adam moves all parameters ::

        w = sign(theta) * max(|theta| - d, 0),   dL/dtheta := dL/dw, dormant or not
        d(t) = D / 2 * (1 + sin(pi * (t / N - 1 / 2)))

    over the N steps until the set of synapses is final. Source: Chen, Yu, Fang, Ma, Huang and Tian, ICML 2022, with the
    gradient and the course of its authors' program (`stmod`, `sine`).

    threshold: D.  Ours: connectivity: with it, in place of the above d is chosen every `interval` steps so that the
    fraction of synapses of all layers is 1 - (1 - connectivity) * d(t) / D.  freeze: fraction of training at the end in
    which the synapses stay and the weights are trained themselves; 0 is the published method.
    """

    name: ClassVar[str] = "stds"

    threshold: float = setting(0.1, low=0.0)
    connectivity: float | None = setting(None, above=0.0, high=1.0)
    interval: int = setting(20, low=1)
    freeze: float = setting(0.1, low=0.0, high=1.0)

    def start(self, network: SpikingNetwork, *, total_steps: int, weight_decay: float) -> DendriticRun:
        return DendriticRun(self, network, total_steps, weight_decay)


class DendriticRun(HiddenRun):
    """Adam on theta and everything else. `_threshold` is d."""

    def __init__(self, config: DendriticSpines, network: SpikingNetwork, total_steps: int, weight_decay: float) -> None:
        super().__init__(network, weight_decay, total_steps - round(config.freeze * total_steps))
        self._config = config
        self._threshold = 0.0

    def _rise(self, step: int) -> None:
        """Set the threshold of a step, and the weights by it."""
        from toolchain.training.controller import missing_shift

        done = min(step / self._freeze_at, 1.0) if self._freeze_at else 1.0
        risen = (1 + math.sin(math.pi * (done - 0.5))) / 2
        asked = self._config.connectivity
        if asked is None:
            self._threshold = self._config.threshold * risen
        elif step % self._config.interval == 0 or step >= self._freeze_at:
            sizes = [theta.abs() for theta in self._thetas]
            self._threshold = max(missing_shift(sizes, 1 - (1 - asked) * risen), 0.0)
        self.write()

    def before_step(self, clock: Clock) -> None:
        super().before_step(clock)
        if not self.frozen:
            self._rise(clock.step)

    def write(self) -> None:
        for weight, theta in zip(self._network.weights(), self._thetas, strict=True):
            weight.data.copy_((theta.abs() - self._threshold).clamp_(min=0).mul_(theta.sign()))

    def finish(self) -> None:
        if not self.frozen:
            self._rise(self._freeze_at)
            self.settle(self.masks())

    def masks(self) -> list[Tensor]:
        return self._masks if self.frozen else [theta.abs() > self._threshold for theta in self._thetas]

    def shrink(self, layer: int, factors: torch.Tensor) -> None:
        super().shrink(layer, factors)
        self._follow(layer, factors)

    def rescale(self, layer: int, factors: torch.Tensor) -> None:
        super().rescale(layer, factors)
        self._follow(layer, factors)

    def _follow(self, layer: int, factors: torch.Tensor) -> None:
        """Have theta give the weights as they are now; a dormant one keeps its distance from the threshold."""
        if not self.frozen:
            weight, theta = self._network.layers[layer].weight.data, self._thetas[layer]
            alive = theta.abs() > self._threshold
            turned = theta * self._network.layers[layer].over_outputs(factors.sign())
            theta.copy_((weight.abs() + self._threshold).mul_(weight.sign()).where(alive, turned))

    def report(self) -> dict[str, float]:
        return {"threshold": self._threshold}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "threshold": self._threshold}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._threshold = state["threshold"]

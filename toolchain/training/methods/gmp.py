"""Gradual magnitude pruning: the smallest weights go, more of them early than late."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from toolchain.training.methods.base import Clock, MethodConfig
from toolchain.training.methods.masked import MaskedRun
from toolchain.training.settings import setting

if TYPE_CHECKING:
    from toolchain.training.modules import SpikingNetwork


@dataclass(frozen=True)
class MagnitudePruning(MethodConfig):
    """From step t0 on, every `interval` (Dt) steps and n times, the smallest weights go, down to the connectivity ::

        c(t) = C + (1 - C) * (1 - (t - t0) / (n Dt))**power,   power 3

    which with sparsity s = 1 - c and no sparsity at the start is the published s(t). What is gone stays gone; training
    goes on with the rest, by Adam. Source: Zhu and Gupta 2017 (arXiv 1710.01878), equation 1.

    connectivity: C.  scope: `layer`, every layer to the same connectivity (the paper's), or `network` (ours), the
    smallest weights of all.  begin, end: fractions of training; t0 and t0 + n Dt.
    """

    name: ClassVar[str] = "gmp"

    connectivity: float = setting(0.1, above=0.0, high=1.0)
    scope: str = setting("layer", choices=("layer", "network"))
    begin: float = setting(0.0, low=0.0, below=1.0)
    end: float = setting(0.5, above=0.0, high=1.0)
    power: float = setting(3.0, above=0.0)
    interval: int = setting(20, low=1)

    def start(self, network: SpikingNetwork, *, total_steps: int, weight_decay: float) -> MagnitudeRun:
        return MagnitudeRun(self, network, total_steps, weight_decay)

    def course(self, step: int, begin: int, end: int) -> float:
        """The connectivity at a step, between 1 at `begin` and C at `end`."""
        left = 1 - (step - begin) / (end - begin) if end > begin else 0.0
        return self.connectivity + (1 - self.connectivity) * min(max(left, 0.0), 1.0) ** self.power


class MagnitudeRun(MaskedRun):
    """Adam on the weights that are left."""

    def __init__(
        self, config: MagnitudePruning, network: SpikingNetwork, total_steps: int, weight_decay: float
    ) -> None:
        self._config = config
        self._begin = round(config.begin * total_steps)
        everything = [weight.detach() == weight.detach() for weight in network.weights()]
        super().__init__(network, weight_decay, everything, max(round(config.end * total_steps), self._begin))

    def before_step(self, clock: Clock) -> None:
        super().before_step(clock)
        since = clock.step - self._begin
        if not self.frozen and since >= 0 and since % self._config.interval == 0:
            self._prune(self._config.course(clock.step, self._begin, self._freeze_at))

    def finish(self) -> None:
        if not self.frozen:
            self._prune(self._config.connectivity)
        super().finish()

    def _prune(self, connectivity: float) -> None:
        from toolchain.training.masks import largest_of, whole_parts

        # What is gone is smaller than anything that is left.
        weights = self._network.weights()
        sizes = [
            weight.detach().abs().masked_fill(~mask, -1.0) for weight, mask in zip(weights, self._masks, strict=True)
        ]
        numbers = [size.numel() for size in sizes]
        total = round(connectivity * sum(numbers))
        if self._config.scope == "network":
            self.replace(largest_of(sizes, total))
            return
        counts = whole_parts([connectivity * number for number in numbers], total, numbers)
        self.replace([largest_of([size], count)[0] for size, count in zip(sizes, counts, strict=True)])

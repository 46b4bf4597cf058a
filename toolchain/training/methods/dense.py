"""No pruning: Adam on every weight. The line to compare the others with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from toolchain.training.methods.base import Clock, MethodConfig

if TYPE_CHECKING:
    import torch

    from toolchain.training.modules import SpikingNetwork


@dataclass(frozen=True)
class Dense(MethodConfig):
    """Adam (Kingma and Ba 2015); with weight decay it is decoupled (Loshchilov and Hutter 2019)."""

    name: ClassVar[str] = "dense"

    def start(self, network: SpikingNetwork, *, total_steps: int, weight_decay: float) -> DenseRun:
        return DenseRun(network, weight_decay)


class DenseRun:
    """Every synapse exists from the first step to the last."""

    frozen = True

    def __init__(self, network: SpikingNetwork, weight_decay: float) -> None:
        import torch

        self._network = network
        self._optimiser = torch.optim.AdamW(network.parameters(), weight_decay=weight_decay)

    def before_step(self, clock: Clock) -> None:
        pass

    def after_backward(self, clock: Clock) -> None:
        pass

    def step(self, clock: Clock) -> None:
        for group in self._optimiser.param_groups:
            group["lr"] = clock.lr
        self._optimiser.step()

    def finish(self) -> None:
        pass

    def masks(self) -> list[torch.Tensor]:
        return [layer.weight.detach().abs() >= 0 for layer in self._network.layers]

    def shrink(self, layer: int, factors: torch.Tensor) -> None:
        part = self._network.layers[layer]
        part.weight.data.mul_(part.over_outputs(factors))

    def rescale(self, layer: int, factors: torch.Tensor) -> None:
        part = self._network.layers[layer]
        wide = part.over_outputs(factors)
        part.weight.data.mul_(wide)
        moments = self._optimiser.state.get(part.weight)
        if moments:
            moments["exp_avg"].div_(wide)
            moments["exp_avg_sq"].div_(wide.square())

    def report(self) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return self._optimiser.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._optimiser.load_state_dict(state)

"""What methods share whose weights are a function of parameters behind them: those are trained, the weights follow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from toolchain.training.methods.base import Clock
from toolchain.training.methods.dense import DenseRun
from toolchain.training.methods.masked import MaskedRun

if TYPE_CHECKING:
    from torch import Tensor

    from toolchain.training.modules import SpikingNetwork


class HiddenRun(MaskedRun):
    """Until the set of synapses is final, Adam moves `_thetas`, one for each weight, and `write` sets the weights.

    Afterwards the weights themselves are trained, inside the mask.
    """

    def __init__(self, network: SpikingNetwork, weight_decay: float, freeze_at: int) -> None:
        weights = [weight.detach() for weight in network.weights()]
        super().__init__(network, weight_decay, [weight == weight for weight in weights], freeze_at)
        self._thetas = [weight.clone() for weight in weights]

    def write(self) -> None:
        """Set the weights that the network computes with."""
        raise NotImplementedError

    def after_backward(self, clock: Clock) -> None:
        if self.frozen:
            super().after_backward(clock)

    def step(self, clock: Clock) -> None:
        if self.frozen:
            super().step(clock)
            return
        # Adam's moments belong to the network's own parameters, so those stand for theta during its step.
        for weight, theta in zip(self._network.weights(), self._thetas, strict=True):
            weight.data.copy_(theta)
        DenseRun.step(self, clock)
        for weight, theta in zip(self._network.weights(), self._thetas, strict=True):
            theta.copy_(weight.data)
        self.write()

    def settle(self, masks: list[Tensor]) -> None:
        """Make the set of synapses final; the weights are the parameters from here on."""
        self.replace(masks)
        super().finish()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "thetas": self._thetas}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._thetas = state["thetas"]

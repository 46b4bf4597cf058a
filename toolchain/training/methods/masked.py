"""What methods with a mask share: Adam on the weights inside it alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from toolchain.training.methods.base import Clock
from toolchain.training.methods.dense import DenseRun

if TYPE_CHECKING:
    from torch import Tensor

    from toolchain.training.modules import SpikingNetwork


class MaskedRun(DenseRun):
    """Adam on every parameter but the weights outside a mask, which are 0.

    Subclasses change the mask, through `replace`. From step `freeze_at` on it is final.
    """

    def __init__(self, network: SpikingNetwork, weight_decay: float, masks: list[Tensor], freeze_at: int) -> None:
        super().__init__(network, weight_decay)
        self.frozen = False
        self._masks = masks
        self._freeze_at = freeze_at

    def before_step(self, clock: Clock) -> None:
        if not self.frozen and clock.step >= self._freeze_at:
            self.finish()

    def after_backward(self, clock: Clock) -> None:
        for weight, mask in zip(self._network.weights(), self._masks, strict=True):
            if weight.grad is not None:
                weight.grad.mul_(mask)

    def step(self, clock: Clock) -> None:
        super().step(clock)
        self._keep_alive()

    def _keep_alive(self) -> None:
        """A weight of exactly 0 would be no synapse."""
        from toolchain.training.optimisers import FLOOR

        for weight, mask in zip(self._network.weights(), self._masks, strict=True):
            weight.data.masked_fill_((weight == 0) & mask, FLOOR)

    def replace(self, masks: list[Tensor], starts: list[Tensor] | None = None) -> None:
        """Go on with other masks. Moments of what comes and goes start anew; a synapse that comes has the weight FLOOR
        with the sign of `starts`, as 0 would be no synapse."""
        from toolchain.training.optimisers import FLOOR

        starts = masks if starts is None else starts
        for weight, old, new, start in zip(self._network.weights(), self._masks, masks, starts, strict=True):
            grown = new & ~old
            weight.data.mul_(new).masked_fill_(grown & (start >= 0), FLOOR).masked_fill_(grown & (start < 0), -FLOOR)
            moments = self._optimiser.state.get(weight)
            if moments:
                moments["exp_avg"].mul_(old & new)
                moments["exp_avg_sq"].mul_(old & new)
        self._masks = masks

    def finish(self) -> None:
        self.frozen = True
        self._keep_alive()

    def masks(self) -> list[Tensor]:
        return self._masks

    def report(self) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {"optimiser": super().state_dict(), "masks": self._masks, "frozen": self.frozen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state["optimiser"])
        self._masks, self.frozen = state["masks"], state["frozen"]

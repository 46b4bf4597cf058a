"""What Grad R and Deep R share: an optimiser of signed weights, Adam for biases and batch norms, a final set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from toolchain.training.methods.base import Clock

if TYPE_CHECKING:
    import torch

    from toolchain.training.modules import SpikingNetwork
    from toolchain.training.optimisers import GradR


class RewiringRun:
    """One of the two on all weights, Adam on biases and batch norms."""

    def __init__(self, network: SpikingNetwork, optimiser: GradR, freeze_at: int) -> None:
        import torch

        self._network = network
        self._freeze_at = freeze_at
        self._optimiser = optimiser
        biases = network.others()
        self._biases = torch.optim.Adam(biases) if biases else None

    @property
    def _group(self) -> dict[str, Any]:
        return self._optimiser.param_groups[0]

    @property
    def frozen(self) -> bool:
        return bool(self._group["frozen"])

    def before_step(self, clock: Clock) -> None:
        if not self.frozen and clock.step >= self._freeze_at:
            self.finish()

    def after_backward(self, clock: Clock) -> None:
        pass

    def step(self, clock: Clock) -> None:
        self._group["lr"] = clock.lr
        self._optimiser.update()
        if self._biases is not None:
            self._biases.param_groups[0]["lr"] = clock.lr
            self._biases.step()

    def finish(self) -> None:
        self._group["frozen"] = True

    def masks(self) -> list[torch.Tensor]:
        return [theta > 0 for theta in self._optimiser.thetas()]

    def shrink(self, layer: int, factors: torch.Tensor) -> None:
        part = self._network.layers[layer]
        theta = self._optimiser.thetas()[layer]
        theta.copy_(theta.clamp(min=0).mul_(part.over_outputs(factors)).where(theta > 0, theta))
        self._optimiser.write(part.weight)

    def rescale(self, layer: int, factors: torch.Tensor) -> None:
        part = self._network.layers[layer]
        self._optimiser.rescale(part.weight, part.over_outputs(factors))

    def report(self) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {
            "optimiser": self._optimiser.state_dict(),
            "biases": self._biases.state_dict() if self._biases is not None else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._optimiser.load_state_dict(state["optimiser"])
        if self._biases is not None:
            self._biases.load_state_dict(state["biases"])

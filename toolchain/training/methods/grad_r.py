"""Gradient rewiring: synapses die under the prior's pressure and grow back where the gradient asks for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from toolchain.training.methods.base import Clock, MethodConfig
from toolchain.training.methods.rewiring import RewiringRun

if TYPE_CHECKING:
    from toolchain.training.modules import SpikingNetwork


@dataclass(frozen=True)
class GradRewiring(MethodConfig):
    """Grad R. Without `connectivity` and with `freeze` 0 it is the published method.

    alpha: inverse scale of the Laplace prior.  sparsity: the prior's p; it moves the prior's centre alone, which in
    practice changes nothing (docs/training.md), so it is no way to ask for a connectivity.

    Ours: connectivity: fraction of synapses, in total over all layers, at the end; a closed loop on alpha reaches it.
    ramp: fraction of training in which the reference falls to it, with exponent `power`.  freeze: fraction at the end
    in which the set of synapses stays as it is and alpha is 0.  interval: steps between two looks of the loop.
    gain: of its integral term.
    """

    name: ClassVar[str] = "grad-r"

    alpha: float = field(default=1e-3, metadata={"low": 0.0})
    sparsity: float = field(default=0.95, metadata={"low": 0.5, "below": 1.0})
    connectivity: float | None = field(default=None, metadata={"above": 0.0, "high": 1.0})
    ramp: float = field(default=0.5, metadata={"low": 0.0, "high": 1.0})
    power: float = field(default=3.0, metadata={"above": 0.0})
    freeze: float = field(default=0.0, metadata={"low": 0.0, "below": 1.0})
    interval: int = field(default=20, metadata={"low": 1})
    gain: float = field(default=0.3, metadata={"low": 0.0, "high": 1.0})

    def start(self, network: SpikingNetwork, *, total_steps: int, weight_decay: float) -> GradRRun:
        return GradRRun(self, network, total_steps, weight_decay)


class GradRRun(RewiringRun):
    """Grad R on all weights; the controller where a connectivity is asked for."""

    def __init__(self, config: GradRewiring, network: SpikingNetwork, total_steps: int, weight_decay: float) -> None:
        from toolchain.training.controller import ConnectivityController
        from toolchain.training.optimisers import GradR

        optimiser = GradR(
            network.weights(),
            alpha=config.alpha,
            sparsity=config.sparsity,
            weight_decay=weight_decay,
        )
        super().__init__(network, optimiser, total_steps - round(config.freeze * total_steps))
        self._controller = (
            ConnectivityController(
                target=config.connectivity,
                ramp_steps=min(round(config.ramp * total_steps), self._freeze_at),
                interval=config.interval,
                gain=config.gain,
                power=config.power,
            )
            if config.connectivity is not None
            else None
        )

    def before_step(self, clock: Clock) -> None:
        super().before_step(clock)
        if not self.frozen and self._controller is not None and clock.step % self._controller.interval == 0:
            reach = sum(self._optimiser.eta(lr, i) for i, lr in enumerate(clock.upcoming(self._controller.interval)))
            self._group["alpha"] = self._controller.look(clock.step, self._optimiser.thetas(), reach)

    def finish(self) -> None:
        if self.frozen:
            return
        if self._controller is not None:
            from toolchain.training.controller import missing_shift

            self._optimiser.shift(missing_shift(self._optimiser.thetas(), self._controller.target))
        self._group["alpha"] = 0.0
        super().finish()

    def report(self) -> dict[str, float]:
        return {"alpha": float(self._group["alpha"])}

    def state_dict(self) -> dict[str, Any]:
        controller = self._controller.state_dict() if self._controller is not None else None
        return {**super().state_dict(), "controller": controller}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        if self._controller is not None:
            self._controller.load_state_dict(state["controller"])

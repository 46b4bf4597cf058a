"""A closed loop on Grad R's alpha that ends at the connectivity asked for. Ours, not the paper's.

With its published settings Grad R reaches whatever connectivity alpha and the number of steps give. Here a
reference course of connectivity is followed instead: every `interval` steps alpha is chosen so that the prior's
steps until the next look would bring the parameters to the reference, if nothing else moved them. What the gradients
do against that shows as a lag, and an integral term learns it. When the loop ends, one last step of the prior, of
the size that is still missing, lands on the number of synapses asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor


def connectivity(thetas: Sequence[Tensor]) -> float:
    """Living synapses over all synapses."""
    return sum(int((theta > 0).sum()) for theta in thetas) / sum(theta.numel() for theta in thetas)


def missing_shift(thetas: Sequence[Tensor], wanted: float) -> float:
    """How far every theta would have to move down so that `wanted` of all synapses live (negative: up)."""
    flat = torch.cat([theta.flatten() for theta in thetas])
    dead = min(max(flat.numel() - round(wanted * flat.numel()), 0), flat.numel() - 1)
    if dead == 0:
        return float(flat.min()) - 1e-6
    # Dead are those at or below 0, so the largest of the dead lands on 0.
    return float(torch.kthvalue(flat, dead).values)


@dataclass
class ConnectivityController:
    """target: fraction of synapses at the end.  ramp_steps: steps after which the reference stays at the target.

    interval: steps between two looks.  gain: share of the lag that the integral term learns at each look.
    power: of the reference's course, target + (1 - target) (1 - step / ramp_steps)**power.
    """

    target: float
    ramp_steps: int
    interval: int
    gain: float
    power: float
    alpha: float = 0.0
    integral: float = 0.0
    reference: float = 1.0
    reach: float = 0.0

    def course(self, step: int) -> float:
        """The reference connectivity after `step` steps."""
        left = max(0.0, 1.0 - step / self.ramp_steps) if self.ramp_steps else 0.0
        return self.target + (1.0 - self.target) * left**self.power

    def look(self, step: int, thetas: Sequence[Tensor], reach: float) -> float:
        """alpha for the next `interval` steps. reach: sum of the prior's step sizes over them, for alpha 1."""
        if self.reach > 0:
            lag = missing_shift(thetas, self.reference) / self.reach
            self.integral = max(0.0, self.integral + self.gain * lag)
        self.reference = self.course(step + self.interval)
        self.reach = reach
        wanted = missing_shift(thetas, self.reference) / reach
        self.alpha = max(0.0, self.integral + wanted)
        return self.alpha

    def state_dict(self) -> dict[str, float]:
        return asdict(self)

    def load_state_dict(self, state: dict[str, float]) -> None:
        for name in ("alpha", "integral", "reference", "reach"):
            setattr(self, name, state[name])

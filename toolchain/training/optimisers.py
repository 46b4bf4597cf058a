"""Gradient rewiring (Grad R) and deep rewiring (Deep R) as optimisers.

Sources: Chen, Yu, Fang, Huang, Tian: Pruning of deep spiking neural networks through gradient rewiring, IJCAI 2021
(arXiv 2105.04916), algorithm 1. Bellec, Kappel, Maass, Legenstein: Deep rewiring: training very sparse deep networks,
ICLR 2018 (arXiv 1711.05136), algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from toolchain.training import kernels, layout, threads

FLOOR = 1e-6
"""Smallest parameter of a synapse whose existence is frozen: it cannot shrink out of being."""


TENSORS = ("theta", "sign", "m", "v")
"""What an optimiser here keeps of each weight, in its shape."""


class GradR(torch.optim.Optimizer):
    """Weights w = s * max(theta, 0) with a fixed sign s; the optimiser moves theta and writes w.

    With g = dL/dw, k counting steps from 1::

        m = b1 m + (1 - b1) g;   v = b2 v + (1 - b2) g**2
        eta = lr / (1 - b1**k);  D = sqrt(v) / sqrt(1 - b2**k) + eps
        theta -= eta * s * m / D
        theta -= alpha * eta * sign(theta - mu),   mu = ln(2 (1 - sparsity)) / alpha

    The gradient reaches dormant synapses (theta <= 0) too, so they can grow back. alpha 0 switches the prior off.
    weight_decay is an addition of ours: theta of living synapses shrinks by lr * weight_decay of itself.

    state of each parameter: theta, sign, m, v (all float32, the weight's shape) and k.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        *,
        lr: float = 1e-3,
        alpha: float = 1e-3,
        sparsity: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {
            "lr": lr,
            "alpha": alpha,
            "sparsity": sparsity,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "frozen": False,
        }
        super().__init__(params, defaults)
        for group in self.param_groups:
            for weight in group["params"]:
                # A weight of exactly 0 has no sign; it starts dormant as an excitatory one.
                sign = torch.where(weight.detach() < 0, -1.0, 1.0)
                self.state[weight] = {
                    "theta": weight.detach().abs(),
                    "sign": sign,
                    "m": torch.zeros_like(weight),
                    "v": torch.zeros_like(weight),
                    "k": 0,
                }

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One step from the gradients of the weights. Closures are not supported."""
        if closure is not None:
            raise TypeError("GradR takes its gradients from the weights, not from a closure")
        self.update()

    @torch.no_grad()
    def update(self) -> None:
        """`step` without torch's hooks around it, which take a tenth of a millisecond."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self.state[weight]["k"] += 1
                    self._update(weight, self.state[weight], group)

    def _update(self, weight: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        here = weight.device.type == "cpu" and weight.dtype == torch.float32
        if here and layout.alike(weight, *(state[name] for name in TENSORS)):
            self._update_compiled(weight, state, group)
        else:
            self._update_by_torch(weight, state, group)

    def _update_compiled(self, weight: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """The same as `_update_by_torch`, by one pass over memory in place of about fifteen."""
        b1, b2 = group["betas"]
        lr, alpha, k = group["lr"], group["alpha"], state["k"]
        assert weight.grad is not None
        gradient = layout.lying_as(weight.grad, weight)
        arrays = [layout.memory(x) for x in (gradient, *(state[name] for name in TENSORS), weight)]
        eta, root = lr / (1 - b1**k), 1 / math.sqrt(1 - b2**k)
        mu = self._centre(group) if alpha > 0 else 0.0
        numbers = (b1, 1 - b1, b2, 1 - b2, eta, root, group["eps"], 1 - lr * group["weight_decay"], alpha * eta, mu)
        values = (*map(np.float32, numbers), group["frozen"], np.float32(FLOOR))
        threads.split(kernels.grad_r, (*arrays, *values), len(arrays[0]))

    def _update_by_torch(self, weight: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        b1, b2 = group["betas"]
        lr = group["lr"]
        theta, sign, m, v = state["theta"], state["sign"], state["m"], state["v"]
        gradient = weight.grad
        assert gradient is not None
        m.mul_(b1).add_(gradient, alpha=1 - b1)
        v.mul_(b2).addcmul_(gradient, gradient, value=1 - b2)
        eta = lr / (1 - b1 ** state["k"])
        change = v.sqrt().div_(math.sqrt(1 - b2 ** state["k"])).add_(group["eps"])
        torch.div(m, change, out=change)
        change.mul_(sign)
        if group["frozen"]:
            # Dormant synapses rest; living ones stay alive.
            alive = theta > 0
            decay = 1 - lr * group["weight_decay"]
            moved = theta.mul(decay).add_(change, alpha=-eta).clamp_(min=FLOOR)
            theta.copy_(torch.where(alive, moved, theta))
        else:
            if group["weight_decay"]:
                theta.sub_(theta.clamp(min=0), alpha=lr * group["weight_decay"])
            self._move(theta, change, eta, group)
        self.write(weight)

    @staticmethod
    def _centre(group: dict[str, Any]) -> float:
        """mu of the prior."""
        return math.log(2 * (1 - group["sparsity"])) / float(group["alpha"])

    def _move(self, theta: Tensor, change: Tensor, eta: float, group: dict[str, Any]) -> None:
        """One step of theta. change: s * m / D; may be overwritten."""
        alpha = group["alpha"]
        theta.add_(change, alpha=-eta)
        if alpha > 0:
            mu = self._centre(group)
            if float(theta.min()) > mu:
                # The usual case: every sign is +1.
                theta.sub_(alpha * eta)
            else:
                theta.sub_(torch.sign(theta - mu), alpha=alpha * eta)

    @torch.no_grad()
    def write(self, weight: Tensor) -> None:
        """Set w = s * max(theta, 0)."""
        state = self.state[weight]
        torch.mul(state["sign"], state["theta"].clamp(min=0), out=weight.data)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        for weight, state in self.state.items():
            # Checkpoints of before hold them row by row.
            state.update({name: layout.lying_as(state[name], weight) for name in TENSORS})

    def thetas(self) -> list[Tensor]:
        """The parameters behind the weights, in the order of the weights."""
        return [self.state[weight]["theta"] for group in self.param_groups for weight in group["params"]]

    @torch.no_grad()
    def shift(self, amount: float) -> None:
        """Move every theta by -amount: one step of the prior, of a chosen size."""
        for group in self.param_groups:
            for weight in group["params"]:
                self.state[weight]["theta"].sub_(amount)
                self.write(weight)

    @torch.no_grad()
    def rescale(self, weight: Tensor, factors: Tensor) -> None:
        """Go on with `factors` times the weight (not 0, broadcast): theta, sign and the gradient's moments follow."""
        state = self.state[weight]
        state["theta"].mul_(factors.abs())
        state["sign"].mul_(factors.sign())
        state["m"].div_(factors)
        state["v"].div_(factors.square())
        self.write(weight)

    def eta(self, lr: float, ahead: int) -> float:
        """The prior's step per alpha, `ahead` steps from now."""
        group = self.param_groups[0]
        k = self.state[group["params"][0]]["k"] + 1 + ahead
        return float(lr / (1 - group["betas"][0] ** k))


class DeepR(GradR):
    """Weights w = s * theta with a fixed sign s; as many as at the start are active (theta > 0) after each step.

    With eta, m, D and s as in `GradR`, each active theta makes a step; that of the gradient is Adam's, where the paper
    has the plain one::

        theta += -eta * s * m / D - eta * l1 + sqrt(2 * eta * temperature) * N(0, 1)

    An active theta that is at or below 0 then becomes dormant, and as many dormant ones of the tensor as are missing,
    drawn alike, become active at 0 (here `FLOOR`, as a weight of 0 is no synapse). temperature None: eta * l1**2 / 18,
    with which the noise has a third of the size of the shrinking.

    random: the generator of the noise and of the draw; set it before a step to have it repeatable.
    """

    def __init__(
        self, params: Iterable[Tensor], *, l1: float, temperature: float | None = None, **options: Any
    ) -> None:
        super().__init__(params, alpha=0.0, **options)
        for group in self.param_groups:
            group["l1"], group["temperature"] = l1, temperature
        self.active = [int((theta > 0).sum()) for theta in self.thetas()]
        self.random: torch.Generator | None = None

    def update(self) -> None:
        super().update()
        if not self.param_groups[0]["frozen"]:
            self._activate()

    def _update(self, weight: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        self._update_by_torch(weight, state, group)  # its steps draw noise, which the compiled ones do not

    def _move(self, theta: Tensor, change: Tensor, eta: float, group: dict[str, Any]) -> None:
        temperature = eta * group["l1"] ** 2 / 18 if group["temperature"] is None else group["temperature"]
        change.mul_(-eta).sub_(eta * group["l1"])
        if temperature > 0:
            noise = torch.randn(theta.shape, dtype=theta.dtype, generator=self.random, device="cpu")
            change.add_(noise.to(theta.device), alpha=math.sqrt(2 * eta * temperature))
        theta.add_(change.mul_(theta > 0)).clamp_(min=0)

    @torch.no_grad()
    def _activate(self) -> None:
        """Make dormant connections of each layer active, so that it has as many as at the start."""
        weights = [weight for group in self.param_groups for weight in group["params"]]
        for weight, theta, active in zip(weights, self.thetas(), self.active, strict=True):
            dormant = (theta <= 0).flatten().nonzero().flatten()
            missing = active - (theta.numel() - len(dormant))
            if missing > 0:
                chosen = dormant[torch.randperm(len(dormant), generator=self.random, device="cpu")[:missing]]
                theta[torch.unravel_index(chosen, theta.shape)] = FLOOR
                self.write(weight)

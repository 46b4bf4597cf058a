"""Unstructured pruning by masks that are learnt, on weights and on neurons, at a price for synaptic operations."""

from __future__ import annotations

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
class LearntMasks(MethodConfig):
    """Weights w = theta * s(beta a) * s(beta b), s the logistic function; Adam moves theta, and a of each weight and b
    of each neuron, down the loss plus the penalty ::

        R = penalty / S * (sum of c_a s(beta a) + sum of c_b s(beta b))
        beta = first * (last / first)**(t / N)

    over the N steps until the masks become what is above 0. c_a: synapses that a weight makes (of a kernel: places),
    c_b: synapses from the neuron were all there, S: synapses of the whole network. Source: Shi, Ding, Hao and Yu:
    Towards energy efficient spiking neural networks: an unstructured pruning framework, ICLR 2024, with the settings of
    the authors' program (lambda = penalty / S; its 1e-11 is 0.017 on its CIFAR-10 network of 1.7e9 synapses).

    Other than there, b acts on the weights into the neuron (of a convolution: into the channel) instead of its spikes;
    outputs have none, and neither have layers with a batch norm, which would undo it. theta starts as w / s(0)**2 (with
    b; else / s(0)), so that training starts from the usual weights.

    penalty: as above.  first, last: of beta.  Ours: connectivity: with it all a and b move by the same amount every
    `interval` steps t, so that the fraction c of the weights that are left follows
    c(t) = connectivity + (1 - connectivity) * (1 - t / N)**3, and ends there.  freeze: fraction of training at the end
    in which the masks stay; 0.2 is the paper's fine-tuning.
    """

    name: ClassVar[str] = "upr"

    penalty: float = setting(0.017, low=0.0)
    first: float = setting(5.0, above=0.0)
    last: float = setting(1000.0, above=0.0)
    connectivity: float | None = setting(None, above=0.0, high=1.0)
    interval: int = setting(20, low=1)
    freeze: float = setting(0.2, low=0.0, high=1.0)

    def start(self, network: SpikingNetwork, *, total_steps: int, weight_decay: float) -> LearntMasksRun:
        return LearntMasksRun(self, network, total_steps, weight_decay)


class LearntMasksRun(HiddenRun):
    """Adam on theta, a, b and everything else. `_of`: for each layer of weights the number of its b, or None."""

    def __init__(self, config: LearntMasks, network: SpikingNetwork, total_steps: int, weight_decay: float) -> None:
        import torch

        super().__init__(network, weight_decay, total_steps - round(config.freeze * total_steps))
        self._config, self._beta = config, config.first
        outgoing = network.fan_outs()
        masked = [p for p in network.populations if p.name in outgoing and not p.normed]
        number = {id(layer): i for i, population in enumerate(masked) for layer in population.connections}
        self._of = [number.get(id(layer)) for layer in network.layers]
        self._a = [torch.zeros_like(weight) for weight in network.weights()]
        self._b = [torch.zeros(len(population.weight)) for population in masked]
        uses = [torch.ones_like(layer.weight.detach()) * layer.uses().sum() for layer in network.layers]
        scale = config.penalty / sum(float(use.sum()) for use in uses)
        self._price_a = [use * scale for use in uses]
        self._price_b = [outgoing[p.name].flatten(0, -2).sum(0) * scale for p in masked]
        for mask in (*self._a, *self._b):
            mask.requires_grad_()
        self._adam = torch.optim.Adam([*self._a, *self._b])
        for theta, at in zip(self._thetas, self._of, strict=True):
            theta.mul_(2 if at is None else 4)

    def _wide(self, layer: int) -> Tensor | None:
        """b of the neurons of a layer, in a shape that multiplies the weights."""
        at = self._of[layer]
        return None if at is None else self._network.layers[layer].over_outputs(self._b[at].detach())

    def _open(self, layer: int) -> tuple[Tensor, Tensor | None]:
        """s(beta a) and s(beta b)."""
        wide = self._wide(layer)
        return (self._a[layer].detach() * self._beta).sigmoid(), None if wide is None else (wide * self._beta).sigmoid()

    def write(self) -> None:
        for layer, (weight, theta) in enumerate(zip(self._network.weights(), self._thetas, strict=True)):
            own, neuron = self._open(layer)
            weight.data.copy_(own.mul_(theta) if neuron is None else own.mul_(theta).mul_(neuron))

    def _scores(self) -> list[Tensor]:
        """What is above 0 where a synapse would be left."""
        wides = [self._wide(layer) for layer in range(len(self._a))]
        own = [a.detach() for a in self._a]
        return [a if wide is None else a.minimum(wide) for a, wide in zip(own, wides, strict=True)]

    def before_step(self, clock: Clock) -> None:
        super().before_step(clock)
        if self.frozen:
            return
        config = self._config
        self._beta = config.first * (config.last / config.first) ** (clock.step / self._freeze_at)
        if config.connectivity is not None and clock.step % config.interval == 0:
            from toolchain.training.controller import missing_shift

            left = (1 - clock.step / self._freeze_at) ** 3
            amount = missing_shift(self._scores(), config.connectivity + (1 - config.connectivity) * left)
            for mask in (*self._a, *self._b):
                mask.data.sub_(amount)
        self.write()

    def after_backward(self, clock: Clock) -> None:
        super().after_backward(clock)
        if self.frozen:
            return
        for b, price in zip(self._b, self._price_b, strict=True):
            b.grad = price * self._slope(b)
        for layer, (weight, theta) in enumerate(zip(self._network.weights(), self._thetas, strict=True)):
            assert weight.grad is not None
            own, neuron = self._open(layer)
            by_own = weight.grad * theta
            at = self._of[layer]
            if neuron is not None and at is not None:
                grown = self._b[at].grad
                assert grown is not None
                grown.add_((by_own * own).flatten(1).sum(1) * self._slope(self._b[at]))
                by_own.mul_(neuron)
                own.mul_(neuron)
            self._a[layer].grad = by_own.add_(self._price_a[layer]).mul_(self._slope(self._a[layer]))
            weight.grad.mul_(own)

    def _slope(self, mask: Tensor) -> Tensor:
        """The derivative of s(beta mask) by the mask."""
        opened = (mask.detach() * self._beta).sigmoid()
        return opened * (1 - opened) * self._beta

    def step(self, clock: Clock) -> None:
        if not self.frozen:
            self._adam.param_groups[0]["lr"] = clock.lr
            self._adam.step()
        super().step(clock)

    def finish(self) -> None:
        if self.frozen:
            return
        masks, asked = self.masks(), self._config.connectivity
        if asked is not None:
            from toolchain.training.masks import largest_of

            masks = largest_of(self._scores(), round(asked * sum(mask.numel() for mask in masks)))
        for weight, theta in zip(self._network.weights(), self._thetas, strict=True):
            weight.data.copy_(theta)
        self.settle(masks)

    def masks(self) -> list[Tensor]:
        return self._masks if self.frozen else [score > 0 for score in self._scores()]

    def shrink(self, layer: int, factors: torch.Tensor) -> None:
        super().shrink(layer, factors)
        self._thetas[layer].mul_(self._network.layers[layer].over_outputs(factors))

    def rescale(self, layer: int, factors: torch.Tensor) -> None:
        super().rescale(layer, factors)
        self._thetas[layer].mul_(self._network.layers[layer].over_outputs(factors))

    def report(self) -> dict[str, float]:
        return {"beta": self._beta}

    def state_dict(self) -> dict[str, Any]:
        masks = [mask.detach() for mask in (*self._a, *self._b)]
        return {**super().state_dict(), "mask_values": masks, "adam": self._adam.state_dict(), "beta": self._beta}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        for mask, saved in zip((*self._a, *self._b), state["mask_values"], strict=True):
            mask.data.copy_(saved)
        self._adam.load_state_dict(state["adam"])
        self._beta = state["beta"]

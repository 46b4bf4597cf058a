"""What a pruning method is: a frozen configuration, and the run that it starts on one network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    import torch

    from toolchain.training.modules import SpikingNetwork


@dataclass(frozen=True)
class Clock:
    """Where training stands. step counts from 0; lr is the learning rate of this step.

    upcoming: learning rates of the steps that follow, this one included, as many as asked.
    """

    step: int
    total: int
    lrs: tuple[float, ...]

    @property
    def lr(self) -> float:
        return self.lrs[self.step]

    def upcoming(self, count: int) -> tuple[float, ...]:
        return self.lrs[self.step : self.step + count]


class Run(Protocol):
    """One training run's side of a method. Construction initialises the network's weights as the method needs them.

    A synapse exists where its weight is not 0. `state_dict` holds tensors and plain values only and, loaded into a
    run that was started alike, makes it continue bit for bit.
    """

    @property
    def frozen(self) -> bool:
        """Whether the set of synapses is final."""

    def before_step(self, clock: Clock) -> None:
        """Before the forward pass: set the weights that it will use."""

    def after_backward(self, clock: Clock) -> None:
        """Gradients are there: change them, or read them."""

    def step(self, clock: Clock) -> None:
        """Change the weights."""

    def finish(self) -> None:
        """After the last step: make the set of synapses final."""

    def masks(self) -> list[torch.Tensor]:
        """For each layer, bool of the weights' shape: where a synapse exists."""

    def shrink(self, layer: int, factors: torch.Tensor) -> None:
        """Multiply the weights into each neuron of a layer by factors (out,), more than 0 and at most 1."""

    def rescale(self, layer: int, factors: torch.Tensor) -> None:
        """Go on with weights that are factors (out,) times as large, not 0; what was learnt of gradients follows."""

    def report(self) -> dict[str, float]:
        """Figures for the metrics."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class MethodConfig:
    """Options of a method as they stand under [method] in a recipe."""

    name: ClassVar[str]

    def start(self, network: SpikingNetwork, *, total_steps: int, weight_decay: float) -> Run:
        """Begin a run on a freshly initialised network."""
        raise NotImplementedError

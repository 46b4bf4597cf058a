"""Neurons and layers of SpikingJelly and snnTorch, known by the names of their classes: neither is imported here.

What a layer computes is that of its torch class, which it extends. What neurons compute is measured on a copy
(`toolchain.frontends.probe`), whatever their class is called and whatever a subclass changed.
"""

from __future__ import annotations

import copy
import functools
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from toolchain.errors import Diagnostic, SnncError
from toolchain.frontends import layers
from toolchain.frontends.probe import Found, Steps, Values, probe, probe_membrane
from toolchain.frontends.torch_operators import (
    MODULES,
    RECURRENT,
    Output,
    Tracing,
    Translation,
    Unsupported,
    check_module,
)

NEURONS = {
    "spikingjelly.activation_based.neuron": "SpikingJelly",
    "snntorch._neurons": "snnTorch",
}
"""Where the classes of neurons stand."""
LAYERS = "spikingjelly.activation_based.layer"
CONTAINERS = ("MultiStepContainer", "SeqToANNContainer", "StepModeContainer")
BY_STEP = (nn.Linear, nn.Identity, nn.Dropout)
"""Layers of torch that do the same with (T, batch, ...) as with each step."""
FUNCTIONS_BY_STEP = (
    *(operator.add, operator.sub, operator.mul, operator.truediv, operator.neg),
    *(torch.add, torch.sub, torch.mul, torch.div, torch.neg),
)
"""Functions of torch that do."""
ONE_BY_ONE = "put it into layer.SeqToANNContainer, or call functional.set_step_mode(network, 's') first"
_STATES = "forward(self, x, mem1, ...) that returns the new states too, or init_hidden=True"
ONE_STEP = (
    f"let forward compute one time step ({_STATES}), and take the loop over time out of it: `steps` says how long a "
    "sample lasts"
)


@dataclass(frozen=True)
class State:
    """A state that neurons give back beside their spikes; potential: whether it is the membrane's."""

    neurons: Fired
    potential: bool


@dataclass(frozen=True)
class Carried:
    """An argument of the network that can only be a state of the step before."""

    name: str


@dataclass(frozen=True)
class Fired:
    """What neurons give that return states: `states` of them behind the spikes, the potential last.

    readout: whether `spikes` is the potential of neurons that never spike.
    """

    spikes: Output
    path: str
    states: int
    readout: bool

    def __getitem__(self, index: int) -> Output | State:
        places: list[Output | State] = [
            self.spikes,
            *(State(self, i == self.states) for i in range(1, self.states + 1)),
        ]
        return places[index]


# ------------------------------------------------------------------------------------------------------ recognition


def _origin(module: nn.Module, prefix: str) -> Any:
    """The first of a module's classes that stands in a package or module."""
    return next((c for c in type(module).__mro__ if f"{c.__module__}.".startswith(f"{prefix}.")), None)


def framework(module: nn.Module) -> str | None:
    """Whose neurons these are; None for what is none."""
    return next((name for prefix, name in NEURONS.items() if _origin(module, prefix)), None)


def is_foreign(module: nn.Module) -> bool:
    """Whether a module is one of a framework's parts, not a network of them."""
    return framework(module) is not None or _origin(module, LAYERS) is not None


def container(module: nn.Module) -> bool:
    """Whether a module calls others step by step, or all steps at once."""
    kind = _origin(module, LAYERS)
    return kind is not None and kind.__name__ in CONTAINERS and type(module).forward is kind.forward


def takes_all_steps(module: nn.Module) -> bool:
    """Whether a module is called with (T, batch, ...)."""
    return is_foreign(module) and (
        getattr(module, "step_mode", None) == "m"
        or (container(module) and not hasattr(module, "step_mode"))
        or hasattr(module, "decode")
    )


def check_steps(module: nn.Module, *, by_step: bool) -> None:
    """Refuse a layer that does not take its steps as a network of step mode 'm' has them there.

    by_step: whether it stands in a container that calls it with one step, or with steps as batches.
    """
    if by_step and takes_all_steps(module):
        raise Unsupported("step mode 'm' in a container that gives it one step")
    if by_step or takes_all_steps(module):
        return
    if is_foreign(module):
        raise Unsupported("step mode 's' in a network of step mode 'm'")
    if not isinstance(module, BY_STEP):
        raise Unsupported(f"it gets all steps at once: {ONE_BY_ONE}")


def translation(module: nn.Module) -> Translation | None:
    """How a framework's part becomes a layer; None for one that is not known."""
    name = framework(module)
    if name is not None:
        return functools.partial(_membranes if hasattr(module, "decode") else _neurons, name=name)
    kind = _origin(module, LAYERS)
    if kind is None or type(module).forward is not kind.forward:
        return None
    if kind.__name__ in OWN_LAYERS:
        return OWN_LAYERS[kind.__name__]
    plain = next((c for c in kind.__mro__ if c in MODULES and c.__name__ == kind.__name__), None)
    return None if plain is None else MODULES[plain]


# ----------------------------------------------------------------------------------------------------------- neurons


class _Copy:
    """A framework's neurons for `probe`: a copy in double precision that keeps its states itself."""

    def __init__(self, module: nn.Module, **settings: Any) -> None:
        self.module: Any = _copied(module).double().eval()
        for name, value in settings.items():
            setattr(self.module, name, value)

    def reset(self) -> None:
        self.module.reset()

    def step(self, x: Values) -> Values:
        with torch.no_grad():
            sent: torch.Tensor = self.module(torch.from_numpy(np.ascontiguousarray(x)))
        return np.array(sent.numpy(), np.float64)


class _SnnTorch(_Copy):
    """Neurons of snnTorch; a recurrent layer is taken out, or `feedback` put in its place."""

    def __init__(self, module: nn.Module, feedback: nn.Module | None = None) -> None:
        super().__init__(module, init_hidden=True, output=False)
        if hasattr(module, "recurrent"):
            self.module.recurrent = _Feedback(0.0) if feedback is None else feedback

    def reset(self) -> None:
        self.module.reset_mem()


class _Potential(_SnnTorch):
    """Their membrane potential in place of their spikes."""

    def step(self, x: Values) -> Values:
        super().step(x)
        return np.array(self.module.mem.numpy(), np.float64)


class _Sequence(_Copy):
    """Neurons that compute a whole window at once, and give the potential of each step."""

    def reset(self) -> None:
        self.past: list[Values] = []

    def step(self, x: Values) -> Values:
        self.past.append(x)
        with torch.no_grad():
            potentials = self.module(torch.from_numpy(np.stack(self.past)))
        return np.array(potentials[-1].numpy(), np.float64)


class _Feedback(nn.Module):
    """Spikes of the neuron before, with a weight."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, spikes: torch.Tensor) -> torch.Tensor:
        return self.weight * spikes.roll(1, -1)


def _copied(module: nn.Module) -> nn.Module:
    """A copy; states that a gradient leads to cannot be copied as they are."""
    memo: dict[int, Any] = {}
    for part in module.modules():
        for value in (*vars(part).values(), *part._buffers.values(), *getattr(part, "_memories", {}).values()):
            if isinstance(value, torch.Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    return copy.deepcopy(module, memo)


def _steps_of(module: nn.Module, name: str) -> Steps:
    if name == "snnTorch":
        return _SnnTorch(module)
    return _Copy(module, step_mode="s", backend="torch") if hasattr(module, "step_mode") else _Copy(module)


def _probed_shape(module: nn.Module, x: Output) -> tuple[tuple[int, ...], bool]:
    """The axes to probe, and whether neurons have numbers of their own (then all of them)."""
    recurrent = {f"recurrent.{name}" for name in getattr(module, "recurrent", nn.Identity()).state_dict()}
    own = any(
        isinstance(value, torch.Tensor) and value.numel() > 1
        for key, value in module.state_dict().items()
        if key not in recurrent
    )
    return (x.shape[1:], True) if own else (tuple(min(n, 2) for n in x.shape[1:]), False)


def _fields(found: Any, names: Sequence[str], own: bool) -> dict[str, Any]:
    """Numbers that were found; one where all are the same by the module's parameters."""
    values = {name: np.asarray(getattr(found, name)) for name in names}
    if not own:
        return {name: float(value.reshape(-1)[0]) for name, value in values.items()}
    # A sequence is a map of height 1 among our layers.
    return {name: value[:, None, :] if value.ndim == 2 else value for name, value in values.items()}


def _neurons(trace: Tracing, module: Any, path: str, x: Output, *states: Any, name: str, **named: Any) -> Any:
    _check_states((*states, *named.values()))
    place = f"{path} ({type(module).__name__})"
    shape, own = _probed_shape(module, x)
    returns = name == "snnTorch" and (module.output or not module.init_hidden)
    given = 2 if hasattr(module, "syn") else 1
    steps = _steps_of(module, name)
    found = probe(steps, shape, where=place)
    if returns and trace.reads_potential() and _never_reset(found) and not hasattr(module, "recurrent"):
        membrane = probe_membrane(_Potential(module), shape, where=place)
        numbers = _fields(membrane, ("gain", "current_decay", "voltage_decay"), own)
        sent = trace.layer(layers.Neuron, [x], threshold=1.0, reset="none", filters_bias=True, **numbers)
        return Fired(sent, path, given, True)
    recurrent = _recurrence(trace, module, path, found, shape, place) if hasattr(module, "recurrent") else None
    if found.delay:
        x = trace.layer(layers.Delay, [x], steps=found.delay)
    _note(trace, found, x, place)
    sent = trace.layer(
        layers.Neuron,
        [x],
        **_fields(found, ("threshold", "current_decay", "voltage_decay", "kick"), own),
        gain=1.0,
        reset=found.reset,
        refractory=found.refractory,
        recurrent=recurrent,
        filters_bias=True,
    )
    if found.payload != 1:
        sent = trace.layer(layers.Scale, [sent], factor=found.payload)
    return Fired(sent, path, given, False) if returns else sent


def _never_reset(found: Found) -> bool:
    kept = (1 - found.voltage_decay) * found.threshold
    return found.reset == "subtract" and bool((np.abs(found.kick - kept) <= 1e-6 * found.threshold).all())


def _note(trace: Tracing, found: Found, x: Output, place: str) -> None:
    neurons = int(np.prod(x.shape[1:]))
    if found.inclusive:
        trace.note(
            Diagnostic(
                "FRW001",
                place,
                "they spike at the threshold, neurons of the chip above it: the threshold became the next number below",
                neurons,
                "none in floating point; in integers a potential that equals the threshold does not spike",
            )
        )
    if found.kick.any():
        many = "two synapses" if found.kind == "CUBA" else "a synapse"
        trace.note(
            Diagnostic(
                "FRW002",
                place,
                f"their reset takes another amount than the threshold: the rest is {many} from each neuron to itself",
                neurons,
                f"weight {float(found.kick.reshape(-1)[0]):.6g} for a threshold of "
                f"{float(found.threshold.reshape(-1)[0]):.6g}; exact in floating point",
            )
        )


def _check_states(states: Sequence[Any]) -> None:
    for state in states:
        if state is not None and not isinstance(state, Carried):
            raise Unsupported(f"its state does not come from the step before: {ONE_STEP}")


def _recurrence(
    trace: Tracing, module: Any, path: str, found: Found, shape: tuple[int, ...], place: str
) -> layers.Recurrence:
    """The recurrent layer of a neuron module of snnTorch, after the step in which it arrives was seen."""
    _check_feedback(module, found, shape, place)
    own, at = module.recurrent, f"{path}.recurrent"
    check_module(own)
    if type(own) in RECURRENT:
        kind, fields = RECURRENT[type(own)]
        return layers.Recurrence(kind(name=at, inputs=(path,), place=at, **fields(trace, own, at)))
    weight = own.V.detach().double().numpy()
    return layers.Recurrence(layers.Scale(name=at, inputs=(path,), place=at, factor=weight))


def _check_feedback(module: Any, found: Found, shape: tuple[int, ...], place: str) -> None:
    """Whether spikes come back a step later, as inputs do."""
    weight = float(found.threshold.reshape(-1)[0]) / 2
    steps = _SnnTorch(module, _Feedback(weight))
    x = np.random.default_rng(0).uniform(-0.5, 1.5, (24, 4, *shape)) * found.threshold
    steps.reset()
    theirs = np.stack([steps.step(step) for step in x]) != 0
    for t in range(len(x)):
        spikes, _ = found.run(x[: t + 1])
        if not np.array_equal(spikes[t], theirs[t]):
            raise SnncError(
                "probed neurons: their spikes do not come back as inputs of the next step",
                where=place,
                got=f"other spikes than expected at step {t + 1}",
            )
        if t + 1 < len(x):
            x[t + 1] += weight * found.payload * np.roll(spikes[t], 1, -1)


def _membranes(trace: Tracing, module: Any, path: str, x: Output, *, name: str) -> Output:
    """Neurons of SpikingJelly 2 that never spike."""
    if module.decode not in (None, "last_mem"):
        raise Unsupported(f"decode={module.decode!r}: a readout is decided by its potential in the last step")
    shape, own = _probed_shape(module, x)
    found = probe_membrane(_Sequence(module, decode=None), shape, where=f"{path} ({type(module).__name__})")
    numbers = _fields(found, ("gain", "current_decay", "voltage_decay"), own)
    return trace.layer(layers.Neuron, [x], threshold=1.0, reset="none", filters_bias=True, **numbers)


# ------------------------------------------------------------------------------------------------ SpikingJelly's layers


def _flatten(trace: Tracing, module: Any, path: str, x: Output) -> Output:
    return MODULES[nn.Flatten](trace, nn.Flatten(module.start_dim, module.end_dim), path, x)


def _nothing(trace: Tracing, module: Any, path: str, x: Output) -> Output:
    if module.training:
        raise Unsupported("it is in training mode and drops at random: call eval() first")
    return x


def _voting(trace: Tracing, module: Any, path: str, x: Output) -> Output:
    """Mean over groups, summed by a readout: the decision is the class with the most spikes."""
    if len(x.shape) != 2 or x.shape[1] % module.voting_size:
        raise Unsupported(f"votes of {module.voting_size} on a tensor of shape {x.shape}")
    batch, classes, size = x.shape[0], x.shape[1] // module.voting_size, module.voting_size
    groups = trace.layer(layers.Reshape, [x], axes=(batch, 1, 1, x.shape[1]), shape=(1, 1, x.shape[1]))
    votes = trace.layer(layers.AvgPool, [groups], kernel=(1, size), stride=(1, size))
    flat = trace.layer(layers.Reshape, [votes], axes=(batch, classes), shape=(classes,))
    message = "votes are summed by a readout, whose highest potential in the last step is the decision"
    trace.note(Diagnostic("FRW003", path, message, classes, "one compartment a class"))
    return trace.layer(
        layers.Neuron, [flat], threshold=1.0, gain=1.0, current_decay=1.0, voltage_decay=0.0, reset="none"
    )


def _delay(trace: Tracing, module: Any, path: str, x: Output) -> Output:
    return trace.layer(layers.Delay, [x], steps=module.delay_steps)


OWN_LAYERS: dict[str, Translation] = {
    "Flatten": _flatten,
    "Dropout": _nothing,
    "Dropout2d": _nothing,
    "VotingLayer": _voting,
    "Delay": _delay,
}

"""Networks of Norse, sinabs and Rockpool, alive: wiring and weights by their own NIR exporters, neurons by measurement.

NIR says nothing of comparison, reset or the order of a step, and what exporters write as time constants is not always
what their neurons compute (docs/nir.md). So of a neuron node nothing is taken but its place. The module of that name is
fed with numbers (`probe`), and the graph must then spike as the network does, population by population, step by step.
"""

from __future__ import annotations

import copy
import importlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import nir
import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from toolchain.errors import Diagnostic, SnncError, nearest
from toolchain.formats.hdf5_tree import Tree
from toolchain.frontends import Loaded
from toolchain.frontends.nir_graph import build
from toolchain.frontends.nir_neurons import MEMORY, Euler
from toolchain.frontends.nir_wiring import wiring
from toolchain.frontends.probe import Values, probe, probe_membrane


@dataclass(frozen=True)
class Framework:
    """How the modules of a framework are run. All else is the same for all.

    exporter: "module:attribute".  leading: axes of an example before those of a sample.  stepwise: whether a call is
    one step, with the state as second argument; else a call takes (batch, steps, ...) and the state is cleared by
    the method `clear`.
    """

    name: str
    exporter: str
    leading: Callable[[nn.Module], int]
    stepwise: bool
    clear: str = ""

    @property
    def taken(self) -> str:
        """What a call takes."""
        return "inputs and states of one step" if self.stepwise else "inputs (batch, steps, ...), one tensor"

    def export(self, model: nn.Module, example: torch.Tensor) -> nir.NIRGraph:
        module, _, attribute = self.exporter.partition(":")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # nirtorch says that it is old
                return getattr(importlib.import_module(module), attribute)(model, example)
        except Exception as error:
            # Whatever an exporter raises at a module that it does not know.
            text = (str(error).splitlines() or [""])[0][:200]
            raise SnncError(
                f"{self.name} could not export the network to NIR",
                where=type(model).__name__,
                got=f"{type(error).__name__}: {text}",
                allowed="modules that its exporter knows, and an example as the network takes it",
            ) from error

    def observe(self, model: nn.Module, x: Values, watched: Mapping[str, nn.Module]) -> dict[str, Values]:
        """What modules of a model sent for inputs (T, batch, ...), each (T, batch, ...); from a cleared state."""
        sent: dict[str, list[torch.Tensor]] = {name: [] for name in watched}
        hooks = [
            module.register_forward_hook(lambda _m, _i, out, to=sent[name]: to.append(_first(out)))
            for name, module in watched.items()
        ]
        steps, batch = x.shape[:2]
        inputs = torch.from_numpy(x)
        try:
            with in_double():
                if self.stepwise:
                    state = None
                    for step in inputs:
                        _, state = model(step, state)
                else:
                    self._clear(model)
                    joined = inputs.transpose(0, 1)
                    _say_lengths(model, batch, steps)
                    model(joined.flatten(0, 1) if _squeezed(model) else joined)
        except (RuntimeError, TypeError, ValueError) as error:
            raise SnncError(
                "modules cannot be run by themselves in double precision",
                where=", ".join(f"{name!r} ({type(module).__name__})" for name, module in watched.items()),
                got=(str(error).splitlines() or [""])[0][:200],
                allowed=self.taken,
            ) from error
        finally:
            for hook in hooks:
                hook.remove()
        if self.stepwise:
            return {name: torch.stack(parts).double().numpy() for name, parts in sent.items()}
        return {
            name: parts[0].reshape(batch, steps, *parts[0].shape[1 if _squeezed(model) else 2 :])
            .transpose(0, 1).double().numpy()
            for name, parts in sent.items()
        }  # fmt: skip

    def _clear(self, model: nn.Module) -> None:
        for module in _parts(model):
            if hasattr(module, self.clear):
                getattr(module, self.clear)()


def _parts(model: nn.Module) -> Iterator[nn.Module]:
    """All modules; Rockpool's own method of that name gives something else."""
    return (module for _, module in model.named_modules())


def _first(out: Any) -> torch.Tensor:
    return out[0] if isinstance(out, tuple) else out


def _squeezed(model: nn.Module) -> bool:
    """Whether batch and steps are one axis, as layers of sinabs have it that end in Squeeze."""
    return any(hasattr(module, "squeeze_forward") for module in _parts(model))


def _say_lengths(model: nn.Module, batch: int, steps: int) -> None:
    for module in _parts(model):
        if hasattr(module, "squeeze_forward"):
            module.batch_size, module.num_timesteps = batch, steps  # type: ignore[assignment]


FRAMEWORKS = {
    "norse": Framework("Norse", "norse.torch:to_nir", lambda model: 1, stepwise=True),
    "sinabs": Framework("sinabs", "sinabs.nir:to_nir", lambda m: 1 if _squeezed(m) else 2, False, "reset_states"),
    "rockpool": Framework("Rockpool", "rockpool.nn.modules:to_nir", lambda model: 2, False, "reset_state"),
}
"""Package -> how its networks are run."""


@dataclass(frozen=True, eq=False)
class Live:
    """What was read, and the network that it was read from. twin: a copy in double precision.  neurons: its modules
    that are populations, by name.  shape: axes of a sample."""

    loaded: Loaded
    framework: Framework
    twin: nn.Module
    neurons: Mapping[str, nn.Module]
    shape: tuple[int, ...]

    def observe(self, x: Values) -> dict[str, Values]:
        """What each population sent, (T, batch, size), for inputs (T, batch, size of a sample)."""
        sent = self.framework.observe(self.twin, x.reshape(*x.shape[:2], *self.shape), self.neurons)
        return {name: values.reshape(*x.shape[:2], -1) for name, values in sent.items()}


def read(
    model: nn.Module,
    example_input: torch.Tensor,
    *,
    steps: int,
    coding: str = "rate",
    name: str | None = None,
) -> Live:
    """Read a network; for the parameters, and what is raised, see `toolchain.from_framework`."""
    if coding not in ("rate", "current"):
        raise SnncError("no such coding here", where="coding", got=coding, allowed="rate, current")
    framework = _framework(model)
    shape = tuple(example_input.shape[framework.leading(model) :])
    if len(shape) not in (1, 3):
        raise SnncError(
            "the example is no batch of inputs",
            where="example_input",
            got=f"shape {tuple(example_input.shape)}",
            allowed=f"{framework.leading(model)} axes and then (n,) or (channels, height, width)",
        )
    twin = copy.deepcopy(model).eval()
    exported = framework.export(copy.deepcopy(model).eval(), example_input)
    twin.double()
    found: list[Diagnostic] = []
    title = name or type(model).__name__
    made = wiring(title, _tree(exported, shape), found)
    modules = {path.replace(".", "_"): module for path, module in twin.named_modules()}
    neurons = {node: modules[node] for node, fields in made.nodes.items() if fields.kind in MEMORY and node in modules}
    lost = [node for node, fields in made.nodes.items() if fields.kind in MEMORY and node not in modules]
    if lost:
        raise SnncError("the exporter names neurons that the network has not", where=title, got=", ".join(lost))
    about = {f"trained_with.{framework.name.lower()}": _version(framework.name.lower())}
    measured = Measured(framework, neurons)
    graph = build(made, 1.0, "zero", coding, steps, title, about, measured.neuron)
    return Live(Loaded(graph, tuple(found)), framework, twin, neurons, shape)


def _framework(model: nn.Module) -> Framework:
    # Classes that are made at run time stand nowhere, but what they inherit does.
    roots = [base.__module__.partition(".")[0] for module in _parts(model) for base in type(module).__mro__]
    known = [root for root in roots if root in FRAMEWORKS]
    if not known:
        other = next((root for root in roots if root not in ("torch", "builtins", "__main__")), "torch")
        raise SnncError(
            "no module of a framework that is known",
            where=type(model).__name__,
            got=other,
            allowed=nearest(other, FRAMEWORKS),
            remedy="toolchain.from_torch reads modules of torch with neurons of toolchain.training.spiking",
        )
    return FRAMEWORKS[known[0]]


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


class InDouble(TorchFunctionMode):
    """Computes in double precision what asks for single."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {})) if func is not torch.Tensor.float else args[0].double()


@contextmanager
def in_double() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with InDouble(), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what frameworks say about themselves
            yield
    finally:
        torch.set_default_dtype(before)


def _tree(graph: nir.NIRGraph, shape: Sequence[int]) -> Tree:
    """What an exporter made as a tree of a file. Some leave the axes of a batch or of time in."""
    lost = [name for name, node in graph.nodes.items() if not isinstance(node, nir.NIRNode)]
    if lost:
        raise SnncError("the exporter has no node for modules", where=", ".join(lost), allowed="modules that it knows")
    nodes = {}
    for name, node in graph.nodes.items():
        if isinstance(node, nir.Input):
            nodes[name] = {"type": "Input", "shape": np.array(shape)}
        elif isinstance(node, nir.Output):
            nodes[name] = {"type": "Output"}
        else:
            nodes[name] = {key: _plain(value) for key, value in node.to_dict().items() if key != "input_type"}
    return {"type": "NIRGraph", "nodes": nodes, "edges": [[str(a), str(b)] for a, b in graph.edges]}


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().numpy()
    return np.asarray(value) if isinstance(value, (tuple, list)) else value


@dataclass
class Stepped:
    """A module as something that steps (`probe.Steps`), a whole sequence at once."""

    framework: Framework
    module: nn.Module
    past: list[Values] = field(default_factory=list)

    def reset(self) -> None:
        self.past = []

    def step(self, x: Values) -> Values:
        self.past.append(x)
        return self.run(np.stack(self.past))[-1]

    def run(self, x: Values) -> Values:
        return self.framework.observe(self.module, x, {"": self.module})[""]


@dataclass(frozen=True)
class Measured:
    """Makes the layers of neuron nodes, from their modules."""

    framework: Framework
    modules: Mapping[str, nn.Module]

    def neuron(self, fields: Any, inputs: tuple[str, ...], shape: tuple[int, ...]) -> Euler:
        where, stepped = fields.place, Stepped(self.framework, self.modules[fields.name])
        common: dict[str, Any] = {"name": fields.name, "inputs": inputs, "place": where, "fields": fields}
        common |= {"rest": np.zeros(()), "filters_bias": True}
        if "v_threshold" not in MEMORY[fields.kind]:
            membrane = probe_membrane(stepped, shape, where=where)
            if not (membrane.gain > 0).all():
                got = float(membrane.gain.min())
                raise SnncError("probed membranes: what an input adds", where=where, got=got, allowed="more than 0")
            return Euler(
                **common,
                threshold=np.ones(()),
                gain=membrane.gain,
                current_decay=membrane.current_decay,
                voltage_decay=membrane.voltage_decay,
                reset="none",
            )
        found = probe(stepped, shape, where=where)
        for what, got, allowed in (("delay", found.delay, 0), ("payload", found.payload, 1.0)):
            if got != allowed:
                raise SnncError(f"probed neurons: their {what}", where=where, got=got, allowed=allowed)
        if found.kick.any():
            raise SnncError(
                "probed neurons: their reset takes more or less than the threshold, or takes it a step later",
                where=where,
                got=f"{float(found.kick.min()):.6g} to {float(found.kick.max()):.6g} beyond it",
                allowed="0",
            )
        note = f"measured: {found.kind} neurons, reset {found.reset!r}"
        fields.note("NIR008", note, math.prod(shape), "compared with the module on random inputs")
        return Euler(
            **common,
            threshold=found.threshold,
            gain=1.0,
            current_decay=found.current_decay,
            voltage_decay=found.voltage_decay,
            reset=found.reset,
            refractory=found.refractory,
        )

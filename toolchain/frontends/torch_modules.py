"""A torch module as a graph: torch.fx finds its layers, and each becomes one of ours."""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn

from toolchain.errors import Diagnostic, SnncError, nearest
from toolchain.frontends import Loaded, layers
from toolchain.frontends import torch_foreign as foreign
from toolchain.frontends.network import Network
from toolchain.frontends.operators import Shape
from toolchain.frontends.torch_operators import (
    FRESH,
    FUNCTIONS,
    METHODS,
    Output,
    Tracing,
    Unsupported,
    check_module,
    is_of_tensors,
    layer_shape,
    reason,
    torch_shape,
    translation,
)
from toolchain.ir import make_input
from toolchain.training import spiking

INPUT = "input"


def from_torch(
    module: nn.Module,
    example_input: torch.Tensor,
    *,
    steps: int,
    coding: str = "rate",
    scale: float = 1.0,
    offset: float = 0.0,
    name: str | None = None,
    masks: Mapping[str, torch.Tensor] | None = None,
    **parameters: int,
) -> Loaded:
    """The graph of a module whose forward computes one time step: layers of torch and neurons of `training.spiking`.

    Neurons and layers of SpikingJelly and snnTorch may stand among them (docs/from_spikingjelly.md,
    docs/from_snntorch.md). A module of SpikingJelly's step mode 'm' takes all steps at once.

    Weights that are exactly 0 (pruned ones among them) are synapses that do not exist. Batch norms are folded, dropouts
    left out. Populations are named after their neuron modules, connections after their layers.

    example_input: a tensor as the module takes it, (batch, n), (batch, channels, length) or (batch, channels, height,
    width), with the steps in front where it takes all at once; only its shape is used.  steps: time steps of a sample.
    coding: `rate`, `graded` or `current`, with its own parameters (threshold; payload_bits; shift).  scale, offset:
    what the module gets for a value x of a sample, `offset + scale * x` (rate: for a spike, `scale`).  masks: parameter
    name, such as "conv1.weight", -> where its synapses are, also of weight 0.

    Returns the graph, and diagnostics of what was changed on the way.

    Raises:
        SnncError: operators that no spiking network on a chip computes, all of them at once, each with its place;
            shapes that do not chain; a module that torch.fx cannot trace.
    """
    for where, got, kind in (("module", module, nn.Module), ("example_input", example_input, torch.Tensor)):
        if not isinstance(got, kind):
            raise SnncError("a module and a tensor are needed", where=where, got=type(got).__name__, allowed=str(kind))
    name = type(module).__name__ if name is None else name
    traced = _traced(module, name)
    all_steps = any(foreign.takes_all_steps(part) for part in module.modules())
    axes = tuple(example_input.shape)[all_steps:]
    try:
        shape = layer_shape(axes)
    except Unsupported as problem:
        raise SnncError(
            "the example is no batch of inputs",
            where="example_input",
            got=f"shape {tuple(example_input.shape)}",
            allowed=f"{'steps, and for each ' if all_steps else ''}(batch, n), (batch, channels, length) or (batch, "
            "channels, height, width)",
        ) from problem
    source = make_input(coding, INPUT, math.prod(shape), None, scale=scale, offset=offset, **parameters)
    walk = _Walk(module, Network(source, shape), axes, masks or {}, all_steps=all_steps)
    output = walk.run(traced, name)
    metadata = {"trained_with.torch": str(torch.__version__)}
    graph = walk.network.graph(output, steps, name, metadata, where=name)
    return Loaded(graph, (*walk.diagnostics, *walk.network.diagnostics))


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        ours = isinstance(m, (spiking.Stateful, spiking.SumPool2d)) or (
            foreign.is_foreign(m) and not foreign.container(m)
        )
        return ours or translation(m) is not None or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        # What a container of SpikingJelly adds is the loop over time.
        step = partial(nn.Sequential.forward, m) if foreign.container(m) else forward  # type: ignore[arg-type]
        return super().call_module(m, step, args, kwargs)


def _traced(module: nn.Module, name: str) -> fx.Graph:
    try:
        return _Tracer().trace(module)
    except Exception as error:
        # The user's forward ran on stand-ins for tensors; it may raise anything.
        raise SnncError(
            "torch.fx cannot trace the module",
            where=name,
            got=(str(error).splitlines() or [type(error).__name__])[0][:200],
            allowed="a forward of one time step, in which nothing depends on the values of tensors",
            remedy="take branches and loops over values out of forward, and the loop over time: `steps` says how long "
            "a sample lasts",
        ) from error


class _Lost:
    """The value of a node that could not be translated, or that reads one that could not."""


_LOST = _Lost()


class _Walk(Tracing):
    """Goes through the traced nodes once; what cannot be translated is noted, and the walk goes on without it."""

    def __init__(
        self,
        module: nn.Module,
        network: Network,
        shape: tuple[int, ...],
        masks: Mapping[str, torch.Tensor],
        *,
        all_steps: bool,
    ) -> None:
        self.module, self.network, self.shape, self.masks, self.all_steps = module, network, shape, masks, all_steps
        self.carrying: list[foreign.Fired] = []
        self.node: fx.Node | None = None
        self.diagnostics: list[Diagnostic] = []
        self.problems: list[str] = []
        self.failed: SnncError | None = None
        self.values: dict[fx.Node, Any] = {}
        self.calls: Counter[str] = Counter()
        self.parameters: set[str] = set()
        self.layer_name = self.place = ""

    def run(self, graph: fx.Graph, name: str) -> str:
        """The layer that gives the module's output.

        Raises:
            SnncError: see `from_torch`.
        """
        for node in graph.nodes:
            try:
                self.values[node] = self._value(node)
            except Unsupported as problem:
                said = f"{self.place}: {problem}"
                if said not in self.problems:
                    self.problems.append(said)
                self.values[node] = _LOST
            except SnncError as error:
                # What torch has and we have not is said first, and all of it.
                self.failed = self.failed or error
                self.values[node] = _LOST
        if self.problems:
            raise SnncError(
                f"{len(self.problems)} operator{'s' if len(self.problems) > 1 else ''} cannot be deployed",
                where=name,
                got="".join(f"\n    {problem}" for problem in self.problems),
                allowed="linear layers, convolutions, pooling, batch norm, sums, concatenation, and neurons of "
                "toolchain.training.spiking, SpikingJelly or snnTorch (docs/from_torch.md)",
            )
        if self.failed is not None:
            raise self.failed
        unknown = sorted(set(self.masks) - self.parameters)
        if unknown:
            raise SnncError(
                "a mask of no layer with weights",
                where=f"masks[{unknown[0]!r}]",
                allowed=nearest(unknown[0], self.parameters),
            )
        output = self.values[node]
        assert isinstance(output, Output)
        return output.layer

    # For the translations.

    def layer(
        self, kind: type[layers.Node], inputs: Sequence[Output], *, axes: Shape | None = None, **fields: Any
    ) -> Output:
        self.calls[self.layer_name] += 1
        name = _numbered(self.layer_name, self.calls[self.layer_name])
        node = kind(name=name, inputs=tuple(x.layer for x in inputs), place=self.place, **fields)
        tensor = self.network.add(node)
        return Output(name, torch_shape(tensor.shape, inputs[0]) if axes is None else axes)

    def mask(self, name: str, weight: NDArray[Any]) -> NDArray[np.bool_]:
        self.parameters.add(name)
        given = self.masks.get(name)
        if given is None:
            return weight != 0
        mask = given.detach().cpu().numpy().astype(bool)
        if mask.shape != weight.shape:
            raise SnncError(
                "mask and weight differ in shape", where=f"masks[{name!r}]", got=mask.shape, allowed=weight.shape
            )
        self.diagnostics.extend(layers.outside(name, weight, mask))
        return mask

    def note(self, diagnostic: Diagnostic) -> None:
        self.diagnostics.append(diagnostic)

    def reads_potential(self) -> bool:
        assert self.node is not None
        users = list(self.node.users)
        if [user.op for user in users] == ["output"]:
            return True
        # Of a tuple: its first entry, the spikes, has no other reader, and another one is read.
        return any(user.args[1:] != (0,) for user in users) and all(
            user.target is operator.getitem and (user.args[1] != 0 or {r.op for r in user.users} <= {"output"})
            for user in users
        )

    # What torch.fx has traced.

    def _value(self, node: fx.Node) -> Any:
        target: Any = node.target
        self.node = node
        module = self.module.get_submodule(str(target)) if node.op == "call_module" else None
        path = str(target) if module is not None else _path(node)
        self.layer_name = path
        self.place = f"{path} ({_described(node, module)})"
        args, options = fx.node.map_arg((node.args, node.kwargs), self.values.__getitem__)
        read: list[Any] = []
        fx.node.map_aggregate((args, options), read.append)
        lost = any(value is _LOST for value in read)
        if node.op == "placeholder":
            return self._placeholder(node)
        if node.op == "get_attr":
            return operator.attrgetter(str(target))(self.module)
        if node.op == "output":
            return args[0] if lost else self._answer(args[0])
        if target is operator.getitem and isinstance(args[0], foreign.Fired):
            return args[0][args[1]]
        _check_in_place(node, self.module)
        if self.all_steps and self._is_rate(node, module, args, options):
            return args[0]
        _check_states(module, args, read)
        from_input = any(isinstance(value, Output) for value in read)
        if module is not None:
            return self._module(module, path, args, options, lost=lost, from_input=from_input)
        translate = FUNCTIONS.get(target) if node.op == "call_function" else METHODS.get(target)
        # Numbers, such as a batch size, are computed as they stand; of what is lost only tensors are worth a word.
        if translate is None and (from_input or (lost and is_of_tensors(target))):
            raise Unsupported(reason(target))
        if lost:
            return _LOST
        if not from_input:
            method = node.op == "call_method"
            return _called(getattr(args[0], target) if method else target, *args[method:], **options)
        return _called(translate, self, *args, **options)

    def _module(
        self,
        module: nn.Module,
        path: str,
        args: Sequence[Any],
        options: Mapping[str, Any],
        *,
        lost: bool,
        from_input: bool,
    ) -> Any:
        translate = translation(module) or foreign.translation(module)
        if translate is None:
            raise Unsupported(reason(module))
        check_module(module)
        if isinstance(module, spiking.Stateful) and self.calls[path]:
            raise Unsupported("it is called twice in a step, but has one state: use a module for each call")
        if foreign.framework(module) is not None and self.calls[path]:
            raise Unsupported(f"it is called more than once, but has one state: {foreign.ONE_STEP}")
        if lost:
            return _LOST
        if not from_input:
            raise Unsupported("it does not read the input")
        value = _called(translate, self, module, path, *args, **options)
        if isinstance(value, foreign.Fired) and any(isinstance(a, foreign.Carried) for a in (*args, *options.values())):
            self.carrying.append(value)
        return value

    def _is_rate(
        self, node: fx.Node, module: nn.Module | None, args: Sequence[Any], options: Mapping[str, Any]
    ) -> bool:
        """Check what is called with all steps at once; whether it is the mean over them that a network ends in."""
        stack = (str(target) for target in (*node.meta.get("nn_module_stack", ()), *([node.target] if module else ())))
        parents = {".".join(path.split(".")[:n]) for path in stack for n in range(1, path.count(".") + 2)}
        by_step = any(
            foreign.container(self.module.get_submodule(path)) for path in {"", *parents} - {str(node.target)}
        )
        if module is not None:
            foreign.check_steps(module, by_step=by_step)
        elif not by_step and (node.target in ("mean", torch.mean)) and [*args[1:], *options.values()] in ([0], [(0,)]):
            if any(user.op != "output" for user in node.users):
                raise Unsupported("a mean over time in the middle of the network")
            return True
        elif not by_step and node.target not in foreign.FUNCTIONS_BY_STEP:
            raise Unsupported(f"it gets all steps at once: {foreign.ONE_BY_ONE}")
        return False

    def _answer(self, value: Any) -> Output:
        """The output among what forward returns: spikes, or a readout's potential, beside states."""
        values = value if isinstance(value, (tuple, list)) else (value,)
        states = [v for v in values if isinstance(v, foreign.State)]
        back = [v for v in values if isinstance(v, foreign.Fired)] + [state.neurons for state in states]
        for fired in self.carrying:
            if fired not in back:
                raise Unsupported(f"the state of {fired.path!r} is not returned: {foreign.ONE_STEP}")
        given = [v for v in values if isinstance(v, Output)]
        answers = given + [fired.spikes for fired in back if fired.readout or fired in values]
        if states and not answers:
            raise Unsupported(
                "the membrane potential of neurons that spike and are reset: return their spikes, or set "
                "reset_mechanism='none' for the last neurons"
            )
        if not answers or (len(given) > 1 and not back):
            raise Unsupported("the output has to be one tensor, made from the input")
        made = list(self.network.layers)
        return max(answers, key=lambda answer: made.index(answer.layer))

    def _placeholder(self, node: fx.Node) -> Any:
        if not self.values:
            return Output(self.network.source.name, self.shape)
        if node.args:
            return node.args[0]
        if not any(foreign.framework(part) for part in self.module.modules()):
            raise Unsupported("the module takes more than one input")
        return foreign.Carried(str(node.target))


def _called(translate: Any, *args: Any, **options: Any) -> Any:
    try:
        return translate(*args, **options)
    except (TypeError, ValueError, ArithmeticError, RuntimeError, LookupError) as error:
        # Settings that the operator itself would refuse, or that its translation does not know.
        raise Unsupported((str(error).splitlines() or [type(error).__name__])[0][:200]) from error


def _path(node: fx.Node) -> str:
    """The name of a traced function: the module that calls it, and its own name."""
    stack = [str(key) for key in node.meta.get("nn_module_stack", ())]
    return ".".join([*stack[-1:], node.name])


def _described(node: fx.Node, module: nn.Module | None) -> str:
    if module is not None:
        return type(module).__name__
    return str(getattr(node.target, "__name__", node.target))


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}[{number}]"


def _check_states(module: nn.Module | None, args: Sequence[Any], read: Sequence[Any]) -> None:
    """Refuse what reads a state and is not its neurons."""
    kept = (foreign.State, foreign.Carried, foreign.Fired)
    of_neurons = module is not None and foreign.framework(module) is not None
    for value in args[:1] if of_neurons else read:
        if isinstance(value, kept):
            raise Unsupported(
                "it reads a state of neurons, or what can only be one; on the chip nothing but spikes leaves neurons"
            )


def _check_in_place(node: fx.Node, root: nn.Module) -> None:
    """Refuse a change in place that somebody else may see: the trace says who reads which result, not which memory.

    (Of x += y torch.fx sees x = x + y.)
    """
    changed = node.args[0] if node.args else None
    in_place = node.op == "call_method" and str(node.target).endswith("_") and not str(node.target).endswith("__")
    if not in_place or not isinstance(changed, fx.Node):
        return
    made_by = type(root.get_submodule(str(changed.target))) if changed.op == "call_module" else changed.target
    if len(changed.users) > 1 or made_by not in FRESH or not node.users:
        raise Unsupported("it changes a tensor in place that others may read: use the function without _")

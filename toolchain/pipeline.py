"""The road from a trained graph to cores: one ordered tuple of steps, each with the reason for its place.

`check`, `estimate` and `compile` are the same steps, stopped earlier or written out: they cannot disagree.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from hw_targets import Target
from toolchain import rules
from toolchain.errors import Diagnostic, DoesNotFit, Violation
from toolchain.ir import Graph, Program, QuantisedGraph
from toolchain.mapping.mesh import Mesh
from toolchain.mapping.partition import METHODS, Costing, Partition, partition, ruled_out
from toolchain.mapping.place import Mapping as CoreMapping
from toolchain.mapping.place import place
from toolchain.mapping.synapse_memory import FormatChoice
from toolchain.mapping.usage import Limit, Usage
from toolchain.passes.bounds import Bounds, bound_diagnostics, state_bounds
from toolchain.passes.discretize_neurons import DiscretizeNeurons
from toolchain.passes.drop_zero_synapses import DropZeroSynapses
from toolchain.passes.quantize_weights import QuantizeWeights
from toolchain.passes.remove_dead_neurons import RemoveDeadNeurons


@dataclass(frozen=True)
class Options:
    """What the user chose. None: what the target, or training, prescribes.

    board: a board or machine of the target, which then says how many chips there are; else `chips` does.
    search: how maps are cut, one of `toolchain.mapping.partition.METHODS`.
    """

    weight_bits: int | None = None
    cost_model: str | None = None
    chips: int = 1
    board: str | None = None
    search: str = METHODS[0]
    share_cores: bool = True
    encodings: tuple[str, ...] | None = None
    sign_lists: tuple[str, ...] | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Options:
        """From plain values, as `dataclasses.asdict` and JSON give them.

        Raises:
            TypeError: an option that does not exist, or a value of the wrong kind.
        """
        known: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        options = cls(**known)
        kinds: dict[str, tuple[tuple[object, ...], type]] = {
            "weight_bits": ((options.weight_bits,), int),
            "chips": ((options.chips,), int),
            "share_cores": ((options.share_cores,), bool),
            "cost_model": ((options.cost_model,), str),
            "board": ((options.board,), str),
            "search": ((options.search,), str),
            "encodings": (options.encodings or (), str),
            "sign_lists": (options.sign_lists or (), str),
        }
        for key, (found, kind) in kinds.items():
            optional = key in ("weight_bits", "cost_model", "board")
            if not isinstance(found, tuple) or any(type(v) is not kind and not (v is None and optional) for v in found):
                raise TypeError(f"option {key!r} cannot be {getattr(options, key)!r}")
        if options.search not in METHODS:
            raise TypeError(f"option 'search' cannot be {options.search!r}")
        return options


T = TypeVar("T")


def _there(value: T | None) -> T:
    assert value is not None, "a step ran before the one that it stands on"
    return value


@dataclass(frozen=True, eq=False)
class Compilation:
    """Everything known about one compilation so far; each step returns a new one with its result filled in."""

    target: Target
    options: Options
    graph: Graph
    quantised_: QuantisedGraph | None = None
    whole_: Program | None = None
    program_: Program | None = None
    bounds: tuple[Bounds, ...] = ()
    cut_: Partition | None = None
    mapping_: CoreMapping | None = None
    diagnostics: tuple[Diagnostic, ...] = ()
    violations: tuple[Violation, ...] = ()
    notes: tuple[tuple[str, str], ...] = field(default=())

    @property
    def quantised(self) -> QuantisedGraph:
        return _there(self.quantised_)

    @property
    def whole(self) -> Program:
        """The program before dead neurons were removed: its neurons are those that were trained."""
        return _there(self.whole_)

    @property
    def program(self) -> Program:
        return _there(self.program_)

    @property
    def cut(self) -> Partition:
        return _there(self.cut_)

    @property
    def mapping(self) -> CoreMapping:
        return _there(self.mapping_)

    @property
    def weight_bits(self) -> int:
        """The bits asked for, else those of training where all layers agree, else the target's."""
        if self.options.weight_bits is not None:
            return self.options.weight_bits
        trained = {c.weight_bits for c in self.graph.connections}
        bits = trained.pop() if len(trained) == 1 else None
        return rules.default_weight_bits(self.target) if bits is None else bits

    @property
    def chips(self) -> int:
        """How many chips there are.

        Raises:
            UsageError: the target has no such board.
        """
        board = self.options.board
        return self.options.chips if board is None else rules.board(self.target, board).chips

    @property
    def mesh(self) -> Mesh | None:
        """Where the cores of the target, on the board if one was chosen, stand; None where the target does not say."""
        board = self.options.board
        return rules.mesh(self.target, None if board is None else rules.board(self.target, board))

    @property
    def costing(self) -> Costing:
        model = self.options.cost_model or self.target.default_cost_model
        parameters = rules.cost_parameters(self.target, model)
        default = FormatChoice(max_formats=parameters.get("formats"))
        return Costing(
            model=model,
            parameters=parameters,
            choice=replace(
                default,
                encodings=self.options.encodings or default.encodings,
                sign_lists=self.options.sign_lists or default.sign_lists,
            ),
            input_on_chip=rules.input_on_chip(self.target),
        )

    def limits(self, usage: Usage) -> Sequence[Limit]:
        """The rules of one core applied to amounts."""
        return rules.core_limits(usage, self.target, self.costing.model)

    def done(self, note: str, diagnostics: Sequence[Diagnostic] = (), **results: object) -> Compilation:
        """This compilation with the results of one step."""
        return replace(
            self,
            diagnostics=(*self.diagnostics, *diagnostics),
            notes=(*self.notes, ("", note)),
            **results,  # type: ignore[arg-type]
        )


def check_graph(state: Compilation) -> Compilation:
    rules.check_target(state.target)
    state.chips  # noqa: B018  (raises, before any work)
    state.graph.verify()
    synapses = sum(c.synapses.connectivity.n_synapses for c in state.graph.connections)
    neurons = sum(p.size for p in state.graph.populations)
    return state.done(f"{neurons} neurons, {synapses} synapses")


def quantise_weights(state: Compilation) -> Compilation:
    violations = rules.check_weight_bits(state.weight_bits, state.target)
    if violations:
        raise DoesNotFit(f"{state.target.name} has no such weights", violations)
    quantised, diagnostics = QuantizeWeights(state.weight_bits).run(state.graph)
    return state.done(f"to {state.weight_bits} bits", diagnostics, quantised_=quantised)


def drop_zero_synapses(state: Compilation) -> Compilation:
    quantised, diagnostics = DropZeroSynapses().run(state.quantised)
    return state.done(f"{sum(d.count for d in diagnostics)}", diagnostics, quantised_=quantised)


def discretise_neurons(state: Compilation) -> Compilation:
    program, diagnostics = DiscretizeNeurons().run(state.quantised)
    program.verify()
    return state.done(f"{len(program.populations)} populations", diagnostics, whole_=program)


def remove_dead_neurons(state: Compilation) -> Compilation:
    program, diagnostics = RemoveDeadNeurons().run(state.whole)
    program.verify()
    return state.done(f"{sum(d.count for d in diagnostics)}", diagnostics, program_=program)


def prove_bounds(state: Compilation) -> Compilation:
    bounds = state_bounds(state.program)
    proved = "proved" if all(b.u_proved for b in bounds) else "NOT proved"
    return state.done(f"no overflow {proved}", bound_diagnostics(bounds), bounds=bounds)


def check_formats(state: Compilation) -> Compilation:
    violations = tuple(rules.check_program(state.program, state.target))
    return state.done(f"{len(violations)} violations", violations=violations)


def rule_out(state: Compilation) -> Compilation:
    found = ruled_out(state.program, state.costing, state.limits, state.options.search)
    if found:
        compartments = sum(p.size * state.costing.neuron_size(p) for p in state.program.populations)
        refused = rules.check_ruled_out(found, compartments, state.target, state.chips)
        violations = (*state.violations, *refused)
        raise DoesNotFit(f"{state.graph.name} does not fit {state.target.name}", violations)
    return state.done("every neuron may fit a core")


def cut_into_slices(state: Compilation) -> Compilation:
    cut = partition(state.program, state.costing, state.limits, state.options.search)
    return state.done(f"{len(cut.slices)} slices", cut_=cut)


def place_on_cores(state: Compilation) -> Compilation:
    mapping = place(
        state.program,
        state.cut,
        state.costing,
        state.limits,
        target=state.target.name,
        cores_per_chip=rules.cores_per_chip(state.target),
        share_cores=state.options.share_cores,
        chips=state.chips,
        method=state.options.search,
    )
    return state.done(f"{len(mapping.cores)} core{'s' * (len(mapping.cores) != 1)}", mapping_=mapping)


def check_limits(state: Compilation) -> Compilation:
    violations = rules.check_mapping(state.mapping, state.target, state.chips)
    every = (*state.violations, *violations)
    if every:
        raise DoesNotFit(f"{state.graph.name} does not fit {state.target.name}", every)
    return state.done(rules.verdict(state.target), violations=every)


@dataclass(frozen=True)
class Step:
    """One step of the pipeline, and why it stands where it stands."""

    name: str
    run: Callable[[Compilation], Compilation]
    reason: str


STEPS = (
    Step("check the graph", check_graph, "nothing later may meet sizes that do not chain, or a NaN"),
    Step("quantise weights", quantise_weights, "scales of neurons follow from the steps of their weights"),
    Step("drop zero synapses", drop_zero_synapses, "only rounding tells which weights are zero"),
    Step("discretise neurons", discretise_neurons, "needs the final weights to choose a scale that cannot overflow"),
    Step("remove dead neurons", remove_dead_neurons, "only integers tell exactly who never fires; saves compartments"),
    Step("prove bounds", prove_bounds, "on the weights that are left"),
    Step("check number formats", check_formats, "registers first: what they refuse needs no cores"),
    Step("rule out", rule_out, "what no slicing can keep is refused before any slice is searched"),
    Step("cut into slices", cut_into_slices, "the final synapses decide what fits a core"),
    Step("place on cores", place_on_cores, "small slices share cores once all slices are known"),
    Step("check the limits", check_limits, "independent of the search: the finished mapping, rule by rule"),
)


Observer = Callable[[int, int, str, str, float], None]
"""Called after each step with its number, how many there are, its name, its note, and its seconds."""
Beginning = Callable[[str], None]
"""Called before each step with its name."""


LAST_PASS = "check number formats"
"""The last step before cores are looked for: with it the program is final."""


def compile_graph(
    graph: Graph,
    target: Target,
    options: Options | None = None,
    observe: Observer | None = None,
    *,
    until: str | None = None,
    begins: Beginning | None = None,
) -> Compilation:
    """Run all steps, or those up to and including the one named `until`.

    Raises:
        SnncError: the graph is damaged or cannot be represented.
        DoesNotFit: it breaks rules of the target; all violations at once.
    """
    state = Compilation(target, options or Options(), graph)
    for number, step in enumerate(STEPS, start=1):
        began = time.perf_counter()
        if begins is not None:
            begins(step.name)
        state = step.run(state)
        note = state.notes[-1][1]
        state = replace(state, notes=(*state.notes[:-1], (step.name, note)))
        if observe is not None:
            observe(number, len(STEPS), step.name, note, time.perf_counter() - began)
        if step.name == until:
            break
    return state

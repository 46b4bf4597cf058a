"""The steps in their order, what each leaves behind, and that stopping earlier tells the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import strategies
from hypothesis import given, settings
from hypothesis import strategies as st
from small_graphs import network
from small_maps import map_network
from small_targets import small_target

import hw_targets
from toolchain import build, rules
from toolchain.backends import reference
from toolchain.errors import DoesNotFit, SnncError, UsageError
from toolchain.ir import Graph
from toolchain.mapping.partition import METHODS
from toolchain.pipeline import LAST_PASS, STEPS, Compilation, Options, compile_graph

LOIHI, LOIHI2 = hw_targets.load("loihi"), hw_targets.load("loihi2")


def test_the_order_of_the_steps() -> None:
    assert [step.name for step in STEPS] == [
        "check the graph",
        "quantise weights",
        "drop zero synapses",
        "discretise neurons",
        "remove dead neurons",
        "prove bounds",
        "check number formats",
        "rule out",
        "cut into slices",
        "place on cores",
        "check the limits",
    ]
    assert all(step.reason for step in STEPS)


def test_what_each_step_leaves_behind() -> None:
    state = Compilation(LOIHI, Options(weight_bits=3), network(density=0.6))
    after = {}
    for step in STEPS:
        state = step.run(state)
        after[step.name] = state
    quantised = after["quantise weights"].quantised
    assert all(c.synapses.weight_bits == 3 for c in quantised.connections)
    assert any((c.synapses.mantissa == 0).any() for c in quantised.connections)
    dropped = after["drop zero synapses"].quantised
    assert all((c.synapses.mantissa != 0).all() for c in dropped.connections)
    assert after["discretise neurons"].whole.populations[-1].size == 10
    final = after["remove dead neurons"].program
    heard = sum(c.synapses.connectivity.fan_out for c in final.out_of(final.input.name))
    assert (heard > 0).all()
    assert [b.population for b in after["prove bounds"].bounds] == [p.name for p in final.populations]
    placed = after["place on cores"].mapping
    assert sum(len(s) for core in placed.cores for s in core.slices) == final.input.size + sum(
        p.size for p in final.populations
    )
    assert state.violations == ()
    samples = np.random.default_rng(0).integers(0, 256, (5, 40)).astype(np.uint8)
    whole, deployed = reference.run(state.whole, samples), reference.run(state.program, samples)
    assert np.array_equal(whole.spikes["fc2"], deployed.spikes["fc2"])


def test_a_step_before_its_time_is_our_own_fault() -> None:
    with pytest.raises(AssertionError, match="ran before"):
        STEPS[3].run(Compilation(LOIHI, Options(), network()))


def test_the_observer_sees_every_step_and_nothing_is_changed() -> None:
    graph, seen = network(), []
    before = [c.synapses.weights.copy() for c in graph.connections]
    begun: list[str] = []
    state = compile_graph(graph, LOIHI, observe=lambda *about: seen.append(about), begins=begun.append)
    assert begun == [step.name for step in STEPS]
    assert [(number, of, name) for number, of, name, _, _ in seen] == [
        (k, len(STEPS), step.name) for k, step in enumerate(STEPS, start=1)
    ]
    assert [note for _, _, _, note, _ in seen] == [note for _, note in state.notes]
    assert [name for name, _ in state.notes] == [step.name for step in STEPS]
    assert all(np.array_equal(a, c.synapses.weights) for a, c in zip(before, graph.connections, strict=True))
    assert state.graph is graph


def test_stopping_earlier_tells_the_same() -> None:
    graph = network(density=0.6)
    stopped, whole = compile_graph(graph, LOIHI, until=LAST_PASS), compile_graph(graph, LOIHI)
    assert stopped.program == whole.program
    assert stopped.notes == whole.notes[: len(stopped.notes)]
    assert stopped.notes[-1][0] == LAST_PASS
    assert stopped.mapping_ is None


@settings(max_examples=40)
@given(strategies.graphs(), st.sampled_from((LOIHI, LOIHI2)), st.sampled_from((None, 2, 4, 8)))
def test_any_graph_compiles_or_is_refused_with_place_or_rules(graph: Graph, target, bits) -> None:
    try:
        state = compile_graph(graph, target, Options(weight_bits=bits))
    except DoesNotFit as error:
        assert error.violations  # noqa: PT017 (one of two outcomes)
        assert all(v.where and v.source for v in error.violations)  # noqa: PT017 (one of two outcomes)
        return
    except SnncError as error:
        assert error.where  # noqa: PT017 (one of two outcomes)
        return
    state.program.verify()
    assert build.map_program(state.program, state).to_dict() == state.mapping.to_dict()
    for core in state.mapping.cores:
        assert not [limit for limit in state.limits(core.usage) if limit.broken]


# ---------------------------------------------------------------------- options


def test_weight_bits_are_those_asked_for_then_trained_then_the_targets() -> None:
    trained = network(weight_bits=4)
    assert Compilation(LOIHI, Options(), network()).weight_bits == 8
    assert Compilation(LOIHI, Options(), trained).weight_bits == 4
    assert Compilation(LOIHI, Options(weight_bits=6), trained).weight_bits == 6
    mixed = replace(trained, connections=(trained.connections[0], replace(trained.connections[1], weight_bits=5)))
    assert Compilation(LOIHI, Options(), mixed).weight_bits == 8


def test_a_trained_step_reaches_the_program() -> None:
    graph = network(weight_bits=4)
    state = compile_graph(graph, LOIHI)
    assert [c.step for c in state.quantised.connections] == [c.weight_step for c in graph.connections]
    assert not [d for d in state.diagnostics if d.code in ("QNT010", "QNT011")]


def test_bits_that_the_chip_does_not_have() -> None:
    with pytest.raises(DoesNotFit, match="no such weights") as caught:
        compile_graph(network(), LOIHI, Options(weight_bits=7))
    assert [v.value for v in caught.value.violations] == [7]
    assert compile_graph(network(), LOIHI2, Options(weight_bits=7)).weight_bits == 7


def test_a_board_says_how_many_chips_there_are() -> None:
    boards = {system.name: system.chips for system in LOIHI.systems}
    name, chips = next((name, chips) for name, chips in boards.items() if chips > 1)
    assert Compilation(LOIHI, Options(board=name), network()).chips == chips
    assert Compilation(LOIHI, Options(chips=3), network()).chips == 3
    with pytest.raises(UsageError, match="no board 'nahuko'") as caught:
        compile_graph(network(), LOIHI, Options(board="nahuko"))
    assert "did you mean" in str(caught.value)


@pytest.mark.parametrize("search", METHODS)
def test_maps_are_cut_as_asked_and_the_build_finds_the_same_cores(search: str) -> None:
    target = small_target(compartments_per_core=48)
    state = compile_graph(map_network(), target, Options(search=search, chips=4))
    assert build.map_program(state.program, state).to_dict() == state.mapping.to_dict()
    fewest = compile_graph(map_network(), target, Options(chips=4))
    assert len(state.cut.slices) >= len(fewest.cut.slices)


def test_an_unknown_cost_model_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match="nengo"):
        compile_graph(network(), LOIHI, Options(cost_model="nxft"))


@pytest.mark.parametrize("bad", [{"chips": "1"}, {"chips": True}, {"weight_bits": 8.0}, {"share_cores": 1}, {"x": 1}])
def test_options_from_plain_values_are_checked(bad: dict) -> None:
    with pytest.raises(TypeError):
        Options.from_dict(bad)


# ---------------------------------------------------------------------- what does not fit


def test_all_violations_at_once() -> None:
    """Payload, registers, several cores and the number of cores, in one answer."""
    target = small_target(cores_per_chip=2, input_axons_per_core=20, bias_exponent_max=1, compartments_per_core=9)
    with pytest.raises(DoesNotFit) as caught:
        compile_graph(network(coding="graded", density=1.0), target)
    found = {(v.where.split(" (")[0], v.rule) for v in caught.value.violations}
    assert {
        ("input", "spikes carry no such payload"),
        ("fc1", "input axons"),
        ("fc2", "input axons"),
    } <= found
    assert any(rule == "cores of 1 chip" for _, rule in found)
    assert any(rule == "bias exponent max" for _, rule in found)


def test_checking_and_compiling_tell_the_same() -> None:
    """The last step is the only one that refuses for a mapping: everything before it is the same for both."""
    target = small_target(cores_per_chip=2, compartments_per_core=9)
    state = Compilation(target, Options(), network())
    for step in STEPS[:-1]:
        state = step.run(state)
    told = (*state.violations, *rules.check_mapping(state.mapping, target, 1))
    with pytest.raises(DoesNotFit) as caught:
        compile_graph(network(), target)
    assert caught.value.violations == told
    assert told


def test_a_nan_is_refused_in_the_first_step() -> None:
    graph = network()
    graph.connections[0].synapses.weights[3] = np.nan
    seen = []
    with pytest.raises(SnncError, match="NaN") as caught:
        compile_graph(graph, LOIHI, observe=lambda *about: seen.append(about))
    assert caught.value.where.startswith("fc1.weight")
    assert seen == []

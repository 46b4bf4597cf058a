"""Feature maps cut into boxes: every neuron once, limits kept, amounts counted again; resets, delays, cycles, sums."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import slow_convolution
from hypothesis import given, settings
from hypothesis import strategies as st
from small_targets import costing_of, limits_of, small_target

from toolchain.ir import (
    Compartments,
    Connectivity,
    Convolution,
    IntegerConnection,
    IntegerSynapses,
    Program,
    make_input,
)
from toolchain.mapping.axons import EntryTables, OutputAxons
from toolchain.mapping.partition import METHODS, Partition, partition, ruled_out
from toolchain.mapping.slices import Slice


def synapses_of(pattern, seed: int = 0) -> IntegerSynapses:
    mantissa = np.random.default_rng(seed).integers(-127, 128, pattern.n_weights)
    mantissa[mantissa == 0] = 1
    return IntegerSynapses(pattern, mantissa.astype(np.int16), 0, 8, "mixed")


def population(name: str, size: int, reset: str = "zero") -> Compartments:
    return Compartments(name, size, 4096, 0, 100, np.zeros(size, np.int16), reset=reset)


def chain_of(
    patterns: list, reset: str = "zero", coding: str = "rate", extra: tuple[tuple[str, str, object, int], ...] = ()
) -> Program:
    """Populations p0, p1, ... fed one by the other, and extra connections (source, target, pattern, delay)."""
    populations, connections, source = [], [], "input"
    for k, pattern in enumerate(patterns):
        populations.append(population(f"p{k}", pattern.n_targets, reset))
        connections.append(IntegerConnection(f"w{k}", source, f"p{k}", synapses_of(pattern, k)))
        source = f"p{k}"
    for k, (start, end, pattern, delay) in enumerate(extra):
        connections.append(IntegerConnection(f"x{k}", start, end, synapses_of(pattern, 50 + k), delay))
    entry = make_input(coding, "input", patterns[0].n_sources)
    program = Program("maps", entry, tuple(populations), tuple(connections), 4)
    program.verify()
    return program


def full(source: tuple[int, int, int], outputs: int, kernel: int, stride: int = 1, pad: int = 0) -> Convolution:
    mask = np.ones((outputs, source[0], kernel, kernel), bool)
    return Convolution.of(source, mask, stride=(stride, stride), padding=((pad, pad), (pad, pad)))[0]


@st.composite
def networks(draw: st.DrawFn):
    shape = (draw(st.integers(1, 2)), draw(st.integers(3, 7)), draw(st.integers(3, 7)))
    patterns: list = []
    for _ in range(draw(st.integers(1, 2))):
        kernel = draw(st.integers(1, min(3, *shape[1:])))
        pad = draw(st.integers(0, kernel - 1))
        patterns.append(full(shape, draw(st.integers(1, 4)), kernel, draw(st.integers(1, 2)), pad))
        shape = patterns[-1].target
    if draw(st.booleans()):
        patterns.append(Connectivity.from_mask(np.ones((draw(st.integers(1, 5)), int(np.prod(shape))), bool)))
    reset = draw(st.sampled_from(["zero", "zero", "subtract"]))
    target = small_target(
        compartments_per_core=draw(st.integers(6, 60)),
        input_axons_per_core=draw(st.integers(20, 120)),
        output_axons_per_core=draw(st.integers(20, 120)),
        synapse_words_per_core=draw(st.integers(40, 400)),
    )
    return chain_of(patterns, reset), target, draw(st.sampled_from(METHODS))


@settings(max_examples=60)
@given(networks())
def test_the_cut_is_what_it_says(case) -> None:
    program, target, method = case
    costing = costing_of(target)
    limits = limits_of(target, "nxtf")
    cut = partition(program, costing, limits, method)
    covers(program, cut)
    never = {(name, limit.rule) for name, limit in cut.impossible}
    size = {p.name: costing.neuron_size(p) for p in program.populations}
    out = entries(program, cut, size)
    for s in cut.slices:
        for limit in limits(s.usage):
            assert not limit.broken or (s.population, limit.rule) in never, (str(s), limit)
        n = size.get(s.population, 1)
        resets = len(s) * (n - 1)
        assert s.usage.output_axons == out[str(s)] + resets, str(s)
        assert s.usage.synapses == sum(onto(program, name, s) for name in s.costs) + resets
        assert s.usage.synapse_words == sum(cost.words for cost in s.costs.values()) + resets
        assert s.usage.input_axons == sum(cost.n_axons for cost in s.costs.values()) + resets
        bits = s.usage.payload_bits + s.usage.index_bits + s.usage.header_bits + s.usage.padding_bits
        assert bits == 64 * s.usage.synapse_words


def covers(program: Program, cut: Partition) -> None:
    """Every neuron stands in exactly one slice."""
    shapes = program.shapes
    for name in {s.population for s in cut.slices}:
        neurons = np.concatenate([s.region.neurons() for s in cut.slices if s.population == name])
        assert sorted(neurons.tolist()) == list(range(int(np.prod(shapes[name]))))


def onto(program: Program, name: str, s: Slice) -> int:
    """Synapses of a connection onto a slice, from the unrolled connectivity."""
    (c,) = [c for c in program.connections if c.name == name]
    listed, _ = c.synapses.connectivity.unroll()
    return int(np.isin(listed.targets, s.region.neurons()).sum())


def entries(program: Program, cut: Partition, size: dict[str, int]) -> dict[str, int]:
    """Output axon entries of every slice: one a neuron and slice it sends to, two for a column that shares its axon."""
    shapes = program.shapes
    heard: dict[str, list[tuple[bool, set[int]]]] = {}
    for s in cut.slices:
        for name in s.costs:
            (c,) = [c for c in program.connections if c.name == name]
            if isinstance(c.synapses.connectivity, Convolution):
                onto = slow_convolution.synapses_onto(c.synapses.connectivity, s.region.ranges)
                senders = {int(np.ravel_multi_index(place, shapes[c.source])) for place in onto}
                alone = program.out_of(c.source) == (c,)
                shared = alone and size.get(c.source, 1) == size.get(c.target, 1) == 1
            else:
                listed, _ = c.synapses.connectivity.unroll()
                senders, shared = set(listed.sources[np.isin(listed.targets, s.region.neurons())].tolist()), False
            heard.setdefault(c.source, []).append((shared, senders))
    found = {}
    for s in cut.slices:
        mine = set(s.region.neurons().tolist())
        listeners = heard.get(s.population, [])
        times = {n: sum(n in senders for _, senders in listeners) for n in mine}
        total = 0
        for shared, senders in listeners:
            columns = set()
            for n in mine & senders:
                if shared and times[n] == 1:
                    c, _, x = np.unravel_index(n, shapes[s.population])
                    columns.add((int(c), int(x)))
                else:
                    total += 1
            total += 2 * len(columns)
        found[str(s)] = total
    return found


def cut_of(program: Program, method: str = "fewest", **limits: int) -> Partition:
    target = small_target(**limits)
    cut = partition(program, costing_of(target), limits_of(target, "nxtf"), method)
    covers(program, cut)
    return cut


def slices_of(cut: Partition, name: str) -> list[Slice]:
    return [s for s in cut.slices if s.population == name]


def test_the_next_smaller_cut_and_what_it_breaks_are_told() -> None:
    cut = cut_of(chain_of([full((1, 8, 8), 4, 3, 1, 1)]), compartments_per_core=64, input_axons_per_core=200)
    (reason,) = [r for r in cut.reasons if r.population == "p0"]
    assert reason.n_slices == len(slices_of(cut, "p0")) >= 4
    assert reason.fewer < reason.n_slices
    assert reason.broken == () or reason.broken[0].broken


def test_what_no_slicing_of_a_map_keeps_is_told() -> None:
    """27 sources for one neuron."""
    cut = cut_of(chain_of([full((3, 6, 6), 2, 3)], coding="graded"), input_axons_per_core=26, compartments_per_core=8)
    assert [(name, limit.rule, limit.value) for name, limit in cut.impossible] == [("p0", "input axons", 27)]
    assert all(len(s) <= 8 for s in cut.slices)  # the other limits still hold


def test_subtraction_takes_a_second_compartment_and_a_synapse_to_itself() -> None:
    pattern = full((1, 5, 5), 2, 3)
    plain, twice = (cut_of(chain_of([pattern], reset, "graded")).slices for reset in ("zero", "subtract"))
    (a,), (b,) = plain, twice
    assert b.usage.compartments == 2 * a.usage.compartments + 2 * a.usage.compartments % 4
    assert (b.usage.output_axons, b.own.input_axons, b.own.synapse_words) == (18, 18, 18)
    assert b.usage.destination_groups == 2 * a.usage.destination_groups
    assert b.usage.input_axons == 25 + 18  # nobody shares an axon
    flat = chain_of([Connectivity.from_mask(np.ones((4, 3), bool))], "subtract", "graded")
    (c,) = cut_of(flat).slices
    assert (c.usage.compartments, c.usage.input_axons, c.usage.output_axons) == (8, 3 + 4, 4)


def test_destination_groups_limit_how_many_columns_share() -> None:
    """A 1x1 kernel makes every column a group of its own."""
    cut = cut_of(chain_of([full((1, 2, 20), 1, 1)], coding="graded"), destination_groups_per_core=16)
    assert {s.region.extents for s in cut.slices} == {(1, 2, 10)}
    assert [s.usage.destination_groups for s in cut.slices] == [10, 10]


def test_delays_are_stored_in_a_field_that_holds_them() -> None:
    """A skip past two layers arrives three steps later: two are stored, in a field of three bits."""
    first, second = full((1, 6, 6), 2, 3, 1, 1), full((2, 6, 6), 2, 3, 1, 1)
    skip = full((1, 6, 6), 2, 1)
    program = chain_of([first, second, full((2, 6, 6), 2, 1)], extra=(("input", "p2", skip, 0),))
    assert program.chip_delays["x0"] == 3
    cut = cut_of(program)
    for s in slices_of(cut, "p2"):
        assert s.usage.delay_bits == 3
        assert {f.delay_bits for f in s.costs["x0"].formats} == {3}
        assert {f.delay_bits for f in s.costs["w2"].formats} == {0}
    assert all(s.usage.delay_bits == 0 for s in slices_of(cut, "p1"))


@pytest.mark.parametrize("method", METHODS)
def test_connections_that_lead_back_count_into_the_output_axons(method: str) -> None:
    first = full((1, 6, 6), 3, 3, 1, 1)
    itself = full((3, 6, 6), 3, 3, 1, 1)
    back = Connectivity.from_mask(np.ones((108, 4), bool))
    head = Connectivity.from_mask(np.ones((4, 108), bool))
    program = chain_of([first, head], extra=(("p0", "p0", itself, 1), ("p1", "p0", back, 2)))
    cut = cut_of(program, method, compartments_per_core=40, output_axons_per_core=250)
    assert cut.impossible == ()
    assert len(slices_of(cut, "p0")) > 1
    out = entries(program, cut, {})
    for s in cut.slices:
        assert s.usage.output_axons == out[str(s)] <= 250


def test_two_convolutions_into_one_map_share_its_numbering() -> None:
    """A residual sum: 3x3 and 1x1 into one population. The 1x1 kernel shares by position within a group."""
    wide, narrow = full((2, 9, 9), 4, 3, 1, 1), full((2, 9, 9), 4, 1)
    program = chain_of([full((1, 9, 9), 2, 3, 1, 1), wide], extra=(("p0", "p1", narrow, 0),))
    cut = cut_of(program)
    (s,) = slices_of(cut, "p1")
    layout = s.parts["w1"].layout  # type: ignore[attr-defined]
    assert layout == s.parts["x0"].layout  # type: ignore[attr-defined]
    assert max(layout.widths) == 3
    assert s.costs["x0"].shared_groups == 6  # three places in a group, two channels
    assert len(s.usage.formats) <= 7


def test_lists_onto_a_map_follow_its_numbering() -> None:
    pattern = full((1, 6, 6), 2, 3, 1, 1)
    listed = Connectivity.from_mask(np.random.default_rng(0).random((72, 36)) < 0.4)
    program = chain_of([pattern], extra=(("input", "p0", listed, 0),))
    cut = cut_of(program, compartments_per_core=40)
    for s in slices_of(cut, "p0"):
        part = s.parts["x0"]
        place = part.layout.indices().reshape(-1)  # type: ignore[attr-defined]
        number = dict(zip(place.tolist(), s.region.of(np.arange(72)).reshape(-1).tolist(), strict=True))
        lists = part.written(str(s))
        lists.connectivity.verify("part")
        back = {
            (int(a), number[int(b)])
            for a, b in zip(lists.connectivity.sources, lists.connectivity.targets, strict=True)
        }
        neurons = set(s.region.neurons().tolist())
        assert back == {
            (int(a), int(b)) for a, b in zip(listed.sources, listed.targets, strict=True) if int(b) in neurons
        }


def test_thresholds_of_their_own_are_counted_slice_by_slice() -> None:
    program = chain_of([full((1, 4, 4), 4, 1)], coding="graded")
    own = replace(program.populations[0], vth=np.repeat(np.arange(4, dtype=np.int32) + 50, 16))
    cut = cut_of(replace(program, populations=(own,)), threshold_configs_per_core=2)
    assert all(len(s.usage.threshold_configs) <= 2 for s in cut.slices)
    assert {s.region.extents[0] for s in cut.slices} == {2}


def test_large_maps_are_cut_by_kinds_of_slices() -> None:
    """A layer of 400,000 neurons: few of its slices differ, and only those are costed."""
    program = chain_of([full((16, 112, 112), 32, 3, 1, 1)], coding="graded")
    target = small_target()
    costing = costing_of(target)
    cut = partition(program, costing, limits_of(target, "nxtf"))
    costs = {id(s.costs["w0"].words_per_axon) for s in cut.slices}
    assert len(cut.slices) > 300
    assert len(costs) < 30
    covered = np.zeros((32, 112, 112), np.int8)
    for s in cut.slices:
        s.region.of(covered.reshape(-1))[...] += 1
    assert bool((covered == 1).all())
    assert len(list(itertools.islice(cut.slices, 3))) == 3


@settings(max_examples=80)
@given(st.data())
def test_tables_of_many_grids_are_those_of_each(data: st.DataObject) -> None:
    """Listeners are boxes, as slices make them: each is reached by shared axons from a part of its sources."""
    shape = tuple(data.draw(st.integers(1, 7)) for _ in range(3))
    out = OutputAxons.of(shape)
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    out.targets[:] = random.integers(0, 4, out.targets.size)
    cut = np.sort(random.integers(0, shape[1] + 1, 2))  # owners follow each other down the columns
    owner = np.repeat([1, 2, 3], np.diff([0, *cut, shape[1]]))[None, :, None]
    out.owner[:] = (owner * (random.random(shape) < 0.6)).reshape(-1)
    if data.draw(st.booleans()):
        out.crossing[:] = random.integers(0, 3, out.crossing.size)
    tables = EntryTables.of(out)
    for _ in range(3):
        steps = [data.draw(st.integers(1, n)) for n in shape]
        grid = [[(a, min(n, a + k)) for a in range(0, n, k)] for n, k in zip(shape, steps, strict=True)]
        assert np.array_equal(tables.table(grid), out.table(grid))
        assert np.array_equal(tables.crossing_table(grid), out.crossing_table(grid))
        assert out.least <= int(out.table(grid).sum())


def test_ruling_out_agrees_with_the_search() -> None:
    """What is ruled out before the search is what the search ends with, and what it leaves may still fail there."""
    kernel, pruned = full((3, 6, 6), 2, 3), np.random.default_rng(0).random((2, 3, 3, 3)) < 0.8
    heaviest = int(pruned.sum(axis=(1, 2, 3)).max())
    for axons in range(20, 30):
        for mask, sources in ((None, 27), (pruned, heaviest)):
            pattern = kernel if mask is None else Convolution.of((3, 6, 6), mask)[0]
            program, target = (
                chain_of([pattern], coding="graded"),
                small_target(input_axons_per_core=axons, compartments_per_core=8),
            )
            costing, limits = costing_of(target, "nxtf"), limits_of(target, "nxtf")
            early = ruled_out(program, costing, limits)
            late = partition(program, costing, limits).impossible
            assert {(name, limit.rule) for name, _, limit in early} == {
                (name, limit.rule) for name, limit in late if limit.rule == "input axons"
            }
            assert all(limit.value == sources and len(region) == 1 for _, region, limit in early)

"""Cores and chips: crossings are counted, and a cut that ignores them is made again."""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
import published_networks
import slow_mapping
from hypothesis import given, settings
from hypothesis import strategies as st
from small_maps import connection, kernel, lif, map_network
from small_targets import chain, costing_of, limits_of, mapped, small_target

import hw_targets
from toolchain import rules
from toolchain.ir import Graph, Program, make_input
from toolchain.mapping.orders import best_orders
from toolchain.mapping.packing import Packer
from toolchain.mapping.partition import partition
from toolchain.mapping.place import Mapping, place
from toolchain.mapping.region import Region
from toolchain.mapping.slices import Slice
from toolchain.mapping.usage import Usage
from toolchain.mapping.wiring import Wiring
from toolchain.pipeline import compile_graph


def test_cores_fill_chips_in_program_order() -> None:
    target = small_target(cores_per_chip=3, compartments_per_core=10)
    mapping = mapped(chain((40, 25, 5)), target, share_cores=False)
    assert [[str(s) for s in core.slices] for core in mapping.cores] == [
        ["input[0:10]"],
        ["input[10:20]"],
        ["input[20:30]"],
        ["input[30:40]"],
        ["fc1[0:8]"],
        ["fc1[8:17]"],
        ["fc1[17:25]"],
        ["fc2[0:5]"],
    ]
    assert [core.chip for core in mapping.cores] == [0, 0, 0, 1, 1, 1, 2, 2]
    assert mapping.n_chips == 3
    violations = rules.check_mapping(mapping, target, 2)
    assert [(v.rule, v.value, v.limit) for v in violations] == [("cores of 2 chips", 8, 6)]
    assert rules.check_mapping(mapping, target, 3) == ()


def test_small_layers_share_a_core() -> None:
    target = small_target()
    mapping = mapped(chain((20, 20, 20, 10)), target)
    assert len(mapping.cores) == 1
    assert [s.population for s in mapping.cores[0].slices] == ["input", "fc1", "fc2", "fc3"]
    assert mapping.cores[0].usage.compartments == 70
    assert len(mapped(chain((20, 20, 20, 10)), target, share_cores=False).cores) == 4


def test_an_output_axon_to_another_chip_is_charged_twice() -> None:
    target = small_target(cores_per_chip=1, compartments_per_core=10)
    mapping = mapped(chain((10, 20, 5)), target, share_cores=False)
    # input -> two slices, both on other chips; fc1 -> fc2, on another chip.
    assert [(c.usage.output_axons, c.usage.crossing_axons) for c in mapping.cores] == [
        (40, 20),
        (20, 10),
        (20, 10),
        (0, 0),
    ]


def test_crossings_at_the_limit_fit() -> None:
    for limit in (20, 19):
        target = small_target(cores_per_chip=1, compartments_per_core=10, output_axons_to_other_chips_per_core=limit)
        mapping = mapped(chain((10, 20, 5)), target, share_cores=False)
        assert rules.check_mapping(mapping, target, 10) == ()
        assert len(mapping.slices_of("input")) == (1 if limit == 20 else 2)
    reason = next(r for r in mapping.reasons if r.population == "input")
    assert [limit.rule for limit in reason.broken] == ["output axons to other chips"]


@settings(max_examples=60)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(4, 40),
    st.integers(4, 90),
    st.integers(1, 3),
    st.integers(4, 60),
    st.sampled_from((0.2, 1.0)),
    st.booleans(),
)
def test_a_cut_that_crossings_break_is_made_again_where_one_exists(
    seed, compartments, axons, cores, crossing, density, share
) -> None:
    """No neuron sends to more than 12 slices, so with 24 entries, 12 of them to other chips, a cut exists."""
    target = small_target(
        cores_per_chip=cores,
        compartments_per_core=compartments,
        output_axons_per_core=axons,
        output_axons_to_other_chips_per_core=crossing,
    )
    program = chain((20, 12, 4), density, seed=seed)
    mapping = mapped(program, target, "nengo", share)
    for core, use in zip(mapping.cores, slow_mapping.core_uses(program, mapping), strict=True):
        assert core.usage.output_axons == use["output_axons"]
        assert core.usage.crossing_axons == use["crossing_axons"]
    if axons >= 24 and crossing >= 12:
        assert rules.check_mapping(mapping, target, 10**4) == ()


def test_an_empty_core_row_does_not_exist() -> None:
    """A connection without a synapse still leaves every neuron on a core."""
    masks = (np.zeros((6, 5), bool),)
    mapping = mapped(chain((5, 6), masks=masks), small_target())
    assert sum(len(s) for core in mapping.cores for s in core.slices) == 11
    assert mapping.cores[0].usage.synapse_words == 0


def test_no_second_cut_where_the_chips_are_too_few_already() -> None:
    """The second cut only needs more cores, so the answer is the same: it does not fit."""
    target = small_target(cores_per_chip=1, compartments_per_core=10, output_axons_to_other_chips_per_core=19)
    program = chain((10, 20, 5))
    costing, limits = costing_of(target), limits_of(target, "nxtf")
    cut = partition(program, costing, limits)
    found = {
        chips: len(
            place(
                program, cut, costing, limits, target="t", cores_per_chip=1, share_cores=False, chips=chips
            ).slices_of("input")
        )
        for chips in (3, 4, None)
    }
    assert found == {3: 1, 4: 2, None: 2}


# ------------------------------------------------------------------------------------------------ feature maps


def crossing_axons(program: Program, mapping: Mapping) -> list[int]:
    """Output axons of every core to other chips, neuron by neuron.

    A neuron has an axon for each slice that it sends to; neurons of a column that all reach one slice and nothing else
    share one, so of these only the first in the slice is counted.
    """
    chip = {id(s): core.chip for core in mapping.cores for s in core.slices}
    found = []
    for core in mapping.cores:
        n = 0
        for s in core.slices:
            mine = set(s.region.neurons().tolist())
            shape = s.region.shape
            for t in mapping.slices:
                for name, cost in t.costs.items():
                    (c,) = [c for c in program.connections if c.name == name]
                    if c.source != s.population or chip[id(t)] == core.chip:
                        continue
                    box, sending, alone = cost.axons.sources()
                    whole, shared = np.zeros(shape, bool), np.zeros(shape, bool)
                    if sending.ndim == len(shape):
                        whole[box] = sending
                        shared[box] = False if alone is None else alone
                    else:
                        whole = sending.reshape(shape)
                    senders, partners = set(np.flatnonzero(whole).tolist()), set(np.flatnonzero(shared).tolist())
                    for neuron in mine & senders:
                        above = neuron - shape[-1]
                        first = neuron % (shape[-1] * shape[-2]) < shape[-1] if len(shape) == 3 else True
                        n += not (neuron in partners and not first and above in mine & partners)
        found.append(n)
    return found


@settings(max_examples=6)
@given(
    st.integers(0, 1),
    st.integers(16, 80),
    st.integers(60, 400),
    st.integers(1, 5),
    st.integers(20, 300),
    st.booleans(),
)
def test_maps_on_several_chips(seed, compartments, axons, cores, crossing, share) -> None:
    """Every neuron stands on one core, chips hold what they can, what crosses is counted, no broken limit is hidden."""
    target = small_target(
        cores_per_chip=cores,
        compartments_per_core=compartments,
        output_axons_per_core=axons,
        output_axons_to_other_chips_per_core=crossing,
    )
    program = maps_program(seed)
    mapping = mapped(program, target, share_cores=share)
    for p in (program.input, *program.populations):
        held = np.concatenate([s.region.neurons() for s in mapping.slices_of(p.name)])
        assert sorted(held.tolist()) == list(range(p.size))
    assert [core.index for core in mapping.cores] == list(range(len(mapping.cores)))
    chips = [core.chip for core in mapping.cores]
    assert chips == sorted(chips)
    assert max(np.bincount(chips)) <= cores
    assert share or all(len(core.slices) == 1 for core in mapping.cores)
    slow = crossing_axons(program, mapping)
    assert [core.usage.crossing_axons for core in mapping.cores] == slow
    for core, n in zip(mapping.cores, slow, strict=True):
        alone = sum((s.usage for s in core.slices), Usage())
        assert alone.crossing_axons == 0
        assert core.usage == alone + Usage(output_axons=n, crossing_axons=n)
    violations = rules.check_mapping(mapping, target, mapping.n_chips)
    assert all("one neuron alone" in (v.remedy or "") or crossing < 100 or axons < 200 for v in violations)


@cache
def maps_program(seed: int) -> Program:
    return compile_graph(map_network(seed=seed, side=6), hw_targets.load("loihi")).program


# ------------------------------------------------------------------------------------------------ orders, packing


def test_dense_layers_on_several_chips_are_cut_again_as_little_as_they_must() -> None:
    """Were every axon to cross, the input alone would take 200 cores, two neurons each."""
    target = small_target(
        cores_per_chip=64,
        compartments_per_core=40,
        output_axons_per_core=400,
        output_axons_to_other_chips_per_core=100,
        synapse_words_per_core=600,
    )
    program = chain((400, 250, 10))
    mapping = mapped(program, target, "nengo", share_cores=False)
    assert rules.check_mapping(mapping, target, mapping.n_chips) == ()
    assert 100 // len(mapping.slices_of("fc1")) == 2
    assert len(mapping.slices_of("input")) <= 140
    assert mapping.n_chips <= 3


def test_orders_across_the_layers_keep_neighbours_of_a_map_on_one_chip() -> None:
    """Whole layers on chips of their own send everything across; strips of all layers next to nothing."""
    target = small_target(cores_per_chip=8, compartments_per_core=32)
    start = (2, 16, 16)
    graph = conv_chain(start, 4)
    program = compile_graph(graph, hw_targets.load("loihi")).program
    costing, limits = costing_of(target), limits_of(target, "nxtf")
    cut = partition(program, costing, limits)
    wiring = Wiring(program, cut.slices)
    packer = Packer.of(cut.slices, limits, 8, True, lambda s, total: None)
    network = list(range(len(cut.slices)))
    orders = best_orders(wiring, packer)

    def crossing(order: list[int]) -> int:
        chips = np.empty(len(order), np.int64)
        chips[order] = np.arange(len(order)) // 8
        found = wiring.edges.crossing(chips)
        by_neuron = wiring.crossing(chips, wiring.owner)
        assert found.tolist() == [s.region.of(by_neuron[s.population]).sum() for s in wiring.slices]
        return int(found.sum())

    assert sorted(orders[0]) == network
    assert crossing(orders[0]) < 0.5 * crossing(network)


def conv_chain(start: tuple[int, int, int], n: int):
    populations, connections, source = [], [], "input"
    shape = start
    for k in range(1, n + 1):
        pattern = kernel(shape, 2, 3, padding=1, seed=k)
        populations.append(lif(f"conv{k}", pattern.n_targets))
        connections.append(connection(f"conv{k}.weight", source, f"conv{k}", pattern, seed=k))
        source, shape = f"conv{k}", pattern.target
    entry = make_input("rate", "input", int(np.prod(start)))
    return Graph("chain", entry, tuple(populations), tuple(connections), 4)


@settings(max_examples=30)
@given(st.integers(0, 99), st.integers(1, 12), st.integers(1, 4), st.booleans())
def test_packing_places_each_slice_once_and_keeps_every_limit(seed, capacity, repeats, share) -> None:
    random = np.random.default_rng(seed)
    target = small_target(compartments_per_core=50, output_axons_per_core=90)
    limits = limits_of(target, "nengo")
    usages = [
        Usage(compartments=int(random.integers(1, 51)), groups=1, output_axons=int(random.integers(0, 91)))
        for _ in range(int(random.integers(1, 40)))
    ] * repeats
    slices = [Slice("p", Region.flat(len(usages), k, k + 1), usage, {}) for k, usage in enumerate(usages)]
    packer = Packer.of(slices, limits, capacity, share, lambda s, total: None)
    order = random.permutation(len(slices)).tolist()
    chips = packer.fill(order, capacity)
    assert sorted(k for chip in chips for k in chip.members()) == list(range(len(slices)))
    for chip in chips:
        assert 1 <= len(chip.cores) <= capacity
        for core, total in zip(chip.cores, chip.totals, strict=True):
            assert share or len(core) == 1
            assert total == sum((s.usage for s in core.values()), Usage())
            assert not any(limit.broken for limit in limits(total))
    alone = packer.first_fit(range(len(slices)))
    assert sorted(alone.members()) == list(range(len(slices)))
    least = sum((s.usage for s in slices), Usage())
    assert len(alone.cores) >= max(least.compartments / 50, least.output_axons / 90)
    if share:  # first fit, largest first: never two cores that could be one
        for a, b in itertools.combinations(alone.totals, 2):
            assert any(limit.broken for limit in limits(a + b))


def test_neurons_at_one_position_cross_together_on_loihi_2() -> None:
    target = small_target("loihi2", cores_per_chip=1, compartments_per_core=40)
    graph = conv_chain((2, 6, 6), 2)
    program = compile_graph(graph, hw_targets.load("loihi2")).program
    mapping = mapped(program, target, share_cores=False)
    assert mapping.n_chips == len(mapping.cores) > 2
    for core in mapping.cores:
        (s,) = core.slices
        mine = set(s.region.neurons().tolist())
        n = 0
        for c in program.out_of(s.population):
            pairs = c.synapses.connectivity.unroll()[0]
            for other in mapping.cores:
                theirs = {n for t in other.slices if t.population == c.target for n in t.region.neurons().tolist()}
                sent = {int(a) for a, b in zip(pairs.sources, pairs.targets, strict=True) if int(b) in theirs}
                n += len({neuron % 36 for neuron in mine & sent}) if other is not core else 0
        assert core.usage.crossing_axons == n


def test_the_published_mobilenet_fills_one_chip_and_29_cores_of_another() -> None:
    """Rueckauer et al. print 157 cores on two chips, in the order of the layers; no limit on what crosses is broken."""
    target = hw_targets.load("loihi")
    program = published_networks.mobilenet()
    costing, limits = costing_of(target), limits_of(target, "nxtf")
    cut = partition(program, costing, limits, "nxtf")
    mapping = place(program, cut, costing, limits, target="loihi", cores_per_chip=128, share_cores=False, method="nxtf")
    assert np.bincount([core.chip for core in mapping.cores]).tolist() == [128, 29]
    assert rules.check_mapping(mapping, target, 2) == ()

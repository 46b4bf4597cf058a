"""Every neuron has a place, no core breaks a limit unnoticed, and no slice is there without a reason."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import slow_mapping
from hypothesis import given, settings
from hypothesis import strategies as st
from small_targets import chain, costing_of, limits_of, mapped, small_target

import hw_targets
from toolchain import rules
from toolchain.ir import Compartments, IntegerConnection, Program
from toolchain.mapping.partition import partition
from toolchain.mapping.place import Mapping
from toolchain.mapping.region import Region

LOIHI = hw_targets.load("loihi")
LOIHI2 = hw_targets.load("loihi2")

# Rule of a core -> what the slow count calls the amount, and the key of the target's limit.
AMOUNTS = {
    "compartments": ("compartments", "compartments_per_core"),
    "compartment configurations": ("compartment_configs", "compartment_configs_per_core"),
    "threshold configurations": ("threshold_configs", "threshold_configs_per_core"),
    "neuron groups": ("groups", "neuron_groups_per_core"),
    "input axons": ("input_axons", "input_axons_per_core"),
    "output axons": ("output_axons", "output_axons_per_core"),
    "output axons to other chips": ("crossing_axons", "output_axons_to_other_chips_per_core"),
    "synapse memory": ("synapse_words", "synapse_words_per_core"),
    "words per input axon": ("largest_list_words", "synapse_words_per_axon"),
}


@st.composite
def small_networks(draw: st.DrawFn) -> tuple[Program, hw_targets.Target, str, bool]:
    model = draw(st.sampled_from(("nxtf", "nengo", "loihi2-fitted")))
    base = "loihi2" if model == "loihi2-fitted" else "loihi"
    limits = {
        "compartments_per_core": draw(st.integers(2, 25)),
        "input_axons_per_core": draw(st.integers(3, 60)),
        "output_axons_per_core": draw(st.integers(2, 60)),
        "synapse_words_per_core": draw(st.integers(8, 150)),
        "cores_per_chip": draw(st.integers(1, 12)),
    }
    groups = draw(st.integers(1, 4))
    limits["neuron_groups_per_core" if base == "loihi2" else "threshold_configs_per_core"] = groups
    if model == "loihi2-fitted":
        limits["pool_words_per_core"] = draw(st.integers(20, 200))
    else:
        limits["synapse_words_per_axon"] = draw(st.integers(1, 6))
        limits["output_axons_to_other_chips_per_core"] = draw(st.integers(1, 40))
    if model == "nxtf":
        limits["synapse_formats_per_core"] = draw(st.integers(3, 8))
    sizes = tuple(draw(st.lists(st.integers(1, 28), min_size=2, max_size=4)))
    coding = draw(st.sampled_from(("rate", "graded", "current")))
    bits = draw(st.sampled_from((2, 4, 8)))
    density = draw(st.sampled_from((0.1, 0.4, 1.0)))
    program = chain(sizes, density, seed=draw(st.integers(0, 2**32 - 1)), coding=coding, bits=bits)
    return program, small_target(base, **limits), model, draw(st.booleans())


@settings(max_examples=120)
@given(small_networks())
def test_the_mapping_is_what_it_says(case) -> None:
    program, target, model, share = case
    mapping = mapped(program, target, model, share)
    every_neuron_once(program, mapping)
    amounts_are_true(program, target, mapping)
    reasons_are_true(program, target, mapping)
    if not share:
        assert all(len(core.slices) == 1 for core in mapping.cores)


def every_neuron_once(program: Program, mapping: Mapping) -> None:
    sizes = {p.name: p.size for p in program.populations}
    if program.input.on_chip:
        sizes[program.input.name] = program.input.size
    for name, size in sizes.items():
        at = 0
        for s in sorted(mapping.slices_of(name), key=lambda s: s.start):
            assert s.start == at < s.stop
            at = s.stop
        assert at == size
    assert {s.population for core in mapping.cores for s in core.slices} == set(sizes)
    assert [core.index for core in mapping.cores] == list(range(len(mapping.cores)))
    chips = [core.chip for core in mapping.cores]
    assert chips == sorted(chips)
    assert max(np.bincount(chips)) <= mapping.cores_per_chip


def amounts_are_true(program: Program, target: hw_targets.Target, mapping: Mapping) -> None:
    """Counted again; and the check finds exactly the cores that break a limit."""
    violations = rules.check_mapping(mapping, target, chips=1)
    told = {(v.where.split(" (")[0], v.rule): v.value for v in violations}
    never = {(name, limit.rule) for name, limit in mapping.impossible}
    too_few = len(mapping.cores) > target["cores_per_chip"]
    assert any("cores of 1 chip" in v.rule for v in violations) == too_few
    for core, use in zip(mapping.cores, slow_mapping.core_uses(program, mapping), strict=True):
        for key, value in use.items():
            found = getattr(core.usage, key)
            assert (found if isinstance(found, int) else len(found)) == value, key
        if too_few:  # then crossings are not told: which axons cross is not known
            use = {**use, "output_axons": use["output_axons"] - use["crossing_axons"], "crossing_axons": 0}
        for rule, (amount, key) in AMOUNTS.items():
            broken = key in target and use[amount] > target[key]
            excused = any((s.population, rule) in never for s in core.slices)
            assert ((f"core {core.index}", rule) in told) == (broken and not excused), rule
        if mapping.costing.model == "loihi2-fitted":
            # One word a neuron, one more for its axon map, one an input axon, one an axon entry.
            pool = use["synapse_words"] + 2 * use["compartments"] + use["input_axons"] + use["output_axons"]
            excused = any((s.population, "memory pool") in never for s in core.slices)
            broken = pool > target["pool_words_per_core"]
            assert ((f"core {core.index}", "memory pool") in told) == (broken and not excused)
        if core.usage.formats:
            assert len(core.usage.formats) <= target["synapse_formats_per_core"]
    n = len(mapping.cores)
    assert any(v.rule.startswith("cores of") for v in violations) == (n > target["cores_per_chip"])
    for name, limit in mapping.impossible:
        assert told[name, limit.rule] == limit.value > limit.limit


def reasons_are_true(program: Program, target: hw_targets.Target, mapping: Mapping) -> None:
    """One slice fewer, cut evenly, breaks a limit (counted again); and a single slice needs no reason."""
    for reason in mapping.reasons:
        n = len(mapping.slices_of(reason.population))
        assert reason.n_slices == n
        assert reason.fewer == n - 1
        assert bool(reason.broken) == (n > 1)
        assert all(limit.value > limit.limit for limit in reason.broken)


@settings(max_examples=60)
@given(small_networks())
def test_one_slice_fewer_does_not_fit(case) -> None:
    program, target, model, _ = case
    costing, limits = costing_of(target, model), limits_of(target, model)
    cut = partition(program, costing, limits)
    never = {name for name, _ in cut.impossible}
    for position, reason in enumerate(cut.reasons):
        name, k = reason.population, reason.fewer
        if k < 1 or name in never:
            continue
        slices = [s for s in cut.slices if s.population == name]
        edges = np.linspace(0, slices[-1].stop, k + 1).round().astype(int)
        later = {r.population for r in cut.reasons[position + 1 :]}
        fits = []
        for start, stop in itertools.pairwise(edges):
            part = replace(slices[0], region=Region.flat(slices[-1].stop, int(start), int(stop)))
            use = slow_mapping.slice_use(program, model, part) if model != "nxtf" else {}
            entries = 0
            for c in program.out_of(name):
                for s in (s for s in cut.slices if s.population == c.target and c.target in later):
                    heard = slow_mapping.lists_onto(program, c.name, s.start, s.stop)
                    entries += sum(start <= source < stop for source in heard)
            use.update(compartments=int(stop - start), output_axons=entries)
            if model == "nxtf":  # registers differ from slice to slice: taken from the accounting itself
                lists = [
                    costing.cost(_lists(program, c.name, costing).window(targets=(int(start), int(stop))))
                    for c in program.into(name)
                    if not (program.input.on_host and c.source == program.input.name)
                ]
                use["synapse_words"] = sum(x.words for x in lists)
                use["input_axons"] = sum(x.n_axons for x in lists)
                use["largest_list_words"] = max((x.largest_list_words for x in lists), default=0)
            within = all(use.get(a, 0) <= target[key] for a, key in AMOUNTS.values() if key in target)
            if model == "loihi2-fitted":
                pool = use["synapse_words"] + 2 * use["compartments"] + use["input_axons"] + entries
                within = within and pool <= target["pool_words_per_core"]
            fits.append(within)
        assert not all(fits), f"{name} fits {k} slices"


def _lists(program: Program, name: str, costing):
    from toolchain.mapping.partition import chip_lists

    return chip_lists(program, costing)[name]


@settings(max_examples=30)
@given(small_networks())
def test_the_search_is_deterministic(case) -> None:
    program, target, model, share = case
    assert mapped(program, target, model, share).to_dict() == mapped(program, target, model, share).to_dict()


@settings(max_examples=60)
@given(small_networks())
def test_sharing_never_takes_more_cores(case) -> None:
    program, target, model, _ = case
    alone, shared = mapped(program, target, model, False), mapped(program, target, model, True)
    # Else crossings may have asked for another cut, or the one without sharing keeps fewer limits.
    if alone.n_chips == 1 and not alone.impossible:
        assert len(shared.cores) <= len(alone.cores)


# ---------------------------------------------------------------------- published deployments


@pytest.mark.parametrize(
    ("hidden", "signs", "cores"),
    [(512, "shared_sign", 10), (512, "one_list", 6), (800, "shared_sign", 13), (800, "one_list", 9)],
)
def test_published_core_counts_of_dense_networks(hidden: int, signs: str, cores: int) -> None:
    """Intel's compiler, dense1, 8 bits, one layer a core, inputs on the chip: loihi-resource-model.md 2a."""
    program = chain((784, hidden, 10))
    mapping = mapped(program, LOIHI, share_cores=False, encodings=("dense1",), sign_lists=(signs,))
    assert len(mapping.cores) == cores
    assert rules.check_mapping(mapping, LOIHI, 1) == ()


def test_published_cores_of_a_dense_network_on_loihi_2() -> None:
    mapping = mapped(chain((784, 128, 64, 10), coding="graded"), LOIHI2, share_cores=False)
    assert [len(mapping.slices_of(f"fc{k}")) for k in (1, 2, 3)] == [3, 1, 1]
    assert rules.check_mapping(mapping, LOIHI2, 1) == ()


# ---------------------------------------------------------------------- limits, one by one


def one_layer_slices(n_in: int, n_out: int, coding: str = "graded", **limits: int) -> int:
    target = small_target("loihi", **limits)
    mapping = mapped(chain((n_in, n_out), coding=coding), target, "nengo")
    assert rules.check_mapping(mapping, target, 1) == ()
    return len(mapping.slices_of("fc1" if coding == "graded" else "input"))


def test_compartments_at_the_limit_fit_and_one_more_does_not() -> None:
    assert one_layer_slices(4, 20, compartments_per_core=20) == 1
    assert one_layer_slices(4, 21, compartments_per_core=20) == 2


def test_synapse_words_at_the_limit_fit_and_one_more_does_not() -> None:
    # nengo, dense: 20 synapses of 8 bits and 10 bits of header are 3 words, for each of 5 lists.
    assert one_layer_slices(5, 20, synapse_words_per_core=15) == 1
    assert one_layer_slices(5, 20, synapse_words_per_core=14) == 2


def test_words_per_axon_at_the_limit_fit_and_one_more_does_not() -> None:
    assert one_layer_slices(5, 20, synapse_words_per_axon=3) == 1
    assert one_layer_slices(5, 20, synapse_words_per_axon=2) == 2


def test_output_axons_at_the_limit_fit_and_one_more_does_not() -> None:
    # Three slices of fc1, so every input neuron has three entries.
    assert one_layer_slices(10, 30, "rate", compartments_per_core=10, output_axons_per_core=30) == 1
    assert one_layer_slices(10, 30, "rate", compartments_per_core=10, output_axons_per_core=29) == 2


def test_input_axons_at_the_limit_fit_and_one_more_does_not() -> None:
    """Two groups of neurons listen to four inputs each; together they listen to eight."""
    mask = np.zeros((6, 8), bool)
    mask[:3, :4] = mask[3:, 4:] = True
    for limit, slices in ((8, 1), (7, 2)):
        target = small_target(input_axons_per_core=limit)
        mapping = mapped(chain((8, 6), coding="graded", masks=(mask,)), target, "nengo")
        assert len(mapping.slices_of("fc1")) == slices
        assert rules.check_mapping(mapping, target, 1) == ()


@pytest.mark.parametrize(
    ("limits", "rule", "value", "limit"),
    [
        ({"input_axons_per_core": 9}, "input axons", 10, 9),
        ({"synapse_words_per_core": 9}, "synapse memory", 10, 9),
        ({"output_axons_per_core": 3, "compartments_per_core": 10}, "output axons", 4, 3),
    ],
)
def test_what_no_slicing_keeps_is_told_once_and_ends(limits, rule, value, limit) -> None:
    """A neuron with a fan-in of 10, or one that sends to 4 slices, breaks the limit by itself."""
    target = small_target(**limits)
    mapping = mapped(chain((10, 40)), target, "nengo")
    violations = rules.check_mapping(mapping, target, 1)
    told = [(v.rule, v.value, v.limit) for v in violations]
    assert told == [(rule, value, limit)]
    assert violations[0].remedy.startswith("even one neuron alone breaks it: ")
    assert len(mapping.cores) < 40  # the other limits still decide how many slices there are


def test_several_impossible_limits_are_told_together() -> None:
    target = small_target(input_axons_per_core=9, synapse_words_per_core=9)
    violations = rules.check_mapping(mapped(chain((10, 40)), target, "nengo"), target, 1)
    assert {(v.where, v.rule) for v in violations} == {("fc1", "input axons"), ("fc1", "synapse memory")}


def test_an_impossible_list_of_one_synapse_ends() -> None:
    """No limit of words lets a list of one synapse through that needs two: found only by trying single neurons."""
    target = small_target(synapse_words_per_axon=1)
    program = chain((3, 5), coding="graded")
    costing, limits = costing_of(target, "nengo"), limits_of(target, "nengo")
    wide = replace(costing, parameters={**costing.parameters, "count_bits": 60})
    cut = partition(program, wide, limits)
    assert [(name, limit.rule, limit.value) for name, limit in cut.impossible] == [("fc1", "words per input axon", 2)]
    assert len(cut.slices) == 1


def test_connections_into_one_population_share_the_registers_of_a_core() -> None:
    """Two layers into one: what each would like alone is more than a core has."""
    random = np.random.default_rng(1)
    first = chain((60, 80, 100), 0.3, seed=1)
    # Runs of neighbours, lone synapses and both signs: every connection alone takes all registers it can get.
    mask = random.random((100, 80)) < np.linspace(0.02, 1.0, 80)
    second = chain((80, 100), masks=(mask,), seed=3).connections[0]
    other = Compartments("other", 80, 4096, 0, 100, np.zeros(80, np.int16))
    program = Program(
        "two",
        first.input,
        (first.populations[0], other, first.populations[1]),
        (
            first.connections[0],
            IntegerConnection("o1", "input", "other", first.connections[0].synapses),
            replace(
                chain((80, 100), masks=(mask,), seed=4, bits=4).connections[0], name="a", source="fc1", target="fc2"
            ),
            replace(second, name="b", source="other", target="fc2"),
        ),
        4,
    )
    program.verify()
    for registers in (2, 3, 4, 7):
        target = small_target(synapse_formats_per_core=registers)
        mapping = mapped(program, target)
        assert rules.check_mapping(mapping, target, 1) == ()
        assert len(mapping.slices_of("fc2")) == 1  # registers shared, not slices cut until each needs few
        every_neuron_once(program, mapping)
        amounts_are_true(program, target, mapping)

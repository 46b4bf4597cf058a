"""Convolutions: shared lists, counted again synapse by synapse; axons; layouts; every cost model."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import slow_convolution
from hypothesis import given, settings
from hypothesis import strategies as st

import hw_targets
from toolchain.errors import SnncError
from toolchain.ir import Convolution, IntegerSynapses
from toolchain.mapping.convolution import ConvolvedSynapses, Layout, destination_groups, merge_formats
from toolchain.mapping.region import Region
from toolchain.mapping.synapse_memory import ENCODINGS, FormatChoice

RULE = hw_targets.load("loihi").parameters("nxtf")


@st.composite
def convolutions(draw: st.DrawFn) -> Convolution:
    channels, outputs = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    kernel = draw(st.sampled_from([(1, 1), (3, 3), (2, 3), (1, 5), (4, 2)]))
    stride = draw(st.sampled_from([(1, 1), (2, 2), (1, 3), (3, 1)]))
    dilation = draw(st.sampled_from([(1, 1), (1, 1), (2, 2)]))
    padding = tuple((draw(st.integers(0, k - 1)), draw(st.integers(0, k - 1))) for k in kernel)
    source = tuple(draw(st.integers(d * (k - 1) + 1, 9)) for k, d in zip(kernel, dilation, strict=True))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    depthwise = draw(st.booleans())
    shape = (channels, 1, *kernel) if depthwise else (outputs, channels, *kernel)
    mask = random.random(shape) < draw(st.sampled_from([1.0, 1.0, 0.5, 0.15]))
    groups = channels if depthwise else 1
    made, _ = Convolution.of(
        (channels, *source), mask, stride=stride, padding=padding, dilation=dilation, groups=groups
    )
    return made


def synapses_of(pattern: Convolution, seed: int = 0, bits: int = 8) -> IntegerSynapses:
    half = 1 << (bits - 1)
    mantissa = np.random.default_rng(seed).integers(-half + 1, half, pattern.n_weights)
    mantissa[mantissa == 0] = 1
    return IntegerSynapses(pattern, mantissa.astype(np.int16), 0, bits, "mixed")


@st.composite
def slices(draw: st.DrawFn) -> tuple[Convolution, Region]:
    pattern = draw(convolutions())
    ranges = []
    for n in pattern.target:
        a = draw(st.integers(0, n - 1))
        ranges.append((a, draw(st.integers(a + 1, n))))
    return pattern, Region(pattern.target, tuple(ranges))


def layout_of(pattern: Convolution, region: Region, size: int = 1) -> Layout:
    return Layout(region.extents[0], region.extents[1], destination_groups(pattern, region.ranges[2]), size)


@settings(max_examples=150)
@given(slices(), st.sampled_from(ENCODINGS), st.sampled_from(["one_list", "shared_sign"]), st.integers(1, 2))
def test_a_slice_costs_what_the_rule_says(case, encoding: str, signs: str, size: int) -> None:
    pattern, region = case
    synapses = synapses_of(pattern)
    whole = ConvolvedSynapses(synapses, pattern)
    layout = layout_of(pattern, region, size)
    part = whole.onto(region, layout)
    cost = part.cost("nxtf", RULE, FormatChoice((encoding,), (signs,), None))
    slow = slow_convolution.slice_of(pattern, synapses.mantissa, region.ranges, encoding, signs, 8, size=size)
    assert (layout.compartments, layout.groups) == (slow.compartments, slow.bases)
    assert cost.words == sum(slow.groups) == int(cost.words_per_axon.sum())
    assert sorted(cost.words_per_axon[cost.words_per_axon > 0].tolist()) == sorted(slow.groups)
    assert cost.largest_list_words == slow.longest
    assert (cost.payload_bits, cost.entries) == (8 * slow.stored, slow.entries)
    assert (cost.n_axons, cost.synapses, cost.shared_groups) == (slow.axons, slow.synapses, slow.shared)
    assert cost.bits == 64 * cost.words
    assert cost.padding_bits >= 0
    box, sending, alone = cost.axons.sources()
    found = np.zeros(pattern.source, bool)
    found[box] = sending
    assert set(zip(*np.nonzero(found), strict=True)) == slow.senders
    assert alone is None
    for stored in np.flatnonzero(cost.words_per_axon):
        assert np.unravel_index(cost.source(int(stored)), pattern.source) in slow.senders


@settings(max_examples=60)
@given(slices(), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))
def test_columns_that_reach_one_slice_only_share_an_axon(case, rows: int, columns: int, channels: int) -> None:
    pattern, _ = case
    cut = [
        tuple((a, min(n, a + -(-n // k))) for a in range(0, n, -(-n // k)))
        for n, k in zip(pattern.target, (channels, rows, columns), strict=True)
    ]
    synapses = synapses_of(pattern)
    whole = ConvolvedSynapses(synapses, pattern)
    exclusive = whole.exclusive(tuple(cut), lambda ranges: None)  # type: ignore[arg-type,return-value]
    regions = [Region(pattern.target, ranges) for ranges in itertools.product(*cut)]
    reach = {  # by geometry, as the rule has it: a pruned kernel takes no axon more for sharing none
        region: {
            (c, y, x)
            for c in range(pattern.source[0])
            for y in range(pattern.source[1])
            for x in range(pattern.source[2])
            if reaches(pattern, region, c, y, x)
        }
        for region in regions
    }
    times = {}
    for found in reach.values():
        for source in found:
            times[source] = times.get(source, 0) + 1
    for region in regions:
        slow = slow_convolution.slice_of(
            pattern, synapses.mantissa, region.ranges, "sparse", "one_list", 8, lambda s: times[s] == 1
        )
        part = whole.onto(region, layout_of(pattern, region), exclusive)
        assert part.axons.n_axons == slow.axons
        box, _, alone = part.axons.sources()
        found = np.zeros(pattern.source, bool)
        found[box] = False if alone is None else alone
        assert set(zip(*np.nonzero(found), strict=True)) == {s for s in slow.senders if times[s] == 1}


def reaches(pattern: Convolution, region: Region, c: int, y: int, x: int) -> bool:
    """Whether a source's channel has an entry into the slice, and its row and column lie within its kernels' reach."""
    (a, b), *spans = region.ranges
    _, _, _, o = pattern.entries
    if not np.any((pattern.entries[0] == c) & (a <= o) & (o < b)):
        return False
    return all(
        any(at in pattern.reads(axis)[:, v] for v in range(*span))
        for axis, (at, span) in enumerate(zip((y, x), spans, strict=True))
    )


@settings(max_examples=60)
@given(slices(), st.integers(1, 2))
def test_compartments_are_numbered_once_and_shared_lists_shift_by_a_constant(case, size: int) -> None:
    pattern, region = case
    layout = layout_of(pattern, region, size)
    place = layout.indices()
    assert place.shape == region.extents
    assert len(np.unique(place)) == place.size
    assert int(place.max()) < layout.compartments
    # Sources in one row whose column pattern is the same have the same targets, but for one constant.
    reach = ConvolvedSynapses(synapses_of(pattern), pattern).reach(1, region.ranges[2], layout)
    bases: dict[int, set[tuple[int, ...]]] = {}
    for k, number in enumerate(reach.pattern):
        if number >= 0:
            reads = pattern.reads(1)[:, slice(*region.ranges[2])] == reach.first + k
            columns = sorted(set(np.nonzero(reads)[1].tolist()))
            index = place[0, 0, columns]
            bases.setdefault(number, set()).add(tuple((index - index[0]).tolist()))
    assert all(len(shifts) == 1 for shifts in bases.values())


def test_few_registers_merge_the_nearest_formats() -> None:
    needs = [(0, 6, 0), (0, 9, 0), (0, 10, 0), (1, 6, 0), (1, 10, 0)]
    assert merge_formats(needs, None, 8) == {need: need for need in needs}
    assert merge_formats(needs, 4, 8)[0, 9, 0] == (0, 10, 0)
    assert set(merge_formats(needs, 2, 8).values()) == {(0, 10, 0), (1, 10, 0)}
    assert len(set(merge_formats(needs, 1, 8).values())) == 2  # formats of different kind cannot merge


def whole_map(pattern: Convolution, synapses: IntegerSynapses):
    region = Region.whole(pattern.target)
    return ConvolvedSynapses(synapses, pattern).onto(region, layout_of(pattern, region))


def test_registers_that_are_given_are_used_or_refused() -> None:
    pattern, _ = Convolution.of((2, 8, 8), np.ones((8, 2, 3, 3), bool))
    part = whole_map(pattern, synapses_of(pattern))
    free = part.cost("nxtf", RULE, FormatChoice(("runlength",), ("one_list",), 7))
    again = part.cost("nxtf", RULE, FormatChoice(formats=free.formats))
    assert (again.words, set(again.formats) <= set(free.formats)) == (free.words, True)
    assert all(f.index_multiplier == len(part.layout.widths) - 1 for f in free.formats)
    with pytest.raises(SnncError, match="no register can hold the lists of a convolution"):
        part.cost("nxtf", RULE, FormatChoice(formats=free.formats[:1]))


def test_weights_beyond_one_list_are_written_in_two() -> None:
    pattern, _ = Convolution.of((1, 6, 6), np.ones((2, 1, 3, 3), bool))
    mantissa = np.tile(np.array([-200, 200, 90], np.int16), 6)
    part = whole_map(pattern, IntegerSynapses(pattern, mantissa, 0, 8, "mixed"))
    cost = part.cost("nxtf", RULE, FormatChoice())
    assert set(cost.axons_by_combination()) <= {f"{e}/shared_sign" for e in ENCODINGS}
    zeros = whole_map(pattern, IntegerSynapses(pattern, np.zeros(18, np.int16), 0, 8, "mixed"))
    assert not any(
        name.startswith("dense2") for name in zeros.cost("nxtf", RULE, FormatChoice()).words_by_combination()
    )


@pytest.mark.parametrize(("target", "model"), [("loihi", "nengo"), ("loihi2", "loihi2-fitted")])
def test_the_other_models_count_convolutions(target: str, model: str) -> None:
    rule = hw_targets.load(target).parameters(model)
    pattern, _ = Convolution.of((3, 9, 9), np.ones((8, 3, 3, 3), bool))
    part = whole_map(pattern, synapses_of(pattern))
    cost = part.cost(model, rule, FormatChoice())
    assert cost.bits == 64 * cost.words
    assert cost.padding_bits >= 0
    assert (cost.synapses, cost.n_axons) == (pattern.n_synapses, 3 * 81)
    if model == "loihi2-fitted":
        assert cost.words == 27 * -(-(8 * 8 + rule["header_bits"]) // 64)


def test_no_image_is_written_of_a_convolution() -> None:
    pattern, _ = Convolution.of((1, 6, 6), np.ones((2, 1, 3, 3), bool))
    with pytest.raises(SnncError, match="no image is written of a convolution") as caught:
        whole_map(pattern, synapses_of(pattern)).written("conv1[0:2, 0:4, 0:4]")
    assert "conv1[0:2, 0:4, 0:4]" in str(caught.value)

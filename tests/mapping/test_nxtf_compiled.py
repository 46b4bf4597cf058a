"""The compiled encoder gives what the definition in numpy gives, number for number."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_synapse_memory import LOIHI, RULE, lists_of, random_lists, slices

from toolchain.errors import SnncError
from toolchain.mapping import cost_models, nxtf_compiled
from toolchain.mapping.encoders_registers import IMPOSSIBLE, Written, define
from toolchain.mapping.nxtf_kernels import IMPOSSIBLE as COMPILED_IMPOSSIBLE
from toolchain.mapping.synapse_memory import ENCODINGS, SIGN_LISTS, FormatChoice, SynapseLists, cost_slice


def assert_equal(found: Written, expected: Written) -> None:
    assert np.array_equal(found.words, expected.words)
    assert np.array_equal(found.combination, expected.combination)
    assert (found.words.dtype, found.combination.dtype) == (expected.words.dtype, expected.combination.dtype)
    assert (found.entries, found.stored, found.bits) == (expected.entries, expected.stored, expected.bits)
    assert found.used == expected.used


choices = st.builds(
    FormatChoice,
    encodings=st.lists(st.sampled_from(ENCODINGS), min_size=1, unique=True).map(tuple),
    sign_lists=st.lists(st.sampled_from(SIGN_LISTS), min_size=1, unique=True).map(tuple),
    max_formats=st.sampled_from([None, 2, 3, 4, 7, 15]),
)


@settings(max_examples=250)
@given(slices(), choices, st.sampled_from([0, 3, 6]), st.sampled_from([-1, 0, 0, 0, 1]))
def test_every_number_of_the_definition(
    lists: SynapseLists, choice: FormatChoice, delay_bits: int, spare_bits: int
) -> None:
    # A spare bit less than the weights need: lists that no register can hold are charged the same impossible number.
    lists = replace(lists, delay_bits=delay_bits)
    weight_bits = max(1, lists.weight_bits + spare_bits)
    assert_equal(nxtf_compiled.write(lists, choice, weight_bits, RULE), define(lists, choice, weight_bits, RULE))


@pytest.mark.parametrize(
    ("seed", "n_sources", "n_targets", "density"),
    [
        (1, 600, 700, 0.03),
        (2, 300, 1024, 0.5),
        (3, 900, 60, 0.02),
        (4, 40, 1000, 1.0),
        (5, 1, 1, 0.0),
        (6, 200, 300, 0.2),
    ],
)
@pytest.mark.parametrize("limit", [2, 7, None])
def test_whole_slices(seed: int, n_sources: int, n_targets: int, density: float, limit: int | None) -> None:
    for weight_bits, zeros in ((8, True), (4, False)):
        lists = random_lists(seed, n_sources, n_targets, density, weight_bits, zeros)
        choice = FormatChoice(max_formats=limit)
        assert_equal(nxtf_compiled.write(lists, choice, weight_bits, RULE), define(lists, choice, weight_bits, RULE))


def test_given_registers() -> None:
    lists = random_lists(7, 120, 700, 0.04)
    formats = cost_slice("nxtf", lists, RULE).formats
    for some in (formats, formats[:3], ()):
        choice = FormatChoice(formats=some)
        assert_equal(nxtf_compiled.write(lists, choice, 8, RULE), define(lists, choice, 8, RULE))


def test_lists_without_synapses() -> None:
    for lists in (lists_of([([], [])]), lists_of([])):
        assert_equal(nxtf_compiled.write(lists, FormatChoice(), 8, RULE), define(lists, FormatChoice(), 8, RULE))


def test_refusals_are_those_of_the_definition() -> None:
    both_signs = lists_of([([1, 2], [1, -1])])
    with pytest.raises(SnncError, match="too few format registers"):
        nxtf_compiled.write(both_signs, FormatChoice(sign_lists=("shared_sign",), max_formats=1), 8, RULE)
    far = lists_of([([1 << 10], [1])], n_targets=(1 << 10) + 1)
    with pytest.raises(SnncError, match="does not fit the index field"):
        nxtf_compiled.write(far, FormatChoice(), 8, RULE)


def test_the_largest_index() -> None:
    last = lists_of([([0, (1 << 10) - 1], [1, 1])])
    assert_equal(nxtf_compiled.write(last, FormatChoice(), 8, RULE), define(last, FormatChoice(), 8, RULE))


def test_both_agree_on_what_is_impossible() -> None:
    assert COMPILED_IMPOSSIBLE == IMPOSSIBLE


def test_a_large_network_changes_over_and_costs_stay_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    lists = random_lists(8, 300, 500, 0.1)
    monkeypatch.setattr(cost_models, "_PATHS", cost_models._Paths(enough=1, patience=1))
    first, second = (cost_slice("nxtf", lists, LOIHI.parameters("nxtf")) for _ in range(2))
    assert cost_models._PATHS.write(lists) is nxtf_compiled.write
    assert np.array_equal(first.words_per_axon, second.words_per_axon)
    assert (first.bits, first.entries, first.formats) == (second.bits, second.entries, second.formats)


def test_where_nothing_can_be_compiled_numpy_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    lists = random_lists(8, 30, 50, 0.1)
    monkeypatch.setitem(sys.modules, "toolchain.mapping.nxtf_compiled", None)
    assert cost_models._Paths(enough=0, patience=0).write(lists) is define


@pytest.mark.parametrize("compiled", [True, False])
def test_numpy_has_more_to_do_before_anything_is_compiled(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    lists = random_lists(8, 30, 50, 0.1)
    monkeypatch.setattr(cost_models, "_is_compiled", lambda: compiled)
    paths = cost_models._Paths(enough=1, patience=6000)
    assert paths.write(lists) is define
    assert (paths.write(lists) is define) != compiled
    assert paths.write(lists) is nxtf_compiled.write

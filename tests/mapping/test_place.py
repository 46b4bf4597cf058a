"""Cores and chips: crossings are counted, and a cut that ignores them is made again."""

from __future__ import annotations

import numpy as np
import slow_mapping
from hypothesis import given, settings
from hypothesis import strategies as st
from small_targets import chain, costing_of, limits_of, mapped, small_target

from toolchain import rules
from toolchain.mapping.partition import partition
from toolchain.mapping.place import place


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

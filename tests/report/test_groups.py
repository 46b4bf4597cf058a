"""Cores in groups: every core in exactly one, with the least, the median and the most of each amount."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from toolchain.report.groups import core_groups, ranges, ranges_text, slices_text


def core(number: int, layers: list[str], used: int) -> dict:
    return {
        "core": number,
        "chip": number // 4,
        "slices": [{"population": layer} for layer in layers],
        "resources": {"compartments": {"used": used, "limit": 50, "percent": 2.0 * used}},
        "memory": {"kib": used / 8},
        "bound_by": "compartments",
    }


CORES = st.lists(st.tuples(st.lists(st.sampled_from("abc"), max_size=3), st.integers(0, 60)), max_size=30)


@given(CORES)
def test_every_core_is_in_one_group_with_its_like(drawn: list[tuple[list[str], int]]) -> None:
    cores = [core(k, layers, used) for k, (layers, used) in enumerate(drawn)]
    groups = core_groups(cores)
    seen: list[int] = []
    for group in groups:
        members = [n for first, last in group["cores"] for n in range(first, last + 1)]
        assert group["count"] == len(members)
        used = sorted(drawn[n][1] for n in members)
        found = group["resources"]["compartments"]
        assert (found["least"], found["most"], found["limit"]) == (used[0], used[-1], 50)
        assert found["median"] == used[(len(used) - 1) // 2]
        assert all({layer: drawn[n][0].count(layer) for layer in drawn[n][0]} == group["slices"] for n in members)
        assert drawn[group["fullest_core"]][1] == used[-1]
        assert {n // 4 for n in members} == {n for a, b in group["chips"] for n in range(a, b + 1)}
        seen += members
    assert sorted(seen) == list(range(len(cores)))
    firsts = [group["cores"][0][0] for group in groups]
    assert firsts == sorted(firsts)


def test_runs_in_words() -> None:
    assert ranges([3, 1, 2, 7]) == [[1, 3], [7, 7]]
    assert ranges_text([[12, 411], [415, 415]]) == "12-411, 415"
    assert ranges_text([[0, 0], [2, 2], [4, 9]]) == "0-9 in 3 runs"
    assert slices_text({"conv3": 1, "pool3": 2}) == "conv3, 2 x pool3"

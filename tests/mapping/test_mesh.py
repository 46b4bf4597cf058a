"""Where cores stand, and how far messages go, counted again neuron by neuron."""

from __future__ import annotations

import numpy as np
import slow_mapping
from hypothesis import given, settings
from hypothesis import strategies as st
from small_maps import map_network
from small_targets import chain, mapped, small_target

import hw_targets
from toolchain.mapping.mesh import Mesh
from toolchain.mapping.traffic import traffic
from toolchain.pipeline import compile_graph


def test_cores_stand_tile_by_tile_and_chips_side_by_side() -> None:
    row = Mesh(columns=3, rows=2, cores_per_tile=2)
    chips, cores = np.repeat([0, 1, 2], 12), np.tile(np.arange(12), 3)
    rows, columns = row.place(chips, cores)
    assert rows[:12].tolist() == [0] * 6 + [1] * 6
    assert columns[:12].tolist() == [0, 0, 1, 1, 2, 2] * 2
    assert columns[12:24].tolist() == [3, 3, 4, 4, 5, 5] * 2
    grid = Mesh(columns=3, rows=2, cores_per_tile=2, chips_per_row=2)
    rows, columns = grid.place(chips, cores)
    assert (rows[24], columns[24]) == (2, 0)
    assert (rows[12], columns[12]) == (0, 3)


@settings(max_examples=25)
@given(st.integers(0, 99), st.integers(1, 4), st.integers(4, 30), st.sampled_from((0.2, 1.0)), st.booleans())
def test_traffic_equals_a_count_message_by_message(seed, cores, compartments, density, share) -> None:
    target = small_target(cores_per_chip=cores, compartments_per_core=compartments)
    program = chain((14, 9, 4), density, seed=seed)
    mapping = mapped(program, target, "nengo", share)
    mesh = Mesh(columns=2, rows=1, cores_per_tile=1, chips_per_row=2)
    on_chip = [[c for c in mapping.cores if c.chip == chip] for chip in range(mapping.n_chips)]

    def stand(core) -> tuple[int, int]:
        local = on_chip[core.chip].index(core)
        return core.chip // 2 + local // 2, 2 * (core.chip % 2) + local % 2

    slow = dict.fromkeys(("messages", "within_core", "within_chip", "between_chips"), 0)
    slow.update(hops_east_west=0, hops_north_south=0, largest_hops=0)
    for core in mapping.cores:
        for s in core.slices:
            for c in program.connections:
                heard = [
                    (other, slow_mapping.lists_onto(program, c.name, t.start, t.stop))
                    for other in mapping.cores
                    for t in other.slices
                    if c.source == s.population and t.population == c.target
                ]
                for other, lists in heard:
                    for source in lists:
                        if s.start <= source < s.stop:
                            down, right = (abs(a - b) for a, b in zip(stand(core), stand(other), strict=True))
                            where = "within_chip" if core.chip == other.chip else "between_chips"
                            slow["messages"] += 1
                            slow["within_core" if core is other else where] += 1
                            slow["hops_east_west"] += right
                            slow["hops_north_south"] += down
                            slow["largest_hops"] = max(slow["largest_hops"], down + right)
    found = traffic(mapping, program, mesh)
    by_population = found.pop("populations")
    assert found == slow
    for key in ("messages", "between_chips", "hops_east_west"):
        assert sum(counts[key] for counts in by_population.values()) == found[key]


def test_a_target_without_a_mesh_has_no_hops() -> None:
    program = chain((14, 9, 4))
    found = traffic(mapped(program, small_target()), program)
    assert found["hops_east_west"] is found["hops_north_south"] is found["largest_hops"] is None
    assert found["messages"] == found["within_core"] == 14 + 9
    assert list(found["populations"]) == ["input", "fc1"]


def test_neurons_of_a_map_send_a_message_each_though_a_column_shares_an_axon() -> None:
    program = compile_graph(map_network(), hw_targets.load("loihi")).program
    mapping = mapped(program, small_target(compartments_per_core=60))
    found = traffic(mapping, program)["populations"]
    slow: dict[str, int] = {}
    for c in program.connections:
        pairs = c.synapses.connectivity.unroll()[0]
        owner = {int(n): k for k, s in enumerate(mapping.slices_of(c.target)) for n in s.region.neurons()}
        reached = {(int(a), owner[int(b)]) for a, b in zip(pairs.sources, pairs.targets, strict=True)}
        slow[c.source] = slow.get(c.source, 0) + len(reached)
    assert {name: counts["messages"] for name, counts in found.items()} == slow

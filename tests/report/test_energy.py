"""Energy of the way that messages go, and of convolutions."""

from __future__ import annotations

import pytest
from mapped import mapped_program
from small_maps import map_network

import hw_targets
from toolchain import report, rules
from toolchain.mapping.traffic import traffic
from toolchain.pipeline import compile_graph
from toolchain.simulation import backend, synaptic_operations

LOIHI = hw_targets.load("loihi")


@pytest.fixture(scope="module")
def done():
    program = compile_graph(map_network(), LOIHI).program
    return mapped_program(program, "loihi", cores_per_chip=1)


def test_hops_are_those_of_the_traffic_times_the_spikes_of_a_neuron(done) -> None:
    facts = done.report()
    sent = traffic(done.mapping, done.program, rules.mesh(LOIHI))
    spikes = {layer["name"]: 2.0 * layer["outputs"] for layer in facts["layers"]}
    found = report.energy({**facts, "traffic": sent}, LOIHI, spikes)
    assert found is not None
    parts = {part["part"]: part for part in found["energy"]}
    right, down = sent["hops_east_west"], sent["hops_north_south"]
    assert parts["mesh hops"]["events"] == pytest.approx(2 * (right + down))
    assert parts["mesh hops"]["nanojoule_low"] == pytest.approx(2 * (3.0 * right + 4.0 * down) / 1000, abs=1e-5)
    assert parts["spike messages"]["events"] == pytest.approx(2 * sent["messages"])
    assert any("numbered tile by tile" in note for note in found["notes"])


def test_without_a_mesh_no_hops_are_claimed(done) -> None:
    facts = {**done.report(), "traffic": traffic(done.mapping, done.program)}
    found = report.energy(facts, LOIHI, {})
    assert found is not None
    assert "mesh hops" not in {part["part"] for part in found["energy"]}
    assert any("routing between tiles is left out" in note for note in found["notes"])


def test_a_spike_into_a_convolution_makes_an_operation_at_every_place(done) -> None:
    """Counted spike by spike, and by the mean fan-out: equal where all neurons of a layer spike alike."""
    facts = done.report()
    spikes = {layer["name"]: float(layer["outputs"]) for layer in facts["layers"]}
    found = report.energy(facts, LOIHI, spikes)
    assert found is not None
    synapses = sum(c.synapses.connectivity.n_synapses for c in done.program.connections)
    assert found["synaptic_operations_per_sample"] == pytest.approx(synapses)
    trace = backend("reference")(done.program, 200 + 0 * done.program.input.channels[None, :])
    counted = synaptic_operations(done.program, trace)
    for c in done.program.connections:
        expected = float((trace.counts[c.source][0] * c.synapses.connectivity.fan_out).sum())
        assert counted[c.name] == pytest.approx(expected)

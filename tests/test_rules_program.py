"""Rules about a program as a whole: at the limit they hold, one beyond they are told, with place and remedy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small_graphs import network
from small_maps import connection, kernel, lif, map_network
from small_targets import chain, small_target

import hw_targets
from toolchain import rules
from toolchain.errors import DoesNotFit, Violation
from toolchain.ir import Connectivity, Graph, Program, make_input
from toolchain.mapping.cost_count import cost_count, kernel_memory, kernel_of, neuron_memory
from toolchain.mapping.synapse_memory import FormatChoice, SynapseLists
from toolchain.pipeline import Options, compile_graph
from toolchain.rules_program import core_of_layers, layer_needs

LOIHI = hw_targets.load("loihi")
DYNAPCNN = hw_targets.load("dynapcnn")
PROGRAM = chain((6, 8, 4))


def told(program: Program, target: hw_targets.Target) -> list[Violation]:
    program.verify()
    return list(rules.check_program(program, target))


def with_neurons(**changes: object) -> Program:
    return replace(PROGRAM, populations=(replace(PROGRAM.populations[0], **changes), *PROGRAM.populations[1:]))


# ------------------------------------------------------------------------------------------------ delays


def delayed(steps: int) -> Program:
    second = replace(PROGRAM.connections[1], delay=steps)
    return replace(PROGRAM, connections=(PROGRAM.connections[0], second))


def skipping(layers: int) -> Program:
    """A chain with a connection from the first population to the last."""
    program = chain((4,) * (layers + 2))
    first, last = program.populations[0].name, program.populations[-1].name
    skip = replace(program.connections[1], name="skip", source=first, target=last)
    return replace(program, connections=(*program.connections, skip))


def test_a_delay_is_stored_less_the_step_that_every_spike_takes() -> None:
    """A forward delay makes the layer behind it no deeper: what is stored is what the chip must wait."""
    program = skipping(6)
    stored = program.chip_delays["skip"] - 1
    assert stored == 5
    assert told(program, small_target(delay_max=5)) == []
    (violation,) = told(program, small_target(delay_max=4))
    assert (violation.where, violation.value, violation.limit, violation.unit) == ("skip.delay", 5, 4, "steps")
    assert violation.remedy == "let the connection skip fewer layers, or relay its spikes by neurons on the way"


def test_a_recurrent_delay_beyond_the_target_names_the_longest_that_fits() -> None:
    def program(steps: int) -> Program:
        shape = Connectivity.from_mask(np.ones((8, 8), bool))
        weights = np.ones(shape.n_synapses, np.int16)
        synapses = replace(PROGRAM.connections[0].synapses, connectivity=shape, mantissa=weights)
        back = replace(PROGRAM.connections[0], name="back", source="fc1", target="fc1", synapses=synapses, delay=steps)
        return replace(PROGRAM, connections=(*PROGRAM.connections, back))

    assert told(program(63), LOIHI) == []
    (violation,) = told(program(64), LOIHI)
    assert (violation.where, violation.value, violation.limit) == ("back.delay", 63, 62)
    assert violation.remedy == "train with a delay of 63 steps or fewer"


def test_what_the_host_injects_stores_no_delay() -> None:
    program = replace(skipping(3), input=make_input("current", "input", 4))
    assert [v.where for v in told(program, small_target(delay_max=0))] == ["skip.delay"]


# ------------------------------------------------------------------------------------------------ neurons


def test_refractory_periods() -> None:
    """The register counts the step of the spike too."""
    assert told(with_neurons(refractory=62), LOIHI) == []
    target = small_target(refractory_max=10)
    assert told(with_neurons(refractory=9), target) == []
    (violation,) = told(with_neurons(refractory=10), target)
    assert (violation.where, violation.value, violation.limit) == ("fc1.refractory", 11, 10)
    assert violation.remedy == "train with a shorter refractory period"


def test_resets_that_a_chip_does_not_have() -> None:
    assert told(with_neurons(reset="subtract"), LOIHI) == []
    integrate = tuple(replace(p, dv=0, reset="none" if k else "zero") for k, p in enumerate(PROGRAM.populations))
    (violation,) = told(replace(PROGRAM, populations=integrate), DYNAPCNN)
    assert violation.where == "fc2.reset"
    assert "reset 'none', where the chip has zero, subtract" in violation.rule
    assert violation.remedy == "train with reset 'zero'"


@pytest.mark.parametrize("field", ["du", "dv", "vth"])
def test_registers_of_every_neuron_are_looked_at(field: str) -> None:
    key = {"du": "current_decay_max", "dv": "voltage_decay_max", "vth": "threshold_mantissa_max"}[field]
    values = np.arange(101, 109, dtype=np.int32)
    target = small_target(**{key: 4096 if key == "current_decay_max" else 300})
    assert told(with_neurons(**{field: values}), target) == []
    changed = {"threshold_mantissa_max": 300, key: 107}
    found = told(with_neurons(**{field: values}), small_target(**changed))
    assert ("fc1." + field, 108) in [(v.where, v.value) for v in found]


def test_a_leak_where_the_chip_has_none() -> None:
    (violation,) = told(with_neurons(dv=2048), DYNAPCNN)
    assert (violation.where, violation.remedy) == ("fc1.dv", "train integrate-and-fire neurons")
    (violation,) = told(with_neurons(dv=2048), small_target(voltage_decay_max=2000))
    assert violation.remedy == "train with a slower decay"


# ------------------------------------------------------------------------------------------------ other chips


def test_the_neuron_with_too_many_synapses_is_named() -> None:
    mask = np.zeros((300, 300), bool)
    mask[7, :257] = mask[9, :258] = True
    program = chain((300, 300), masks=(mask,))
    (violation,) = told(program, hw_targets.load("brainscales2"))
    assert (violation.where, violation.value, violation.limit) == ("fc1, neuron 9 and 1 more", 258, 256)
    assert "connectivity at which no neuron has more than 256" in str(violation.remedy)
    mask[7, 256:] = mask[9, 256:] = False
    assert told(chain((300, 300), masks=(mask,)), hw_targets.load("brainscales2")) == []


def test_inputs_and_outputs_of_a_chip() -> None:
    xylo = hw_targets.load("xylo")
    assert told(chain((16, 20, 8)), xylo) == []
    found = told(chain((17, 20, 9)), xylo)
    assert [(v.where, v.value, v.limit) for v in found] == [("input", 17, 16), ("fc2", 9, 8)]


def test_a_small_network_fits_xylo_and_its_inputs_take_no_neurons() -> None:
    state = compile_graph(network((16, 60, 8), density=1.0), hw_targets.load("xylo"))
    (core,) = state.mapping.cores
    assert core.usage.compartments == sum(p.size for p in state.program.populations) <= 68
    assert core.usage.synapses == state.program.n_synapses
    with pytest.raises(DoesNotFit, match="cores of 1 chip: 2 cores, limit 1"):
        compile_graph(network((16, 1100, 8), density=0.5), hw_targets.load("xylo"))


@pytest.mark.parametrize("name", ["brainscales2", "darwin3", "spinnaker2", "tianjic"])
def test_a_small_network_fits_every_chip_that_is_compiled_for(name: str) -> None:
    state = compile_graph(network((30, 20, 8)), hw_targets.load(name), Options())
    assert state.mapping.costing.model == "count"
    assert state.mapping.n_chips == 1


# ------------------------------------------------------------------------------------------------ layers on cores


def integrating(*layers: tuple[int, int, int], side: int = 16, channels: int = 2) -> Program:
    """Convolutions (channels, kernel, stride) of integrate-and-fire neurons, compiled."""
    shape, source, populations, connections = (channels, side, side), "input", [], []
    for k, (outputs, size, stride) in enumerate(layers, start=1):
        pattern = kernel(shape, outputs, size, stride=stride, seed=k)
        populations.append(lif(f"conv{k}", pattern.n_targets, gain=1.0, voltage_decay=0.0))
        connections.append(connection(f"conv{k}.weight", source, f"conv{k}", pattern, seed=k))
        source, shape = f"conv{k}", pattern.target
    entry = make_input("rate", "input", channels * side * side)
    graph = Graph("maps", entry, tuple(populations), tuple(connections), 4)
    return compile_graph(graph, LOIHI).program


def test_layers_of_dynapcnn_each_find_a_core() -> None:
    program = integrating((8, 3, 1), (16, 3, 2), (10, 6, 1))
    assert told(program, DYNAPCNN) == []
    cores = core_of_layers(program, DYNAPCNN)
    assert len(set(cores.values())) == 3
    for name, (kernels, neurons) in layer_needs(program).items():
        assert kernels <= DYNAPCNN["kernel_memory_per_core"][cores[name]]
        assert neurons <= DYNAPCNN["neuron_memory_per_core"][cores[name]]


def test_memory_of_a_layer_is_rounded_up_to_powers_of_two() -> None:
    assert kernel_memory((10, 3, 3, 3)) == 3 * 16 * 16
    assert kernel_memory((16, 2, 4, 4)) == 2 * 16 * 16
    assert kernel_memory((1, 5, 1, 1)) == 5
    assert neuron_memory((10, 14, 14)) == 10 * 16 * 16
    assert neuron_memory((10,)) == 10
    program = integrating((10, 3, 1))
    assert layer_needs(program) == {"conv1": (2 * 16 * 16, 10 * 16 * 16)}
    dense = PROGRAM.connections[0].synapses.connectivity
    assert kernel_of(dense, (6,)) == (8, 6, 1, 1)
    assert kernel_of(dense, (2, 1, 3)) == (8, 2, 1, 3)


def test_layers_that_no_core_or_too_few_cores_can_hold() -> None:
    program = integrating((8, 3, 1), (8, 3, 1), (8, 3, 1))
    needs = layer_needs(program)
    kernels, neurons = needs["conv3"]

    def target(kernel_memory: list[int], neuron_memory: list[int]) -> hw_targets.Target:
        plain = DYNAPCNN.to_dict()
        plain["limits"]["kernel_memory_per_core"]["value"] = kernel_memory
        plain["limits"]["neuron_memory_per_core"]["value"] = neuron_memory
        return hw_targets.parse(plain, "small")

    few = target([kernels] * 2 + [1] * 7, [65536] * 9)
    assert [(v.value, v.limit) for v in told(program, few)] == [(3, 2)]
    small = target([kernels - 1] * 9, [65536] * 9)
    assert ("conv3", kernels, kernels - 1) in [(v.where, v.value, v.limit) for v in told(program, small)]
    narrow = target([65536] * 9, [neurons - 1] * 9)
    assert ("neuron memory of a core", neurons - 1) in [(v.rule, v.limit) for v in told(program, narrow)]


def test_kernels_strides_and_maps_that_a_chip_does_not_have() -> None:
    program = integrating((2, 5, 3), side=20)
    limits = {"kernel_size": 4, "input_map_size": 19, "output_map_size": 5, "channels_per_layer": 1}
    found = told(program, small_target("dynapcnn", **limits))
    assert {(v.rule, v.value) for v in found} == {
        ("kernel size", 5),
        ("strides of 1, 2, 4, 8 only", 3),
        ("size of the input map", 20),
        ("size of a feature map", 6),
        ("channels of a layer", 2),
    }
    maps = compile_graph(map_network(), LOIHI).program
    assert ("pool", 2, 1) in [
        (v.where, v.value, v.limit)
        for v in told(maps, small_target("dynapcnn", targets_per_layer=1))
        if v.rule == "targets of a layer"
    ]


# ------------------------------------------------------------------------------------------------ counted synapses


def test_bare_weights_are_counted_and_nothing_else() -> None:
    lists = SynapseLists.of(PROGRAM.connections[0].synapses)
    cost = cost_count(lists, {"word_bits": 64}, FormatChoice())
    assert (cost.synapses, cost.entries, cost.payload_bits, cost.words) == (48, 48, 384, 6)
    assert cost.index_bits == cost.header_bits == cost.padding_bits == 0
    assert cost.n_axons == 6
    assert cost.axons_by_combination() == {"counted": 6}
    fewer = cost_count(lists.window(targets=(0, 1)), {"word_bits": 64}, FormatChoice())
    assert (fewer.payload_bits, fewer.words, fewer.padding_bits) == (48, 1, 16)

"""Every rule: at the limit it holds, one beyond it is told, with source; and nothing is checked twice or not at all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small_graphs import network
from small_targets import chain, mapped, small_target

import hw_targets
from toolchain import rules
from toolchain.errors import UsageError, Violation
from toolchain.ir import make_input
from toolchain.ir.weights import stored_shift
from toolchain.mapping.synapse_memory import Format
from toolchain.mapping.usage import Usage
from toolchain.pipeline import compile_graph

LOIHI, LOIHI2 = hw_targets.load("loihi"), hw_targets.load("loihi2")


def formats(n: int) -> frozenset[Format]:
    some = mapped(chain((4, 4)), LOIHI).cores[0].usage.formats
    one = next(iter(some))
    return frozenset(replace(one, index_bits=k + 1) for k in range(n))


# Rule -> (target, cost model, limit key, usage of a given amount).
CASES = {
    "compartments": (LOIHI, "nxtf", "compartments_per_core", lambda n: Usage(compartments=n)),
    "compartment_configs": (
        LOIHI,
        "nxtf",
        "compartment_configs_per_core",
        lambda n: Usage(compartment_configs=frozenset((du, 0, 6, "zero", 0) for du in range(n))),
    ),
    "threshold_configs": (
        LOIHI,
        "nxtf",
        "threshold_configs_per_core",
        lambda n: Usage(threshold_configs=frozenset(range(n))),
    ),
    "destination_groups": (
        LOIHI,
        "nxtf",
        "destination_groups_per_core",
        lambda n: Usage(destination_groups=n),
    ),
    "neuron_groups": (LOIHI2, "loihi2-fitted", "neuron_groups_per_core", lambda n: Usage(groups=n)),
    "input_axons": (LOIHI, "nxtf", "input_axons_per_core", lambda n: Usage(input_axons=n)),
    "output_axons": (LOIHI, "nxtf", "output_axons_per_core", lambda n: Usage(output_axons=n)),
    "crossing_axons": (
        LOIHI,
        "nxtf",
        "output_axons_to_other_chips_per_core",
        lambda n: Usage(crossing_axons=n),
    ),
    "synapses": (small_target(synapses_per_core=100), "nxtf", "synapses_per_core", lambda n: Usage(synapses=n)),
    "synapse_memory": (LOIHI, "nxtf", "synapse_words_per_core", lambda n: Usage(synapse_words=n)),
    "list_length": (LOIHI, "nxtf", "synapse_words_per_axon", lambda n: Usage(largest_list_words=n)),
    "synapse_formats": (LOIHI, "nxtf", "synapse_formats_per_core", lambda n: Usage(formats=formats(n))),
    "memory_pool": (LOIHI2, "loihi2-fitted", "pool_words_per_core", lambda n: Usage(synapse_words=n)),
}


def test_every_rule_has_a_case() -> None:
    assert {*CASES, "delay_field"} == {rule.__name__ for rule in rules.CORE_RULES}
    assert all(rules.wording(rule).endswith(".") for rule in (*rules.CORE_RULES, *rules.PROGRAM_RULES))


@pytest.mark.parametrize(("bits", "most"), [(3, 1024), (4, 512), (5, 256), (6, 128)])
def test_delays_take_their_bits_from_the_number_of_the_compartment(bits: int, most: int) -> None:
    at, beyond = (rules.delay_field(Usage(compartments=n, delay_bits=bits), LOIHI, "nxtf") for n in (most, most + 1))
    assert at is not None
    assert beyond is not None
    assert (at.limit, at.broken, beyond.broken) == (most, False, True)
    assert str(bits) in at.rule
    assert "NXTF" in at.source
    assert rules.delay_field(Usage(compartments=5000), LOIHI, "nxtf") is None
    assert rules.delay_field(Usage(compartments=5000, delay_bits=6), LOIHI2, "loihi2-fitted") is None


@pytest.mark.parametrize("name", CASES)
def test_a_core_rule_holds_at_its_limit_and_breaks_beyond(name: str) -> None:
    target, model, key, usage = CASES[name]
    (rule,) = [rule for rule in rules.CORE_RULES if rule.__name__ == name]
    stated = target.limit(key)
    at = rule(usage(stated.value), target, model)
    beyond = rule(usage(stated.value + 1), target, model)
    assert at is not None
    assert beyond is not None
    assert (at.value, at.limit, at.broken, at.share) == (stated.value, stated.value, False, 1.0)
    assert (beyond.value, beyond.broken) == (stated.value + 1, True)
    assert at.unit == stated.unit
    assert all(source in at.source for source in stated.source)
    assert stated.mark in at.source


@pytest.mark.parametrize("part", ["synapse_words", "compartments", "input_axons", "output_axons", "axon_maps"])
def test_every_consumer_counts_into_the_pool(part: str) -> None:
    (rule,) = [rule for rule in rules.CORE_RULES if rule.__name__ == "memory_pool"]
    limit = rule(Usage(**{part: 100}), LOIHI2, "loihi2-fitted")
    assert limit is not None
    assert limit.value == 100


def test_a_limit_that_a_target_does_not_state_is_not_checked() -> None:
    stated = {limit.rule for limit in rules.core_limits(Usage(formats=formats(1)), LOIHI, "nxtf")}
    assert "memory pool" not in stated
    fitted = {limit.rule for limit in rules.core_limits(Usage(), LOIHI2, "loihi2-fitted")}
    assert "words per input axon" not in fitted


# ---------------------------------------------------------------------- registers

PROGRAM = chain((3, 4))


def told(program, target: hw_targets.Target) -> list[Violation]:
    program.verify()
    return list(rules.check_program(program, target))


def with_neurons(**changes: object):
    return replace(PROGRAM, populations=(replace(PROGRAM.populations[0], **changes),))


# Field -> (limit key, what stands in the register, program for a value).
REGISTERS = {
    "fc1.vth": ("threshold_mantissa_max", lambda n: with_neurons(vth=n)),
    "fc1.bias": ("bias_mantissa_max", lambda n: with_neurons(bias_mantissa=np.array([0, -n, 1, 2], np.int16))),
    "fc1.bias_exponent": ("bias_exponent_max", lambda n: with_neurons(bias_exponent=n)),
    "fc1.du": ("current_decay_max", lambda n: with_neurons(du=n)),
    "fc1.dv": ("voltage_decay_max", lambda n: with_neurons(dv=n)),
    "input.threshold": (
        "threshold_mantissa_max",
        lambda n: replace(PROGRAM, input=make_input("rate", "input", 3, threshold=n)),
    ),
}


@pytest.mark.parametrize("where", REGISTERS)
def test_a_register_holds_its_largest_value_and_no_more(where: str) -> None:
    key, program = REGISTERS[where]
    target = small_target(**{"threshold_mantissa_max": 300, key: 5 if key == "bias_exponent_max" else 300})
    limit = target[key]
    assert told(program(limit), target) == []
    (violation,) = told(program(limit + 1), target)
    assert (violation.where, violation.value, violation.limit) == (where, limit + 1, limit)
    assert violation.unit == target.limit(key).unit
    assert target.limit(key).source[0] in violation.source
    assert not str(violation).endswith("; ")


def test_the_chips_own_ends_are_allowed() -> None:
    """What the arithmetic defines as the last value of a register is not refused."""
    for changes in ({"du": 4096}, {"du": 1}, {"dv": 4095}, {"vth": 131071}, {"bias_exponent": 7}):
        assert told(with_neurons(**changes), LOIHI) == []
    assert told(with_neurons(bias_mantissa=np.array([4095, -4095, 0, 0], np.int16)), LOIHI) == []


@pytest.mark.parametrize("sign_mode", ["mixed", "excitatory", "inhibitory"])
@pytest.mark.parametrize("bits", [2, 5, 8])
def test_the_exponent_register_counts_from_the_stored_weight(sign_mode: str, bits: int) -> None:
    (c,) = PROGRAM.connections
    sign = {"mixed": 1, "excitatory": 1, "inhibitory": -1}[sign_mode]
    mantissa = np.full(c.synapses.connectivity.n_synapses, sign, np.int16)

    def program(exponent: int):
        synapses = replace(c.synapses, mantissa=mantissa, weight_bits=bits, sign_mode=sign_mode, exponent=exponent)
        return replace(PROGRAM, connections=(replace(c, synapses=synapses),))

    last = 7 + stored_shift(sign_mode, bits)
    assert last == {"mixed": 16, "excitatory": 15, "inhibitory": 15}[sign_mode] - bits
    assert told(program(last), LOIHI) == []
    (violation,) = told(program(last + 1), LOIHI)
    assert (violation.where, violation.rule, violation.value) == ("fc1.weight.exponent", "weight exponent max", 8)
    assert told(program(0), LOIHI) == []
    few = small_target(weight_exponent_min=1 - stored_shift(sign_mode, bits))
    (violation,) = told(program(0), few)
    assert (violation.rule, violation.value) == ("weight exponent min", -stored_shift(sign_mode, bits))


def test_what_the_host_computes_needs_no_register() -> None:
    steep = replace(PROGRAM.connections[0], synapses=replace(PROGRAM.connections[0].synapses, exponent=20))
    program = replace(PROGRAM, input=make_input("current", "input", 3), connections=(steep,))
    assert told(program, LOIHI) == []
    assert len(told(replace(program, input=make_input("rate", "input", 3)), LOIHI)) == 1


def test_graded_spikes_need_a_payload() -> None:
    graded = replace(PROGRAM, input=make_input("graded", "input", 3))
    (violation,) = told(graded, LOIHI)
    assert (violation.where, violation.value, violation.limit, violation.unit) == ("input", 8, 0, "payload bits")
    assert told(graded, LOIHI2) == []
    assert told(graded, small_target("loihi2", spike_payload_bits=8)) == []
    assert len(told(graded, small_target("loihi2", spike_payload_bits=7))) == 1
    for coding in ("rate", "current"):
        assert told(replace(PROGRAM, input=make_input(coding, "input", 3)), LOIHI) == []


def test_all_violations_at_once() -> None:
    program = with_neurons(vth=50, dv=9, bias_exponent=7)
    target = small_target(threshold_mantissa_max=40, voltage_decay_max=8, bias_exponent_max=6)
    program = replace(program, input=make_input("graded", "input", 3))
    assert [v.where for v in told(program, target)] == ["input", "fc1.vth", "fc1.bias_exponent", "fc1.dv"]


@pytest.mark.parametrize("bits", range(1, 10))
def test_weight_bits(bits: int) -> None:
    violations = rules.check_weight_bits(bits, LOIHI)
    assert (violations == ()) == (bits in (1, 2, 3, 4, 5, 6, 8))
    if violations:
        (violation,) = violations
        assert violation.value == bits
        suggested = int(violation.remedy.split()[-1])
        assert rules.check_weight_bits(suggested, LOIHI) == ()


def test_more_chips_than_a_system_has() -> None:
    target = small_target(chips_per_system=4)
    mapping = mapped(PROGRAM, target)
    assert rules.check_mapping(mapping, target, 4) == ()
    (violation,) = rules.check_mapping(mapping, target, 5)
    assert (violation.rule, violation.value, violation.limit) == ("chips of one system", 5, 4)


def test_a_board_is_found_by_name() -> None:
    assert rules.board(LOIHI, "nahuku-32").chips == 32
    with pytest.raises(UsageError, match="no board 'nahuku' for target 'loihi'") as refused:
        rules.board(LOIHI, "nahuku")
    assert "did you mean 'nahuku-" in str(refused.value)


def test_the_mesh_of_a_board() -> None:
    row = rules.mesh(LOIHI)
    grid = rules.mesh(LOIHI, rules.board(LOIHI, "nahuku-32"))
    assert row is not None
    assert grid is not None
    assert (row.columns, row.rows, row.cores_per_tile, row.chips_per_row) == (8, 4, 4, None)
    assert grid.chips_per_row == 8
    assert rules.mesh(LOIHI2) is None


def test_nothing_is_compiled_for_a_chip_that_is_only_listed() -> None:
    target = hw_targets.load("truenorth")
    with pytest.raises(UsageError, match="nothing is compiled for truenorth") as refused:
        compile_graph(network(), target)
    assert target.why_not in str(refused.value)
    rules.check_target(LOIHI)


def test_what_fits_a_chip_of_which_little_is_known_fits_as_far_as_is_known() -> None:
    state = compile_graph(network((16, 30, 8)), hw_targets.load("xylo"))
    assert state.notes[-1] == ("check the limits", "all kept, as far as they are known")
    assert rules.verdict(LOIHI) == "all kept"


def test_a_layer_that_is_not_cut_takes_one_core() -> None:
    target = small_target(compartments_per_core=10, cores_per_layer=2, cores_per_chip=20)
    mapping = mapped(chain((4, 25)), target)
    (violation,) = rules.check_mapping(mapping, target, 1)
    assert (violation.rule, violation.where, violation.value, violation.limit) == ("cores of one layer", "fc1", 3, 2)

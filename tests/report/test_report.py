"""The facts of a report: every sum equal when counted anew from the program, and valid under the published schema."""

from __future__ import annotations

import csv
import dataclasses
import io
import json

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from mapped import mapped_program, random_program
from strategies import programs

import hw_targets
from toolchain import report, rules
from toolchain.errors import Diagnostic, SnncError, Violation
from toolchain.mapping.usage import Usage

VALIDATOR = jsonschema.Draft202012Validator(report.schema())


@pytest.fixture(scope="module")
def mnist_like():
    """784-800-10 at 40 %: several cores, one of them shared."""
    return mapped_program(random_program((784, 800, 10), 0.4))


@pytest.fixture(scope="module")
def facts(mnist_like):
    return mnist_like.report(
        diagnostics=[Diagnostic("QNT001", "fc1", "weights rounded", 3, "error 0.1")],
        steps=[("quantise weights", 0.12345, "to 8 bits")],
        build_hash="0123abcd",
    )


def test_the_schema_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(report.schema())


def test_every_figure_of_the_schema_is_described():
    missing = []

    def look(node, path):
        if isinstance(node, dict):
            number = {"integer", "number"} & set(np.atleast_1d(node.get("type", [])).tolist())
            if number and not node.get("description") and path[-1] != "items":
                missing.append("/".join(path))
            for key, value in node.items():
                look(value, [*path, key])

    look(report.schema(), ["#"])
    assert not missing


def test_the_report_is_valid_under_its_schema(facts):
    VALIDATOR.validate(json.loads(report.to_json(facts)))


@settings(max_examples=25)
@given(programs(max_layers=3, max_size=8))
def test_every_report_is_valid_and_its_sums_are_equal(program):
    done = mapped_program(program, target="loihi2")
    facts = done.report(
        before=program, dense_alternative=mapped_program(report.dense_program(program), "loihi2").mapping
    )
    VALIDATOR.validate(json.loads(report.to_json(facts)))
    assert all(check["equal"] for check in facts["checks"])
    on_chip = sum(
        c.synapses.connectivity.n_synapses
        for c in program.connections
        if not (program.input.on_host and c.source == program.input.name)
    )
    assert facts["totals"]["usage"]["synapses"] == on_chip
    assert sum(core["usage"]["synapses"] for core in facts["cores"]) == on_chip
    assert [layer["before"]["synapses"] for layer in facts["layers"]] == [x["synapses"] for x in facts["layers"]]


def test_figures_are_those_of_the_program(mnist_like, facts):
    first = mnist_like.program.connections[0].synapses.connectivity
    layer = facts["layers"][1]
    assert layer["name"] == "fc1"
    assert layer["synapses"] == first.n_synapses
    assert layer["connected_percent"] == round(100 * first.n_synapses / (784 * 800), 4)
    assert layer["memory"]["payload_bits"] == 8 * first.n_synapses
    spent = sum(layer["memory"][f"{part}_bits"] for part in ("payload", "index", "header", "padding"))
    assert spent == 64 * layer["memory"]["words"]
    assert layer["memory"]["kib"] == round(layer["memory"]["words"] * 8 / 1024, 3)
    assert sum(layer["lists_by_format"].values()) == layer["usage"]["input_axons"]
    # Each list of fc1 onto a core: counted here from the synapses, not from the mapping's costs.
    lists = 0
    for core in facts["cores"]:
        for s in core["slices"]:
            if s["population"] == "fc1":
                inside = (first.targets >= s["ranges"][0][0]) & (first.targets < s["ranges"][0][1])
                lists += len(np.unique(first.sources[inside]))
    assert layer["usage"]["input_axons"] == lists


def test_what_binds_is_the_largest_share_that_is_no_choice(facts):
    fullest = facts["layers"][1]["fullest_core"]
    shares = {rule: each["percent"] for rule, each in fullest["resources"].items() if rule != "synapse formats"}
    assert fullest["bound_by"] == max(shares, key=shares.__getitem__) == "synapse memory"
    # Registers are used as far as they go, because each saves memory: full ones bind nothing.
    full = [core for core in facts["cores"] if core["resources"]["synapse formats"]["percent"] == 100]
    assert full
    assert all(core["bound_by"] != "synapse formats" for core in full)


def test_the_reason_names_the_amount_the_limit_and_the_source(facts):
    why = facts["layers"][1]["why"]
    assert why["slices"] == facts["layers"][1]["slices"] > why["fewer"] > 0
    broken = why["broken"][0]
    assert broken["rule"] == "synapse memory"
    assert broken["used"] > broken["limit"] == hw_targets.load("loihi")["synapse_words_per_core"]
    assert f"{broken['used']:,} words of {broken['limit']:,}" in why["sentence"]
    assert "NXTF" in why["sentence"]


def test_a_wrong_sum_is_told(mnist_like):
    cores = mnist_like.mapping.cores
    tampered = dataclasses.replace(cores[1], usage=cores[1].usage + Usage(synapse_words=1))
    mapping = dataclasses.replace(mnist_like.mapping, cores=(cores[0], tampered, *cores[2:]))
    facts = report.build_report(mnist_like.program, mapping, mnist_like.limits, mnist_like.target)
    wrong = [check["name"] for check in facts["checks"] if not check["equal"]]
    assert wrong == [
        "words: connections and soft resets, cores",
        "words: layers, cores",
        "bits: what they are spent on, words",
    ]


def test_violations_and_broken_limits_are_no_fit(mnist_like, facts):
    assert facts["fits"]
    broken = mnist_like.report(violations=[Violation("r", "w", 2, 1, "things", "S")])
    assert not broken["fits"]
    VALIDATOR.validate(broken)
    tight = {**mnist_like.limits_by_rule(), "synapse memory": 16_000}
    facts = report.build_report(
        mnist_like.program,
        mnist_like.mapping,
        lambda usage: [dataclasses.replace(limit, limit=tight[limit.rule]) for limit in mnist_like.limits(usage)],
        mnist_like.target,
    )
    assert not facts["fits"]
    assert facts["cores"][1]["memory_free_kib"] < 0
    VALIDATOR.validate(facts)


def test_dense_alternative(mnist_like):
    dense = report.dense_program(mnist_like.program)
    dense.verify()
    assert dense.connections[0].synapses.connectivity.density == 1
    np.testing.assert_array_equal(
        dense.connections[0].synapses.connectivity.dense(dense.connections[0].synapses.mantissa),
        mnist_like.program.connections[0].synapses.connectivity.dense(
            mnist_like.program.connections[0].synapses.mantissa
        ),
    )
    facts = mnist_like.report(dense_alternative=lambda: mapped_program(dense).mapping)
    assert facts["totals"]["dense"]["cores"] > facts["totals"]["cores"]
    layer = facts["layers"][1]
    assert layer["dense"]["words_ratio"] == round(layer["dense"]["words"] / layer["memory"]["words"], 2)
    assert report.dense_program(mnist_like.program, largest=1000) is None
    assert mnist_like.report(dense_alternative=lambda: None)["totals"]["dense"] is None


def test_json_is_deterministic(facts):
    again = mapped_program(random_program((784, 800, 10), 0.4)).report(
        diagnostics=[Diagnostic("QNT001", "fc1", "weights rounded", 3, "error 0.1")],
        steps=[("quantise weights", 0.12345, "to 8 bits")],
        build_hash="0123abcd",
    )
    assert report.to_json(again) == report.to_json(facts)
    assert json.loads(report.to_json(again)) == facts
    assert facts["steps"] == [{"number": 1, "name": "quantise weights", "seconds": 0.123, "note": "to 8 bits"}]


def test_csv_has_a_row_for_each_core_and_quotes_what_needs_it(facts):
    text = report.to_csv(facts)
    assert text.endswith("\r\n")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [int(row["core"]) for row in rows] == [core["core"] for core in facts["cores"]]
    assert sum(int(row["synapse_words"]) for row in rows) == facts["totals"]["memory"]["words"]
    (s,) = facts["cores"][1]["slices"]
    assert rows[1]["slices"] == f"fc1[{s['ranges'][0][0]}:{s['ranges'][0][1]}]"
    assert float(rows[1]["rule_synapse_memory_percent"]) == facts["cores"][1]["resources"]["synapse memory"]["percent"]
    strange = {**facts, "cores": [{**facts["cores"][1], "slices": [{"population": 'a,"b', "region": "[0:1]"}]}]}
    (row,) = csv.DictReader(io.StringIO(report.to_csv(strange), newline=""))
    assert row["slices"] == 'a,"b[0:1]'


def test_loihi2_is_labelled_as_fitted(mnist_like):
    facts = mapped_program(mnist_like.program, "loihi2").report()
    assert facts["cost_model"]["label"] == "fitted, not published"
    assert facts["target"]["fitted"]
    assert "memory pool" in facts["cores"][0]["resources"]


SPIKES = {"pixels": 800.0, "fc1": 300.0, "fc2": 12.0}


class TestEnergy:
    def test_the_published_figures_times_the_events(self, facts, mnist_like):
        operations = {"fc1_synapses": 1000.0, "fc2_synapses": 200.0}
        found = report.energy(facts, mnist_like.target, SPIKES, synaptic_operations=operations)
        assert found["label"] == "estimate, not measured"
        parts = {part["part"]: part for part in found["energy"]}
        assert parts["synaptic operations"]["events"] == 1200
        assert parts["synaptic operations"]["nanojoule_low"] == pytest.approx(1200 * 23.6e-3)
        updates = (784 + 800 + 10) * 8
        assert parts["neuron updates"]["nanojoule_low"] == pytest.approx(updates * 52e-3)
        assert parts["neuron updates"]["nanojoule_high"] == pytest.approx(updates * 81e-3)
        # A pixel's spike goes to every slice with one of its synapses; fc1's to the one core of fc2; fc2's nowhere.
        messages = 800 * facts["layers"][0]["usage"]["output_axons"] / 784
        messages += 300 * facts["layers"][1]["usage"]["output_axons"] / 800
        assert parts["spike messages"]["events"] == pytest.approx(messages)
        assert found["total_nanojoule"][0] == pytest.approx(sum(part["nanojoule_low"] for part in found["energy"]))
        # The core with input and output neurons: its updates, and the operations of fc2, which are all there.
        assert facts["cores"][0]["usage"]["compartments"] == 794
        slowest = 794 * 5.3 + 200 / 8 * 3.5
        assert found["sample_microseconds"][0] == pytest.approx(8 * (slowest + 113) / 1000)
        assert found["static_microjoule"][0] == pytest.approx(0.104 * found["sample_microseconds"][0], rel=1e-4)
        VALIDATOR.validate({**facts, "energy": found})

    def test_without_counted_operations_the_mean_fan_out_is_used_and_said(self, facts, mnist_like):
        found = report.energy(facts, mnist_like.target, SPIKES)
        one, two = facts["layers"][1]["synapses"], facts["layers"][2]["synapses"]
        assert found["synaptic_operations_per_sample"] == pytest.approx(800 * one / 784 + 300 * two / 800)
        assert any("mean fan-out" in note for note in found["notes"])

    def test_every_energy_model_of_every_target_works(self, mnist_like):
        seen = set()
        for name in hw_targets.available():
            if hw_targets.load(name).why_not:
                continue
            done = mapped_program(mnist_like.program, name)
            facts = done.report()
            VALIDATOR.validate(json.loads(report.to_json(facts)))
            assert facts["target"]["partial"] == (facts["cost_model"]["name"] == "count")
            if report.energy(facts, done.target, SPIKES) is None:
                assert not done.target.energy
                continue
            for model in ("davies2018", "sanafe"):
                found = report.energy(facts, done.target, SPIKES, model=model)
                VALIDATOR.validate({**facts, "energy": found})
                assert found["total_nanojoule"][0] <= found["total_nanojoule"][1]
                seen.add(model)
        assert seen == {"davies2018", "sanafe"}

    def test_synapses_on_the_host_cost_the_chip_nothing(self):
        done = mapped_program(random_program((20, 10, 5), 0.5, coding="current"))
        found = report.energy(done.report(), done.target, {"pixels": 100.0, "fc1": 8.0})
        synapses = done.program.connections[1].synapses.connectivity.n_synapses
        assert found["synaptic_operations_per_sample"] == pytest.approx(8 * synapses / 10)

    def test_unknown_names_are_refused_with_the_known_ones(self, facts, mnist_like):
        with pytest.raises(SnncError, match="no layer 'fc9'") as caught:
            report.energy(facts, mnist_like.target, {"fc9": 1.0})
        assert "fc1" in str(caught.value)
        with pytest.raises(SnncError, match="no energy model 'davis'") as caught:
            report.energy(facts, mnist_like.target, {}, model="davis")
        assert "davies2018" in str(caught.value)


def test_rules_that_the_report_names_exist(facts):
    """The report looks up rules by name in a few places; a renamed rule must not silently empty a column."""
    usage = Usage(compartments=1, formats=frozenset())
    names = {limit.rule for limit in rules.core_limits(usage, hw_targets.load("loihi"), "nxtf")}
    assert {"compartments", "input axons", "output axons", "synapse memory"} <= names
    assert set(facts["rules"]) >= names | {"synapse formats"}

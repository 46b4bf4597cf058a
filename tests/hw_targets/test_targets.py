"""Target files: complete, sourced, strict."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import tomllib

import hw_targets
from hw_targets import MARKS, Limit, Target, TargetError, parse
from hw_targets.schema import COST_MODELS, LIMITS, NUMBERS

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

NAMES = hw_targets.available()
COUNTED = ("brainscales2", "darwin3", "dynapcnn", "spinnaker2", "tianjic", "truenorth", "xylo")
"""Chips of which only some limits are known."""


def document(name: str = "loihi") -> dict[str, Any]:
    """The plain data of a target, free to be damaged."""
    return copy.deepcopy(hw_targets.load(name).to_dict())


def test_all_chips_are_there() -> None:
    assert set(NAMES) == {"loihi", "loihi2", *COUNTED}


@pytest.mark.parametrize("name", COUNTED)
def test_a_chip_of_which_little_is_known_says_so(name: str) -> None:
    target = hw_targets.load(name)
    assert target.partial
    assert not target.energy
    assert target.why_not or any("arithmetic" in line for line in target.not_modelled)
    assert "known limits only" in target.title or target.why_not


def test_which_chips_nothing_is_compiled_for() -> None:
    assert [name for name in NAMES if hw_targets.load(name).why_not] == ["truenorth"]
    assert [name for name in NAMES if not hw_targets.load(name).partial] == ["loihi", "loihi2"]


@pytest.mark.parametrize("name", NAMES)
def test_every_number_has_unit_source_and_mark(name: str) -> None:
    target = hw_targets.load(name)
    rows = list(target.rows())
    assert len(rows) > (5 if target.partial else 30)
    for section, key, limit in rows:
        place = f"{section}.{key}"
        assert limit.unit.strip(), place
        assert limit.source, place
        assert set(limit.source) <= set(target.sources), place
        assert limit.mark in MARKS, place
        assert limit.unit in str(limit), place
        for other in limit.disagreement:
            assert other.source in target.sources, place


@pytest.mark.parametrize("name", ["loihi", "loihi2", "xylo"])
def test_where_sources_disagree_the_smaller_limit_is_used(name: str) -> None:
    disputed = [limit for limit in hw_targets.load(name).limits.values() if limit.disagreement]
    assert disputed
    for limit in disputed:
        assert all(limit.value <= other.value for other in limit.disagreement)  # type: ignore[operator]


@pytest.mark.parametrize("name", NAMES)
def test_a_target_survives_being_written_and_read(name: str, tmp_path: Path) -> None:
    target = hw_targets.load(name)
    path = tmp_path / "mine.toml"
    path.write_bytes(tomli_w.dumps(target.to_dict()).encode())
    assert hw_targets.load(path) == target
    assert hw_targets.load(str(path)).to_dict() == target.to_dict()


@pytest.mark.parametrize("name", NAMES)
def test_every_source_is_used(name: str) -> None:
    target = hw_targets.load(name)
    used = {source for _, _, limit in target.rows() for source in limit.source}
    used |= {other.source for _, _, limit in target.rows() for other in limit.disagreement}
    used |= {source for system in target.systems for source in system.source}
    assert used == set(target.sources)


# The figures of the design facts, said a second time: a slip of the pen in a target file shows here.
LOIHI_FACTS = {
    "cores_per_chip": 128,
    "chips_per_system": 16384,
    "compartments_per_core": 1024,
    "synapse_memory_per_core": 128 * 1024,
    "synapse_words_per_core": 16383,
    "input_axons_per_core": 4096,
    "output_axons_per_core": 4096,
    "output_axons_to_other_chips_per_core": 1024,
    "synapse_words_per_axon": 256,
    "synapses_per_entry": 60,
    "synapse_formats_per_core": 7,
    "destination_groups_per_core": 16,
    "compartment_configs_per_core": 32,
    "threshold_configs_per_core": 8,
    "learning_configs_per_core": 3,
    "fan_in_per_neuron": "unlimited",
    "weight_bits": (1, 2, 3, 4, 5, 6, 8),
    "index_bits": (6, 7, 8, 9, 10, 11, 12),
    "weight_exponent_min": -7,
    "weight_exponent_max": 7,
    "weight_shift": 6,
    "delay_max": 62,
    "compartment_and_delay_bits": 13,
    "resets": ("zero", "subtract", "none"),
    "mesh_columns": 8,
    "mesh_rows": 4,
    "cores_per_tile": 4,
    "current_decay_max": 4096,
    "voltage_decay_max": 4095,
    "state_magnitude_bits": 23,
    "threshold_mantissa_max": 2**17 - 1,
    "threshold_shift": 6,
    "bias_mantissa_max": 2**12 - 1,
    "bias_exponent_max": 7,
    "refractory_min": 1,
    "refractory_max": 63,
    "spike_payload": False,
    "spike_payload_bits": 0,
}
# Section 5 of the design facts, a second time.
OTHER_FACTS = {
    "spinnaker2": {"cores_per_chip": 152, "compartments_per_core": 1000, "synapse_memory_per_core": 19 * 2**20 // 152},
    "dynapcnn": {
        "cores_per_chip": 9,
        "neuron_memory_per_core": tuple(1024 * k for k in (64, 64, 64, 32, 32, 16, 16, 16, 16)),
        "kernel_memory_per_core": tuple(1024 * k for k in (16, 16, 16, 32, 32, 64, 64, 16, 16)),
        "input_map_size": 128,
        "output_map_size": 64,
        "channels_per_layer": 1024,
        "kernel_size": 16,
        "strides": (1, 2, 4, 8),
        "targets_per_layer": 2,
        "state_magnitude_bits": 15,
    },
    "xylo": {
        "cores_per_chip": 1,
        "compartments_per_core": 1000,
        "synapses_per_core": 278_000,
        "inputs_per_chip": 16,
        "outputs_per_chip": 8,
        "state_magnitude_bits": 15,
    },
    "brainscales2": {
        "cores_per_chip": 1,
        "compartments_per_core": 512,
        "synapses_per_core": 131_072,
        "fan_in_per_neuron": 256,
        "weight_bits": (1, 2, 3, 4, 5, 6),
    },
    "truenorth": {"cores_per_chip": 4096, "compartments_per_core": 256, "input_axons_per_core": 256},
    "tianjic": {
        "cores_per_chip": 156,
        "compartments_per_core": 256,
        "input_axons_per_core": 256,
        "fan_in_per_neuron": 256,
        "weight_bits": (1, 2, 3, 4, 5),
    },
    "darwin3": {"cores_per_chip": 575, "compartments_per_core": 4096},
}
LOIHI2_FACTS = {
    "cores_per_chip": 128,
    "chips_per_system": 1152,
    "compartments_per_core": 4095,
    "pool_words_per_core": 20000,
    "synapse_words_per_core": 16000,
    "input_axons_per_core": 16000,
    "axon_map_words_per_core": 16000,
    "output_axons_per_core": 16000,
    "neuron_groups_per_core": 8,
    "spike_payload": True,
    "spike_payload_bits": 32,
    "state_magnitude_bits": 23,
}


@pytest.mark.parametrize(("name", "facts"), [("loihi", LOIHI_FACTS), ("loihi2", LOIHI2_FACTS), *OTHER_FACTS.items()])
def test_limits_are_those_of_the_sources(name: str, facts: dict[str, object]) -> None:
    target = hw_targets.load(name)
    assert {key: target[key] for key in facts} == facts


def test_energies_are_those_of_the_sources() -> None:
    energy = hw_targets.load("loihi").energy
    davies, sanafe, frady = (energy[name].entries for name in ("davies2018", "sanafe", "frady2020"))
    assert [davies[f"synaptic_operation_{what}"].value for what in ("energy", "time")] == [23.6, 3.5]
    assert [davies[f"neuron_update_{how}_energy"].value for how in ("active", "inactive")] == [81, 52]
    assert [davies[f"hop_{way}_energy"].value for way in ("east_west", "north_south")] == [3.0, 4.0]
    assert [davies[f"barrier_time_{n}_tiles"].value for n in (1, 32)] == [113, 465]
    assert [sanafe[f"synapse_{kind}_energy"].value for kind in ("dense", "sparse", "convolution")] == [
        35.5,
        33.6,
        24.0,
    ]
    assert [sanafe[f"barrier_time_{n}_tiles"].value for n in (1, 2, 4, 29)] == [600, 1000, 1400, 1800]
    assert frady["static_power_per_chip"].value == 104
    assert davies["synaptic_operation_energy"].unit == "pJ"
    assert not hw_targets.load("loihi2").energy


def test_loihi2_says_that_it_is_fitted() -> None:
    loihi, loihi2 = (hw_targets.load(name) for name in ("loihi", "loihi2"))
    assert (loihi.fitted, loihi2.fitted) == (False, True)
    assert "FITTED" in loihi2.title
    assert loihi2.cost_models[loihi2.default_cost_model].fitted
    assert (loihi.default_cost_model, set(loihi.cost_models)) == ("nxtf", {"nxtf", "nengo"})


def test_a_parameter_can_be_said_to_be_a_limit() -> None:
    target = hw_targets.load("loihi")
    assert target.cost_models["nxtf"].parameters["formats"] is target.limits["synapse_formats_per_core"]
    assert target.parameters("nxtf")["entry_synapses"] == target["synapses_per_entry"]


def test_every_known_key_is_stated_by_some_target() -> None:
    targets = [hw_targets.load(name) for name in NAMES]
    stated = {(section, key) for target in targets for section, key, _ in target.rows()}
    known = {("limits", key) for key in LIMITS} | {("numbers", key) for key in NUMBERS}
    known |= {(f"cost_models.{model}", key) for model, keys in COST_MODELS.items() for key in keys}
    assert known <= stated


def test_access() -> None:
    target = hw_targets.load("loihi")
    assert target["compartments_per_core"] == target.limit("compartments_per_core").value == 1024
    assert "compartments_per_core" in target
    assert "pool_words_per_core" not in target
    assert target.get("pool_words_per_core") is None
    assert target.get("pool_words_per_core", 5) == 5
    assert target.parameters() == target.parameters("nxtf")
    with pytest.raises(TargetError, match="did you mean 'compartments_per_core'"):
        target["compartment_per_core"]
    with pytest.raises(TargetError, match="has no cost model 'nxft': did you mean 'nxtf'"):
        target.parameters("nxft")
    with pytest.raises(TypeError):
        target.limits["cores_per_chip"] = target.limits["compartments_per_core"]  # type: ignore[index]
    assert "NL says 16" in str(target.limit("threshold_configs_per_core"))


def test_unknown_names_and_paths(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="did you mean 'loihi2'"):
        hw_targets.load("lohi2")
    with pytest.raises(TargetError, match="could not read the target file"):
        hw_targets.load(tmp_path / "none.toml")
    with pytest.raises(TargetError, match="could not read"):
        hw_targets.load(f"{tmp_path}/loihi")
    broken = tmp_path / "broken.toml"
    broken.write_text("name = \n")
    with pytest.raises(TargetError, match="not a TOML file"):
        hw_targets.load(broken)
    broken.write_bytes(b"\xff\xfe")
    with pytest.raises(TargetError, match="not a TOML file"):
        hw_targets.load(broken)
    broken.write_bytes(b"#" * (1 << 20) + b"#")
    with pytest.raises(TargetError, match="larger than"):
        hw_targets.load(broken)


def test_target_error_is_a_value_error_of_its_own() -> None:
    assert issubclass(TargetError, ValueError)


COUNTS = {"value": [16, 16, 32], "unit": "kernel entries", "source": ["D18"], "mark": "read"}

# Each case: where to put what (None: take the key away), and what the message must say.
DAMAGE: list[tuple[tuple[str, ...], Any, str]] = [
    (("schema",), 2, "schema: must be 1"),
    (("schema",), None, "schema: must be 1"),
    (("colour",), "blue", "unknown key 'colour'"),
    (("name",), "", "name: must be a text"),
    (("name",), None, "key 'name' is missing"),
    (("fitted",), "no", "fitted: must be true or false"),
    (("sources",), {}, "sources: must be a table"),
    (("sources", "D18"), 7, "sources.D18: must be a text"),
    (("limits",), 3, "limits: must be a table"),
    (("limits", "compartment_per_core"), {}, "did you mean 'compartments_per_core'"),
    (("limits", "cores_per_chip"), None, "key 'cores_per_chip' is missing"),
    (("limits", "cores_per_chip"), 128, "limits.cores_per_chip: must be a table"),
    (("limits", "cores_per_chip", "unit"), None, "key 'unit' is missing"),
    (("limits", "cores_per_chip", "unit"), "chips", "must be 'cores'"),
    (("limits", "cores_per_chip", "source"), [], "one or more sources"),
    (("limits", "cores_per_chip", "source"), "D18", "one or more sources"),
    (("limits", "cores_per_chip", "source"), ["D81"], "unknown source 'D81': did you mean 'D18'"),
    (("limits", "cores_per_chip", "mark"), "reed", "unknown mark 'reed': did you mean 'read'"),
    (("limits", "cores_per_chip", "value"), 0, "a whole number, 1 or more"),
    (("limits", "cores_per_chip", "value"), True, "a whole number, 1 or more"),
    (("limits", "cores_per_chip", "value"), 1.5, "a whole number, 1 or more"),
    (("limits", "cores_per_chip", "value"), "unlimited", "a whole number, 1 or more"),
    (("limits", "fan_in_per_neuron", "value"), "endless", "or 'unlimited'"),
    (("limits", "cores_per_chip", "note"), "", "note: must be a text"),
    (("limits", "cores_per_chip", "units"), "cores", "unknown key 'units': did you mean 'unit'"),
    (("limits", "synapses_per_entry", "value"), 100, "use the smaller limit"),
    (("limits", "synapses_per_entry", "disagreement"), 3, "disagreement: must be a list"),
    (("limits", "synapses_per_entry", "disagreement"), [{"value": 64}], "key 'source' is missing"),
    (("limits", "synapses_per_entry", "disagreement"), [{"value": 64, "source": "XY"}], "unknown source 'XY'"),
    (("limits", "synapses_per_entry", "disagreement"), [{"value": "64", "source": "NL"}], "whole number"),
    (("numbers", "weight_bits", "value"), [], "a list of whole numbers"),
    (("numbers", "weight_bits", "value"), [2, 1], "ascending"),
    (("numbers", "weight_bits", "value"), [1, 1], "none twice"),
    (("numbers", "sign_modes", "value"), [1], "a list of words"),
    (("numbers", "spike_payload", "value"), 1, "true or false"),
    (("numbers", "delay_max", "value"), "62", "a whole number"),
    (("cost_models", "nxft"), {}, "unknown key 'nxft': did you mean 'nxtf'"),
    (("cost_models", "nxtf", "parameters", "word_bits"), None, "key 'word_bits' is missing"),
    (("cost_models", "nxtf", "parameters", "words"), {}, "unknown key 'words'"),
    (("cost_models", "nxtf", "parameters", "formats"), {"same_as": "formats"}, "unknown 'formats'"),
    (("cost_models", "nxtf", "parameters", "formats"), {"same_as": "cores_per_chip"}, "is in cores"),
    (("cost_models", "nxtf", "fitted"), None, "key 'fitted' is missing"),
    (("default_cost_model",), "nxft", "did you mean 'nxtf'"),
    (("systems",), {}, "one or more boards"),
    (("systems", "kapoho-bay", "chips"), -2, "a whole number, 1 or more"),
    (("systems", "kapoho-bay", "mark"), None, "key 'mark' is missing"),
    (("systems", "kapoho-bay", "grid", "value"), [2, 2], "2 x 2 is not 2 chips"),
    (("systems", "kapoho-bay", "grid", "value"), [2], "rows and columns"),
    (("systems", "kapoho-bay", "grid", "unit"), "cores", "must be 'chips'"),
    (("limits", "kernel_memory_per_core"), COUNTS, "one for each core of a chip, has 3"),
    (("limits", "kernel_memory_per_core"), {**COUNTS, "value": 16}, "a list of whole numbers"),
    (("limits", "kernel_memory_per_core"), {**COUNTS, "value": [3, 0]}, "a list of whole numbers"),
    (("why_not",), "", "why_not: must be a text"),
    (("energy",), 4, "energy: must be a table"),
    (("energy", "sanafe", "entries", "hop_north_energy"), {}, "did you mean 'hop_north_south_energy'"),
    (("energy", "sanafe", "entries", "axon_in_energy", "value"), -1.0, "0 or more"),
    (("energy", "sanafe", "entries", "axon_in_energy", "value"), math.nan, "finite"),
    (("energy", "sanafe", "entries", "axon_in_energy", "unit"), "nJ", "must be 'pJ'"),
    (("not_modelled",), [], "says what is left out"),
    (("not_modelled",), [3], "not_modelled[0]: must be a text"),
]


@pytest.mark.parametrize(
    ("path", "value", "message"), DAMAGE, ids=[f"{n}-{'.'.join(path)}" for n, (path, _, _) in enumerate(DAMAGE)]
)
def test_a_damaged_description_is_refused_with_place_and_reason(
    path: tuple[str, ...], value: Any, message: str
) -> None:
    data = document()
    table = data
    for key in path[:-1]:
        table = table[key]
    if value is None:
        del table[path[-1]]
    else:
        table[path[-1]] = value
    with pytest.raises(TargetError) as refused:
        parse(data, "mine.toml")
    assert str(refused.value).startswith("mine.toml: ")
    assert message in str(refused.value)


def test_what_is_no_table_is_refused() -> None:
    for document in (3, [], "x", None):
        with pytest.raises(TargetError, match="must be a table"):
            parse(document, "mine.toml")


def test_a_users_own_chip_is_loaded_from_a_file(tmp_path: Path) -> None:
    data = document()
    data["name"], data["limits"]["compartments_per_core"]["value"] = "mine", 64
    path = tmp_path / "mine.toml"
    path.write_text(tomli_w.dumps(data))
    target = hw_targets.load(path)
    assert isinstance(target, Target)
    assert (target.name, target["compartments_per_core"]) == ("mine", 64)
    assert isinstance(target.limit("compartments_per_core"), Limit)


def test_the_shipped_files_are_plain_toml_that_names_no_place() -> None:
    for name in NAMES:
        text = (Path(hw_targets.__file__).parent / f"{name}.toml").read_text()
        assert tomllib.loads(text)["name"] == name
        assert "http" not in text

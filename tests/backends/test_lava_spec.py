"""Nothing reaches Lava that it would take without a word and compute wrongly. No Lava is needed here."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lava_networks import chain, with_compartments

from toolchain.backends import lava as backend
from toolchain.backends.lava import _spec
from toolchain.errors import SnncError

SAMPLES = np.full((2, 4), 9)


def spec() -> _spec.Spec:
    return backend.to_spec(chain(2), SAMPLES, slices={})


def with_population(**changes: Any) -> _spec.Spec:
    good = spec()
    first = dataclasses.replace(good.populations[1], **changes)
    return dataclasses.replace(good, populations=(good.populations[0], first, *good.populations[2:]))


def with_connection(**changes: Any) -> _spec.Spec:
    good = spec()
    return dataclasses.replace(
        good, connections=(dataclasses.replace(good.connections[0], **changes), *good.connections[1:])
    )


def test_a_good_one_passes_and_reads_back_equal(tmp_path: Path) -> None:
    good = backend.to_spec(chain(2), SAMPLES, slices={"n0": [1, 3], "in": [2]})
    _spec.write(good, tmp_path)
    read = _spec.read(tmp_path)
    assert (read.steps, read.sources, read.record, read.slices) == (good.steps, good.sources, good.record, good.slices)
    assert read.bounds("n0") == ((0, 1), (1, 3), (3, 4))
    for ours, theirs in zip(good.populations + good.connections, read.populations + read.connections, strict=True):
        for field in dataclasses.fields(ours):
            assert np.array_equal(getattr(ours, field.name), getattr(theirs, field.name)), field.name
    assert np.array_equal(read.inputs["in.values"], SAMPLES)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decay_u": 0}, "du must be an integer"),
        ({"decay_u": 4097}, "du must be an integer"),
        ({"decay_u": 2048.0}, "du must be an integer in range: got 2048.0"),
        ({"decay_u": True}, "du must be an integer"),
        ({"decay_u": np.array([1, 4096, 4097, 1])}, "du out of range"),
        ({"decay_v": np.array([1, 2, 3])}, "dv has the wrong shape"),
        ({"threshold": np.array([1, 2.5, 3, 4])}, "vth must be integers"),
        ({"reset": "soft"}, "unknown reset"),
        ({"refractory": 63}, "refractory period must be an integer"),
        ({"refractory": 1, "reset": "subtract"}, "a refractory period needs reset 'zero'"),
        ({"decay_v": -1}, "dv must be an integer"),
        ({"decay_v": 4096}, "dv must be an integer"),
        ({"decay_v": 0.5}, "dv must be an integer"),
        ({"threshold": -1}, "vth must be an integer"),
        ({"threshold": 2**17}, "vth must be an integer"),
        ({"bias_exponent": 8}, "bias_exp must be an integer"),
        ({"bias_exponent": -1}, "bias_exp must be an integer"),
        ({"bias_mantissas": np.full(4, 4096)}, "bias_mant out of range"),
        ({"bias_mantissas": np.full(4, -4097)}, "bias_mant out of range"),
        ({"bias_mantissas": np.full(4, 0.5)}, "bias_mant must be integers"),
        ({"bias_mantissas": np.zeros(3, int)}, "bias_mant has the wrong shape"),
    ],
)
def test_registers(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(_spec.SpecError, match=message) as caught:
        _spec.check(with_population(**changes))
    assert caught.value.where == "n0"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mantissas": np.full(16, 8)}, "weight mantissas out of range"),
        ({"mantissas": np.full(16, -9)}, "weight mantissas out of range"),
        ({"mantissas": np.full(16, 1.0)}, "weight mantissas must be integers"),
        ({"mantissas": np.full(15, 1)}, "weight mantissas has the wrong shape"),
        ({"sign_mode": "excitatory"}, "weight mantissas out of range"),
        ({"sign_mode": "null"}, "unknown sign mode"),
        ({"weight_bits": 1}, "weight bits must be an integer"),
        ({"weight_bits": 9}, "weight bits must be an integer"),
        ({"exponent": -1}, "weight exponent must be an integer"),
        ({"exponent": 16}, "weight exponent must be an integer"),
        ({"source": "n0", "target": "n0"}, r"steps from spike to arrival must be an integer in range: got 0"),
        ({"delay": 63}, r"steps from spike to arrival must be an integer in range: got 64"),
        ({"delay": -1}, "delay must be an integer"),
        ({"source": "nobody"}, "ends must be known"),
        ({"targets": np.tile([0, 1, 2, 4], 4)}, "targets out of range"),
        ({"targets": np.tile([0, 2, 1, 3], 4)}, "targets must ascend"),
        ({"targets": np.tile([0, 1, 1, 3], 4)}, "targets must ascend"),
        ({"indptr": np.array([0, 4, 8, 12, 15])}, "indptr must ascend"),
        ({"indptr": np.array([0, 8, 4, 12, 16])}, "indptr must ascend"),
        ({"indptr": np.array([0, 4, 8, 16])}, "indptr has the wrong shape"),
    ],
)
def test_synapses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(_spec.SpecError, match=message) as caught:
        _spec.check(with_connection(**changes))
    assert caught.value.where == "c0"


def with_kernel(**changes: Any) -> _spec.Spec:
    """The first connection as a kernel of 1 x 3 with padding over a map of 1 x 1 x 4."""
    kernel = _spec.Kernel((1, 1, 4), (1, 1, 4), (1, 3), (1, 1), ((0, 0), (1, 1)), (1, 1))
    lists = {"indptr": np.arange(4), "targets": np.zeros(3, int), "mantissas": np.array([1, 2, 3])}
    return with_connection(**lists, kernel=dataclasses.replace(kernel, **changes))


def test_a_kernel_and_the_synapses_that_it_stands_for(tmp_path: Path) -> None:
    good = with_kernel()
    _spec.write(good, tmp_path)
    connection = _spec.read(tmp_path).connections[0]
    assert connection.kernel == good.connections[0].kernel
    dense = np.zeros((4, 4), int)
    sources, targets, mantissas = connection.unroll()
    dense[targets, sources] = mantissas
    # No flip: the middle entry at the neuron itself, the last one at the neuron after it.
    assert dense.tolist() == [[2, 3, 0, 0], [1, 2, 3, 0], [0, 1, 2, 3], [0, 0, 1, 2]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": (1, 1, 5)}, "the maps are not of the populations' sizes"),
        ({"size": (1, 2)}, "a map has another size"),
        ({"stride": (1, 2)}, "a map has another size"),
        ({"dilation": (1, 0)}, "kernel dilation must be an integer"),
        ({"padding": ((0, 0), (-1, 3))}, "kernel padding must be an integer"),
    ],
)
def test_kernels(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(_spec.SpecError, match=message) as caught:
        _spec.check(with_kernel(**changes))
    assert caught.value.where == "c0"


def test_registers_one_a_neuron_read_back(tmp_path: Path) -> None:
    good = with_population(threshold=np.arange(4), reset="subtract")
    _spec.write(good, tmp_path)
    read = _spec.read(tmp_path).populations[1]
    assert read.threshold.tolist() == [0, 1, 2, 3]
    assert (read.reset, read.stock, good.populations[2].stock) == ("subtract", False, True)


def test_a_readout_sends_no_spikes() -> None:
    with pytest.raises(_spec.SpecError, match="a readout sends no spikes"):
        _spec.check(with_population(reset="none"))


def test_a_source_without_synapses_at_any_place() -> None:
    for empty in range(4):
        fan_out = np.array([4 * (i != empty) for i in range(4)])
        changes = {
            "indptr": np.concatenate([[0], np.cumsum(fan_out)]),
            "targets": np.tile(np.arange(4), 3),
            "mantissas": np.ones(12, int),
        }
        _spec.check(with_connection(**changes))


def test_input_sum_that_would_leave_32_bits() -> None:
    # 4 synapses of 7 * 2^15 stay below 2^25; as payloads of 255 they do not.
    _spec.check(with_connection(mantissas=np.full(16, 7), exponent=15))
    graded = backend.to_spec(chain(1, coding="graded"), SAMPLES, slices={})
    wide = dataclasses.replace(graded.connections[0], mantissas=np.full(16, 7), exponent=13)
    with pytest.raises(_spec.SpecError, match="input sum of n0 can leave 32 bits"):
        _spec.check(dataclasses.replace(graded, connections=(wide,)))


@pytest.mark.parametrize("cuts", [(0,), (4,), (2, 2), (3, 1)])
def test_cuts(cuts: tuple[int, ...]) -> None:
    with pytest.raises(_spec.SpecError, match="cuts must ascend"):
        _spec.check(dataclasses.replace(spec(), slices={"n0": cuts}))
    with pytest.raises(_spec.SpecError, match="cuts must ascend"):
        _spec.check(dataclasses.replace(spec(), slices={"nobody": (1,)}))


def test_names_inputs_records_and_steps() -> None:
    good = spec()
    for changes, message in [
        ({"steps": 0}, "steps must be an integer"),
        ({"record": ("in.values",)}, "cannot record"),
        ({"populations": ()}, "nothing to run"),
        ({"populations": (*good.populations, good.populations[0])}, "names must differ"),
        ({"inputs": {"other": SAMPLES}}, "has no values"),
        ({"inputs": {"in.values": SAMPLES + 250}}, "input values out of range"),
        ({"inputs": {"in.values": SAMPLES * 1.0}}, "input values must be integers"),
        ({"sources": (_spec.Source("x", "sound", 4, "in"),)}, "unknown kind of input"),
        ({"sources": (_spec.Source("x", "rate", 3, "in"),)}, "population of its own size"),
        ({"sources": (_spec.Source("x", "graded", 4, "in"),)}, "graded input goes over connections"),
    ]:
        with pytest.raises(_spec.SpecError, match=message):
            _spec.check(dataclasses.replace(good, **changes))  # type: ignore[arg-type]


def test_unknown_version_is_refused(tmp_path: Path) -> None:
    _spec.write(spec(), tmp_path)
    header = json.loads((tmp_path / "spec.json").read_text())
    (tmp_path / "spec.json").write_text(json.dumps({**header, "version": 1}))
    with pytest.raises(_spec.SpecError, match="unknown format: got snnc-lava 1"):
        _spec.read(tmp_path)


@pytest.mark.lava
def test_the_user_reads_which_register_of_which_population(lava: object) -> None:
    with pytest.raises(SnncError) as caught:
        backend.run(with_compartments(chain(1), du=100.0), SAMPLES)
    assert caught.value.exit_code == 1
    assert caught.value.where == "n0"
    assert "Lava cannot represent this: du must be an integer" in str(caught.value)

"""What the stages of a graph refuse: sizes, names, order, numbers without meaning; each by place and field."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import strategies
from hypothesis import given, settings
from small_graphs import network
from small_targets import chain

from toolchain.errors import SnncError
from toolchain.ir import (
    Compartments,
    Connectivity,
    Graph,
    IntegerConnection,
    Program,
    make_input,
    mantissa_range,
    sign_mode_of,
    stored_shift,
)
from toolchain.passes.quantize_weights import QuantizeWeights

GRAPH, PROGRAM = network(), chain((3, 4, 2))


def refused(thing: object, message: str, where: str | None = None) -> SnncError:
    with pytest.raises(SnncError, match=message) as caught:
        thing.verify()  # type: ignore[attr-defined]
    if where is not None:
        assert where in str(caught.value.where)
    return caught.value


def lif(**changes: object) -> Graph:
    return replace(GRAPH, populations=(replace(GRAPH.populations[0], **changes), *GRAPH.populations[1:]))


def compartments(**changes: object) -> Program:
    return replace(PROGRAM, populations=(replace(PROGRAM.populations[0], **changes), *PROGRAM.populations[1:]))


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("threshold", 0.0),
        ("threshold", -1.0),
        ("threshold", NAN),
        ("threshold", INF),
        ("gain", 0.0),
        ("gain", NAN),
        ("gain", INF),
        ("current_decay", 0.0),
        ("current_decay", 1.01),
        ("current_decay", NAN),
        ("voltage_decay", 1.01),
        ("voltage_decay", -0.1),
        ("voltage_decay", NAN),
        ("bias", np.full(30, NAN, np.float32)),
        ("bias", np.zeros(29, np.float32)),
    ],
)
def test_neurons_in_physical_units(field: str, value: object) -> None:
    refused(lif(**{field: value}), f"{field} has no meaning", f"fc1.{field}")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("du", 0),
        ("du", 4097),
        ("dv", -1),
        ("dv", 4096),
        ("vth", -1),
        ("vth", 131072),
        ("bias_mantissa", np.full(4, 4096, np.int16)),
        ("bias_mantissa", np.full(4, -32768, np.int16)),
        ("bias_mantissa", np.zeros(3, np.int16)),
        ("bias_exponent", -1),
        ("bias_exponent", 8),
    ],
)
def test_registers(field: str, value: object) -> None:
    refused(compartments(**{field: value}), f"{field} is out of range", f"fc1.{field}")


@pytest.mark.parametrize(
    ("field", "value"), [("du", 1), ("du", 4096), ("dv", 0), ("dv", 4095), ("vth", 0), ("vth", 131071)]
)
def test_ends_of_registers_are_allowed(field: str, value: int) -> None:
    compartments(**{field: value}).verify()


@pytest.mark.parametrize("field", ["scale", "offset"])
@pytest.mark.parametrize("value", [NAN, INF])
def test_an_input_without_meaning_is_refused_by_every_stage(field: str, value: float) -> None:
    entry = replace(GRAPH.input, **{field: value})
    refused(replace(GRAPH, input=entry), "scale must be positive", "input.scale")
    quantised, _ = QuantizeWeights(8).run(GRAPH)
    refused(replace(quantised, input=entry), "scale must be positive", "input.scale")
    refused(replace(PROGRAM, input=replace(PROGRAM.input, **{field: value})), "scale must be positive")


@pytest.mark.parametrize("channels", [[0, 0], [1, 0], [-1, 0], [0, 40]])
def test_input_channels(channels: list[int]) -> None:
    entry = make_input("rate", "input", 40, np.array(channels, np.int32))
    refused(replace(GRAPH, input=entry, populations=GRAPH.populations), "do not chain|out of order")
    with pytest.raises(SnncError, match="out of order or range"):
        entry.verify()


@pytest.mark.parametrize("step", [0.0, -1.0, NAN, INF])
def test_weight_steps(step: float) -> None:
    c = replace(GRAPH.connections[0], weight_step=step)
    refused(replace(GRAPH, connections=(c, GRAPH.connections[1])), "weight step", "fc1.weight.weight_step")
    quantised, _ = QuantizeWeights(8).run(GRAPH)
    c = replace(quantised.connections[0], step=step)
    refused(replace(quantised, connections=(c, quantised.connections[1])), "weight step", "fc1.weight.step")


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_weights(value: float) -> None:
    graph = network()
    graph.connections[1].synapses.weights[5] = value
    error = refused(graph, "1 weights are NaN or infinite", "fc2.weight, first at synapse")
    at = graph.connections[1].synapses.connectivity
    assert f"{at.sources[5]} -> {at.targets[5]}" in str(error.where)


def test_wiring() -> None:
    first, second = GRAPH.connections
    refused(replace(GRAPH, connections=(first, replace(second, source="fc9"))), "does not exist", "fc2.weight")
    refused(replace(GRAPH, connections=(first, replace(second, source="input"))), "do not chain", "input -> fc2")
    refused(replace(GRAPH, connections=(first,)), "no connection into it", "fc2")
    refused(replace(GRAPH, connections=(first, replace(second, name="fc1"))), "stands twice")
    refused(replace(GRAPH, populations=()), "no neurons")
    refused(replace(GRAPH, steps=0), "at least one step")
    square = network((10, 10, 10))
    back = replace(square.connections[1], name="back", source="fc2", target="fc1")
    refused(replace(square, connections=(*square.connections, back)), "a cycle without delay", "fc2 -> fc1, back.delay")
    turned = replace(square, populations=square.populations[::-1])
    refused(turned, "a cycle without delay")
    soon = replace(square, connections=(*square.connections, replace(back, delay=1)))
    refused(soon, "cannot come back so soon", "fc2 -> fc1, back.delay")
    replace(square, connections=(*square.connections, replace(back, delay=2))).verify()


def test_depths_and_what_bridges_them() -> None:
    program = chain((4, 4, 4))
    assert program.depths == {"input": 0, "fc1": 1, "fc2": 2}
    assert set(program.chip_delays.values()) == {1}
    synapses = program.connections[0].synapses
    skip = IntegerConnection("skip", "input", "fc2", synapses)
    itself = IntegerConnection("itself", "fc1", "fc1", synapses, delay=1)
    wider = replace(program, connections=(*program.connections, skip, itself))
    wider.verify()
    assert wider.depths == program.depths
    assert (wider.chip_delays["skip"], wider.chip_delays["itself"]) == (2, 1)
    late = replace(program, connections=(*program.connections[:-1], replace(program.connections[-1], delay=3)))
    assert late.depths == {"input": 0, "fc1": 1, "fc2": 0}
    assert late.chip_delays[program.connections[-1].name] == 2


# ---------------------------------------------------------------------- weights


@pytest.mark.parametrize("bits", range(1, 9))
def test_mantissa_ranges(bits: int) -> None:
    assert mantissa_range("excitatory", bits) == (0, 2**bits - 1)
    assert mantissa_range("inhibitory", bits) == (1 - 2**bits, 0)
    if bits > 1:
        assert mantissa_range("mixed", bits) == (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    assert stored_shift("mixed", bits) == 9 - bits
    assert stored_shift("excitatory", bits) == stored_shift("inhibitory", bits) == 8 - bits


@pytest.mark.parametrize(("mode", "bits"), [("mixed", 1), ("mixed", 9), ("excitatory", 0), ("inhibitory", 9), ("x", 8)])
def test_formats_that_do_not_exist(mode: str, bits: int) -> None:
    with pytest.raises(SnncError, match="no such weight format"):
        mantissa_range(mode, bits)


def test_narrowest_sign_mode() -> None:
    modes = {(): "excitatory", (0,): "excitatory", (3, 0): "excitatory", (-3, 0): "inhibitory", (-1, 1): "mixed"}
    for values, mode in modes.items():
        assert sign_mode_of(np.array(values, np.int16)) == mode


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight_bits": 4}, "mantissa is out of range"),
        ({"sign_mode": "excitatory"}, "mantissa is out of range"),
        ({"exponent": -1}, "negative weight exponent"),
        ({"mantissa": np.zeros(3, np.int16)}, "differ in number"),
        ({"weight_bits": 1}, "no such weight format"),
    ],
)
def test_integer_synapses(changes: dict, message: str) -> None:
    program = chain((3, 4), seed=2)
    c = replace(program.connections[0], synapses=replace(program.connections[0].synapses, **changes))
    refused(replace(program, connections=(c,)), message)


@settings(max_examples=50)
@given(strategies.programs())
def test_equality_sees_every_part(program: Program) -> None:
    assert program == replace(program)
    p = program.populations[0]
    assert program != replace(program, populations=(replace(p, vth=p.vth ^ 1), *program.populations[1:]))
    assert program != replace(program, steps=program.steps + 1)
    assert program != replace(program, metadata={"other": "x"})
    assert program != replace(program, input=replace(program.input, scale=0.123))
    c = program.connections[0]
    more = replace(c, synapses=replace(c.synapses, exponent=c.synapses.exponent + 1))
    assert program != replace(program, connections=(more, *program.connections[1:]))
    with pytest.raises(TypeError):
        hash(program)


def test_compartments_keep_their_own() -> None:
    p = Compartments("p", 3, 4096, 0, 1, np.array([1, 2, 3], np.int16))
    kept = p.keep(np.array([True, False, True]))
    assert (kept.size, kept.bias_mantissa.tolist()) == (2, [1, 3])
    assert p.size == 3


def test_dequantised_weights_are_steps() -> None:
    quantised, _ = QuantizeWeights(5).run(GRAPH)
    graph = quantised.dequantise()
    graph.verify()
    for before, after in zip(quantised.connections, graph.connections, strict=True):
        assert np.allclose(after.synapses.weights, before.synapses.values * before.step, rtol=1e-6)
        assert after.weight_bits == 5
    again, _ = QuantizeWeights(5).run(graph)
    for one, other in zip(quantised.connections, again.connections, strict=True):
        assert one.synapses == other.synapses


def test_sources_of_synapses() -> None:
    c = Connectivity.from_mask(np.array([[1, 0, 1], [1, 1, 0]], bool))
    assert c.sources.tolist() == [0, 0, 1, 2]

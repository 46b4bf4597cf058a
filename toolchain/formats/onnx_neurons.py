"""Bodies of the operators for neurons and inputs.

Neurons come in four kinds, an operator each: the plain one, which a spike sets to zero; SoftReset, from which a spike
takes the threshold away; Refractory, which then waits; and Readout, which never spikes.
"""

from __future__ import annotations

from onnx import AttributeProto, FunctionProto, NodeProto, TensorProto, helper

from toolchain.formats.onnx_parts import (
    DOMAIN,
    attribute,
    cast,
    constant,
    double,
    function,
    power_of_two,
)

SOFT_RESET, REFRACTORY, READOUT = "SoftReset", "Refractory", "Readout"
KINDS = {
    "": "v > threshold spikes, and v = 0 there",
    SOFT_RESET: "v > threshold spikes, and the threshold is taken from v there",
    REFRACTORY: "v > threshold spikes; then v stays 0 for `refractory` steps, which `wait` counts down",
    READOUT: "it never spikes: its v is read",
}
"""Prefix of the operator -> what it does with its membrane potential."""
RESETS = {"": "zero", SOFT_RESET: "subtract", REFRACTORY: "zero", READOUT: "none"}


def kind_of(reset: str, refractory: int) -> str:
    """The prefix of the operator for these neurons."""
    if refractory:
        return REFRACTORY
    return next(kind for kind, name in RESETS.items() if name == reset)


def words(kind: str) -> tuple[tuple[str, ...], bool]:
    """The state that a kind keeps, and whether it sends spikes."""
    return (("u", "v", "wait") if kind == REFRACTORY else ("u", "v")), kind != READOUT


def compartments(kind: str) -> FunctionProto:
    state, spiking = words(kind)
    return function(
        f"{kind}Compartments",
        "u = wrap24(trunc(u (4096 - du) / 4096) + 64 a); v = clip(trunc(v (4096 - dv) / 4096) + u + bias_mantissa "
        f"2^bias_exponent, +-(2^23 - 1)); {KINDS[kind].replace('threshold', '64 vth', 1)}.",
        [*state, "a", "du", "dv", "vth", "bias_mantissa"],
        [*(f"{word}_next" for word in state), *(["spikes"] if spiking else [])],
        ["bias_exponent", *(["refractory"] if kind == REFRACTORY else [])],
        [
            constant("one", 4096),
            constant("shift6", 64),
            constant("zero", 0),
            # The current: decay, synaptic sum, one wrap beyond 24 bits.
            *_decay("u", "du", "u_decayed"),
            helper.make_node("Mul", ["a", "shift6"], ["current"]),
            helper.make_node("Add", ["u_decayed", "current"], ["u_free"]),
            constant("half", 1 << 23),
            constant("minus_half", -(1 << 23)),
            constant("full", 1 << 24),
            helper.make_node("Greater", ["u_free", "half"], ["above"]),
            helper.make_node("Sub", ["u_free", "full"], ["u_less"]),
            helper.make_node("Where", ["above", "u_less", "u_free"], ["u_below"]),
            helper.make_node("LessOrEqual", ["u_below", "minus_half"], ["below"]),
            helper.make_node("Add", ["u_below", "full"], ["u_more"]),
            helper.make_node("Where", ["below", "u_more", "u_below"], ["u_next"]),
            # The membrane potential: decay, current, bias, saturation.
            *_decay("v", "dv", "v_decayed"),
            cast("bias_mantissa", "mantissa", TensorProto.INT64),
            attribute("bias_exponent"),
            *power_of_two("bias_exponent", "bias_scale"),
            helper.make_node("Mul", ["mantissa", "bias_scale"], ["bias"]),
            helper.make_node("Add", ["v_decayed", "u_next"], ["v_driven"]),
            helper.make_node("Add", ["v_driven", "bias"], ["v_free"]),
            constant("low", -((1 << 23) - 1)),
            constant("high", (1 << 23) - 1),
            helper.make_node("Clip", ["v_free", "low", "high"], ["v_held" if spiking else "v_next"]),
            cast("vth", "vth_wide", TensorProto.INT64),
            helper.make_node("Mul", ["vth_wide", "shift6"], ["threshold"]),
            *_fire(kind, "v_held"),
        ],
    )


def lif(kind: str) -> FunctionProto:
    state, spiking = words(kind)
    return function(
        f"{kind}LIF",
        "u = (1 - current_decay) u + gain a; v = (1 - voltage_decay) v + u + gain bias; "
        f"{KINDS[kind]}. In double precision.",
        [*state, "a", "threshold", "gain", "current_decay", "voltage_decay", "bias"],
        [*(f"{word}_next" for word in state), *(["spikes"] if spiking else [])],
        ["refractory"] if kind == REFRACTORY else [],
        [
            helper.make_node("Constant", [], ["one"], value=double(1.0)),
            helper.make_node("Constant", [], ["zero"], value=double(0.0)),
            helper.make_node("Sub", ["one", "current_decay"], ["u_left"]),
            helper.make_node("Mul", ["u_left", "u"], ["u_decayed"]),
            helper.make_node("Mul", ["gain", "a"], ["current"]),
            helper.make_node("Add", ["u_decayed", "current"], ["u_next"]),
            helper.make_node("Sub", ["one", "voltage_decay"], ["v_left"]),
            helper.make_node("Mul", ["v_left", "v"], ["v_decayed"]),
            cast("bias", "bias_double", TensorProto.DOUBLE),
            helper.make_node("Mul", ["gain", "bias_double"], ["bias_current"]),
            helper.make_node("Add", ["v_decayed", "u_next"], ["v_driven"]),
            helper.make_node("Add", ["v_driven", "bias_current"], ["v_free" if spiking else "v_next"]),
            *_fire(kind, "v_free"),
        ],
    )


def _decay(state: str, amount: str, out: str) -> list[NodeProto]:
    """trunc(state * (4096 - amount) / 4096): ONNX divides integers rounding toward zero. 64 bits hold the product."""
    return [
        cast(amount, f"{out}_amount", TensorProto.INT64),
        helper.make_node("Sub", ["one", f"{out}_amount"], [f"{out}_left"]),
        helper.make_node("Mul", [state, f"{out}_left"], [f"{out}_product"]),
        helper.make_node("Div", [f"{out}_product", "one"], [out]),
    ]


def _fire(kind: str, v: str) -> list[NodeProto]:
    """The spike, the reset and the wait of one kind; `threshold` and `zero` are of the type of v."""
    if kind == READOUT:
        return []
    nodes = []
    if kind == REFRACTORY:
        nodes += [
            constant("ready", 0),
            constant("step", 1),
            attribute("refractory"),
            helper.make_node("Greater", ["wait", "ready"], ["waiting"]),
            helper.make_node("Where", ["waiting", "zero", v], ["v_awake"]),
            helper.make_node("Sub", ["wait", "step"], ["wait_less"]),
            helper.make_node("Max", ["wait_less", "ready"], ["wait_left"]),
        ]
        v = "v_awake"
    after = "zero"
    if kind == SOFT_RESET:
        nodes.append(helper.make_node("Sub", [v, "threshold"], ["v_less"]))
        after = "v_less"
    nodes += [
        helper.make_node("Greater", [v, "threshold"], ["fired"]),
        helper.make_node("Where", ["fired", after, v], ["v_next"]),
        cast("fired", "spikes", TensorProto.UINT8),
    ]
    if kind == REFRACTORY:
        nodes.append(helper.make_node("Where", ["fired", "refractory", "wait_left"], ["wait_next"]))
    return nodes


def rate_input() -> FunctionProto:
    zero = helper.make_tensor("zero", TensorProto.INT16, [1], b"\x00\x00", raw=True)
    neurons = helper.make_node(
        "Compartments",
        ["u", "v", "a", "du", "dv", "threshold", "no_bias"],
        ["u_next", "v_next", "spikes"],
        domain=DOMAIN,
        bias_exponent=6,
    )
    return function(
        "RateInput",
        "Integrate-and-fire compartments, one for each channel, driven by the sample's value at every step.",
        ["sample", "channels", "u", "v"],
        ["u_next", "v_next", "spikes"],
        ["threshold"],
        [
            helper.make_node("Gather", ["sample", "channels"], ["values"], axis=1),
            cast("values", "a", TensorProto.INT64),
            constant("du", 4096),
            constant("dv", 0),
            attribute("threshold"),
            helper.make_node("Constant", [], ["no_bias"], value=zero),
            neurons,
        ],
        uses=["Compartments"],
    )


def graded_input() -> FunctionProto:
    return function(
        "GradedInput",
        "A spike with the value's first bits as payload, x >> (8 - payload_bits), at every step where it is not 0.",
        ["sample", "channels"],
        ["spikes"],
        ["payload_bits"],
        [
            helper.make_node("Gather", ["sample", "channels"], ["values"], axis=1),
            attribute("payload_bits"),
            constant("value_bits", 8),
            helper.make_node("Sub", ["value_bits", "payload_bits"], ["cut"]),
            cast("cut", "cut_bits", TensorProto.UINT8),
            helper.make_node("BitShift", ["values", "cut_bits"], ["spikes"], direction="RIGHT"),
        ],
    )


def current_input() -> FunctionProto:
    return function(
        "CurrentInput",
        "The sample's values, from which the host computes the first connection and injects it as a current.",
        ["sample", "channels"],
        ["spikes"],
        [],
        [helper.make_node("Gather", ["sample", "channels"], ["spikes"], axis=1)],
    )


def spike_input() -> FunctionProto:
    return function(
        "SpikeInput",
        "Binary spikes from outside: the sample is what arrives at this step.",
        ["sample", "channels"],
        ["spikes"],
        [],
        [helper.make_node("Gather", ["sample", "channels"], ["spikes"], axis=1)],
    )


def host_current() -> FunctionProto:
    return function(
        "HostCurrent",
        "The host's sum as a bias mantissa: clip(floor((a + 2^shift / 2) / 2^shift), -4095, 4095).",
        ["a"],
        ["injected"],
        ["shift"],
        [
            attribute("shift"),
            *power_of_two("shift", "scale"),
            constant("two", 2),
            helper.make_node("Div", ["scale", "two"], ["half"]),
            helper.make_node("Add", ["a", "half"], ["raised"]),
            # ONNX's Mod takes the sign of the divisor, so what it leaves divides without a rest: a floor.
            helper.make_node("Mod", ["raised", "scale"], ["rest"]),
            helper.make_node("Sub", ["raised", "rest"], ["even"]),
            helper.make_node("Div", ["even", "scale"], ["floored"]),
            constant("low", -4095),
            constant("high", 4095),
            helper.make_node("Clip", ["floored", "low", "high"], ["injected"]),
        ],
    )


def physical_input() -> FunctionProto:
    return function(
        "PhysicalInput",
        "What an input neuron sends, in physical units: offset + scale payload.",
        ["payload"],
        ["value"],
        ["scale", "offset"],
        [
            attribute("scale", AttributeProto.TENSOR),
            attribute("offset", AttributeProto.TENSOR),
            cast("payload", "wide", TensorProto.DOUBLE),
            helper.make_node("Mul", ["scale", "wide"], ["scaled"]),
            helper.make_node("Add", ["offset", "scaled"], ["value"]),
        ],
    )


FUNCTIONS = [
    *(compartments(kind) for kind in KINDS),
    *(lif(kind) for kind in KINDS),
    rate_input(),
    graded_input(),
    current_input(),
    spike_input(),
    host_current(),
    physical_input(),
]

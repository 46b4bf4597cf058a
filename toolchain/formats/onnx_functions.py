"""The operators of our own domain, each with a body in standard ONNX operators.

The body is what makes a file run in any ONNX runtime; the meaning is `toolchain.ir`'s, and the tests hold the two
equal. A body never changes under the same SCHEMA: readers refuse a file whose bodies are not these.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnx import AttributeProto, FunctionProto, NodeProto, TensorProto, helper

DOMAIN = "snnc"
SCHEMA = 1
"""Version of our domain and of the metadata. Raised with any change of a body or of the layout."""
OPSET = 21
IR_VERSION = 10


def _constant(name: str, value: int) -> NodeProto:
    return helper.make_node("Constant", [], [name], value_int=value)


def _attribute(name: str, attribute: str, kind: int = AttributeProto.INT) -> NodeProto:
    """A constant that takes the value of an attribute of the function."""
    node = helper.make_node("Constant", [], [name])
    reference = AttributeProto()
    reference.name = "value_int" if kind == AttributeProto.INT else "value"
    reference.ref_attr_name = attribute
    reference.type = kind  # type: ignore[assignment]
    node.attribute.append(reference)
    return node


def _function(
    name: str,
    doc: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    attributes: Sequence[str],
    nodes: Sequence[NodeProto],
    uses: Sequence[str] = (),
) -> FunctionProto:
    opsets = [helper.make_opsetid("", OPSET)]
    if uses:
        opsets.append(helper.make_opsetid(DOMAIN, SCHEMA))
    function = helper.make_function(DOMAIN, name, inputs, outputs, nodes, opsets, attributes)
    function.doc_string = doc
    return function


def _decay(state: str, amount: str, out: str) -> list[NodeProto]:
    """trunc(state * (4096 - amount) / 4096): ONNX divides integers rounding toward zero. 64 bits hold the product."""
    return [
        helper.make_node("Sub", ["one", amount], [f"{out}_left"]),
        helper.make_node("Mul", [state, f"{out}_left"], [f"{out}_product"]),
        helper.make_node("Div", [f"{out}_product", "one"], [out]),
    ]


def _power_of_two(exponent: str, out: str) -> list[NodeProto]:
    return [_constant(f"{out}_two", 2), helper.make_node("Pow", [f"{out}_two", exponent], [out])]


def compartments() -> FunctionProto:
    return _function(
        "Compartments",
        "u = wrap24(trunc(u (4096 - du) / 4096) + 64 a); v = clip(trunc(v (4096 - dv) / 4096) + u + bias_mantissa "
        "2^bias_exponent, +-(2^23 - 1)); spike where v > 64 vth, and v = 0 there.",
        ["u", "v", "a", "bias_mantissa"],
        ["u_next", "v_next", "spikes"],
        ["du", "dv", "vth", "bias_exponent"],
        [
            _attribute("du", "du"),
            _attribute("dv", "dv"),
            _attribute("vth", "vth"),
            _attribute("bias_exponent", "bias_exponent"),
            _constant("one", 4096),
            _constant("shift6", 64),
            _constant("zero", 0),
            # The current: decay, synaptic sum, one wrap beyond 24 bits.
            *_decay("u", "du", "u_decayed"),
            helper.make_node("Mul", ["a", "shift6"], ["current"]),
            helper.make_node("Add", ["u_decayed", "current"], ["u_free"]),
            _constant("half", 1 << 23),
            _constant("minus_half", -(1 << 23)),
            _constant("full", 1 << 24),
            helper.make_node("Greater", ["u_free", "half"], ["above"]),
            helper.make_node("Sub", ["u_free", "full"], ["u_less"]),
            helper.make_node("Where", ["above", "u_less", "u_free"], ["u_below"]),
            helper.make_node("LessOrEqual", ["u_below", "minus_half"], ["below"]),
            helper.make_node("Add", ["u_below", "full"], ["u_more"]),
            helper.make_node("Where", ["below", "u_more", "u_below"], ["u_next"]),
            # The membrane potential: decay, current, bias, saturation.
            *_decay("v", "dv", "v_decayed"),
            helper.make_node("Cast", ["bias_mantissa"], ["mantissa"], to=TensorProto.INT64),
            *_power_of_two("bias_exponent", "bias_scale"),
            helper.make_node("Mul", ["mantissa", "bias_scale"], ["bias"]),
            helper.make_node("Add", ["v_decayed", "u_next"], ["v_driven"]),
            helper.make_node("Add", ["v_driven", "bias"], ["v_free"]),
            _constant("low", -((1 << 23) - 1)),
            _constant("high", (1 << 23) - 1),
            helper.make_node("Clip", ["v_free", "low", "high"], ["v_held"]),
            # The spike and the reset.
            helper.make_node("Mul", ["vth", "shift6"], ["threshold"]),
            helper.make_node("Greater", ["v_held", "threshold"], ["fired"]),
            helper.make_node("Where", ["fired", "zero", "v_held"], ["v_next"]),
            helper.make_node("Cast", ["fired"], ["spikes"], to=TensorProto.UINT8),
        ],
    )


def lif() -> FunctionProto:
    return _function(
        "LIF",
        "u = (1 - current_decay) u + gain a; v = (1 - voltage_decay) v + u + gain bias; spike where v > threshold, "
        "and v = 0 there. In double precision.",
        ["u", "v", "a", "bias"],
        ["u_next", "v_next", "spikes"],
        ["threshold", "gain", "current_decay", "voltage_decay"],
        [
            _attribute("threshold", "threshold", AttributeProto.TENSOR),
            _attribute("gain", "gain", AttributeProto.TENSOR),
            _attribute("current_decay", "current_decay", AttributeProto.TENSOR),
            _attribute("voltage_decay", "voltage_decay", AttributeProto.TENSOR),
            helper.make_node("Constant", [], ["one"], value=double(1.0)),
            helper.make_node("Constant", [], ["zero"], value=double(0.0)),
            helper.make_node("Sub", ["one", "current_decay"], ["u_left"]),
            helper.make_node("Mul", ["u_left", "u"], ["u_decayed"]),
            helper.make_node("Mul", ["gain", "a"], ["current"]),
            helper.make_node("Add", ["u_decayed", "current"], ["u_next"]),
            helper.make_node("Sub", ["one", "voltage_decay"], ["v_left"]),
            helper.make_node("Mul", ["v_left", "v"], ["v_decayed"]),
            helper.make_node("Cast", ["bias"], ["bias_double"], to=TensorProto.DOUBLE),
            helper.make_node("Mul", ["gain", "bias_double"], ["bias_current"]),
            helper.make_node("Add", ["v_decayed", "u_next"], ["v_driven"]),
            helper.make_node("Add", ["v_driven", "bias_current"], ["v_free"]),
            helper.make_node("Greater", ["v_free", "threshold"], ["fired"]),
            helper.make_node("Where", ["fired", "zero", "v_free"], ["v_next"]),
            helper.make_node("Cast", ["fired"], ["spikes"], to=TensorProto.UINT8),
        ],
    )


def integer_synapses() -> FunctionProto:
    return _function(
        "IntegerSynapses",
        "a = sign 2^exponent (payload . mantissas). Mantissas of the sign modes excitatory and inhibitory are stored "
        "as magnitudes without sign.",
        ["payload", "mantissas"],
        ["a"],
        ["sign_mode", "sign", "weight_bits", "exponent"],
        [
            helper.make_node("MatMulInteger", ["payload", "mantissas"], ["sum"]),
            helper.make_node("Cast", ["sum"], ["wide"], to=TensorProto.INT64),
            *_scaled("wide"),
        ],
    )


def wide_integer_synapses() -> FunctionProto:
    return _function(
        "WideIntegerSynapses",
        "IntegerSynapses with sums in 64 bits, for connections whose largest possible sum exceeds 32.",
        ["payload", "mantissas"],
        ["a"],
        ["sign_mode", "sign", "weight_bits", "exponent"],
        [
            helper.make_node("Cast", ["payload"], ["payload_wide"], to=TensorProto.INT64),
            helper.make_node("Cast", ["mantissas"], ["mantissas_wide"], to=TensorProto.INT64),
            helper.make_node("MatMul", ["payload_wide", "mantissas_wide"], ["wide"]),
            *_scaled("wide"),
        ],
    )


def _scaled(total: str) -> list[NodeProto]:
    return [
        _attribute("exponent", "exponent"),
        _attribute("sign", "sign"),
        *_power_of_two("exponent", "magnitude"),
        helper.make_node("Mul", ["sign", "magnitude"], ["scale"]),
        helper.make_node("Mul", [total, "scale"], ["a"]),
    ]


def float_synapses() -> FunctionProto:
    return _function(
        "FloatSynapses",
        "a = payload . weights. Where training kept the weights to a grid, weight_step is the physical value of one "
        "step of it and weight_bits its width.",
        ["payload", "weights"],
        ["a"],
        ["weight_step", "weight_bits"],
        [
            helper.make_node("Cast", ["payload"], ["payload_double"], to=TensorProto.DOUBLE),
            helper.make_node("Cast", ["weights"], ["weights_double"], to=TensorProto.DOUBLE),
            helper.make_node("MatMul", ["payload_double", "weights_double"], ["a"]),
        ],
    )


def rate_input() -> FunctionProto:
    zero = helper.make_tensor("zero", TensorProto.INT16, [1], b"\x00\x00", raw=True)
    return _function(
        "RateInput",
        "Integrate-and-fire compartments, one for each channel, driven by the sample's value at every step.",
        ["sample", "channels", "u", "v"],
        ["u_next", "v_next", "spikes"],
        ["threshold"],
        [
            helper.make_node("Gather", ["sample", "channels"], ["values"], axis=1),
            helper.make_node("Cast", ["values"], ["a"], to=TensorProto.INT64),
            helper.make_node("Constant", [], ["no_bias"], value=zero),
            _compartments_of_threshold(),
        ],
        uses=["Compartments"],
    )


def _compartments_of_threshold() -> NodeProto:
    node = helper.make_node(
        "Compartments",
        ["u", "v", "a", "no_bias"],
        ["u_next", "v_next", "spikes"],
        domain=DOMAIN,
        du=4096,
        dv=0,
        bias_exponent=6,
    )
    reference = AttributeProto()
    reference.name = "vth"
    reference.ref_attr_name = "threshold"
    reference.type = AttributeProto.INT
    node.attribute.append(reference)
    return node


def graded_input() -> FunctionProto:
    return _function(
        "GradedInput",
        "A spike with the value's first bits as payload, x >> (8 - payload_bits), at every step where it is not 0.",
        ["sample", "channels"],
        ["spikes"],
        ["payload_bits"],
        [
            helper.make_node("Gather", ["sample", "channels"], ["values"], axis=1),
            _attribute("payload_bits", "payload_bits"),
            _constant("value_bits", 8),
            helper.make_node("Sub", ["value_bits", "payload_bits"], ["cut"]),
            helper.make_node("Cast", ["cut"], ["cut_bits"], to=TensorProto.UINT8),
            helper.make_node("BitShift", ["values", "cut_bits"], ["spikes"], direction="RIGHT"),
        ],
    )


def current_input() -> FunctionProto:
    return _function(
        "CurrentInput",
        "The sample's values, from which the host computes the first connection and injects it as a current.",
        ["sample", "channels"],
        ["spikes"],
        [],
        [helper.make_node("Gather", ["sample", "channels"], ["spikes"], axis=1)],
    )


def host_current() -> FunctionProto:
    return _function(
        "HostCurrent",
        "The host's sum as a bias mantissa: clip(floor((a + 2^shift / 2) / 2^shift), -4095, 4095).",
        ["a"],
        ["injected"],
        ["shift"],
        [
            _attribute("shift", "shift"),
            *_power_of_two("shift", "scale"),
            _constant("two", 2),
            helper.make_node("Div", ["scale", "two"], ["half"]),
            helper.make_node("Add", ["a", "half"], ["raised"]),
            # ONNX's Mod takes the sign of the divisor, so what it leaves divides without a rest: a floor.
            helper.make_node("Mod", ["raised", "scale"], ["rest"]),
            helper.make_node("Sub", ["raised", "rest"], ["even"]),
            helper.make_node("Div", ["even", "scale"], ["floored"]),
            _constant("low", -4095),
            _constant("high", 4095),
            helper.make_node("Clip", ["floored", "low", "high"], ["injected"]),
        ],
    )


def physical_input() -> FunctionProto:
    return _function(
        "PhysicalInput",
        "What an input neuron sends, in physical units: offset + scale payload.",
        ["payload"],
        ["value"],
        ["scale", "offset"],
        [
            _attribute("scale", "scale", AttributeProto.TENSOR),
            _attribute("offset", "offset", AttributeProto.TENSOR),
            helper.make_node("Cast", ["payload"], ["wide"], to=TensorProto.DOUBLE),
            helper.make_node("Mul", ["scale", "wide"], ["scaled"]),
            helper.make_node("Add", ["offset", "scaled"], ["value"]),
        ],
    )


def double(value: float) -> TensorProto:
    """A double as an attribute: ONNX's own float attributes have single precision."""
    return helper.make_tensor("", TensorProto.DOUBLE, [], [float(value)])


FUNCTIONS = {
    function.name: function
    for function in (
        compartments(),
        lif(),
        integer_synapses(),
        wide_integer_synapses(),
        float_synapses(),
        rate_input(),
        graded_input(),
        current_input(),
        host_current(),
        physical_input(),
    )
}
"""Every operator of our domain, by name."""
NEEDS = {"RateInput": "Compartments"}
"""Operators whose body uses another one."""

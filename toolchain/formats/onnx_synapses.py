"""Bodies of the operators for synapses and for spikes under way.

Products of small sums are computed by ONNX's 8-bit operators without sign on both sides: with a sign on one side, ONNX
Runtime may add two products in 16 bits that saturate (on x86 processors without VNNI), and its convolution does not
exist before 1.24. So mantissas with a sign are raised by `zero_point` and the operator takes it away again, which
is exact in 32 bits. The others, whose name begins with Wide, compute in double precision: payloads and mantissas are at
most 255 in magnitude, so every sum of fewer than 2^37 products is an integer below 2^53, and exact in any order.
"""

from __future__ import annotations

from onnx import AttributeProto, FunctionProto, NodeProto, TensorProto, helper

from toolchain.formats.onnx_parts import attribute, cast, constant, function, power_of_two, reference

SCALING = ["sign_mode", "sign", "weight_bits", "exponent", "zero_point"]
WINDOW = ["kernel_shape", "strides", "pads", "dilations"]
"""Geometry of a convolution as ONNX's own operators have it."""
GEOMETRY = ["source_shape", "target_shape", *WINDOW, "group"]


def integer_synapses() -> FunctionProto:
    return function(
        "IntegerSynapses",
        "a = sign 2^exponent (payload . mantissas). Mantissas of the sign modes excitatory and inhibitory are stored "
        "as magnitudes without sign.",
        ["payload", "mantissas"],
        ["a"],
        SCALING,
        [
            *_raised("mantissas"),
            helper.make_node("MatMulInteger", ["payload", "raised", "none", "zero"], ["sum"]),
            *_scaled("sum"),
        ],
    )


def wide_integer_synapses() -> FunctionProto:
    return function(
        "WideIntegerSynapses",
        "IntegerSynapses in double precision, for connections whose largest possible sum exceeds 32 bits.",
        ["payload", "mantissas"],
        ["a"],
        SCALING,
        [*_product("payload", "mantissas", "sum"), *_scaled("sum")],
    )


def float_synapses() -> FunctionProto:
    return function(
        "FloatSynapses",
        "a = payload . weights, in double precision. Where training kept the weights to a grid, weight_step is the "
        "physical value of one step of it and weight_bits its width.",
        ["payload", "weights"],
        ["a"],
        ["weight_step", "weight_bits"],
        _product("payload", "weights", "a"),
    )


def integer_convolution() -> FunctionProto:
    convolve = helper.make_node("ConvInteger", ["maps", "raised", "none", "zero"], ["map_sums"])
    convolve.attribute.extend(reference(name, name, AttributeProto.INTS) for name in WINDOW)
    convolve.attribute.append(reference("group", "group", AttributeProto.INT))
    return function(
        "IntegerConvolution",
        "a = sign 2^exponent (payload * kernels), a cross-correlation over maps of source_shape (channels, height, "
        "width). Mantissas of the sign modes excitatory and inhibitory are stored as magnitudes without sign.",
        ["payload", "kernels"],
        ["a"],
        [*GEOMETRY, *SCALING],
        [
            *_raised("kernels"),
            *_maps(),
            convolve,
            helper.make_node("Flatten", ["map_sums"], ["sum"], axis=1),
            *_scaled("sum"),
        ],
    )


def wide_integer_convolution() -> FunctionProto:
    return function(
        "WideIntegerConvolution",
        "IntegerConvolution in double precision, for kernels whose largest possible sum exceeds 32 bits.",
        ["payload", "kernels"],
        ["a"],
        [*GEOMETRY, *SCALING],
        [*_maps(), *_correlation("sum"), *_scaled("sum")],
    )


def float_convolution() -> FunctionProto:
    return function(
        "FloatConvolution",
        "a = payload * kernels, a cross-correlation over maps of source_shape (channels, height, width), in double "
        "precision. Where training kept the weights to a grid, weight_step is the physical value of one step of it "
        "and weight_bits its width.",
        ["payload", "kernels"],
        ["a"],
        [*GEOMETRY, "weight_step", "weight_bits"],
        [*_maps(), *_correlation("a")],
    )


def sparse_tensor() -> FunctionProto:
    return function(
        "SparseTensor",
        "A tensor of the given shape with the values at positions that ascend in the flattened tensor, zeros elsewhere."
        " The first gap is the first position, the others are the distances from each to the next.",
        ["gaps", "values"],
        ["dense"],
        ["shape"],
        [
            cast("gaps", "distances", TensorProto.INT64),
            constant("along", 0),
            helper.make_node("CumSum", ["distances", "along"], ["positions"]),
            attribute("shape", AttributeProto.INTS),
            helper.make_node("ReduceProd", ["shape"], ["places"], keepdims=1),
            constant("nothing", 0),
            helper.make_node("CastLike", ["nothing", "values"], ["empty"]),
            helper.make_node("Expand", ["empty", "places"], ["zeros"]),
            helper.make_node("ScatterElements", ["zeros", "positions", "values"], ["flat"], axis=0),
            helper.make_node("Reshape", ["flat", "shape"], ["dense"], allowzero=1),
        ],
    )


def delay_line() -> FunctionProto:
    return function(
        "DelayLine",
        "What a source sent in its last steps, (batch, steps, size), the latest first: one step on.",
        ["payload", "sent"],
        ["sent_next"],
        [],
        [
            constant("after_batch", [1]),
            helper.make_node("Unsqueeze", ["payload", "after_batch"], ["latest"]),
            helper.make_node("Concat", ["latest", "sent"], ["all"], axis=1),
            constant("first", [0]),
            constant("last", [-1]),
            helper.make_node("Slice", ["all", "first", "last", "after_batch"], ["sent_next"]),
        ],
    )


def delay_tap() -> FunctionProto:
    return function(
        "DelayTap",
        "What a source sent so many steps ago, 1 or more.",
        ["sent"],
        ["payload"],
        ["steps"],
        [
            attribute("steps"),
            constant("one", 1),
            helper.make_node("Sub", ["steps", "one"], ["place"]),
            helper.make_node("Gather", ["sent", "place"], ["payload"], axis=1),
        ],
    )


def _raised(mantissas: str) -> list[NodeProto]:
    """Mantissas as bytes without sign. Flipping the sign bit of a byte (zero_point 128) adds 128 to what it holds."""
    return [
        attribute("zero_point"),
        # That of the payload. It may be left out, but ONNX Runtime 1.20 then reads it all the same.
        helper.make_node("Constant", [], ["none"], value=helper.make_tensor("none", TensorProto.UINT8, [], [0])),
        cast("zero_point", "zero", TensorProto.UINT8),
        cast(mantissas, "bytes", TensorProto.UINT8),
        helper.make_node("BitwiseXor", ["bytes", "zero"], ["raised"]),
    ]


def _scaled(total: str) -> list[NodeProto]:
    return [
        cast(total, f"{total}_wide", TensorProto.INT64),
        attribute("exponent"),
        attribute("sign"),
        *power_of_two("exponent", "magnitude"),
        helper.make_node("Mul", ["sign", "magnitude"], ["scale"]),
        helper.make_node("Mul", [f"{total}_wide", "scale"], ["a"]),
    ]


def _product(payload: str, weights: str, out: str) -> list[NodeProto]:
    """payload . weights in double precision."""
    return [
        cast(payload, "payload_double", TensorProto.DOUBLE),
        cast(weights, "weights_double", TensorProto.DOUBLE),
        helper.make_node("MatMul", ["payload_double", "weights_double"], [out]),
    ]


def _maps() -> list[NodeProto]:
    """The flat population as maps, (batch, channels, height, width)."""
    return [
        attribute("source_shape", AttributeProto.INTS),
        constant("batch", [0]),  # as it is
        helper.make_node("Concat", ["batch", "source_shape"], ["maps_shape"], axis=0),
        helper.make_node("Reshape", ["payload", "maps_shape"], ["maps"]),
    ]


def _correlation(out: str) -> list[NodeProto]:
    """A convolution in double precision, which ONNX Runtime's own does not have: a product with the map's patches."""
    return [
        attribute("target_shape", AttributeProto.INTS),
        attribute("kernel_shape", AttributeProto.INTS),
        attribute("strides", AttributeProto.INTS),
        attribute("pads", AttributeProto.INTS),
        attribute("dilations", AttributeProto.INTS),
        attribute("group"),
        # Padding of all four axes: ONNX Runtime before 1.24 does not take an attribute as that of two.
        constant("no_padding", [0, 0]),
        constant("begin_places", [0, 1]),
        constant("end_places", [2, 3]),
        helper.make_node("Gather", ["pads", "begin_places"], ["begins"]),
        helper.make_node("Gather", ["pads", "end_places"], ["ends"]),
        helper.make_node("Concat", ["no_padding", "begins", "no_padding", "ends"], ["padding"], axis=0),
        helper.make_node("Pad", ["maps", "padding"], ["padded"]),
        # Patches, (batch, channels, kernel height, target height, kernel width, target width).
        *_reads("row", 0),
        helper.make_node("Gather", ["padded", "row_reads"], ["rows"], axis=2),
        *_reads("column", 1),
        helper.make_node("Gather", ["rows", "column_reads"], ["patches"], axis=4),
        helper.make_node("Transpose", ["patches"], ["patches_by_tap"], perm=[0, 1, 2, 4, 3, 5]),
        # Per group: (outputs, taps) . (batch, taps, places).
        constant("axis0", [0]),
        constant("rest", [-1]),
        helper.make_node("Unsqueeze", ["group", "axis0"], ["groups"]),
        constant("batch_axis", [0]),
        helper.make_node("Mul", ["row_targets", "column_targets"], ["places_number"]),
        helper.make_node("Unsqueeze", ["places_number", "axis0"], ["places"]),
        helper.make_node("Concat", ["batch_axis", "groups", "rest", "places"], ["patches_shape"], axis=0),
        helper.make_node("Reshape", ["patches_by_tap", "patches_shape"], ["patches_by_group"]),
        cast("patches_by_group", "patches_double", TensorProto.DOUBLE),
        constant("channel_axis", 0),
        helper.make_node("Gather", ["target_shape", "channel_axis"], ["outputs"]),
        helper.make_node("Div", ["outputs", "group"], ["outputs_of_group"]),
        helper.make_node("Unsqueeze", ["outputs_of_group", "axis0"], ["outputs_each"]),
        helper.make_node("Concat", ["groups", "outputs_each", "rest"], ["kernels_shape"], axis=0),
        helper.make_node("Reshape", ["kernels", "kernels_shape"], ["kernels_by_group"]),
        cast("kernels_by_group", "kernels_double", TensorProto.DOUBLE),
        helper.make_node("MatMul", ["kernels_double", "patches_double"], ["map_sums"]),
        helper.make_node("Flatten", ["map_sums"], [out], axis=1),
    ]


def _reads(word: str, axis: int) -> list[NodeProto]:
    """The padded row (or column) that each kernel row reads at each target row: (kernel, target)."""
    number = f"{word}_number"

    def item(values: str, at: str, out: str) -> NodeProto:
        return helper.make_node("Gather", [values, at], [out])

    return [
        constant(number, axis),
        constant(f"{word}_after_channels", axis + 1),
        item("kernel_shape", number, f"{word}_taps"),
        item("target_shape", f"{word}_after_channels", f"{word}_targets"),
        item("strides", number, f"{word}_stride"),
        item("dilations", number, f"{word}_dilation"),
        constant(f"{word}_zero", 0),
        constant(f"{word}_one", 1),
        helper.make_node("Range", [f"{word}_zero", f"{word}_taps", f"{word}_one"], [f"{word}_tap"]),
        helper.make_node("Mul", [f"{word}_tap", f"{word}_dilation"], [f"{word}_offset"]),
        constant(f"{word}_across", [1]),
        helper.make_node("Unsqueeze", [f"{word}_offset", f"{word}_across"], [f"{word}_offsets"]),
        helper.make_node("Range", [f"{word}_zero", f"{word}_targets", f"{word}_one"], [f"{word}_target"]),
        helper.make_node("Mul", [f"{word}_target", f"{word}_stride"], [f"{word}_starts"]),
        helper.make_node("Add", [f"{word}_offsets", f"{word}_starts"], [f"{word}_reads"]),
    ]


FUNCTIONS = [
    integer_synapses(),
    wide_integer_synapses(),
    float_synapses(),
    integer_convolution(),
    wide_integer_convolution(),
    float_convolution(),
    sparse_tensor(),
    delay_line(),
    delay_tap(),
]

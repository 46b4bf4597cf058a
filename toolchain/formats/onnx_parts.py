"""What the bodies of our operators are put together from, and the versions that stand in every file."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import AttributeProto, FunctionProto, NodeProto, TensorProto, helper

DOMAIN = "snnc"
SCHEMA = 2
"""Version of our domain and of the metadata. Raised with any change of a body or of the layout."""
OPSET = 21
IR_VERSION = 10


def function(
    name: str,
    doc: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    attributes: Sequence[str],
    nodes: Sequence[NodeProto],
    uses: Sequence[str] = (),
) -> FunctionProto:
    """An operator of our domain; `uses` names those of our operators that its body needs."""
    opsets = [helper.make_opsetid("", OPSET)]
    if uses:
        opsets.append(helper.make_opsetid(DOMAIN, SCHEMA))
    made = helper.make_function(DOMAIN, name, inputs, outputs, nodes, opsets, attributes)
    made.doc_string = doc
    return made


def constant(name: str, value: int | Sequence[int]) -> NodeProto:
    """64-bit integers: one, or a list."""
    if isinstance(value, int):
        return helper.make_node("Constant", [], [name], value_int=value)
    return helper.make_node("Constant", [], [name], value_ints=list(value))


def reference(name: str, attribute: str, kind: int) -> AttributeProto:
    """An attribute `name` of a node in a body that takes its value from an attribute of the operator."""
    made = AttributeProto()
    made.name = name
    made.ref_attr_name = attribute
    made.type = kind  # type: ignore[assignment]
    return made


def attribute(name: str, kind: int = AttributeProto.INT) -> NodeProto:
    """A constant with the value, and the name, of an attribute of the operator."""
    fields = {AttributeProto.INT: "value_int", AttributeProto.INTS: "value_ints", AttributeProto.TENSOR: "value"}
    node = helper.make_node("Constant", [], [name])
    node.attribute.append(reference(fields[kind], name, kind))  # type: ignore[index]
    return node


def double(value: float) -> TensorProto:
    """A double as an attribute: ONNX's own float attributes have single precision."""
    return helper.make_tensor("", TensorProto.DOUBLE, [], [float(value)])


def power_of_two(exponent: str, out: str) -> list[NodeProto]:
    """out = 2^exponent."""
    return [constant(f"{out}_two", 2), helper.make_node("Pow", [f"{out}_two", exponent], [out])]


def cast(value: str, out: str, element: int) -> NodeProto:
    """The value in another element type."""
    return helper.make_node("Cast", [value], [out], to=element)

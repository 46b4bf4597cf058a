"""An ONNX file that nobody vouches for: its values, each checked where it is taken.

Whatever the bytes are, a value comes out or an SnncError, in memory that grows with the file and not with the sizes
that it claims.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from itertools import zip_longest
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from google.protobuf.message import DecodeError, Message
from numpy.typing import NDArray
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto

from toolchain import __version__
from toolchain.errors import SnncError, nearest
from toolchain.formats.onnx_functions import FUNCTIONS
from toolchain.formats.onnx_layouts import GAP_TYPES
from toolchain.formats.onnx_model import SIZE_MAX
from toolchain.formats.onnx_parts import DOMAIN, OPSET, SCHEMA

IR_VERSION_TAG = b"\x08"
"""How every file of ours begins: the field of the ONNX version comes first."""
DTYPES: dict[int, np.dtype[Any]] = {
    TensorProto.FLOAT: np.dtype("<f4"),
    TensorProto.DOUBLE: np.dtype("<f8"),
    TensorProto.INT8: np.dtype("i1"),
    TensorProto.INT16: np.dtype("<i2"),
    TensorProto.INT32: np.dtype("<i4"),
    **GAP_TYPES,
}
STANDARD_OPERATORS = ("Add",)
"""Operators that stand outside our functions' bodies."""
NUMBER_MAX = (1 << 31) - 1
"""Largest number in a list of whole numbers."""


def parse(path: str | os.PathLike[str]) -> ModelProto:
    """The protocol buffer in a file; sizes are checked first."""
    where = str(path)
    try:
        size = os.stat(path).st_size
        if size > SIZE_MAX:
            raise SnncError("the file is too large", where=where, got=f"{size} bytes", allowed=f"{SIZE_MAX} bytes")
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise SnncError("no such file", where=where) from None
    except IsADirectoryError:
        raise SnncError("this is a folder, not an ONNX file", where=where) from None
    except OSError as error:
        raise SnncError("the file cannot be read", where=where, got=error.strerror) from None
    if not data:
        raise SnncError("the file is empty", where=where)
    if data[:1] != IR_VERSION_TAG:
        raise SnncError("not an ONNX model of snnc", where=where, got=f"first bytes {data[:4]!r}")
    try:
        return ModelProto.FromString(data)
    except DecodeError:
        raise SnncError(
            "the file is damaged or cut off", where=where, remedy="write it again with snnc compile"
        ) from None


class File:
    """One file, and what it says of itself."""

    def __init__(self, path: str | os.PathLike[str], kind: str) -> None:
        self.path = str(path)
        self.model = parse(path)
        self.metadata = self._metadata()
        self._check_versions(kind)
        self._check_operators()
        self.tensors = self._named("tensor", self.model.graph.initializer, lambda t: t.name)

    def refuse(self, message: str, place: str = "", **details: object) -> NoReturn:
        raise SnncError(message, where=f"{self.path}, {place}" if place else self.path, **details)  # type: ignore[arg-type]

    # What the file says of itself.

    def _metadata(self) -> dict[str, str]:
        entries: dict[str, str] = {}
        for entry in self.model.metadata_props:
            key, value = self._text(entry.key, "metadata"), self._text(entry.value, "metadata")
            if key in entries:
                self.refuse("a metadata entry stands twice", key)
            entries[key] = value
        return entries

    def _check_versions(self, kind: str) -> None:
        if "snnc.schema" not in self.metadata:
            self.refuse("not a model that snnc wrote", "metadata", allowed="an entry snnc.schema")
        opsets = {self._text(o.domain, "opset_import"): o.version for o in self.model.opset_import}
        schemas = {self._whole("snnc.schema", 1, 1 << 31), opsets.get(DOMAIN, 0)}
        if max(schemas) > SCHEMA:
            writer = self._text(self.model.producer_version, "producer_version")
            self.refuse(
                f"the file was written by a newer snnc ({writer or 'unknown'})",
                "snnc.schema",
                got=max(schemas),
                allowed=f"up to {SCHEMA}, what snnc {__version__} reads",
                remedy="update snnc, or write the file again with this one",
            )
        strangers = sorted(set(opsets) - {"", DOMAIN})
        if strangers:
            self.refuse("unknown operator domain", "opset_import", got=strangers[0], allowed=f"'', '{DOMAIN}'")
        if max(schemas) < SCHEMA:
            self.refuse(
                "the file was written by an older snnc, whose files are no longer read",
                "snnc.schema",
                got=max(schemas),
                allowed=SCHEMA,
                remedy="compile the trained model again",
            )
        if opsets != {"": OPSET, DOMAIN: SCHEMA} or schemas != {SCHEMA}:
            self.refuse(
                "operator versions that snnc does not write",
                "opset_import",
                got=opsets,
                allowed={"": OPSET, DOMAIN: SCHEMA},
            )
        if self.metadata.get("snnc.kind") != kind:
            self.refuse(
                f"this is not a {kind} but a {self.metadata.get('snnc.kind', 'model without a kind')}",
                "snnc.kind",
                remedy="graph.onnx holds the trained graph, program.onnx the integer program",
            )

    def _check_operators(self) -> None:
        for node in self.model.graph.node:
            name = f"node {self._text(node.name, 'node')!r}"
            operator, domain = self._text(node.op_type, name), self._text(node.domain, name)
            known: Iterable[str] = FUNCTIONS if domain == DOMAIN else STANDARD_OPERATORS
            if domain not in ("", DOMAIN):
                self.refuse(f"unknown operator domain {domain!r}", name, allowed=f"'', '{DOMAIN}'")
            if operator not in known:
                self.refuse(f"unknown operator {operator!r}", name, allowed=nearest(operator, known))

    def _named(self, what: str, tensors: Iterable[Any], name_of: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for tensor in tensors:
            name = self._text(name_of(tensor), what)
            if name in found:
                self.refuse(f"a {what} stands twice", name)
            found[name] = tensor
        return found

    # Values, each checked where it is taken.

    def _text(self, value: object, place: str) -> str:
        # Protocol buffers hand back bytes where text is not UTF-8.
        if not isinstance(value, str):
            self.refuse("text that is not UTF-8", place)
        return value

    def _entry(self, key: str) -> str:
        if key not in self.metadata:
            self.refuse("a metadata entry is missing", key)
        return self.metadata[key]

    def _whole(self, key: str, low: int, high: int) -> int:
        text = self._entry(key)
        if not (text.isascii() and text.isdigit() and len(text) <= 10 and low <= int(text) <= high):
            self.refuse("not a whole number in range", key, got=text[:40], allowed=f"{low} to {high}")
        return int(text)

    def _real(self, key: str) -> float:
        text = self._entry(key)
        try:
            return float(text[:40])
        except ValueError:
            self.refuse("not a number", key, got=text[:40])

    def _attribute(self, node: NodeProto, name: str, kind: int) -> AttributeProto | None:
        found = [a for a in node.attribute if a.name == name]
        if not found:
            return None
        if len(found) > 1 or found[0].type != kind:
            self.refuse("an attribute stands twice or has the wrong type", f"{node.name}.{name}")
        return found[0]

    def _int(self, node: NodeProto, name: str) -> int:
        attribute = self._attribute(node, name, AttributeProto.INT)
        if attribute is None:
            self.refuse("an attribute is missing", f"{node.name}.{name}")
        return int(attribute.i)

    def _double(self, node: NodeProto, name: str) -> float | None:
        attribute = self._attribute(node, name, AttributeProto.TENSOR)
        if attribute is None:
            return None
        if attribute.t.data_type != TensorProto.DOUBLE or len(attribute.t.double_data) != 1:
            self.refuse("not one number in double precision", f"{node.name}.{name}")
        return float(attribute.t.double_data[0])

    def _ints(self, node: NodeProto, name: str, length: int) -> tuple[int, ...]:
        attribute = self._attribute(node, name, AttributeProto.INTS)
        numbers = tuple(attribute.ints) if attribute is not None else ()
        if len(numbers) != length or not all(0 <= number <= NUMBER_MAX for number in numbers):
            self.refuse(
                "not a list of whole numbers in range",
                f"{node.name}.{name}",
                got=list(numbers[:8]),
                allowed=f"{length} numbers from 0 to {NUMBER_MAX}",
            )
        return numbers

    def _array(self, name: str, *elements: int) -> NDArray[Any]:
        """The values of a tensor: as many as its bytes hold, and as many as it declares."""
        if name not in self.tensors:
            self.refuse("a tensor is missing", name)
        tensor = self.tensors[name]
        if tensor.data_location == TensorProto.EXTERNAL or len(tensor.external_data):
            self.refuse("data outside the file is never read", name, remedy="write the model with its data inside")
        if tensor.data_type not in elements:
            self.refuse(
                "wrong element type",
                name,
                got=_element_name(tensor.data_type),
                allowed=" or ".join(_element_name(element) for element in elements),
            )
        dtype, declared, data = DTYPES[tensor.data_type], list(tensor.dims), tensor.raw_data
        if min(declared, default=0) < 0 or math.prod(declared) * dtype.itemsize != len(data):
            self.refuse("declared size and bytes in the file differ", name, got=f"{declared}, {len(data)} bytes")
        return np.frombuffer(data, dtype).astype(dtype.newbyteorder("=")).reshape(declared)

    def _vector(self, name: str, *elements: int) -> NDArray[Any]:
        values = self._array(name, *elements)
        if values.ndim != 1:
            self.refuse("not a list", name, got=f"shape {values.shape}")
        return values

    def compare(self, ours: ModelProto) -> None:
        """Refuse the file unless, its tensors' values aside (those were read), it is the model that we write.

        The words for people may differ: who wrote it, and what it says of itself.
        """
        for tensor in self.model.graph.initializer:
            tensor.ClearField("raw_data")
        for model in (self.model, ours):
            model.ClearField("producer_version")
            model.ClearField("doc_string")
            for function in model.functions:
                function.ClearField("doc_string")
        if self.model == ours:
            return
        self.refuse(
            "the file is not what snnc writes for this network",
            _difference(self.model, ours),
            remedy="models of other tools, or edited ones, are not read",
        )


def _element_name(element: int) -> str:
    known = {number: name for name, number in TensorProto.DataType.items()}
    return known.get(element, f"unknown type {element}")


def _difference(theirs: Message, ours: Message, place: str = "") -> str:
    """Where two messages differ first: the path of fields, with the names of nodes, functions and values."""
    for field in ours.DESCRIPTOR.fields:
        left, right = getattr(theirs, field.name), getattr(ours, field.name)
        if left == right:
            continue
        here = f"{place}.{field.name}" if place else field.name
        if field.message_type is None:
            return here
        if isinstance(left, Message):
            return _difference(left, right, here)
        for number, (one, other) in enumerate(zip_longest(left, right)):
            if one != other:
                named = one if one is not None else other
                name = getattr(named, "name", "") or getattr(named, "key", "") or number
                return f"{here} {str(name)[:80]!r}"
    return place or "fields that ONNX does not have"

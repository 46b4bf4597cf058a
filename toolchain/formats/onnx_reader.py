"""Takes apart an ONNX file that nobody vouches for.

Whatever the bytes are, the result is a network or an SnncError, in memory that grows with the file and not with
the sizes that it claims.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from google.protobuf.message import DecodeError, Message
from numpy.typing import NDArray
from onnx import AttributeProto, ModelProto, NodeProto, SparseTensorProto, TensorProto

from toolchain import __version__
from toolchain.errors import SnncError, nearest
from toolchain.formats.onnx_functions import DOMAIN, FUNCTIONS, OPSET, SCHEMA
from toolchain.formats.onnx_model import (
    EXPONENT_MAX,
    INPUT_OPERATORS,
    MANTISSA_FORMATS,
    PROVENANCE,
    SHIFT_MAX,
    SIZE_MAX,
    STEPS_MAX,
)
from toolchain.ir import (
    LIF,
    Compartments,
    Connection,
    Connectivity,
    FloatSynapses,
    Graph,
    Input,
    IntegerConnection,
    IntegerSynapses,
    Program,
    make_input,
)
from toolchain.ir.inputs import VALUE_BITS

IR_VERSION_TAG = b"\x08"
"""How every file of ours begins: the field of the ONNX version comes first."""
DTYPES: dict[int, np.dtype[Any]] = {
    TensorProto.FLOAT: np.dtype("<f4"),
    TensorProto.INT8: np.dtype("i1"),
    TensorProto.UINT8: np.dtype("u1"),
    TensorProto.INT16: np.dtype("<i2"),
    TensorProto.INT32: np.dtype("<i4"),
    TensorProto.INT64: np.dtype("<i8"),
}
STANDARD_OPERATORS = ("Add",)
"""Operators that stand outside our functions' bodies."""


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


class Reader:
    """One file on the way to a network: `program` or `graph`, then `compare` with what we would have written."""

    def __init__(self, path: str | os.PathLike[str], kind: str) -> None:
        self.path = str(path)
        self.model = parse(path)
        self.metadata = self._metadata()
        self._check_versions(kind)
        self._check_operators()
        self.tensors = self._named("initializer", self.model.graph.initializer, lambda t: t.name)
        self.sparse = self._named("sparse initialiser", self.model.graph.sparse_initializer, lambda t: t.values.name)

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

    def _required_double(self, node: NodeProto, name: str) -> float:
        value = self._double(node, name)
        if value is None:
            self.refuse("an attribute is missing", f"{node.name}.{name}")
        return value

    def _vector(self, tensor: TensorProto, element: int, place: str) -> NDArray[Any]:
        """The values of a one-dimensional tensor: as many as its bytes hold, and as many as it declares."""
        if tensor.data_location == TensorProto.EXTERNAL or len(tensor.external_data):
            self.refuse("data outside the file is never read", place, remedy="write the model with its data inside")
        if tensor.data_type != element:
            self.refuse(
                "wrong element type",
                place,
                got=_element_name(tensor.data_type),
                allowed=_element_name(element),
            )
        dtype = DTYPES[element]
        declared = list(tensor.dims)
        held = len(tensor.raw_data)
        if len(declared) != 1 or declared[0] * dtype.itemsize != held:
            self.refuse("declared size and bytes in the file differ", place, got=f"{declared}, {held} bytes")
        return np.frombuffer(tensor.raw_data, dtype).astype(dtype.newbyteorder("="))

    def _taken(self, name: str, element: int) -> NDArray[Any]:
        if name not in self.tensors:
            self.refuse("a tensor is missing", name)
        return self._vector(self.tensors[name], element, name)

    def _connectivity(self, tensor: SparseTensorProto, n_sources: int, n_targets: int, place: str) -> Connectivity:
        """Sizes are those of populations, whose own tensors are in the file; so nothing grows with a bare claim."""
        if list(tensor.dims) != [n_sources, n_targets]:
            self.refuse("layer sizes do not chain", place, got=list(tensor.dims), allowed=[n_sources, n_targets])
        position = self._vector(tensor.indices, TensorProto.INT64, f"{place}, positions")
        if len(position) != (tensor.values.dims[0] if len(tensor.values.dims) == 1 else -1):
            self.refuse("positions and values differ in number", place, got=len(position))
        if len(position):
            if int(position[0]) < 0 or int(position[-1]) >= n_sources * n_targets:
                self.refuse("a synapse lies outside the layer", place, allowed=f"0 to {n_sources * n_targets - 1}")
            if not bool(np.all(position[1:] > position[:-1])):
                self.refuse("synapses are out of order or stand twice", place, allowed="ascending positions")
        indptr = np.searchsorted(position, np.arange(n_sources + 1, dtype=np.int64) * n_targets).astype(np.int64)
        targets = (position % n_targets if n_targets else position).astype(np.int32)
        return Connectivity(n_sources, n_targets, indptr, targets)

    # The networks.

    def _input(self) -> Input:
        coding = self._entry("snnc.input.coding")
        nodes = [n for n in self.model.graph.node if n.op_type in INPUT_OPERATORS.values()]
        if coding not in INPUT_OPERATORS or [n.op_type for n in nodes] != [INPUT_OPERATORS[coding]]:
            self.refuse("the input's coding and its operator differ", "snnc.input.coding", got=coding[:40])
        name = nodes[0].name
        dims = [d for value in self.model.graph.input[:1] for d in value.type.tensor_type.shape.dim]
        sample_size = dims[1].dim_value if len(dims) == 2 else 0
        if not 0 < sample_size <= STEPS_MAX:
            self.refuse("the size of a sample is missing or out of range", "sample", got=sample_size)
        limits = {
            "rate": {"threshold": STEPS_MAX},
            "graded": {"payload_bits": VALUE_BITS},
            "current": {"shift": SHIFT_MAX},
        }[coding]
        return make_input(
            coding,
            name,
            sample_size,
            self._taken(f"{name}.channels", TensorProto.INT32),
            scale=self._real("snnc.input.scale"),
            offset=self._real("snnc.input.offset"),
            **{key: self._whole(f"snnc.input.{key}", 0, high) for key, high in limits.items()},
        )

    def _wiring(self, synapses: Sequence[str], neuron: str) -> tuple[list[NodeProto], dict[str, tuple[str, NodeProto]]]:
        """Neuron nodes in order; connection name -> (target's name, node). Sums stand before what they enter."""
        neurons: list[NodeProto] = []
        connections: dict[str, tuple[str, NodeProto]] = {}
        waiting: list[NodeProto] = []
        for node in self.model.graph.node:
            if node.op_type in synapses:
                waiting.append(node)
            elif node.op_type == neuron:
                neurons.append(node)
                for entering in waiting:
                    if entering.name in connections:
                        self.refuse("a connection stands twice", entering.name)
                    connections[entering.name] = (node.name, entering)
                waiting = []
        if waiting:
            self.refuse("a connection leads nowhere", waiting[0].name)
        return neurons, connections

    def _source(self, node: NodeProto, sizes: dict[str, int]) -> str:
        value = self._text(node.input[0], node.name) if len(node.input) else ""
        source = value.rpartition(".")[0]
        if source not in sizes:
            self.refuse("a connection starts at nothing that is known", node.name, got=value[:80])
        return source

    def _ordered(self, connections: dict[str, Any], word: str) -> list[str]:
        """Names of the connections in the order of the sparse initialisers."""
        names = [name.removesuffix(f".{word}") for name in self.sparse]
        if sorted(names) != sorted(connections):
            self.refuse("connections and sparse initialisers differ", got=names[:8], allowed=sorted(connections)[:8])
        return names

    def program(self) -> Program:
        source = self._input()
        neurons, wiring = self._wiring(("IntegerSynapses", "WideIntegerSynapses"), "Compartments")
        populations = []
        for node in neurons:
            bias = self._taken(f"{node.name}.bias_mantissa", TensorProto.INT16)
            registers = {key: self._int(node, key) for key in ("du", "dv", "vth", "bias_exponent")}
            populations.append(Compartments(name=node.name, size=len(bias), bias_mantissa=bias, **registers))
        sizes = {source.name: source.size, **{p.name: p.size for p in populations}}
        connections = []
        for name in self._ordered(wiring, "mantissas"):
            target, node = wiring[name]
            start = self._source(node, sizes)
            tensor = self.sparse[f"{name}.mantissas"]
            mode = self._attribute(node, "sign_mode", AttributeProto.STRING)
            sign_mode = mode.s.decode(errors="replace") if mode is not None else ""
            if sign_mode not in MANTISSA_FORMATS:
                self.refuse("unknown sign mode", name, got=sign_mode[:40], allowed=", ".join(MANTISSA_FORMATS))
            stored = MANTISSA_FORMATS[sign_mode]
            exponent = self._int(node, "exponent")
            if not 0 <= exponent <= EXPONENT_MAX:
                self.refuse("weight exponent out of range", name, got=exponent, allowed=f"0 to {EXPONENT_MAX}")
            connectivity = self._connectivity(tensor, sizes[start], sizes[target], name)
            values = self._vector(tensor.values, stored.element, f"{name}, mantissas")
            mantissa = values.astype(np.int16) * np.int16(stored.sign)
            connections.append(
                IntegerConnection(
                    name,
                    start,
                    target,
                    IntegerSynapses(connectivity, mantissa, exponent, self._int(node, "weight_bits"), sign_mode),
                )
            )
        return Program(
            self._text(self.model.graph.name, "name"),
            source,
            tuple(populations),
            tuple(connections),
            self._whole("snnc.steps", 1, STEPS_MAX),
            self._provenance(),
        )

    def graph(self) -> Graph:
        source = self._input()
        neurons, wiring = self._wiring(("FloatSynapses",), "LIF")
        populations = []
        for node in neurons:
            bias = self._taken(f"{node.name}.bias", TensorProto.FLOAT)
            fields = ("threshold", "gain", "current_decay", "voltage_decay")
            values = {key: self._required_double(node, key) for key in fields}
            populations.append(LIF(name=node.name, size=len(bias), bias=bias, **values))
        sizes = {source.name: source.size, **{p.name: p.size for p in populations}}
        connections = []
        for name in self._ordered(wiring, "weights"):
            target, node = wiring[name]
            start = self._source(node, sizes)
            tensor = self.sparse[f"{name}.weights"]
            connectivity = self._connectivity(tensor, sizes[start], sizes[target], name)
            weights = self._vector(tensor.values, TensorProto.FLOAT, f"{name}, weights")
            bits = self._attribute(node, "weight_bits", AttributeProto.INT)
            connections.append(
                Connection(
                    name,
                    start,
                    target,
                    FloatSynapses(connectivity, weights),
                    weight_step=self._double(node, "weight_step"),
                    weight_bits=None if bits is None else int(bits.i),
                )
            )
        return Graph(
            self._text(self.model.graph.name, "name"),
            source,
            tuple(populations),
            tuple(connections),
            self._whole("snnc.steps", 1, STEPS_MAX),
            self._provenance(),
        )

    def _provenance(self) -> dict[str, str]:
        return {k.removeprefix(PROVENANCE): v for k, v in self.metadata.items() if k.startswith(PROVENANCE)}

    def compare(self, ours: ModelProto) -> None:
        """Refuse the file unless, its tensors' values aside (those were read), it is the model that we write.

        The words for people may differ: who wrote it, and what it says of itself.
        """
        for tensor in self.model.graph.initializer:
            tensor.ClearField("raw_data")
        for tensor in self.model.graph.sparse_initializer:
            tensor.values.ClearField("raw_data")
            tensor.indices.ClearField("raw_data")
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

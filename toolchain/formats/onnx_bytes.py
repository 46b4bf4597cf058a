"""A model as the bytes of its file: values go there straight from their arrays, without a copy of all on the way."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, TensorProto

Chunk = bytes | memoryview


@dataclass(frozen=True)
class Model:
    """An ONNX model whose tensors have no values, and the values: one array for each, little-endian."""

    proto: ModelProto
    values: list[NDArray[Any]]

    def chunks(self) -> list[Chunk]:
        """The file in parts, for one write after the other."""
        tensors: list[Chunk] = []
        for tensor, values in zip(self.proto.graph.initializer, self.values, strict=True):
            data = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
            parts = [tensor.SerializeToString(), _head(TensorProto.RAW_DATA_FIELD_NUMBER, [data]), data]
            tensors += [_head(GraphProto.INITIALIZER_FIELD_NUMBER, parts), *parts]
        rest = ModelProto()
        rest.CopyFrom(self.proto)
        rest.graph.ClearField("initializer")
        graph = [rest.graph.SerializeToString(deterministic=True), *tensors]
        rest.ClearField("graph")
        return [
            rest.SerializeToString(deterministic=True),
            _head(ModelProto.GRAPH_FIELD_NUMBER, graph),
            *graph,
        ]


def _head(field: int, parts: Iterable[Chunk]) -> bytes:
    """What stands before a field of bytes in a protocol buffer: its number and kind, and its length."""
    return _varint(field << 3 | 2) + _varint(sum(len(part) for part in parts))


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; all but the last byte have their highest bit set."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)

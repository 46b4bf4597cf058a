"""Graph and Program to ONNX files and back.

    graph.onnx    the trained network in physical units
    program.onnx  what a chip computes, integers only

Both are ordinary ONNX models of one time step (see `onnx_model`) that a runtime executes and Netron shows. Reading
trusts nothing: every size is compared with the bytes that are there before anything is allocated, and at the end the
file must be the very model that we would write for what was read, operators' bodies included, since their
meaning is ours.
"""

from __future__ import annotations

import os

from toolchain.errors import SnncError
from toolchain.files import atomic_write
from toolchain.formats.onnx_bytes import Chunk, Model
from toolchain.formats.onnx_layouts import layout_of
from toolchain.formats.onnx_model import (
    EXPONENT_MAX,
    PROVENANCE,
    SHIFT_MAX,
    SIZE_MAX,
    STEPS_MAX,
    graph_model,
    metadata,
    program_model,
    too_large,
)
from toolchain.formats.onnx_reader import Reader
from toolchain.ir import Graph, Program


def write_program(program: Program, path: str | os.PathLike[str]) -> None:
    """Write an integer program, whole or not at all; the same program gives the same bytes.

    Raises:
        SnncError: the program does not verify, is too large for a file, or could not be written.
    """
    _write(_program_chunks(program), path)


def program_bytes(program: Program) -> bytes:
    """What `write_program` writes. Raises SnncError where the program does not verify or is too large for a file."""
    return b"".join(_program_chunks(program))


def _program_chunks(program: Program) -> list[Chunk]:
    program.verify()
    for c in program.connections:
        if c.synapses.exponent > EXPONENT_MAX:
            raise SnncError(
                "a weight exponent is too large for a file",
                where=c.name,
                got=c.synapses.exponent,
                allowed=f"0 to {EXPONENT_MAX}",
            )
    _check(program, "program")
    _refuse_huge(program, bytes_per_weight=1)
    return _whole(program_model(program), program)


def read_program(path: str | os.PathLike[str]) -> Program:
    """Read what `write_program` wrote. Raises SnncError for anything else, before large allocations."""
    reader = Reader(path, "program")
    program = reader.program()
    program.verify()
    reader.compare(program_model(program).proto)
    return program


def write_graph(graph: Graph, path: str | os.PathLike[str]) -> None:
    """Write a trained graph, whole or not at all; the same graph gives the same bytes.

    Raises:
        SnncError: the graph does not verify, is too large for a file, or could not be written.
    """
    graph.verify()
    graph.input.verify()
    _check(graph, "graph")
    _refuse_huge(graph, bytes_per_weight=4)
    _write(_whole(graph_model(graph), graph), path)


def read_graph(path: str | os.PathLike[str]) -> Graph:
    """Read what `write_graph` wrote. Raises SnncError for anything else, before large allocations."""
    reader = Reader(path, "graph")
    graph = reader.graph()
    graph.verify()
    graph.input.verify()
    reader.compare(graph_model(graph).proto)
    return graph


def _check(network: Graph | Program, kind: str) -> None:
    """Refuse what the file could not give back: names and metadata that are not text, numbers beyond the format."""
    texts = {"the network's name": network.name, "the input's name": network.input.name}
    texts |= {f"the name of {p.name!r}": p.name for p in network.populations}
    texts |= {f"the name of {c.name!r}": c.name for c in network.connections}
    for where, text in texts.items():
        if not _writable(text) or not text:
            raise SnncError("a name must be text that is not empty", where=where, got=repr(text))
    for key, value in metadata(network, kind).items():
        if not (_writable(key) and _writable(value)):
            raise SnncError(
                "metadata must be text",
                where=key.removeprefix(PROVENANCE) if isinstance(key, str) else network.name,
                got=repr(value),
            )
    limits = {"steps": (network.steps, STEPS_MAX), "sample_size": (network.input.sample_size, STEPS_MAX)}
    limits |= {name: (value, SHIFT_MAX) for name, value in network.input.parameters().items() if name == "shift"}
    limits |= {f"{c.name}.delay": (c.delay, STEPS_MAX) for c in network.connections}
    for field, (number, limit) in limits.items():
        if not 0 <= number <= limit:
            raise SnncError("a number is too large for a file", where=field, got=number, allowed=f"0 to {limit}")


def _writable(text: object) -> bool:
    if not isinstance(text, str):
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse_huge(network: Graph | Program, bytes_per_weight: int) -> None:
    """Before the model is built, so that a network that cannot be written costs no memory."""
    size = 0
    for c in network.connections:
        pattern = c.synapses.connectivity
        # A listed synapse takes at least one byte beside its weight.
        size += pattern.n_weights * (bytes_per_weight + layout_of(pattern).listed)
    if size > SIZE_MAX:
        raise too_large(network.name, size)


def _whole(model: Model, network: Graph | Program) -> list[Chunk]:
    chunks = model.chunks()
    size = sum(len(chunk) for chunk in chunks)
    if size > SIZE_MAX:
        raise too_large(network.name, size)
    return chunks


def _write(chunks: list[Chunk], path: str | os.PathLike[str]) -> None:
    with atomic_write(path) as stream:
        stream.writelines(chunks)

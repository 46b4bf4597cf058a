"""The build folder: what `snnc compile` writes, and how every later command reads it back.

    graph.onnx     the trained network, physical units        program.onnx   what the chip computes, integers
    mapping.json   which neurons are on which core            target.json    the chip, every limit with its source
    report.json, report.html, per_core.csv                    images/        synapse memory, with --emit-images
    build.json     options, file hashes, and the hash of the whole

Same input, same options, same bytes: nothing that depends on time or machine is written.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import hw_targets
from toolchain import __version__, report, rules
from toolchain.errors import Diagnostic, SnncError
from toolchain.files import atomic_directory
from toolchain.formats import onnx as onnx_format
from toolchain.ir import Graph, Program
from toolchain.mapping.images import encode, write_core_image
from toolchain.mapping.partition import chip_lists, part_of, partition
from toolchain.mapping.place import Core, place
from toolchain.mapping.place import Mapping as CoreMapping
from toolchain.pipeline import Compilation, Options

SCHEMA = 2
NEEDED = ("graph.onnx", "mapping.json", "program.onnx", "report.json", "target.json")
MADE_FROM_HASH = ("report.json", "report.html", "per_core.csv")
"""Files that name the hash, and are therefore not in it."""
JSON_LIMIT_BYTES = 1 << 28


@dataclass(frozen=True, eq=False)
class Build:
    """A build folder, read and checked against its hashes."""

    path: Path
    graph: Graph
    program: Program
    target: hw_targets.Target
    options: Options
    report: dict[str, Any]
    hash: str

    def compilation(self) -> Compilation:
        """The state that the compiler had before its first step."""
        return Compilation(self.target, self.options, self.graph)

    def mapping(self) -> CoreMapping:
        """The mapping, found again from the program: the same search gives the same cores."""
        return map_program(self.program, self.compilation())


def map_program(program: Program, state: Compilation) -> CoreMapping:
    """A program on cores, with the target and the options of a compilation."""
    return place(
        program,
        partition(program, state.costing, state.limits, state.options.search),
        state.costing,
        state.limits,
        target=state.target.name,
        cores_per_chip=rules.cores_per_chip(state.target),
        share_cores=state.options.share_cores,
        chips=state.chips,
        method=state.options.search,
    )


def facts(state: Compilation, loading: Sequence[Diagnostic]) -> dict[str, Any]:
    """The report of a finished compilation, without the build's hash. loading: diagnostics of the front end."""

    def dense() -> CoreMapping | None:
        program = report.dense_program(state.whole)  # with the neurons that pruning left without synapses
        if program is None:
            return None
        return state.mapping if program == state.program else map_program(program, state)

    return report.build_report(
        state.program,
        state.mapping,
        state.limits,
        state.target,
        diagnostics=(*loading, *state.diagnostics),
        steps=[(name, None, note) for name, note in state.notes],
        before=state.graph,
        dense_alternative=dense,
        mesh=state.mesh,
    )


def write_build(
    state: Compilation, facts: Mapping[str, Any], path: str | os.PathLike[str], *, force: bool, emit_images: bool
) -> str:
    """Write the folder whole or not at all; returns the first 12 digits of the build's hash.

    facts: the report's facts without the hash, as `facts` gives them.

    Raises:
        SnncError: the folder exists (without `force`), the file system refused, or images are asked of a cost model
            that knows no bits to write.
    """
    if emit_images and state.costing.model != "nxtf":
        raise SnncError(
            f"cost model {state.costing.model!r} counts words but knows no encoding, so there is no image to write",
            where="--emit-images",
            allowed="cost model nxtf",
            remedy="leave --emit-images out",
        )
    with atomic_directory(path, force=force) as folder:
        onnx_format.write_graph(state.graph, folder / "graph.onnx")
        onnx_format.write_program(state.program, folder / "program.onnx")
        _write_json(folder / "mapping.json", state.mapping.to_dict())
        _write_json(folder / "target.json", state.target.to_dict())
        if emit_images:
            (folder / "images").mkdir()
            for core in state.mapping.cores:
                write_core_image(folder / "images" / f"core_{core.index:05d}.snnimg", core_image(state, core))
        digest = _digest(_hashes(folder), asdict(state.options))  # before the files of MADE_FROM_HASH
        whole = {**facts, "build_hash": digest[:12]}
        (folder / "report.json").write_text(report.to_json(whole), encoding="utf-8")
        (folder / "report.html").write_text(report.render_html(whole), encoding="utf-8")
        (folder / "per_core.csv").write_bytes(report.to_csv(whole).encode())
        _write_json(
            folder / "build.json",
            {
                "schema": SCHEMA,
                "snnc": __version__,
                "hash": digest,
                "options": asdict(state.options),
                "files": _hashes(folder),
            },
        )
    return digest[:12]


def core_image(state: Compilation, core: Core) -> dict[str, Any]:
    """The synapse memory of one core: "connection -> slice" -> encoded words. All slices share its format registers."""
    lists = chip_lists(state.program, state.costing)
    numbers = {chosen: k for k, chosen in enumerate(sorted(core.usage.formats), start=1)}
    return {
        f"{name} -> {s}": encode(part_of(lists[name], s, name).written(str(s)), cost, state.costing.parameters, numbers)
        for s in core.slices
        for name, cost in s.costs.items()
    }


def load_build(path: str | os.PathLike[str]) -> Build:
    """Read a build folder.

    Raises:
        SnncError: not a build, of a newer version, or one of its files is missing or was changed.
    """
    folder = Path(path)
    if not (folder / "build.json").is_file():
        raise SnncError(
            f"{folder} is not a build folder",
            where=str(folder),
            got="no build.json" if folder.is_dir() else "no such folder",
            remedy="make one: snnc compile model.pt --target loihi -o build/",
        )
    about = _read_json(folder / "build.json")
    if about.get("schema") != SCHEMA:
        raise SnncError(
            "the build was written by another version of snnc",
            where=str(folder / "build.json"),
            got=f"schema {about.get('schema')}",
            allowed=f"schema {SCHEMA}",
            remedy="compile again with this version",
        )
    try:
        files = dict(about["files"])
        options = Options.from_dict(about["options"])
        digest = str(about["hash"])
        hashed = {name: value for name, value in files.items() if name not in MADE_FROM_HASH}
        if _digest(hashed, about["options"]) != digest:
            raise ValueError("its hash is not that of its files and options")
        found = {name: _hash(folder / name) for name in files if _inside(name)}
        wrong = sorted({name for name in (*files, *NEEDED) if found.get(name) is None or found[name] != files[name]})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SnncError("build.json is damaged", where=str(folder / "build.json"), got=repr(error)) from error
    if wrong:
        raise SnncError(
            "files of the build are missing or were changed since it was compiled",
            where=str(folder),
            got=", ".join(wrong),
            remedy="compile again",
        )
    try:
        target = hw_targets.parse(_read_json(folder / "target.json"), str(folder / "target.json"))
    except hw_targets.TargetError as error:
        raise SnncError("the target of the build is damaged", where=str(folder), got=str(error)) from error
    return Build(
        path=folder,
        graph=onnx_format.read_graph(folder / "graph.onnx"),
        program=onnx_format.read_program(folder / "program.onnx"),
        target=target,
        options=options,
        report=_read_json(folder / "report.json"),
        hash=digest[:12],
    )


def _inside(name: str) -> bool:
    """Whether a file name of build.json stays inside the folder."""
    return not Path(name).is_absolute() and ".." not in Path(name).parts and "\0" not in name


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > JSON_LIMIT_BYTES:
            raise SnncError("the file is too large", where=str(path), allowed=f"{JSON_LIMIT_BYTES} bytes")
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise SnncError("the file cannot be read as JSON", where=str(path), got=str(error)) from error
    if not isinstance(value, dict):
        raise SnncError("the file does not hold a JSON object", where=str(path))
    return value


def _hash(path: Path) -> str | None:
    try:
        if not path.is_file():  # a pipe would be waited for
            return None
        with path.open("rb") as stream:
            digest = hashlib.sha256()
            while block := stream.read(1 << 20):
                digest.update(block)
            return digest.hexdigest()
    except (OSError, ValueError):
        return None


def _hashes(folder: Path) -> dict[str, str | None]:
    return {str(path.relative_to(folder)): _hash(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def _digest(files: Mapping[str, str | None], options: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps([files, options], sort_keys=True).encode()).hexdigest()

"""model.pt, the plain dictionary that training writes, as a graph. Nothing in the file is executed unless trusted.

What is common to all versions of the format (docs/formats.md) stands here; the layers of each version have a module of
their own, which turns their entries into the layers of `toolchain.frontends.layers`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from toolchain import __version__
from toolchain.errors import Diagnostic, SnncError
from toolchain.frontends import Loaded, model_v1, model_v2
from toolchain.frontends.archive import HOW_TO_EXPORT, unpickle
from toolchain.frontends.entries import Entries
from toolchain.frontends.layers import Node, lower
from toolchain.ir import Input, make_input

STEPS_MAX = (1 << 31) - 1
SEED_MAX = (1 << 64) - 1
INPUT = "input"
KEYS = ("format", "version", "name", "versions", "steps", "input", "layers")
TRAINED_KEYS = ("seed", "recipe", "metrics")
"""Where a network was trained; a converted one has its metadata in their place."""
METADATA = "metadata"
INPUT_KEYS = ("coding", "scale", "offset")
INPUT_PARAMETERS: dict[str, dict[str, int | None]] = {
    "rate": {"threshold": None},
    "graded": {"payload_bits": 8},
    "current": {"shift": 0},
    "spikes": {},
}
"""Coding -> its own entries with their defaults; None: must be there."""

ReadShape = Callable[[Entries, Mapping[Any, Any]], tuple[int, ...]]
ReadLayers = Callable[[Entries, list[Any], list[Diagnostic]], Iterator[Node]]

VERSIONS: dict[int, tuple[str, tuple[str, ...], ReadShape, ReadLayers]] = {
    1: ("size", (), model_v1.input_shape, model_v1.read),
    2: ("shape", ("name",), model_v2.input_shape, model_v2.read),
}
"""Version -> the entry that says how large the input is, what else an input may have, what reads it, and the layers."""


def load(path: str | os.PathLike[str], *, trust: bool = False) -> Loaded:
    """Read a model.pt.

    trust: allow the file to run its own code when it cannot be loaded otherwise; a diagnostic then says so. What
    comes out must still be the dictionary that training writes.

    Raises:
        SnncError: missing, empty, damaged, of a newer version, or with contents that have no meaning.
    """
    file = Path(path)
    content, size, executed = unpickle(file, trust=trust)
    if not isinstance(content, dict) or content.get("format") != "snnc-model":
        checkpoint = isinstance(content, dict) and content.get("format") == "snnc-checkpoint"
        raise SnncError(
            "the file is not a model of snnc",
            where=str(file),
            got="a training checkpoint of snnc" if checkpoint else f"a {type(content).__name__}",
            allowed='a dictionary with "format": "snnc-model"',
            remedy=HOW_TO_EXPORT,
        )
    entries = Entries(str(file), size)
    diagnostics = list(executed)
    loaded = _model(entries, content, diagnostics)
    return Loaded(loaded.graph, (*diagnostics, *loaded.diagnostics), loaded.recipe)


def _model(entries: Entries, content: dict[Any, Any], diagnostics: list[Diagnostic]) -> Loaded:
    """The dictionary, taken apart with every entry checked."""
    version = entries.whole(content, "version", "", low=1)
    versions = entries.mapping(content, "versions", "") if "versions" in content else {}
    if version not in VERSIONS:
        raise entries.refuse(
            f"the model was written by a newer snnc ({str(versions.get('snnc', 'unknown'))[:40]})",
            "version",
            got=version,
            allowed=f"up to {max(VERSIONS)}, what snnc {__version__} reads",
            remedy="update snnc",
        )
    size_key, optional, input_shape, read_layers = VERSIONS[version]
    converted = version >= 2 and METADATA in content
    keys = (*KEYS, METADATA) if converted else (*KEYS, *TRAINED_KEYS)
    entries.require(content, keys, "")
    strange = [str(key)[:40] for key in content if key not in keys]
    if strange:
        message = f"entries without meaning: {', '.join(strange)}"
        diagnostics.append(Diagnostic("MDL002", entries.path, message, len(strange)))
    source, shape = _input(entries, content, (size_key, *optional), input_shape)
    layers = content["layers"]
    if not isinstance(layers, list) or not layers:
        raise entries.refuse("there must be at least one layer", "layers", got=type(layers).__name__)
    name = entries.text(content, "name", "")
    steps = entries.whole(content, "steps", "", low=1, high=STEPS_MAX)
    metadata = _metadata(entries, content) if converted else _provenance(entries, content, versions)
    recipe = {} if converted else dict(entries.mapping(content, "recipe", ""))
    nodes = read_layers(entries, layers, diagnostics)
    loaded = lower(nodes, source, shape, steps, name, metadata, where=f"{entries.path}, layers")
    return Loaded(loaded.graph, loaded.diagnostics, recipe)


def _input(
    entries: Entries, content: dict[Any, Any], version_keys: tuple[str, ...], input_shape: ReadShape
) -> tuple[Input, tuple[int, ...]]:
    """The input and its axes. version_keys: what this version calls its size, and what else there may be."""
    given = entries.mapping(content, "input", "")
    size_key, *optional = version_keys
    keys = (size_key, *INPUT_KEYS)
    entries.require(given, keys, "input")
    coding = entries.one_of(given, "coding", "input", INPUT_PARAMETERS)
    own = INPUT_PARAMETERS[coding]
    entries.known(given, (*keys, *optional, *own), "input")
    entries.require(given, [key for key, default in own.items() if default is None], "input")
    parameters = {
        key: entries.whole(given, key, "input", high=STEPS_MAX) if key in given else int(default or 0)
        for key, default in own.items()
    }
    shape = input_shape(entries, given)
    offset = entries.number(given, "offset", "input")
    if coding != "current" and offset != 0:
        raise entries.refuse("only the coding 'current' has an offset", "input.offset", got=offset, allowed=0)
    scale = entries.number(given, "scale", "input")
    name = entries.text(given, "name", "input") if "name" in given else INPUT
    source = make_input(coding, name, math.prod(shape), None, scale=scale, offset=offset, **parameters)
    source.verify()
    return source, shape


def _metadata(entries: Entries, content: dict[Any, Any]) -> dict[str, str]:
    """What a converted network had to say of itself."""
    found = entries.mapping(content, METADATA, "")
    for key, value in found.items():
        if not (isinstance(key, str) and isinstance(value, str)):
            place = f"{METADATA}.{str(key)[:40]}"
            raise entries.refuse("must be text", place, got=f"{type(key).__name__}: {type(value).__name__}")
    return dict(found)


def _provenance(entries: Entries, content: dict[Any, Any], versions: Mapping[Any, Any]) -> dict[str, str]:
    """Where the network comes from, as text: versions, seed, and the plain metrics of training."""
    found = {f"trained_with.{key}": value for key, value in versions.items()}
    seed = entries.whole(content, "seed", "")
    data = entries.mapping(content, "recipe", "").get("data")
    # Python refuses to print integers of thousands of digits.
    found["seed"] = seed if abs(seed) <= SEED_MAX else "very long"
    if isinstance(data, Mapping) and "dataset" in data:
        found["dataset"] = data["dataset"]  # so that a build can be simulated on what it was trained for
    found.update({f"trained.{key}": value for key, value in entries.mapping(content, "metrics", "").items()})
    plain = {key: value for key, value in found.items() if isinstance(value, (str, int, float))}
    return {key: str(value) for key, value in plain.items() if not isinstance(value, int) or abs(value) <= SEED_MAX}

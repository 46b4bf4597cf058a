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
KEYS = ("format", "version", "name", "seed", "recipe", "versions", "steps", "input", "layers", "metrics")
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

VERSIONS: dict[int, tuple[str, ReadShape, ReadLayers]] = {
    1: ("size", model_v1.input_shape, model_v1.read),
    2: ("shape", model_v2.input_shape, model_v2.read),
}
"""Version -> the entry that says how large the input is, what reads it, and what reads the layers."""


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
    size_key, input_shape, read_layers = VERSIONS[version]
    entries.require(content, KEYS, "")
    strange = [str(key)[:40] for key in content if key not in KEYS]
    if strange:
        message = f"entries without meaning: {', '.join(strange)}"
        diagnostics.append(Diagnostic("MDL002", entries.path, message, len(strange)))
    source, shape = _input(entries, content, size_key, input_shape)
    layers = content["layers"]
    if not isinstance(layers, list) or not layers:
        raise entries.refuse("there must be at least one layer", "layers", got=type(layers).__name__)
    name = entries.text(content, "name", "")
    steps = entries.whole(content, "steps", "", low=1, high=STEPS_MAX)
    metadata = _provenance(entries, content, versions)
    recipe = dict(entries.mapping(content, "recipe", ""))
    nodes = read_layers(entries, layers, diagnostics)
    loaded = lower(nodes, source, shape, steps, name, metadata, where=f"{entries.path}, layers")
    return Loaded(loaded.graph, loaded.diagnostics, recipe)


def _input(
    entries: Entries, content: dict[Any, Any], size_key: str, input_shape: ReadShape
) -> tuple[Input, tuple[int, ...]]:
    """The input and its axes."""
    given = entries.mapping(content, "input", "")
    keys = (size_key, *INPUT_KEYS)
    entries.require(given, keys, "input")
    coding = entries.one_of(given, "coding", "input", INPUT_PARAMETERS)
    own = INPUT_PARAMETERS[coding]
    entries.known(given, (*keys, *own), "input")
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
    source = make_input(coding, INPUT, math.prod(shape), None, scale=scale, offset=offset, **parameters)
    source.verify()
    return source, shape


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

"""model.pt, the plain dictionary that training writes, as a graph. Nothing in the file is executed unless trusted.

Format version 1 (docs/formats.md): `layers` in order, each with `weight` (out, in) float32, `mask` (out, in) bool,
`bias` or None, `weight_step` and `weight_bits` where training kept to an integer grid, and a `neuron`. A synapse exists
exactly where the mask is set.
"""

from __future__ import annotations

import math
import os
import pickle
import pickletools
import sys
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from toolchain import __version__
from toolchain.errors import Diagnostic, SnncError, nearest
from toolchain.frontends import Loaded
from toolchain.ir import LIF, Connection, Connectivity, FloatSynapses, Graph, Input, make_input

VERSION = 1
STEPS_MAX = (1 << 31) - 1
SEED_MAX = (1 << 64) - 1
FLOAT_MAX = sys.float_info.max
INPUT = "input"
KEYS = ("format", "version", "name", "seed", "recipe", "versions", "steps", "input", "layers", "metrics")
LAYER_KEYS = ("name", "weight", "mask", "bias", "weight_step", "weight_bits", "neuron")
NEURON_KEYS = ("kind", "tau", "threshold", "reset", "compare")
INPUT_KEYS = ("size", "coding", "scale", "offset")
INPUT_PARAMETERS: dict[str, dict[str, int | None]] = {
    "rate": {"threshold": None},
    "graded": {"payload_bits": 8},
    "current": {"shift": 0},
}
"""Coding -> its own entries with their defaults; None: must be there."""
NEURON_CHOICES = {"kind": "lif", "reset": "zero", "compare": ">"}
"""What this version of snnc computes; anything else would be another neuron."""
PLAIN_GLOBALS = {
    "torch._utils _rebuild_tensor_v2",
    "torch FloatStorage",
    "torch BoolStorage",
    "collections OrderedDict",
}
"""What the pickle of plain tensors names; these run nothing of their own."""
HOW_TO_EXPORT = "train with snnc train, or save the plain dictionary of docs/formats.md with torch.save"


def load(path: str | os.PathLike[str], *, trust: bool = False) -> Loaded:
    """Read a model.pt.

    trust: allow the file to run its own code when it cannot be loaded otherwise; a diagnostic then says so. What
    comes out must still be the dictionary that training writes.

    Raises:
        SnncError: missing, empty, damaged, of a newer version, or with contents that have no meaning.
    """
    file = Path(path)
    size = _check_archive(file)
    content, executed = _unpickle(file, trust)
    if not isinstance(content, dict) or content.get("format") != "snnc-model":
        kind = "a training checkpoint of snnc" if _is_checkpoint(content) else f"a {type(content).__name__}"
        raise SnncError(
            "the file is not a model of snnc",
            where=str(file),
            got=kind,
            allowed='a dictionary with "format": "snnc-model"',
            remedy=HOW_TO_EXPORT,
        )
    model = _Model(str(file), content, size)
    loaded = model.loaded()
    return Loaded(loaded.graph, (*executed, *loaded.diagnostics), loaded.recipe)


def _is_checkpoint(content: object) -> bool:
    return isinstance(content, dict) and content.get("format") == "snnc-checkpoint"


def _check_archive(file: Path) -> int:
    """Refuse what is no archive of torch.save, or one that claims more than it holds; the file's size in bytes."""
    where = str(file)
    try:
        size = file.stat().st_size
        if file.is_dir():
            raise SnncError("this is a folder, not a model file", where=where)
        if size == 0:
            raise SnncError("the file is empty", where=where)
        if not zipfile.is_zipfile(file):
            with file.open("rb") as stream:
                cut = stream.read(2) == b"PK"
            raise SnncError(
                "the file is cut off" if cut else "the file is not a checkpoint",
                where=where,
                allowed="a file that torch.save wrote (a zip archive)",
                remedy=HOW_TO_EXPORT,
            )
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            # Stored, not deflated, is how torch writes; so sizes in the file bound what loading needs.
            packed = [e.filename for e in entries if e.compress_type != zipfile.ZIP_STORED]
            if packed or sum(entry.file_size for entry in entries) > size:
                raise SnncError("the archive unpacks to more than it holds", where=where, remedy=HOW_TO_EXPORT)
            if any(name.endswith("/constants.pkl") for name in names):
                raise SnncError("this is a TorchScript program, not a model of snnc", where=where, remedy=HOW_TO_EXPORT)
            if sum(name.endswith("/data.pkl") for name in names) != 1:
                raise SnncError("the archive is not a checkpoint", where=where, remedy=HOW_TO_EXPORT)
            damaged = archive.testzip()
            if damaged is not None:
                raise SnncError("the file is damaged: a checksum does not match", where=f"{where}, {damaged}")
    except FileNotFoundError:
        raise SnncError("no such file", where=where) from None
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        raise SnncError("the file is damaged", where=where, got=_first_line(error)) from None
    except OSError as error:
        raise SnncError("the file cannot be read", where=where, got=error.strerror or str(error)) from None
    return size


def _unpickle(file: Path, trust: bool) -> tuple[object, tuple[Diagnostic, ...]]:
    with warnings.catch_warnings():
        # What torch has to say about pickles is said below, in our words.
        warnings.simplefilter("ignore")
        try:
            return torch.load(file, map_location="cpu", weights_only=True), ()
        except pickle.UnpicklingError:
            needed = _globals(file)
            if not needed:
                raise SnncError("the file is damaged", where=f"{file}, data.pkl", remedy=HOW_TO_EXPORT) from None
            if not trust:
                raise SnncError(
                    "the file runs code when it is loaded, so it was not loaded",
                    where=str(file),
                    got=f"it needs {', '.join(needed[:4])}{' ...' if len(needed) > 4 else ''}",
                    allowed="plain tensors, numbers, text, lists and dictionaries",
                    remedy=f"{HOW_TO_EXPORT}; or pass --trust if you know who made the file",
                ) from None
        except Exception as error:
            # torch raises whatever a damaged archive leads it to; no list of types is complete.
            raise SnncError("the file is damaged", where=str(file), got=_first_line(error)) from None
        try:
            content = torch.load(file, map_location="cpu", weights_only=False)
        except Exception as error:
            # Foreign code ran; it may raise anything.
            raise SnncError(
                "the file's own code failed while it was loaded",
                where=str(file),
                got=f"{type(error).__name__}: {_first_line(error)}",
                remedy=HOW_TO_EXPORT,
            ) from error
    note = f"code named in the file was run to load it, as --trust allows: {', '.join(needed[:4])}"
    return content, (Diagnostic("MDL003", str(file), note, len(needed)),)


def _globals(file: Path) -> list[str]:
    """Names of code that the pickle asks for beyond plain tensors, found without executing anything."""
    found: dict[str, None] = {}
    try:
        with zipfile.ZipFile(file) as archive:
            name = next(n for n in archive.namelist() if n.endswith("/data.pkl"))
            texts: list[str] = []
            for opcode, argument, _ in pickletools.genops(archive.read(name)):
                if opcode.name == "GLOBAL":
                    found[str(argument)] = None
                elif opcode.name == "STACK_GLOBAL":
                    found[" ".join(texts[-2:])] = None
                elif isinstance(argument, str):
                    texts.append(argument)
    except (ValueError, KeyError, IndexError, OSError, zipfile.BadZipFile):
        return []
    return [name.replace(" ", ".") for name in found if name not in PLAIN_GLOBALS]


def _is_small(value: object) -> bool:
    """An integer that can be printed: Python refuses to print thousands of digits."""
    return isinstance(value, int) and abs(value) <= SEED_MAX


def _shown(value: object) -> str:
    """A value for an error message; Python refuses to print some."""
    try:
        return repr(value)[:80]
    except (ValueError, RecursionError):
        return f"a very long {type(value).__name__}"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


class _Model:
    """The dictionary, taken apart with every entry checked. Places are written `layers[1] 'fc2'.neuron.tau`."""

    def __init__(self, path: str, content: dict[Any, Any], size: int) -> None:
        self.path = path
        self.content = content
        self.unclaimed_bytes = size
        self.diagnostics: list[Diagnostic] = []

    def refuse(self, message: str, place: str, **details: object) -> SnncError:
        return SnncError(message, where=f"{self.path}, {place}", **details)  # type: ignore[arg-type]

    def loaded(self) -> Loaded:
        version = self._int(self.content, "version", "", low=1)
        versions = self._mapping(self.content, "versions", "") if "versions" in self.content else {}
        if version > VERSION:
            raise self.refuse(
                f"the model was written by a newer snnc ({str(versions.get('snnc', 'unknown'))[:40]})",
                "version",
                got=version,
                allowed=f"up to {VERSION}, what snnc {__version__} reads",
                remedy="update snnc",
            )
        self._require(self.content, KEYS, "")
        strange = [str(key)[:40] for key in self.content if key not in KEYS]
        if strange:
            self.diagnostics.append(
                Diagnostic("MDL002", self.path, f"entries without meaning: {', '.join(strange)}", len(strange))
            )
        source = self._input()
        layers = self.content["layers"]
        if not isinstance(layers, list) or not layers:
            raise self.refuse("there must be at least one layer", "layers", got=type(layers).__name__)
        populations: list[LIF] = []
        connections: list[Connection] = []
        before, n_sources = f"the input '{source.name}'", source.size
        for number, layer in enumerate(layers):
            lif, connection = self._layer(layer, f"layers[{number}]", populations, source, before, n_sources)
            populations.append(lif)
            connections.append(connection)
            before, n_sources = f"layer '{lif.name}'", lif.size
        graph = Graph(
            name=self._text(self.content, "name", ""),
            input=source,
            populations=tuple(populations),
            connections=tuple(connections),
            steps=self._int(self.content, "steps", "", low=1, high=STEPS_MAX),
            metadata=self._provenance(versions),
        )
        graph.verify()
        return Loaded(graph, tuple(self.diagnostics), dict(self._mapping(self.content, "recipe", "")))

    # The parts.

    def _input(self) -> Input:
        entries = self._mapping(self.content, "input", "")
        self._require(entries, INPUT_KEYS, "input")
        coding = self._text(entries, "coding", "input")
        if coding not in INPUT_PARAMETERS:
            raise self.refuse(
                "unknown input coding", "input.coding", got=coding[:40], allowed=nearest(coding[:40], INPUT_PARAMETERS)
            )
        own = INPUT_PARAMETERS[coding]
        self._known(entries, (*INPUT_KEYS, *own), "input")
        self._require(entries, [key for key, default in own.items() if default is None], "input")
        parameters = {
            key: self._int(entries, key, "input", high=STEPS_MAX) if key in entries else int(default or 0)
            for key, default in own.items()
        }
        size = self._int(entries, "size", "input", low=1, high=STEPS_MAX)
        if size * 4 > self.unclaimed_bytes:
            raise self.refuse("the file is too small for the weights of such an input", "input.size", got=size)
        offset = self._float(entries, "offset", "input")
        if coding != "current" and offset != 0:
            raise self.refuse("only the coding 'current' has an offset", "input.offset", got=offset, allowed=0)
        scale = self._float(entries, "scale", "input")
        source = make_input(coding, INPUT, size, None, scale=scale, offset=offset, **parameters)
        source.verify()
        return source

    def _layer(
        self, layer: object, place: str, populations: list[LIF], source: Input, before: str, n_sources: int
    ) -> tuple[LIF, Connection]:
        if not isinstance(layer, dict):
            raise self.refuse("a layer must be a dictionary", place, got=type(layer).__name__)
        self._require(layer, LAYER_KEYS, place)
        name = self._text(layer, "name", place)
        place = f"{place} {name[:80]!r}"
        self._known(layer, LAYER_KEYS, place)
        if name in {INPUT, ""} or name in {p.name for p in populations}:
            raise self.refuse(
                "layer names must be unique", place, got=repr(name[:80]), allowed="not 'input', not empty"
            )
        weight = self._tensor(layer["weight"], torch.float32, 2, f"{place}.weight")
        if weight.shape[1] != n_sources:
            raise self._do_not_chain(before, n_sources, f"{place}.weight", weight)
        mask = self._tensor(layer["mask"], torch.bool, 2, f"{place}.mask")
        if mask.shape != weight.shape:
            raise self.refuse("mask and weight differ in shape", f"{place}.mask", got=mask.shape, allowed=weight.shape)
        self._finite(weight, f"{place}.weight")
        n_targets = weight.shape[0]
        bias = np.zeros(n_targets, np.float32)
        if layer["bias"] is not None:
            bias = self._tensor(layer["bias"], torch.float32, 1, f"{place}.bias")
            if bias.shape != (n_targets,):
                raise self.refuse("one bias for each neuron", f"{place}.bias", got=bias.shape, allowed=(n_targets,))
            self._finite(bias, f"{place}.bias")
        outside = weight[~mask & (weight != 0)]
        if len(outside):
            self.diagnostics.append(
                Diagnostic(
                    "MDL001",
                    name,
                    "weights where the mask has no synapse were ignored",
                    len(outside),
                    f"largest magnitude {float(np.abs(outside).max()):.3g}",
                )
            )
        step, bits = self._grid(layer, place)
        lif = self._neuron(layer, place, name, bias)
        connection = Connection(
            name=f"{name}.weight",
            source=populations[-1].name if populations else source.name,
            target=name,
            synapses=FloatSynapses(Connectivity.from_mask(mask), np.ascontiguousarray(weight.T[mask.T])),
            weight_step=step,
            weight_bits=bits,
        )
        return lif, connection

    def _neuron(self, layer: Mapping[Any, Any], place: str, name: str, bias: NDArray[np.float32]) -> LIF:
        neuron = self._mapping(layer, "neuron", place)
        place = f"{place}.neuron"
        self._require(neuron, NEURON_KEYS, place)
        self._known(neuron, NEURON_KEYS, place)
        for key, allowed in NEURON_CHOICES.items():
            if not isinstance(neuron[key], str) or neuron[key] != allowed:
                raise self.refuse(
                    f"a neuron with this {key} is not supported",
                    f"{place}.{key}",
                    got=_shown(neuron[key]),
                    allowed=repr(allowed),
                    remedy="train with this one: it is never replaced in silence",
                )
        tau = self._float(neuron, "tau", place)
        if not tau > 1:
            raise self.refuse("the time constant must exceed one step", f"{place}.tau", got=tau, allowed="more than 1")
        threshold = self._float(neuron, "threshold", place)
        if not threshold > 0:
            raise self.refuse("the threshold must be positive", f"{place}.threshold", got=threshold)
        return LIF(
            name=name,
            size=len(bias),
            threshold=threshold,
            gain=1 / tau,
            current_decay=1.0,
            voltage_decay=1 / tau,
            bias=bias,
        )

    def _grid(self, layer: Mapping[Any, Any], place: str) -> tuple[float | None, int | None]:
        if layer["weight_step"] is None and layer["weight_bits"] is None:
            return None, None
        if layer["weight_step"] is None or layer["weight_bits"] is None:
            raise self.refuse("weight_step and weight_bits stand together or not at all", place)
        step = self._float(layer, "weight_step", place)
        if not step > 0:
            raise self.refuse("the weight step must be positive", f"{place}.weight_step", got=step)
        return step, self._int(layer, "weight_bits", place, low=1, high=8)

    def _provenance(self, versions: Mapping[Any, Any]) -> dict[str, str]:
        """Where the network comes from, as text: versions, seed, and the plain metrics of training."""
        entries = {f"trained_with.{key}": value for key, value in versions.items()}
        entries["seed"] = self._int(self.content, "seed", "")
        data = self._mapping(self.content, "recipe", "").get("data")
        if isinstance(data, Mapping) and "dataset" in data:
            entries["dataset"] = data["dataset"]  # so that a build can be simulated on what it was trained for
        entries.update({f"trained.{key}": value for key, value in self._mapping(self.content, "metrics", "").items()})
        return {key: str(value) for key, value in entries.items() if isinstance(value, (str, int, float))}

    # Entries.

    def _do_not_chain(self, before: str, size: int, place: str, weight: Any) -> SnncError:
        return self.refuse(
            "layer sizes do not chain",
            place,
            got=f"it reads {int(weight.shape[1])}, but {before} has {size}",
            allowed=f"weight of shape ({int(weight.shape[0])}, {size})",
        )

    def _require(self, entries: Mapping[Any, Any], keys: Iterable[str], place: str) -> None:
        missing = [key for key in keys if key not in entries]
        if missing:
            raise self.refuse(
                f"{len(missing)} entries are missing", place or "top level", got=f"no {', '.join(missing)}"
            )

    def _known(self, entries: Mapping[Any, Any], keys: Iterable[str], place: str) -> None:
        """Unknown entries here would change what the network computes, so they are not ignored."""
        for key in entries:
            if key not in tuple(keys):
                text = str(key)[:40]
                raise self.refuse("unknown entry", f"{place}.{text}", allowed=nearest(text, keys))

    def _entry(self, entries: Mapping[Any, Any], key: str, place: str) -> tuple[Any, str]:
        where = f"{place}.{key}" if place else key
        if key not in entries:
            raise self.refuse("an entry is missing", where)
        return entries[key], where

    def _mapping(self, entries: Mapping[Any, Any], key: str, place: str) -> Mapping[Any, Any]:
        value, where = self._entry(entries, key, place)
        if not isinstance(value, dict):
            raise self.refuse("must be a dictionary", where, got=type(value).__name__)
        return value

    def _text(self, entries: Mapping[Any, Any], key: str, place: str) -> str:
        value, where = self._entry(entries, key, place)
        if not isinstance(value, str) or not value:
            raise self.refuse("must be text", where, got=_shown(value))
        return value

    def _int(
        self, entries: Mapping[Any, Any], key: str, place: str, low: int | None = None, high: int | None = None
    ) -> int:
        value, where = self._entry(entries, key, place)
        within = isinstance(value, int) and not isinstance(value, bool)
        if within:
            within = (low is None or value >= low) and (high is None or value <= high)
        if not within:
            limits = f"{'' if low is None else f', at least {low}'}{'' if high is None else f', at most {high}'}"
            raise self.refuse("must be a whole number in range", where, got=_shown(value), allowed=f"int{limits}")
        return int(value)

    def _float(self, entries: Mapping[Any, Any], key: str, place: str) -> float:
        value, where = self._entry(entries, key, place)
        number = isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool))
        if not number or abs(value) > FLOAT_MAX or math.isnan(value):
            raise self.refuse("must be a finite number", where, got=_shown(value))
        return float(value)

    def _tensor(self, value: object, dtype: torch.dtype, ndim: int, place: str) -> NDArray[Any]:
        """A dense tensor as an array. What all tensors claim together must be in the file."""
        if not isinstance(value, torch.Tensor):
            raise self.refuse("must be a tensor", place, got=type(value).__name__)
        plain = value.layout == torch.strided and value.device.type == "cpu"
        if not plain or value.dtype != dtype or value.ndim != ndim or value.numel() == 0:
            raise self.refuse(
                "wrong kind of tensor",
                place,
                got=f"{value.dtype}, {value.layout}, shape {tuple(value.shape)}".replace("torch.", ""),
                allowed=f"{dtype}, strided, {ndim} dimension{'s' if ndim > 1 else ''}".replace("torch.", ""),
            )
        self.unclaimed_bytes -= value.numel() * value.element_size()
        if self.unclaimed_bytes < 0:
            raise self.refuse("the tensors claim more than the file holds", place, got=f"shape {tuple(value.shape)}")
        return value.detach().contiguous().numpy()

    def _finite(self, values: NDArray[Any], place: str) -> None:
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            index = [int(i) for i in bad[0]]
            raise self.refuse(
                f"{len(bad)} values are NaN or infinite",
                f"{place}{index}",
                got=float(values[tuple(index)]),
                allowed="finite numbers",
                remedy="train again with a smaller learning rate, or repair the checkpoint",
            )

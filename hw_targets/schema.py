"""What a target file must say, checked strictly: an unknown key is refused with the nearest known one.

A number without unit, source and mark is no number. `MARKS` says how a value was come by; where sources disagree,
the smaller limit is used and the others are named beside it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, NoReturn

SCHEMA = 1

MARKS: Mapping[str, str] = {
    "read": "read in a public source's own files",
    "transcribed": "read in a transcription or an abstract",
    "executed": "re-run and seen",
    "inferred": "inferred, or fitted to published results",
    "remembered": "remembered, unconfirmed",
}

Value = int | float | bool | str | tuple[int, ...] | tuple[str, ...]
"""A limit with one number for each core of the chip is a tuple."""

UNLIMITED = "unlimited"

# key: (unit, kind, required). Every entry of `limits` is a maximum, so the smaller of two values is the stricter.
LIMITS: Mapping[str, tuple[str, str, bool]] = {
    "cores_per_chip": ("cores", "count", True),
    "chips_per_system": ("chips", "count", True),
    "compartments_per_core": ("compartments", "count", True),
    "neuron_memory_per_core": ("neurons", "count per core", False),
    "synapse_memory_per_core": ("bytes", "count", False),
    "synapse_words_per_core": ("words", "count", False),
    "synapses_per_core": ("synapses", "count", False),
    "kernel_memory_per_core": ("kernel entries", "count per core", False),
    "pool_words_per_core": ("words", "count", False),
    "input_axons_per_core": ("axons", "count", False),
    "output_axons_per_core": ("axons", "count", False),
    "output_axons_to_other_chips_per_core": ("axons", "count", False),
    "axon_map_words_per_core": ("words", "count", False),
    "synapse_words_per_axon": ("words", "count", False),
    "synapses_per_entry": ("synapses", "count", False),
    "synapse_formats_per_core": ("formats", "count", False),
    "neuron_groups_per_core": ("groups", "count", False),
    "cores_per_layer": ("cores", "count", False),
    "destination_groups_per_core": ("groups", "count", False),
    "compartment_configs_per_core": ("configurations", "count", False),
    "threshold_configs_per_core": ("configurations", "count", False),
    "learning_configs_per_core": ("configurations", "count", False),
    "fan_in_per_neuron": ("synapses", "count or unlimited", False),
    "inputs_per_chip": ("inputs", "count", False),
    "outputs_per_chip": ("neurons", "count", False),
    "targets_per_layer": ("layers", "count", False),
    "kernel_size": ("rows or columns", "count", False),
    "input_map_size": ("rows or columns", "count", False),
    "output_map_size": ("rows or columns", "count", False),
    "channels_per_layer": ("channels", "count", False),
}

NUMBERS: Mapping[str, tuple[str, str, bool]] = {
    "weight_bits": ("bits", "list", True),
    "sign_modes": ("modes", "list of str", False),
    "weight_exponent_min": ("power of two", "int", False),
    "weight_exponent_max": ("power of two", "int", False),
    "weight_shift": ("bits", "int", False),
    "index_bits": ("bits", "list", False),
    "delay_bits": ("bits", "list", False),
    "delay_max": ("steps", "int", False),
    "compartment_and_delay_bits": ("bits", "int", False),
    "current_decay_max": ("1/4096 per step", "int", False),
    "voltage_decay_max": ("1/4096 per step", "int", False),
    "state_magnitude_bits": ("bits", "int", False),
    "threshold_mantissa_max": ("threshold units", "int", False),
    "threshold_shift": ("bits", "int", False),
    "bias_mantissa_max": ("bias units", "int", False),
    "bias_exponent_max": ("power of two", "int", False),
    "refractory_min": ("steps", "int", False),
    "refractory_max": ("steps", "int", False),
    "mesh_columns": ("tiles", "int", False),
    "mesh_rows": ("tiles", "int", False),
    "cores_per_tile": ("cores", "int", False),
    "strides": ("rows or columns", "list", False),
    "resets": ("resets", "list of str", False),
    "input_on_chip": ("yes or no", "bool", False),
    "spike_payload": ("yes or no", "bool", True),
    "spike_payload_bits": ("bits", "int", True),
}

COST_MODELS: Mapping[str, Mapping[str, tuple[str, str, bool]]] = {
    "nxtf": {
        "word_bits": ("bits", "count", True),
        "format_id_bits": ("bits", "count", True),
        "count_bits": ("bits", "count", True),
        "entry_synapses": ("synapses", "count", True),
        "index_bits_min": ("bits", "count", True),
        "index_bits_max": ("bits", "count", True),
        "skip_bits_min": ("bits", "count", True),
        "skip_bits_max": ("bits", "count", True),
        "end_bits": ("bits", "count", True),
        "formats": ("formats", "count", True),
        "weight_bits": ("bits", "list", True),
        "delay_bits": ("bits", "list", False),
    },
    "nengo": {
        "word_bits": ("bits", "count", True),
        "format_id_bits": ("bits", "count", True),
        "count_bits": ("bits", "count", True),
        "run_synapses": ("synapses", "count", True),
        "weight_bits": ("bits", "list", True),
        "index_bits": ("bits", "list", True),
        "delay_bits": ("bits", "list", False),
    },
    "loihi2-fitted": {
        "word_bits": ("bits", "count", True),
        "bits_per_synapse": ("bits", "count", True),
        "header_bits": ("bits", "count", True),
        "words_per_neuron": ("words", "count", True),
        "words_per_input_axon": ("words", "count", True),
        "words_per_axon_entry": ("words", "count", True),
        "axon_map_words_per_neuron": ("words", "count", True),
        "delay_bits": ("bits", "list", False),
    },
    "count": {
        "word_bits": ("bits", "count", True),
    },
}

# Energy and time of one event. A barrier's key says over how many tiles or chips it was given.
ENERGY: Mapping[str, tuple[str, str, bool]] = {
    **{
        f"{event}_{what}": (unit, "number", False)
        for event in (
            "synaptic_operation",
            "synapse_dense",
            "synapse_sparse",
            "synapse_convolution",
            "neuron_update_active",
            "neuron_update_inactive",
            "neuron_access",
            "neuron_update",
            "neuron_spike",
            "axon_out",
            "axon_in",
            "spike_within_tile",
            "hop_east_west",
            "hop_north_south",
        )
        for what, unit in (("energy", "pJ"), ("time", "ns"))
    },
    **{f"barrier_time_{n}_tiles": ("ns", "number", False) for n in (1, 2, 4, 29, 32)},
    **{f"barrier_time_{n}_chips": ("ns", "number", False) for n in (256, 768)},
    "supply_voltage": ("V", "number", False),
    "static_power_per_chip": ("mW", "number", False),
    "energy_error": ("percent", "number", False),
    "time_error": ("percent", "number", False),
}


class TargetError(ValueError):
    """A target that is unknown, cannot be read, or breaks the schema."""


def nearest_first(name: str, known: Iterable[str]) -> str:
    """`did you mean 'x'? known: ...`"""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"{f'did you mean {close[0]!r}? ' if close else ''}known: {', '.join(names)}"


@dataclass(frozen=True)
class Disagreement:
    """What another source says about the same limit."""

    value: Value
    source: str


@dataclass(frozen=True)
class Limit:
    """One number of a chip. source: keys of the target's `sources`; mark: a key of MARKS."""

    value: Value
    unit: str
    source: tuple[str, ...]
    mark: str
    note: str = ""
    disagreement: tuple[Disagreement, ...] = ()

    @cached_property
    def cited(self) -> str:
        """Where the number comes from, in short."""
        return f"{', '.join(self.source)}; {self.mark}"

    def __str__(self) -> str:
        value = ", ".join(map(str, self.value)) if isinstance(self.value, tuple) else str(self.value)
        others = "".join(f"; {other.source} says {other.value}" for other in self.disagreement)
        return f"{value} {self.unit} ({', '.join(self.source)}, {self.mark}{others})"


@dataclass(frozen=True)
class CostModelData:
    """The numbers of one accounting rule. fitted: it was fitted to results, no source states it."""

    name: str
    description: str
    fitted: bool
    parameters: Mapping[str, Limit]

    def values(self) -> dict[str, Any]:
        """Plain numbers by name, as the cost functions take them."""
        return {key: limit.value for key, limit in self.parameters.items()}


@dataclass(frozen=True)
class EnergyModel:
    """Energies and times of single events. Every figure made from it is an estimate, not measured."""

    name: str
    description: str
    entries: Mapping[str, Limit]


@dataclass(frozen=True)
class System:
    """A board or machine with so many chips. grid: how they are joined, (rows, columns), where that is stated."""

    name: str
    title: str
    chips: int
    source: tuple[str, ...]
    mark: str
    note: str = ""
    grid: Limit | None = None


@dataclass(frozen=True)
class Target:
    """A chip: its limits, number formats, accounting rules, boards, energies, and what we do not model.

    `target["compartments_per_core"]` is the plain value of a limit or number format; `target.limit(...)` has unit,
    source and mark. why_not: why no network is compiled for it; empty where networks are.
    """

    name: str
    title: str
    description: str
    fitted: bool
    sources: Mapping[str, str]
    limits: Mapping[str, Limit]
    numbers: Mapping[str, Limit]
    cost_models: Mapping[str, CostModelData]
    default_cost_model: str
    systems: tuple[System, ...]
    energy: Mapping[str, EnergyModel]
    not_modelled: tuple[str, ...]
    why_not: str = ""

    @property
    def partial(self) -> bool:
        """Whether only a part of the chip's limits is known, so that a network fits "as far as is known"."""
        return self.default_cost_model == "count"

    def limit(self, key: str) -> Limit:
        """The limit or number format of that name.

        Raises:
            TargetError: this target states none.
        """
        found = self.limits.get(key) or self.numbers.get(key)
        if found is None:
            raise TargetError(
                f"target {self.name!r} states no {key!r}: {nearest_first(key, (*self.limits, *self.numbers))}"
            )
        return found

    @cached_property
    def plain(self) -> Mapping[str, tuple[int, str, str]]:
        """Amount, unit and source of every limit and number format that is one integer: looked up very often."""
        whole = {key: limit for key, limit in {**self.numbers, **self.limits}.items() if type(limit.value) is int}
        return {key: (limit.value, limit.unit, limit.cited) for key, limit in whole.items()}  # type: ignore[misc]

    def __getitem__(self, key: str) -> Any:
        return self.limit(key).value

    def __contains__(self, key: object) -> bool:
        return key in self.limits or key in self.numbers

    def get(self, key: str, default: Any = None) -> Any:
        """The plain value, or `default` where this target states none."""
        return self.limit(key).value if key in self else default

    def parameters(self, cost_model: str | None = None) -> dict[str, Any]:
        """Plain numbers of a cost model (the default one without a name).

        Raises:
            TargetError: this target has no such model.
        """
        name = cost_model or self.default_cost_model
        if name not in self.cost_models:
            raise TargetError(
                f"target {self.name!r} has no cost model {name!r}: {nearest_first(name, self.cost_models)}"
            )
        return self.cost_models[name].values()

    def rows(self) -> Iterator[tuple[str, str, Limit]]:
        """Every number of the file as (section, key, limit), in a fixed order, for listings."""
        for section, entries in (("limits", self.limits), ("numbers", self.numbers)):
            for key, limit in entries.items():
                yield section, key, limit
        for model in self.cost_models.values():
            for key, limit in model.parameters.items():
                yield f"cost_models.{model.name}", key, limit
        for energy in self.energy.values():
            for key, limit in energy.entries.items():
                yield f"energy.{energy.name}", key, limit
        for system in self.systems:
            if system.grid is not None:
                yield f"systems.{system.name}", "grid", system.grid

    def to_dict(self) -> dict[str, Any]:
        """As plain data that `parse` reads back to an equal target."""
        return {
            "schema": SCHEMA,
            "name": self.name,
            "title": self.title,
            "description": self.description,
            "fitted": self.fitted,
            "default_cost_model": self.default_cost_model,
            "not_modelled": list(self.not_modelled),
            **({"why_not": self.why_not} if self.why_not else {}),
            "sources": dict(self.sources),
            "limits": _plain(self.limits),
            "numbers": _plain(self.numbers),
            "cost_models": {
                name: {"description": m.description, "fitted": m.fitted, "parameters": _plain(m.parameters)}
                for name, m in self.cost_models.items()
            },
            "systems": {
                s.name: {
                    "title": s.title,
                    "chips": s.chips,
                    "source": list(s.source),
                    "mark": s.mark,
                    **({"note": s.note} if s.note else {}),
                    **(_plain({"grid": s.grid}) if s.grid else {}),
                }
                for s in self.systems
            },
            "energy": {
                name: {"description": e.description, "entries": _plain(e.entries)} for name, e in self.energy.items()
            },
        }


def _plain(entries: Mapping[str, Limit]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, limit in entries.items():
        value = list(limit.value) if isinstance(limit.value, tuple) else limit.value
        out[key] = {"value": value, "unit": limit.unit, "source": list(limit.source), "mark": limit.mark}
        if limit.note:
            out[key]["note"] = limit.note
        if limit.disagreement:
            out[key]["disagreement"] = [{"value": d.value, "source": d.source} for d in limit.disagreement]
    return out


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_KINDS: Mapping[str, tuple[str, Any]] = {
    "count": ("a whole number, 1 or more", lambda v: _is_int(v) and v >= 1),
    "count per core": (
        "a list of whole numbers, 1 or more, one for each core of a chip",
        lambda v: isinstance(v, list) and bool(v) and all(_is_int(x) and x >= 1 for x in v),
    ),
    "rows and columns": (
        "two whole numbers, 1 or more: rows and columns",
        lambda v: isinstance(v, list) and len(v) == 2 and all(_is_int(x) and x >= 1 for x in v),
    ),
    "count or unlimited": (
        "a whole number, 1 or more, or 'unlimited'",
        lambda v: v == UNLIMITED or (_is_int(v) and v >= 1),
    ),
    "int": ("a whole number", _is_int),
    "bool": ("true or false", lambda v: isinstance(v, bool)),
    "number": (
        "a finite number, 0 or more",
        lambda v: isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v < float("inf"),
    ),
    "list": (
        "a list of whole numbers, ascending, none twice",
        lambda v: isinstance(v, list) and bool(v) and all(map(_is_int, v)) and v == sorted(set(v)),
    ),
    "list of str": (
        "a list of words",
        lambda v: isinstance(v, list) and bool(v) and all(isinstance(x, str) for x in v),
    ),
}


class _Reader:
    """Walks the document, knowing where it is."""

    def __init__(self, where: str) -> None:
        self.where = where

    def refuse(self, place: str, problem: str) -> NoReturn:
        raise TargetError(f"{self.where}: {place}: {problem}")

    def table(self, value: object, place: str, required: Iterable[str], optional: Iterable[str] = ()) -> dict[str, Any]:
        if not isinstance(value, dict):
            self.refuse(place, f"must be a table, is {value!r}")
        required = tuple(required)
        known = (*required, *optional)
        for key in value:
            if key not in known:
                self.refuse(place, f"unknown key {key!r}: {nearest_first(key, known)}")
        for key in required:
            if key not in value:
                self.refuse(place, f"key {key!r} is missing")
        return value

    def text(self, value: object, place: str) -> str:
        if not isinstance(value, str) or not value.strip():
            self.refuse(place, f"must be a text that is not empty, is {value!r}")
        return value

    def flag(self, value: object, place: str) -> bool:
        if not isinstance(value, bool):
            self.refuse(place, f"must be true or false, is {value!r}")
        return value

    def sources(self, value: object, place: str, known: Mapping[str, str]) -> tuple[str, ...]:
        if not isinstance(value, list) or not value:
            self.refuse(f"{place}.source", f"must be a list of one or more sources, is {value!r}")
        for name in value:
            if name not in known:
                self.refuse(f"{place}.source", f"unknown source {name!r}: {nearest_first(str(name), known)}")
        return tuple(value)

    def mark(self, value: object, place: str) -> str:
        if value not in MARKS:
            self.refuse(f"{place}.mark", f"unknown mark {value!r}: {nearest_first(str(value), MARKS)}")
        return str(value)

    def number(self, value: object, place: str, kind: str) -> Value:
        wanted, good = _KINDS[kind]
        if not good(value):
            self.refuse(f"{place}.value", f"must be {wanted}, is {value!r}")
        return tuple(value) if isinstance(value, list) else value  # type: ignore[return-value]

    def limit(
        self, value: object, place: str, spec: tuple[str, str, bool], sources: Mapping[str, str], maximum: bool
    ) -> Limit:
        unit, kind, _ = spec
        table = self.table(value, place, ("value", "unit", "source", "mark"), ("note", "disagreement"))
        if table["unit"] != unit:
            self.refuse(f"{place}.unit", f"must be {unit!r}, is {table['unit']!r}")
        number = self.number(table["value"], place, kind)
        others = []
        disagreement = table.get("disagreement", [])
        if not isinstance(disagreement, list):
            self.refuse(f"{place}.disagreement", "must be a list of {value, source}")
        for n, other in enumerate(disagreement):
            at = f"{place}.disagreement[{n}]"
            other = self.table(other, at, ("value", "source"))
            theirs = self.number(other["value"], at, kind)
            source = self.text(other["source"], f"{at}.source")
            if source not in sources:
                self.refuse(f"{at}.source", f"unknown source {source!r}: {nearest_first(source, sources)}")
            if maximum and _is_int(theirs) and _is_int(number) and theirs < number:  # type: ignore[operator]
                self.refuse(place, f"{source} says {theirs}: use the smaller limit, not {number}")
            others.append(Disagreement(theirs, source))
        note = self.text(table["note"], f"{place}.note") if "note" in table else ""
        return Limit(
            number,
            unit,
            self.sources(table["source"], place, sources),
            self.mark(table["mark"], place),
            note,
            tuple(others),
        )

    def limits(
        self,
        value: object,
        place: str,
        spec: Mapping[str, tuple[str, str, bool]],
        sources: Mapping[str, str],
        shared: Mapping[str, Limit] | None = None,
    ) -> Mapping[str, Limit]:
        required = [key for key, (_, _, needed) in spec.items() if needed]
        table = self.table(value, place, required, spec)
        out = {}
        for key in spec:
            if key not in table:
                continue
            at, entry = f"{place}.{key}", table[key]
            if shared is not None and isinstance(entry, dict) and set(entry) == {"same_as"}:
                name = entry["same_as"]
                if name not in shared:
                    self.refuse(f"{at}.same_as", f"unknown {name!r}: {nearest_first(str(name), shared)}")
                out[key] = shared[name]
                if shared[name].unit != spec[key][0]:
                    self.refuse(f"{at}.same_as", f"{name} is in {shared[name].unit}, not {spec[key][0]}")
            else:
                out[key] = self.limit(entry, at, spec[key], sources, maximum=place == "limits")
        return MappingProxyType(out)


def parse(document: object, where: str) -> Target:
    """A target from the plain data of its file; `where` names the file in messages.

    Raises:
        TargetError: anything missing, unknown, of the wrong kind, without source, or contradicting itself.
    """
    read = _Reader(where)
    if isinstance(document, dict) and document.get("schema") != SCHEMA:
        read.refuse("schema", f"must be {SCHEMA}, is {document.get('schema')!r}")
    top = read.table(
        document,
        "the file",
        (
            "schema",
            "name",
            "title",
            "description",
            "fitted",
            "default_cost_model",
            "not_modelled",
            "sources",
            "limits",
            "numbers",
            "cost_models",
            "systems",
        ),
        ("energy", "why_not"),
    )
    raw_sources = top["sources"]
    if not isinstance(raw_sources, dict) or not raw_sources:
        read.refuse("sources", "must be a table of citations that is not empty")
    sources = MappingProxyType({key: read.text(text, f"sources.{key}") for key, text in raw_sources.items()})
    limits = read.limits(top["limits"], "limits", LIMITS, sources)
    numbers = read.limits(top["numbers"], "numbers", NUMBERS, sources)
    for key, limit in limits.items():
        if isinstance(limit.value, tuple) and len(limit.value) != limits["cores_per_chip"].value:
            read.refuse(f"limits.{key}.value", f"must be one for each core of a chip, has {len(limit.value)}")

    models = {}
    for name, raw in read.table(top["cost_models"], "cost_models", (), COST_MODELS).items():
        at = f"cost_models.{name}"
        table = read.table(raw, at, ("description", "fitted", "parameters"))
        models[name] = CostModelData(
            name,
            read.text(table["description"], f"{at}.description"),
            read.flag(table["fitted"], f"{at}.fitted"),
            read.limits(table["parameters"], f"{at}.parameters", COST_MODELS[name], sources, {**limits, **numbers}),
        )
    default = read.text(top["default_cost_model"], "default_cost_model")
    if default not in models:
        read.refuse("default_cost_model", f"no cost model {default!r} here: {nearest_first(default, models)}")

    systems = []
    if not isinstance(top["systems"], dict) or not top["systems"]:
        read.refuse("systems", "must be a table of one or more boards")
    for name, raw in top["systems"].items():
        at = f"systems.{name}"
        table = read.table(raw, at, ("title", "chips", "source", "mark"), ("note", "grid"))
        chips = read.number(table["chips"], f"{at}.chips", "count")
        assert isinstance(chips, int)
        grid = None
        if "grid" in table:
            grid = read.limit(table["grid"], f"{at}.grid", ("chips", "rows and columns", False), sources, maximum=False)
            assert isinstance(grid.value, tuple)
            rows, columns = map(int, grid.value)
            if rows * columns != chips:
                read.refuse(f"{at}.grid.value", f"{rows} x {columns} is not {chips} chips")
        systems.append(
            System(
                name,
                read.text(table["title"], f"{at}.title"),
                chips,
                read.sources(table["source"], at, sources),
                read.mark(table["mark"], at),
                read.text(table["note"], f"{at}.note") if "note" in table else "",
                grid,
            )
        )

    energy = {}
    raw_energy = top.get("energy", {})
    if not isinstance(raw_energy, dict):
        read.refuse("energy", "must be a table of energy models")
    for name, raw in raw_energy.items():
        at = f"energy.{name}"
        table = read.table(raw, at, ("description", "entries"))
        energy[name] = EnergyModel(
            name,
            read.text(table["description"], f"{at}.description"),
            read.limits(table["entries"], f"{at}.entries", ENERGY, sources),
        )

    not_modelled = top["not_modelled"]
    if not isinstance(not_modelled, list) or not not_modelled:
        read.refuse("not_modelled", "must be a list that says what is left out")
    return Target(
        name=read.text(top["name"], "name"),
        title=read.text(top["title"], "title"),
        description=read.text(top["description"], "description"),
        fitted=read.flag(top["fitted"], "fitted"),
        sources=sources,
        limits=limits,
        numbers=numbers,
        cost_models=MappingProxyType(models),
        default_cost_model=default,
        systems=tuple(systems),
        energy=MappingProxyType(energy),
        not_modelled=tuple(read.text(text, f"not_modelled[{n}]") for n, text in enumerate(not_modelled)),
        why_not=read.text(top["why_not"], "why_not") if "why_not" in top else "",
    )

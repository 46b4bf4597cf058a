"""A slice of a population: what one core holds of it, and how it is put together from its parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from toolchain.ir import Compartments, IntegerSynapses
from toolchain.mapping.cost_models import stored_weight_bits
from toolchain.mapping.region import Region
from toolchain.mapping.synapse_memory import Axons, Format, FormatChoice, Parameters, SliceCost, SynapseLists
from toolchain.mapping.usage import Limit, Usage

Limits = Callable[[Usage], Sequence[Limit]]
"""Amounts of one core against their limits: what the partitioner asks, so that it knows no chip."""

RESET_MODELS = ("nxtf", "nengo")
"""Cost models of chips on which only a second compartment can subtract the threshold."""


class Part(Protocol):
    """The synapses of one connection onto one slice."""

    @property
    def axons(self) -> Axons: ...

    def cost(self, model: str, parameters: Parameters, choice: FormatChoice) -> SliceCost: ...

    def written(self, where: str) -> SynapseLists:
        """The lists as an image of the synaptic memory holds them.

        Raises:
            SnncError: no image can be written of them.
        """
        ...


@dataclass(frozen=True)
class Costing:
    """How synapses are charged: the cost model, its parameters and the formats that it may use.

    input_on_chip: whether neurons of the chip make the spikes of a rate input; else they come from outside.
    """

    model: str
    parameters: Parameters
    choice: FormatChoice
    input_on_chip: bool = True

    def cost(self, part: Part, choice: FormatChoice | None = None) -> SliceCost:
        return part.cost(self.model, self.parameters, choice or self.choice)

    def neuron_size(self, neurons: Compartments) -> int:
        """Compartments of one neuron: 2 where a second one has to subtract the threshold after a spike."""
        return 2 if neurons.reset == "subtract" and self.model in RESET_MODELS else 1

    @property
    def by_position(self) -> bool:
        """Whether a convolution's axons are those of positions of its source map, not of neurons (Loihi 2, fitted)."""
        return self.model == "loihi2-fitted"

    def signed(self, synapses: IntegerSynapses) -> bool:
        """Whether the cost of a convolution depends on the signs of its weights (see `convolution`)."""
        if self.model != "nxtf":
            return False
        half = 1 << (stored_weight_bits(synapses.weight_bits, self.parameters) - 1)
        low, high = int(synapses.mantissa.min(initial=0)), int(synapses.mantissa.max(initial=0))
        return "one_list" not in self.choice.sign_lists or not -half <= low <= high < half

    def delay_bits(self, steps: int) -> int:
        """Bits of a synapse's delay field where a spike arrives `steps` steps after it was sent (1: no field)."""
        stored = steps - 1
        needed = stored.bit_length()
        return min((bits for bits in self.parameters.get("delay_bits", ()) if bits >= needed), default=needed) * (
            stored > 0
        )


@dataclass(frozen=True, eq=False)
class Slice:
    """A region of a population, with what it takes and the cost of each connection that enters it.

    own: what it takes without the connections that enter.  parts: of a map, the synapses that each connection brings
    onto it, to be costed again with other formats.
    """

    population: str
    region: Region
    usage: Usage
    costs: dict[str, SliceCost]
    own: Usage = field(default_factory=Usage)
    parts: Mapping[str, Part] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.region)

    @property
    def start(self) -> int:
        """First neuron; only of a population with one axis."""
        return self.region.start

    @property
    def stop(self) -> int:
        """Behind the last neuron; only of a population with one axis."""
        return self.region.stop

    def __str__(self) -> str:
        return f"{self.population}{self.region}"


@dataclass(frozen=True)
class Reason:
    """Why a population has as many slices as it has: the limits that fewer would break, worst first.

    fewer: the next smaller number of slices into which it could be cut.
    """

    population: str
    n_slices: int
    fewer: int
    broken: tuple[Limit, ...]


def reset_usage(neurons: int, costing: Costing) -> Usage:
    """What the subtraction of the threshold takes beside the second compartment: a synapse of each neuron to itself.

    Its list is one word, with an input axon and an output axon of its own. Source: NxTF.
    """
    rule = costing.parameters
    word, head = rule["word_bits"], rule["format_id_bits"] + rule["count_bits"]
    weight, index = max(rule["weight_bits"]), 10
    register = Format("sparse", "mixed", weight, 0, index, 0)
    return Usage(
        input_axons=neurons,
        output_axons=neurons,
        synapses=neurons,
        synapse_words=neurons,
        largest_list_words=1,
        payload_bits=neurons * weight,
        index_bits=neurons * index,
        header_bits=neurons * head,
        padding_bits=neurons * (word - weight - index - head),
        formats=frozenset([register]) if costing.model == "nxtf" else frozenset(),
    )


def cost_parts(parts: Mapping[str, Part], bare: Usage, costing: Costing) -> tuple[dict[str, SliceCost], Usage]:
    """The cost of every connection onto one slice, and all that the slice takes with them.

    Connections share the core's format registers where together they would like more than there are.
    """
    costs = {name: costing.cost(part) for name, part in parts.items()}
    usage = sum((Usage.of_synapses(cost) for cost in costs.values()), bare)
    registers = costing.choice.max_formats
    if registers is not None and costs and len(usage.formats) > registers:
        free = registers - len(bare.formats)
        choice = replace(costing.choice, max_formats=max(1, free // len(costs)))
        costs = {name: costing.cost(part, choice) for name, part in parts.items()}
        usage = sum((Usage.of_synapses(cost) for cost in costs.values()), bare)
    return costs, usage


def broken(limits: Sequence[Limit]) -> list[Limit]:
    """Those that are broken, the worst of each rule, the worst rule first."""
    return worst([limit for limit in limits if limit.broken])


def worst(found: Sequence[Limit]) -> list[Limit]:
    """The largest overload of each rule, the worst rule first."""
    by_rule: dict[str, Limit] = {}
    for limit in found:
        if limit.rule not in by_rule or limit.share > by_rule[limit.rule].share:
            by_rule[limit.rule] = limit
    return sorted(by_rule.values(), key=lambda limit: (-limit.share, limit.rule))

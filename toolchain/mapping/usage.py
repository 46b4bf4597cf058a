"""What a slice of neurons, or a core, uses of each resource."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toolchain.ir import Compartments
from toolchain.mapping.region import Region
from toolchain.mapping.synapse_memory import Format, SliceCost

CompartmentConfig = tuple[int, int, int, str, int]
"""What a compartment configuration register holds: du, dv, bias exponent, reset, refractory steps."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Amounts that one slice or one core takes. Sums, but for maxima (the longest list, delay bits, destination groups)
    and unions (formats, and the different compartment and threshold configurations).

    compartments: neurons updated.  groups: slices, each with registers of its own.
    input_axons: source neurons with a synapse here, counted for each slice.
    output_axons: entries, one for each neuron and slice that it sends to (one more where that crosses chips:
    crossing_axons).  synapse_words: 64 bit words; payload, index, header and padding bits make them up.
    axon_maps: neurons, or positions of a map whose neurons have their axons together (Loihi 2).
    delay_bits: of the widest delay field (0: none is stored).  destination_groups: of the slice with the most.
    """

    compartments: int = 0
    groups: int = 0
    input_axons: int = 0
    output_axons: int = 0
    crossing_axons: int = 0
    synapses: int = 0
    synapse_words: int = 0
    largest_list_words: int = 0
    payload_bits: int = 0
    index_bits: int = 0
    header_bits: int = 0
    padding_bits: int = 0
    axon_maps: int = 0
    delay_bits: int = 0
    destination_groups: int = 0
    formats: frozenset[Format] = frozenset()
    compartment_configs: frozenset[CompartmentConfig] = frozenset()
    threshold_configs: frozenset[int] = frozenset()

    @classmethod
    def of_registers(cls, neurons: Compartments, region: Region) -> Usage:
        """The configurations that the neurons of a region need, each different one once."""
        common = (neurons.bias_exponent, neurons.reset, neurons.refractory)
        du, dv = np.broadcast_arrays(*(_values(neurons, f, region) for f in ("du", "dv")))
        decays = set(zip(du.tolist(), dv.tolist(), strict=True))
        return cls(
            compartment_configs=frozenset((*decay, *common) for decay in decays),
            threshold_configs=frozenset(_values(neurons, "vth", region).tolist()),
        )

    @classmethod
    def of_synapses(cls, cost: SliceCost) -> Usage:
        """What the synapses of one connection onto one slice take."""
        return cls(
            input_axons=cost.n_axons,
            synapses=cost.synapses,
            synapse_words=cost.words,
            largest_list_words=cost.largest_list_words,
            payload_bits=cost.payload_bits,
            index_bits=cost.index_bits,
            header_bits=cost.header_bits,
            padding_bits=cost.padding_bits,
            formats=frozenset(cost.formats),
        )

    def sending(self, output_axons: int, crossing_axons: int) -> Usage:
        """The same with other output axons, and so many of them to other chips."""
        # Not `dataclasses.replace`, which takes several times as long: this is asked for every slice.
        return Usage(
            self.compartments,
            self.groups,
            self.input_axons,
            output_axons,
            crossing_axons,
            self.synapses,
            self.synapse_words,
            self.largest_list_words,
            self.payload_bits,
            self.index_bits,
            self.header_bits,
            self.padding_bits,
            self.axon_maps,
            self.delay_bits,
            self.destination_groups,
            self.formats,
            self.compartment_configs,
            self.threshold_configs,
        )

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            compartments=self.compartments + other.compartments,
            groups=self.groups + other.groups,
            input_axons=self.input_axons + other.input_axons,
            output_axons=self.output_axons + other.output_axons,
            crossing_axons=self.crossing_axons + other.crossing_axons,
            synapses=self.synapses + other.synapses,
            synapse_words=self.synapse_words + other.synapse_words,
            largest_list_words=max(self.largest_list_words, other.largest_list_words),
            payload_bits=self.payload_bits + other.payload_bits,
            index_bits=self.index_bits + other.index_bits,
            header_bits=self.header_bits + other.header_bits,
            padding_bits=self.padding_bits + other.padding_bits,
            axon_maps=self.axon_maps + other.axon_maps,
            delay_bits=max(self.delay_bits, other.delay_bits),
            destination_groups=max(self.destination_groups, other.destination_groups),
            formats=self.formats | other.formats,
            compartment_configs=self.compartment_configs | other.compartment_configs,
            threshold_configs=self.threshold_configs | other.threshold_configs,
        )


def _values(neurons: Compartments, field: str, region: Region) -> NDArray[np.int32]:
    """The different values of a register among the neurons of a region, or, where each has its own, all of them."""
    value = getattr(neurons, field)
    return np.array([value], np.int32) if np.ndim(value) == 0 else region.of(value).reshape(-1)


@dataclass(frozen=True)
class Limit:
    """One amount against its limit on one core."""

    rule: str
    value: int
    limit: int
    unit: str
    source: str

    @property
    def broken(self) -> bool:
        return self.value > self.limit

    @property
    def share(self) -> float:
        """The used part of what is allowed (above 1 where it is broken)."""
        return self.value / self.limit if self.limit else float("inf")

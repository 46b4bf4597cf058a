"""Networks of lava-dl: the .net files (HDF5) that slayer's export_hdf5 writes and netx reads.

Their weights, decays, thresholds and biases are the chip's integers already, and are taken as they are:

    u[t] = u[t-1] (4096 - iDecay) / 4096 + (weights << 6)
    v[t] = v[t-1] (4096 - vDecay) / 4096 + u[t] + (bias << 6)
    spike where v > vThMant << 6, then v = 0

A layer is what `toolchain/frontends/netx_layers.py` makes of it. What netx.hdf5.Network of lava-dl 0.6.0 computes in
Lava decides, where slayer, which writes such files, leaves something open.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

from toolchain.errors import Diagnostic, SnncError, UsageError, nearest
from toolchain.formats.hdf5_tree import Tree, read_hdf5
from toolchain.frontends import Loaded
from toolchain.frontends.layers import lower
from toolchain.frontends.netx_fields import Layer
from toolchain.frontends.netx_layers import Reader
from toolchain.ir import make_input
from toolchain.ir.inputs import INPUTS, VALUE_MAX

STEPS = 32
"""Steps of a sample where nobody says."""
INPUT = "input"
REMEDY = "write the file again with export_hdf5 of lava-dl's slayer"


def load(
    path: str | os.PathLike[str],
    *,
    trust: bool = False,
    steps: int | None = None,
    coding: str | None = None,
    shape: tuple[int, ...] | None = None,
) -> Loaded:
    """Read a .net file. `trust` changes nothing: such a file holds no code.

    steps: of a sample (32).  coding: of the input (spikes).  shape: of the input, where the file has no input layer.

    Raises:
        SnncError: damaged, or a layer or field that no spiking network of ours computes, naming both.
    """
    file = str(path)
    if coding is not None and coding not in INPUTS:
        raise UsageError("no such coding of the input", where="--coding", got=coding, allowed=nearest(coding, INPUTS))
    (tree,) = read_hdf5(path, ("layer",), "what slayer's export_hdf5 writes", REMEDY)
    found: list[Diagnostic] = []
    layers = _layers(file, tree, found)
    entry = layers[0]
    if entry.kind == "input":
        shape = entry.shape("shape")
        if entry.has("neuron") and coding != "spikes":
            raise entry.refuse(
                "an input layer with neurons of its own turns real numbers into spikes, outside of the chip",
                "neuron",
                allowed="an input layer without neurons",
                remedy="--coding spikes takes the spikes that this layer sends as the network's input, "
                "as netx does with skip_layers=1",
            )
        if entry.has("neuron"):
            found.append(Diagnostic("NTX002", entry.name, "the input layer's neurons are left out: give their spikes"))
        layers = layers[1:]
    shape = _first_shape(file, layers) if shape is None else shape
    size = math.prod(shape)
    assumed = [
        text
        for given, text in (
            (steps, f"a sample lasts {STEPS} steps (--steps)"),
            (coding, "spikes enter from outside (--coding)"),
        )
        if given is None
    ]
    if assumed:
        found.append(Diagnostic("NTX001", file, f"not said in the file, so taken: {'; '.join(assumed)}", len(assumed)))
    coding = coding or "spikes"
    source = make_input(coding, INPUT, size, scale=1.0 if INPUTS[coding].spiking else 1 / VALUE_MAX)
    reader = Reader(INPUT, shape, found)
    made = [node for k, layer in enumerate(layers) for node in reader.nodes(layer, last=k == len(layers) - 1)]
    loaded = lower(made, source, shape, steps or STEPS, Path(file).stem, {"netx": "lava-dl"}, where=file)
    return Loaded(loaded.graph, (*found, *loaded.diagnostics))


def _layers(file: str, tree: Tree, found: list[Diagnostic]) -> list[Layer]:
    """The layers in order: entries 0, 1, 2 and so on."""
    names = [str(k) for k in range(len(tree))]
    if not names or set(tree) != set(names) or not all(isinstance(tree[name], dict) for name in names):
        raise SnncError(
            "the layers are not numbered from 0",
            where=f"{file}, layer",
            got=", ".join(sorted(tree)[:6]) or "none",
            allowed="groups 0, 1, 2, ...",
            remedy=REMEDY,
        )
    return [Layer.of(file, name, tree[name], found) for name in names]


def _first_shape(file: str, layers: list[Layer]) -> tuple[int, ...]:
    """The input's shape where the file has no input layer: a dense layer says how much it reads."""
    if layers and layers[0].kind in ("dense", "dense_rec"):
        first = layers[0]
        weight = first.integers("weight", (1, 2))
        outputs = math.prod(first.shape("shape"))
        if weight.size % outputs:
            raise first.refuse(
                "the weights do not fit the neurons", "weight", got=weight.shape, allowed=f"({outputs}, n)"
            )
        return (weight.size // outputs,)
    raise SnncError(
        "the file does not say the shape of its input",
        where=f"{file}, layer/0",
        got=layers[0].kind if layers else "an input layer alone",
        allowed="an input layer, or a dense layer, as the first",
        remedy="put slayer.block.cuba.Input(delay_shift=False) before the first layer and export again",
    )

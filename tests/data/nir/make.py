"""Writes the files of this folder: networks as other frameworks export them to NIR, and what they themselves send.

    PYTHONHASHSEED=0 PYTHONPATH=FOLDERS python tests/data/nir/make.py FRAMEWORK

FRAMEWORK: spikingjelly, snntorch, norse, sinabs or rockpool, which FOLDERS must make importable, with nirtorch, which
writes edges in the order of their hashes (tests/frameworks/setup_frameworks.py; README.md says which versions wrote
what lies here). A network becomes NAME.nir.gz, the bytes that the exporter and `nir.write` leave, and NAME.npz: `x`
(samples, steps, values), 0 or 1, and for each module of neurons, by the name of its node, what it sent, (samples,
steps, values). Single precision.
"""

from __future__ import annotations

import gzip
import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nir
import numpy as np
import torch
from torch import nn

HERE = Path(__file__).parent
SAMPLES, STEPS = 4, 24
Shape = tuple[int, ...]
Forward = Callable[[torch.Tensor], dict[str, torch.Tensor]]
"""Takes (steps, samples, *shape); gives what each module of neurons sent, (steps, samples, ...), by node."""
Case = tuple[str, Shape, nir.NIRGraph, Forward]


def store(name: str, shape: Shape, graph: nir.NIRGraph, forward: Forward) -> None:
    """Write a network, run it, and write what it did."""
    stream = io.BytesIO()
    nir.write(stream, graph)
    (HERE / f"{name}.nir.gz").write_bytes(gzip.compress(stream.getvalue(), mtime=0))
    x = np.random.default_rng(1).random((STEPS, SAMPLES, *shape)) < 0.4
    with torch.no_grad():
        sent = forward(torch.from_numpy(x.astype(np.float32)))

    def flat(values: Any, kind: type) -> np.ndarray:
        return np.ascontiguousarray(np.asarray(values, kind).reshape(STEPS, SAMPLES, -1).swapaxes(0, 1))

    arrays = {}
    for node, values in sent.items():
        spikes = bool(((values == 0) | (values == 1)).all())
        arrays[node] = flat(values, np.uint8 if spikes else np.float32)
        assert values.any(), f"{name}: {node} sends nothing"
    np.savez_compressed(HERE / f"{name}.npz", x=flat(x, np.uint8), **arrays)
    print(name, {node: round(float(values.float().mean()), 3) for node, values in sent.items()})


def watched(model: nn.Module, names: dict[str, str], run: Callable[[], object]) -> dict[str, torch.Tensor]:
    """What modules send while something runs: the calls one behind another. names: of modules -> of nodes."""
    sent: dict[str, list[torch.Tensor]] = {node: [] for node in names.values()}
    hooks = [
        module.register_forward_hook(
            lambda _m, _i, out, to=sent[names[path]]: to.append(out[0] if isinstance(out, tuple) else out)
        )
        for path, module in model.named_modules()
        if path in names
    ]
    run()
    for hook in hooks:
        hook.remove()
    return {node: torch.stack(parts) if len(parts) > 1 else parts[0] for node, parts in sent.items()}


def dense(inputs: int, outputs: int, *, bias: bool = False, scale: float = 1.0) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.uniform_(layer.weight, -0.5 * scale, scale)
    return layer


def map_layer(scale: float = 1.0, *, bias: bool = False) -> nn.Conv2d:
    layer = nn.Conv2d(1, 2, 3, bias=bias)
    nn.init.uniform_(layer.weight, -0.5 * scale, scale)
    return layer


def spikingjelly() -> Iterator[Case]:
    from spikingjelly.activation_based import functional, layer, neuron
    from spikingjelly.activation_based.nir_exchange import export_to_nir

    def case(name: str, shape: Shape, *modules: nn.Module, multi: bool = False) -> Case:
        model = nn.Sequential(*modules)
        if multi:
            functional.set_step_mode(model, "m")
        graph = export_to_nir(model, torch.zeros(*((STEPS,) if multi else ()), 1, *shape))
        nodes = {str(k): f"_{k}" for k, module in enumerate(modules) if isinstance(module, neuron.BaseNode)}

        def forward(x: torch.Tensor) -> dict[str, torch.Tensor]:
            functional.reset_net(model)
            return watched(model, nodes, lambda: model(x) if multi else [model(step) for step in x])

        return f"spikingjelly_{name}", shape, graph, forward

    lif = neuron.LIFNode
    yield case("lif", (6,), dense(6, 8, bias=True, scale=2.0), lif(), dense(8, 4, scale=2.0), lif(v_reset=-0.25))
    yield case("undecayed", (6,), dense(6, 8), lif(4.0, decay_input=False), dense(8, 4), neuron.IFNode())
    yield case("if", (6,), dense(6, 8), neuron.IFNode(), dense(8, 4), neuron.IFNode())
    yield case(
        "maps", (1, 6, 6), map_layer(), neuron.IFNode(), nn.AvgPool2d(2), nn.Flatten(), dense(8, 4, scale=3.0),
        neuron.ParametricLIFNode(3.0),
    )  # fmt: skip
    first, second = layer.Conv2d(1, 2, 3), layer.Linear(8, 4)
    nn.init.uniform_(first.weight, -0.5, 1.0)
    nn.init.uniform_(second.weight, -1.0, 3.0)
    parts = (first, neuron.IFNode(), layer.AvgPool2d(2), layer.Flatten(), second, lif())
    yield case("multistep", (1, 6, 6), *parts, multi=True)
    cuba = neuron.CUBALIFNode(c_decay=0.5, v_decay=0.75)
    yield case("cuba", (6,), dense(6, 8, scale=0.5), cuba)


def snntorch() -> Iterator[Case]:
    import snntorch as snn
    from snntorch import utils
    from snntorch.export_nir import export_to_nir

    def case(name: str, shape: Shape, *modules: nn.Module, **nodes: str) -> Case:
        model = nn.Sequential(*modules)
        # Without ignore_dims, the exporter refuses what it made.
        graph = export_to_nir(model, torch.zeros(1, *shape), ignore_dims=[0])
        names = {str(k): str(k) for k, m in enumerate(modules) if isinstance(m, snn.SpikingNeuron)}
        names |= {path.removeprefix("_"): node for path, node in nodes.items()}

        def forward(x: torch.Tensor) -> dict[str, torch.Tensor]:
            utils.reset(model)
            return watched(model, names, lambda: [model(step) for step in x])

        return f"snntorch_{name}", shape, graph, forward

    def leaky(*shape: int, **more: Any) -> nn.Module:
        # One number for all would be written as a scalar, which the exporter's own check refuses.
        return snn.Leaky(torch.full(shape, 0.875), threshold=torch.ones(shape), init_hidden=True, **more)

    def current(n: int, **more: Any) -> nn.Module:
        alpha, beta, one = torch.full((n,), 0.5), torch.full((n,), 0.75), torch.ones(n)
        return snn.Synaptic(alpha, beta, threshold=one, init_hidden=True, **more)

    zero = {"reset_mechanism": "zero"}
    yield case("leaky", (6,), dense(6, 8, bias=True), leaky(8), dense(8, 4), leaky(4, output=True))
    yield case("zero", (6,), dense(6, 8), leaky(8, **zero), dense(8, 4), leaky(4, **zero, output=True))
    # Small weights: where a potential is above twice the threshold, such neurons take it away twice, once late.
    at_once, last = {"reset_delay": False}, {"reset_delay": False, "output": True}
    yield case("at_once", (6,), dense(6, 8, scale=0.3), leaky(8, **at_once), dense(8, 4, scale=0.5), leaky(4, **last))
    yield case("synaptic", (6,), dense(6, 8, scale=0.5), current(8), dense(8, 4, scale=0.5), current(4, output=True))
    back = snn.RLeaky(torch.full((8,), 0.875), linear_features=8, init_hidden=True)
    yield case("recurrent", (6,), dense(6, 8), back, dense(8, 4), leaky(4, output=True), _1="1.lif")
    parts = (
        map_layer(0.3),
        leaky(2, 4, 4),
        nn.AvgPool2d(2),
        nn.Flatten(),
        dense(8, 4, scale=0.5),
        leaky(4, output=True),
    )
    yield case("maps", (1, 6, 6), *parts)


def norse() -> Iterator[Case]:
    import norse.torch as norse
    from norse.torch.functional.iaf import IAFParameters
    from norse.torch.functional.leaky_integrator_box import LIBoxParameters
    from norse.torch.functional.lif import LIFParameters
    from norse.torch.functional.lif_box import LIFBoxParameters

    def case(name: str, *modules: nn.Module) -> Case:
        model = norse.SequentialState(*modules)
        graph = norse.to_nir(model, torch.zeros(1, 6))
        nodes = {str(k): str(k) for k in range(1, len(modules), 2)}

        def forward(x: torch.Tensor) -> dict[str, torch.Tensor]:
            def run() -> None:
                state = None
                for step in x:
                    _, state = model(step, state)

            return watched(model, nodes, run)

        return f"norse_{name}", (6,), graph, forward

    # Numbers for each neuron: nir.write 1.0.8 cannot store the scalars that are Norse's default.
    def box(n: int) -> nn.Module:
        zeros = torch.zeros(n)
        leak = {"tau_mem_inv": torch.full((n,), 200.0), "v_leak": zeros}
        return norse.LIFBoxCell(LIFBoxParameters(v_th=torch.ones(n), v_reset=zeros, **leak))

    def readout(n: int) -> nn.Module:
        return norse.LIBoxCell(LIBoxParameters(tau_mem_inv=torch.full((n,), 100.0), v_leak=torch.zeros(n)))

    def lif(n: int) -> nn.Module:
        given = {"tau_mem_inv": 250.0, "tau_syn_inv": 500.0, "v_leak": 0.0, "v_th": 1.0, "v_reset": 0.0}
        return norse.LIFCell(LIFParameters(**{key: torch.full((n,), value) for key, value in given.items()}))

    yield case("box", dense(6, 8, scale=4.0), box(8), dense(8, 4, scale=8.0), box(4))
    yield case("readout", dense(6, 8, scale=4.0, bias=True), box(8), dense(8, 4, scale=2.0), readout(4))

    def plain(n: int) -> nn.Module:
        return norse.IAFCell(IAFParameters(v_th=torch.ones(n), v_reset=torch.zeros(n)))

    yield case("lif", dense(6, 8, scale=2.0), lif(8), dense(8, 4, scale=4.0), lif(4))
    yield case("iaf", dense(6, 8), plain(8), dense(8, 4), plain(4))


def sinabs() -> Iterator[Case]:
    import sinabs.activation as activation
    import sinabs.layers as sl
    from sinabs.nir import to_nir

    def case(name: str, shape: Shape, *modules: nn.Module) -> Case:
        model = nn.Sequential(*modules)
        squeezed = any(hasattr(module, "squeeze_forward") for module in modules)
        graph = to_nir(model, torch.zeros(*((5,) if squeezed else (1, 5)), *shape))
        nodes = {str(k): str(k) for k, module in enumerate(modules) if hasattr(module, "reset_states")}

        def forward(x: torch.Tensor) -> dict[str, torch.Tensor]:
            for module in modules:
                if hasattr(module, "reset_states"):
                    module.reset_states()
                if hasattr(module, "squeeze_forward"):
                    module.batch_size, module.num_timesteps = SAMPLES, STEPS
            joined = x.transpose(0, 1)
            sent = watched(model, nodes, lambda: model(joined.flatten(0, 1) if squeezed else joined))
            return {node: y.reshape(SAMPLES, STEPS, -1).transpose(0, 1) for node, y in sent.items()}

        return f"sinabs_{name}", shape, graph, forward

    single = {"spike_fn": activation.SingleSpike}

    def lif(**more: Any) -> nn.Module:
        return sl.LIF(10.0, **single, **more)

    yield case("iaf", (6,), dense(6, 8, bias=True), sl.IAF(**single), dense(8, 4), sl.IAF(**single))
    yield case("lif", (6,), dense(6, 8, scale=4.0), lif(), dense(8, 4, scale=8.0), lif())
    zero = {"reset_fn": activation.MembraneReset()}
    yield case("readout", (6,), dense(6, 8, scale=4.0), lif(**zero), dense(8, 4), sl.ExpLeak(10.0))
    # No maps: the exporter leaves input_shape open, which no version of `nir.write` stores.


def rockpool() -> Iterator[Case]:
    from rockpool.nn.combinators import Sequential
    from rockpool.nn.modules import ExpSynTorch, LIFNeuronTorch, LIFTorch, LinearTorch, to_nir

    once = {"max_spikes_per_dt": torch.tensor(1.0)}

    def linear(n: int, m: int, scale: float) -> nn.Module:
        return LinearTorch((n, m), weight=scale * (torch.rand(n, m) * 1.5 - 0.5))

    def case(name: str, *modules: nn.Module, example: torch.Tensor | None = None) -> Case:
        model = Sequential(*modules)
        nodes = {f"{k}_{type(module).__name__}": f"{k}_{type(module).__name__}" for k, module in enumerate(modules)}
        nodes = {path: node for path, node in nodes.items() if "Linear" not in path}
        for _, module in model.named_modules():
            for key, value in module.__dict__.get("_parameters", {}).items():
                module._parameters[key] = value.requires_grad_(False)  # or `nir.write` cannot store an ExpSynTorch
        graph = to_nir(model, example)

        def forward(x: torch.Tensor) -> dict[str, torch.Tensor]:
            for _, module in model.named_modules():
                if hasattr(module, "reset_state"):
                    module.reset_state()
            sent = watched(model, nodes, lambda: model(x.transpose(0, 1)))
            return {node: y.transpose(0, 1) for node, y in sent.items()}

        return f"rockpool_{name}", (6,), graph, forward

    yield case("lif", linear(6, 8, 0.5), LIFTorch(8, **once), linear(8, 4, 0.5), LIFTorch(4, **once))
    neurons = (LIFNeuronTorch(8, **once), linear(8, 4, 1.0), LIFNeuronTorch(4, **once))
    yield case("neuron", linear(6, 8, 1.0), *neurons, example=torch.zeros(1, 5, 6))
    yield case("readout", linear(6, 8, 1.0), LIFNeuronTorch(8, **once), linear(8, 4, 1.0), ExpSynTorch(4))


FRAMEWORKS = {
    "spikingjelly": spikingjelly,
    "snntorch": snntorch,
    "norse": norse,
    "sinabs": sinabs,
    "rockpool": rockpool,
}


if __name__ == "__main__":
    torch.manual_seed(0)
    for made in FRAMEWORKS[sys.argv[1]]():
        store(*made)

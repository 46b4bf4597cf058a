"""A framework's network and its graph, step by step."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import Phase, settings
from torch import nn

import toolchain
from toolchain.backends import physical
from toolchain.errors import SnncError
from toolchain.ir import Graph

STEPS = 12
# A failure is shown as it was found: here every example costs a network.
settings.register_profile("inside", deadline=None, phases=[Phase.generate], max_examples=6)
settings.load_profile("inside")
Run = Callable[[nn.Module, torch.Tensor], torch.Tensor]
"""(network, inputs (T, batch, ...)) -> its outputs of each step (T, batch, ...), from cleared states."""


def random_weights(network: nn.Module, scale: float, seed: int = 0) -> nn.Module:
    """Weights that make neurons spike now and then, in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in network.modules():
            if isinstance(part, (nn.Linear, nn.Conv1d, nn.Conv2d)):
                fan = part.weight[0].numel()
                part.weight.copy_(scale * (0.3 + torch.randn(part.weight.shape, generator=generator)) / fan**0.5)
                if part.bias is not None:
                    part.bias.copy_(0.1 * torch.randn(part.bias.shape, generator=generator))
            if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)):
                part.running_mean.copy_(0.2 * torch.randn(part.num_features, generator=generator))
                part.running_var.copy_(0.5 + torch.rand(part.num_features, generator=generator))
    return network.eval()


def compared(network: nn.Module, shape: tuple[int, ...], run: Run, *, all_steps: bool = False):
    """What was loaded, after the float simulation was found equal to the network: all spikes, or the last potential.

    The network runs in double precision, so that no potential is rounded to the other side of its threshold.
    """
    example = torch.zeros(*((STEPS,) if all_steps else ()), 2, *shape)
    loaded = toolchain.from_torch(network, example, steps=STEPS)
    graph = loaded.graph
    samples = np.random.default_rng(1).integers(0, 256, (5, graph.input.size)).astype(np.uint8)
    given = torch.from_numpy(graph.input.scale * graph.input.encode(samples, STEPS)).reshape(STEPS, 5, *shape)
    # Spikes of snnTorch are float32 whatever goes in.
    weighted = [part for part in network.modules() if isinstance(part, (nn.Linear, nn.Conv1d, nn.Conv2d))]
    hooks = [part.register_forward_pre_hook(lambda _, args: tuple(x.double() for x in args)) for part in weighted]
    with torch.no_grad():
        expected = run(network.double(), given.double()).flatten(2).numpy()
    for hook in hooks:
        hook.remove()
    trace = physical.run(graph, samples)
    if graph.populations[-1].spiking:
        assert 0.02 < expected.mean() < 0.98, expected.mean()
        np.testing.assert_allclose(trace.spikes[trace.output], expected.transpose(1, 0, 2), rtol=0, atol=1e-5)
    else:
        np.testing.assert_allclose(trace.potentials[trace.output], expected[-1], rtol=1e-5, atol=1e-5)
    return loaded


def codes(loaded) -> set[str]:
    return {diagnostic.code for diagnostic in loaded.diagnostics}


def kinds(graph: Graph) -> list[tuple[str, str]]:
    return [(population.name, population.reset) for population in graph.populations]


def refused(network: nn.Module, shape: tuple[int, ...], *words: str) -> None:
    with pytest.raises(SnncError) as caught:
        toolchain.from_torch(network.eval(), torch.zeros(*shape), steps=STEPS)
    for word in words:
        assert word in str(caught.value), str(caught.value)

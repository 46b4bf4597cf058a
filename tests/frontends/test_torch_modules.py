"""Modules of torch become graphs that compute the same, step by step; what cannot become one is refused by name."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from toolchain.backends import physical
from toolchain.errors import SnncError
from toolchain.ir import Connectivity, Convolution, GradedInput

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402
from torch.nn.utils import parametrize, prune  # noqa: E402

import toolchain  # noqa: E402
from toolchain.training.spiking import IF, LIF, CurrentLIF, Delay, Readout, SumPool2d, run  # noqa: E402

STEPS = 5


def dyadic(module: nn.Module, seed: int = 0) -> nn.Module:
    """Weights in eighths, so that no sum of a step is rounded, and batch norms that have seen something."""
    random = np.random.default_rng(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.from_numpy(random.integers(-8, 9, parameter.shape) / 8))
        for part in module.modules():
            if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)):
                part.eps = 0.0
                part.weight.copy_(torch.from_numpy(random.choice([-1.0, 0.5, 1.0, 2.0], part.num_features)))
                part.running_mean.copy_(torch.from_numpy(random.integers(-4, 5, part.num_features) / 4))
                part.running_var.copy_(torch.from_numpy(random.choice([0.25, 1.0, 4.0], part.num_features)))
    return module.eval()


def compiled(module: nn.Module, shape: tuple[int, ...], **options):
    """The graph of a module, after its spikes or potentials were found equal to the module's own."""
    loaded = toolchain.from_torch(module, torch.zeros(2, *shape), steps=STEPS, **options)
    graph = loaded.graph
    samples = np.random.default_rng(1).integers(0, 256, (3, graph.input.size)).astype(np.uint8)
    values = graph.input.offset + graph.input.scale * graph.input.encode(samples, STEPS)
    with torch.no_grad():
        given = torch.from_numpy(values).reshape(STEPS, len(samples), *shape)
        expected = run(module.double(), given).flatten(2).numpy()
    trace = physical.run(graph, samples)
    if graph.populations[-1].spiking:
        assert np.array_equal(trace.spikes[trace.output], expected.transpose(1, 0, 2))
    else:
        np.testing.assert_allclose(trace.potentials[trace.output], expected[-1], rtol=0, atol=1e-9)
    return loaded


def refused(module: nn.Module, shape: tuple[int, ...], *words: str, **options) -> SnncError:
    with pytest.raises(SnncError) as caught:
        toolchain.from_torch(module.eval(), torch.zeros(1, *shape), steps=STEPS, **options)
    for word in words:
        assert word in str(caught.value), str(caught.value)
    return caught.value


class Block(nn.Module):
    """A residual block; `how` is the sum."""

    def __init__(self, channels: int, how) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding="same", bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.lif = LIF()
        self.how = how

    def forward(self, x):
        return self.lif(self.how(self.norm(self.conv(x)), x))


def in_place(a, b):
    a += b
    return a


def scaled(a, b):
    return 0.5 * torch.sub(-a, b, alpha=2) / 2 - (-b) * 2


class Network(nn.Module):
    def __init__(self, how=torch.add) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1, stride=2), nn.BatchNorm2d(4), LIF(2.0, 0.5), nn.Sequential(Block(4, how))
        )
        self.pool = nn.AvgPool2d(2)
        self.drop = nn.Dropout(0.5)
        self.dense = nn.Linear(16, 10)
        self.back = LIF(4.0, recurrent=nn.Linear(10, 10), delay=2)
        self.head = nn.Sequential(nn.Linear(10, 3), Readout(2.0))

    def forward(self, x):
        x = self.pool(self.features(x))
        return self.head(self.back(self.dense(self.drop(x).view(x.size(0), -1))))


@pytest.mark.parametrize("how", [torch.add, in_place, scaled])
def test_a_residual_recurrent_network(how) -> None:
    graph = compiled(dyadic(Network(how)), (2, 8, 8)).graph
    assert [p.name for p in graph.populations] == ["features.2", "features.3.0.lif", "back", "head.1"]
    names = [(c.name, c.source, c.delay, type(c.synapses.connectivity)) for c in graph.connections]
    skips = [name for name, source, *_ in names if source == "features.2" and "skip" in name]
    assert [entry for entry in names if entry[0] not in skips] == [
        ("features.0", "input", 0, Convolution),
        ("features.3.0.conv", "features.2", 0, Convolution),
        ("dense", "features.3.0.lif", 0, Connectivity),
        ("back.recurrent", "back", 2, Connectivity),
        ("head.0", "back", 0, Connectivity),
    ]
    assert skips[0] == "features.3.0.lif.skip"
    assert (graph.name, graph.steps) == ("Network", STEPS)


def test_the_example_of_the_page(capsys) -> None:
    page = (Path(__file__).parents[2] / "docs" / "from_torch.md").read_text()
    code, printed = re.findall(r"```(?:python|text)\n(.*?)```", page, re.DOTALL)[:2]
    assert len(code.splitlines()) <= 25
    exec(compile(code, "from_torch.md", "exec"), {})
    assert capsys.readouterr().out == printed


class Sequences(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(2, 4, 3, padding="same", dilation=2, bias=False),
            nn.BatchNorm1d(4),
            IF(threshold=torch.tensor([[0.5], [1.0], [1.5], [2.0]])),
            nn.MaxPool1d(2, padding=1),
            nn.AvgPool1d(2),
            nn.Conv1d(4, 4, 2, groups=4),
            LIF(refractory=2, recurrent=nn.Conv1d(4, 4, 3, padding=1)),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.BatchNorm1d(4),
            nn.Linear(4, 3),
            IF(reset="subtract"),
        )

    def forward(self, x):
        return self.body(x)


def test_sequences() -> None:
    graph = compiled(dyadic(Sequences()), (2, 11)).graph
    first = graph.connections[0].synapses.connectivity
    assert (first.source, first.target, first.size) == ((2, 1, 11), (4, 1, 11), (1, 3))
    assert [p.size for p in graph.populations] == [44, 24, 8, 3]


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 2, 3), nn.Conv2d(1, 3, 3, bias=False)
        self.one, self.two = LIF(), CurrentLIF(0.5, 0.25, gain=torch.tensor([0.5, 1.0, 2.0]).reshape(3, 1, 1))
        self.late = Delay(2)
        self.sums = SumPool2d(2)
        self.gain = nn.Parameter(torch.ones(5, 1, 1))
        self.out = nn.Linear(20, 2)
        self.lif = LIF()

    def forward(self, x):
        both = torch.cat([self.one(self.a(x)), self.late(self.two(self.b(x)))], dim=1)
        pooled = functional.avg_pool2d(self.sums(both * self.gain), 1)
        return self.lif(self.out(torch.flatten(pooled, 1)))


def test_branches_delays_and_gains() -> None:
    graph = compiled(dyadic(Branches()), (1, 6, 6)).graph
    ends = {c.name: (c.source, c.target, c.delay) for c in graph.connections}
    assert ends == {
        "a": ("input", "one", 0),
        "b": ("input", "two", 0),
        "out": ("one", "lif", 0),
        "out[2]": ("two", "lif", 2),
    }
    assert graph.populations[1].gain == 1.0  # the gains are in the weights


class Pools(nn.Module):
    def forward(self, x):
        x = self.lif(self.conv(x.to(x.dtype)).contiguous())
        x = functional.max_pool2d(x, 2)
        return self.out(x.mean((2, 3)) + x.flatten(2).unsqueeze(2).squeeze(2).mean(-1))

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.lif = nn.Conv2d(1, 4, 1), LIF()
        self.out = nn.Sequential(nn.Identity(), nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 2, 2), nn.Flatten(), IF())


def test_pools_and_shapes() -> None:
    graph = compiled(dyadic(Pools()), (1, 8, 8)).graph
    assert [p.name for p in graph.populations] == ["lif", "max_pool2d", "out.4"]
    assert graph.connections[1].name == "max_pool2d.any"


def test_codings_have_their_parameters() -> None:
    module = dyadic(nn.Sequential(nn.Linear(6, 3), Readout()))
    loaded = compiled(module, (6,), coding="graded", payload_bits=4, scale=1 / 16, name="small")
    assert isinstance(loaded.graph.input, GradedInput)
    assert (loaded.graph.input.payload_bits, loaded.graph.input.scale, loaded.graph.name) == (4, 1 / 16, "small")
    assert compiled(module, (6,), coding="current", scale=1 / 64, offset=-0.25).graph.input.offset == -0.25
    refused(module, (6,), "does not have these parameters", "payload_bits", payload_bits=4)


def test_pruned_weights_are_synapses_that_do_not_exist() -> None:
    module = dyadic(nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(48, 4), IF()))
    prune.random_unstructured(module[0], "weight", 0.5)
    prune.l1_unstructured(module[2], "weight", 0.8)
    with torch.no_grad():
        module[2].weight_orig.copy_(torch.where(module[2].weight_orig == 0, 0.5, module[2].weight_orig * 2))
    kept = int((module[0].weight_orig * module[0].weight_mask != 0).sum())
    one = toolchain.from_torch(nn.Sequential(module[0], IF()), torch.zeros(1, 2, 6, 6), steps=STEPS).graph
    assert one.connections[0].synapses.connectivity.n_weights == kept
    two = toolchain.from_torch(nn.Sequential(module[2], IF()), torch.zeros(1, 48), steps=STEPS).graph
    synapses = two.connections[0].synapses
    # Not the weights of the last forward pass, but what the next would use.
    expected = (module[2].weight_orig * module[2].weight_mask).detach().numpy()
    assert np.array_equal(synapses.connectivity.dense(synapses.weights), expected)
    assert synapses.connectivity.n_synapses == int(module[2].weight_mask.sum())


class Halved(nn.Module):
    def forward(self, weight):
        return weight / 2


def test_parametrizations_are_read_through() -> None:
    module = dyadic(nn.Sequential(nn.Linear(5, 4, bias=False), Readout()))
    before = module[0].weight.detach().numpy().copy()
    parametrize.register_parametrization(module[0], "weight", Halved())
    synapses = compiled(module, (5,)).graph.connections[0].synapses
    assert np.array_equal(synapses.connectivity.dense(synapses.weights), before / 2)


def test_masks_say_where_synapses_are() -> None:
    module = dyadic(nn.Sequential(nn.Linear(5, 4, bias=False), LIF(recurrent=nn.Linear(4, 4, bias=False))))
    with torch.no_grad():
        module[0].weight.copy_(torch.arange(20.0).reshape(4, 5))
    mask = torch.zeros(4, 5)
    mask[:, :2] = 1
    masks = {"0.weight": mask, "1.recurrent.weight": torch.eye(4)}
    loaded = toolchain.from_torch(module, torch.zeros(1, 5), steps=STEPS, masks=masks)
    assert [c.synapses.connectivity.n_synapses for c in loaded.graph.connections] == [8, 4]
    assert loaded.diagnostics[0].code == "MDL001"
    assert (loaded.diagnostics[0].where, loaded.diagnostics[0].count) == ("0.weight", 12)
    refused(module, (5,), "a mask of no layer", "did you mean '0.weight'", masks={"0.weights": mask})
    refused(module, (5,), "mask and weight differ in shape", "masks['0.weight']", masks={"0.weight": mask.T})


def test_a_layer_that_is_called_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.a, self.b = nn.Linear(4, 4), LIF(), LIF()

        def forward(self, x):
            return self.b(self.fc(self.a(self.fc(x))))

    graph = compiled(dyadic(Twice()), (4,)).graph
    assert [(c.name, c.target) for c in graph.connections] == [("fc", "a"), ("fc[2]", "b")]


def test_the_module_is_left_as_it_was() -> None:
    module = dyadic(Network())
    state = {key: value.clone() for key, value in module.state_dict().items()}
    toolchain.from_torch(module, torch.zeros(1, 2, 8, 8), steps=STEPS)
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())
    assert module.features[2]._v is None


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, toolchain; assert 'torch' not in sys.modules; assert 'from_torch' in toolchain.__all__"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'from_tensorflow'"):
        toolchain.from_tensorflow  # noqa: B018


# What is refused.


def test_everything_that_is_not_supported_is_listed_at_once() -> None:
    class Modern(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, padding_mode="circular"))
            self.up = nn.ConvTranspose2d(4, 2, 2, stride=2)
            self.norm = nn.LayerNorm(8)
            self.lstm = nn.LSTM(8, 8)
            self.lif = LIF()

        def forward(self, x):
            x = functional.relu(self.up(self.encoder(x)))
            return self.lif(torch.matmul(self.norm(x), x).sigmoid() * x)

    error = refused(
        Modern(),
        (1, 8, 8),
        "6 operators cannot be deployed",
        "encoder.1 (ReLU): not linear",
        "up (ConvTranspose2d): a transposed convolution",
        "relu (relu): not linear",
        "norm (LayerNorm): it normalises",
        "matmul (matmul): not an operation that snnc knows",
        "sigmoid (sigmoid): not linear",
    )
    assert error.where == "Modern"
    assert "LIF" not in str(error.got)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), ("0 (Conv2d)", "padding_mode 'reflect'")),
        (nn.AvgPool2d(2, ceil_mode=True), ("0 (AvgPool2d)", "ceil_mode")),
        (nn.AvgPool2d(3, padding=1, count_include_pad=False), ("0 (AvgPool2d)", "count_include_pad")),
        (nn.MaxPool2d(2, return_indices=True), ("0 (MaxPool2d)", "return_indices")),
        (nn.AdaptiveAvgPool2d(3), ("0 (AdaptiveAvgPool2d)", "windows of unequal size")),
        (nn.BatchNorm2d(1, track_running_stats=False), ("0 (BatchNorm2d)", "track_running_stats")),
        (nn.Linear(8, 8), ("0 (Linear)", "flatten it")),
        (nn.Conv1d(1, 1, 3), ("0 (Conv1d)", "a batch and 2 axes")),
        (nn.GRU(8, 8), ("0 (GRU)", "not a layer that snnc knows")),
    ],
)
def test_settings_that_are_not_supported(part, words) -> None:
    refused(nn.Sequential(part, IF()), (1, 8, 8), "1 operator cannot be deployed", *words)


def test_a_batch_norm_in_training_mode() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), IF()).train()
    with pytest.raises(SnncError, match=r"module.eval\(\) first"):
        toolchain.from_torch(module, torch.zeros(1, 3), steps=STEPS)


def test_hooks() -> None:
    module = nn.Sequential(nn.Linear(3, 3), IF())
    module[0].register_forward_hook(lambda *_: None)
    refused(module, (3,), "0 (Linear): it has forward hooks")


class Custom(nn.Module):
    def __init__(self, forward) -> None:
        super().__init__()
        self.conv, self.fc, self.lif = nn.Conv2d(1, 1, 1), nn.Linear(4, 4), LIF()
        self.body = forward

    def forward(self, x):
        return self.body(self, x)


@pytest.mark.parametrize(
    ("forward", "words"),
    [
        (lambda m, x: m.lif(m.lif(x)), ("lif (LIF)", "called twice in a step")),
        (lambda m, x: m.lif(x * x), ("mul (mul)", "a product of two tensors")),
        (lambda m, x: m.lif(1 / x), ("truediv (truediv)", "a division by a tensor")),
        (lambda m, x: m.lif(torch.cat([x, x], 2)), ("cat (cat)", "only along the channels")),
        (lambda m, x: m.lif(x.reshape(-1)), ("reshape (reshape)", "samples of a batch")),
        (lambda m, x: m.lif(x.mean(1)), ("mean (mean)", "only over all places")),
        (lambda m, x: m.lif(x.transpose(1, 2)), ("transpose (transpose)", "not an operation")),
        (lambda m, x: (m.lif(x), x), ("output", "one tensor")),
        (lambda m, x: m.lif(m.conv(x).add_(1) + x.add_(1)), ("add__1 (add_)", "in place")),
        (lambda m, x: m.lif(x).mul_(2), ("mul_ (mul_)", "in place")),
        (lambda m, x: m.lif(x / 0), ("truediv (truediv)", "division by zero")),
        (lambda m, x: m.lif(x.to(torch.int32)), ("to (to)", "conversion to whole numbers")),
        (lambda m, x: m.lif(x.view(x.size(0) // 0, -1)), ("floordiv (floordiv)", "by zero")),
        (
            lambda m, x: functional.max_pool2d(m.lif(x), 2, return_indices=True)[0],
            ("max_pool2d_with_indices", "not an"),
        ),
        (lambda m, x: functional.avg_pool2d(m.lif(x), 2, 2, 0, True), ("avg_pool2d", "ceil_mode")),
        (lambda m, x: m.lif(x.view(7, 99)), ("view (view)", "invalid")),
        (lambda m, x: m.lif(m.conv(torch.ones(1, 1, 2, 2))), ("conv (Conv2d)", "does not read the input")),
        (lambda m, x: m.lif(torch.ones(2, 1, 1, 1) * x), ("mul", "differ from sample to sample")),
        (lambda m, x: m.lif(x.unsqueeze(1)), ("unsqueeze", "a tensor of 5 axes")),
    ],
)
def test_functions_that_are_not_supported(forward, words) -> None:
    refused(Custom(forward), (1, 2, 2), "1 operator cannot be deployed", *words)


def test_what_cannot_be_traced() -> None:
    error = refused(Custom(lambda m, x: m.lif(x) if x.sum() > 0 else x), (1, 2, 2), "torch.fx cannot trace the module")
    assert "loop over time" in str(error.remedy)


def test_shapes_that_do_not_chain_name_the_module() -> None:
    refused(
        Custom(lambda m, x: m.lif(m.fc(x.flatten(1)))), (1, 3, 3), "do not chain", "fc (Linear)", "it reads 4", "has 9"
    )
    block = Custom(lambda m, x: m.lif(nn.functional.avg_pool2d(x, 2) + x))
    refused(block, (1, 4, 4), "a sum of unequal shapes", "add (add)", "(1, 2, 2)", "(1, 4, 4)", "convolution of 1 x 1")
    big = nn.Sequential(nn.Conv2d(1, 1, 5), IF())
    refused(big, (1, 4, 4), "the kernel is larger than its input", "0 (Conv2d)")
    refused(nn.Sequential(nn.Linear(3, 3), IF()), (), "the example is no batch of inputs")


def test_networks_that_do_not_end_in_neurons() -> None:
    refused(
        nn.Sequential(nn.Linear(3, 3), IF(), nn.Linear(3, 2)), (3,), "does not end in neurons", "2 (Linear)", "Readout"
    )
    refused(nn.Sequential(nn.Linear(3, 2)), (3,), "the network has no neurons", "Sequential")
    refused(nn.Sequential(nn.Linear(3, 2), Readout(), nn.Linear(2, 2), IF()), (3,), "a readout", "sends no spikes")


def test_a_bias_before_neurons_with_synaptic_decay() -> None:
    module = nn.Sequential(nn.Linear(3, 2), CurrentLIF(0.5, 0.25))
    nn.init.ones_(module[0].bias)
    refused(module, (3,), "a bias has no synaptic decay", "1 (CurrentLIF)", "without a bias")


@pytest.mark.parametrize(
    ("module", "example", "where"), [("net", torch.zeros(1, 2), "module"), (nn.Linear(2, 2), 3, "example_input")]
)
def test_what_is_no_module_and_what_is_no_tensor(module, example, where: str) -> None:
    with pytest.raises(SnncError, match="a module and a tensor are needed") as error:
        toolchain.from_torch(module, example, steps=2)
    assert error.value.where == where

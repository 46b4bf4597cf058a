"""Networks that no chip can hold, or that are none, as the command refuses them: with the place and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from map_models import conv2d, digits_layers, linear, neuron, plain, recurrent, write_model

from toolchain import cli

pytest.importorskip("torch")


class Compile:
    """Compiles a model of these layers for Loihi; keeps what was said."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys

    def __call__(self, layers: list[dict], shape: tuple[int, ...] = (1, 8, 8), *, target: str = "loihi", **rest: Any):
        model = write_model(self.folder / "model.pt", layers, shape, **rest)
        self.capsys.readouterr()
        code = cli.run(["compile", str(model), "--target", target, "-o", str(self.folder / "build"), "--force"])
        out, err = self.capsys.readouterr()
        return code, out, err

    def refused(self, layers: list[dict], says: tuple[str, ...], **options: Any) -> None:
        code, _, err = self(layers, **options)
        assert code == 1, err
        for words in says:
            assert words in err, err
        assert "Traceback" not in err
        assert not (self.folder / "build").exists()


@pytest.fixture
def build(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Compile:
    return Compile(tmp_path, capsys)


def test_a_network_of_every_kind_of_layer_is_not_refused(build: Compile) -> None:
    code, _, err = build(digits_layers())
    assert code == 0, err


def test_linear_sizes_that_do_not_chain(build: Compile) -> None:
    layers = [linear("fc1", "input", 64, 20), neuron("a", "fc1"), linear("fc2", "a", 21, 10), neuron("b", "fc2")]
    build.refused(layers, ("do not chain", "fc2", "21", "20"), shape=(64,))


def test_a_linear_layer_behind_a_map_that_was_not_flattened(build: Compile) -> None:
    layers = [conv2d("conv", "input", (2, 1, 3, 3)), neuron("a", "conv"), linear("fc", "a", 72, 10), neuron("b", "fc")]
    build.refused(layers, ("do not chain", "fc", "flatten"))


def test_channels_that_do_not_chain(build: Compile) -> None:
    layers = [
        *(conv2d("conv1", "input", (4, 1, 3, 3)), neuron("a", "conv1")),
        *(conv2d("conv2", "a", (8, 3, 3, 3)), neuron("b", "conv2")),
    ]
    build.refused(layers, ("does not match the channels", "conv2", "input of 4 channels"))


def test_a_kernel_larger_than_its_input(build: Compile) -> None:
    layers = [conv2d("conv", "input", (2, 1, 9, 3)), neuron("a", "conv")]
    build.refused(layers, ("larger than its input", "conv", "9 places on y", "at most 8", "smaller kernel"))
    dilated = [conv2d("conv", "input", (2, 1, 3, 5), dilation=[1, 2]), neuron("a", "conv")]
    build.refused(dilated, ("larger than its input", "9 places on x"))
    # The remedy that is named helps.
    padded = [conv2d("conv", "input", (2, 1, 9, 3), padding=[1, 1]), neuron("a", "conv")]
    assert build(padded)[0] == 0


def test_a_cycle_without_delay(build: Compile) -> None:
    layers = [linear("fc", "input", 64, 10), neuron("a", "fc", recurrent=recurrent("back", 10, delay=0))]
    build.refused(layers, ("cycle without delay", "'a'.recurrent.delay", "1 step or more", "delay 1"), shape=(64,))
    layers[1]["recurrent"]["delay"] = 1
    assert build(layers, shape=(64,))[0] == 0


def test_a_residual_sum_of_unequal_shapes(build: Compile) -> None:
    layers = [
        *(conv2d("conv1", "input", (4, 1, 3, 3), padding=[1, 1]), neuron("a", "conv1")),
        conv2d("conv2", "a", (8, 4, 3, 3), padding=[1, 1], stride=[2, 2]),
        *(plain("block1", "add", "conv2", "a"), neuron("b", "block1")),
    ]
    build.refused(layers, ("sum of unequal shapes", "block1", "(8, 4, 4)", "(4, 8, 8)", "convolution of 1 x 1"))
    skip = conv2d("skip", "a", (8, 4, 1, 1), stride=[2, 2])
    layers[3:4] = [skip, plain("block1", "add", "conv2", "skip")]
    assert build(layers)[0] == 0


def test_a_delay_beyond_the_target(build: Compile) -> None:
    layers = [
        *(linear("fc1", "input", 64, 10), neuron("a", "fc1"), plain("wait", "delay", "a", steps=70)),
        *(linear("fc2", "wait", 10, 10), neuron("b", "fc2")),
    ]
    build.refused(layers, ("fc2", "delay", "limit 6"), shape=(64,))
    layers[2]["steps"] = 20
    assert build(layers, shape=(64,))[0] == 0


def test_more_sources_than_a_core_has_axons(build: Compile) -> None:
    """A dense layer behind a large map: each of its neurons alone needs an axon for every source."""
    layers = [linear("fc", "input", 5000, 10), neuron("a", "fc")]
    build.refused(layers, ("input axons", "limit 4096", "even one neuron alone", "fewer sources"), shape=(5000,))
    layers = [linear("fc", "input", 5000, 10, density=0.5), neuron("a", "fc")]
    assert build(layers, shape=(5000,))[0] == 0

"""Training in the chip's integers: the grid, and the deployed network in independent integer arithmetic."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toolchain.training import quantise
from toolchain.training.data import load
from toolchain.training.loop import train
from toolchain.training.progress import Silent


def truncated(state, dv):
    magnitude = (np.abs(state) * (4096 - dv)) >> 12
    return np.sign(state) * magnitude


def rate_spikes(x, steps, threshold):
    v, out = np.zeros(x.shape, np.int64), []
    for _ in range(steps):
        v = v + x
        out.append((v > threshold).astype(np.int64))
        v[v > threshold] = 0
    return out


def pairs(model):
    """Layers of weights and the neurons behind them, of a network of dense layers."""
    return list(zip(model["layers"][::2], model["layers"][1::2], strict=True))


def deployed(model, x):
    """Spikes of every layer (T, N, n), from model.pt alone, in int64: the chip's rule written down once more."""
    steps, inputs = model["steps"], model["input"]
    x = x.astype(np.int64)
    sent = rate_spikes(x, steps, inputs["threshold"]) if inputs["coding"] == "rate" else [x] * steps
    record = []
    for index, (layer, neuron) in enumerate(pairs(model)):
        step, tau, threshold = layer["weight_step"], 1 / neuron["gain"], neuron["threshold"]
        mantissa = np.rint(layer["weight"].double().numpy() / step).astype(np.int64)
        assert np.abs(mantissa).max() <= 2 ** (layer["weight_bits"] - 1) - 1
        host = index == 0 and inputs["coding"] == "current"
        scale = inputs["scale"] * 2 ** inputs.get("shift", 0) if index == 0 else 1.0
        vth = threshold * tau / (step * scale)
        assert abs(vth - round(vth)) < 1e-6 * vth
        vth = round(vth)
        bias = np.zeros(len(mantissa))
        if layer["bias"] is not None:
            bias = bias + layer["bias"].double().numpy()
        if index == 0 and inputs["offset"]:
            bias = bias + (mantissa * step).sum(1) * inputs["offset"]
        bias = bias * 64 * vth / (threshold * tau)
        exponent = 6 if host else 0
        while np.rint(np.abs(bias).max() / 2**exponent) > 4095 and exponent < 7:
            exponent += 1
        bias = np.clip(np.rint(bias / 2**exponent), -4095, 4095).astype(np.int64) << exponent
        v = np.zeros((len(x), len(mantissa)), np.int64)
        spikes = []
        for t in range(steps):
            a = sent[t] @ mantissa.T
            if host:
                shift = inputs["shift"]
                a = np.clip((a + ((1 << shift) >> 1)) >> shift, -4095, 4095)
            assert np.abs(a << 6).max() < 2**23
            v = np.clip(truncated(v, round(4096 / tau)) + (a << 6) + bias, -(2**23 - 1), 2**23 - 1)
            fired = v > (vth << 6)
            v[fired] = 0
            spikes.append(fired.astype(np.int64))
        sent = spikes
        record.append(np.stack(spikes))
    return record


@pytest.mark.parametrize("coding", ["rate", "graded", "current"])
@pytest.mark.parametrize(("bits", "tau", "bias"), [(8, 2.0, False), (4, 3.0, True)])
def test_the_accuracy_that_training_reports_is_the_deployed_one(tmp_path, small, coding, bits, tau, bias):
    recipe = small.resolve(
        {"input.coding": coding, "quantise.bits": bits, "network.tau": tau, "network.bias": bias, "train.epochs": 15}
    )
    result = train(recipe, out_dir=tmp_path / "run", reporter=Silent())
    model = torch.load(result.model, weights_only=True)
    data = load("digits")
    record = deployed(model, data.test_x)
    right = (record[-1].sum(0).argmax(1) == data.test_y).mean()
    assert result.metrics["accuracy"] == pytest.approx(right, abs=1e-12)
    assert right > 0.3
    for spikes, (_, layer) in zip(record, pairs(model), strict=True):
        assert result.metrics["spikes_per_neuron"][layer["name"]] == pytest.approx(spikes.sum(0).mean())
        silent = int((spikes.sum((0, 1)) == 0).sum())
        assert result.metrics["silent_neurons"][layer["name"]] == silent
    fan_out = model["layers"][2]["mask"].sum(0).numpy()
    assert result.metrics["synaptic_operations"]["fc2"] == pytest.approx(
        (record[0].sum(0) * fan_out).sum() / len(data.test_x)
    )


@settings(max_examples=80)
@given(
    st.integers(0, 2**31),
    st.integers(2, 8),
    st.floats(0.1, 10),
    st.floats(1.1, 100),
    st.sampled_from([(1.0, 1, False), (1 / 255, 255, False), (0.0127, 255, True)]),
    st.floats(1e-3, 10),
)
def test_a_fitted_grid_holds_every_weight_sum_and_threshold(seed, bits, threshold, tau, kind, size):
    scale, payload, host = kind
    weight = torch.randn(5, 30, generator=torch.Generator().manual_seed(seed)) * size
    entering = [quantise.Entering(weight, scale, payload)]
    (grid,) = quantise.fit_grids(entering, bits=bits, threshold=threshold, tau=tau, on_host=host)
    assert 1 <= grid.threshold_mantissa <= quantise.THRESHOLD_LIMIT
    on_grid = threshold * tau / (grid.step * scale * 2**grid.shift)
    assert on_grid == pytest.approx(grid.threshold_mantissa, rel=1e-9)
    integers = quantise.mantissas(weight, grid)
    assert torch.equal(integers, integers.round())
    assert int(integers.abs().min()) >= 1
    assert int(integers.abs().max()) <= 2 ** (bits - 1) - 1
    assert torch.equal(integers.sign(), weight.sign())


def test_rounding_passes_the_gradient_straight_through():
    weight = torch.tensor([[0.26, -0.74, 0.0, 0.001]], requires_grad=True)
    grid = quantise.Grid(threshold_mantissa=20, limit=7, threshold=1.0, tau=2.0)
    assert grid.step == pytest.approx(0.1)
    integers = quantise.straight_through(weight, grid)
    assert integers.tolist() == [[3, -7, 0, 1]]
    (integers * torch.tensor([[1.0, 2.0, 3.0, 4.0]])).sum().backward()
    torch.testing.assert_close(weight.grad, torch.tensor([[10.0, 20.0, 30.0, 40.0]]))


def test_sums_on_the_host_are_shifted_with_ties_up_and_clipped():
    total = torch.tensor([5.0, 6.0, -6.0, -7.0, 1e6, -1e6])
    assert quantise.host_sum(total, 2).tolist() == [1, 2, -1, -2, 4095, -4095]
    assert math.isclose(float(quantise.host_sum(torch.tensor([7.0]), 0)), 7)


def test_rows_that_would_overflow_are_shrunk_and_reported(tmp_path, small, monkeypatch):
    # A grid chosen too fine for the sums, as weights that grow after the freeze would make it.
    monkeypatch.setattr(quantise, "HEADROOM", 1.02)
    monkeypatch.setattr(quantise, "SUM_LIMIT", 900)
    recipe = small.resolve({"input.coding": "graded", "train.epochs": 6})
    result = train(recipe, out_dir=tmp_path / "run", reporter=Silent())
    model = torch.load(result.model, weights_only=True)
    for (layer, _), payload in zip(pairs(model), (255, 1), strict=True):
        mantissa = (layer["weight"] / layer["weight_step"]).round()
        assert float(quantise.row_sums(mantissa).max()) * payload < 900 * 30
    assert any(d.code == "TRN003" for d in result.diagnostics)

"""Networks as recipes describe them: shapes, names, what overrides what, and what does not fit together."""

import pytest

from toolchain.errors import SnncError
from toolchain.training.recipe import Recipe

MAP = (1, 8, 8)


def recipe(*layers, **network):
    more = {key: network.pop(key) for key in ("input", "data") if key in network}
    return Recipe.from_dict(
        {"name": "x", "data": {"dataset": "digits"}, "network": {"layers": layers, **network}, **more}
    )


def refused(words, *layers, **network):
    with pytest.raises(SnncError) as caught:
        recipe(*layers, **network)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_layers_are_named_by_kind_and_their_shapes_chain():
    made = recipe(
        {"kind": "conv", "channels": 4, "repeat": 2},
        {"kind": "max_pool"},
        {"kind": "dropout"},
        {"kind": "conv", "channels": 6, "kernel": 3, "stride": 2, "padding": 0},
        {"kind": "dense", "units": 20},
        vote=3,
    ).plan(MAP, 10)
    assert [(layer.name, layer.target) for layer in made] == [
        ("conv1", (4, 8, 8)),
        ("conv2", (4, 8, 8)),
        ("pool1", (4, 4, 4)),
        ("dropout1", (4, 4, 4)),
        ("conv3", (6, 1, 1)),
        ("fc1", (20,)),
        ("fc2", (30,)),
    ]
    assert [layer.source for layer in made[1:]] == [layer.target for layer in made[:-1]]


def test_hidden_is_short_for_dense_layers():
    short = Recipe.from_dict({"name": "x", "network": {"hidden": [30, 20]}}).plan((1, 28, 28), 10)
    long = Recipe.from_dict(
        {"name": "x", "network": {"layers": [{"kind": "dense", "units": 30}, {"kind": "dense", "units": 20}]}}
    ).plan((1, 28, 28), 10)
    assert short == long
    assert [layer.name for layer in short] == ["fc1", "fc2", "fc3"]


def test_a_layer_says_only_what_differs():
    first, second, out = recipe(
        {"kind": "conv", "channels": 2, "neuron": "if", "threshold": 0.5, "reset": "subtract", "batch_norm": False},
        {"kind": "conv", "channels": 2, "refractory": 2},
        tau=4.0,
        batch_norm=True,
    ).plan(MAP, 10)
    assert (first.neurons.resistance, first.neurons.voltage_decay, first.neurons.threshold) == (1.0, 0.0, 0.5)
    assert (first.neurons.reset, first.batch_norm, first.bias) == ("subtract", False, False)
    assert (second.neurons.resistance, second.neurons.voltage_decay) == (4.0, 0.25)
    assert (second.neurons.refractory, second.batch_norm, second.bias) == (2, True, True)
    assert (out.neurons.reset, out.batch_norm, out.bias) == ("zero", False, False)


def test_a_recipe_with_layers_written_and_read_back_is_equal():
    made = recipe({"kind": "conv", "channels": 4, "tau": 3.0}, {"kind": "avg_pool"}, readout=True)
    again = Recipe.from_dict(made.to_dict())
    assert again == made
    assert made.differences(made.resolve({"network.steps": 3})) == ["network.steps"]


CONV = {"kind": "conv", "channels": 4}
POOL = {"kind": "max_pool"}


def test_what_does_not_fit_together_is_refused_with_its_place():
    refused(("layers[0]", "known kind", "did you mean 'conv'"), {"kind": "conf", "channels": 4})
    refused(("layers[0]", "known kind"), 3)
    refused(
        ("layers[1] (conv)", "unknown key 'chanels'", "did you mean 'channels'"), CONV, {"kind": "conv", "chanels": 4}
    )
    refused(("layers[0] (conv)", "missing key 'channels'"), {"kind": "conv"})
    refused(("layers[0] (conv) kernel", "at least 1"), {**CONV, "kernel": 0})
    refused(("layers[1] (conv)", "needs a map"), {"kind": "dense", "units": 3}, CONV)
    refused(("layers[1] (max_pool)", "larger than its map", "at most 8"), CONV, {"kind": "max_pool", "size": 9})
    refused(("layers[0] (conv)", "larger than its map", "at most 10"), {**CONV, "kernel": 11, "padding": 1})
    refused(("layers[1] (conv)", "groups must divide"), CONV, {**CONV, "groups": 3})
    refused(("layers[0] (max_pool)", "needs spikes", "sum_pool"), POOL, CONV, input={"coding": "graded"})
    refused(("layers[2] (max_pool)", "needs spikes"), CONV, {"kind": "sum_pool"}, POOL)
    refused(("vote, readout", "one of them"), CONV, vote=2, readout=True)
    refused(("layers[0] (conv)", "refractory", "reset"), {**CONV, "refractory": 1, "reset": "subtract"})
    refused(("layers[0] (conv)", "batch norm", "current_decay"), {**CONV, "current_decay": 0.5, "batch_norm": True})
    refused(("layers[0] (conv)", "host", "current_decay"), {**CONV, "current_decay": 0.5}, input={"coding": "current"})
    refused(("hidden, layers", "twice"), CONV, hidden=[3])


def test_max_pooling_may_follow_spikes_of_the_input_or_of_another_pool():
    recipe(POOL, POOL, CONV)
    recipe(CONV, {"kind": "dropout"}, POOL, {"kind": "dense", "units": 3}, input={"coding": "current"})


def test_layers_must_be_a_list():
    with pytest.raises(SnncError, match="a list of tables is needed"):
        Recipe.from_dict({"name": "x", "network": {"layers": 3}})

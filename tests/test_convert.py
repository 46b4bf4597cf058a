"""Networks between formats."""

from __future__ import annotations

import dataclasses

import nir
import numpy as np
import pytest

from tests.small_graphs import network
from toolchain.cli import run
from toolchain.convert import differences
from toolchain.formats.onnx import write_graph
from toolchain.frontends import load


@pytest.fixture
def onnx(tmp_path):
    path = tmp_path / "graph.onnx"
    write_graph(network(), path)
    return path


def test_there_and_back(onnx, tmp_path, capsys):
    between, back = tmp_path / "network.nir", tmp_path / "back.onnx"
    assert run(["convert", str(onnx), str(between), "--dt", "0.001"]) == 0
    assert run(["convert", str(between), str(back)]) == 0
    assert back.read_bytes() == onnx.read_bytes()
    shown = capsys.readouterr().out
    synapses = sum(c.synapses.connectivity.n_synapses for c in network().connections)
    assert f"2 populations, 2 connections, {synapses} synapses; read back equal in" in " ".join(shown.split())
    np.testing.assert_allclose(nir.read(between).nodes["fc1"].tau, 0.002)


def test_a_file_of_another_tool(tmp_path, capsys):
    node = nir.LIF(**{k: np.full(4, v) for k, v in {"tau": 0.1, "r": 1.0, "v_leak": 0.0, "v_threshold": 0.5}.items()})
    graph = nir.NIRGraph.from_list(nir.Input({"input": np.array([4])}), nir.Linear(np.eye(4)), node)
    source, target, again = tmp_path / "a.nir", tmp_path / "b.onnx", tmp_path / "c.nir"
    nir.write(source, graph)
    assert run(["convert", str(source), str(target)]) == 1
    assert "--dt" in capsys.readouterr().err
    assert run(["convert", str(source), str(target), "--dt", "0.01", "--steps", "9", "--coding", "graded"]) == 0
    assert "read: NIR002" in capsys.readouterr().out
    imported = load(target).graph
    assert (imported.steps, imported.input.coding) == (9, "graded")
    assert run(["convert", str(target), str(again)]) == 0
    np.testing.assert_allclose(nir.read(again).nodes["lif"].tau, 0.1)  # in the file's own unit of time


def test_what_is_lost_is_asked_for_and_told(tmp_path, capsys):
    graph = network()
    slow = (dataclasses.replace(graph.populations[0], refractory=2), *graph.populations[1:])
    source, target = tmp_path / "graph.onnx", tmp_path / "network.nir"
    write_graph(dataclasses.replace(graph, populations=slow), source)
    assert run(["convert", str(source), str(target)]) == 1
    assert "refractory" in capsys.readouterr().err
    assert not target.exists()
    assert run(["convert", str(source), str(target), "--lossy"]) == 0
    assert "written: NIR006 fc1: a refractory period (they integrate at once)" in capsys.readouterr().out
    assert run(["convert", str(source), str(target), "--lossy"]) == 1
    assert run(["convert", str(source), str(target), "--lossy", "--force"]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["graph.net"], "no format '.net' to write"),
        (["other.pt", "--lossy"], "nothing is lost in a .pt file"),
        (["other.onnx", "--lossy"], "nothing is lost in a .onnx file"),
        (["other.onnx", "--dt", "1"], "a .onnx file says this itself"),
    ],
)
def test_wrong_usage(onnx, tmp_path, capsys, arguments, words):
    assert run(["convert", str(onnx), str(tmp_path / arguments[0]), *arguments[1:]]) == 2
    assert words in capsys.readouterr().err


def test_choices_for_a_file_that_snnc_wrote(onnx, tmp_path, capsys):
    path = tmp_path / "network.nir"
    assert run(["convert", str(onnx), str(path)]) == 0
    assert run(["convert", str(path), str(tmp_path / "b.onnx"), "--steps", "3"]) == 2
    assert "snnc wrote this file" in capsys.readouterr().err


def test_differences_name_every_field():
    graph = network()
    other = dataclasses.replace(
        graph,
        steps=9,
        metadata={},
        populations=(dataclasses.replace(graph.populations[0], reset="subtract", threshold=0.5), graph.populations[1]),
        connections=(dataclasses.replace(graph.connections[0], delay=1), network(seed=1).connections[1]),
    )
    assert list(differences(graph, network())) == []
    assert list(differences(graph, other)) == [
        "steps",
        "metadata",
        "fc1.threshold",
        "fc1.reset",
        "fc1.weight.delay",
        "fc2.weight.synapses",
    ]
    assert list(differences(graph, network(sizes=(40, 10)))) == ["populations", "connections"]

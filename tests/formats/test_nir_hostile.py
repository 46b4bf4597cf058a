"""Damaged and hostile .nir files: refused in words of ours, with bounded memory."""

from __future__ import annotations

import json
import random
import tracemalloc
import warnings

import h5py
import nir
import numpy as np
import pytest

from tests.small_graphs import network
from toolchain.errors import SnncError
from toolchain.formats import hdf5_tree
from toolchain.formats.nir import write_graph
from toolchain.frontends import load

MOST = 64 << 20
"""Bytes that refusing may take."""


@pytest.fixture
def path(tmp_path):
    """A file of another tool: nothing in it is ours."""
    made = tmp_path / "net.nir"
    ones = {
        name: np.full(3, value) for name, value in {"tau": 4.0, "r": 1.0, "v_leak": 0.0, "v_threshold": 0.5}.items()
    }
    graph = nir.NIRGraph.from_list(
        nir.Input({"input": np.array([4])}), nir.Affine(np.ones((3, 4), np.float32), np.ones(3)), nir.LIF(**ones)
    )
    nir.write(made, graph)
    load(made, dt=1.0)
    return made


def refused(path, words, **choices):
    """Refused so, by the reader and without much memory."""
    tracemalloc.start()
    try:
        with pytest.raises(SnncError, match=words):
            load(path, **{"dt": 1.0, **choices})
        assert tracemalloc.get_traced_memory()[1] < MOST
    finally:
        tracemalloc.stop()


def replace(path, place, **options):
    """A data set of the file by another."""
    with h5py.File(path, "a") as file:
        del file[place]
        file.create_dataset(place, **options)


def test_no_hdf5(tmp_path):
    path = tmp_path / "a.nir"
    refused(path, "no such file")
    path.write_bytes(b"")
    refused(path, "the file is empty")
    path.write_bytes(b"PK" + bytes(1000))
    refused(path, "not an HDF5 file")


def test_cut_off(path):
    data = path.read_bytes()
    for part in (0.99, 0.9, 0.5, 0.1, 0.01):
        path.write_bytes(data[: int(part * len(data))])
        refused(path, "damaged or cut off|not an HDF5 file")


def test_any_changed_byte_is_read_or_refused(path):
    """Never another error, and never much memory."""
    data, numbers = path.read_bytes(), random.Random(0)
    for _ in range(300):
        changed = bytearray(data)
        for _ in range(numbers.choice((1, 1, 4))):
            changed[numbers.randrange(len(data))] = numbers.choice((0, 1, 127, 255, numbers.randrange(256)))
        path.write_bytes(changed)
        tracemalloc.start()
        try:
            load(path, dt=1.0)
        except SnncError:
            pass
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < MOST


@pytest.mark.parametrize(
    "options",
    [
        {"shape": (10**6, 10**6), "dtype": "f4", "chunks": (100, 100)},
        {"shape": (10**6, 10**6), "dtype": "f4", "chunks": (1000, 1000), "compression": "gzip"},
        {"shape": (10**12,), "dtype": "f8", "chunks": (10**6,)},
    ],
)
def test_shapes_of_10_to_the_12(path, options):
    replace(path, "node/nodes/affine/weight", **options)
    refused(path, r"claims more than the file holds\n.*affine/weight\n.*\(1000000")


def test_a_number_that_is_an_array_of_50_million(path):
    with h5py.File(path, "a") as file:
        del file["node/nodes/affine/weight"]
        kind = h5py.h5t.array_create(h5py.h5t.IEEE_F32LE, (10**6, 50))
        space = h5py.h5s.create(h5py.h5s.SCALAR)
        h5py.h5d.create(file["node/nodes/affine"].id, b"weight", kind, space)
    refused(path, r"(claims more than the file holds|neither numbers nor text)\n.*affine/weight")


def test_a_text_of_four_gigabytes(path):
    """HDF5 itself would make room for it, which tracemalloc does not see: so the reason counts."""
    with h5py.File(path, "r") as file:
        edges = file["node/edges"].id.get_offset()
    data = bytearray(path.read_bytes())
    data[edges : edges + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    refused(path, r"claims more than the file holds\n.*node/edges\n  got: text")
    replace(path, "node/edges", data=[("input", "affine")], chunks=(1, 2))
    refused(path, r"text that is packed is not read\n.*node/edges")


def test_a_file_that_unpacks_to_more_than_may_be(path, monkeypatch):
    replace(path, "node/nodes/affine/weight", data=np.zeros((1000, 1000)), compression="gzip")
    monkeypatch.setattr(hdf5_tree, "BYTES_LIMIT", 1 << 20)
    refused(path, r"the file is too large\n.*affine/weight")


@pytest.mark.parametrize(
    ("place", "data", "words"),
    [
        ("nodes/affine/weight", np.ones((3, 4), complex), "neither numbers nor text"),
        ("nodes/affine/weight", np.array(["a", "b"], dtype=h5py.string_dtype()), r"must be numbers\n.*Affine 'affine'"),
        ("nodes/affine/weight", "seven", r"must be numbers\n.*Affine 'affine'\.weight"),
        ("nodes/affine/weight", np.ones(3), r"wrong number of axes\n.*Affine 'affine'\.weight"),
        ("nodes/affine/weight", np.ones((3, 4)) * 1e300, r"infinite(.|\n)*Affine 'affine'\.weight"),
        ("nodes/affine/weight", np.full((3, 4), np.nan), r"NaN(.|\n)*Affine 'affine'\.weight\[0, 0\]"),
        ("nodes/affine/weight", h5py.Empty("f4"), r"a field is missing\n.*Affine 'affine'\.weight"),
        ("nodes/affine/weight", np.ones((0, 4)), r"must be numbers\n.*Affine 'affine'\.weight"),
        ("nodes/affine/type", "Attention", r"no chip has such a node\n.*'affine'\n.*Attention\n.*known: Affine"),
        ("nodes/affine/type", 7, r"says no type\n.*'affine'"),
        ("nodes/lif/tau", np.ones((2, 2, 2, 2)), r"wrong number of axes\n.*LIF 'lif'\.tau"),
        ("nodes/input/shape", np.array([10**6, 10**6, 1]), r"larger than any chip"),
        ("nodes/input/shape", np.array([1 << 24, 1 << 24, 1 << 24]), "larger than any chip"),
        ("nodes/input/shape", np.array([-4]), r"whole numbers in range\n.*Input 'input'\.shape"),
        ("nodes/input/shape", np.array([4.5]), r"whole numbers in range\n.*Input 'input'\.shape"),
        ("edges", np.ones((3, 2)), "no edges"),
        ("edges", [("input", "affine", "lif")], "an edge is a pair of names"),
        ("type", "LIF", "root is no graph"),
    ],
)
def test_wrong_contents(path, place, data, words):
    replace(path, f"node/{place}", data=data)
    refused(path, words)


def test_a_field_that_means_nothing(path):
    with h5py.File(path, "a") as file:
        file["node/nodes/lif/refractory"] = 3.0
    refused(path, r"unknown field\n.*LIF 'lif'\.refractory\n  allowed: tau")


def test_no_network(path):
    with h5py.File(path, "a") as file:
        file.move("node", "nodes")
    refused(path, r"holds no network\n.*\n  got: 'nodes', 'version'")


@pytest.mark.parametrize("link", [h5py.SoftLink("/node/nodes/lif"), h5py.ExternalLink("/etc/passwd", "/")])
def test_links_are_not_followed(path, link):
    with h5py.File(path, "a") as file:
        file["node/nodes/other"] = link
    refused(path, r"links are not followed\n.*node/nodes/other")


def test_data_in_other_files_are_not_read(path, tmp_path):
    (tmp_path / "secret").write_bytes(bytes(48))
    replace(path, "node/nodes/affine/weight", shape=(3, 4), dtype="f4", external=[(str(tmp_path / "secret"), 0, 48)])
    refused(path, r"lie in another file\n.*affine/weight")
    layout = h5py.VirtualLayout((3, 4), "f4")
    layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", shape=(3, 4))
    with h5py.File(path, "a") as file:
        del file["node/nodes/affine/weight"]
        file.create_virtual_dataset("node/nodes/affine/weight", layout)
    refused(path, r"lie in another file\n.*affine/weight")


def test_a_group_within_itself(path):
    with h5py.File(path, "a") as file:
        file["node/nodes/lif/loop"] = file["node"]
    refused(path, "within one another without end")


def test_graphs_within_one_another_without_end(path):
    with h5py.File(path, "a") as file:
        group = file["node/nodes"]
        for _ in range(200):
            group = group.create_group("g/nodes")
    refused(path, "within one another without end")


def test_too_many_entries(path, monkeypatch):
    monkeypatch.setattr(hdf5_tree, "ENTRIES_LIMIT", 10)
    refused(path, "too many entries")


def test_cycles(path):
    edges = [("input", "affine"), ("affine", "a"), ("a", "b"), ("b", "a"), ("a", "lif"), ("lif", "output")]
    replace(path, "node/edges", data=edges)
    with h5py.File(path, "a") as file:
        for name in "ab":
            file.copy("node/nodes/affine", f"node/nodes/{name}")
            del file[f"node/nodes/{name}/weight"]
            file[f"node/nodes/{name}/weight"] = np.ones((3, 3))
    refused(path, r"a cycle without neurons\n.*Affine '[ab]'")


def test_large_kernels_strides_and_paddings(tmp_path):
    path = tmp_path / "conv.nir"
    ones = {name: np.full((1, 4, 4), 1.0) for name in ("r", "v_threshold")}
    conv = nir.Conv2d((4, 4), np.ones((1, 1, 3, 3), np.float32), 1, 1, 1, 1, np.zeros(1))
    nir.write(path, nir.NIRGraph.from_list(nir.Input({"input": np.array([1, 4, 4])}), conv, nir.IF(**ones)))
    load(path)
    for field, value in (("padding", 10**12), ("stride", 10**12), ("dilation", 10**12), ("groups", -1), ("stride", 0)):
        original = h5py.File(path, "r")[f"node/nodes/conv2d/{field}"][()]
        replace(path, f"node/nodes/conv2d/{field}", data=np.array(value))
        refused(path, rf"whole numbers in range\n.*Conv2d 'conv2d'\.{field}", dt=None)
        replace(path, f"node/nodes/conv2d/{field}", data=original)
    replace(path, "node/nodes/conv2d/padding", data=np.array([65536, 65536]))
    refused(path, "larger than any chip", dt=None)
    replace(path, "node/nodes/conv2d/padding", data="reflect")
    refused(path, r"unknown padding\n.*Conv2d 'conv2d'\.padding", dt=None)


def test_metadata_that_lie_are_not_believed(tmp_path):
    """Every number of our own metadata, changed: the nodes count, or the file is refused."""
    path = tmp_path / "own.nir"
    write_graph(network(sizes=(5, 4, 3)), path)
    with h5py.File(path, "r") as file:
        text = json.loads(file["node/metadata/snnc"].asstr()[()])

    def places(value, at=()):
        if isinstance(value, (dict, list)):
            for key in value if isinstance(value, dict) else range(len(value)):
                yield from places(value[key], (*at, key))
        yield at

    provenance = ("metadata", "name", "steps", "input", "weight_step", "weight_bits", "reset", "refractory")
    for place in [p for p in places(text) if p and not any(key in provenance for key in p)]:
        for lie in (10**12, -1, "x", None, [], {}):
            changed = json.loads(json.dumps(text))
            inner = changed
            for key in place[:-1]:
                inner = inner[key]
            if inner[place[-1]] == lie:
                continue
            inner[place[-1]] = lie
            replace(path, "node/metadata/snnc", data=json.dumps(changed))
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                assert [d.code for d in load(path).diagnostics][:1] == ["NIR007"], (place, lie)
    for sample_size in (10**12, 10**9, -1, "x"):
        changed = json.loads(json.dumps(text))
        changed["input"]["sample_size"] = sample_size
        replace(path, "node/metadata/snnc", data=json.dumps(changed))
        assert load(path).diagnostics[0].code == "NIR007"
    replace(path, "node/metadata/snnc", data="[" * 100_000)
    assert load(path).diagnostics[0].code == "NIR007"

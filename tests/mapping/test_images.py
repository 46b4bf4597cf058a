"""Synapse images: as long as the account says, and the same synapses come back. Damaged files are refused."""

from __future__ import annotations

import hashlib
import json
import struct
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hw_targets
from toolchain.errors import SnncError
from toolchain.ir.connectivity import Connectivity
from toolchain.mapping.cost_models import combination_costs
from toolchain.mapping.images import (
    ImageError,
    SynapseImage,
    decode,
    encode,
    read_core_image,
    write_core_image,
)
from toolchain.mapping.synapse_memory import (
    COMBINATIONS,
    Format,
    FormatChoice,
    SynapseLists,
    cost_slice,
)

LOIHI = hw_targets.load("loihi")
RULE = LOIHI.parameters("nxtf")


def random_lists(
    seed: int, n_sources: int, n_targets: int, density: float, weight_bits: int = 8, signs: str = "mixed"
) -> SynapseLists:
    """Random synapses; weights use the whole range of the sign mode, zero only where the list may keep it."""
    rng = np.random.default_rng(seed)
    connectivity = Connectivity.from_mask(rng.random((n_targets, n_sources)) < density)
    half, top = 1 << (weight_bits - 1), (1 << weight_bits) - 1
    low, high = {"mixed": (-half, half - 1), "excitatory": (1, top), "inhibitory": (-top, -1)}[signs]
    weights = rng.integers(low, high + 1, connectivity.n_synapses)
    return SynapseLists(connectivity, weights.astype(np.int16), weight_bits)


def without_zeros(lists: SynapseLists) -> SynapseLists:
    return SynapseLists(lists.connectivity, np.where(lists.mantissas == 0, -1, lists.mantissas), lists.weight_bits)


def assert_same(found: SynapseLists, lists: SynapseLists) -> None:
    assert found.connectivity == lists.connectivity
    assert np.array_equal(found.mantissas, lists.mantissas)
    assert (found.weight_bits, found.delay_bits, found.weight_exponent) == (
        lists.weight_bits,
        lists.delay_bits,
        lists.weight_exponent,
    )


def image_of(lists: SynapseLists, choice: FormatChoice | None = None) -> SynapseImage:
    cost = cost_slice("nxtf", lists, RULE, choice)
    image = encode(lists, cost, RULE)
    assert len(image.words) == cost.words == int(cost.words_per_axon.sum())
    assert np.array_equal(image.list_words, cost.words_per_axon)
    return image


@settings(max_examples=120)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 12),
    st.sampled_from([1, 59, 60, 61, 200, 1024]),
    st.sampled_from([0.0, 0.01, 0.05, 0.3, 0.9, 1.0]),
    st.integers(2, 8),
    st.sampled_from(["mixed", "excitatory", "inhibitory"]),
    st.sampled_from([2, 3, 7, None]),
)
def test_the_cheapest_image_decodes_to_the_same_synapses(
    seed: int, n_sources: int, n_targets: int, density: float, bits: int, signs: str, limit: int | None
) -> None:
    lists = random_lists(seed, n_sources, n_targets, density, bits, signs)
    choice = FormatChoice(max_formats=limit)
    if limit is None and len(cost_slice("nxtf", lists, RULE, choice).formats) > 15:
        choice = FormatChoice(max_formats=15)
    assert_same(decode(image_of(lists, choice)), lists)


@pytest.mark.parametrize("name", COMBINATIONS)
@pytest.mark.parametrize("bits", range(1, 9))
def test_every_combination_and_width_decodes(name: str, bits: int) -> None:
    encoding, signs = name.split("/")
    for seed, density in enumerate((0.02, 0.3, 1.0)):
        lists = random_lists(seed, 9, 250, density, bits, "excitatory" if bits == 1 else "mixed")
        if encoding == "dense2":
            lists = without_zeros(lists)
        if bits == 1 and signs == "one_list":
            lists = SynapseLists(lists.connectivity, -lists.mantissas, 1)  # a mixed bit holds -1 and 0
        image = image_of(lists, FormatChoice((encoding,), (signs,), 15))
        assert_same(decode(image), lists)
        assert bool(image.gapped.any()) == (encoding == "dense2")


@pytest.mark.parametrize("name", COMBINATIONS)
def test_every_list_of_the_published_vectors_is_as_long_as_published(name: str) -> None:
    """Each list alone, as many registers as it likes, weights brought into the range of their bits."""
    encoding, signs = name.split("/")
    path = Path(__file__).parents[1] / "data" / "nxtf-vectors.json"
    compared = 0
    for row in json.loads(path.read_text()):
        bits, weights = row["weight_bits"], np.array(row["weights"])
        half = 1 << (bits - 1)
        mantissas = np.where(weights > 0, np.minimum(weights, half - 1), np.maximum(weights, -half))
        targets = np.array(row["indices"], np.int32)
        connectivity = Connectivity(1, 1024, np.array([0, len(targets)]), targets)
        lists = SynapseLists(connectivity, mantissas.astype(np.int16), bits)
        choice = FormatChoice((encoding,), (signs,), None)
        if len(cost_slice("nxtf", lists, RULE, choice).formats) > 15:
            continue
        image = image_of(lists, choice)
        assert len(image.words) == row["bits_words_entries"][name][1]
        assert_same(decode(image), lists)
        compared += 1
    assert compared >= 36


def test_zero_weights_that_exist_come_back() -> None:
    targets = np.arange(0, 200, dtype=np.int32)
    connectivity = Connectivity(1, 200, np.array([0, 200]), targets)
    lists = SynapseLists(connectivity, np.zeros(200, np.int16), 4)
    image = image_of(lists)
    assert not image.gapped.any()
    assert_same(decode(image), lists)


def test_the_end_of_a_list_is_marked_wherever_it_falls() -> None:
    """Lists of every length modulo 64: at least six zero bits follow the last entry."""
    remainders = set()
    for n in range(1, 130):
        connectivity = Connectivity(1, 1024, np.array([0, n]), np.arange(n, dtype=np.int32))
        for bits in (2, 3, 5, 8):
            lists = SynapseLists(connectivity, np.full(n, -1, np.int16), bits)
            choice = FormatChoice(("dense1",), ("one_list",))
            cost = cost_slice("nxtf", lists, RULE, choice)
            used = cost.payload_bits + cost.index_bits + cost.header_bits
            remainders.add(used % 64)
            image = image_of(lists, choice)
            assert 64 * len(image.words) - used >= 6
            tail = int(image.words[-1]) >> (64 - min(64, 64 * len(image.words) - used))
            assert tail == 0
            assert_same(decode(image), lists)
    assert {0, 58, 59, 63} <= remainders


def test_several_slices_of_a_core_share_numbered_registers(tmp_path: Path) -> None:
    first, second = random_lists(1, 20, 100, 0.1), random_lists(2, 10, 60, 0.5, 4)
    second = replace(second, weight_exponent=3)
    costs = [cost_slice("nxtf", lists, RULE, FormatChoice(max_formats=3)) for lists in (first, second)]
    table = sorted({one for cost in costs for one in cost.formats})
    numbers = {one: 15 - k for k, one in enumerate(table)}
    images = {
        name: encode(lists, cost, RULE, numbers) for name, lists, cost in zip("ab", (first, second), costs, strict=True)
    }
    write_core_image(tmp_path / "core.img", images)
    found = read_core_image(tmp_path / "core.img")
    assert list(found) == ["a", "b"]
    assert_same(decode(found["a"]), first)
    assert_same(decode(found["b"]), second)
    write_core_image(tmp_path / "again.img", images)
    assert (tmp_path / "again.img").read_bytes() == (tmp_path / "core.img").read_bytes()


def test_what_cannot_be_written_is_refused() -> None:
    lists = random_lists(1, 5, 50, 0.5)
    cost = cost_slice("nxtf", lists, RULE)
    with pytest.raises(SnncError, match="no register that an entry can name"):
        encode(lists, cost, RULE, {})
    with pytest.raises(SnncError, match="no register that an entry can name"):
        encode(lists, cost, RULE, dict.fromkeys(cost.formats, 16))
    other = cost_slice("nengo", lists, LOIHI.parameters("nengo"))
    with pytest.raises(SnncError, match="only rule 'nxtf'"):
        encode(lists, other, RULE)
    late = SynapseLists(lists.connectivity, lists.mantissas, 8, 3)
    with pytest.raises(SnncError, match="delays"):
        encode(late, cost_slice("nxtf", late, RULE), RULE)


def test_an_account_of_other_lists_is_noticed() -> None:
    """The writer checks every list against its account; a wrong account does not become a wrong image."""
    lists, other = random_lists(1, 5, 200, 0.5), random_lists(1, 5, 200, 0.6)
    choice = FormatChoice(("dense1",), ("one_list",))
    with pytest.raises(SnncError, match="differ in length"):
        encode(lists, cost_slice("nxtf", other, RULE, choice), RULE)


# -- damage ----------------------------------------------------------------------------------------------------------


def written(tmp_path: Path) -> tuple[Path, bytes]:
    path = tmp_path / "core.img"
    write_core_image(path, {"fc1": image_of(random_lists(3, 30, 200, 0.1))})
    return path, path.read_bytes()


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path, data = written(tmp_path)
    for length in [*range(80), *range(80, len(data), 97), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(ImageError):
            read_core_image(path)
    path.write_bytes(data + b"\0")
    with pytest.raises(ImageError, match="truncated or its sizes"):
        read_core_image(path)


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path, data = written(tmp_path)
    rng = np.random.default_rng(0)
    for at in [*range(56), *rng.integers(56, len(data), 60).tolist()]:
        damaged = bytearray(data)
        damaged[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(ImageError):
            read_core_image(path)


def forged(data: bytes, change: object) -> bytes:
    """The file with another index and a checksum that agrees with it."""
    head = struct.Struct("<8sIIQ32s")
    magic, version, index_bytes, rest_bytes, _ = head.unpack_from(data)
    index = json.loads(data[head.size : head.size + index_bytes])
    text = json.dumps(change(index)).encode()  # type: ignore[operator]
    rest = data[head.size + index_bytes :]
    digest = hashlib.sha256(text + rest).digest()
    return head.pack(magic, version, len(text), rest_bytes, digest) + text + rest


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("n_sources", 1 << 23),
        ("n_sources", -1),
        ("n_sources", 3.0),
        ("n_words", 1 << 23),
        ("n_words", 0),
        ("n_targets", 1 << 30),
        ("weight_bits", 0),
        ("weight_bits", 999999),
        ("delay_bits", 3),
        ("weight_exponent", 1 << 40),
        ("name", ["fc1"]),
        ("formats", {"16": {}}),
        ("formats", {"0": {}}),
        ("formats", {"1": {"encoding": "huffman"}}),
        ("formats", []),
        ("surplus", 1),
    ],
)
def test_a_forged_index_is_refused_before_anything_is_made(tmp_path: Path, key: str, value: object) -> None:
    path, data = written(tmp_path)

    def change(index: dict[str, list[dict[str, object]]]) -> object:
        index["slices"][0][key] = value
        return index

    path.write_bytes(forged(data, change))
    with pytest.raises(ImageError, match="index is wrong"):
        read_core_image(path)


@pytest.mark.parametrize("index", [[], {}, {"slices": 3}, {"slices": [3]}, {"slices": []}, "x", None])
def test_an_index_of_another_kind_is_refused(tmp_path: Path, index: object) -> None:
    path, data = written(tmp_path)
    path.write_bytes(forged(data, lambda _: index))
    with pytest.raises(ImageError, match="index is wrong"):
        read_core_image(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="could not read"):
        read_core_image(tmp_path / "none.img")
    (tmp_path / "text.img").write_text("not an image, and long enough to have a head " * 3)
    with pytest.raises(ImageError, match="not a synapse image"):
        read_core_image(tmp_path / "text.img")
    path, data = written(tmp_path)
    path.write_bytes(data[:8] + struct.pack("<I", 2) + data[12:])
    with pytest.raises(ImageError, match="another version"):
        read_core_image(path)


@settings(max_examples=200)
@given(st.integers(0, 2**32 - 1))
def test_random_words_decode_or_are_refused(seed: int) -> None:
    """Whatever the words say, reading ends, stays within the slice, and raises nothing but ImageError."""
    rng = np.random.default_rng(seed)
    list_words = rng.integers(0, 5, 6)
    words = rng.integers(0, 1 << 63, int(list_words.sum())).astype(np.uint64)
    words[rng.random(len(words)) < 0.5] &= np.uint64(0xFFFF)
    formats = {
        1: Format("dense", "mixed", 2, 0, 6, 0),
        2: Format("sparse", "excitatory", 1, 0, 6, 0),
        3: Format("runlength", "inhibitory", 3, 0, 7, 2),
    }
    image = SynapseImage(words, list_words, rng.random(6) < 0.5, 100, 3, 0, formats)
    try:
        found = decode(image)
    except ImageError:
        return
    found.connectivity.verify("decoded")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([0xF], "names a format register"),
        ([0x3F1], "runs past its list"),
        ([0b0_000101_000000_0001 | (1 << 15)], "leaves the compartments"),
        ([1 | (0b11 << 16), 0xFFFF_FFFF_FFFF_FFFF], "longer than its entries"),
    ],
)
def test_damaged_entries_are_refused(words: list[int], message: str) -> None:
    formats = {1: Format("dense", "mixed", 2, 0, 6, 0)}
    image = SynapseImage(np.array(words, np.uint64), np.array([len(words)]), np.zeros(1, bool), 4, 2, 0, formats)
    with pytest.raises(ImageError, match=message):
        decode(image)


def test_a_synapse_that_comes_twice_is_refused() -> None:
    entry = 1 | (0 << 4) | (5 << 10) | (1 << 16)  # one synapse at compartment 5, weight 1: 18 bits
    image = SynapseImage(
        np.array([entry | (entry << 18)], np.uint64),
        np.array([1]),
        np.zeros(1, bool),
        10,
        2,
        0,
        {1: Format("dense", "mixed", 2, 0, 6, 0)},
    )
    with pytest.raises(ImageError, match="comes twice"):
        decode(image)


def test_a_list_without_an_end_mark_is_refused() -> None:
    # 64 bits exactly: 16 bits of head and 24 weights of two bits.
    full = 1 | (23 << 4) | (0 << 10)
    image = SynapseImage(
        np.array([full], np.uint64),
        np.array([1]),
        np.zeros(1, bool),
        64,
        2,
        0,
        {1: Format("dense", "mixed", 2, 0, 6, 0)},
    )
    with pytest.raises(ImageError, match="no end mark"):
        decode(image)


def test_images_are_written_and_read_fast_enough() -> None:
    for density, seconds in ((0.05, 2.0), (1.0, 20.0)):
        lists = random_lists(4, 784, 800, density)
        cost = cost_slice("nxtf", lists, RULE)
        start = time.process_time()
        found = decode(encode(lists, cost, RULE))
        assert time.process_time() - start < seconds
        assert_same(found, lists)


def test_combination_costs_know_the_words_of_an_image() -> None:
    lists = without_zeros(random_lists(5, 40, 300, 0.2))
    costs = combination_costs(lists, RULE)
    image = image_of(lists, FormatChoice(("sparse",), ("one_list",), 7))
    assert np.array_equal(image.list_words, costs["sparse/one_list"].words)

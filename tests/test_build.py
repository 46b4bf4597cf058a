"""The build folder: same input, same bytes; read back equal; refused when anything in it was touched."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small_graphs import network

import hw_targets
from toolchain import build, report
from toolchain.errors import SnncError
from toolchain.pipeline import Options, compile_graph

LOIHI = hw_targets.load("loihi")
ROOT = Path(__file__).parents[1]


def written(path: Path, *, emit_images: bool = True, force: bool = False, **options: object) -> str:
    state = compile_graph(network(), LOIHI, Options(**options))
    return build.write_build(state, build.facts(state, ()), path, force=force, emit_images=emit_images)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("builds") / "b"
    written(path)
    return path


@pytest.fixture
def copy(original: Path, tmp_path: Path) -> Path:
    shutil.copytree(original, tmp_path / "b")
    return tmp_path / "b"


def contents(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def test_two_processes_with_other_hash_seeds_write_the_same_bytes(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "from pathlib import Path\n"
        "from test_build import written\n"
        "print(written(Path(sys.argv[1]), chips=2))\n"
    )
    hashes = []
    for seed, zone in (("0", "UTC"), ("12345", "Asia/Tokyo")):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / seed)],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed, "TZ": zone, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
        hashes.append(done.stdout)
    one, other = contents(tmp_path / "0"), contents(tmp_path / "12345")
    assert set(one) == set(other)
    assert [name for name in one if one[name] != other[name]] == []
    assert hashes[0] == hashes[1]
    assert any(name.startswith("images/") for name in one)


def test_the_hash_follows_input_and_options(original: Path, tmp_path: Path) -> None:
    first = build.load_build(original).hash
    assert len(first) == 12
    found = {first}
    for k, options in enumerate(({"chips": 2}, {"weight_bits": 4}, {"share_cores": False}, {"cost_model": "nengo"})):
        found.add(written(tmp_path / str(k), emit_images=False, **options))
    assert len(found) == 5
    report_hash = json.loads((original / "report.json").read_text())["build_hash"]
    assert report_hash == first


def test_a_build_reads_back(original: Path) -> None:
    state = compile_graph(network(), LOIHI)
    loaded = build.load_build(original)
    assert loaded.program == state.program
    assert loaded.options == state.options
    assert loaded.target == state.target
    assert loaded.mapping().to_dict() == state.mapping.to_dict()
    assert loaded.mapping().to_dict() == json.loads((original / "mapping.json").read_text())
    again = compile_graph(loaded.graph, loaded.target, loaded.options)
    assert again.program == state.program
    assert report.to_json(loaded.report) == (original / "report.json").read_text()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"board": "nahuku-8", "search": "nxtf"},
        {"weight_bits": 4, "chips": 3, "share_cores": False},
        {"encodings": ("dense1", "sparse"), "sign_lists": ("one_list",), "cost_model": "nxtf"},
    ],
)
def test_options_read_back_equal(options: dict, tmp_path: Path) -> None:
    written(tmp_path / "b", emit_images=False, **options)
    assert build.load_build(tmp_path / "b").options == Options(**options)


# ---------------------------------------------------------------------- refused


def refused(path: Path, says: str) -> SnncError:
    with pytest.raises(SnncError, match=says) as caught:
        build.load_build(path)
    return caught.value


def test_every_file_is_missed_and_every_change_is_seen(copy: Path) -> None:
    names = [name for name in contents(copy) if name != "build.json"]
    assert len(names) > 7
    for name in names:
        kept = (copy / name).read_bytes()
        (copy / name).unlink()
        assert refused(copy, "missing or were changed").got == name
        (copy / name).write_bytes(kept + b" ")
        assert refused(copy, "missing or were changed").got == name
        (copy / name).write_bytes(kept)
    assert build.load_build(copy).hash


def test_not_a_build(tmp_path: Path) -> None:
    assert refused(tmp_path, "is not a build folder").got == "no build.json"
    assert refused(tmp_path / "no", "is not a build folder").got == "no such folder"


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, "\xff", '{"schema": 1' + "0" * 6000 + "}"])
def test_a_build_json_that_is_none(copy: Path, text: str) -> None:
    (copy / "build.json").write_text(text, encoding="latin-1")
    refused(copy, "cannot be read as JSON|does not hold a JSON object|another version")


def change(copy: Path, **changes: object) -> None:
    about = json.loads((copy / "build.json").read_text())
    about.update(changes)
    (copy / "build.json").write_text(json.dumps(about))


def test_a_newer_schema(copy: Path) -> None:
    change(copy, schema=3)
    assert refused(copy, "another version of snnc").got == "schema 3"


@pytest.mark.parametrize(
    "changes",
    [
        {"files": None},
        {"files": []},
        {"files": ["graph.onnx"]},
        {"files": 3},
        {"files": {}},
        {"options": None},
        {"options": {"colour": "red"}},
        {"options": []},
        {"hash": 5},
        {"hash": None},
        {"hash": "0" * 64},
    ],
)
def test_wrong_types_in_build_json(copy: Path, changes: dict) -> None:
    change(copy, **changes)
    refused(copy, "build.json is damaged|missing or were changed")


@pytest.mark.parametrize(
    "option",
    [
        {"chips": "many"},
        {"board": 3},
        {"search": "best"},
        {"search": None},
        {"chips": None},
        {"chips": True},
        {"chips": 1.5},
        {"weight_bits": [8]},
        {"share_cores": "no"},
        {"encodings": [1]},
        {"encodings": "dense1"},
        {"sign_lists": {"one_list": 1}},
        {"cost_model": ["nxtf"]},
    ],
)
def test_options_of_the_wrong_kind_are_refused_even_under_a_right_hash(copy: Path, option: dict) -> None:
    about = json.loads((copy / "build.json").read_text())
    options = {**about["options"], **option}
    hashed = {name: value for name, value in about["files"].items() if name not in build.MADE_FROM_HASH}
    change(copy, options=options, hash=build._digest(hashed, options))
    refused(copy, "build.json is damaged")


def test_an_option_cannot_be_changed_without_notice(copy: Path) -> None:
    about = json.loads((copy / "build.json").read_text())
    change(copy, options={**about["options"], "chips": 7})
    assert "hash" in str(refused(copy, "build.json is damaged").got)


def test_a_needed_file_cannot_be_left_out_of_the_list(copy: Path) -> None:
    for name in build.NEEDED:
        about = json.loads((copy / "build.json").read_text())
        files = {key: value for key, value in about["files"].items() if key != name}
        hashed = {key: value for key, value in files.items() if key not in build.MADE_FROM_HASH}
        kept = (copy / "build.json").read_bytes()
        change(copy, files=files, hash=build._digest(hashed, about["options"]))
        assert refused(copy, "missing or were changed").got == name
        (copy / "build.json").write_bytes(kept)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "a/../../secret", "nul\0byte", "", ".", "\ud800"])
def test_names_that_leave_the_folder_or_are_none(copy: Path, name: str) -> None:
    secret = copy.parent / "secret"
    secret.write_text("x")
    about = json.loads((copy / "build.json").read_text())
    files = {**about["files"], name: build._hash(secret)}
    hashed = {key: value for key, value in files.items() if key not in build.MADE_FROM_HASH}
    change(copy, files=files, hash=build._digest(hashed, about["options"]))
    assert refused(copy, "missing or were changed").got == name


def test_a_pipe_is_not_waited_for(copy: Path) -> None:
    (copy / "report.html").unlink()
    os.mkfifo(copy / "report.html")
    assert refused(copy, "missing or were changed").got == "report.html"


def test_images_need_a_rule_that_knows_bits(tmp_path: Path) -> None:
    with pytest.raises(SnncError, match="no image to write") as caught:
        written(tmp_path / "b", cost_model="nengo")
    assert caught.value.where == "--emit-images"
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever file the disk fills up at."""
    state = compile_graph(network(), LOIHI)
    facts = build.facts(state, ())
    limits = (1000, 3000, 20_000)
    for limit in limits:
        code = (
            "import sys, resource; sys.path.insert(0, 'tests')\n"
            "from pathlib import Path\n"
            "from toolchain.errors import SnncError\n"
            "from test_build import written\n"
            f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
            "try:\n    written(Path(sys.argv[1]))\n"
            "except SnncError as error:\n    print(error.got)\n"
        )
        done = subprocess.run(
            [sys.executable, "-B", "-c", code, str(tmp_path / "b")],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == "File too large", done.stderr
        assert not list(tmp_path.iterdir())

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    for name in ("write_text", "write_bytes"):
        with monkeypatch.context() as patched:
            patched.setattr(Path, name, full)
            with pytest.raises(SnncError, match="could not write") as caught:
                build.write_build(state, facts, tmp_path / "b", force=False, emit_images=True)
            assert caught.value.got == "No space left on device"
        assert not list(tmp_path.iterdir())


def test_an_existing_folder(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(SnncError, match="exists already"):
        written(copy)
    before = build.load_build(copy).hash
    assert written(copy, force=True, chips=2) != before
    assert build.load_build(copy).options.chips == 2
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    with pytest.raises(SnncError, match="--force does not replace it"):
        written(tmp_path / "other", force=True)
    assert (tmp_path / "other" / "thesis.tex").read_text() == "mine"

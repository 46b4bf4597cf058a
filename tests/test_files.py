"""Files and folders appear whole or not at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from toolchain.errors import SnncError
from toolchain.files import atomic_directory, atomic_write, refuse_existing, write_text


def left(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def make_build(path: Path, **files: str) -> None:
    path.mkdir()
    for name, text in files.items():
        (path / name).write_text(text)
    (path / "build.json").write_text(json.dumps({"snnc": "0", "files": dict.fromkeys(files, "")}))


def test_a_file_is_written_whole_with_usual_permissions(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "é\r\nb")
    assert (tmp_path / "a").read_bytes() == "é\r\nb".encode()
    (tmp_path / "plain").write_text("")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert left(tmp_path) == ["a", "plain"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("ours"), KeyboardInterrupt()])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    (tmp_path / "a").write_text("old")
    expected = SnncError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected) as caught, atomic_write(tmp_path / "a") as stream:  # noqa: PT012
        stream.write(b"new")
        raise error
    if isinstance(error, OSError):
        assert caught.value.got == "No space left on device"
        assert "nothing was left half-written" in caught.value.remedy
    assert left(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_a_disk_that_fills_up_while_flushing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SnncError, match="could not write"):
        write_text(tmp_path / "a", "x")
    assert left(tmp_path) == []


def test_a_folder_that_is_missing_or_in_the_way(tmp_path: Path) -> None:
    with pytest.raises(SnncError, match="could not write"):
        write_text(tmp_path / "no" / "a", "x")
    (tmp_path / "d").mkdir()
    with pytest.raises(SnncError, match="could not write"):
        write_text(tmp_path / "d", "x")
    assert left(tmp_path) == ["d"]


def test_a_real_limit_of_the_file_system(tmp_path: Path) -> None:
    """A process that may write no more than 4 KiB a file."""
    code = (
        "import resource, sys\n"
        "from toolchain.errors import SnncError\n"
        "from toolchain.files import atomic_directory, write_text\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "for k in range(2):\n"
        "    try:\n"
        "        if k == 0:\n"
        "            write_text(sys.argv[1] + '/file', 'x' * 10000)\n"
        "        else:\n"
        "            with atomic_directory(sys.argv[1] + '/folder') as folder:\n"
        "                (folder / 'small').write_text('x')\n"
        "                (folder / 'large').write_text('x' * 10000)\n"
        "    except SnncError as error:\n"
        "        print(error.message.split('/')[-1], '|', error.got)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["file | File too large", "folder | File too large"], done.stderr
    assert left(tmp_path) == []


def test_refuse_existing_sees_dangling_links(tmp_path: Path) -> None:
    refuse_existing(tmp_path / "new")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(SnncError, match="exists already") as caught:
        refuse_existing(tmp_path / "link")
    assert "--force" in caught.value.remedy


def test_a_folder_appears_whole_and_its_parents_are_made(tmp_path: Path) -> None:
    with atomic_directory(tmp_path / "a" / "b") as folder:
        (folder / "x").write_text("1")
        assert not (tmp_path / "a" / "b").exists()
    assert left(tmp_path / "a") == ["b"]
    assert left(tmp_path / "a" / "b") == ["x"]
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "a" / "b").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_folder_that_fails_leaves_nothing_and_the_old_one(tmp_path: Path, error: BaseException) -> None:
    make_build(tmp_path / "b", x="old")
    expected = SnncError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected), atomic_directory(tmp_path / "b", force=True) as folder:  # noqa: PT012
        (folder / "x").write_text("new")
        raise error
    assert left(tmp_path) == ["b"]
    assert (tmp_path / "b" / "x").read_text() == "old"


def test_the_old_folder_is_gone_only_once_the_new_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_build(tmp_path / "b", x="old")
    rename = os.rename
    calls: list[int] = []

    def fails_the_second_time(source: Path, target: Path) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fails_the_second_time)
    with pytest.raises(SnncError, match="could not write"), atomic_directory(tmp_path / "b", force=True) as folder:
        (folder / "x").write_text("new")
    assert left(tmp_path) == ["b"]
    assert (tmp_path / "b" / "x").read_text() == "old"


def test_force_replaces_a_build_and_an_empty_folder(tmp_path: Path) -> None:
    make_build(tmp_path / "b", x="old", y="old")
    (tmp_path / "empty").mkdir()
    for name in ("b", "empty", "new"):
        with atomic_directory(tmp_path / name, force=True) as folder:
            (folder / "x").write_text("new")
        assert left(tmp_path / name) == ["x"]
    assert left(tmp_path) == ["b", "empty", "new"]


def test_force_replaces_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "build.json").write_text('{"name": "of another tool"}')
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "build.json").write_text("{")
    make_build(tmp_path / "notes", x="old")
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    make_build(tmp_path / "real", x="old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for name in ("file", "project", "damaged", "notes", "link"):
        with (
            pytest.raises(SnncError, match="--force does not replace it"),
            atomic_directory(tmp_path / name, force=True),
        ):
            pytest.fail("the block must not run")
    assert (tmp_path / "notes" / "mine.txt").read_text() == "mine"
    assert left(tmp_path / "real") == ["build.json", "x"]


def test_without_force_an_existing_path_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    with pytest.raises(SnncError, match="exists already"), atomic_directory(tmp_path / "b"):
        pytest.fail("the block must not run")


def test_two_at_once_one_wins_whole(tmp_path: Path) -> None:
    with pytest.raises(SnncError, match="could not write"), atomic_directory(tmp_path / "b") as slow:  # noqa: PT012
        (slow / "x").write_text("slow")
        with atomic_directory(tmp_path / "b") as fast:
            (fast / "x").write_text("fast")
    assert left(tmp_path) == ["b"]
    assert (tmp_path / "b" / "x").read_text() == "fast"

"""What the documentation says is what the code does."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from toolchain import rules

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def load_script(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["commands.md", "rules.md"])
def test_pages_that_are_made_from_code_are_up_to_date(name):
    made = load_script(ROOT / "docs" / "make_pages.py")
    assert (made.HERE / name).read_text() == made.PAGES[name](), "run docs/make_pages.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_that_are_named_exist(page):
    for name in re.findall(r"`((?:toolchain|hw_targets|models|docs|tests)/[\w./]+)`", page.read_text()):
        assert (ROOT / name).exists(), f"{page.name}: {name}"


def test_pages_that_the_code_names_exist():
    for source in (*(ROOT / "toolchain").rglob("*.py"), *(ROOT / "hw_targets").glob("*.*")):
        for name in re.findall(r"docs/[\w/-]+\.md", source.read_text(errors="replace")):
            assert (ROOT / name).exists(), f"{source.name}: {name}"


def test_every_diagnostic_is_documented():
    text = (ROOT / "docs" / "architecture.md").read_text()
    for source in (ROOT / "toolchain").rglob("*.py"):
        for code in set(re.findall(r'"([A-Z]{3}\d{3})"', source.read_text())):
            documented = code in text or (code.startswith("DED") and "DED001..4" in text)
            assert documented, code


def test_every_core_rule_has_a_wording():
    for rule in rules.CORE_RULES:
        assert rules.wording(rule).endswith("."), rule.__name__


def test_the_accounting_page_holds_the_table_of_its_script():
    page = (ROOT / "docs" / "accounting.md").read_text()
    assert (ROOT / "docs" / "figures" / "connectivity.md").read_text() in page


@pytest.mark.parametrize("name", ["from_lava_dl.md", "events.md"])
def test_examples_print_what_they_say(name, tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs" / name).read_text()
    code, printed = re.findall(r"```(?:python|text)\n(.*?)```", page, re.DOTALL)
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, name, "exec"), {})
    assert capsys.readouterr().out == printed

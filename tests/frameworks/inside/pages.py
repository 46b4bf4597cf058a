"""What the example of a framework's page prints, beside what the page says that it prints."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

POINTS = 0.02
"""By which training may come out otherwise on another machine, and by which integers may be less right than floats."""
DOCS = Path(__file__).parents[3] / "docs"


def run(name: str) -> dict[str, Any]:
    """The names that the code of a page leaves; what it prints goes to standard output."""
    names: dict[str, Any] = {}
    for code in re.findall(r"```python\n(.*?)```", (DOCS / name).read_text(), re.DOTALL):
        exec(compile(code, name, "exec"), names)
    return names


def check_accuracies(name: str, printed: str, expected: set[str]) -> dict[str, float]:
    """By what decided, as printed; each is what the page says, give or take POINTS."""
    said, got = _accuracies((DOCS / name).read_text()), _accuracies(printed)
    assert set(said) == set(got) == expected
    for kind, value in said.items():
        assert abs(got[kind] - value) <= POINTS, (said, got)
    return got


def _accuracies(text: str) -> dict[str, float]:
    return {name: float(value) for name, value in re.findall(r"^(\w+) (\d\.\d{3})$", text, re.MULTILINE)}

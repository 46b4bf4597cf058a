"""What the toolchain says when something is refused, changed or does not fit.

An error names the place, the rule, the value that was found, what is allowed, and what to do next. A diagnostic
records a change that was made to the user's network (a clip, a rounding, a dropped synapse), with its count.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar


class SnncError(Exception):
    """Something was refused. Exit code 1: the input cannot be served as asked."""

    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        message: str,
        *,
        where: str | None = None,
        got: object = None,
        allowed: object = None,
        source: str | None = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.got = got
        self.allowed = allowed
        self.source = source
        self.remedy = remedy

    def lines(self) -> list[tuple[str, str]]:
        """The labelled lines below the message, in the order in which they are printed."""
        pairs = (
            ("where", self.where),
            ("got", self.got),
            ("allowed", self.allowed),
            ("source", self.source),
            ("to do", self.remedy),
        )
        return [(label, str(value)) for label, value in pairs if value is not None]

    def __str__(self) -> str:
        return "\n".join([self.message, *(f"  {label}: {value}" for label, value in self.lines())])


class UsageError(SnncError):
    """The command was called wrongly (exit code 2)."""

    exit_code = 2


class ToolError(SnncError):
    """An outside tool failed, died or passed its deadline (exit code 3)."""

    exit_code = 3


class Interrupted(SnncError):
    """The user stopped long work; what can be continued has been saved (exit code 130, as shells have it)."""

    exit_code = 130


@dataclass(frozen=True)
class Violation:
    """One hardware rule that one place of a network breaks."""

    rule: str
    where: str
    value: float
    limit: float
    unit: str
    source: str
    remedy: str | None = None

    def __str__(self) -> str:
        text = f"{self.where}: {self.rule}: {self.value:.12g} {self.unit}, limit {self.limit:.12g} ({self.source})"
        return text if self.remedy is None else f"{text}; {self.remedy}"


class DoesNotFit(SnncError):
    """The network breaks rules of the target; every violation is listed at once."""

    def __init__(self, message: str, violations: Iterable[Violation], *, remedy: str | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.violations = tuple(violations)

    def __str__(self) -> str:
        return "\n".join([super().__str__(), *(f"  - {violation}" for violation in self.violations)])


@dataclass(frozen=True)
class Diagnostic:
    """One change or loss that a step caused, with how often and to what effect."""

    code: str
    where: str
    message: str
    count: int = 0
    effect: str = ""

    def __str__(self) -> str:
        effect = f" ({self.effect})" if self.effect else ""
        return f"{self.code} {self.where}: {self.message}{effect}"


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for an unknown name: `did you mean 'x'? known: ...`, the nearest spelling first."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}known: {', '.join(names)}"

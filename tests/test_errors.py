"""What users read: place, rule, value, what is allowed, what to do."""

from __future__ import annotations

import pytest

from toolchain.errors import (
    Diagnostic,
    DoesNotFit,
    Interrupted,
    SnncError,
    ToolError,
    UsageError,
    Violation,
    nearest,
)


def test_an_error_prints_its_labelled_lines_in_order() -> None:
    error = SnncError("no", where="fc1", got=0, allowed="1 to 2", source="D18", remedy="do")
    assert str(error) == "no\n  where: fc1\n  got: 0\n  allowed: 1 to 2\n  source: D18\n  to do: do"
    assert str(SnncError("no")) == "no"
    assert [label for label, _ in error.lines()] == ["where", "got", "allowed", "source", "to do"]


@pytest.mark.parametrize(
    ("kind", "code"), [(SnncError, 1), (UsageError, 2), (ToolError, 3), (Interrupted, 130), (DoesNotFit, 1)]
)
def test_exit_codes(kind: type[SnncError], code: int) -> None:
    assert kind.exit_code == code
    assert issubclass(kind, SnncError)


def test_violations_are_all_listed() -> None:
    one = Violation("compartments", "core 3", 1025, 1024, "compartments", "D18; read")
    two = Violation("input axons", "fc1", 5000, 4096, "axons", "NXTF; read", "use fewer")
    text = str(DoesNotFit("too big", iter([one, two]), remedy="--chips 2"))
    assert text.splitlines() == [
        "too big",
        "  to do: --chips 2",
        "  - core 3: compartments: 1025 compartments, limit 1024 (D18; read)",
        "  - fc1: input axons: 5000 axons, limit 4096 (NXTF; read); use fewer",
    ]


def test_large_amounts_are_printed_in_full() -> None:
    """Seven digits are a normal number of words; 1.23457e+06 is not what a user can compare."""
    text = str(Violation("synapse memory", "core 0", 1_234_567, 1_234_566, "words", "D18"))
    assert "1234567 words, limit 1234566" in text


def test_a_diagnostic_has_code_place_and_effect() -> None:
    assert str(Diagnostic("QNT001", "fc1", "3 rounded", 3, "41 dB")) == "QNT001 fc1: 3 rounded (41 dB)"
    assert str(Diagnostic("QNT001", "fc1", "3 rounded")) == "QNT001 fc1: 3 rounded"


def test_the_nearest_name_comes_first() -> None:
    assert nearest("lohi", ["loihi2", "loihi"]) == "did you mean 'loihi'? known: loihi, loihi2"
    assert nearest("zzz", ["loihi"]) == "known: loihi"

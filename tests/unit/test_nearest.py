"""What somebody may have meant."""

from __future__ import annotations

import pytest

from edgesched.errors import MOST_NAMES, nearest


@pytest.mark.parametrize(
    ("name", "known", "meant"),
    [
        ("rk3558-1", ["atlas-1", "rk3588-1"], "rk3588-1"),
        ("RK3588-1", ["atlas-1", "rk3588-1"], "rk3588-1"),
        ("01a1fa4f", ["01a1fa4fa2619c7a7762bd12dd4279c0"], "01a1fa4fa2619c7a7762bd12dd4279c0"),
    ],
)
def test_a_slip_is_recognised(name: str, known: list[str], meant: str) -> None:
    assert nearest(name, known) == f"; did you mean {meant!r}?"


@pytest.mark.parametrize(("name", "known"), [("x", []), ("orin", ["atlas-1"]), ("a" * 10_000, ["a" * 9_999])])
def test_nothing_is_suggested_when_nothing_is_near(name: str, known: list[str]) -> None:
    assert nearest(name, known) == ""


def test_a_huge_fleet_is_not_looked_through() -> None:
    def names() -> object:
        for i in range(MOST_NAMES):
            yield f"device-{i}"
        raise AssertionError("it looks at more than it may")

    assert nearest("device-7", names())  # type: ignore[arg-type]

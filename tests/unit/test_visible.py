"""Foreign text on a terminal."""

from __future__ import annotations

import pytest

from edgesched.errors import visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("图 1　全角.jpg", "图 1　全角.jpg"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("\x1b[2J", r"\x1b[2J"),
        ("a\rb\x07\x9b1m", r"a\rb\x07\x9b1m"),
        ("invoice\u202egpj.exe", r"invoice\u202egpj.exe"),
        ("half \ud83d", r"half \ud83d"),
    ],
)
def test_what_would_steer_a_terminal_is_spelled_out(text: str, shown: str) -> None:
    assert visible(text) == shown

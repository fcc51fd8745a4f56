"""Foreign text on a terminal."""

from __future__ import annotations

import logging

import pytest

from edgesched.errors import visible
from edgesched.logs import TextFormatter


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


@pytest.mark.parametrize("reason", ["\x1b[2Jgone", "\x1b[2J and gone\nforged line"])
def test_a_log_on_a_terminal_does_not_steer_it_either(reason: str) -> None:
    record = logging.makeLogRecord({"msg": "device.unhealthy", "reason": reason})
    line = TextFormatter().format(record)
    assert "[2J" in line
    assert line.isprintable()

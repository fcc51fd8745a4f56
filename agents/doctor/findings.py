"""What was looked at, how it is, and what to do about it."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

WIDTH = 118
NAME_CHARS = 14


class State(StrEnum):
    OK = "ok"
    NOTE = "note"  # it cannot be helped, or need not be
    WARNING = "warning"  # the board works, but not as well as it could
    PROBLEM = "PROBLEM"  # the board will not work, or not do what it was given


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """text: what was found. remedy: what to install or run; it may be a sentence or a command."""

    name: str
    state: State
    text: str
    remedy: str | None = None

    def as_text(self) -> str:
        """Some lines, without an end of the last one."""
        indent = " " * (len(State.PROBLEM) + NAME_CHARS + 4)
        begin = f"{self.state:<{len(State.PROBLEM)}}  {self.name:<{NAME_CHARS}}  "
        lines = _wrapped(self.text, begin, indent)
        if self.remedy is not None:
            lines += _wrapped(self.remedy, f"{indent}-> ", f"{indent}   ")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    findings: Sequence[Finding]

    @property
    def can_work(self) -> bool:
        return all(finding.state is not State.PROBLEM for finding in self.findings)

    def as_json(self) -> str:
        return json.dumps({"can_work": self.can_work, "findings": [asdict(one) for one in self.findings]}, indent=2)

    def verdict(self) -> str:
        """One line."""
        counts = [sum(finding.state is state for finding in self.findings) for state in (State.PROBLEM, State.WARNING)]
        can = "can" if self.can_work else "cannot"
        return f"problems: {counts[0]}, warnings: {counts[1]}; the board {can} work as it is"


def ok(name: str, text: str) -> Finding:
    return Finding(name=name, state=State.OK, text=text)


def note(name: str, text: str) -> Finding:
    return Finding(name=name, state=State.NOTE, text=text)


def warning(name: str, text: str, remedy: str | None) -> Finding:
    return Finding(name=name, state=State.WARNING, text=text, remedy=remedy)


def problem(name: str, text: str, remedy: str | None) -> Finding:
    return Finding(name=name, state=State.PROBLEM, text=text, remedy=remedy)


def _wrapped(text: str, first: str, rest: str) -> list[str]:
    """Long words (commands, paths) stay whole, to be copied."""
    return textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )

"""The errors that cross a room's door. No transport words here: the edges translate (one table each).

`task_manager/status.py` maps them to gRPC codes, `gateway/problems.py` to HTTP. A test asserts that both are complete.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


MOST_NAMES = 1_000
"""Compared with a name that nobody knows. Each costs microseconds: nonsense must not keep a process busy."""

LONGEST_NAME = 100


class EdgeSchedError(Exception):
    """Base of every expected error. The message is for people and says what to do."""


class InvalidInput(EdgeSchedError):
    """The request can never succeed as it is. Do not retry."""


class NotKnown(EdgeSchedError):
    """The task, device or model that was named does not exist."""


class Conflict(EdgeSchedError):
    """It exists already, or its present state does not allow this."""


class IllegalTransition(EdgeSchedError):
    """The lifecycle table has no row for this event in this state."""


class StaleEpoch(EdgeSchedError):
    """The sender was the owner once; a newer owner exists. It must stop acting as the owner."""


class NoFeasibleDevice(EdgeSchedError):
    """No device can take this work now. Retrying later may help."""


class PeerUnavailable(EdgeSchedError):
    """Another process could not be reached or did not answer in time. Retrying later may help."""


class Overloaded(EdgeSchedError):
    """A bounded queue is full. Retry after `retry_after_ms`."""

    def __init__(self, message: str, *, retry_after_ms: int) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms


class DeadlineExceeded(EdgeSchedError):
    """The caller's time for this ran out. The task itself goes on unless it has a deadline of its own."""


class TaskEnded(EdgeSchedError):
    """The task that was waited for will have no labels: it failed, expired or was cancelled."""


class StorageFailed(EdgeSchedError):
    """The disk refused a write or a sync, or stored data does not match its digest. The process must end."""


class StartupError(EdgeSchedError):
    """The process cannot start: bad settings, a taken port, a workspace in use. Ends with exit code 2."""


def plain(message: str) -> str:
    """What a check found, without pydantic's own words."""
    return "is missing" if message == "Field required" else message.removeprefix("Value error, ")


def visible(text: str) -> str:
    """Text of boards, clients and file names for a terminal: what would upset or deceive one is spelled out.

    Control characters but for line ends and tabs, marks that turn text around, and halves of characters.
    """
    if text.isprintable():
        return text
    return "".join(c if _is_seen(c) else c.encode("unicode_escape").decode() for c in text)


def _is_seen(character: str) -> bool:
    return character in "\n\t" or unicodedata.category(character) not in _UNSEEN


_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Categories of Unicode: controls, formats, surrogates, private and unassigned, line and paragraph separators."""


def nearest(name: str, known: Iterable[str]) -> str:
    """What to add to a complaint about an unknown name: the known one that it resembles, if one does."""
    if len(name) > LONGEST_NAME:
        return ""
    names = list(islice(known, MOST_NAMES))
    by_folded = {known_name.casefold(): known_name for known_name in names}
    close = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=0.6)
    begins = [known_name for known_name in names if len(name) >= 4 and known_name.startswith(name)]
    meant = begins[0] if begins else by_folded[close[0]] if close else None
    return f"; did you mean {meant!r}?" if meant is not None else ""


def row_for(table: Mapping[type[EdgeSchedError], T], kind: type[EdgeSchedError]) -> T:
    """The row of an error's class, or of the nearest class above it. Raises: KeyError."""
    for above in kind.__mro__:
        if above in table:
            return table[above]
    raise KeyError(kind)

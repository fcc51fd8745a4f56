"""What an audit says of one thing that does not add up."""

from __future__ import annotations

from dataclasses import dataclass

from edgesched.domain.task import TaskId


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """check: a name for scripts; advice: what to do about it."""

    check: str
    what: str
    advice: str
    task_id: TaskId | None = None

"""What a ledger has to say about the outcomes that its boards hold.

A board has told of them before the ledger is asked, and a ledger only ever goes forward: whatever made a board hold an
outcome is in the ledger by now. The one exception is named where it is made.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from edgesched.domain.lifecycle import LABELLED_STATES, State
from edgesched.domain.outbox import HeldOutcome, Inventory
from edgesched.domain.task import TaskId
from edgesched.ledger.finding import Finding

EXPLAINED = (
    "after a restore from a backup this is to be expected, and settles itself when the board connects; "
    "otherwise keep a copy of the ledger and of the board's outbox, and report it as a fault of edgesched"
)
UNEXPLAINED = "keep a copy of the ledger and of the board's outbox, and report it as a fault of edgesched"


@dataclass(slots=True)
class HeldReport:
    """What was looked at: of this ledger, of others, and of tasks that are so old that even their key is forgotten."""

    ours: int = 0
    foreign: int = 0
    forgotten: int = 0


def broken_outcomes(
    connection: sqlite3.Connection, ledger_id: str, inventory: Inventory, report: HeldReport
) -> Iterator[Finding]:
    """One finding per outcome that contradicts the ledger. report: is added to."""
    missing: dict[TaskId, HeldOutcome] = {}
    for outcome in inventory.outcomes:
        if outcome.ledger_id != ledger_id:
            report.foreign += 1
            continue
        report.ours += 1
        owner = connection.execute(_OWNER, (outcome.attempt_id,)).fetchone()
        if owner is not None and owner[0] != outcome.task_id:
            what = f"{_named(inventory, outcome)}, but in the ledger it is one of task {owner[0]}"
            yield _finding("outbox.attempt", outcome, what, UNEXPLAINED)
            continue
        row = connection.execute(_TASK, (outcome.task_id,)).fetchone()
        if row is None:
            missing[outcome.task_id] = outcome
        else:
            yield from _judged(inventory, outcome, *row)
    yield from _unknown(connection, inventory, missing, report)


def _judged(
    inventory: Inventory, outcome: HeldOutcome, state: str, attempt_id: str | None, labels_digest: str | None
) -> Iterator[Finding]:
    """The task is in the ledger, or was when its key was stored."""
    has_won = state in LABELLED_STATES and attempt_id == outcome.attempt_id
    if outcome.is_winner and not has_won:
        what = f"{_named(inventory, outcome)}, and was told to deliver its labels, but the task is {state}"
        if attempt_id is not None:
            what += f" and attempt {attempt_id} is its current one"
        yield _finding("outbox.winner", outcome, what, EXPLAINED)
    if has_won and outcome.labels_digest is None:
        what = f"{_named(inventory, outcome)} as a failure, but in the ledger it has won with its labels"
        yield _finding("outbox.labels", outcome, what, UNEXPLAINED)
    elif has_won and labels_digest is not None and outcome.labels_digest != labels_digest:
        what = f"{_named(inventory, outcome)} with other labels than the ledger has of it"
        yield _finding("outbox.labels", outcome, what, UNEXPLAINED)


def _unknown(
    connection: sqlite3.Connection,
    inventory: Inventory,
    missing: Mapping[TaskId, HeldOutcome],
    report: HeldReport,
) -> Iterator[Finding]:
    """The task's row is not there, so it was retired: its key, which is kept for longer, has the row as it was."""
    if not missing:
        return
    left = dict(missing)
    for task_id, state, attempt_id in connection.execute(_RETIRED):
        outcome = left.pop(task_id, None)
        if outcome is not None:
            yield from _judged(inventory, outcome, state, attempt_id, None)
    # Looked at last: a key that was forgotten while we looked counts here.
    if _has_forgotten(connection):
        report.forgotten += len(left)
        return
    for outcome in left.values():
        what = f"{_named(inventory, outcome)}, but this ledger has never had such a task"
        yield _finding("outbox.unknown", outcome, what, EXPLAINED)


def _has_forgotten(connection: sqlite3.Connection) -> bool:
    """Whether there were tasks of which not even a key is left."""
    names: Sequence[str] = [f"retired_{state}" for state in State]
    places = ",".join("?" * len(names))
    (retired,) = connection.execute(f"SELECT SUM(value) FROM counter WHERE name IN ({places})", names).fetchone()
    (remembered,) = connection.execute("SELECT COUNT(*) FROM retired_submission").fetchone()
    return int(retired or 0) > int(remembered)


def _named(inventory: Inventory, outcome: HeldOutcome) -> str:
    return f"board {inventory.device_id} holds attempt {outcome.attempt_id}"


def _finding(check: str, outcome: HeldOutcome, what: str, advice: str) -> Finding:
    return Finding(check=check, what=what, advice=advice, task_id=outcome.task_id)


_OWNER = "SELECT task.task_id FROM attempt JOIN task USING (seq) WHERE attempt.attempt_id = ?"
_TASK = """
    SELECT task.state, task.attempt_id, result.digest FROM task LEFT JOIN result USING (seq) WHERE task.task_id = ?"""
_RETIRED = """
    SELECT json_extract(task, '$.task_id'), json_extract(task, '$.state'), json_extract(task, '$.attempt_id')
    FROM retired_submission WHERE json_valid(task)"""

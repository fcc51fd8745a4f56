"""The statements that move many rows at once. Each runs once per chunk of rows, not once per row (rows.py says why)."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from edgesched.domain.task import Attempt, AttemptId, NewTask, Task, TaskId
from edgesched.errors import StorageFailed
from edgesched.ledger.rows import (
    ATTEMPT_COLUMNS,
    TASK_COLUMNS,
    TASK_WIDTH,
    Row,
    attempt_of,
    attempt_row,
    select_rows,
    settled_at_ms,
    task_from_json,
    task_of,
    write_rows,
)

Key = tuple[str, str]
"""client_id, submission_key"""


@dataclass(frozen=True, slots=True)
class Submission:
    """What was accepted under a key: the task as its row, or its remains, say."""

    task: Task
    image_digest: str


def load_tasks(connection: sqlite3.Connection, task_ids: Collection[TaskId]) -> list[Task]:
    return [task_of(row) for row in select_rows(connection, _TASKS, [(task_id,) for task_id in task_ids])]


_TASKS = f"SELECT {TASK_COLUMNS} FROM task WHERE task_id IN ({{values}})"


def load_attempts(connection: sqlite3.Connection, attempt_ids: Collection[AttemptId]) -> list[Attempt]:
    return [attempt_of(row) for row in select_rows(connection, _ATTEMPTS, [(id_,) for id_ in attempt_ids])]


_ATTEMPTS = f"SELECT {ATTEMPT_COLUMNS} FROM attempt JOIN task USING (seq) WHERE attempt.attempt_id IN ({{values}})"


def load_submissions(connection: sqlite3.Connection, keys: Collection[Key]) -> dict[Key, Submission]:
    found: dict[Key, Submission] = {}
    for row in select_rows(connection, _SUBMISSIONS, list(keys)):
        client_id, submission_key, image_digest, retired = row[TASK_WIDTH:]
        task = task_of(row) if retired is None else task_from_json(retired)
        found[client_id, submission_key] = Submission(task, image_digest)
    return found


# CROSS JOIN: the keys drive the search. `(a, b) IN (VALUES ...)` would read the whole table.
_SUBMISSIONS = f"""
    WITH wanted (client_id, submission_key) AS ({{values}})
    SELECT {TASK_COLUMNS}, task.client_id, task.submission_key, task.image_digest, NULL
    FROM wanted CROSS JOIN task
    ON task.client_id = wanted.client_id AND task.submission_key = wanted.submission_key
    UNION ALL
    SELECT {", ".join(["NULL"] * TASK_WIDTH)}, old.client_id, old.submission_key, old.image_digest, old.task
    FROM wanted CROSS JOIN retired_submission AS old
    ON old.client_id = wanted.client_id AND old.submission_key = wanted.submission_key"""


def insert_tasks(connection: sqlite3.Connection, tasks: Iterable[tuple[Task, NewTask]], *, epoch: int) -> None:
    """Tasks accepted in this transaction; they may already have gone further than QUEUED."""
    rows: list[Row] = [
        (
            task.seq,
            task.task_id,
            task.revision,
            task.state,
            task.client_id,
            new.submission_key,
            task.model,
            task.file_name,
            task.image,
            new.image_digest,
            task.size_bytes,
            task.receiver_url,
            task.created_at_ms,
            task.updated_at_ms,
            settled_at_ms(task),
            task.expires_at_ms,
            task.attempt_id,
            task.device_id,
            task.failed_attempts,
            task.last_error,
            task.priority,
            epoch,
        )
        for task, new in tasks
    ]
    write_rows(connection, _INSERT_TASKS, rows)
    connection.execute("UPDATE counter SET value = value + ? WHERE name = 'accepted'", (len(rows),))


_INSERT_TASKS = """
    INSERT INTO task (seq, task_id, revision, state, client_id, submission_key, model, file_name, image, image_digest,
        size_bytes, receiver_url, created_at_ms, updated_at_ms, settled_at_ms, expires_at_ms, attempt_id, device_id,
        failed_attempts, last_error, priority, owner_epoch)
    {values}"""


def update_tasks(connection: sqlite3.Connection, changes: Iterable[tuple[Task, Task]]) -> None:
    """Each task as the disk has it, and as it is now: compare and set.

    Raises: StorageFailed if a row is not as it was read. Its owner is alone, so the file was changed behind its back.
    """
    rows: list[Row] = [
        (
            before.seq,
            before.state,
            before.attempt_id,
            after.revision,
            after.state,
            after.image,
            after.receiver_url,
            after.updated_at_ms,
            settled_at_ms(after),
            after.expires_at_ms,
            after.attempt_id,
            after.device_id,
            after.failed_attempts,
            after.last_error,
        )
        for before, after in changes
    ]
    if write_rows(connection, _UPDATE_TASKS, rows) != len(rows):
        raise StorageFailed("a task's row is not as its owner left it: somebody else has changed the ledger's file")


_UPDATE_TASKS = """
    WITH new (seq, old_state, old_attempt_id, revision, state, image, receiver_url, updated_at_ms, settled_at_ms,
        expires_at_ms, attempt_id, device_id, failed_attempts, last_error) AS ({values})
    UPDATE task SET revision = new.revision, state = new.state, image = new.image, receiver_url = new.receiver_url,
        updated_at_ms = new.updated_at_ms, settled_at_ms = new.settled_at_ms, expires_at_ms = new.expires_at_ms,
        attempt_id = new.attempt_id, device_id = new.device_id, failed_attempts = new.failed_attempts,
        last_error = new.last_error
    FROM new
    WHERE task.seq = new.seq AND task.state = new.old_state AND task.attempt_id IS new.old_attempt_id"""


def write_attempts(connection: sqlite3.Connection, attempts: Iterable[tuple[int, Attempt]]) -> None:
    """Attempts with the seq of their task, new or ended."""
    write_rows(connection, _WRITE_ATTEMPTS, [attempt_row(seq, attempt) for seq, attempt in attempts])


# "WHERE true" tells SQLite that ON CONFLICT belongs to the INSERT and not to a join.
_WRITE_ATTEMPTS = """
    WITH new (attempt_id, seq, device_id, reason, started_at_ms, ended_at_ms, failure_kind, failure_message, timings)
        AS ({values})
    INSERT INTO attempt
        (attempt_id, seq, device_id, reason, started_at_ms, ended_at_ms, failure_kind, failure_message, timings)
    SELECT * FROM new WHERE true
    ON CONFLICT (attempt_id) DO UPDATE SET ended_at_ms = excluded.ended_at_ms,
        failure_kind = excluded.failure_kind, failure_message = excluded.failure_message, timings = excluded.timings"""


def insert_results(connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
    """rows: result_row(). A task that has a result already is refused by its key: labels are never overwritten."""
    write_rows(connection, _INSERT_RESULTS, rows)


_INSERT_RESULTS = "INSERT INTO result (seq, attempt_id, digest, detections, width, height) {values}"


def take_ownership(connection: sqlite3.Connection, tasks: Sequence[Task], *, epoch: int) -> None:
    write_rows(connection, _TAKE_OWNERSHIP, [(task.seq, epoch) for task in tasks])


_TAKE_OWNERSHIP = """
    WITH mine (seq, epoch) AS ({values})
    UPDATE task SET owner_epoch = mine.epoch FROM mine WHERE task.seq = mine.seq"""

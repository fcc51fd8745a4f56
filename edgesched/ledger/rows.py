"""Rows <-> facts, and statements that take many rows in one step."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import lru_cache
from itertools import chain
from typing import Any

from edgesched.domain.detection import Detection, canonical, digest, digest_of_canonical
from edgesched.domain.device import DeviceId
from edgesched.domain.lifecycle import State
from edgesched.domain.task import (
    TIMING_FIELDS,
    Attempt,
    AttemptId,
    Failure,
    FailureKind,
    ImageRef,
    Priority,
    Result,
    Task,
    TaskId,
    Timings,
)
from edgesched.errors import StorageFailed

Row = tuple[Any, ...]

TASK_COLUMNS = (
    "task.task_id, task.seq, task.revision, task.state, task.client_id, task.model, task.file_name, task.image, "
    "task.size_bytes, task.receiver_url, task.created_at_ms, task.updated_at_ms, task.expires_at_ms, "
    "task.attempt_id, task.device_id, task.failed_attempts, task.last_error, task.priority"
)
TASK_WIDTH = len(TASK_COLUMNS.split(","))

ATTEMPT_COLUMNS = (
    "attempt.attempt_id, task.task_id, attempt.device_id, attempt.reason, attempt.started_at_ms, "
    "attempt.ended_at_ms, attempt.failure_kind, attempt.failure_message, attempt.timings"
)

RESULT_COLUMNS = "task.task_id, result.digest, result.detections, result.width, result.height, attempt.timings"

CHUNKS = (64, 32, 16, 8, 4, 2, 1)

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def select_rows(connection: sqlite3.Connection, sql: str, rows: Sequence[Row]) -> list[Row]:
    """Run a SELECT whose `{values}` stands for `rows`."""
    found: list[Row] = []
    for text, parameters in _statements(sql, rows):
        found += connection.execute(text, parameters).fetchall()
    return found


def write_rows(connection: sqlite3.Connection, sql: str, rows: Sequence[Row]) -> int:
    """Run an INSERT, UPDATE or DELETE whose `{values}` stands for `rows`. Returns how many rows it changed."""
    before = connection.total_changes  # not rowcount: Python does not set it for WITH ... UPDATE
    for text, parameters in _statements(sql, rows):
        connection.execute(text, parameters)
    return connection.total_changes - before


def _statements(sql: str, rows: Sequence[Row]) -> Iterator[tuple[str, Row]]:
    """One statement per chunk of rows.

    Not executemany: it lets go of the interpreter lock at every row, and while the event loop is busy each of them
    waits up to 5 ms to get it back. A few chunk sizes keep the statements prepared.
    """
    start = 0
    for size in CHUNKS:
        while len(rows) - start >= size:
            chunk = rows[start : start + size]
            yield _with_places(sql, size, len(chunk[0])), tuple(chain.from_iterable(chunk))
            start += size


@lru_cache(maxsize=128)
def _with_places(sql: str, row_count: int, width: int) -> str:
    row = "(" + ",".join("?" * width) + ")"
    return sql.replace("{values}", "VALUES " + ",".join([row] * row_count))


def task_of(row: Row) -> Task:
    """row: TASK_COLUMNS, and perhaps more behind them."""
    return Task(
        task_id=TaskId(row[0]),
        seq=row[1],
        revision=row[2],
        state=State(row[3]),
        client_id=row[4],
        model=row[5],
        file_name=row[6],
        image=None if row[7] is None else ImageRef(row[7]),
        size_bytes=row[8],
        receiver_url=row[9],
        created_at_ms=row[10],
        updated_at_ms=row[11],
        expires_at_ms=row[12],
        attempt_id=None if row[13] is None else AttemptId(row[13]),
        device_id=None if row[14] is None else DeviceId(row[14]),
        failed_attempts=row[15],
        last_error=row[16],
        priority=Priority(row[17]),
    )


def task_json(task: Task) -> str:
    return _encode(asdict(task))


def task_from_json(text: str) -> Task:
    fields = json.loads(text)
    return Task(**{**fields, "state": State(fields["state"]), "priority": Priority(fields["priority"])})


def settled_at_ms(task: Task) -> int | None:
    """The last change of a settled task is the one that settled it."""
    return task.updated_at_ms if task.is_settled else None


def attempt_of(row: Row) -> Attempt:
    """row: ATTEMPT_COLUMNS."""
    return Attempt(
        attempt_id=AttemptId(row[0]),
        task_id=TaskId(row[1]),
        device_id=DeviceId(row[2]),
        reason=row[3],
        started_at_ms=row[4],
        ended_at_ms=row[5],
        failure=None if row[6] is None else Failure(kind=FailureKind(row[6]), message=row[7]),
        timings=None if row[8] is None else Timings(**json.loads(row[8])),
    )


def attempt_row(seq: int, attempt: Attempt) -> Row:
    failure = attempt.failure
    return (
        attempt.attempt_id,
        seq,
        attempt.device_id,
        attempt.reason,
        attempt.started_at_ms,
        attempt.ended_at_ms,
        None if failure is None else failure.kind,
        None if failure is None else failure.message,
        None if attempt.timings is None else _timings_json(attempt.timings),
    )


def result_row(seq: int, attempt_id: AttemptId, result: Result) -> Row:
    text = canonical(result.detections)
    return (seq, attempt_id, digest_of_canonical(text), text, result.width, result.height)


def result_of(row: Row) -> Result:
    """row: RESULT_COLUMNS.

    Raises: StorageFailed if the labels are not those that were stored.
    """
    task_id, stored_digest, text, width, height, timings = row
    try:
        detections = tuple(Detection(**fields) for fields in json.loads(text))
        is_intact = digest(detections) == stored_digest
    except (ValueError, TypeError):  # no JSON, or not of detections
        is_intact = False
    if not is_intact:
        raise StorageFailed(f"the stored labels of task {task_id} do not match their digest")
    return Result(
        detections=detections,
        width=width,
        height=height,
        timings=Timings() if timings is None else Timings(**json.loads(timings)),
    )


def _timings_json(timings: Timings) -> str:
    """Only what is known: an absent key is read back as None."""
    known = {name: value for name in TIMING_FIELDS if (value := getattr(timings, name)) is not None}
    return _encode(known)

"""The one thread that reads, with a connection of its own: a long list never delays a commit."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Collection
from typing import TypeVar

from edgesched.domain.lifecycle import State
from edgesched.domain.task import Attempt, ImageRef, Result, Task, TaskDetails, TaskFilter, TaskId, TaskPage
from edgesched.errors import NotKnown, StorageFailed
from edgesched.ledger.base import IDS_BESIDE, Totals
from edgesched.ledger.database import transaction
from edgesched.ledger.rows import (
    ATTEMPT_COLUMNS,
    RESULT_COLUMNS,
    TASK_COLUMNS,
    attempt_of,
    result_of,
    task_of,
)
from edgesched.ledger.tables import load_tasks
from edgesched.own_thread import OwnThread

MAX_WAITING = 64
"""Queries in the queue; further callers wait for room."""

T = TypeVar("T")


class Reader:
    def __init__(self, thread: OwnThread, connection: sqlite3.Connection) -> None:
        self._thread = thread
        self._connection = connection
        self._room = asyncio.Semaphore(MAX_WAITING)

    async def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Raises: what the query raises; StorageFailed if the disk refuses."""
        async with self._room:
            return await self._thread.call(self._answer, query)

    def _answer(self, query: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return query(self._connection)
        except sqlite3.Error as error:
            raise StorageFailed(f"the ledger cannot be read: {error}") from error


def changes_since(connection: sqlite3.Connection, cursor: int, limit: int) -> list[Task]:
    rows = connection.execute(
        f"SELECT {TASK_COLUMNS} FROM task WHERE revision > ? ORDER BY revision LIMIT ?", (cursor, limit)
    )
    return [task_of(row) for row in rows.fetchall()]


def get_many(connection: sqlite3.Connection, task_ids: Collection[TaskId]) -> list[Task]:
    return load_tasks(connection, task_ids)


def ids_beside(connection: sqlite3.Connection, task_id: TaskId) -> list[TaskId]:
    ids: list[str] = []
    for condition, order in (("<", "DESC"), (">=", "ASC")):
        query = f"SELECT task_id FROM task WHERE task_id {condition} ? ORDER BY task_id {order} LIMIT ?"
        ids += [row[0] for row in connection.execute(query, (task_id, IDS_BESIDE)).fetchall()]
    return [TaskId(id_) for id_ in sorted(ids)]


def details(connection: sqlite3.Connection, task_id: TaskId) -> TaskDetails:
    """Raises: NotKnown; StorageFailed if the labels do not match their digest."""
    with transaction(connection, "DEFERRED"):  # one state of things for all three queries
        tasks = load_tasks(connection, [task_id])
        if not tasks:
            raise NotKnown(f"there is no task {task_id}")
        attempts = connection.execute(
            f"SELECT {ATTEMPT_COLUMNS} FROM attempt JOIN task USING (seq) WHERE seq = ? ORDER BY number",
            (tasks[0].seq,),
        ).fetchall()
        labels = result(connection, task_id)
    return TaskDetails(task=tasks[0], attempts=tuple(attempt_of(row) for row in attempts), result=labels)


def result(connection: sqlite3.Connection, task_id: TaskId) -> Result | None:
    """Raises: StorageFailed if the labels do not match their digest."""
    row = connection.execute(
        f"""SELECT {RESULT_COLUMNS} FROM task JOIN result USING (seq)
            LEFT JOIN attempt ON attempt.attempt_id = result.attempt_id WHERE task.task_id = ?""",
        (task_id,),
    ).fetchone()
    return None if row is None else result_of(row)


def page(connection: sqlite3.Connection, filter_: TaskFilter, limit: int, cursor: int) -> TaskPage:
    """cursor: the seq below which to go on."""
    # "+": go down by seq and look at each row. Fetching all rows of one client to sort them is worse.
    conditions = {
        "state = ?": filter_.state,
        "model = ?": filter_.model,
        "+client_id = ?": filter_.client_id,
        "device_id = ?": filter_.device_id,
        "priority = ?": filter_.priority,
    }
    asked = {text: value for text, value in conditions.items() if value is not None}
    where = " AND ".join(["seq < ?", *asked])
    rows = connection.execute(
        f"SELECT {TASK_COLUMNS} FROM task WHERE {where} ORDER BY seq DESC LIMIT ?", (cursor, *asked.values(), limit + 1)
    ).fetchall()
    tasks = tuple(task_of(row) for row in rows[:limit])
    return TaskPage(tasks=tasks, next_cursor=tasks[-1].seq if tasks and len(rows) > limit else None)


def totals(connection: sqlite3.Connection) -> Totals:
    with transaction(connection, "DEFERRED"):
        counters = dict(connection.execute("SELECT name, value FROM counter").fetchall())
        live = connection.execute("SELECT state, COUNT(*) FROM task GROUP BY state").fetchall()
    return Totals(
        accepted=counters["accepted"],
        live=dict.fromkeys(State, 0) | {State(name): count for name, count in live},
        retired={state: counters[f"retired_{state}"] for state in State},
    )


def open_attempts(connection: sqlite3.Connection) -> list[Attempt]:
    # INDEXED BY: left alone, SQLite would go through all attempts instead.
    rows = connection.execute(
        f"""SELECT {ATTEMPT_COLUMNS} FROM attempt INDEXED BY attempt_open JOIN task USING (seq)
            WHERE ended_at_ms IS NULL ORDER BY attempt.seq"""
    )
    return [attempt_of(row) for row in rows.fetchall()]


def undelivered(connection: sqlite3.Connection, limit: int, after_seq: int) -> list[Task]:
    # INDEXED BY: left alone, SQLite would go through all tasks that are DONE, also those that nobody waits for.
    rows = connection.execute(
        f"""SELECT {TASK_COLUMNS} FROM task INDEXED BY task_undelivered
            WHERE state = 'done' AND receiver_url IS NOT NULL AND seq > ? ORDER BY seq LIMIT ?""",
        (after_seq, limit),
    )
    return [task_of(row) for row in rows.fetchall()]


def live_images(connection: sqlite3.Connection) -> frozenset[ImageRef]:
    rows = connection.execute("SELECT image FROM task WHERE image IS NOT NULL")
    return frozenset(ImageRef(image) for (image,) in rows.fetchall())

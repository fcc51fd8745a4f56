"""No query that runs all the time reads a whole table: the indices of schema.sql fit the queries as they are."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgesched.domain.device import DeviceId
from edgesched.domain.lifecycle import Event, State
from edgesched.domain.task import AttemptId, TaskFilter, TaskId
from edgesched.ledger import reader, retention
from edgesched.ledger.database import open_for_writing
from edgesched.ledger.group import Command, Group, RowCache
from tests.support.ledgers import LINE, about, finished, new_task, sent_out

TASK = TaskId("t")


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    connection, _, head = open_for_writing(tmp_path / "ledger.sqlite3")
    yield Group(connection, RowCache(), head, now_ms=1_000)
    connection.close()


def whole_life(group: Group) -> None:
    events = [sent_out(TASK, "a"), finished(TASK, "a"), about(TASK, Event.DELIVERED, "a")]
    new = new_task(task_id=TASK, key="k")
    group.load([Command(run=lambda g: None, task_ids=[TASK], keys=[("camera-1", "k")])])
    group.accept([new])
    group.flush()
    group.load([Command(run=lambda g: None, attempt_ids=[AttemptId("a")])])
    for event in events:
        group.apply([event])
        group.flush()


def details(group: Group) -> None:
    whole_life(group)
    reader.details(group.connection, TASK)


QUERIES: dict[str, Callable[[Group], object]] = {
    "whole life": whole_life,
    "claim": lambda g: g.claim(LINE, limit=10, after_seq=3),
    "expire_due": lambda g: g.expire_due(limit=10),
    "retire_images": lambda g: retention.retire_images(g, settled_before_ms=10, keep_bytes=0, limit=10),
    "retire_tasks": lambda g: retention.retire_tasks(g, settled_before_ms=10, keys_before_ms=9, limit=10),
    "changes_since": lambda g: reader.changes_since(g.connection, cursor=5, limit=10),
    "get_many": lambda g: reader.get_many(g.connection, [TASK]),
    "details": details,
    "result": lambda g: reader.result(g.connection, TASK),
    "list": lambda g: reader.page(g.connection, TaskFilter(), limit=10, cursor=99),
    "list by state": lambda g: reader.page(g.connection, TaskFilter(state=State.FAILED), limit=10, cursor=99),
    "list by device": lambda g: reader.page(g.connection, TaskFilter(device_id=DeviceId("d")), limit=10, cursor=99),
    "list by client": lambda g: reader.page(g.connection, TaskFilter(client_id="c"), limit=10, cursor=99),
    "open_attempts": lambda g: reader.open_attempts(g.connection),
    "ids_beside": lambda g: reader.ids_beside(g.connection, TASK),
    "undelivered": lambda g: reader.undelivered(g.connection, limit=10, after_seq=3),
}


@pytest.mark.parametrize("name", QUERIES)
def test_no_query_scans_or_sorts_a_table(group: Group, name: str) -> None:
    statements: list[str] = []
    group.connection.set_trace_callback(statements.append)
    QUERIES[name](group)
    group.connection.set_trace_callback(None)
    plans = [step for statement in statements for step in plan(group.connection, statement)]
    assert plans
    for step in plans:
        is_scan = step.startswith(("SCAN task", "SCAN attempt", "SCAN result", "SCAN retired", "SCAN old"))
        assert not is_scan or "USING" in step, f"{step}, in {statements}"
        assert "TEMP B-TREE" not in step, f"{step}, in {statements}"


def plan(connection: sqlite3.Connection, statement: str) -> list[str]:
    if statement.split()[0] in ("BEGIN", "COMMIT", "ROLLBACK"):
        return []
    return [step for *_, step in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]

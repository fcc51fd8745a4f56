"""What old age takes away, inside the writer's transaction: first pictures, then rows, then the memory of keys."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from edgesched.ledger.base import Retired
from edgesched.ledger.group import Group
from edgesched.ledger.rows import TASK_COLUMNS, TASK_WIDTH, task_json, task_of, write_rows
from edgesched.ledger.transition import retirable_pictures


def retire_images(group: Group, *, settled_before_ms: int, keep_bytes: int, limit: int) -> Retired:
    group.flush()
    candidates = [task_of(row) for row in group.connection.execute(_OLDEST_PICTURES, (limit,)).fetchall()]
    (total_bytes,) = group.connection.execute(_PICTURE_BYTES).fetchone()
    going = retirable_pictures(
        candidates, total_bytes=total_bytes, settled_before_ms=settled_before_ms, keep_bytes=keep_bytes
    )
    without = [replace(task, image=None, revision=group.next_revision()) for task in going]
    write_rows(group.connection, _DROP_PICTURES, [(task.seq, task.revision) for task in without])
    for before, after in zip(going, without, strict=True):
        group.replace_settled(before, after)
    return Retired(images=tuple(task.image for task in going if task.image is not None), tasks=0)


def retire_tasks(group: Group, *, settled_before_ms: int, keys_before_ms: int, limit: int) -> Retired:
    group.flush()
    connection = group.connection
    connection.execute(_FORGET_SUBMISSIONS, (keys_before_ms, limit))
    rows = connection.execute(_OLDEST_TASKS, (settled_before_ms, limit)).fetchall()
    going = [task_of(row) for row in rows]
    write_rows(
        connection,
        _KEEP_SUBMISSIONS,
        [
            (task.client_id, *row[TASK_WIDTH:], group.now_ms, task_json(replace(task, image=None)))
            for task, row in zip(going, rows, strict=True)
        ],
    )
    seqs = [(task.seq,) for task in going]
    for statement in (_DELETE_ATTEMPTS, _DELETE_RESULTS, _DELETE_TASKS):
        write_rows(connection, statement, seqs)
    for task in going:
        group.replace_settled(task, None)
    for state, count in Counter(task.state for task in going).items():
        group.head.counts[state] -= count
        connection.execute("UPDATE counter SET value = value + ? WHERE name = ?", (count, f"retired_{state}"))
    return Retired(images=tuple(task.image for task in going if task.image is not None), tasks=len(going))


# INDEXED BY: left alone, SQLite would go through all settled tasks, also those whose picture went long ago.
_OF_PICTURES = """
    FROM task INDEXED BY task_picture
    WHERE settled_at_ms IS NOT NULL AND image IS NOT NULL AND state <> 'failed'"""
_OLDEST_PICTURES = f"SELECT {TASK_COLUMNS} {_OF_PICTURES} ORDER BY settled_at_ms, seq LIMIT ?"
_PICTURE_BYTES = f"SELECT COALESCE(SUM(size_bytes), 0) {_OF_PICTURES}"
_DROP_PICTURES = """
    WITH gone (seq, revision) AS ({values})
    UPDATE task SET image = NULL, revision = gone.revision FROM gone WHERE task.seq = gone.seq"""

_OLDEST_TASKS = f"""
    SELECT {TASK_COLUMNS}, task.submission_key, task.image_digest FROM task
    WHERE settled_at_ms IS NOT NULL AND settled_at_ms < ? ORDER BY settled_at_ms, seq LIMIT ?"""
_KEEP_SUBMISSIONS = """
    INSERT INTO retired_submission (client_id, submission_key, image_digest, retired_at_ms, task) {values}"""
_FORGET_SUBMISSIONS = """
    DELETE FROM retired_submission WHERE (client_id, submission_key) IN (
        SELECT client_id, submission_key FROM retired_submission
        WHERE retired_at_ms < ? ORDER BY retired_at_ms, client_id, submission_key LIMIT ?)"""
_DELETE_ATTEMPTS = "DELETE FROM attempt WHERE seq IN ({values})"
_DELETE_RESULTS = "DELETE FROM result WHERE seq IN ({values})"
_DELETE_TASKS = "DELETE FROM task WHERE seq IN ({values})"

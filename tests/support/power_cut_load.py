"""A task manager's disk work at full speed, and a line for everything that it promises.

    python -m tests.support.power_cut_load DIRECTORY power|process TASKS

`DIRECTORY/promises` gets a line when the call that makes the promise has returned:
    accepted TASK   its picture and row are stored; the picture is picture_of(TASK)
    done TASK       its labels are stored: labels_of(TASK)
Half of the tasks name no receiver: once they are done, retention takes first their picture and then their row.
The database's log is folded into its file every now and then, as it happens by itself after 16 MB.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgesched.domain.task import NewTask, Result, TaskId
from edgesched.images.base import digest_of
from edgesched.images.segment_files import claim
from edgesched.images.segments import SegmentImageStore
from edgesched.ledger.sqlite import SqliteLedger
from tests.support.ledgers import RECEIVER, finished, labels, new_task, sent_out

AT_ONCE = 10
FOLD_EACH = 5  # rounds
SEGMENT_BYTES = 32 * 1024
KEEP_BYTES = 20_000
KEEP_ROWS_MS = 200


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


def picture_of(task_id: str) -> bytes:
    return f"picture of {task_id}; ".encode() * 100


def labels_of(task_id: str) -> Result:
    return labels(name=task_id)


def is_kept(task_id: str) -> bool:
    """Whether it has a receiver, so that nobody may ever forget it here. In runs, so that whole segments go."""
    return int(task_id.rpartition("-")[2]) % 80 < 40


def submission(task_id: str) -> NewTask:
    picture = picture_of(task_id)
    return new_task(
        key=task_id,
        task_id=task_id,
        image_digest=digest_of(picture),
        size_bytes=len(picture),
        receiver_url=RECEIVER if is_kept(task_id) else None,
    )


def fold(path: Path, durability: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA synchronous = {'FULL' if durability == 'power' else 'NORMAL'}")
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")


async def main(directory: Path, durability: Any, tasks: int) -> None:
    promises = os.open(directory / "promises", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def promise(word: str, task_id: str) -> None:
        os.write(promises, f"{word} {task_id}\n".encode())

    async with (
        SqliteLedger.opened(directory / "ledger.sqlite3", now_ms=wall_ms, durability=durability) as ledger,
        SegmentImageStore.opened(
            directory / "upload",
            durability=durability,
            min_free_disk_bytes=1,
            now_ms=wall_ms,
            segment_bytes=SEGMENT_BYTES,
        ) as images,
    ):
        claim(directory / "upload", ledger.ownership.ledger_id)

        async def live(number: int) -> None:
            task_id, attempt = TaskId(f"task-{number}"), f"attempt-{number}"
            (ref,) = await images.put_many([picture_of(task_id)])
            await ledger.accept_many([replace(submission(task_id), image=ref)])
            promise("accepted", task_id)
            await ledger.apply_many([sent_out(task_id, attempt)])
            await ledger.apply_many([finished(task_id, attempt, labels_of(task_id))])
            promise("done", task_id)

        for first in range(0, tasks, AT_ONCE):
            await asyncio.gather(*(live(number) for number in range(first, first + AT_ONCE)))
            pictures = await ledger.retire_images(settled_before_ms=0, keep_bytes=KEEP_BYTES, limit=AT_ONCE)
            await images.release(pictures.images)
            rows = await ledger.retire_tasks(settled_before_ms=wall_ms() - KEEP_ROWS_MS, keys_before_ms=0, limit=10)
            await images.release(rows.images)
            if first % (AT_ONCE * FOLD_EACH) == 0:
                await asyncio.to_thread(fold, directory / "ledger.sqlite3", durability)
    os.close(promises)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))

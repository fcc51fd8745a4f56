"""A process that stores and accepts pictures for ever and prints each task id once it is acknowledged.

    python -m tests.support.acknowledging_writer DIRECTORY power|process [MAX_FILE_BYTES]

Each picture is its task's id, so that whoever reads it knows whose it should be. With MAX_FILE_BYTES the disk refuses
to let any file grow beyond that; then the process checks that the ledger takes nothing more, and ends with REFUSED.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgesched.domain.task import TaskId
from edgesched.errors import StorageFailed
from edgesched.images.segments import SegmentImageStore
from edgesched.ledger.sqlite import SqliteLedger
from tests.support.ledgers import new_task

WORKERS = 8


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


async def write_for_ever(images: SegmentImageStore, ledger: SqliteLedger) -> None:
    while True:
        task_id = TaskId(uuid.uuid4().hex)
        (ref,) = await images.put_many([task_id.encode()])
        await ledger.accept_many([replace(new_task(key=task_id), task_id=task_id, image=ref)])
        print(task_id, flush=True)


async def main(directory: Path, durability: Any, max_file_bytes: int | None) -> None:
    async with (
        SegmentImageStore.opened(
            directory / "images", durability=durability, min_free_disk_bytes=1, now_ms=wall_ms, segment_bytes=4_096
        ) as images,
        SqliteLedger.opened(directory / "ledger.sqlite3", now_ms=wall_ms, durability=durability) as ledger,
    ):
        if max_file_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))
        answers = await asyncio.gather(
            *(write_for_ever(images, ledger) for _ in range(WORKERS)), return_exceptions=True
        )
        assert all(isinstance(answer, StorageFailed) for answer in answers), answers
        for refused in (ledger.accept_many([new_task()]), ledger.until_failed()):
            try:
                await refused
            except StorageFailed:
                continue
            raise AssertionError("a ledger that could not write goes on as if nothing had happened")
        print("REFUSED", flush=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else None))

"""What a task manager leaves on its disk: a ledger with tasks in every state, and their pictures."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from edgesched.domain.lifecycle import Event
from edgesched.domain.task import NewTask, Task, TaskId
from edgesched.images.base import digest_of
from edgesched.images.segment_files import claim
from edgesched.images.segments import SegmentImageStore
from edgesched.ledger.sqlite import SqliteLedger
from tests.support.ledgers import RECEIVER, SetClock, about, done, failed, new_task, sent_out

SEGMENT_BYTES = 4_096
PICTURE_BYTES = 1_000
OLD_MS = 1_700_000_000_000  # years ago: no picture is too young for the audit


@dataclass(frozen=True, slots=True, kw_only=True)
class Workplace:
    """ledger: the database file; upload: the pictures."""

    ledger: Path
    upload: Path

    @classmethod
    def below(cls, directory: Path) -> Workplace:
        return cls(ledger=directory / "ledger.sqlite3", upload=directory / "upload")


@asynccontextmanager
async def opened(place: Workplace, clock: SetClock) -> AsyncIterator[tuple[SqliteLedger, SegmentImageStore]]:
    """The ledger and the pictures, recovered as a task manager does it."""
    async with (
        SqliteLedger.opened(place.ledger, now_ms=clock.now_ms, durability="process") as ledger,
        SegmentImageStore.opened(
            place.upload,
            durability="process",
            min_free_disk_bytes=1,
            now_ms=clock.now_ms,
            segment_bytes=SEGMENT_BYTES,
        ) as images,
    ):
        claim(place.upload, ledger.ownership.ledger_id)
        await images.recover(await ledger.live_images())
        yield ledger, images


async def stored(images: SegmentImageStore, name: str, *, receiver_url: str | None = None) -> NewTask:
    """A submission whose picture is really there."""
    picture = name.encode() * (PICTURE_BYTES // len(name))
    (ref,) = await images.put_many([picture])
    new = new_task(task_id=name, key=f"key of {name}", receiver_url=receiver_url, size_bytes=len(picture))
    return replace(new, image=ref, image_digest=digest_of(picture))


async def fill(place: Workplace) -> None:
    """Tasks named after their state; `retired` is gone, `done-1` has no receiver, `shown` has let its picture go."""
    clock = SetClock(OLD_MS)
    async with opened(place, clock) as (ledger, images):
        await done(ledger, await stored(images, "retired"))
        clock.wall_ms += 1
        retired = await ledger.retire_tasks(settled_before_ms=clock.wall_ms, keys_before_ms=0, limit=9)
        await images.release(retired.images)

        await done(ledger, await stored(images, "shown"))
        clock.wall_ms += 1
        shown = await ledger.retire_images(settled_before_ms=clock.wall_ms, keep_bytes=0, limit=9)
        await images.release(shown.images)

        for name in ("queued-1", "queued-2", "dispatched", "running", "expired", "cancelled"):
            await ledger.accept_many([await stored(images, name)])
        await done(ledger, await stored(images, "done-1"), attempt="done-1-a")
        await done(ledger, await stored(images, "done-2", receiver_url=RECEIVER), attempt="done-2-a")
        await done(ledger, await stored(images, "delivered", receiver_url=RECEIVER), attempt="delivered-a")
        await failed(ledger, await stored(images, "failed"))
        await ledger.apply_many(
            [
                sent_out(TaskId("queued-2"), "queued-2-a"),
                about(TaskId("queued-2"), Event.DEVICE_LOST, "queued-2-a"),
                sent_out(TaskId("dispatched"), "dispatched-a"),
                sent_out(TaskId("running"), "running-a"),
                about(TaskId("running"), Event.ACCEPTED, "running-a"),
                sent_out(TaskId("cancelled"), "cancelled-a"),
                about(TaskId("cancelled"), Event.CANCELLED),
                about(TaskId("expired"), Event.EXPIRED),
                about(TaskId("delivered"), Event.DELIVERED, "delivered-a"),
            ]
        )


async def task(place: Workplace, task_id: str) -> Task:
    async with SqliteLedger.opened(place.ledger, now_ms=SetClock().now_ms, durability="process") as ledger:
        return (await ledger.details(TaskId(task_id))).task

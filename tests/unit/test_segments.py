"""What only segment files can get wrong: disks that fill up or fail, torn writes, space that does not come back."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from edgesched.domain.task import ImageRef
from edgesched.errors import Conflict, NotKnown, Overloaded, StartupError, StorageFailed
from edgesched.images.base import PictureDamaged
from edgesched.images.records import HEADER, place_of
from edgesched.images.segment_files import claim, owner_of
from edgesched.images.segment_writer import Disk
from edgesched.images.segments import SegmentImageStore
from edgesched.images.survey import is_stored, unknown_pictures
from tests.support.ledgers import SetClock

WITHIN_S = 30.0
SEGMENT_BYTES = 64 * 1024
PICTURE = b"p" * 8_000  # eight of them, and the ninth, fill a segment


class FaultyDisk(Disk):
    """Counts syncs, and fails in the way that it is told."""

    def __init__(self) -> None:
        self.syncs = 0
        self.sync_fails = False
        self.taken_bytes: int | None = None  # of the next write, before the disk is full
        self.free: int | None = None
        self.in_sync = threading.Event()
        self.may_sync = threading.Event()
        self.may_sync.set()

    def write(self, fd: int, buffers: Sequence[bytes], offset: int) -> int:
        if self.taken_bytes is None:
            return super().write(fd, buffers, offset)
        taken, self.taken_bytes = self.taken_bytes, None
        if taken == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.pwrite(fd, b"".join(buffers)[:taken], offset)

    def sync(self, fd: int) -> None:
        self.in_sync.set()
        assert self.may_sync.wait(WITHIN_S)
        self.syncs += 1
        if self.sync_fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().sync(fd)

    def free_bytes(self, directory: Path) -> int:
        return super().free_bytes(directory) if self.free is None else self.free


@pytest.fixture
def disk() -> FaultyDisk:
    return FaultyDisk()


def opened(directory: Path, disk: Disk) -> AbstractAsyncContextManager[SegmentImageStore]:
    return SegmentImageStore.opened(
        directory,
        durability="power",
        min_free_disk_bytes=1_000,
        now_ms=SetClock().now_ms,
        segment_bytes=SEGMENT_BYTES,
        disk=disk,
    )


@pytest.fixture
async def store(tmp_path: Path, disk: FaultyDisk) -> AsyncIterator[SegmentImageStore]:
    async with opened(tmp_path, disk) as store:
        await store.recover([])
        yield store


def segments(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob("*.segment"))


def allocated_bytes(path: Path) -> int:
    return path.stat().st_blocks * 512


# --- grouping ----------------------------------------------------------------------------------------------------


async def test_pictures_that_come_while_the_disk_is_busy_share_one_sync(
    store: SegmentImageStore, disk: FaultyDisk
) -> None:
    disk.may_sync.clear()
    first = asyncio.create_task(store.put_many([b"first"]))
    assert await asyncio.to_thread(disk.in_sync.wait, WITHIN_S)
    others = [asyncio.create_task(store.put_many([b"other"])) for _ in range(50)]
    await asyncio.sleep(0)  # each has joined the queue
    disk.may_sync.set()
    await asyncio.gather(first, *others)
    assert disk.syncs == 2


async def test_without_power_durability_nothing_is_synced(tmp_path: Path, disk: FaultyDisk) -> None:
    async with SegmentImageStore.opened(
        tmp_path, durability="process", min_free_disk_bytes=1, now_ms=SetClock().now_ms, disk=disk
    ) as store:
        await store.put_many([PICTURE] * 10)
    assert disk.syncs == 0


async def test_more_pictures_than_one_system_call_takes_are_stored(store: SegmentImageStore) -> None:
    pictures = [str(i).encode() for i in range(1_500)]
    refs = await store.put_many(pictures)
    assert [await store.read(ref) for ref in refs[::100]] == pictures[::100]


async def test_closing_stores_what_waits(tmp_path: Path, disk: FaultyDisk) -> None:
    async with opened(tmp_path, disk) as store:
        put = asyncio.create_task(store.put_many([PICTURE]))
        await asyncio.sleep(0)
    refs = await put
    with pytest.raises(StorageFailed, match="closed"):
        await store.put_many([PICTURE])
    async with opened(tmp_path, disk) as store:
        assert await store.recover(refs) == 0


async def test_a_cancelled_caller_leaves_nothing_behind_and_disturbs_nobody(store: SegmentImageStore) -> None:
    kept, gone = (asyncio.create_task(store.put_many([PICTURE])) for _ in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    refs = await kept
    assert [image.ref for image in await store.inventory()] == refs


# --- disks that fail -----------------------------------------------------------------------------------------------


async def test_a_failed_sync_fails_its_group_and_ends_all_writing(store: SegmentImageStore, disk: FaultyDisk) -> None:
    refs = await store.put_many([b"before"])
    watch = asyncio.create_task(store.until_failed())
    disk.sync_fails = True
    answers = await asyncio.gather(*(store.put_many([b"x"]) for _ in range(3)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [StorageFailed] * 3
    disk.sync_fails = False
    with pytest.raises(StorageFailed):
        await store.put_many([b"after"])
    with pytest.raises(StorageFailed, match="synced"):
        await asyncio.wait_for(watch, WITHIN_S)
    assert [image.ref for image in await store.inventory()] == refs
    assert await store.read(refs[0]) == b"before"


@pytest.mark.parametrize("taken_bytes", [0, 5, 8_005])
async def test_a_write_that_the_disk_takes_in_part_is_taken_back(
    store: SegmentImageStore, disk: FaultyDisk, tmp_path: Path, taken_bytes: int
) -> None:
    before = await store.put_many([b"before"])
    disk.taken_bytes = taken_bytes
    answers = await asyncio.gather(*(store.put_many([PICTURE]) for _ in range(3)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [StorageFailed] * 3
    assert (tmp_path / segments(tmp_path)[0]).stat().st_size == HEADER.size + len(b"before")
    after = await store.put_many([b"after"])
    assert place_of(after[0]).segment > place_of(before[0]).segment, "a file that failed gets no more pictures"
    assert [await store.read(ref) for ref in (*before, *after)] == [b"before", b"after"]
    assert {image.ref for image in await store.inventory()} == {*before, *after}


async def test_a_write_that_fails_in_a_new_segment_leaves_no_file(
    store: SegmentImageStore, disk: FaultyDisk, tmp_path: Path
) -> None:
    disk.taken_bytes = 100
    with pytest.raises(StorageFailed):
        await store.put_many([PICTURE])
    assert segments(tmp_path) == []


async def test_below_the_low_disk_mark_pictures_are_refused_for_now(
    store: SegmentImageStore, disk: FaultyDisk, tmp_path: Path
) -> None:
    disk.free = 1_000 + len(PICTURE)  # the picture would fit, its header would not
    with pytest.raises(Overloaded) as refused:
        await store.put_many([PICTURE])
    assert refused.value.retry_after_ms > 0
    assert segments(tmp_path) == []
    disk.free = None
    await store.put_many([PICTURE])


async def test_pictures_in_memory_are_bounded_and_the_rest_is_read_from_the_disk(
    tmp_path: Path, disk: FaultyDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgesched.images.segments.FRESH_BYTES", len(PICTURE))
    async with opened(tmp_path, disk) as store:
        refs = await store.put_many([PICTURE, PICTURE])
        for path in segments(tmp_path):
            (tmp_path / path).unlink()
        assert await store.read(refs[0]) == PICTURE
        with pytest.raises(PictureDamaged):
            await store.read(refs[1])


async def test_a_flipped_bit_is_found(store: SegmentImageStore, tmp_path: Path) -> None:
    first, second = await store.put_many([PICTURE, PICTURE])
    for ref in (first, second):
        assert await store.read(ref) == PICTURE  # from memory, this once
    with (tmp_path / segments(tmp_path)[0]).open("r+b") as file:
        file.seek(place_of(first).offset + HEADER.size + 10)
        file.write(b"q")
    with pytest.raises(PictureDamaged, match=first):
        await store.read(first)
    assert await store.read(second) == PICTURE


async def test_a_lost_file_is_missing_from_the_inventory(store: SegmentImageStore, tmp_path: Path) -> None:
    (ref,) = await store.put_many([PICTURE])
    assert await store.read(ref) == PICTURE  # from memory, this once
    (tmp_path / segments(tmp_path)[0]).unlink()
    assert list(await store.inventory()) == []
    with pytest.raises(PictureDamaged):
        await store.read(ref)


async def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path, disk: FaultyDisk) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartupError, match="file"):
        async with opened(tmp_path / "file", disk):
            pass


# --- space ---------------------------------------------------------------------------------------------------------


async def test_a_full_segment_goes_when_its_last_picture_is_released(store: SegmentImageStore, tmp_path: Path) -> None:
    refs = await store.put_many([PICTURE] * 20)
    assert len(segments(tmp_path)) == 3
    await store.release([ref for ref in refs if place_of(ref).segment == 1][1:])
    assert len(segments(tmp_path)) == 3
    await store.release(refs[:1])
    assert segments(tmp_path) == ["00000002.segment", "00000003.segment"]
    await store.release(refs)
    assert segments(tmp_path) == ["00000003.segment"], "the one that grows stays"


async def test_a_segment_that_was_emptied_while_it_grew_goes_when_it_is_full(
    store: SegmentImageStore, tmp_path: Path, disk: FaultyDisk
) -> None:
    await store.release(await store.put_many([PICTURE]))
    kept = await store.put_many([b"x" * SEGMENT_BYTES, b"next"])
    await store.release(kept[:1])
    assert segments(tmp_path) == ["00000002.segment"]
    assert await store.read(kept[1]) == b"next"


async def test_one_picture_that_stays_does_not_hold_the_space_of_a_whole_segment(
    store: SegmentImageStore, tmp_path: Path
) -> None:
    refs = await store.put_many([PICTURE] * 9)
    path = tmp_path / segments(tmp_path)[0]
    full_bytes = allocated_bytes(path)
    await store.release([*refs[:4], *refs[5:]])
    if allocated_bytes(path) == full_bytes:
        pytest.skip("this file system cannot free a part of a file")
    assert allocated_bytes(path) <= full_bytes / 3
    assert await store.read(refs[4]) == PICTURE
    assert [image.ref for image in await store.inventory()] == [refs[4]]


async def test_a_new_start_cuts_off_what_was_never_acknowledged(tmp_path: Path, disk: FaultyDisk) -> None:
    async with opened(tmp_path, disk) as store:
        refs = await store.put_many([b"one", b"two", b"three"])
    path = tmp_path / segments(tmp_path)[0]
    size = path.stat().st_size
    with path.open("ab") as file:
        file.write(b"ESI1 torn in the middle of a header or of a picture")
    async with opened(tmp_path, disk) as store:
        assert await store.recover(refs) == 0
        assert path.stat().st_size == size
        assert [await store.read(ref) for ref in refs] == [b"one", b"two", b"three"]
        (new,) = await store.put_many([b"new"])
        assert place_of(new).segment == 2, "an old file gets no more pictures"


async def test_a_new_start_counts_what_it_lets_go_also_behind_gaps(tmp_path: Path, disk: FaultyDisk) -> None:
    async with opened(tmp_path, disk) as store:
        refs = await store.put_many([PICTURE] * 18)
    async with opened(tmp_path, disk) as store:
        assert await store.recover(refs[3:6]) == 15
        assert segments(tmp_path) == ["00000001.segment"]
    async with opened(tmp_path, disk) as store:
        assert await store.recover(refs[3:5]) == 1
        assert await store.read(refs[4]) == PICTURE


async def test_what_was_released_is_known_as_such_by_the_next_start_and_from_outside(
    tmp_path: Path, disk: FaultyDisk
) -> None:
    async with opened(tmp_path, disk) as store:
        refs = await store.put_many([PICTURE] * 30)
        await store.release([refs[3]])  # too little to give its space back
        await store.release(refs[9:16])  # enough for that, and what lies behind is still found
    kept = [*refs[:3], *refs[4:9], *refs[16:]]
    assert list(unknown_pictures(tmp_path, {}, stored_before_ms=SetClock().wall_ms + 1)) == kept
    assert [is_stored(tmp_path, ref) for ref in (refs[3], refs[9], refs[16])] == [False, False, True]
    async with opened(tmp_path, disk) as store:
        assert await store.recover(refs[:1]) == len(kept) - 1
    async with opened(tmp_path, disk) as store:
        assert await store.recover(refs[:1]) == 0, "nothing is let go twice"


async def test_several_lost_pictures_are_told_of_at_once(tmp_path: Path, disk: FaultyDisk) -> None:
    async with opened(tmp_path, disk) as store:
        refs = await store.put_many([PICTURE] * 20)
    for name in segments(tmp_path)[:2]:
        (tmp_path / name).unlink()
    async with opened(tmp_path, disk) as store:
        with pytest.raises(StorageFailed, match=r"18 pictures .*ledger repair"):
            await store.recover(refs)


def test_a_directory_of_pictures_belongs_to_one_ledger(tmp_path: Path) -> None:
    claim(tmp_path / "upload", "first")
    claim(tmp_path / "upload", "first")
    assert owner_of(tmp_path / "upload") == "first"
    claim(tmp_path / "upload", "second")  # there are no pictures yet that one could lose
    (tmp_path / "upload" / "00000001.segment").write_bytes(b"somebody's pictures")
    with pytest.raises(StartupError, match="belong to ledger second, and this is ledger third"):
        claim(tmp_path / "upload", "third")
    assert owner_of(tmp_path / "upload") == "second"
    assert (tmp_path / "upload" / "00000001.segment").read_bytes() == b"somebody's pictures"


def test_pictures_of_a_time_before_there_were_owners_are_taken_over(tmp_path: Path) -> None:
    (tmp_path / "00000001.segment").write_bytes(b"somebody's pictures")
    claim(tmp_path, "ours")
    assert owner_of(tmp_path) == "ours"


async def test_a_live_picture_whose_file_was_cut_stops_the_start(tmp_path: Path, disk: FaultyDisk) -> None:
    async with opened(tmp_path, disk) as store:
        refs = await store.put_many([PICTURE] * 12)
    path = tmp_path / segments(tmp_path)[-1]
    os.truncate(path, path.stat().st_size - 1)
    sizes = {name: (tmp_path / name).stat().st_size for name in segments(tmp_path)}
    async with opened(tmp_path, disk) as store:
        with pytest.raises(StorageFailed, match=refs[-1]):
            await store.recover(refs[-1:])
    assert {name: (tmp_path / name).stat().st_size for name in segments(tmp_path)} == sizes, "nothing was deleted"


async def test_files_of_others_are_left_alone(tmp_path: Path, disk: FaultyDisk) -> None:
    for name in ("notes.txt", "old.segment", "00000001.segment.bak"):
        (tmp_path / name).write_text("mine")
    async with opened(tmp_path, disk) as store:
        assert await store.recover([]) == 0
        await store.put_many([PICTURE])
    assert {path.name for path in tmp_path.iterdir()} == {
        "notes.txt",
        "old.segment",
        "00000001.segment.bak",
        "00000001.segment",
    }


async def test_recovery_is_refused_once_there_are_new_pictures(store: SegmentImageStore) -> None:
    refs = await store.put_many([PICTURE])
    with pytest.raises(Conflict):
        await store.recover([])
    assert await store.read(refs[0]) == PICTURE


async def test_pictures_can_be_read_and_released_at_the_same_time(store: SegmentImageStore) -> None:
    refs = await store.put_many([PICTURE] * 60)
    reads = [asyncio.create_task(store.read(ref)) for ref in refs]
    await asyncio.sleep(0)
    await store.release(refs)
    for answer in await asyncio.gather(*reads, return_exceptions=True):
        assert answer == PICTURE or isinstance(answer, NotKnown)
    with pytest.raises(NotKnown):
        await store.read(ImageRef(refs[0]))

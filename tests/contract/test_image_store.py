"""What every image store promises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from edgesched.domain.task import ImageRef
from edgesched.errors import NotKnown, StorageFailed
from edgesched.images.base import ImageStore
from edgesched.images.memory import MemoryImageStore
from edgesched.images.segments import SegmentImageStore
from tests.support.ledgers import SetClock

Start = Callable[[], AbstractAsyncContextManager[ImageStore]]
"""One run of the process: opens the store, and closes it."""


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture(params=["memory", "segments", "segments-of-one", "synced"])
def start(request: pytest.FixtureRequest, tmp_path: Path, clock: SetClock) -> Start:
    memory = MemoryImageStore(now_ms=clock.now_ms)

    @asynccontextmanager
    async def in_memory() -> AsyncIterator[ImageStore]:
        yield memory

    def in_segments() -> AbstractAsyncContextManager[ImageStore]:
        return SegmentImageStore.opened(
            tmp_path / "images",
            durability="power" if request.param == "synced" else "process",
            min_free_disk_bytes=1,
            now_ms=clock.now_ms,
            segment_bytes=1 if request.param == "segments-of-one" else 100_000,
        )

    return in_memory if request.param == "memory" else in_segments


@pytest.fixture
async def store(start: Start) -> AsyncIterator[ImageStore]:
    async with start() as opened:
        await opened.recover([])
        yield opened


def pictures(count: int) -> list[bytes]:
    """Each different, of any size, also none at all."""
    return [bytes([i % 256]) * (i * 37 % 5_000) for i in range(count)]


async def test_pictures_are_read_back_as_they_were_put(store: ImageStore) -> None:
    refs = await store.put_many(pictures(100))
    assert len(set(refs)) == 100
    assert [await store.read(ref) for ref in refs] == pictures(100)


async def test_the_same_picture_twice_is_two_pictures(store: ImageStore) -> None:
    first, second = await store.put_many([b"same", b"same"])
    await store.release([first])
    assert await store.read(second) == b"same"


async def test_callers_at_the_same_time_get_their_own_pictures(store: ImageStore) -> None:
    calls = [[f"{caller}-{i}".encode() for i in range(caller % 4)] for caller in range(400)]
    answers = await asyncio.gather(*(store.put_many(call) for call in calls))
    for call, refs in zip(calls, answers, strict=True):
        assert await asyncio.gather(*(store.read(ref) for ref in refs)) == call


async def test_a_released_picture_is_not_known(store: ImageStore) -> None:
    gone, kept = await store.put_many([b"gone", b"kept"])
    await store.release([gone])
    await store.release([gone])  # again, and what was never there: no harm
    await store.release([ImageRef("never"), ImageRef("9:9:9")])
    with pytest.raises(NotKnown):
        await store.read(gone)
    assert await store.read(kept) == b"kept"


@pytest.mark.parametrize("ref", ["", "never", "1:2", "x:y:z", "99:0:1", "-1:0:1"])
async def test_a_reference_that_was_never_given_is_not_known(store: ImageStore, ref: str) -> None:
    with pytest.raises(NotKnown):
        await store.read(ImageRef(ref))


async def test_the_inventory_has_what_is_stored_and_not_released(store: ImageStore, clock: SetClock) -> None:
    old, gone = await store.put_many([b"old", b"gone"])
    clock.wall_ms += 70_000
    (young,) = await store.put_many([b"young!"])
    await store.release([gone])
    found = {(image.ref, image.size_bytes, image.age_ms) for image in await store.inventory()}
    assert found == {(old, 3, 70_000.0), (young, 6, 0.0)}


async def test_an_age_is_never_negative(store: ImageStore, clock: SetClock) -> None:
    await store.put_many([b"picture"])
    clock.wall_ms -= 5_000
    assert [image.age_ms for image in await store.inventory()] == [0.0]


async def test_a_new_start_keeps_exactly_the_live_pictures(start: Start) -> None:
    async with start() as store:
        await store.recover([])
        refs = await store.put_many(pictures(20))
    async with start() as store:
        assert await store.recover(refs[::2]) == 10
        assert [await store.read(ref) for ref in refs[::2]] == pictures(20)[::2]
        for ref in refs[1::2]:
            with pytest.raises(NotKnown):
                await store.read(ref)
        assert {image.ref for image in await store.inventory()} == set(refs[::2])


async def test_new_references_are_never_those_of_an_earlier_start(start: Start) -> None:
    seen: list[ImageRef] = []
    for _ in range(3):
        async with start() as store:
            await store.recover(seen[-1:])
            seen += await store.put_many([b"picture"])
    assert len(set(seen)) == 3


async def test_a_new_start_without_a_live_picture_says_so(start: Start) -> None:
    async with start() as store:
        await store.recover([])
        refs = await store.put_many([b"kept"])
    async with start() as store:
        with pytest.raises(StorageFailed):
            await store.recover([*refs, ImageRef("77:0:4")])
    async with start() as store:
        assert await store.recover(refs) == 0, "nothing was deleted by the start that failed"
        assert await store.read(refs[0]) == b"kept"


async def test_nothing_put_is_nothing_stored(store: ImageStore) -> None:
    assert list(await store.put_many([])) == []
    assert list(await store.inventory()) == []

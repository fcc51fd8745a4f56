"""The image store in segment files: many pictures per file and per sync, and no copy of any of them."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal, NoReturn

from edgesched.domain.task import ImageRef
from edgesched.errors import Conflict, NotKnown, Overloaded, StorageFailed
from edgesched.images import segment_files
from edgesched.images.base import NowMs, PictureDamaged, StoredImage
from edgesched.images.records import Place, place_of
from edgesched.images.segment_writer import Disk, SegmentWriter
from edgesched.own_thread import OwnThread

log = logging.getLogger(__name__)

SEGMENT_BYTES = 64 * 1024 * 1024
GROUP_BYTES = 64 * 1024 * 1024
"""Pictures written together at most: a caller behind them waits no longer than that takes."""
MAX_WAITING = 256
"""Calls of one kind in the queue; further callers wait for room."""
READING_THREADS = 2
FRESH_BYTES = 32 * 1024 * 1024
"""Of pictures that are kept in memory until they are read, which they are once as a rule, and soon."""
FREE_WHEN_DEAD_FRACTION = 0.25
"""A segment's dead bytes are given back each time that they grow to this part of it: rarely, and never all too late."""


@dataclass(slots=True)
class _Segment:
    live: set[ImageRef] = field(default_factory=set)
    dead_bytes: int = 0  # released, not yet given back to the disk


_Put = tuple[Sequence[bytes], "asyncio.Future[Sequence[ImageRef]]"]


class SegmentImageStore:
    """ImageStore. What is live is remembered here; what is stored, the disk knows.

    Only the event loop touches `_segments`; only the store's thread touches the writer.
    """

    def __init__(
        self,
        directory: Path,
        writer: SegmentWriter,
        thread: OwnThread,
        reading: ThreadPoolExecutor,
        segment_bytes: int,
        now_ms: NowMs,
    ) -> None:
        self._directory = directory
        self._writer = writer
        self._segment_bytes = segment_bytes
        self._now_ms = now_ms
        self._thread = thread
        self._reading = reading
        self._segments: dict[int, _Segment] = {}
        self._current: int | None = None  # the writer's, as of the newest answered group
        self._room_to_put = asyncio.Semaphore(MAX_WAITING)
        self._room_to_read = asyncio.Semaphore(MAX_WAITING)
        self._fresh: dict[ImageRef, bytes] = {}
        self._fresh_bytes = 0
        self._waiting: list[_Put] = []
        self._is_busy = False
        self._idle = asyncio.Event()
        self._error: StorageFailed | None = None
        self._failed = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def opened(
        cls,
        directory: Path,
        *,
        durability: Literal["power", "process"],
        min_free_disk_bytes: int,
        now_ms: NowMs,
        segment_bytes: int = SEGMENT_BYTES,
        disk: Disk | None = None,
    ) -> AsyncIterator[SegmentImageStore]:
        """Open the store. Pictures of earlier runs come back with `recover`, which has to be the first call.

        durability: "power" syncs before a put returns; "process" leaves that to the operating system.
        segment_bytes: a segment that has grown to this gets no more pictures.
        Raises: StartupError if the directory cannot be made or listed.
        """
        numbers = await asyncio.to_thread(segment_files.prepare, directory)
        writer = SegmentWriter(
            directory,
            disk or Disk(),
            next_number=max(numbers, default=0) + 1,
            is_synced=durability == "power",
            min_free_bytes=min_free_disk_bytes,
            segment_bytes=segment_bytes,
        )
        with (
            OwnThread("image-store") as thread,
            ThreadPoolExecutor(READING_THREADS, thread_name_prefix="image-reader") as reading,
        ):
            store = cls(directory, writer, thread, reading, segment_bytes, now_ms)
            try:
                yield store
            finally:
                await store._close()

    async def until_failed(self) -> NoReturn:
        """Wait until nothing can be stored any more, and raise why: the process must end."""
        await self._failed.wait()
        raise StorageFailed(str(self._error))

    async def put_many(self, images: Sequence[bytes]) -> Sequence[ImageRef]:
        """A caller that is cancelled leaves nothing behind."""
        if not images:
            return []
        async with self._room_to_put:
            if self._error is not None:
                raise StorageFailed(str(self._error))
            loop = asyncio.get_running_loop()
            answer: asyncio.Future[Sequence[ImageRef]] = loop.create_future()
            self._waiting.append((images, answer))
            if not self._is_busy:
                self._is_busy = True
                loop.call_soon(self._start_group)  # not at once: whoever else is ready to run now joins the group
            return await answer

    async def read(self, ref: ImageRef) -> bytes:
        if not self._is_live(ref):
            raise NotKnown(f"picture {ref} is not stored any more")
        if (fresh := self._take_fresh(ref)) is not None:
            return fresh
        async with self._room_to_read:
            loop = asyncio.get_running_loop()
            picture = await loop.run_in_executor(self._reading, segment_files.read, self._directory, place_of(ref))
        if picture is not None:
            return picture
        if not self._is_live(ref):  # released while it was being read
            raise NotKnown(f"picture {ref} is not stored any more")
        raise PictureDamaged(f"picture {ref} in {self._directory} is not there as it was stored")

    async def release(self, refs: Collection[ImageRef]) -> None:
        """Unknown references are ignored, and so is a second release."""
        given_back = self._give_back(self._drop(refs))
        if given_back is not None:
            await given_back

    async def recover(self, live: Collection[ImageRef]) -> int:
        """Nothing is deleted unless every live picture is there. New pictures go to new segments.

        Counts what it finds: a picture that nobody knows, behind a gap that was freed, goes uncounted.
        """
        if self._segments or self._is_busy:
            raise Conflict("recover comes before the first put")
        places: defaultdict[int, list[Place]] = defaultdict(list)
        for ref in live:
            place = place_of(ref)
            places[place.segment].append(place)
        others = await self._thread.call(segment_files.recover, self._directory, places)
        self._segments = {
            number: _Segment(live={place.ref for place in kept}) for number, kept in places.items() if kept
        }
        return others

    async def inventory(self) -> Sequence[StoredImage]:
        live = {number: list(segment.live) for number, segment in self._segments.items()}
        look = partial(segment_files.inventory, self._directory, live, self._now_ms())
        return await asyncio.get_running_loop().run_in_executor(self._reading, look)

    async def _close(self) -> None:
        while self._is_busy:
            self._idle.clear()
            await self._idle.wait()
        self._error = self._error or StorageFailed("the image store is closed")
        await self._thread.call(self._writer.close)

    def _start_group(self) -> None:
        if not self._waiting:
            self._is_busy = False
            self._idle.set()
            return
        group_bytes = size = 0
        while size < len(self._waiting) and group_bytes < GROUP_BYTES:
            group_bytes += sum(map(len, self._waiting[size][0]))
            size += 1
        group, self._waiting = self._waiting[:size], self._waiting[size:]
        images = [image for call, _ in group for image in call]
        done = self._thread.call(self._writer.write, images, self._now_ms())
        done.add_done_callback(partial(self._answer_group, group))

    def _answer_group(self, group: Sequence[_Put], done: asyncio.Future[list[ImageRef]]) -> None:
        error = done.exception()
        ended = self._current
        self._current = self._writer.current
        unwanted: list[ImageRef] = []
        if error is None:
            refs = iter(done.result())
            for images, answer in group:
                mine = list(islice(refs, len(images)))
                self._keep(mine)
                if answer.done():  # its caller was cancelled
                    unwanted += mine
                else:
                    self._keep_fresh(mine, images)
                    answer.set_result(mine)
        else:
            self._refuse(group, error)
        released = self._drop(unwanted)
        if ended is not None:
            released.setdefault(ended, [])
        self._give_back(released)
        self._start_group()

    def _refuse(self, group: Sequence[_Put], error: BaseException) -> None:
        """Overloaded and a refused write end with this group; anything else, a failed sync first of all, is final."""
        if type(error) not in (Overloaded, StorageFailed):
            log.error("image_store.failed", exc_info=error)
            self._error = StorageFailed(f"pictures cannot be stored any more: {error}")
            self._failed.set()
            group = [*group, *self._waiting]
            self._waiting = []
        for _, answer in group:
            if not answer.done():
                answer.set_exception(_copy_of(error))

    def _keep_fresh(self, refs: Sequence[ImageRef], images: Sequence[bytes]) -> None:
        """Those that are there stay: in a long queue the oldest are wanted first."""
        for ref, image in zip(refs, images, strict=True):
            if self._fresh_bytes + len(image) <= FRESH_BYTES:
                self._fresh[ref] = image
                self._fresh_bytes += len(image)

    def _take_fresh(self, ref: ImageRef) -> bytes | None:
        image = self._fresh.pop(ref, None)
        if image is not None:
            self._fresh_bytes -= len(image)
        return image

    def _is_live(self, ref: ImageRef) -> bool:
        segment = self._segments.get(_segment_of(ref))
        return segment is not None and ref in segment.live

    def _keep(self, refs: Iterable[ImageRef]) -> None:
        for ref in refs:
            self._segments.setdefault(_segment_of(ref), _Segment()).live.add(ref)

    def _drop(self, refs: Iterable[ImageRef]) -> dict[int, list[Place]]:
        """Forget pictures. Returns where they are, by segment."""
        released: dict[int, list[Place]] = {}
        for ref in refs:
            number = _segment_of(ref)
            segment = self._segments.get(number)
            self._take_fresh(ref)
            if segment is not None and ref in segment.live:
                place = place_of(ref)
                segment.live.remove(ref)
                segment.dead_bytes += place.length
                released.setdefault(number, []).append(place)
        return released

    def _give_back(self, released: dict[int, list[Place]]) -> asyncio.Future[None] | None:
        """Have the thread mark what went, delete segments that nobody needs, and free the gaps of those that few need.

        None: there is nothing to do.
        """
        empty: list[int] = []
        sparse: dict[int, list[Place]] = {}
        for number in tuple(released):
            segment = self._segments.get(number)
            if segment is None or number == self._current:
                continue
            if not segment.live:
                del self._segments[number], released[number]
                empty.append(number)
            elif segment.dead_bytes >= self._segment_bytes * FREE_WHEN_DEAD_FRACTION:
                segment.dead_bytes = 0
                sparse[number] = [place_of(ref) for ref in segment.live]
        if not empty and not sparse and not any(released.values()):
            return None
        return self._thread.call(segment_files.free_space, self._directory, released, empty, sparse)


def _segment_of(ref: ImageRef) -> int:
    """-1, which is no segment, if this store cannot have made the reference."""
    number, _, _ = ref.partition(":")
    return int(number) if number.isdecimal() else -1


def _copy_of(error: BaseException) -> Exception:
    """One for each caller: an exception that is raised in many places collects all their tracebacks."""
    if isinstance(error, Overloaded):
        return Overloaded(str(error), retry_after_ms=error.retry_after_ms)
    return StorageFailed(str(error))

"""The image store in segment files: many pictures per file and per sync, and no copy of any of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal, NoReturn

from edgesched.domain.task import ImageRef
from edgesched.errors import Conflict, NotKnown, Overloaded, StartupError, StorageFailed
from edgesched.images.base import NowMs, StoredImage
from edgesched.images.records import (
    Place,
    count_records,
    free_all_but,
    place_of,
    read_header,
    read_picture,
    segment_numbers,
    segment_path,
)
from edgesched.images.segment_writer import Disk, SegmentWriter

log = logging.getLogger(__name__)

SEGMENT_BYTES = 64 * 1024 * 1024
GROUP_BYTES = 64 * 1024 * 1024
"""Pictures written together at most: a caller behind them waits no longer than that takes."""
MAX_WAITING = 256
"""Calls of one kind in the queue; further callers wait for room."""
READING_THREADS = 2
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
        thread: ThreadPoolExecutor,
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
        numbers = await asyncio.to_thread(_prepare, directory)
        writer = SegmentWriter(
            directory,
            disk or Disk(),
            next_number=max(numbers, default=0) + 1,
            is_synced=durability == "power",
            min_free_bytes=min_free_disk_bytes,
            segment_bytes=segment_bytes,
        )
        with (
            ThreadPoolExecutor(1, thread_name_prefix="image-store") as thread,
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
        async with self._room_to_read:
            loop = asyncio.get_running_loop()
            picture = await loop.run_in_executor(self._reading, _read, self._directory, place_of(ref))
        if picture is not None:
            return picture
        if not self._is_live(ref):  # released while it was being read
            raise NotKnown(f"picture {ref} is not stored any more")
        raise StorageFailed(f"picture {ref} in {self._directory} is not there as it was stored")

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
        loop = asyncio.get_running_loop()
        others = await loop.run_in_executor(self._thread, _recover, self._directory, places)
        self._segments = {
            number: _Segment(live={place.ref for place in kept}) for number, kept in places.items() if kept
        }
        return others

    async def inventory(self) -> Sequence[StoredImage]:
        live = {number: list(segment.live) for number, segment in self._segments.items()}
        look = partial(_inventory, self._directory, live, self._now_ms())
        return await asyncio.get_running_loop().run_in_executor(self._reading, look)

    async def _close(self) -> None:
        while self._is_busy:
            self._idle.clear()
            await self._idle.wait()
        self._error = self._error or StorageFailed("the image store is closed")
        await asyncio.get_running_loop().run_in_executor(self._thread, self._writer.close)

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
        loop = asyncio.get_running_loop()
        done = loop.run_in_executor(self._thread, self._writer.write, images, self._now_ms())
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
                    answer.set_result(mine)
        else:
            self._refuse(group, error)
        changed = self._drop(unwanted)
        if ended is not None:
            changed.add(ended)
        self._give_back(changed)
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

    def _is_live(self, ref: ImageRef) -> bool:
        segment = self._segments.get(_segment_of(ref))
        return segment is not None and ref in segment.live

    def _keep(self, refs: Iterable[ImageRef]) -> None:
        for ref in refs:
            self._segments.setdefault(_segment_of(ref), _Segment()).live.add(ref)

    def _drop(self, refs: Iterable[ImageRef]) -> set[int]:
        """Forget pictures. Returns the segments that had them."""
        changed: set[int] = set()
        for ref in refs:
            number = _segment_of(ref)
            segment = self._segments.get(number)
            if segment is not None and ref in segment.live:
                segment.live.remove(ref)
                segment.dead_bytes += place_of(ref).length
                changed.add(number)
        return changed

    def _give_back(self, changed: Iterable[int]) -> asyncio.Future[None] | None:
        """Have the thread delete segments that nobody needs, and free the gaps of those that few need.

        None: there is nothing to do.
        """
        empty: list[int] = []
        sparse: dict[int, list[Place]] = {}
        for number in changed:
            segment = self._segments.get(number)
            if segment is None or number == self._current:
                continue
            if not segment.live:
                del self._segments[number]
                empty.append(number)
            elif segment.dead_bytes >= self._segment_bytes * FREE_WHEN_DEAD_FRACTION:
                segment.dead_bytes = 0
                sparse[number] = [place_of(ref) for ref in segment.live]
        if not empty and not sparse:
            return None
        return asyncio.get_running_loop().run_in_executor(self._thread, _free_space, self._directory, empty, sparse)


def _segment_of(ref: ImageRef) -> int:
    """-1, which is no segment, if this store cannot have made the reference."""
    number, _, _ = ref.partition(":")
    return int(number) if number.isdecimal() else -1


def _copy_of(error: BaseException) -> Exception:
    """One for each caller: an exception that is raised in many places collects all their tracebacks."""
    if isinstance(error, Overloaded):
        return Overloaded(str(error), retry_after_ms=error.retry_after_ms)
    return StorageFailed(str(error))


def _prepare(directory: Path) -> list[int]:
    """The numbers of the segments that are there. Raises: StartupError."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return segment_numbers(directory)
    except OSError as error:
        raise StartupError(f"the picture directory {directory} cannot be used: {error.strerror}") from error


def _read(directory: Path, place: Place) -> bytes | None:
    """By name and not by a kept descriptor: segments may be many, and come and go while others read."""
    with contextlib.suppress(FileNotFoundError), _opened(segment_path(directory, place.segment), os.O_RDONLY) as fd:
        return read_picture(fd, place)
    return None


def _inventory(directory: Path, live: Mapping[int, Sequence[ImageRef]], now_ms: int) -> list[StoredImage]:
    found: list[StoredImage] = []
    for number, refs in live.items():
        with contextlib.suppress(FileNotFoundError), _opened(segment_path(directory, number), os.O_RDONLY) as fd:
            for ref in refs:
                place = place_of(ref)
                header = read_header(fd, place.offset)
                if header is not None and header.length == place.length:
                    age_ms = max(0.0, float(now_ms - header.stored_at_ms))  # the clock may have been set back
                    found.append(StoredImage(ref=ref, size_bytes=place.length, age_ms=age_ms))
    return found


def _recover(directory: Path, live: Mapping[int, Sequence[Place]]) -> int:
    """Returns: how many records were let go. Raises: StorageFailed, before anything is changed."""
    for number, places in live.items():
        _check_places(segment_path(directory, number), places)
    others = 0
    for number in segment_numbers(directory):
        path, kept = segment_path(directory, number), live.get(number, [])
        with _opened(path, os.O_RDWR) as fd:
            others += count_records(fd, kept) - len(kept)
            if kept:  # what lies behind the last one was never acknowledged, or is released
                os.ftruncate(fd, max(place.end for place in kept))
                free_all_but(fd, kept)
        if not kept:
            path.unlink()
    return others


def _check_places(path: Path, places: Sequence[Place]) -> None:
    try:
        with _opened(path, os.O_RDONLY) as fd:
            headers = [read_header(fd, place.offset) for place in places]
    except FileNotFoundError:
        headers = [None] * len(places)
    lost = [p.ref for p, header in zip(places, headers, strict=True) if header is None or header.length != p.length]
    if lost:
        raise StorageFailed(f"{len(lost)} pictures that tasks need are not in {path}, the first is {lost[0]}")


def _free_space(directory: Path, empty: Iterable[int], sparse: Mapping[int, Sequence[Place]]) -> None:
    """A disk that will not do it costs space, not pictures: said, and tried again at the next start."""
    for number in empty:
        try:
            segment_path(directory, number).unlink(missing_ok=True)
        except OSError as error:
            log.warning("segment.not_deleted", extra={"segment": number, "error": error.strerror})
    for number, kept in sparse.items():
        with contextlib.suppress(FileNotFoundError), _opened(segment_path(directory, number), os.O_RDWR) as fd:
            free_all_but(fd, kept)


@contextlib.contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    fd = os.open(path, flags | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)

"""The last lines of every worker, also of those whose board has died."""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from edgesched.clock import Clock
from edgesched.domain.device import DeviceId
from edgesched.errors import Overloaded, StorageFailed
from edgesched.rest import LogLine, LogPage, ShippedLog
from gateway.log_rows import LogRows

log = logging.getLogger(__name__)

LINES_PER_WORKER = 500
MAX_CHARS = 64_000_000
"""Of all lines together. Beyond it the log of the worker that was quiet for longest is forgotten."""

MAX_WORKERS = 4_000
LINE_CHARS = 200
"""What a line costs besides its text, about."""

MAX_FOLLOWERS = 256
WRITE_EVERY_S = 5.0


@dataclass(slots=True)
class _Log:
    device_id: DeviceId
    lines: deque[LogLine] = field(default_factory=lambda: deque(maxlen=LINES_PER_WORKER))
    number: int | None = None  # the newest one that the board sent
    chars: int = 0


class WorkerLogs:
    """In memory, and on the disk some seconds later: what a crash of the gateway loses, living boards send again."""

    def __init__(self, rows: LogRows, clock: Clock) -> None:
        self._rows = rows
        self._clock = clock
        self._logs: dict[str, _Log] = {}  # by worker; the one that wrote last is the last one
        self._chars = 0
        self._cursor = 0
        self._written = 0  # cursor of the newest line on the disk
        self._dirty: set[str] = set()
        self._forgotten: set[str] = set()
        self._changed = asyncio.Event()
        self._follower_count = 0
        self._is_closed = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        for device_id, line in await self._rows.all():
            self._append(device_id, line)
        self._dirty.clear()
        # A reader's cursor from before a crash, when the last lines were not written, is behind all that come now.
        self._written = self._cursor = max(self._cursor, self._clock.wall_ms() * 1000)
        async with asyncio.TaskGroup() as tasks:
            writing = tasks.create_task(self._keep_written(), name="WorkerLogs.write")
            try:
                yield
            finally:
                writing.cancel()
        await self._try_to_write()

    def take(self, device_id: DeviceId, logs: Iterable[ShippedLog]) -> Mapping[str, int]:
        """Lines of a board's workers, and what the gateway has of them then. Said twice they count once."""
        have: dict[str, int] = {}
        for shipped in logs:
            known = self._logs.get(shipped.worker)
            if known is not None and known.device_id != device_id:
                continue  # a worker is named after its board: this is somebody else's
            number = known.number if known is not None else None
            if shipped.after is None or shipped.after == (number or 0):
                number = self._take(device_id, shipped, 0 if shipped.after is None else shipped.after) or number
            if number is not None:
                have[shipped.worker] = number
        return have

    def knows(self, worker: str) -> bool:
        return worker in self._logs

    def workers(self) -> Iterable[str]:
        return self._logs.keys()

    def devices(self) -> Iterable[DeviceId]:
        return {known.device_id for known in self._logs.values()}

    def page(self, owner: str, *, tail: int, after: int = 0, since_ms: int = 0) -> LogPage:
        """The last lines of a worker, or of all workers of a device, in the order in which they were written.

        tail: at most so many. after: only lines behind this cursor. since_ms: none from before, gateway's wall clock.
        """
        known = self._logs.get(owner)
        of_owner = [known] if known is not None else [k for k in self._logs.values() if k.device_id == owner]
        found = [
            [line for line in k.lines if line.cursor > after and line.at_ms >= since_ms] for k in of_owner
        ]  # of each worker in the order in which it wrote, which its clock cannot change
        lines = list(heapq.merge(*found, key=lambda line: (line.at_ms, line.cursor)))
        cursor = max((line.cursor for line in lines), default=max(after, 0))
        return LogPage(lines=tuple(lines[-tail:]), cursor=cursor)

    async def follow(self, owner: str, *, tail: int, after: int, since_ms: int, wait_s: float) -> LogPage:
        """`page`, once there is a line in it, or when the time has passed. Raises: Overloaded."""
        page = self.page(owner, tail=tail, after=after, since_ms=since_ms)
        if page.lines or wait_s <= 0:
            return page
        if self._follower_count >= MAX_FOLLOWERS:
            raise Overloaded(f"{MAX_FOLLOWERS} readers follow logs, which is the limit", retry_after_ms=5_000)
        self._follower_count += 1
        try:
            async with asyncio.timeout(wait_s):
                while not page.lines and not self._is_closed:
                    await self._changed.wait()
                    page = self.page(owner, tail=tail, after=after, since_ms=since_ms)
        except TimeoutError:
            pass
        finally:
            self._follower_count -= 1
        return page

    def forget(self, device_id: DeviceId) -> None:
        """An operator forgot the device."""
        for worker in [worker for worker, known in self._logs.items() if known.device_id == device_id]:
            self._drop(worker)

    async def write(self) -> None:
        """Raises: StorageFailed; then it is tried again with the next lines."""
        dirty, forgotten, newest = self._dirty, self._forgotten, self._cursor
        if not dirty and not forgotten:
            return
        self._dirty, self._forgotten = set(), set()
        known = [self._logs[worker] for worker in dirty]
        lines = [(k.device_id, line) for k in known for line in k.lines if line.cursor > self._written]
        oldest = {k.lines[0].worker: k.lines[0].cursor for k in known}
        try:
            await self._rows.write(lines, oldest, forgotten)
        except StorageFailed:
            self._dirty |= dirty & self._logs.keys()
            self._forgotten |= forgotten
            raise
        self._written = newest

    def close(self) -> None:
        """The gateway is stopping: let go of who follows."""
        self._is_closed = True
        self._wake()

    # --- inside ---

    def _take(self, device_id: DeviceId, shipped: ShippedLog, after: int) -> int | None:
        """Returns: the newest number, None if there was no line."""
        now_ms = self._clock.wall_ms()
        number = None
        for line in shipped.lines:
            if line.number > after:
                after = number = line.number
                self._cursor += 1
                kept = LogLine(
                    cursor=self._cursor,
                    worker=shipped.worker,
                    number=line.number,
                    at_ms=now_ms - (line.age_ms or 0),
                    source=line.source,
                    text=line.text,
                )
                self._append(device_id, kept)
        if number is not None:
            self._wake()
        return number

    def _append(self, device_id: DeviceId, line: LogLine) -> None:
        known = self._logs.pop(line.worker, None) or _Log(device_id)
        self._logs[line.worker] = known
        if len(known.lines) == LINES_PER_WORKER:
            self._count(known, -_cost(known.lines[0]))
        known.lines.append(line)
        known.number = line.number
        self._count(known, _cost(line))
        self._cursor = max(self._cursor, line.cursor)
        self._dirty.add(line.worker)
        while self._chars > MAX_CHARS or len(self._logs) > MAX_WORKERS:
            self._drop(next(iter(self._logs)))

    def _count(self, known: _Log, chars: int) -> None:
        known.chars += chars
        self._chars += chars

    def _drop(self, worker: str) -> None:
        self._chars -= self._logs.pop(worker).chars
        self._dirty.discard(worker)
        self._forgotten.add(worker)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _keep_written(self) -> None:
        while True:
            await asyncio.sleep(WRITE_EVERY_S)
            await self._try_to_write()

    async def _try_to_write(self) -> None:
        try:
            await self.write()
        except StorageFailed as error:
            log.error("logs.not_written", extra={"cause": str(error)})


def _cost(line: LogLine) -> int:
    return len(line.text) + LINE_CHARS

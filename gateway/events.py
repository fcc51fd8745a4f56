"""Live news for many readers: one look at each source, whoever reads; a reader that is too slow is let go.

Nothing here is a queue of history. Every event carries the newest state of what changed since the one before, so that
a reader that was away asks again for what it shows and goes on. Without readers nothing runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from edgesched import rest
from edgesched.domain.device import DeviceId
from edgesched.domain.lifecycle import State
from edgesched.domain.task import Task, TaskId, TaskStats
from edgesched.errors import Overloaded, PeerUnavailable
from edgesched.ports import TaskQueries
from gateway.activity import Activity, ActivityPoint
from gateway.fleet import Fleet
from gateway.lookout import TROUBLES, Lookout, Trouble
from gateway.registry import Registry

log = logging.getLogger(__name__)

TICK_S = 0.5
COUNT_EVERY_TICKS = 2
LOOK_FOR_SILENCE_EVERY_TICKS = 2
LOOK_FOR_TROUBLES_EVERY_TICKS = 4
MAX_TASKS_PER_TICK = 100
"""The newest ones; `omitted` counts the others. More than this in half a second nobody reads."""

MAX_READERS = 256
MAX_WAITING = 64
"""Frames that wait for one reader: half a minute of a busy cluster."""

SOURCE_RETRY_S = 1.0

TASKS: rest.Wire[tuple[Task, ...]] = rest.Wire(tuple[Task, ...])
ENTRIES: rest.Wire[tuple[rest.DeviceEntry, ...]] = rest.Wire(tuple[rest.DeviceEntry, ...])
POINT: rest.Wire[ActivityPoint] = rest.Wire(ActivityPoint)


def frame(event: str, data: bytes) -> bytes:
    """One server-sent event. data: JSON without line breaks."""
    return b"event: " + event.encode() + b"\ndata: " + data + b"\n\n"


class Reader:
    """What waits for one client."""

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[bytes | None] = asyncio.Queue(MAX_WAITING)
        self._is_ending = False

    def offer(self, data: bytes) -> None:
        """Never blocks. When its queue is full the reader learns that it was too slow, and nothing more."""
        if self._is_ending:
            return
        try:
            self._waiting.put_nowait(data)
        except asyncio.QueueFull:
            self.end(frame("dropped", b'{"reason":"this reader is too slow: connect again"}'))

    def end(self, last: bytes) -> None:
        """Forget what waits, say one last thing, and then end."""
        if self._is_ending:
            return
        self._is_ending = True
        while not self._waiting.empty():
            self._waiting.get_nowait()
        self._waiting.put_nowait(last)
        self._waiting.put_nowait(None)

    async def next(self) -> bytes | None:
        """None: it is over."""
        return await self._waiting.get()


class EventHub:
    """Gathers while somebody reads, and hands the same bytes to everybody."""

    def __init__(
        self,
        registry: Registry,
        fleet: Fleet,
        tasks: TaskQueries,
        activity: Activity,
        lookout: Lookout,
        *,
        tick_s: float = TICK_S,
    ) -> None:
        self._registry = registry
        self._fleet = fleet
        self._tasks = tasks
        self._activity = activity
        self._lookout = lookout
        self._troubles: tuple[Trouble, ...] | None = None  # as all readers know them; None: some may not
        self._tick_s = tick_s
        self._readers: set[Reader] = set()
        self._gathering: asyncio.Task[None] | None = None
        self._changed_devices: set[DeviceId] = set()
        self._changed_tasks: dict[TaskId, Task] = {}
        self._omitted = 0
        self._are_counts_old = True
        self._last_point_ms = 0
        self._is_source_away = False
        self._is_open = True
        registry.listeners.append(self._on_device)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Reader]:
        """A reader of everything from now on; its first event is a `hello` with what there is. Raises: Overloaded."""
        if len(self._readers) >= MAX_READERS or not self._is_open:
            raise Overloaded(f"{MAX_READERS} clients read events, which is the limit", retry_after_ms=10_000)
        reader = Reader()
        reader.offer(frame("hello", await self._hello()))
        self._readers.add(reader)
        if self._gathering is None:
            self._gathering = asyncio.create_task(self._gather(), name="EventHub.gather")
            self._gathering.add_done_callback(self._gathered)
        try:
            yield reader
        finally:
            self._readers.discard(reader)
            if not self._readers:
                await self._stop()

    @property
    def reader_count(self) -> int:
        return len(self._readers)

    async def close(self) -> None:
        """The gateway is stopping."""
        self._is_open = False
        for reader in self._readers:
            reader.end(frame("closing", b'{"reason":"the gateway is stopping: connect again in a moment"}'))
        await self._stop()

    # --- gathering ---

    def _on_device(self, device_id: DeviceId) -> None:
        if self._readers:
            self._changed_devices.add(device_id)

    async def _gather(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_tasks(), name="EventHub.follow_tasks")
            tick = 0
            while True:
                await asyncio.sleep(self._tick_s)
                tick += 1
                if tick % LOOK_FOR_SILENCE_EVERY_TICKS == 0:
                    self._registry.silent_for_ms()  # tells us who fell silent
                self._send_devices()
                self._send_tasks()
                self._send_points()
                if tick % COUNT_EVERY_TICKS == 0:
                    await self._send_counts()
                if tick % LOOK_FOR_TROUBLES_EVERY_TICKS == 0:
                    await self._send_troubles()

    async def _stop(self) -> None:
        gathering, self._gathering = self._gathering, None
        if gathering is not None:
            gathering.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await gathering
        self._changed_devices.clear()
        self._changed_tasks.clear()
        self._omitted = 0

    def _gathered(self, gathering: asyncio.Task[None]) -> None:
        """A crash here shall be seen by people, and not by readers that wait for ever."""
        if gathering.cancelled() or gathering.exception() is None:
            return
        log.error("events.crashed", exc_info=gathering.exception())
        self._gathering = None
        for reader in self._readers:
            reader.end(frame("closing", b'{"reason":"internal error: connect again in a moment"}'))

    async def _follow_tasks(self) -> None:
        while True:
            try:
                async with contextlib.aclosing(self._tasks.changes()) as changes:
                    async for task in changes:
                        self._is_source_away = False
                        self._note(task)
            except PeerUnavailable as error:
                if not self._is_source_away:
                    self._is_source_away = True
                    self._publish("task_manager_away", json.dumps({"reason": str(error)}).encode())
            await asyncio.sleep(SOURCE_RETRY_S)
            self._are_counts_old = True  # whatever happened meanwhile was not seen

    def _note(self, task: Task) -> None:
        self._are_counts_old = True
        self._changed_tasks.pop(task.task_id, None)
        self._changed_tasks[task.task_id] = task
        if len(self._changed_tasks) > MAX_TASKS_PER_TICK:
            del self._changed_tasks[next(iter(self._changed_tasks))]
            self._omitted += 1

    # --- sending ---

    def _send_devices(self) -> None:
        changed, self._changed_devices = self._changed_devices, set()
        if not changed:
            return
        entries = tuple(entry for entry in self._fleet.entries() if entry.device.device_id in changed)
        gone = sorted(changed - {entry.device.device_id for entry in entries})
        self._publish("devices", b'{"devices":%b,"gone":%b}' % (ENTRIES.dump(entries), json.dumps(gone).encode()))

    def _send_tasks(self) -> None:
        if not self._changed_tasks:
            return
        tasks, self._changed_tasks = tuple(self._changed_tasks.values()), {}
        omitted, self._omitted = self._omitted, 0
        self._publish("tasks", b'{"tasks":%b,"omitted":%d}' % (TASKS.dump(tasks), omitted))

    def _send_points(self) -> None:
        for point in self._activity.history():
            if point.at_ms > self._last_point_ms:
                self._last_point_ms = point.at_ms
                self._publish("activity", POINT.dump(point))

    async def _send_counts(self) -> None:
        if not self._are_counts_old:
            return
        with contextlib.suppress(PeerUnavailable):  # said by _follow_tasks
            stats = await self._tasks.stats()
            self._are_counts_old = False
            self._publish("counts", _counts_json(stats))

    async def _send_troubles(self) -> None:
        troubles = (await self._lookout.look()).troubles
        if troubles != self._troubles:
            self._troubles = troubles
            self._publish("problems", b'{"problems":%b}' % TROUBLES.dump(troubles))

    def _publish(self, event: str, data: bytes) -> None:
        whole = frame(event, data)
        for reader in tuple(self._readers):
            reader.offer(whole)

    async def _hello(self) -> bytes:
        counts: bytes = b"null"
        with contextlib.suppress(PeerUnavailable):
            counts = _counts_json(await self._tasks.stats())
        troubles = TROUBLES.dump((await self._lookout.look()).troubles)
        self._troubles = None
        entries: Sequence[rest.DeviceEntry] = self._fleet.entries()
        history = rest.Wire[tuple[ActivityPoint, ...]](tuple[ActivityPoint, ...]).dump(tuple(self._activity.history()))
        known = (counts, ENTRIES.dump(tuple(entries)), history, troubles)
        return b'{"counts":%b,"devices":%b,"activity":%b,"problems":%b}' % known


def _counts_json(stats: TaskStats) -> bytes:
    states = {state.value: stats.counts.get(state, 0) for state in State}
    return b'{"states":%b,"queue":%b}' % (json.dumps(states).encode(), rest.QUEUE.dump(rest.queue_of(stats)))

"""Delivers what the boards do not: their grace is over, or the receiver is on this machine only.

Board and task manager may both deliver: the receiver is idempotent by task id, and the labels are the same.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

import aiohttp

from edgesched.clock import Clock
from edgesched.domain.device import DeviceId
from edgesched.domain.lifecycle import Event
from edgesched.domain.task import AttemptId, Task, TaskId
from edgesched.errors import InvalidInput, PeerUnavailable
from edgesched.ledger.base import Applied, Ledger, LedgerEvent
from edgesched.rest import (
    DELIVERY,
    DELIVERY_REPLY,
    MAX_DELIVERY_BATCH,
    Delivery,
    DeliveryReply,
    LabelledPicture,
)
from edgesched.task_manager.events import EventLog

log = logging.getLogger(__name__)

SCAN_EVERY_S = 2.0
SCAN_PAGE = 256
SCAN_PAGES = 16  # per round
POST_TIMEOUT_S = 5.0  # a connection may have died in silence, and then only a new one helps
SMALL_BATCH = 8  # for a receiver that has not answered before: it may just be too slow for more
POSTS_IN_FLIGHT = 4
BACKOFF_FIRST_MS = 500.0
BACKOFF_MOST_MS = 5_000.0  # a receiver that is back, after however long, gets its labels soon


def is_loopback(host: str) -> bool:
    return host == "localhost" or host == "::1" or host.startswith("127.")


def only_from_here(receiver_url: str, device_host: str) -> bool:
    """Whether the receiver is on this machine's loopback, and the board is on another machine."""
    return is_loopback(urlsplit(receiver_url).hostname or "") and not is_loopback(device_host)


@dataclass(slots=True)
class _Away:
    """A receiver that did not answer."""

    until_ms: float
    backoff_ms: float


class Deliveries:
    """Scans the ledger for labels that nobody has reported as delivered."""

    def __init__(
        self,
        ledger: Ledger,
        events: EventLog,
        *,
        clock: Clock,
        grace_ms: float,
        on_delivered: Callable[[DeviceId, AttemptId], None],
    ) -> None:
        """on_delivered: told of each task that was delivered from here, so that its board stops trying."""
        self._ledger = ledger
        self._events = events
        self._clock = clock
        self._grace_ms = grace_ms
        self._on_delivered = on_delivered
        self._away: dict[str, _Away] = {}
        self._due_now: set[TaskId] = set()
        self._scanned_seq = 0
        self._wake = asyncio.Event()

    def hand_over(self, task_id: TaskId) -> None:
        """The board will not deliver this one: do it now. Forgotten after a crash; the scan finds it by age."""
        if len(self._due_now) < SCAN_PAGE * 16:
            self._due_now.add(task_id)
        self._wake.set()

    async def run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=POST_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                if self._due_now:
                    due, self._due_now = self._due_now, set()
                    await self._deliver(session, list(await self._ledger.get_many(due)))
                await self._scan(session)
                self._wake.clear()
                try:
                    async with asyncio.timeout(SCAN_EVERY_S):
                        await self._wake.wait()
                except TimeoutError:
                    continue

    async def _scan(self, session: aiohttp.ClientSession) -> None:
        """A few pages per round, going on where the last round ended: a receiver that is away for long leaves many."""
        for _ in range(SCAN_PAGES):
            page = await self._ledger.undelivered(limit=SCAN_PAGE, after_seq=self._scanned_seq)
            done_before_ms = self._clock.wall_ms() - self._grace_ms
            await self._deliver(session, [task for task in page if task.updated_at_ms <= done_before_ms])
            is_last = len(page) < SCAN_PAGE
            self._scanned_seq = 0 if is_last else page[-1].seq
            if is_last or self._due_now:
                return

    async def _deliver(self, session: aiohttp.ClientSession, tasks: Sequence[Task]) -> None:
        by_url: defaultdict[str, list[Task]] = defaultdict(list)
        for task in tasks:
            if task.receiver_url is not None and not self._is_away(task.receiver_url):
                by_url[task.receiver_url].append(task)
        posts_in_flight = asyncio.Semaphore(POSTS_IN_FLIGHT)
        async with asyncio.TaskGroup() as posts:
            for url, of_url in by_url.items():
                size = SMALL_BATCH if url in self._away else MAX_DELIVERY_BATCH
                for at in range(0, len(of_url), size):
                    batch = of_url[at : at + size]
                    posts.create_task(self._post(session, url, batch, posts_in_flight))

    async def _post(
        self, session: aiohttp.ClientSession, url: str, tasks: Sequence[Task], posts_in_flight: asyncio.Semaphore
    ) -> None:
        async with posts_in_flight:
            if self._is_away(url):
                return
            sent: dict[TaskId, Task] = {}
            items: list[LabelledPicture] = []
            for task in tasks:
                result = await self._ledger.result(task.task_id)
                if result is None or task.attempt_id is None:
                    continue
                sent[task.task_id] = task
                items.append(
                    LabelledPicture(
                        task_id=task.task_id,
                        attempt_id=task.attempt_id,
                        model=task.model,
                        file_name=task.file_name,
                        detections=result.detections,
                    )
                )
            if not items:
                return
            try:
                reply = await _post_once(session, url, Delivery(results=tuple(items)))
            except PeerUnavailable as error:
                self._back_off(url, str(error))
                return
            self._away.pop(url, None)
            self._record(url, reply, sent)

    def _record(self, url: str, reply: DeliveryReply, sent: dict[TaskId, Task]) -> None:
        for task_id in reply.accepted:
            task = sent.get(task_id)
            if task is not None and task.attempt_id is not None:
                event = LedgerEvent(task_id=task_id, event=Event.DELIVERED, attempt_id=task.attempt_id)
                self._events.add(event, partial(self._tell_board, task))
        for item in reply.rejected:
            log.warning("delivery.rejected", extra={"task_id": item.task_id, "receiver_url": url, "cause": item.reason})
            self._back_off(url, item.reason)

    def _tell_board(self, task: Task, _: Applied) -> None:
        if task.device_id is not None and task.attempt_id is not None:
            self._on_delivered(task.device_id, task.attempt_id)

    def _is_away(self, url: str) -> bool:
        away = self._away.get(url)
        return away is not None and away.until_ms > self._clock.monotonic_ms()

    def _back_off(self, url: str, cause: str) -> None:
        before = self._away.get(url)
        backoff_ms = longer_pause_ms(before.backoff_ms if before else None)
        jittered_ms = backoff_ms * random.uniform(0.5, 1.0)
        self._away[url] = _Away(self._clock.monotonic_ms() + jittered_ms, backoff_ms)
        if before is None:
            log.warning("receiver.unreachable", extra={"receiver_url": url, "cause": cause})


def longer_pause_ms(before_ms: float | None) -> float:
    """before_ms: the pause that was not long enough; None: there was none."""
    return BACKOFF_FIRST_MS if before_ms is None else min(BACKOFF_MOST_MS, before_ms * 2)


async def _post_once(session: aiohttp.ClientSession, url: str, delivery: Delivery) -> DeliveryReply:
    """Raises: PeerUnavailable unless the receiver answered 200 with a usable body."""
    headers = {"Content-Type": "application/json"}
    try:
        async with session.post(url, data=DELIVERY.dump(delivery), headers=headers) as response:
            body = await response.read()
            if response.status != 200:
                raise PeerUnavailable(f"the receiver answered {response.status}")
            return DELIVERY_REPLY.parse(body)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise PeerUnavailable(f"{type(error).__name__}: {error}") from error
    except InvalidInput as error:
        raise PeerUnavailable(f"the receiver's answer is not usable: {error}") from error

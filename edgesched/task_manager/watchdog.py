"""Time's own events: graces that end, attempts that hang, tasks that expire."""

from __future__ import annotations

import asyncio
import logging

from edgesched.clock import Clock
from edgesched.ledger.base import Ledger
from edgesched.task_manager.attempts import OpenAttempts
from edgesched.task_manager.dispatcher import Dispatcher
from edgesched.task_manager.events import EventLog
from edgesched.task_manager.links import Links
from edgesched.task_manager.outcomes import Outcomes

log = logging.getLogger(__name__)

TICK_S = 0.25
HANG_GRACE_MS = 5_000.0  # the board enforces the attempt's time itself; this is for a board that does not


class Watchdog:
    """Attempts on lost boards go back to the queue; attempts and tasks out of time end."""

    def __init__(
        self,
        ledger: Ledger,
        attempts: OpenAttempts,
        events: EventLog,
        dispatcher: Dispatcher,
        links: Links,
        outcomes: Outcomes,
        *,
        clock: Clock,
        reconnect_grace_ms: float,
        attempt_timeout_ms: float,
    ) -> None:
        self._ledger = ledger
        self._attempts = attempts
        self._events = events
        self._dispatcher = dispatcher
        self._links = links
        self._outcomes = outcomes
        self._clock = clock
        self._reconnect_grace_ms = reconnect_grace_ms
        self._attempt_timeout_ms = attempt_timeout_ms

    async def run(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            now_ms = self._clock.monotonic_ms()
            self._end_graces(now_ms)
            self._end_hanging(now_ms)
            await self._expire()

    def _end_graces(self, now_ms: float) -> None:
        lost_since_ms = self._outcomes.lost_since_ms
        for device_id in self._attempts.devices():
            if self._links.is_open(device_id):
                lost_since_ms.pop(device_id, None)
                continue
            # Also a device without a link: after a start, attempts are open in the ledger before it registers.
            if now_ms - lost_since_ms.setdefault(device_id, now_ms) < self._reconnect_grace_ms:
                continue
            link = self._links.get(device_id)
            for attempt in self._attempts.of_device(device_id):
                if link is not None:
                    link.withdraw(attempt)
                self._outcomes.lose(attempt, f"no stream to the board for {self._reconnect_grace_ms / 1000:g} s")
            lost_since_ms.pop(device_id, None)

    def _end_hanging(self, now_ms: float) -> None:
        timeout_ms = self._attempt_timeout_ms + HANG_GRACE_MS
        for attempt in self._attempts.overdue(now_ms, timeout_ms):
            cause = f"no outcome within {timeout_ms / 1000:g} s"
            self._outcomes.give_up_waiting(attempt, self._links.get(attempt.device_id), cause)

    async def _expire(self) -> None:
        for applied in await self._ledger.expire_due():
            self._events.announce(applied)
            if applied.task is not None:
                self._dispatcher.forget(applied.task.task_id)
                log.info("task.expired", extra={"task_id": applied.task.task_id})

"""Carry what the workers write to the gateway, where it can be read when the board is dead."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from agents.gateway_door import LONGEST_PAUSE_S, GatewayDoor, again_and_again
from edgesched.errors import InvalidInput, PeerUnavailable
from edgesched.rest import (
    LOG_SHIPMENT,
    LOG_SHIPMENT_REPLY,
    MAX_LOG_LINES,
    LogShipment,
    ShippedLine,
    ShippedLog,
)

PAUSE_S = 1.0
CALL_TIMEOUT_S = 10.0
OLDEST_MS = 366 * 24 * 3600 * 1000
"""A line that seems older was written before the board's clock was set."""

log = logging.getLogger(__name__)


class Line(Protocol):
    @property
    def number(self) -> int: ...
    @property
    def at_ms(self) -> int: ...
    @property
    def source(self) -> str: ...
    @property
    def text(self) -> str: ...


class Logs(Protocol):
    """As `worker_logs.WorkerLogs`. Both raise OSError."""

    def last_number(self, worker: str) -> int: ...

    def tail(self, worker: str, max_lines: int, since: int | None = None) -> Sequence[Line]:
        """Blocks while it reads."""
        ...


class LogShipping:
    """Sends what the gateway does not have. A worker that writes faster than this loses lines on the way, not here."""

    def __init__(self, logs: Logs, workers: Callable[[], Sequence[str]], *, pause_s: float = PAUSE_S) -> None:
        self._logs = logs
        self._workers = workers
        self._pause_s = pause_s
        self._have: dict[str, int | None] = {}  # what the gateway has, by worker; absent: it was not asked yet
        self._is_failing = False

    async def link(self, door: GatewayDoor) -> None:
        """Until cancelled."""
        self._have.clear()
        await again_and_again(lambda: self._round(door))

    def forget(self) -> None:
        """The gateway may be another one: ask it again what it has."""
        self._have.clear()

    async def _round(self, door: GatewayDoor) -> None:
        for worker in self._workers():
            shipped = await self._news(worker)
            if shipped is not None:
                await self._ship(door, shipped)
        await asyncio.sleep(self._pause_s)

    async def _news(self, worker: str) -> ShippedLog | None:
        """Lines that the gateway does not have; none at all is a question what it has. None: it has everything."""
        if worker not in self._have:
            return ShippedLog(worker=worker, after=0)
        have = self._have[worker]
        try:
            last = self._logs.last_number(worker)
            if last == (have or 0):
                return None
            after = None if have is not None and have > last else have or 0  # None: this board's disk was wiped
            since = after or 0
            from_there = since if last - since <= MAX_LOG_LINES else None
            lines = await asyncio.to_thread(self._logs.tail, worker, MAX_LOG_LINES, from_there)
            self._is_failing = False
        except OSError as error:
            if not self._is_failing:
                log.error("log_shipping.failed", extra={"worker": worker, "reason": error.strerror})
            self._is_failing = True
            return None
        now_ms = int(time.time() * 1000)
        return ShippedLog(worker=worker, after=after, lines=tuple(_shipped(line, now_ms) for line in lines))

    async def _ship(self, door: GatewayDoor, shipped: ShippedLog) -> None:
        body = LOG_SHIPMENT.dump(LogShipment(boot_id=door.boot_id, logs=(shipped,)))
        answer = await door.call("POST", "/logs", body, timeout_s=CALL_TIMEOUT_S)
        if answer.status != 200:  # it has forgotten us, which the next heartbeat learns; or it is an older one
            self.forget()
            await asyncio.sleep(LONGEST_PAUSE_S)
            return
        try:
            self._have[shipped.worker] = LOG_SHIPMENT_REPLY.parse(answer.body).have.get(shipped.worker)
        except InvalidInput as error:
            raise PeerUnavailable(f"its answer to a log cannot be read: {error}") from error


def _shipped(line: Line, now_ms: int) -> ShippedLine:
    age_ms = now_ms - line.at_ms
    is_sensible = 0 <= age_ms <= OLDEST_MS
    return ShippedLine(number=line.number, age_ms=age_ms if is_sensible else None, source=line.source, text=line.text)

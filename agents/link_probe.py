"""Measures a link over which no pictures come: now and then a few bytes from the gateway.

The gateway stands for the task manager, which usually is the same process. What pictures have shown counts more.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass

import aiohttp
from yarl import URL

from agents.link import MIN_MEASURED_MS, LinkMeter, LinkShaper
from edgesched.errors import PeerUnavailable
from edgesched.rest import API_PREFIX

INTERVAL_S = 10.0
"""Between two probes, and without a picture before the first: less than a tenth of a per cent of a link, or so."""

SMALLEST_BYTES = 64 * 1024
LARGEST_BYTES = 1024 * 1024
"""The gateway gives no more."""

STEP = 4
QUICK_MS = 4 * MIN_MEASURED_MS
SLOW_MS = 100.0
CALL_TIMEOUT_S = 5.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """The part of an answer that came after its first bytes: how long those took says nothing of the bandwidth."""

    size_bytes: int
    duration_ms: float


class LinkProbe:
    """Asks for so many bytes that their time can be measured, and no more."""

    def __init__(
        self, gateway_url: str, session: aiohttp.ClientSession, meter: LinkMeter, shaper: LinkShaper | None
    ) -> None:
        """shaper: of an emulated link."""
        self._url = f"{gateway_url}{API_PREFIX}/link-probe"
        self._session = session
        self._meter = meter
        self._shaper = shaper
        self._size_bytes = SMALLEST_BYTES
        self._is_failing = False

    async def run(self, known: asyncio.Event, interval_s: float = INTERVAL_S) -> None:
        """Until cancelled. known: set while the gateway knows this board."""
        while True:
            await known.wait()
            idle_s = self._meter.idle_s
            if idle_s is None or idle_s >= interval_s:
                await self._probe_once()
            await asyncio.sleep(interval_s)

    async def _probe_once(self) -> None:
        try:
            transfer = await self._fetch()
        except PeerUnavailable as error:  # heartbeats say more about that; an older gateway has no such route
            if not self._is_failing:
                log.info("link.probe_failed", extra={"url": self._url, "reason": str(error)})
            self._is_failing = True
            return
        self._is_failing = False
        self._meter.probed(transfer.size_bytes, transfer.duration_ms)
        self._size_bytes = next_size(self._size_bytes, transfer.duration_ms)

    async def _fetch(self) -> Transfer:
        """Raises: PeerUnavailable if no whole answer came in time."""
        asked = self._size_bytes
        loop = asyncio.get_running_loop()
        sent_at = loop.time()
        try:
            async with self._session.get(
                URL(f"{self._url}?bytes={asked}"),
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=CALL_TIMEOUT_S),
            ) as response:
                if response.status != 200:
                    raise PeerUnavailable(f"it answered {response.status}")
                transfer = await _measured(response.content, asked)
        except TimeoutError as error:
            raise PeerUnavailable(f"no answer within {CALL_TIMEOUT_S:.0f} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise PeerUnavailable(str(error) or type(error).__name__) from error
        if self._shaper is None:
            return transfer
        # On an emulated link the bytes would have come later. Pictures that come meanwhile queue behind them.
        due = self._shaper.arrival(sent_at, asked)
        await asyncio.sleep(due - loop.time())
        busy_ms = (due - self._shaper.half_trip_s - sent_at) * 1000.0
        return Transfer(size_bytes=asked, duration_ms=max(busy_ms, transfer.duration_ms))


def next_size(size_bytes: int, duration_ms: float) -> int:
    """How many bytes to ask for after so many took so long."""
    if duration_ms < QUICK_MS:
        return min(LARGEST_BYTES, size_bytes * STEP)
    return max(SMALLEST_BYTES, size_bytes // STEP) if duration_ms > SLOW_MS else size_bytes


async def _measured(content: aiohttp.StreamReader, size_bytes: int) -> Transfer:
    first = await content.readany()
    began = time.perf_counter()
    seen = len(first)
    while chunk := await content.readany():
        seen += len(chunk)
        if seen > size_bytes:
            break
    duration_ms = (time.perf_counter() - began) * 1000.0
    if seen != size_bytes:
        raise PeerUnavailable(f"its answer has another length than the {size_bytes} bytes that were asked for")
    return Transfer(size_bytes=seen - len(first), duration_ms=duration_ms)

"""The link to this board: how fast it was seen to be, and, for emulated boards and tests, how fast it may be."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import TypeVar

MIN_MEASURED_BYTES = 32 * 1024
MIN_MEASURED_MS = 1.0
"""Less says more about the scheduler's granularity than about the link."""

NEW_WEIGHT = 0.2
"""Of the newest sample in the moving average: about the last ten pictures count."""

ROUND_TRIPS_KEPT = 8
PROBES_KEPT = 8
PICTURES_COUNT_S = 600.0
"""After so long without a picture the link may be another one, and probes of the idle link say more."""

FLUCTUATION_MBPS = (50.0, 500.0)
FLUCTUATION_S = 1.0
MESSAGES_ON_THE_LINE = 64

Message = TypeVar("Message")


class LinkMeter:
    """Measurements from real transfers; from small probes while there are none. None until there was one."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: in seconds."""
        self._clock = clock
        self._bandwidth_mbps: float | None = None
        self._measured_at = 0.0  # that bandwidth
        self._transferred_at: float | None = None  # the last picture, whatever it taught
        self._probes_mbps: deque[float] = deque(maxlen=PROBES_KEPT)
        self._round_trips_ms: deque[float] = deque(maxlen=ROUND_TRIPS_KEPT)

    @property
    def bandwidth_mbps(self) -> float | None:
        """Megabits per second, task manager to agent.

        Of probes the quickest counts: a short transfer ends before the connection has got up to its speed.
        """
        is_fresh = self._bandwidth_mbps is not None and self._clock() - self._measured_at < PICTURES_COUNT_S
        return self._bandwidth_mbps if is_fresh else max(self._probes_mbps, default=self._bandwidth_mbps)

    @property
    def latency_ms(self) -> float | None:
        """The quickest of the last round trips: the others had to wait for something that is not the link."""
        return min(self._round_trips_ms, default=None)

    @property
    def idle_s(self) -> float | None:
        """Since the last picture; None if there was none."""
        return None if self._transferred_at is None else self._clock() - self._transferred_at

    def transferred(self, size_bytes: int, duration_ms: float) -> None:
        """A picture has come; duration_ms: how long the link was busy with it."""
        self._transferred_at = self._clock()
        sample = _mbps(size_bytes, duration_ms)
        if sample is None:
            return
        known = self._bandwidth_mbps
        self._bandwidth_mbps = sample if known is None else known + NEW_WEIGHT * (sample - known)
        self._measured_at = self._transferred_at

    def probed(self, size_bytes: int, duration_ms: float) -> None:
        """The same, of bytes that came only to be measured."""
        sample = _mbps(size_bytes, duration_ms)
        if sample is not None:
            self._probes_mbps.append(sample)

    def round_trip(self, duration_ms: float) -> None:
        self._round_trips_ms.append(duration_ms)


def _mbps(size_bytes: int, duration_ms: float) -> float | None:
    """None if it was too little or too quick to teach anything."""
    if size_bytes < MIN_MEASURED_BYTES or duration_ms < MIN_MEASURED_MS:
        return None
    return size_bytes * 8 / duration_ms / 1000.0


class LinkShaper:
    """A first-in first-out link of a given bandwidth and delay, as arithmetic: it says when a message would arrive."""

    def __init__(
        self, *, mbps: float | None, round_trip_ms: float, fluctuates: bool = False, seed: int | None = None
    ) -> None:
        """mbps: None: as fast as the real link. fluctuates: a new rate of 50..500 Mbit/s is drawn each second."""
        self.half_trip_s = round_trip_ms / 2000.0
        self._mbps = mbps
        self._fluctuates = fluctuates
        self._random = random.Random(seed)
        self._drawn_at: float | None = None
        self._free_at = 0.0

    def arrival(self, now: float, size_bytes: int) -> float:
        """When something that is sent now has come whole, in seconds of the same clock. Never earlier than the last."""
        rate = self._rate(now)
        busy_s = size_bytes * 8 / (rate * 1e6) if rate is not None else 0.0
        self._free_at = max(now, self._free_at) + busy_s
        return self._free_at + self.half_trip_s

    def _rate(self, now: float) -> float | None:
        if self._fluctuates and (self._drawn_at is None or now - self._drawn_at >= FLUCTUATION_S):
            self._drawn_at = now
            self._mbps = self._random.uniform(*FLUCTUATION_MBPS)
        return self._mbps


async def shaped(
    messages: AsyncIterator[Message], shaper: LinkShaper, size_of: Callable[[Message], int]
) -> AsyncGenerator[Message, None]:
    """The messages in their order, each when it would have arrived; close it with `aclosing`.

    Delays overlap, as on a real line. When it is full, `messages` is not read on, so that the sender feels it.
    """
    loop = asyncio.get_running_loop()
    line: asyncio.Queue[tuple[float, Message] | None] = asyncio.Queue(MESSAGES_ON_THE_LINE)

    async def fill() -> None:
        try:
            async for message in messages:
                await line.put((shaper.arrival(loop.time(), size_of(message)), message))
        finally:
            if not filler.cancelling():  # else nobody takes anything off the line any more
                await line.put(None)

    filler = asyncio.create_task(fill(), name="emulated link")
    try:
        while (item := await line.get()) is not None:
            due, message = item
            await asyncio.sleep(due - loop.time())
            yield message
        await filler  # tells why the messages ended, if it was an error
    finally:
        filler.cancel()
        await asyncio.wait({filler})

"""An event for whoever works in batches: now, or when there is company."""

from __future__ import annotations

import asyncio


class Wake:
    """For one waiter. What a round costs hardly depends on how much it does, so what is not urgent waits for more."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    def now(self) -> None:
        self._event.set()

    def within(self, delay_s: float) -> None:
        """At the latest after this time."""
        if self._event.is_set():
            return
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            if self._timer.when() <= loop.time() + delay_s:
                return
            self._timer.cancel()
        self._timer = loop.call_later(delay_s, self._event.set)

    async def wait(self) -> None:
        """Return when it is time; what is said from then on counts for the next round."""
        await self._event.wait()
        self._event.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

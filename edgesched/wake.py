"""An event for whoever works in batches: now, or when there is company."""

from __future__ import annotations

import asyncio


class Wake:
    """For one waiter. What a round costs hardly depends on how much it does, so what is not urgent waits for more."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._timer: asyncio.Handle | None = None
        self._due_s = 0.0  # when it rings; not asked of the timer, because uvloop's has no time if the delay is 0

    def now(self) -> None:
        self._event.set()

    def within(self, delay_s: float) -> None:
        """At the latest after this time."""
        if self._event.is_set():
            return
        loop = asyncio.get_running_loop()
        due_s = loop.time() + delay_s
        if self._timer is not None:
            if self._due_s <= due_s:
                return
            self._timer.cancel()
        self._timer, self._due_s = loop.call_later(delay_s, self._event.set), due_s

    async def wait(self) -> None:
        """Return when it is time; what is said from then on counts for the next round."""
        await self._event.wait()
        self._event.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

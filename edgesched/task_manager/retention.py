"""Pictures and rows of settled tasks that have had their time."""

from __future__ import annotations

import asyncio
import logging

from edgesched.clock import Clock
from edgesched.images.base import ImageStore
from edgesched.ledger.base import Ledger

log = logging.getLogger(__name__)

RETENTION_TICK_S = 5.0
RETENTION_BATCH = 1_000


class Retention:
    """Lets settled tasks' pictures go by age and bytes, then their rows by age. Undelivered results stay."""

    def __init__(
        self,
        ledger: Ledger,
        images: ImageStore,
        *,
        clock: Clock,
        image_retention_s: int,
        image_retention_bytes: int,
        task_retention_s: int,
    ) -> None:
        self._ledger = ledger
        self._images = images
        self._clock = clock
        self._image_retention_s = image_retention_s
        self._image_retention_bytes = image_retention_bytes
        self._task_retention_s = task_retention_s

    async def run(self) -> None:
        while True:
            there_is_more = await self._one_round()
            await asyncio.sleep(0 if there_is_more else RETENTION_TICK_S)

    async def _one_round(self) -> bool:
        """Returns: whether there may be more to let go."""
        now_ms = self._clock.wall_ms()
        images = await self._ledger.retire_images(
            settled_before_ms=now_ms - self._image_retention_s * 1000,
            keep_bytes=self._image_retention_bytes,
            limit=RETENTION_BATCH,
        )
        rows = await self._ledger.retire_tasks(
            settled_before_ms=now_ms - self._task_retention_s * 1000, limit=RETENTION_BATCH
        )
        released = images.images + rows.images
        if released:
            await self._images.release(released)
            log.debug("images.released", extra={"count": len(released), "rows": rows.tasks})
        return len(images.images) == RETENTION_BATCH or rows.tasks == RETENTION_BATCH

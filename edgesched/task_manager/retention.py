"""Pictures and rows of settled tasks that have had their time."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from edgesched.clock import Clock
from edgesched.domain.task import ImageRef
from edgesched.images.base import ImageStore
from edgesched.ledger.base import Ledger

log = logging.getLogger(__name__)

RETENTION_TICK_S = 5.0
RETENTION_BATCH = 1_000
NEVER_MS = 0  # no task settled before 1970


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionLimits:
    """How long what is left of a settled task stays. keep_upload: its picture, and the row that names it, for ever."""

    image_s: int
    image_bytes: int
    task_s: int
    key_s: int
    keep_upload: bool


class Retention:
    """Lets settled tasks' pictures go by age and bytes, then their rows, then their keys. Undelivered results stay."""

    def __init__(self, ledger: Ledger, images: ImageStore, *, clock: Clock, limits: RetentionLimits) -> None:
        self._ledger = ledger
        self._images = images
        self._clock = clock
        self._limits = limits

    async def run(self) -> None:
        while True:
            there_is_more = await self._one_round()
            await asyncio.sleep(0 if there_is_more else RETENTION_TICK_S)

    async def _one_round(self) -> bool:
        """Returns: whether there may be more to let go."""
        now_ms, limits = self._clock.wall_ms(), self._limits
        images: tuple[ImageRef, ...] = ()
        if not limits.keep_upload:
            retired = await self._ledger.retire_images(
                settled_before_ms=now_ms - limits.image_s * 1000, keep_bytes=limits.image_bytes, limit=RETENTION_BATCH
            )
            images = retired.images
        rows = await self._ledger.retire_tasks(
            settled_before_ms=NEVER_MS if limits.keep_upload else now_ms - limits.task_s * 1000,
            keys_before_ms=now_ms - limits.key_s * 1000,
            limit=RETENTION_BATCH,
        )
        released = images + rows.images
        if released:
            await self._images.release(released)
            log.debug("images.released", extra={"count": len(released), "rows": rows.tasks})
        return len(images) == RETENTION_BATCH or rows.tasks == RETENTION_BATCH

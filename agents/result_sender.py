"""Post labels to the receivers that the ledger has said to deliver to.

One POST at a time per receiver, with everything that waits for it: while one is on its way the next batch collects. A
receiver that is away is tried again for ever, with a growing pause; the outbox is bounded, nothing here is.
"""

from __future__ import annotations

import asyncio
import logging
import random
from itertools import islice

import aiohttp

from agents.http import call
from agents.outbox import Entry, Outbox
from edgesched.domain.task import Failure
from edgesched.errors import InvalidInput, PeerUnavailable
from edgesched.rest import DELIVERY, DELIVERY_REPLY, MAX_DELIVERY_BATCH, Delivery, DeliveryReply, LabelledPicture

MAX_BATCH_BYTES = 512 * 1024
"""Web servers take one megabyte as a rule; a batch stays well below it, unless one item alone is larger."""

POSTS_IN_FLIGHT = 4
POST_TIMEOUT_S = 5.0
"""A connection may have died in silence, and then only a new one helps. A slow receiver gets less at once."""

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0
"""A receiver that is back, after however long, gets its labels within this time; asking more often gains little."""

log = logging.getLogger(__name__)


class ResultSender:
    """Sleeps until the outbox says that something is to be delivered."""

    def __init__(
        self, outbox: Outbox, session: aiohttp.ClientSession, *, post_timeout_s: float = POST_TIMEOUT_S
    ) -> None:
        self._outbox = outbox
        self._session = session
        self._post_timeout_s = post_timeout_s

    async def run(self) -> None:
        """Until cancelled. It may be run again afterwards."""
        posts = asyncio.Semaphore(POSTS_IN_FLIGHT)
        busy: dict[str, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as tasks:
            while True:
                # Looked at before waiting: work may have come while nobody ran.
                for url in self._outbox.receivers():
                    if url not in busy or busy[url].done():
                        busy[url] = tasks.create_task(self._serve(url, posts), name=f"deliver to {url}")
                for url in [url for url, task in busy.items() if task.done()]:
                    del busy[url]
                await self._outbox.deliverable.wait()
                self._outbox.deliverable.clear()

    async def _serve(self, url: str, posts: asyncio.Semaphore) -> None:
        """Deliver to one receiver until nothing is left for it."""
        failures = 0
        most = MAX_DELIVERY_BATCH
        while batch := batch_of(self._outbox, url, most):
            try:
                async with posts:
                    reply = await self._post(url, batch)
            except InvalidInput as error:
                for entry in batch:
                    self._outbox.rejected(entry, str(error))
                continue
            except PeerUnavailable as error:
                problem: str | None = str(error)
                if isinstance(error.__cause__, TimeoutError):
                    most = max(1, most // 4)
            else:
                problem = self._settle(batch, reply)
            if problem is None:
                if failures:
                    log.info("receiver.back", extra={"url": url, "failures": failures})
                failures, most = 0, min(MAX_DELIVERY_BATCH, most * 2)
                continue
            failures += 1
            if failures == 1:
                log.warning("receiver.away", extra={"url": url, "reason": problem})
            await asyncio.sleep(pause_s(failures))

    async def _post(self, url: str, batch: list[Entry]) -> DeliveryReply:
        """Raises: PeerUnavailable if it did not answer as a receiver does; InvalidInput if it is no usable URL."""
        delivery = DELIVERY.dump(Delivery(results=tuple(map(labelled, batch))))
        reply = await call(self._session, "POST", url, delivery, timeout_s=self._post_timeout_s)
        if reply.status != 200:
            raise PeerUnavailable(f"it answered {reply.status}: {reply.body[:200].decode(errors='replace')}")
        try:
            return DELIVERY_REPLY.parse(reply.body)
        except InvalidInput as error:
            raise PeerUnavailable(f"its answer is not one of a receiver: {error}") from error

    def _settle(self, batch: list[Entry], reply: DeliveryReply) -> str | None:
        """Note what the receiver said. Returns what is wrong if it left an item out: that one is sent again."""
        accepted, rejected = set(reply.accepted), {item.task_id: item.reason for item in reply.rejected}
        left_out = 0
        for entry in batch:
            task_id = entry.assignment.task_id
            if task_id in accepted:
                self._outbox.delivered(entry)
            elif task_id in rejected:
                log.error("delivery.rejected", extra={"task_id": task_id, "reason": rejected[task_id]})
                self._outbox.rejected(entry, f"the receiver rejected it: {rejected[task_id]}")
            else:
                left_out += 1
        return f"its answer leaves out {left_out} of {len(batch)} results" if left_out else None


def batch_of(outbox: Outbox, url: str, most: int) -> list[Entry]:
    """The oldest entries for a receiver, up to `most` that fit into one POST; at least one if there is one."""
    batch: list[Entry] = []
    size_bytes = 0
    for entry in islice(outbox.to_deliver(url), most):
        size_bytes += len(entry.line)
        if batch and size_bytes > MAX_BATCH_BYTES:
            break
        batch.append(entry)
    return batch


def labelled(entry: Entry) -> LabelledPicture:
    result = entry.outcome()
    assert not isinstance(result, Failure)  # failures are never delivered
    return LabelledPicture(
        task_id=entry.assignment.task_id,
        attempt_id=entry.assignment.attempt_id,
        model=entry.assignment.model,
        file_name=entry.assignment.file_name,
        detections=result.detections,
    )


def pause_s(failures: int) -> float:
    """Doubles with each failure; half of it is chance, so that boards do not come back all at once."""
    longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(failures - 1, 10))
    return random.uniform(longest / 2, longest)

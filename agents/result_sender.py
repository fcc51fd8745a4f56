"""Post labels to the receivers that the ledger has said to deliver to.

One POST at a time per receiver, with everything that waits for it: while one is on its way the next batch collects. A
receiver that is away is tried again for ever, with a growing pause; the outbox is bounded, nothing here is.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from itertools import islice

import aiohttp

from agents.http import Reply, call
from agents.outbox import Entry, Outbox
from agents.plain_http import NotPlain, PlainHttp
from edgesched.domain.task import Failure
from edgesched.errors import InvalidInput, PeerUnavailable
from edgesched.rest import DELIVERY_REPLY, LABELLED_PICTURE, MAX_DELIVERY_BATCH, DeliveryReply, LabelledPicture

MAX_BATCH_BYTES = 512 * 1024
"""Web servers take one megabyte as a rule; a batch stays well below it, unless one item alone is larger."""

MAX_NOT_PLAIN = 1_000
"""Receivers that are remembered as such; others are tried again."""

POSTS_IN_FLIGHT = 4
POST_TIMEOUT_S = 5.0
"""A connection may have died in silence, and then only a new one helps. A slow receiver gets less at once."""

PAUSE_FACTOR = 2.0
LONGEST_REST_S = 0.003
"""While labels keep coming, POSTs take a part of the time only: what one costs hardly depends on how much is in it. The
first one after a quiet time leaves at once. Short, for a client may wait for these before it sends its next picture."""

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
        self._plain = PlainHttp()
        self._not_plain: set[str] = set()  # URLs whose answers only aiohttp understands
        self._post_timeout_s = post_timeout_s

    async def run(self) -> None:
        """Until cancelled. It may be run again afterwards."""
        posts = asyncio.Semaphore(POSTS_IN_FLIGHT)
        busy: dict[str, asyncio.Task[None]] = {}
        try:
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
        finally:
            self._plain.close()

    async def _serve(self, url: str, posts: asyncio.Semaphore) -> None:
        """Deliver to one receiver until nothing is left for it."""
        failures = 0
        most = MAX_DELIVERY_BATCH
        while True:
            batch, body = batch_of(self._outbox, url, most)
            if not batch:
                return
            started_at = time.monotonic()
            try:
                async with posts:
                    reply = await self._post(url, body)
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
                await asyncio.sleep(min(LONGEST_REST_S, PAUSE_FACTOR * (time.monotonic() - started_at)))
                continue
            failures += 1
            if failures == 1:
                log.warning("receiver.away", extra={"url": url, "reason": problem})
            await asyncio.sleep(pause_s(failures))

    async def _post(self, url: str, body: bytes) -> DeliveryReply:
        """Raises: PeerUnavailable if it did not answer as a receiver does; InvalidInput if it is no usable URL."""
        reply = await self._answer(url, body)
        if reply.status != 200:
            raise PeerUnavailable(f"it answered {reply.status}: {reply.body[:200].decode(errors='replace')}")
        try:
            return DELIVERY_REPLY.parse(reply.body)
        except InvalidInput as error:
            raise PeerUnavailable(f"its answer is not one of a receiver: {error}") from error

    async def _answer(self, url: str, body: bytes) -> Reply:
        if url not in self._not_plain:
            try:
                return await self._plain.post(url, body, timeout_s=self._post_timeout_s)
            except NotPlain:
                if len(self._not_plain) >= MAX_NOT_PLAIN:
                    self._not_plain.clear()
                self._not_plain.add(url)
        return await call(self._session, "POST", url, body, timeout_s=self._post_timeout_s)

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


def batch_of(outbox: Outbox, url: str, most: int) -> tuple[list[Entry], bytes]:
    """The oldest entries for a receiver, and what to POST: a `Delivery` of them.

    Up to `most` that fit into one POST; at least one if there is one.
    """
    batch: list[Entry] = []
    items: list[bytes] = []
    size_bytes = 0
    for entry in islice(outbox.to_deliver(url), most):
        item = LABELLED_PICTURE.dump(labelled(entry))
        size_bytes += len(item)
        if batch and size_bytes > MAX_BATCH_BYTES:
            break
        batch.append(entry)
        items.append(item)
    return batch, b'{"results":[' + b",".join(items) + b"]}"


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

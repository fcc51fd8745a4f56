"""The result sender and receivers that are slow, or that vanish without a word."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from aiohttp import web

from agents.outbox import Entry, Outbox
from agents.result_sender import POST_TIMEOUT_S, ResultSender
from agents.work import Assignment
from edgesched.domain.task import AttemptId, Result, TaskId, Timings
from tests.chaos.link import Link
from tests.support.agent_parts import WITHIN_S, FakeReceiver, listening

MIB = 1024 * 1024
LABELS = Result(detections=(), width=1, height=1, timings=Timings())


class Sending:
    """A result sender on an outbox of its own."""

    def __init__(self, outbox: Outbox, news: asyncio.Queue[Entry]) -> None:
        self._outbox = outbox
        self._news = news

    async def hand_in(self, url: str, *attempt_ids: str) -> None:
        """Labels that are to be delivered."""
        for attempt_id in attempt_ids:
            self._outbox.add(assignment(attempt_id, url), LABELS)
        for _ in attempt_ids:
            entry = await self._news.get()
            self._outbox.judged("ledger", entry.attempt_id, deliver=True)

    async def delivered(self, count: int) -> set[str]:
        async with asyncio.timeout(WITHIN_S):
            entries = [await self._news.get() for _ in range(count)]
        assert all(entry.is_delivered for entry in entries)
        return {entry.attempt_id for entry in entries}


@asynccontextmanager
async def sending(directory: Path) -> AsyncIterator[Sending]:
    news: asyncio.Queue[Entry] = asyncio.Queue()
    async with (
        aiohttp.ClientSession() as session,
        Outbox.opened(directory, max_bytes=MIB, on_due=news.put_nowait) as outbox,
    ):
        sender = ResultSender(outbox, session, post_timeout_s=0.3)
        loops = {asyncio.create_task(outbox.run()), asyncio.create_task(sender.run())}
        try:
            yield Sending(outbox, news)
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.wait(loops)


def assignment(attempt_id: str, url: str) -> Assignment:
    return Assignment(
        ledger_id="ledger",
        task_id=TaskId(f"task-{attempt_id}"),
        attempt_id=AttemptId(attempt_id),
        model="shapes",
        file_name="a.jpg",
        receiver_url=url,
    )


class NarrowReceiver(FakeReceiver):
    """Answers in time only what is small."""

    async def _take(self, request: web.Request) -> web.Response:
        answer = await super()._take(request)
        if self.batches[-1] > 4:
            await asyncio.Event().wait()
        return answer


class ChunkedReceiver(FakeReceiver):
    """Answers in chunks, as some web frameworks do."""

    async def _take(self, request: web.Request) -> web.Response:
        answer = await super()._take(request)
        answer.enable_chunked_encoding()
        return answer


async def test_a_receiver_whose_answers_are_not_plain_is_asked_by_a_whole_http_client_from_then_on(
    tmp_path: Path,
) -> None:
    receiver = ChunkedReceiver()
    async with listening(receiver.app()) as url, sending(tmp_path) as outbox:
        for attempt in ("a1", "a2", "a3"):
            await outbox.hand_in(url, attempt)
            assert await outbox.delivered(1) == {attempt}
    posts = [receiver.posts.get_nowait()[0]["task_id"] for _ in range(receiver.posts.qsize())]
    assert posts == ["task-a1", "task-a1", "task-a2", "task-a3"]


async def test_a_receiver_that_cannot_take_much_at_once_gets_less(tmp_path: Path) -> None:
    attempts = {f"a{number}" for number in range(30)}
    async with listening(NarrowReceiver().app()) as url, sending(tmp_path) as outbox:
        await outbox.hand_in(url, *attempts)

        assert await outbox.delivered(30) == attempts


async def test_a_connection_that_has_died_in_silence_is_given_up_for_a_new_one(tmp_path: Path) -> None:
    async with listening(FakeReceiver().app()) as url:
        link = Link("to the receiver", url.removeprefix("http://"))
        async with link.opened(), sending(tmp_path) as outbox:
            await outbox.hand_in(f"http://{link.address}", "a1")
            assert await outbox.delivered(1) == {"a1"}
            link.vanish()  # the connection that was kept for the next labels
            link.mend()
            await outbox.hand_in(f"http://{link.address}", "a2")

            assert await outbox.delivered(1) == {"a2"}


def test_labels_wait_only_some_seconds_for_an_answer_that_will_never_come() -> None:
    assert POST_TIMEOUT_S <= 5.0

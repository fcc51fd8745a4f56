"""One stream with a task manager: pictures in, outcomes out. It lives as long as the connection; the work does not."""

from __future__ import annotations

import asyncio
import logging
import re
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import grpc

from agents.desk import Desk
from agents.frames import MAX_BODY_BYTES
from agents.link import LinkMeter, LinkShaper, shaped
from agents.outbox import Entry, Stage
from agents.work import Assignment, Job
from edgesched import wire
from edgesched.domain.task import AttemptId, Failure, FailureKind, TaskId
from edgesched.v1 import agent_pb2 as pb
from edgesched.wake import Wake

MAX_CONTROL_MESSAGES = 4_096
"""Unsent ones. A task manager that does not read for so long is cut off; it hears everything again after Hello."""

NEWS_PER_MESSAGE = 64
"""The labels of so many pictures are a megabyte or two, well below what a message may hold."""

UNHURRIED_S = 0.02
"""What nobody waits for leaves within this time, with whatever else does."""

MAX_PROBE_BYTES = 64 * 1024
ID_PATTERN = re.compile(r"[A-Za-z0-9_-]{1,64}")

log = logging.getLogger(__name__)


class StreamEnded(Exception):
    """This stream must end, with this status; work that is in hand goes on."""

    def __init__(self, status: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.status = status
        self.details = details


class Outgoing:
    """What waits to be sent: control messages first, then news of outbox entries.

    An entry is read when its turn comes, so a slow reader costs no memory, and nothing is said twice or too late.
    delay_s: emulated; everything leaves that much later, in its order.
    """

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._control: deque[tuple[float, pb.FromAgent]] = deque()
        self._due: dict[AttemptId, float] = {}
        self._wake = Wake()
        self._all_sent = asyncio.Event()

    def say(self, message: pb.FromAgent, *, within_s: float = 0.0) -> None:
        """Raises: StreamEnded if too many wait."""
        if len(self._control) >= MAX_CONTROL_MESSAGES:
            raise StreamEnded(grpc.StatusCode.RESOURCE_EXHAUSTED, "the agent's answers are not read: connect again")
        self._control.append((self._leaves_at(), message))
        self._wake_writer(within_s)

    def due(self, attempt_id: AttemptId, *, within_s: float) -> None:
        self._due.setdefault(attempt_id, self._leaves_at())
        self._wake_writer(within_s)

    async def all_sent(self) -> None:
        self._wake.now()
        await self._all_sent.wait()

    async def next(self) -> list[pb.FromAgent | AttemptId]:
        """Everything that may leave now, at most NEWS_PER_MESSAGE; asking means that what came before was sent."""
        while True:
            if not (self._control or self._due):
                self._all_sent.set()
            await self._wake.wait()
            if ready := await self._ready():
                return ready

    async def _ready(self) -> list[pb.FromAgent | AttemptId]:
        if self._delay_s and (self._control or self._due):
            first = self._control[0][0] if self._control else next(iter(self._due.values()))
            await asyncio.sleep(first - asyncio.get_running_loop().time())
        now = asyncio.get_running_loop().time()
        ready: list[pb.FromAgent | AttemptId] = []
        while self._control and self._control[0][0] <= now and len(ready) < NEWS_PER_MESSAGE:
            ready.append(self._control.popleft()[1])
        due = [attempt_id for attempt_id, leaves_at in self._due.items() if leaves_at <= now]
        for attempt_id in due[: NEWS_PER_MESSAGE - len(ready)]:
            del self._due[attempt_id]
            ready.append(attempt_id)
        if self._control or self._due:
            self._wake.now()
        return ready

    def _wake_writer(self, within_s: float) -> None:
        self._all_sent.clear()
        if within_s:
            self._wake.within(within_s)
        else:
            self._wake.now()

    def _leaves_at(self) -> float:
        return asyncio.get_running_loop().time() + self._delay_s if self._delay_s else 0.0


@dataclass(slots=True, kw_only=True, eq=False)
class Arriving:
    """A picture of which not every chunk has come."""

    assignment: Assignment
    size_bytes: int
    dispatched_at: float
    timer: asyncio.TimerHandle
    announced_in: int  # the number of that message
    chunks: list[bytes] = field(default_factory=list)
    received_bytes: int = 0
    timed_bytes: int = 0  # those that came in later messages
    transfer_s: float = 0.0  # how long the link was busy with them

    @property
    def transfer_ms(self) -> float | None:
        """How long the link was busy with the picture; None: all of it came in one message, which tells nothing."""
        return self.transfer_s * 1000.0 * self.size_bytes / self.timed_bytes if self.timed_bytes else None


class WorkStream:
    """Serves one connection. `ledger_id`, `epoch` and `number` say whose it is."""

    def __init__(self, opened: pb.Open, desk: Desk, meter: LinkMeter, shaper: LinkShaper | None) -> None:
        self.ledger_id = opened.ledger_id
        self.rank = (opened.epoch, opened.stream_number)
        self._desk = desk
        self._meter = meter
        self._shaper = shaper
        self._outgoing = Outgoing(shaper.half_trip_s if shaper else 0.0)
        self._arriving: dict[AttemptId, Arriving] = {}
        self._messages = 0
        self._last_chunk_at = 0.0
        self._ended: asyncio.Future[StreamEnded | None] = asyncio.get_running_loop().create_future()

    def due(self, entry: Entry) -> None:
        """It has news. That its labels were delivered is nothing that anybody waits for.

        Labels never wait for others: with eight pictures in flight that left workers without work, whatever it saved.
        """
        self._outgoing.due(entry.attempt_id, within_s=UNHURRIED_S if entry.stage is Stage.REPORTING else 0.0)

    async def all_sent(self) -> None:
        """Wait until nothing waits to be sent."""
        await self._outgoing.all_sent()

    def end(self, why: StreamEnded | None) -> None:
        """None: without an error. Safe to call twice."""
        if not self._ended.done():
            self._ended.set_result(why)

    async def serve(
        self,
        hello: pb.Hello,
        messages: AsyncIterator[pb.TaskManagerItems],
        write: Callable[[pb.AgentItems], Awaitable[None]],
    ) -> None:
        """Say hello and everything that the task manager may have missed, then serve until either side ends it.

        Raises: StreamEnded.
        """
        self._outgoing.say(pb.FromAgent(hello=hello))
        for entry in self._desk.outbox.entries():
            if entry.assignment.ledger_id == self.ledger_id:
                self.due(entry)
        reader = asyncio.create_task(self._read(messages), name="stream reader")
        writer = asyncio.create_task(self._write(write), name="stream writer")
        halves: set[asyncio.Future[Any]] = {reader, writer}
        try:
            await asyncio.wait(halves | {self._ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for half in halves:
                half.cancel()
            await asyncio.wait(halves)
            for arriving in self._arriving.values():
                arriving.timer.cancel()
        for half in halves:
            if not half.cancelled():
                half.result()
        if self._ended.done() and (why := self._ended.result()) is not None:
            raise why

    async def _write(self, write: Callable[[pb.AgentItems], Awaitable[None]]) -> None:
        while True:
            items: list[pb.FromAgent] = []
            for item in await self._outgoing.next():
                if isinstance(item, pb.FromAgent):
                    items.append(item)
                elif (entry := self._desk.outbox.get(item)) is not None and (news := news_of(entry)) is not None:
                    items.append(news)
            if items:
                await write(pb.AgentItems(items=items))

    async def _read(self, messages: AsyncIterator[pb.TaskManagerItems]) -> None:
        if self._shaper is None:
            async for message in messages:
                self._on_items(message)
            return
        async with aclosing(shaped(messages, self._shaper, _size_on_link)) as delayed:
            async for message in delayed:
                self._on_items(message)

    def _on_items(self, message: pb.TaskManagerItems) -> None:
        self._messages += 1
        for item in message.items:
            self._on_message(item)

    def _on_message(self, message: pb.FromTaskManager) -> None:
        match message.WhichOneof("message"):
            case "chunk":
                self._on_chunk(message.chunk)
            case "dispatch":
                self._on_dispatch(message.dispatch)
            case "outcome_ack":
                ack = message.outcome_ack
                deliver = ack.verdict == pb.OutcomeAck.VERDICT_DELIVER
                if not deliver and ack.verdict != pb.OutcomeAck.VERDICT_DISCARD:
                    raise _bad(f"attempt {ack.attempt_id}: a verdict must be DELIVER or DISCARD")
                self._desk.outbox.judged(self.ledger_id, AttemptId(ack.attempt_id), deliver=deliver)
            case "delivery_ack":
                self._desk.outbox.delivery_known(self.ledger_id, AttemptId(message.delivery_ack.attempt_id))
            case "cancel":
                self._on_cancel(AttemptId(message.cancel.attempt_id))
            case "probe":
                if len(message.probe.padding) > MAX_PROBE_BYTES:
                    raise _bad(f"a probe of {len(message.probe.padding)} bytes is over the limit of {MAX_PROBE_BYTES}")
                self._outgoing.say(pb.FromAgent(probe_reply=pb.ProbeReply(number=message.probe.number)))
            case "open":
                raise _bad("Open may only be the first message")
            case _:
                raise _bad("a message that this agent does not know: update the agent")

    def _on_dispatch(self, dispatch: pb.Dispatch) -> None:
        if not (ID_PATTERN.fullmatch(dispatch.attempt_id) and ID_PATTERN.fullmatch(dispatch.task_id)):
            raise _bad(f"attempt {dispatch.attempt_id!r} of task {dispatch.task_id!r} is not a usable pair of ids")
        attempt_id = AttemptId(dispatch.attempt_id)
        if attempt_id in self._arriving or self._desk.knows(attempt_id):
            log.info("dispatch.repeated", extra={"attempt_id": attempt_id})
            return
        refusal = self._refusal(dispatch)
        if refusal is not None:
            log.warning("dispatch.refused", extra={"attempt_id": attempt_id, "reason": refusal.message})
            outcome = pb.Outcome(attempt_id=attempt_id, task_id=dispatch.task_id, failure=wire.failure_to_pb(refusal))
            self._outgoing.say(pb.FromAgent(outcome=outcome))
            return
        loop = asyncio.get_running_loop()
        arriving = Arriving(
            assignment=Assignment(
                ledger_id=self.ledger_id,
                task_id=TaskId(dispatch.task_id),
                attempt_id=attempt_id,
                model=dispatch.model,
                file_name=dispatch.file_name,
                receiver_url=dispatch.receiver_url if dispatch.HasField("receiver_url") else None,
            ),
            size_bytes=dispatch.size_bytes,
            dispatched_at=loop.time(),
            timer=loop.call_later(dispatch.remaining_ms / 1000.0, self._expire, attempt_id),
            announced_in=self._messages,
        )
        self._arriving[attempt_id] = arriving
        if arriving.size_bytes == 0:
            self._take(arriving)

    def _refusal(self, dispatch: pb.Dispatch) -> Failure | None:
        if dispatch.size_bytes > MAX_BODY_BYTES:
            why = f"the picture has {dispatch.size_bytes} bytes; no worker takes more than {MAX_BODY_BYTES}"
            return Failure(kind=FailureKind.INVALID_INPUT, message=why)
        reason = self._desk.refusal(
            dispatch.model,
            dispatch.size_bytes,
            arriving_tasks=len(self._arriving),
            arriving_bytes=sum(a.size_bytes for a in self._arriving.values()),
        )
        return None if reason is None else Failure(kind=FailureKind.REFUSED, message=reason)

    def _on_chunk(self, chunk: pb.Chunk) -> None:
        data = chunk.data
        if len(data) > wire.CHUNK_BYTES:
            raise _bad(f"a chunk of {len(data)} bytes is over the limit of {wire.CHUNK_BYTES}")
        now = asyncio.get_running_loop().time()
        busy_since, self._last_chunk_at = self._last_chunk_at, now
        arriving = self._arriving.get(AttemptId(chunk.attempt_id))
        if arriving is None:  # of a refused, repeated, cancelled or expired attempt
            return
        if arriving.announced_in != self._messages:
            # The link has carried this chunk since the one before it came, whichever picture that belonged to: time
            # spent behind other pictures is no property of the link.
            arriving.transfer_s += now - max(busy_since, arriving.dispatched_at)
            arriving.timed_bytes += len(data)
        arriving.chunks.append(data)
        arriving.received_bytes += len(data)
        if arriving.received_bytes > arriving.size_bytes:
            raise _bad(f"attempt {chunk.attempt_id}: more than the announced {arriving.size_bytes} bytes came")
        if arriving.received_bytes == arriving.size_bytes:
            self._take(arriving)

    def _take(self, arriving: Arriving) -> None:
        """The picture is whole."""
        attempt_id = arriving.assignment.attempt_id
        del self._arriving[attempt_id]
        arriving.timer.cancel()
        transfer_ms = arriving.transfer_ms
        if transfer_ms is not None:
            self._meter.transferred(arriving.size_bytes, transfer_ms)
        self._outgoing.say(pb.FromAgent(accepted=pb.Accepted(attempt_id=attempt_id)), within_s=UNHURRIED_S)
        self._desk.submit(
            Job(
                assignment=arriving.assignment,
                picture=arriving.chunks,
                size_bytes=arriving.size_bytes,
                arrived_at=asyncio.get_running_loop().time(),
                deadline_at=arriving.timer.when(),
                transfer_ms=transfer_ms,
            )
        )

    def _expire(self, attempt_id: AttemptId) -> None:
        arriving = self._arriving.pop(attempt_id)
        why = f"only {arriving.received_bytes} of {arriving.size_bytes} bytes came in the time that was left"
        self._desk.outbox.add(arriving.assignment, Failure(kind=FailureKind.TIMED_OUT, message=why))

    def _on_cancel(self, attempt_id: AttemptId) -> None:
        arriving = self._arriving.pop(attempt_id, None)
        if arriving is not None:
            arriving.timer.cancel()
        else:
            self._desk.cancel(attempt_id)


def news_of(entry: Entry) -> pb.FromAgent | None:
    """What the task manager should hear of an entry now."""
    attempt_id, task_id = entry.attempt_id, entry.assignment.task_id
    if entry.stage is Stage.WAITING_ACK:
        message = pb.Outcome(attempt_id=attempt_id, task_id=task_id)
        outcome = entry.outcome()
        if isinstance(outcome, Failure):
            message.failure.CopyFrom(wire.failure_to_pb(outcome))
        else:
            message.result.CopyFrom(wire.result_to_pb(outcome))
        return pb.FromAgent(outcome=message)
    if entry.stage is Stage.REPORTING:
        report = pb.DeliveryReport(
            attempt_id=attempt_id, task_id=task_id, delivered=entry.is_delivered, error=entry.error
        )
        return pb.FromAgent(delivery_report=report)
    return None


def _size_on_link(message: pb.TaskManagerItems) -> int:
    """Pictures are what fills a link; all else is small."""
    return sum(len(item.chunk.data) for item in message.items if item.HasField("chunk"))


def _bad(details: str) -> StreamEnded:
    return StreamEnded(grpc.StatusCode.INVALID_ARGUMENT, details)

"""The task manager's end of one board's stream: it heals by itself and never blocks itself."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import grpc
import grpc.aio

from edgesched import wire
from edgesched.domain.device import DeviceId
from edgesched.domain.task import AttemptId
from edgesched.errors import NotKnown
from edgesched.images.base import ImageStore, PictureDamaged
from edgesched.ledger.base import Ownership
from edgesched.task_manager.attempts import OpenAttempt
from edgesched.v1 import agent_pb2 as pb
from edgesched.v1 import agent_pb2_grpc as pb_grpc
from edgesched.wake import Wake

log = logging.getLogger(__name__)

LINK_OPTIONS: tuple[tuple[str, int], ...] = tuple(
    # A board that hangs or vanishes without a word keeps its pictures until this is noticed, while others may be idle.
    # gRPC answers these pings by itself, however busy the agent is.
    (dict(wire.CHANNEL_OPTIONS) | dict(wire.keepalive(4_000, 3_000))).items()
)
HELLO_TIMEOUT_S = 5.0
HIGHEST_EPOCH_KEY = "edgesched-highest-epoch"  # trailing metadata of an agent's refusal
BACKOFF_FIRST_S = 0.1
BACKOFF_MOST_S = 5.0
MEASURE_EVERY_S = 0.1  # so often a picture is announced in a message of its own: then the board can time the rest
UNHURRIED_S = 0.02  # so long a board may wait for leave to forget something
STABLE_S = 5.0  # a stream that lived for less does not reset the back-off: two masters would fight over the board

Stream = grpc.aio.StreamStreamCall[Any, Any]


class LinkListener(Protocol):
    """Who is told what a board says. Calls are in the order of the stream and must not block."""

    async def hello(self, link: DeviceLink, hello: pb.Hello) -> None: ...

    def accepted(self, link: DeviceLink, message: pb.Accepted) -> None: ...

    def outcome(self, link: DeviceLink, message: pb.Outcome) -> None: ...

    def delivery_report(self, link: DeviceLink, message: pb.DeliveryReport) -> None: ...

    def picture_lost(self, link: DeviceLink, attempt: OpenAttempt, cause: str) -> None:
        """The attempt cannot be sent: its picture is not there as it was stored."""
        ...

    async def outranked(self, link: DeviceLink, epoch: int) -> None:
        """The board has served our ledger under a higher epoch. It is greeted again afterwards."""
        ...

    def broken(self, link: DeviceLink) -> None:
        """The stream ended, or could not be opened. It is tried again while `needed()` says so."""
        ...


class _Broken(Exception):
    """Ends both halves of one stream."""


class _Ended(_Broken):
    """The board ended it in good order: it is stopping."""


class _Outranked(_Broken):
    """The board knows a higher epoch of our ledger than ours."""

    def __init__(self, cause: str, epoch: int) -> None:
        super().__init__(cause)
        self.epoch = epoch


@dataclass(slots=True)
class _Part:
    """A piece of an attempt's picture; before the first one, without data, its announcement."""

    attempt: OpenAttempt
    data: bytes = b""
    is_last: bool = False


class DeviceLink:
    """One device at one address. `run` opens a stream when one is wanted, and again while there is something to do.

    What waits travels together, control messages first. Pictures follow in chunks, as many as make up one of full size,
    so that an acknowledgement never waits behind more than that.
    """

    def __init__(
        self,
        device_id: DeviceId,
        address: str,
        *,
        ownership: Callable[[], Ownership],
        stream_numbers: Iterator[int],
        images: ImageStore,
        listener: LinkListener,
        attempt_timeout_ms: int,
    ) -> None:
        self.device_id = device_id
        self.address = address
        self.is_open = False
        self.is_suspect = False  # it broke and is not healed yet: no new work
        self._ownership = ownership
        self._stream_numbers = stream_numbers
        self._images = images
        self._listener = listener
        self._attempt_timeout_ms = attempt_timeout_ms
        self._control: list[pb.FromTaskManager] = []
        self._pictures: deque[OpenAttempt] = deque()
        self._parts: deque[_Part] = deque()  # of the picture that is being sent
        self._measured_at = 0.0
        self._wake = Wake()  # something to write
        self._wanted = asyncio.Event()  # somebody needs a stream

    def want(self) -> None:
        """Open a stream, if there is none."""
        self._wanted.set()

    def dispatch(self, attempt: OpenAttempt) -> None:
        """Send this attempt's picture when its turn comes. It waits here while the stream is broken."""
        attempt.is_sent = False
        self._pictures.append(attempt)
        self._wanted.set()
        self._wake.now()

    def withdraw(self, attempt: OpenAttempt) -> bool:
        """Take back a picture that has not been sent yet. Returns: whether it had not."""
        with contextlib.suppress(ValueError):
            self._pictures.remove(attempt)
            return True
        return False

    def is_waiting(self, attempt: OpenAttempt) -> bool:
        return attempt in self._pictures

    def tell(self, message: pb.FromTaskManager, *, is_urgent: bool = True) -> None:
        """Send a control message. Lost if the stream is down: a Hello makes both sides agree again."""
        if self.is_open:
            self._control.append(message)
            if is_urgent:
                self._wake.now()
            else:
                self._wake.within(UNHURRIED_S)

    def discard(self, attempt_id: AttemptId) -> None:
        """The board may forget this attempt's labels."""
        verdict = pb.OutcomeAck.VERDICT_DISCARD
        message = pb.FromTaskManager(outcome_ack=pb.OutcomeAck(attempt_id=attempt_id, verdict=verdict))
        self.tell(message, is_urgent=False)

    async def run(self, needed: Callable[[], bool]) -> None:
        """Until cancelled."""
        backoff_s = BACKOFF_FIRST_S
        while True:
            await self._wanted.wait()
            opened_at = time.monotonic()
            said_hello = await self._one_stream()
            self.is_open = False
            self._control.clear()
            self._parts.clear()
            is_stable = said_hello and time.monotonic() - opened_at >= STABLE_S
            backoff_s = BACKOFF_FIRST_S if is_stable else min(BACKOFF_MOST_S, backoff_s * 2)
            if said_hello and not needed():
                self._wanted.clear()
                continue
            # A board that cannot be reached stays suspect until it says Hello again, also without work: otherwise
            # it would be picked again as soon as its tasks were taken away, for ever.
            self.is_suspect = True
            self._listener.broken(self)
            await asyncio.sleep(backoff_s * random.uniform(0.5, 1.0))

    async def _one_stream(self) -> bool:
        """Serve one stream until it breaks. Returns: whether the board said Hello."""
        said_hello = False
        async with grpc.aio.insecure_channel(self.address, options=LINK_OPTIONS) as channel:
            stream: Stream = pb_grpc.AgentStub(channel).Work()
            try:
                hello, others = await self._greet(stream)
                said_hello = True
                self.is_open, self.is_suspect = True, False
                log.info("stream.opened", extra={"device_id": self.device_id, "address": self.address})
                await self._listener.hello(self, hello)
                for item in others:
                    self._take(item)
                await self._serve(stream)
            except _Broken as cause:
                log.log(
                    logging.INFO if isinstance(cause, _Ended) else logging.WARNING,
                    "stream.ended",
                    extra={"device_id": self.device_id, "address": self.address, "cause": str(cause)},
                )
                if isinstance(cause, _Outranked):
                    await self._listener.outranked(self, cause.epoch)
            finally:
                stream.cancel()
        return said_hello

    async def _serve(self, stream: Stream) -> None:
        """Until it breaks. Raises: _Broken.

        No TaskGroup: when this is cancelled in the moment in which a half breaks, it tells of the break alone, and
        whoever waits for the end of this link waits for ever.
        """
        halves = {
            asyncio.create_task(self._read(stream), name=f"read {self.device_id}"),
            asyncio.create_task(self._write(stream), name=f"write {self.device_id}"),
        }
        try:
            await asyncio.wait(halves, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for half in halves:
                half.cancel()
            await asyncio.wait(halves)
        errors = [error for half in halves if not half.cancelled() and (error := half.exception()) is not None]
        raise min(errors, key=lambda error: isinstance(error, _Broken))  # a bug first, if there is one

    async def _greet(self, stream: Stream) -> tuple[pb.Hello, Sequence[pb.FromAgent]]:
        """Returns: the board's Hello, and what came with it."""
        ours = self._ownership()
        opening = pb.Open(
            ledger_id=ours.ledger_id,
            owner_id=ours.owner_id,
            epoch=ours.epoch,
            stream_number=next(self._stream_numbers),
            device_id=self.device_id,
        )
        with _Breaking(ours.epoch):
            async with asyncio.timeout(HELLO_TIMEOUT_S):
                await stream.write(pb.TaskManagerItems(items=[pb.FromTaskManager(open=opening)]))
                message = await stream.read()
        items = message.items if isinstance(message, pb.AgentItems) else ()
        if not items or not items[0].HasField("hello"):
            raise _Broken("the agent's first message was not Hello")
        first = items[0]
        if first.hello.device_id != self.device_id:
            raise _Broken(f"{self.address} is device {first.hello.device_id!r} now")
        return first.hello, items[1:]

    async def _read(self, stream: Stream) -> None:
        breaking = _Breaking()
        while True:
            with breaking:
                message = await stream.read()
            if not isinstance(message, pb.AgentItems):
                raise _Ended("the agent ended the stream")
            for item in message.items:
                self._take(item)

    def _take(self, item: pb.FromAgent) -> None:
        match item.WhichOneof("message"):
            case "accepted":
                self._listener.accepted(self, item.accepted)
            case "outcome":
                self._listener.outcome(self, item.outcome)
            case "delivery_report":
                self._listener.delivery_report(self, item.delivery_report)
            case _:
                pass  # a newer agent may say more than this task manager knows

    async def _write(self, stream: Stream) -> None:
        self._wake.now()  # what waited for this stream
        breaking = _Breaking()
        while True:
            await self._wake.wait()
            while (batch := await self._next_batch()) is not None:
                message, whole = batch
                with breaking:
                    await stream.write(message)
                for attempt in whole:
                    attempt.is_sent = True

    async def _next_batch(self) -> tuple[pb.TaskManagerItems, list[OpenAttempt]] | None:
        """The next message, and the attempts whose pictures are whole with it."""
        parts = await self._next_parts()
        control, self._control = self._control, []  # only now: it goes first, however late it came
        if not control and not parts:
            return None
        message = pb.TaskManagerItems(items=control)
        # Filled in place: a message that is handed to another one is copied, and a picture would be three times.
        for part in parts:
            if part.data:
                chunk = message.items.add().chunk
                chunk.attempt_id, chunk.data = part.attempt.attempt_id, part.data
            else:
                self._announce(part.attempt, message.items.add().dispatch)
        return message, [part.attempt for part in parts if part.is_last]

    async def _next_parts(self) -> list[_Part]:
        parts: list[_Part] = []
        room = wire.CHUNK_BYTES
        while self._parts or self._pictures:
            if not self._parts:
                if parts and self._pictures[0].task.size_bytes > room:
                    break
                self._parts = await self._cut(self._pictures.popleft())
                if self._parts and not parts and time.monotonic() - self._measured_at >= MEASURE_EVERY_S:
                    self._measured_at = time.monotonic()
                    return [self._parts.popleft()]
            while self._parts and (not parts or len(self._parts[0].data) <= room):
                part = self._parts.popleft()
                parts.append(part)
                room -= len(part.data)
            if self._parts:
                break
        return parts

    async def _cut(self, attempt: OpenAttempt) -> deque[_Part]:
        """Announcement and picture; nothing if there is nothing to send any more."""
        task = attempt.task
        if task.image is None:
            return deque()
        try:
            image = await self._images.read(task.image)
        except NotKnown:
            return deque()  # cancelled or retired meanwhile
        except PictureDamaged as error:
            self._listener.picture_lost(self, attempt, str(error))
            return deque()
        parts = deque([_Part(attempt)])
        parts += [_Part(attempt, data) for data in wire.chunks(image)]
        parts[-1].is_last = True
        return parts

    def _announce(self, attempt: OpenAttempt, dispatch: pb.Dispatch) -> None:
        task = attempt.task
        dispatch.attempt_id, dispatch.task_id = attempt.attempt_id, task.task_id
        dispatch.model, dispatch.file_name = task.model, task.file_name
        dispatch.size_bytes = task.size_bytes
        dispatch.remaining_ms = self._attempt_timeout_ms
        if task.receiver_url is not None:
            dispatch.receiver_url = task.receiver_url


class _Breaking:
    """Whatever gRPC says of a dead stream becomes _Broken, which ends its other half too.

    our_epoch: given while the stream is being opened. Not a generator: one of these is entered for every message.
    """

    __slots__ = ("_our_epoch",)

    def __init__(self, our_epoch: int | None = None) -> None:
        self._our_epoch = our_epoch

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, grpc.aio.AioRpcError):
            cause = f"{error.code().name}: {error.details()}"
            if self._our_epoch is not None and (highest := _highest_epoch(error)) > self._our_epoch:
                raise _Outranked(cause, highest) from error
            raise _Broken(cause) from error
        if isinstance(error, TimeoutError):
            raise _Broken(f"no Hello within {HELLO_TIMEOUT_S:g} s") from error
        if isinstance(error, (grpc.aio.UsageError, grpc.aio.InternalError, asyncio.InvalidStateError)):
            raise _Broken(f"the stream is closed ({error})") from error


def _highest_epoch(error: grpc.aio.AioRpcError) -> int:
    """0 if the refusal has nothing to do with epochs."""
    told = dict(error.trailing_metadata() or ()).get(HIGHEST_EPOCH_KEY, "0")
    return int(told) if str(told).isdecimal() else 0

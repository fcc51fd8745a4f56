"""Sends pictures over one SubmitStream, and sends again whatever a broken stream left unanswered."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc

from client import traces
from client.pictures import Picture, check_size
from edgesched import wire
from edgesched.domain.task import Priority, TaskId
from edgesched.errors import InvalidInput, PeerUnavailable
from edgesched.v1 import task_manager_pb2 as pb
from edgesched.v1 import task_manager_pb2_grpc as rpc

if TYPE_CHECKING:
    from edgesched.spans import Span, Tracing

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 2.0
QUEUE_FULL_PAUSE_MS = 500  # when the task manager does not say how long
LONGEST_QUEUE_FULL_PAUSE_MS = 30_000
GOODBYE_S = 2.0
MESSAGE_BYTES = 256 * 1024  # of pictures that travel together

RESOURCE_EXHAUSTED: int = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
UNAVAILABLE: int = grpc.StatusCode.UNAVAILABLE.value[0]
TRY_LATER = frozenset({RESOURCE_EXHAUSTED, UNAVAILABLE})
"""Refusals after which the same picture may be accepted."""

NEVER_BETTER = frozenset(
    {
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.FAILED_PRECONDITION,
    }
)
"""Ends of a whole stream that no new stream would change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledged:
    """The task manager answered: picture and task are durable."""

    picture: Picture
    task_id: TaskId
    submission_key: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """This picture will not be accepted, however often it is sent."""

    picture: Picture
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Something cannot go on right now. The next step of another kind means that it did."""

    reason: str


Step = Acknowledged | Refused | Waiting
_Call = grpc.aio.StreamStreamCall[pb.SubmitRequests, pb.SubmitReplies]

FIRST_ANSWER_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to try. Any answer, even "the queue is full", starts the second time anew."""

    first_answer_s: float = FIRST_ANSWER_S
    next_answer_s: float = 300.0

    @classmethod
    def up_to(cls, give_up_after_s: float) -> Patience:
        return cls(first_answer_s=min(FIRST_ANSWER_S, give_up_after_s), next_answer_s=give_up_after_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Every picture is in exactly one of the two, in the order of the answers."""

    acknowledged: tuple[Acknowledged, ...]
    refused: tuple[Refused, ...]
    seconds: float


@dataclass(slots=True)
class _Open:
    """A picture that waits for its answer."""

    request: pb.SubmitRequest  # all but the picture
    image: bytes
    expires_at: float | None  # of this process's event loop clock
    answer: asyncio.Future[pb.SubmitReply] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


async def submit_all(
    channel: grpc.aio.Channel,
    pictures: Iterable[Picture],
    *,
    model: str,
    receiver_url: str | None,
    client_id: str,
    in_flight: int = 8,
    deadline_s: float | None = None,
    priority: Priority = Priority.NORMAL,
    patience: Patience | None = None,
    key_for: Callable[[Picture], str] | None = None,
    on_progress: Callable[[Step], None] | None = None,
    tracing: Tracing | None = None,
) -> Report:
    """Submit every picture, however long the queue is full and however often the stream breaks.

    pictures: taken one by one, as there is room.
    receiver_url: where labels are to be posted; None: nowhere.
    in_flight: how many pictures may be loaded or unanswered at the same time.
    deadline_s: a task without labels expires that long after its picture was first ready to be sent.
    priority: whose turn comes sooner while tasks wait.
    key_for: the submission key of a picture, asked for once, before it is loaded (in a thread); None: a fresh one.
    on_progress: told of each step as it happens; pictures that have none when this is cancelled were not acknowledged.
    tracing: begins a trace for each picture, which its task continues; None: it has none from here.
    Raises: PeerUnavailable if there was no answer for longer than `patience`, or if the other side is not a task
    manager.
    """
    header = pb.SubmitRequest(
        model=model, client_id=client_id, receiver_url=receiver_url, priority=wire.priority_to_pb(priority)
    )
    submitter = _Submitter(
        channel, header, deadline_s, patience or Patience(), key_for or _fresh_key, on_progress, tracing
    )
    return await submitter.run(pictures, in_flight)


class _Submitter:
    """One run. Each worker takes one picture at a time through to its end; one task owns the stream."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        header: pb.SubmitRequest,
        deadline_s: float | None,
        patience: Patience,
        key_for: Callable[[Picture], str],
        on_progress: Callable[[Step], None] | None,
        tracing: Tracing | None,
    ) -> None:
        self._submit_stream = rpc.TaskManagerStub(channel).SubmitStream
        self._header = header
        self._deadline_s = deadline_s
        self._patience = patience
        self._loader = _Loader(key_for)
        self._on_progress = on_progress or (lambda step: None)
        self._tracing = tracing
        self._limit = asyncio.timeout(patience.first_answer_s)
        self._tags = itertools.count(1)
        self._open: dict[int, _Open] = {}  # at most one per worker
        self._ready: asyncio.Queue[int | None] = asyncio.Queue()  # tags for the writer, of `_open`; None: no more
        self._no_more = False
        self._answers = 0
        self._cause = "no answer"  # of the latest silence
        self._is_hopeless = False
        self._is_broken = False  # no answer since the stream broke
        self._acknowledged: list[Acknowledged] = []
        self._refused: list[Refused] = []

    async def run(self, pictures: Iterable[Picture], in_flight: int) -> Report:
        loop = asyncio.get_running_loop()
        started = loop.time()
        left = iter(pictures)
        try:
            async with self._limit, asyncio.TaskGroup() as tasks:
                stream = tasks.create_task(self._keep_streaming())
                workers = [tasks.create_task(self._work(left)) for _ in range(in_flight)]
                await asyncio.wait(workers)
                self._no_more = True
                self._ready.put_nowait(None)
                await asyncio.wait({stream}, timeout=GOODBYE_S)
                stream.cancel()
        except TimeoutError:
            raise PeerUnavailable(self._why_not()) from None
        except ExceptionGroup as group:
            raise group.exceptions[0] from None  # `on_progress` failed: its error is the caller's own
        return Report(
            acknowledged=tuple(self._acknowledged), refused=tuple(self._refused), seconds=loop.time() - started
        )

    # --- one picture ---

    async def _work(self, left: Iterator[Picture]) -> None:
        for picture in left:
            span = None if self._tracing is None else traces.begin(self._tracing, self._header.model, picture)
            outcome = await self._submit(picture, span)
            if isinstance(outcome, Acknowledged):
                self._acknowledged.append(outcome)
                if span is not None:
                    traces.acknowledged(span, outcome)
            else:
                self._refused.append(outcome)
                if span is not None:
                    span.end(error=outcome.reason)
            self._on_progress(outcome)

    async def _submit(self, picture: Picture, span: Span | None) -> Acknowledged | Refused:
        try:
            key, image = await self._loader.load(picture)
            check_size(len(image))
            request = pb.SubmitRequest(file_name=picture.file_name, submission_key=key)
        except OSError as error:
            return Refused(picture=picture, reason=f"it cannot be read: {error.strerror or error}")
        except InvalidInput as error:
            return Refused(picture=picture, reason=str(error))
        except UnicodeEncodeError:
            return Refused(picture=picture, reason="its name is not valid UTF-8; rename it")
        request.MergeFrom(self._header)
        if span is not None:
            request.traceparent = span.traceparent
        expires_at = None if self._deadline_s is None else asyncio.get_running_loop().time() + self._deadline_s
        while True:
            reply = await self._ask(_Open(request, image, expires_at))
            if reply.WhichOneof("outcome") == "task_id":
                return Acknowledged(
                    picture=picture, task_id=TaskId(reply.task_id), submission_key=key, size_bytes=len(image)
                )
            refusal = reply.refusal
            if refusal.status_code not in TRY_LATER and not refusal.HasField("retry_after_ms"):
                return Refused(picture=picture, reason=refusal.message or "the task manager gave no reason")
            self._on_progress(Waiting(reason=_waiting_for(refusal)))
            pause_ms = refusal.retry_after_ms if refusal.HasField("retry_after_ms") else QUEUE_FULL_PAUSE_MS
            # Spread out, so that the workers do not all come back in the same instant.
            await asyncio.sleep(min(pause_ms, LONGEST_QUEUE_FULL_PAUSE_MS) / 1000 * random.uniform(1.0, 1.25))

    async def _ask(self, entry: _Open) -> pb.SubmitReply:
        tag = entry.request.tag = next(self._tags)
        self._open[tag] = entry
        self._ready.put_nowait(tag)
        return await entry.answer

    # --- the stream ---

    async def _keep_streaming(self) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._no_more:
            answers_before = self._answers
            self._ready = asyncio.Queue()
            for tag in self._open:
                self._ready.put_nowait(tag)
            error = await self._stream_once()
            if self._no_more:
                return
            self._complain(error)
            if self._answers > answers_before:
                pause_s = FIRST_PAUSE_S
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _complain(self, error: grpc.aio.AioRpcError | None) -> None:
        self._cause = "it ended the stream" if error is None else (error.details() or error.code().name)
        if error is not None and error.code() in NEVER_BETTER:
            self._is_hopeless = True
            self._allow(0.0)
            return
        if not self._is_broken:  # once per outage, not per try
            log.warning("stream.broken", extra={"cause": self._cause, "unanswered": len(self._open)})
        self._is_broken = True
        self._on_progress(Waiting(reason=f"no connection to the task manager, trying again ({self._cause})"))

    def _why_not(self) -> str:
        if self._is_hopeless:
            return f"the task manager refuses to take pictures from here: {self._cause}"
        if self._answers == 0:
            return (
                f"the task manager did not answer within {self._patience.first_answer_s:g} s ({self._cause}); "
                "is it running, and are host and port right?"
            )
        return f"the task manager stopped answering {self._patience.next_answer_s:g} s ago ({self._cause})"

    def _allow(self, seconds: float) -> None:
        """Give up in so many seconds, unless this is called again."""
        if not self._limit.expired():
            self._limit.reschedule(asyncio.get_running_loop().time() + seconds)

    async def _stream_once(self) -> grpc.aio.AioRpcError | None:
        """Write what is ready and take the answers, until the stream ends. Returns: why, or None if in good order."""
        call = self._submit_stream()
        try:
            async with asyncio.TaskGroup() as tasks:
                writer = tasks.create_task(self._write(call))
                error = await self._read(call)
                writer.cancel()
        finally:
            call.cancel()
        return error

    async def _write(self, call: _Call) -> None:
        try:
            is_last = False
            while not is_last:
                tags = [await self._ready.get()]
                while not self._ready.empty():
                    tags.append(self._ready.get_nowait())
                is_last = None in tags
                for requests in self._messages(tags):
                    await call.write(requests)
            await call.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass  # the stream is over: the reader learns why

    def _messages(self, tags: Iterable[int | None]) -> Iterator[pb.SubmitRequests]:
        """Small pictures together, as many as MESSAGE_BYTES hold."""
        message = pb.SubmitRequests()
        size_bytes = 0
        for entry in (self._open.get(tag) for tag in tags if tag is not None):
            if entry is None:  # answered meanwhile
                continue
            if message.requests and size_bytes + len(entry.image) > MESSAGE_BYTES:
                yield message
                message, size_bytes = pb.SubmitRequests(), 0
            if entry.expires_at is not None:
                left_s = entry.expires_at - asyncio.get_running_loop().time()
                entry.request.remaining_ms = max(1, round(left_s * 1000))
            request = message.requests.add()
            request.CopyFrom(entry.request)
            request.image = entry.image  # here: a picture in `entry.request` would be copied twice
            size_bytes += len(entry.image)
        if message.requests:
            yield message

    async def _read(self, call: _Call) -> grpc.aio.AioRpcError | None:
        try:
            while isinstance(message := await call.read(), pb.SubmitReplies):  # until the end of the stream
                self._is_broken = False
                self._allow(self._patience.next_answer_s)
                for reply in message.replies:
                    self._take(reply)
        except grpc.aio.AioRpcError as error:
            return error
        return None

    def _take(self, reply: pb.SubmitReply) -> None:
        self._answers += 1
        entry = self._open.pop(reply.tag, None)
        if entry is not None and not entry.answer.done():
            entry.answer.set_result(reply)


class _Loader:
    """Reads pictures in a thread: all that are asked for while it is busy come with its next trip."""

    def __init__(self, key_for: Callable[[Picture], str]) -> None:
        self._key_for = key_for
        self._asked: list[tuple[Picture, asyncio.Future[tuple[str, bytes]]]] = []
        self._trips: asyncio.Task[None] | None = None

    async def load(self, picture: Picture) -> tuple[str, bytes]:
        """Its submission key and its bytes. Raises: what either raises."""
        answer: asyncio.Future[tuple[str, bytes]] = asyncio.get_running_loop().create_future()
        self._asked.append((picture, answer))
        if self._trips is None or self._trips.done():
            self._trips = asyncio.create_task(self._travel())
        return await answer

    async def _travel(self) -> None:
        while self._asked:
            asked, self._asked = self._asked, []
            loaded = await asyncio.to_thread(self._all, [picture for picture, _ in asked])
            for (_, answer), outcome in zip(asked, loaded, strict=True):
                if answer.done():  # cancelled
                    continue
                if isinstance(outcome, Exception):
                    answer.set_exception(outcome)
                else:
                    answer.set_result(outcome)

    def _all(self, pictures: Sequence[Picture]) -> list[tuple[str, bytes] | Exception]:
        return [self._one(picture) for picture in pictures]

    def _one(self, picture: Picture) -> tuple[str, bytes] | Exception:
        try:
            return self._key_for(picture), picture.load()
        except Exception as error:  # noqa: BLE001 - it belongs to whoever asked for this picture
            return error


def _fresh_key(picture: Picture) -> str:
    return str(uuid.uuid4())


def _waiting_for(refusal: pb.Refusal) -> str:
    what = "full" if refusal.status_code == RESOURCE_EXHAUSTED else "not accepted for now"
    return f"{what}, waiting ({refusal.message})" if refusal.message else f"{what}, waiting"

"""The agent's gRPC service: it decides which stream is served, and introduces the board."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc

from agents.desk import Desk, Uplink
from agents.epochs import Epochs
from agents.identity import Identity
from agents.inventory import pages
from agents.link import LinkMeter, LinkShaper
from agents.work import Assignment
from agents.work_stream import StreamEnded, WorkStream
from edgesched.v1 import agent_pb2 as pb
from edgesched.v1 import agent_pb2_grpc

OPEN_TIMEOUT_S = 10.0
HIGHEST_EPOCH_KEY = "edgesched-highest-epoch"
"""Trailing metadata of a refusal: an owner that was restored from a backup has to know which epoch to go beyond."""

Context = grpc.aio.ServicerContext[pb.TaskManagerItems, pb.AgentItems]

log = logging.getLogger(__name__)


class AgentServicer(agent_pb2_grpc.AgentServicer):
    """Serves one stream at a time."""

    def __init__(
        self,
        identity: Identity,
        desk: Desk,
        epochs: Epochs,
        uplink: Uplink,
        meter: LinkMeter,
        shaper: LinkShaper | None,
    ) -> None:
        self._identity = identity
        self._desk = desk
        self._epochs = epochs
        self._uplink = uplink
        self._meter = meter
        self._shaper = shaper
        self._stream: WorkStream | None = None
        self._last_ranks: dict[str, tuple[int, int]] = {}
        self._admitting = asyncio.Lock()

    async def Work(self, requests: AsyncIterator[pb.TaskManagerItems], context: Context) -> None:
        ledger_id = ""
        try:
            messages = aiter(requests)
            opened = await self._open(messages)
            ledger_id = opened.ledger_id
            await self._serve(opened, messages, context)
        except StreamEnded as ended:
            log.warning("stream.ended", extra={"ledger_id": ledger_id, "reason": ended.details})
            metadata = ((HIGHEST_EPOCH_KEY, str(self._epochs.highest(ledger_id))),)
            await context.abort(ended.status, ended.details, metadata)

    async def Inventory(
        self, request: pb.InventoryRequest, context: grpc.aio.ServicerContext[pb.InventoryRequest, pb.InventoryPage]
    ) -> AsyncIterator[pb.InventoryPage]:
        async for page in pages(self._desk.outbox, self._identity.device_id):
            yield page

    async def finish(self) -> None:
        """End the present stream without an error, once everything was said; for a clean stop."""
        if self._stream is not None:
            await self._stream.all_sent()
        if self._stream is not None:
            self._stream.end(None)

    async def _open(self, messages: AsyncIterator[pb.TaskManagerItems]) -> pb.Open:
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                message = await anext(messages)
        except (TimeoutError, StopAsyncIteration):
            raise StreamEnded(grpc.StatusCode.INVALID_ARGUMENT, "no Open came") from None
        first = message.items[0] if len(message.items) == 1 else pb.FromTaskManager()
        if first.WhichOneof("message") != "open" or not first.open.ledger_id:
            raise StreamEnded(grpc.StatusCode.INVALID_ARGUMENT, "the first message must be Open, and name the ledger")
        if first.open.device_id != self._identity.device_id:
            raise _not_now(f"this is device {self._identity.device_id}, not {first.open.device_id!r}")
        return first.open

    async def _serve(self, opened: pb.Open, messages: AsyncIterator[pb.TaskManagerItems], context: Context) -> None:
        async with self._admitting:  # keeping an epoch takes a disk write; the next stream has to see it
            await self._check(opened)
            stream = WorkStream(opened, self._desk, self._meter, self._shaper)
            self._replace_by(stream)
        log.info(
            "stream.opened", extra={"ledger_id": opened.ledger_id, "owner_id": opened.owner_id, "rank": stream.rank}
        )
        try:
            await stream.serve(self._hello(opened.ledger_id), messages, context.write)
        finally:
            if self._stream is stream:
                self._stream = self._uplink.stream = None
            log.info("stream.closed", extra={"ledger_id": opened.ledger_id, "rank": stream.rank})

    async def _check(self, opened: pb.Open) -> None:
        """Raises: StreamEnded if a newer owner or a newer stream of this ledger was served."""
        ledger_id, rank = opened.ledger_id, (opened.epoch, opened.stream_number)
        highest = self._epochs.highest(ledger_id)
        if opened.epoch < highest:
            raise _not_now(f"epoch {opened.epoch} is over: epoch {highest} of this ledger was served here")
        newest = self._last_ranks.get(ledger_id, (0, 0))
        if rank < newest or (rank == newest and self._stream is not None and self._stream.ledger_id == ledger_id):
            raise _not_now(f"stream {rank} is not newer than {newest}, which was served")
        try:
            await asyncio.to_thread(self._epochs.raise_to, ledger_id, opened.epoch)
        except OSError as error:
            why = f"the board cannot keep the epoch on its disk: {error.strerror}"
            raise StreamEnded(grpc.StatusCode.UNAVAILABLE, why) from error
        self._last_ranks[ledger_id] = rank

    def _replace_by(self, stream: WorkStream) -> None:
        """The newest connection wins, also over one of another ledger: that owner has to connect again."""
        old = self._stream
        self._stream = self._uplink.stream = stream
        if old is None:
            return
        if old.ledger_id != stream.ledger_id:
            extra = {"old_ledger_id": old.ledger_id, "ledger_id": stream.ledger_id}
            log.warning("stream.ledger_changed", extra=extra)
        old.end(_not_now(f"a newer stream, {stream.rank}, is served"))

    def _hello(self, ledger_id: str) -> pb.Hello:
        ours = [entry for entry in self._desk.outbox.entries() if entry.assignment.ledger_id == ledger_id]
        foreign = self._desk.outbox.count - len(ours)
        if foreign:
            advice = "`edgesched outbox list` shows whose they are, `edgesched outbox drop` gives them up"
            log.warning("outbox.foreign_entries_kept", extra={"entries": foreign, "advice": advice})
        return pb.Hello(
            device_id=self._identity.device_id,
            boot_id=self._identity.boot_id,
            held=[_held(assignment) for assignment in self._desk.held(ledger_id)],
            outbox=[_held(entry.assignment) for entry in ours],
            foreign_outbox_count=foreign,
            highest_epoch=self._epochs.highest(ledger_id),
        )


def _held(assignment: Assignment) -> pb.HeldAttempt:
    return pb.HeldAttempt(attempt_id=assignment.attempt_id, task_id=assignment.task_id)


def _not_now(details: str) -> StreamEnded:
    return StreamEnded(grpc.StatusCode.FAILED_PRECONDITION, details)


def add_to(server: grpc.aio.Server, servicer: AgentServicer) -> None:
    register: Any = agent_pb2_grpc.add_AgentServicer_to_server  # generated without types
    register(servicer, server)

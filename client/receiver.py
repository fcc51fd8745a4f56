"""Takes labels over HTTP, from boards and from the task manager, and answers once they are safely on disk."""

from __future__ import annotations

import asyncio
import errno
import http
import json
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue

from aiohttp import HttpVersion11, web

from client.label_store import LabelStore, Verdict
from edgesched import rest
from edgesched.domain.task import TaskId
from edgesched.errors import InvalidInput, StartupError

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 64 * 1024 * 1024
MAX_HELD_BYTES = 4 * MAX_BODY_BYTES
"""Bodies that are being read or written; more are sent away for a moment."""
SMALLEST_CHARGE_BYTES = 64 * 1024  # what a request costs apart from its body
MAX_GROUP_ITEMS = 256
READ_S = 60.0
STORE_S = 60.0
CLOSE_S = 5.0
RETRY_AFTER_MS = 1_000
JSON = {"Content-Type": "application/json"}

ITEM: rest.Wire[rest.LabelledPicture] = rest.Wire(rest.LabelledPicture)


@dataclass(slots=True, kw_only=True)
class Counters:
    """Pictures since the start."""

    received: int = 0  # labels written
    repeated: int = 0  # delivered again
    rejected: int = 0
    failed: int = 0  # the disk refused: they will come again


@dataclass(frozen=True, slots=True)
class _Posted:
    items: Sequence[rest.LabelledPicture]
    charge_bytes: int
    verdicts: asyncio.Future[list[Verdict]]


class Receiver:
    """One thread owns the store; requests hand it their items, and all that wait are written as one group.

    The thread is its own, not the pool's of `asyncio.to_thread`: that way there and back costs three times as much.
    """

    def __init__(self, store: LabelStore) -> None:
        self._store = store
        self._posted: SimpleQueue[_Posted | None] = SimpleQueue()  # bounded by MAX_HELD_BYTES; None: no more
        self._loop = asyncio.get_running_loop()
        self._held_bytes = 0
        self.counters = Counters()
        self.broken: asyncio.Future[None] = self._loop.create_future()
        """Ends only by a bug or by a disk that nobody can tell the state of, which it raises."""

    @contextmanager
    def writing(self) -> Iterator[None]:
        """What is posted is written, until the block is left; then all that was posted before has been."""
        thread = threading.Thread(target=self._write, name="label-writer", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._posted.put(None)
            thread.join()
            self.broken.cancel()

    def _write(self) -> None:
        try:
            while posted := self._posted.get():
                group = [posted]
                size = len(posted.items)
                while size < MAX_GROUP_ITEMS and not self._posted.empty():
                    posted = self._posted.get()
                    if posted is None:
                        self._posted.put(None)  # for the next round
                        break
                    group.append(posted)
                    size += len(posted.items)
                verdicts = self._store.store([item for posted in group for item in posted.items])
                self._loop.call_soon_threadsafe(self._written, group, verdicts)
        except Exception as error:  # noqa: BLE001 - it is told to whoever watches, and ends the process
            self._loop.call_soon_threadsafe(self._break, error)

    def _break(self, error: Exception) -> None:
        if not self.broken.done():
            self.broken.set_exception(error)

    def _written(self, group: Sequence[_Posted], verdicts: list[Verdict]) -> None:
        for posted in group:
            own, verdicts = verdicts[: len(posted.items)], verdicts[len(posted.items) :]
            self.note(posted.items, own)
            self._held_bytes -= posted.charge_bytes
            if not posted.verdicts.done():  # it may have stopped waiting
                posted.verdicts.set_result(own)

    def note(self, items: Sequence[rest.LabelledPicture], verdicts: Sequence[Verdict]) -> None:
        """What became of a delivery, right before it is answered."""
        for verdict in verdicts:
            if verdict.error is not None:
                self.counters.failed += 1
            elif verdict.rejected is not None:
                self.counters.rejected += 1
            elif verdict.is_new:
                self.counters.received += 1
            else:
                self.counters.repeated += 1

    async def respond(self, request: web.BaseRequest) -> web.Response:
        """To a POST on any path, whatever an address that somebody else made up looks like; and to GET /health."""
        if request.method == "POST":
            return await self._post(request)
        if request.path == "/health" and request.method in ("GET", "HEAD"):
            return web.json_response({"status": "ok", **asdict(self.counters)})
        return _problem(405, "labels are sent by POST; GET /health tells how many have come", {"Allow": "POST"})

    async def _post(self, request: web.BaseRequest) -> web.Response:
        size_bytes = request.content_length
        if (size_bytes or 0) > MAX_BODY_BYTES:
            return _too_large()
        is_plain = "Content-Encoding" not in request.headers and size_bytes is not None
        charge = max(size_bytes or 0, SMALLEST_CHARGE_BYTES) if is_plain else MAX_BODY_BYTES
        if self._held_bytes + charge > MAX_HELD_BYTES:
            return _problem(503, "too much is being received at once; send it again in a moment")
        self._held_bytes += charge
        try:
            body = await _body(request)
            if body is None:
                return _too_large()
            items, rejected = parse(body)
            self.counters.rejected += len(rejected)
            if items:
                handed_over, charge = charge, 0  # held until they are written, whoever still waits for that
                verdicts = await self._stored(items, handed_over)
            else:
                verdicts = []
        except InvalidInput as error:
            return _problem(400, str(error))
        except TimeoutError:
            return _problem(503, "the body or the disk was too slow; send it again")
        finally:
            self._held_bytes -= charge
        return _answer(items, verdicts, rejected)

    async def _stored(self, items: Sequence[rest.LabelledPicture], charge_bytes: int) -> list[Verdict]:
        """Raises: TimeoutError."""
        verdicts: asyncio.Future[list[Verdict]] = self._loop.create_future()
        self._posted.put(_Posted(items, charge_bytes, verdicts))
        timer = self._loop.call_later(STORE_S, _give_up, verdicts)  # asyncio.timeout takes several times as long
        try:
            return await verdicts
        finally:
            timer.cancel()


def _give_up(verdicts: asyncio.Future[list[Verdict]]) -> None:
    if not verdicts.done():
        verdicts.set_exception(TimeoutError())


async def _body(request: web.BaseRequest) -> bytes | None:
    """None: it is too large. Raises: TimeoutError."""
    content = request.content
    if content.is_eof():  # the rule: it came together with its headers
        body = content.read_nowait()
        return body if len(body) <= MAX_BODY_BYTES else None
    chunks = bytearray()
    async with asyncio.timeout(READ_S):
        # As curl asks before it sends much.
        if request.version >= HttpVersion11 and request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0  # that was not the answer yet
        while chunk := await content.readany():
            chunks += chunk
            if len(chunks) > MAX_BODY_BYTES:
                return None
    return bytes(chunks)


def _answer(
    items: Sequence[rest.LabelledPicture], verdicts: Sequence[Verdict], rejected: Sequence[rest.RejectedItem]
) -> web.Response:
    accepted: list[TaskId] = []
    refused = list(rejected)
    for item, verdict in zip(items, verdicts, strict=True):
        if verdict.rejected is not None:
            refused.append(rest.RejectedItem(task_id=item.task_id, reason=verdict.rejected))
        elif verdict.error is None:
            accepted.append(item.task_id)
    if refused:
        log.warning("labels.rejected", extra={"pictures": len(refused), "first_reason": refused[0].reason})
    errors = [verdict.error for verdict in verdicts if verdict.error is not None]
    if errors:
        log.error("labels.not_stored", extra={"pictures": len(errors), "cause": str(errors[0])})
    if errors and not accepted and not refused:
        is_full = errors[0].errno in (errno.ENOSPC, errno.EDQUOT)
        return _problem(
            507 if is_full else 500, f"the labels could not be stored: {errors[0].strerror}; send them again"
        )
    reply = rest.DeliveryReply(accepted=tuple(accepted), rejected=tuple(refused))
    return web.Response(body=rest.DELIVERY_REPLY.dump(reply), headers=JSON)


def parse(body: bytes) -> tuple[Sequence[rest.LabelledPicture], Sequence[rest.RejectedItem]]:
    """A delivery's items, and those that break the contract, with the reason for each.

    Raises: InvalidInput if it is no delivery at all.
    """
    try:
        return rest.DELIVERY.parse(body).results, ()
    except InvalidInput:
        pass  # one bad item must not cost the others
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"the body is not JSON: {error}") from error
    results = content.get("results") if isinstance(content, dict) else None
    if not isinstance(results, list):
        raise InvalidInput('the body must be {"results": [...]}')
    items: list[rest.LabelledPicture] = []
    rejected: list[rest.RejectedItem] = []
    for number, result in enumerate(results):
        try:
            items.append(ITEM.parse(json.dumps(result)))
        except InvalidInput as error:
            named = result.get("task_id") if isinstance(result, dict) else None
            task_id = named.encode(errors="replace").decode() if isinstance(named, str) else ""
            rejected.append(rest.RejectedItem(task_id=TaskId(task_id), reason=f"results.{number}: {error}"))
    return items, rejected


def _too_large() -> web.Response:
    return _problem(413, f"the body is larger than {MAX_BODY_BYTES} bytes; send fewer results at once")


def _problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> web.Response:
    log.warning("post.refused", extra={"status": status, "detail": detail})
    problem = rest.Problem(
        title=http.HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        retry_after_ms=RETRY_AFTER_MS if status == 503 else None,
    )
    body = rest.PROBLEM.dump(problem)
    return web.Response(status=status, body=body, headers=headers, content_type="application/problem+json")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningReceiver:
    port: int
    counters: Counters
    broken: asyncio.Future[None]
    """Ends only if labels can no longer be written, by what it raises: then the process must end."""


@asynccontextmanager
async def running_receiver(
    directory: Path, *, host: str, port: int, kind: Callable[[LabelStore], Receiver] = Receiver
) -> AsyncIterator[RunningReceiver]:
    """A receiver that writes below `directory`, until the block is left. Port 0: the operating system chooses.

    Raises: StartupError if the directory or the port cannot be used.
    """
    with LabelStore.opened(directory) as store:
        receiver = kind(store)
        with receiver.writing():
            # Without an application: its routes and middlewares cost a third of a POST, and there are two resources.
            runner = web.ServerRunner(web.Server(receiver.respond, access_log=None), shutdown_timeout=CLOSE_S)
            await runner.setup()
            try:
                try:
                    await web.TCPSite(runner, host, port).start()
                except (OSError, UnicodeError) as error:
                    raise StartupError(_cannot_listen(host, port, error)) from error
                yield RunningReceiver(
                    port=runner.addresses[0][1],
                    counters=receiver.counters,
                    broken=receiver.broken,
                )
            finally:
                await runner.cleanup()  # requests in hand are answered first


def _cannot_listen(host: str, port: int, error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is taken; stop what uses it, or choose another one with --port"
    if isinstance(error, OSError) and error.errno == errno.EACCES:
        return f"port {port} on {host} is not allowed for this user; choose one above 1023 with --port"
    return f"--host {host} --port {port}: cannot be listened on: {error}"

"""The way in: check a submission, make its picture durable, then its row, and only then say yes."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

from edgesched.catalogue import Catalogue
from edgesched.domain.task import ImageRef, NewTask, Submission, Task, TaskId, new_id
from edgesched.errors import Conflict, EdgeSchedError, InvalidInput, Overloaded, StaleEpoch, StorageFailed
from edgesched.images.base import ImageStore, digest_of
from edgesched.ledger.base import Accepted, Ledger
from edgesched.task_manager.backlog import Backlog
from edgesched.task_manager.pictures import PictureLimits, check_file_name, check_picture
from edgesched.task_manager.traces import TaskTraces

log = logging.getLogger(__name__)

MAX_BATCH = 256
MAX_BATCH_BYTES = 64 * 1024 * 1024
MAX_WAITING_BYTES = 256 * 1024 * 1024  # pictures of all clients that are in memory only
BATCHES_IN_FLIGHT = 2  # while one commits its rows, the next one writes its pictures
MAX_ID_BYTES = 128
MAX_URL_LENGTH = 2_000
MAX_REMAINING_MS = 10 * 365 * 24 * 3_600_000


@dataclass(slots=True)
class _Waiting:
    submission: Submission
    digest: str
    stored: asyncio.Future[Task]
    arrived_ns: int  # if it is traced


class Intake:
    """Batches concurrent submissions, so that many share one sync of the disk."""

    def __init__(
        self,
        ledger: Ledger,
        images: ImageStore,
        catalogue: Catalogue,
        backlog: Backlog,
        *,
        picture_limits: PictureLimits,
        on_accepted: Callable[[Sequence[Task]], None],
        traces: TaskTraces | None = None,
    ) -> None:
        """traces: None if tracing is off."""
        self._ledger = ledger
        self._images = images
        self._catalogue = catalogue
        self._backlog = backlog
        self._picture_limits = picture_limits
        self._on_accepted = on_accepted
        self._traces = traces
        self._waiting: deque[_Waiting] = deque()
        self._waiting_bytes = 0
        self._wake = asyncio.Event()
        self._is_open = True

    async def accept(self, submission: Submission) -> Task:
        """Returns once the picture and its task are durable. The same client and key again give the same task.

        Raises: InvalidInput, NotKnown (model), Conflict (key used for something else), Overloaded, StorageFailed.
        """
        # Whoever asked may hang up; what is in a batch by then is stored all the same.
        return await asyncio.shield(self.offer(submission))

    def offer(self, submission: Submission) -> asyncio.Future[Task]:
        """As `accept`; what is wrong with the submission itself is raised at once, the rest by the future."""
        if not self._is_open:
            raise Overloaded("the task manager is stopping; send it again in a moment", retry_after_ms=1_000)
        self._check(submission)
        if self._waiting_bytes > MAX_WAITING_BYTES:
            raise Overloaded("pictures come faster than the disk can store them; slow down", retry_after_ms=200)
        self._backlog.reserve(len(submission.image))
        arrived_ns = 0 if self._traces is None else self._traces.now_ns()
        digest = digest_of(submission.image)
        waiting = _Waiting(submission, digest, asyncio.get_running_loop().create_future(), arrived_ns)
        self._waiting.append(waiting)
        self._waiting_bytes += len(submission.image)
        self._wake.set()
        return waiting.stored

    def close(self) -> None:
        """Accept nothing more; what waits is still stored."""
        self._is_open = False

    async def run(self) -> None:
        in_flight = asyncio.Semaphore(BATCHES_IN_FLIGHT)
        async with asyncio.TaskGroup() as batches:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._waiting:
                    await in_flight.acquire()
                    store = batches.create_task(self._store(self._take_batch()), name="Intake.store")
                    store.add_done_callback(lambda _: in_flight.release())

    def _check(self, submission: Submission) -> None:
        self._catalogue.get(submission.model)
        check_file_name(submission.file_name)
        for name in ("client_id", "submission_key"):
            value: str = getattr(submission, name)
            if not value or len(value.encode()) > MAX_ID_BYTES or not value.isprintable():
                raise InvalidInput(f"{name} must be 1 to {MAX_ID_BYTES} printable characters, for example a UUID")
        if submission.receiver_url is not None:
            check_receiver_url(submission.receiver_url)
        if submission.remaining_ms is not None and not 0 < submission.remaining_ms <= MAX_REMAINING_MS:
            raise InvalidInput(
                f"remaining_ms must be 1 to {MAX_REMAINING_MS} (ten years), got {submission.remaining_ms}; "
                "leave it out for no deadline"
            )
        check_picture(submission.image, self._picture_limits)

    def _take_batch(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        size_bytes = 0
        while self._waiting and len(batch) < MAX_BATCH and size_bytes < MAX_BATCH_BYTES:
            waiting = self._waiting.popleft()
            size_bytes += len(waiting.submission.image)
            batch.append(waiting)
        self._waiting_bytes -= size_bytes
        return batch

    async def _store(self, batch: Sequence[_Waiting]) -> None:
        try:
            refs = await self._images.put_many([waiting.submission.image for waiting in batch])
            rows = [_new_task(waiting, ref) for waiting, ref in zip(batch, refs, strict=True)]
            accepted = await self._ledger.accept_many(rows)
        except EdgeSchedError as error:
            for waiting in batch:
                self._backlog.give_back(len(waiting.submission.image))
                if not waiting.stored.done():
                    waiting.stored.set_exception(error)
                    waiting.stored.exception()  # the asker may be gone: then nobody else would read it
            if isinstance(error, (StorageFailed, StaleEpoch)):
                raise  # ends the process: nothing more may be acknowledged
            if not isinstance(error, Overloaded):  # that one is a refusal: the disk is nearly full
                log.exception("intake.batch_refused", extra={"pictures": len(batch)})
            return
        self._settle(batch, rows, accepted)
        unused = [row.image for row, outcome in zip(rows, accepted, strict=True) if not outcome.created]
        if unused:
            await self._images.release(unused)

    def _settle(self, batch: Sequence[_Waiting], rows: Sequence[NewTask], accepted: Sequence[Accepted]) -> None:
        self._on_accepted([outcome.task for outcome in accepted if outcome.created])
        for waiting, row, outcome in zip(batch, rows, accepted, strict=True):
            if not outcome.created:
                self._backlog.give_back(row.size_bytes)
            elif self._traces is not None:
                self._traces.accepted(outcome.task, waiting.submission.traceparent, waiting.arrived_ns)
            if waiting.stored.done():
                continue
            if outcome.conflict:
                waiting.stored.set_exception(_conflict(waiting.submission, outcome.task))
            else:
                waiting.stored.set_result(outcome.task)


def _conflict(submission: Submission, task: Task) -> Conflict:
    return Conflict(
        f"submission_key {submission.submission_key!r} was used for another picture or model "
        f"(task {task.task_id}); take a fresh key for each picture"
    )


def _new_task(waiting: _Waiting, image: ImageRef) -> NewTask:
    submission = waiting.submission
    return NewTask(
        task_id=TaskId(new_id()),
        client_id=submission.client_id,
        submission_key=submission.submission_key,
        model=submission.model,
        file_name=submission.file_name,
        image=image,
        image_digest=waiting.digest,
        size_bytes=len(submission.image),
        receiver_url=submission.receiver_url,
        deadline_ms=submission.remaining_ms,
        priority=submission.priority,
    )


@lru_cache(maxsize=256)
def check_receiver_url(url: str) -> None:
    """Raises: InvalidInput."""
    try:
        parts = urlsplit(url)
        usable = (
            url.isprintable()
            and " " not in url
            and parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and parts.port != 0
        )
    except ValueError:  # a port that is no number, an unclosed bracket
        usable = False
    if not usable or len(url) > MAX_URL_LENGTH:
        raise InvalidInput(f"receiver {url[:80]!r} is not a URL like http://192.168.1.5:8888")

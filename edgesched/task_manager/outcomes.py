"""What boards say, turned into ledger events; what the ledger judged, told to the boards."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from edgesched import wire
from edgesched.clock import Clock
from edgesched.domain.device import DeviceId
from edgesched.domain.lifecycle import Event, State
from edgesched.domain.task import COUNTED_FAILURES, AttemptId, Failure, FailureKind, Result, Task, TaskId
from edgesched.errors import InvalidInput
from edgesched.ledger.base import Applied, Ledger, LedgerEvent
from edgesched.ports import FinishedSample
from edgesched.task_manager.attempts import OpenAttempt, OpenAttempts
from edgesched.task_manager.device_link import DeviceLink
from edgesched.task_manager.dispatcher import Dispatcher
from edgesched.task_manager.events import EventLog
from edgesched.v1 import agent_pb2 as pb

log = logging.getLogger(__name__)

REFUSED_BACKOFF_MS = 200.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    max_attempts: int  # failures that the task itself may have caused
    backoff_ms: float  # before the first retry; doubles with each one


class Outcomes:
    """The LinkListener of every device."""

    def __init__(
        self,
        ledger: Ledger,
        attempts: OpenAttempts,
        events: EventLog,
        dispatcher: Dispatcher,
        *,
        clock: Clock,
        retry: RetryPolicy,
        deliver_here: Callable[[Task, DeviceLink], bool],
    ) -> None:
        """deliver_here: whether the board cannot deliver this task and the task manager has to."""
        self._ledger = ledger
        self._attempts = attempts
        self._events = events
        self._dispatcher = dispatcher
        self._clock = clock
        self._retry = retry
        self._deliver_here = deliver_here
        self.lost_since_ms: dict[DeviceId, float] = {}

    # --- LinkListener ---

    async def hello(self, link: DeviceLink, hello: pb.Hello) -> None:
        """Make both sides agree on what the board holds."""
        self.lost_since_ms.pop(link.device_id, None)
        held = {AttemptId(h.attempt_id): TaskId(h.task_id) for h in hello.held}
        finished = {AttemptId(h.attempt_id) for h in hello.outbox}
        for attempt in self._attempts.of_device(link.device_id):
            if attempt.attempt_id in held:
                self._mark_accepted(attempt)
            elif attempt.attempt_id not in finished and not link.is_waiting(attempt):
                if attempt.is_accepted:
                    self.lose(attempt, "the board does not know this attempt any more")
                else:
                    link.dispatch(attempt)  # cut off on its way: the board dropped the part that it had
        unknown = {a: t for a, t in held.items() if self._attempts.get(a) is None}
        if unknown:
            await self._adopt(link, unknown)
        await self._settle_outbox(link, {AttemptId(h.attempt_id): TaskId(h.task_id) for h in hello.outbox})
        if hello.foreign_outbox_count:
            log.warning(
                "device.has_foreign_outcomes",
                extra={"device_id": link.device_id, "count": hello.foreign_outbox_count},
            )
        self._dispatcher.poke()

    def accepted(self, link: DeviceLink, message: pb.Accepted) -> None:
        attempt = self._attempts.get(AttemptId(message.attempt_id))
        if attempt is not None:
            self._mark_accepted(attempt)

    def outcome(self, link: DeviceLink, message: pb.Outcome) -> None:
        attempt_id = AttemptId(message.attempt_id)
        attempt = self._attempts.remove(attempt_id)
        try:
            if message.HasField("result"):
                self._finished(link, message, attempt, wire.result(message.result))
            else:
                self._failed(link, message, attempt, wire.failure(message.failure))
        except InvalidInput as error:  # a worker's nonsense must not end the process
            failure = Failure(kind=FailureKind.WORKER_ERROR, message=f"the board sent unusable labels: {error}")
            self._failed(link, message, attempt, failure)
        self._dispatcher.made_room()

    def delivery_report(self, link: DeviceLink, message: pb.DeliveryReport) -> None:
        attempt_id = AttemptId(message.attempt_id)

        def acknowledge(_: Applied | None = None) -> None:
            link.tell(pb.FromTaskManager(delivery_ack=pb.DeliveryAck(attempt_id=attempt_id)), is_urgent=False)

        if not message.delivered:
            log.warning(
                "delivery.rejected",
                extra={"task_id": message.task_id, "device_id": link.device_id, "cause": message.error},
            )
            acknowledge()  # the labels stay in the ledger; the task manager goes on trying
            return
        event = LedgerEvent(task_id=TaskId(message.task_id), event=Event.DELIVERED, attempt_id=attempt_id)
        self._events.add(event, acknowledge, is_urgent=False)  # the client has its labels; the board can wait

    def picture_lost(self, link: DeviceLink, attempt: OpenAttempt, cause: str) -> None:
        """Trying again cannot help: the task fails, and all the others go on."""
        self._attempts.remove(attempt.attempt_id)
        log.error("picture.lost", extra={"task_id": attempt.task.task_id, "cause": cause})
        self._events.add(LedgerEvent(task_id=attempt.task.task_id, event=Event.PICTURE_LOST, reason=cause))
        self._dispatcher.poke()

    async def outranked(self, link: DeviceLink, epoch: int) -> None:
        """We run on a restored ledger; or somebody runs a copy of it besides us, and then both go on doing this."""
        ours = await self._ledger.outrank(epoch)
        log.error(
            "ledger.outranked",
            extra={
                "device_id": link.device_id,
                "board_has_seen": epoch,
                "epoch": ours.epoch,
                "advice": "expected once per board after a restore; otherwise another task manager uses a copy",
            },
        )

    def broken(self, link: DeviceLink) -> None:
        self.lost_since_ms.setdefault(link.device_id, self._clock.monotonic_ms())
        self._dispatcher.poke()

    # --- also used by the watchdog ---

    def lose(self, attempt: OpenAttempt, cause: str) -> None:
        """The board is gone with this attempt. Not the task's fault: it is queued again at once."""
        self._attempts.remove(attempt.attempt_id)
        failure = Failure(kind=FailureKind.DEVICE_LOST, message=cause)
        log.warning(
            "attempt.lost",
            extra={"task_id": attempt.task.task_id, "device_id": attempt.device_id, "cause": cause},
        )
        self._events.add(
            LedgerEvent(
                task_id=attempt.task.task_id,
                event=Event.DEVICE_LOST,
                attempt_id=attempt.attempt_id,
                failure=failure,
            ),
            lambda applied: self._requeue(applied, attempt.avoid),
        )

    def give_up_waiting(self, attempt: OpenAttempt, link: DeviceLink | None, cause: str) -> None:
        """The board talks, but this attempt makes no progress: it may be the task that hangs it."""
        self._attempts.remove(attempt.attempt_id)
        withdraw(attempt, link)
        self._learn(attempt, None)
        failure = Failure(kind=FailureKind.TIMED_OUT, message=cause)
        self._count_failure(attempt.task, attempt.attempt_id, attempt.device_id, attempt.avoid, failure, None)

    # --- inner workings ---

    def _mark_accepted(self, attempt: OpenAttempt) -> None:
        if attempt.is_accepted:
            return
        self._attempts.accepted(attempt)
        self._events.add(LedgerEvent(task_id=attempt.task.task_id, event=Event.ACCEPTED, attempt_id=attempt.attempt_id))

    async def _adopt(self, link: DeviceLink, unknown: dict[AttemptId, TaskId]) -> None:
        """The board holds attempts that this process did not send: it was restarted, or the commit was lost."""
        rows = {task.task_id: task for task in await self._ledger.get_many(set(unknown.values()))}
        for attempt_id, task_id in unknown.items():
            task = rows.get(task_id)
            if task is None or task.state is not State.QUEUED or task_id in self._attempts.task_ids():
                link.tell(pb.FromTaskManager(cancel=pb.Cancel(attempt_id=attempt_id)))
                continue
            self._dispatcher.forget(task_id)
            attempt = OpenAttempt(attempt_id, task, link.device_id, self._clock.monotonic_ms())
            self._attempts.add(attempt)
            self._events.add(
                LedgerEvent(
                    task_id=task_id,
                    event=Event.SENT_OUT,
                    attempt_id=attempt_id,
                    device_id=link.device_id,
                    reason="adopted: the board had it already",
                )
            )
            self._mark_accepted(attempt)
            log.info("attempt.adopted", extra={"task_id": task_id, "device_id": link.device_id})

    async def _settle_outbox(self, link: DeviceLink, outbox: dict[AttemptId, TaskId]) -> None:
        """Labels that nobody waits for any more: delivered by us, abandoned, superseded while the board was away."""
        rows = {task.task_id: task for task in await self._ledger.get_many(set(outbox.values()))}
        for attempt_id, task_id in outbox.items():
            if _is_unwanted(rows.get(task_id), attempt_id):
                link.discard(attempt_id)

    def _finished(self, link: DeviceLink, message: pb.Outcome, attempt: OpenAttempt | None, result: Result) -> None:
        attempt_id = AttemptId(message.attempt_id)
        if attempt is not None:
            self._learn(attempt, result)

        def judged(applied: Applied) -> None:
            task = applied.task
            won = task is not None and task.attempt_id == attempt_id and task.state is State.DONE
            if task is not None:
                self._dispatcher.forget(task.task_id)
            deliver = won and task is not None and task.receiver_url is not None and not self._deliver_here(task, link)
            self._answer(link, attempt_id, deliver=deliver)

        self._events.add(
            LedgerEvent(
                task_id=TaskId(message.task_id),
                event=Event.FINISHED,
                attempt_id=attempt_id,
                device_id=link.device_id,
                result=result,
            ),
            judged,
        )

    def _failed(self, link: DeviceLink, message: pb.Outcome, attempt: OpenAttempt | None, failure: Failure) -> None:
        attempt_id = AttemptId(message.attempt_id)
        if attempt is None:  # given up on before; nobody waits for it
            self._answer(link, attempt_id, deliver=False)
            return
        self._learn(attempt, None, blames_device=failure.kind is not FailureKind.INVALID_INPUT)
        if failure.kind in COUNTED_FAILURES:
            self._count_failure(attempt.task, attempt_id, link.device_id, attempt.avoid, failure, link)
            return

        def judged(applied: Applied) -> None:
            self._requeue(applied, attempt.avoid, delay_ms=REFUSED_BACKOFF_MS)
            self._answer(link, attempt_id, deliver=False)

        self._events.add(
            LedgerEvent(task_id=attempt.task.task_id, event=Event.DEVICE_LOST, attempt_id=attempt_id, failure=failure),
            judged,
        )

    def _count_failure(
        self,
        task: Task,
        attempt_id: AttemptId,
        device_id: DeviceId,
        avoid: frozenset[DeviceId],
        failure: Failure,
        link: DeviceLink | None,
    ) -> None:
        failures = task.failed_attempts + 1
        is_last = failure.kind is FailureKind.INVALID_INPUT or failures >= self._retry.max_attempts
        log.warning(
            "task.failed" if is_last else "attempt.failed",
            extra={
                "task_id": task.task_id,
                "device_id": device_id,
                "kind": failure.kind,
                "cause": failure.message,
                "failures": failures,
            },
        )

        def judged(applied: Applied) -> None:
            delay_ms = self._retry.backoff_ms * 2 ** (failures - 1)
            self._requeue(applied, avoid | {device_id}, delay_ms=delay_ms)
            if link is not None:
                self._answer(link, attempt_id, deliver=False)

        event = Event.GAVE_UP if is_last else Event.ATTEMPT_FAILED
        self._events.add(LedgerEvent(task_id=task.task_id, event=event, attempt_id=attempt_id, failure=failure), judged)

    def _requeue(self, applied: Applied, avoid: frozenset[DeviceId], *, delay_ms: float = 0.0) -> None:
        if applied.task is not None and not applied.is_stale and applied.task.state is State.QUEUED:
            self._dispatcher.requeue(applied.task, delay_ms=delay_ms, avoid=avoid)

    def _learn(self, attempt: OpenAttempt, result: Result | None, *, blames_device: bool = True) -> None:
        timings = result.timings if result else None
        total_ms = attempt.elapsed_ms(self._clock.monotonic_ms())
        self._dispatcher.learn(
            FinishedSample(
                device_id=attempt.device_id,
                model=attempt.task.model,
                size_bytes=attempt.task.size_bytes,
                service_ms=timings.service_ms if timings else None,
                transfer_ms=timings.transfer_ms if timings else None,
                total_ms=total_ms,
                succeeded=result is not None,
                predicted_ms=attempt.promise.answer_ms if attempt.promise else None,
                blames_device=blames_device,
                waited_ms=max(0.0, self._clock.wall_ms() - attempt.task.created_at_ms - total_ms),
                decode_ms=timings.decode_ms if timings else None,
                infer_ms=timings.infer_ms if timings else None,
            )
        )

    def _answer(self, link: DeviceLink, attempt_id: AttemptId, *, deliver: bool) -> None:
        if deliver:
            verdict = pb.OutcomeAck.VERDICT_DELIVER
            link.tell(pb.FromTaskManager(outcome_ack=pb.OutcomeAck(attempt_id=attempt_id, verdict=verdict)))
        else:
            link.discard(attempt_id)


def withdraw(attempt: OpenAttempt, link: DeviceLink | None) -> None:
    """Its board shall not work on it any more. Without a link nothing is lost: a Hello makes both sides agree."""
    if link is not None:
        link.withdraw(attempt)
        link.tell(pb.FromTaskManager(cancel=pb.Cancel(attempt_id=attempt.attempt_id)))


def _is_unwanted(task: Task | None, attempt_id: AttemptId) -> bool:
    """Whether the ledger will never need this attempt's labels."""
    if task is None:
        return True
    if task.state is State.DONE:
        return task.is_settled or task.attempt_id != attempt_id
    return task.is_settled and task.state is not State.FAILED  # late labels of a dead letter are still labels

"""What one event does to one task: pure, and shared by every ledger, so that no store states the rules again.

`domain/lifecycle.py` decides the state; this module says what else changes with it.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import Any

from edgesched.domain.device import DeviceId
from edgesched.domain.fact import fact, replace
from edgesched.domain.lifecycle import OPEN_STATES, Event, State, advance
from edgesched.domain.task import (
    COUNTED_FAILURES,
    Attempt,
    AttemptId,
    Failure,
    FailureKind,
    NewTask,
    Result,
    Task,
)
from edgesched.errors import IllegalTransition, InvalidInput
from edgesched.ledger.base import LedgerEvent

MAX_INTEGER = 2**63 - 1
"""The largest that a ledger stores: SQLite's limit."""
MAX_DEADLINE_MS = 100 * 365 * 24 * 3_600_000
"""A hundred years: later is never, and a sum with the clock stays far below MAX_INTEGER."""

_NEEDS_FAILURE = frozenset({Event.DEVICE_LOST, Event.ATTEMPT_FAILED, Event.GAVE_UP})
_NEEDS_ATTEMPT = _NEEDS_FAILURE | {Event.SENT_OUT, Event.ACCEPTED, Event.FINISHED}
_ENDS_ATTEMPT = _NEEDS_FAILURE | {Event.EXPIRED, Event.CANCELLED, Event.PICTURE_LOST}
_CHANGES_IN_PLACE = frozenset({Event.ABANDONED, Event.PICTURE_LOST})
"""Events that change a task also where they leave its state as it is."""
_TOO_LATE = frozenset({Event.SENT_OUT, Event.FINISHED})
"""Events that come to nothing once the task's deadline has passed, whether somebody has looked at the clock by then or
not: the task expires instead."""
MAY_NAME_ANOTHER_ATTEMPT = frozenset({Event.SENT_OUT, Event.FINISHED})
"""Events whose attempt need not be the task's current one: its row, if there is one, decides with."""


@fact
class Change:
    """What a ledger has to write. Nothing if `task` is the very object that went in.

    attempts: whole rows, new or changed.
    result: the labels, when this event made the task DONE.
    """

    task: Task
    is_stale: bool = False
    attempts: tuple[Attempt, ...] = ()
    result: Result | None = None


def check_new_task(new: NewTask) -> None:
    """Raises: InvalidInput if no ledger could store it."""
    _check_texts(
        new.task_id,
        new.client_id,
        new.submission_key,
        new.model,
        new.file_name,
        new.image,
        new.image_digest,
        new.receiver_url,
    )
    if not 0 <= new.size_bytes <= MAX_INTEGER:
        raise InvalidInput(f"size_bytes is out of range: {new.size_bytes}")
    if new.deadline_ms is not None and not 0 <= new.deadline_ms <= MAX_DEADLINE_MS:
        raise InvalidInput(f"deadline_ms must be 0..{MAX_DEADLINE_MS}, got {new.deadline_ms}")


def check_event(event: LedgerEvent) -> None:
    """Raises: InvalidInput if the event lacks what its kind needs (see LedgerEvent), or cannot be stored."""
    kind = event.event
    if kind in _NEEDS_ATTEMPT and event.attempt_id is None:
        raise InvalidInput(f"{kind} must name its attempt")
    if kind in _NEEDS_FAILURE and event.failure is None:
        raise InvalidInput(f"{kind} must say why")
    if kind is Event.SENT_OUT and not (event.device_id and event.reason):
        raise InvalidInput("sent_out must name the device and the reason for it")
    if kind is Event.PICTURE_LOST and not event.reason:
        raise InvalidInput("picture_lost must say how it was noticed")
    if kind is Event.FINISHED and event.result is None:
        raise InvalidInput("finished must carry the result")
    _check_texts(event.task_id, event.attempt_id, event.device_id, event.reason)
    if event.failure is not None:
        _check_texts(event.failure.message)
    if event.result is not None:
        for detection in event.result.detections:
            _check_texts(detection.label)
        for size in (event.result.width, event.result.height):
            if size is not None and not 0 <= size <= MAX_INTEGER:
                raise InvalidInput(f"a picture's width or height is out of range: {size}")


def check_attribution(events: Iterable[LedgerEvent], known: Container[AttemptId]) -> None:
    """Labels of an attempt that nobody has heard of must at least say which device made them.

    Raises: InvalidInput before anything of the call is applied.
    """
    sent_out: set[AttemptId] = set()
    for event in events:
        if event.attempt_id is None:
            continue
        if event.event is Event.SENT_OUT:
            sent_out.add(event.attempt_id)
        is_unattributed = event.event is Event.FINISHED and event.device_id is None
        if is_unattributed and event.attempt_id not in known and event.attempt_id not in sent_out:
            raise InvalidInput(f"attempt {event.attempt_id} is not known: finished must name its device")


def is_storable(text: str) -> bool:
    """False for text with lone surrogates: it has no UTF-8 form, so that no row can have it."""
    try:
        _check_texts(text)
    except InvalidInput:
        return False
    return True


def new_row(new: NewTask, *, seq: int, revision: int, now_ms: int) -> Task:
    return Task(
        task_id=new.task_id,
        seq=seq,
        revision=revision,
        state=State.QUEUED,
        client_id=new.client_id,
        model=new.model,
        file_name=new.file_name,
        image=new.image,
        size_bytes=new.size_bytes,
        receiver_url=new.receiver_url,
        created_at_ms=now_ms,
        updated_at_ms=now_ms,
        expires_at_ms=None if new.deadline_ms is None else now_ms + new.deadline_ms,
        attempt_id=None,
        device_id=None,
        failed_attempts=0,
        last_error=None,
        priority=new.priority,
    )


def transition(
    task: Task,
    event: LedgerEvent,
    *,
    current: Attempt | None,
    named: Attempt | None,
    revision: int,
    now_ms: int,
) -> Change:
    """Apply a checked event to a task.

    current: the row of task.attempt_id while the task is DISPATCHED or RUNNING; else None.
    named: the row of event.attempt_id, if there is one.
    revision: what the task gets if it changes.
    now_ms: the ledger's clock; the event may have happened earlier, but not before the last change of the task.
    """
    if event.at_ms is not None:
        now_ms = min(now_ms, max(event.at_ms, task.updated_at_ms))
    if event.event in _TOO_LATE and is_overdue(task, now_ms):
        event = LedgerEvent(task_id=task.task_id, event=Event.EXPIRED)
    try:
        state = advance(task.state, event.event)
    except IllegalTransition:
        return Change(task=task, is_stale=True)
    if not _may_name(task, event, named) or not _can_change(task, event):
        return Change(task=task, is_stale=True)
    if state is task.state and event.event not in _CHANGES_IN_PLACE:
        return Change(task=task)  # said again: nothing to write
    changed = {"updated_at_ms": now_ms} | _changed_fields(task, event, named)
    return Change(
        task=replace(task, state=state, revision=revision, **changed),
        attempts=_changed_attempts(task, event, current, named, now_ms),
        result=event.result if event.event is Event.FINISHED else None,
    )


def is_overdue(task: Task, now_ms: int) -> bool:
    """Whether it is still open and its deadline has passed."""
    return task.expires_at_ms is not None and task.expires_at_ms <= now_ms and task.state in OPEN_STATES


def picture_lost_error(reason: str) -> str:
    """`last_error` of a task that failed because its picture is gone: how the audit tells it from a fault."""
    return f"{Event.PICTURE_LOST}: {reason}"


def retirable_pictures(
    pictures: Sequence[Task], *, total_bytes: int, settled_before_ms: int, keep_bytes: int
) -> Sequence[Task]:
    """Which settled tasks let their picture go.

    pictures: candidates, longest settled first.
    total_bytes: of all candidates that there are, also those beyond this list.
    """
    kept_bytes = total_bytes
    for index, task in enumerate(pictures):
        if task.updated_at_ms >= settled_before_ms and kept_bytes <= keep_bytes:
            return pictures[:index]
        kept_bytes -= task.size_bytes
    return pictures


def _may_name(task: Task, event: LedgerEvent, named: Attempt | None) -> bool:
    if event.attempt_id is None:
        return True  # the event is about the task
    if event.event not in MAY_NAME_ANOTHER_ATTEMPT:
        return event.attempt_id == task.attempt_id
    if event.event is Event.SENT_OUT:
        return named is None  # an attempt is opened once
    return named is None or named.task_id == task.task_id


def _can_change(task: Task, event: LedgerEvent) -> bool:
    """Whether the task has what the event is about."""
    if event.event is Event.ABANDONED:
        return task.receiver_url is not None
    if event.event in (Event.RETRY, Event.PICTURE_LOST):
        return task.image is not None
    return True


def _changed_fields(task: Task, event: LedgerEvent, named: Attempt | None) -> dict[str, Any]:
    """What changes besides state, revision and, in most cases, time.

    FAILED, EXPIRED and CANCELLED keep the last attempt and device: people ask, and the board has to be told.
    """
    match event.event:
        case Event.SENT_OUT:
            return {"attempt_id": event.attempt_id, "device_id": event.device_id}
        case Event.FINISHED:
            device_id = named.device_id if named is not None else event.device_id
            return {"attempt_id": event.attempt_id, "device_id": device_id, "last_error": None}
        case Event.DEVICE_LOST:
            return {"attempt_id": None, "device_id": None, "last_error": _error(event)}
        case Event.ATTEMPT_FAILED:
            failed = task.failed_attempts + _counts(event)
            return {"attempt_id": None, "device_id": None, "last_error": _error(event), "failed_attempts": failed}
        case Event.GAVE_UP:
            return {"last_error": _error(event), "failed_attempts": task.failed_attempts + _counts(event)}
        case Event.EXPIRED:
            return {"last_error": "its deadline passed before it had labels"}
        case Event.CANCELLED:
            return {"last_error": event.reason or "it was cancelled"}
        case Event.RETRY:  # whoever replays it wants its labels, however late
            return {"attempt_id": None, "device_id": None, "failed_attempts": 0, "expires_at_ms": None}
        case Event.ABANDONED:
            return {"receiver_url": None}
        case Event.PICTURE_LOST:
            if task.state in OPEN_STATES:
                return {"image": None, "last_error": picture_lost_error(event.reason)}
            if task.state is State.FAILED:
                error = f"{picture_lost_error(event.reason)}; it had failed: {task.last_error}"
                return {"image": None, "last_error": error, "updated_at_ms": task.updated_at_ms}
            return {"image": None, "updated_at_ms": task.updated_at_ms}  # it settled when it settled
        case Event.ACCEPTED | Event.DELIVERED:
            return {}


def _changed_attempts(
    task: Task, event: LedgerEvent, current: Attempt | None, named: Attempt | None, now_ms: int
) -> tuple[Attempt, ...]:
    if event.event is Event.SENT_OUT:
        return (_opened(task, event, now_ms),)
    if event.event is Event.FINISHED:
        assert event.result is not None  # check_event
        winner = replace(
            named or _opened(task, event, now_ms), ended_at_ms=now_ms, failure=None, timings=event.result.timings
        )
        if current is None or current.attempt_id == winner.attempt_id:
            return (winner,)
        superseded = Failure(kind=FailureKind.DEVICE_LOST, message=f"superseded by attempt {winner.attempt_id}")
        return (replace(current, ended_at_ms=now_ms, failure=superseded), winner)
    if current is None or event.event not in _ENDS_ATTEMPT:
        return ()
    return (replace(current, ended_at_ms=now_ms, failure=_end_of(event)),)


def _opened(task: Task, event: LedgerEvent, now_ms: int) -> Attempt:
    """A new attempt. One that is first heard of by its labels starts now: when it really did cannot be known."""
    assert event.attempt_id is not None  # check_event
    assert event.device_id is not None  # check_attribution
    return Attempt(
        attempt_id=AttemptId(event.attempt_id),
        task_id=task.task_id,
        device_id=DeviceId(event.device_id),
        reason=event.reason or "its labels arrived before the ledger knew of it",
        started_at_ms=now_ms,
        ended_at_ms=None,
        failure=None,
        timings=None,
    )


def _end_of(event: LedgerEvent) -> Failure:
    """Why an attempt ended without labels. Every such attempt has a cause, so that none looks like a success."""
    if event.failure is not None:
        return event.failure
    if event.event is Event.EXPIRED:
        return Failure(kind=FailureKind.TIMED_OUT, message="the task's deadline passed")
    if event.event is Event.PICTURE_LOST:
        return Failure(kind=FailureKind.INVALID_INPUT, message=picture_lost_error(event.reason))
    return Failure(kind=FailureKind.REFUSED, message=event.reason or "the task was cancelled")


def _counts(event: LedgerEvent) -> int:
    return int(event.failure is not None and event.failure.kind in COUNTED_FAILURES)


def _error(event: LedgerEvent) -> str | None:
    return None if event.failure is None else f"{event.failure.kind}: {event.failure.message}"


def _check_texts(*texts: str | None) -> None:
    for text in texts:
        if text is None or text.isascii():
            continue
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InvalidInput(f"this text has no UTF-8 form: {text!r}") from None

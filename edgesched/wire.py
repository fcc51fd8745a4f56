"""The only converter between protobuf messages and the facts of the domain.

Reading validates: a message that breaks the contract raises InvalidInput. Writing never fails.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from edgesched.domain.detection import Detection
from edgesched.domain.device import DeviceId
from edgesched.domain.durations import Durations
from edgesched.domain.lifecycle import State
from edgesched.domain.outbox import HeldOutcome
from edgesched.domain.task import (
    TIMING_FIELDS,
    Attempt,
    AttemptId,
    Failure,
    FailureKind,
    ImageRef,
    Line,
    ModelFacts,
    Priority,
    Result,
    Submission,
    Task,
    TaskCounts,
    TaskDetails,
    TaskFilter,
    TaskId,
    TaskPage,
    TaskStats,
    Timings,
)
from edgesched.errors import InvalidInput
from edgesched.v1 import agent_pb2 as agent
from edgesched.v1 import task_manager_pb2 as tm
from edgesched.v1 import types_pb2 as types

CHUNK_BYTES = 256 * 1024
"""Most bytes of a picture in one message: a control message never waits behind more than this."""

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""gRPC's limit for one message. The picture limit lies well below, so that a refusal can name the picture."""


def keepalive(idle_ms: int, answer_ms: int) -> tuple[tuple[str, int], ...]:
    """Options by which a peer that vanishes without a word (power, cable) is noticed after both times together."""
    return (
        ("grpc.keepalive_time_ms", idle_ms),
        ("grpc.keepalive_timeout_ms", answer_ms),
        # Without this one gRPC waits a minute for the answer to its ping: the time above is TCP's alone by now.
        ("grpc.http2.ping_timeout_ms", answer_ms),
        ("grpc.http2.max_pings_without_data", 0),
    )


CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    *keepalive(10_000, 5_000),
    # A restarted peer is found again soon: the default back-off grows to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.enable_http_proxy", 0),  # boards and clients are on our own network, whatever http_proxy says
)

SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),  # otherwise a second server would share a taken port silently
    *keepalive(10_000, 5_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
)

_STATE_TO_PB = {
    State.QUEUED: tm.TASK_STATE_QUEUED,
    State.DISPATCHED: tm.TASK_STATE_DISPATCHED,
    State.RUNNING: tm.TASK_STATE_RUNNING,
    State.DONE: tm.TASK_STATE_DONE,
    State.DELIVERED: tm.TASK_STATE_DELIVERED,
    State.FAILED: tm.TASK_STATE_FAILED,
    State.EXPIRED: tm.TASK_STATE_EXPIRED,
    State.CANCELLED: tm.TASK_STATE_CANCELLED,
}
_STATE_FROM_PB = {value: key for key, value in _STATE_TO_PB.items()}

_FAILURE_TO_PB = {
    FailureKind.INVALID_INPUT: types.FAILURE_KIND_INVALID_INPUT,
    FailureKind.WORKER_ERROR: types.FAILURE_KIND_WORKER_ERROR,
    FailureKind.WORKER_CRASHED: types.FAILURE_KIND_WORKER_CRASHED,
    FailureKind.TIMED_OUT: types.FAILURE_KIND_TIMED_OUT,
    FailureKind.REFUSED: types.FAILURE_KIND_REFUSED,
    FailureKind.DEVICE_LOST: types.FAILURE_KIND_DEVICE_LOST,
}
_FAILURE_FROM_PB = {value: key for key, value in _FAILURE_TO_PB.items()}

_PRIORITY_TO_PB = {
    Priority.LOW: tm.PRIORITY_LOW,
    Priority.NORMAL: tm.PRIORITY_NORMAL,
    Priority.HIGH: tm.PRIORITY_HIGH,
}
_PRIORITY_FROM_PB = {tm.PRIORITY_UNSPECIFIED: Priority.NORMAL} | {value: key for key, value in _PRIORITY_TO_PB.items()}


# --- results ---


def detection_to_pb(detection: Detection) -> types.Detection:
    return types.Detection(
        class_id=detection.class_id,
        label=detection.label,
        confidence=detection.confidence,
        x1=detection.x1,
        y1=detection.y1,
        x2=detection.x2,
        y2=detection.y2,
    )


def detection(message: types.Detection) -> Detection:
    return Detection(
        class_id=message.class_id,
        label=message.label,
        confidence=message.confidence,
        x1=message.x1,
        y1=message.y1,
        x2=message.x2,
        y2=message.y2,
    )


def timings_to_pb(timings: Timings) -> types.Timings:
    known = {name: value for name in TIMING_FIELDS if (value := getattr(timings, name)) is not None}
    return types.Timings(**known)


def timings(message: types.Timings) -> Timings:
    """They come from boards: what is no duration is not known."""
    return Timings(**{field.name: ms for field, ms in message.ListFields() if math.isfinite(ms) and ms >= 0})


def result_to_pb(result: Result) -> types.Result:
    return types.Result(
        detections=[detection_to_pb(d) for d in result.detections],
        width=result.width,
        height=result.height,
        timings=timings_to_pb(result.timings),
    )


def result(message: types.Result) -> Result:
    return Result(
        detections=tuple(detection(d) for d in message.detections),
        width=message.width if message.HasField("width") else None,
        height=message.height if message.HasField("height") else None,
        timings=timings(message.timings),
    )


def failure_to_pb(failure: Failure) -> types.Failure:
    return types.Failure(kind=_FAILURE_TO_PB[failure.kind], message=failure.message)


def failure(message: types.Failure) -> Failure:
    try:
        return Failure(kind=_FAILURE_FROM_PB[message.kind], message=message.message)
    except KeyError:
        raise InvalidInput(f"failure kind {message.kind} is not known") from None


# --- tasks ---


def state(value: tm.TaskState) -> State:
    try:
        return _STATE_FROM_PB[value]
    except KeyError:
        raise InvalidInput(f"task state {value} is not known") from None


def state_to_pb(value: State) -> tm.TaskState:
    return _STATE_TO_PB[value]


def priority(value: tm.Priority) -> Priority:
    try:
        return _PRIORITY_FROM_PB[value]
    except KeyError:
        raise InvalidInput(f"priority {value} is not known; it is low, normal or high") from None


def priority_to_pb(value: Priority) -> tm.Priority:
    return _PRIORITY_TO_PB[value]


def task_to_pb(task: Task) -> tm.Task:
    return tm.Task(
        task_id=task.task_id,
        seq=task.seq,
        revision=task.revision,
        state=_STATE_TO_PB[task.state],
        client_id=task.client_id,
        model=task.model,
        file_name=task.file_name,
        size_bytes=task.size_bytes,
        receiver_url=task.receiver_url,
        created_at_ms=task.created_at_ms,
        updated_at_ms=task.updated_at_ms,
        expires_at_ms=task.expires_at_ms,
        attempt_id=task.attempt_id,
        device_id=task.device_id,
        failed_attempts=task.failed_attempts,
        last_error=task.last_error,
        has_image=task.image is not None,
        priority=_PRIORITY_TO_PB[task.priority],
    )


REMOTE_IMAGE = ImageRef("remote")
"""Stands for a picture that another process keeps: there is one, but it cannot be opened from here."""


def task(message: tm.Task) -> Task:
    return Task(
        task_id=TaskId(message.task_id),
        seq=message.seq,
        revision=message.revision,
        state=state(message.state),
        client_id=message.client_id,
        model=message.model,
        file_name=message.file_name,
        image=REMOTE_IMAGE if message.has_image else None,
        size_bytes=message.size_bytes,
        receiver_url=message.receiver_url if message.HasField("receiver_url") else None,
        created_at_ms=message.created_at_ms,
        updated_at_ms=message.updated_at_ms,
        expires_at_ms=message.expires_at_ms if message.HasField("expires_at_ms") else None,
        attempt_id=AttemptId(message.attempt_id) if message.HasField("attempt_id") else None,
        device_id=DeviceId(message.device_id) if message.HasField("device_id") else None,
        failed_attempts=message.failed_attempts,
        last_error=message.last_error if message.HasField("last_error") else None,
        priority=priority(message.priority),
    )


def attempt_to_pb(attempt: Attempt) -> tm.Attempt:
    return tm.Attempt(
        attempt_id=attempt.attempt_id,
        device_id=attempt.device_id,
        reason=attempt.reason,
        started_at_ms=attempt.started_at_ms,
        ended_at_ms=attempt.ended_at_ms,
        failure=failure_to_pb(attempt.failure) if attempt.failure else None,
        timings=timings_to_pb(attempt.timings) if attempt.timings else None,
    )


def attempt(message: tm.Attempt, task_id: TaskId) -> Attempt:
    return Attempt(
        attempt_id=AttemptId(message.attempt_id),
        task_id=task_id,
        device_id=DeviceId(message.device_id),
        reason=message.reason,
        started_at_ms=message.started_at_ms,
        ended_at_ms=message.ended_at_ms if message.HasField("ended_at_ms") else None,
        failure=failure(message.failure) if message.HasField("failure") else None,
        timings=timings(message.timings) if message.HasField("timings") else None,
    )


def task_details_to_pb(details: TaskDetails) -> tm.GetTaskReply:
    return tm.GetTaskReply(
        task=task_to_pb(details.task),
        attempts=[attempt_to_pb(a) for a in details.attempts],
        result=result_to_pb(details.result) if details.result else None,
        waits_for=details.waits_for,
    )


def task_details(message: tm.GetTaskReply) -> TaskDetails:
    known = task(message.task)
    return TaskDetails(
        task=known,
        attempts=tuple(attempt(a, known.task_id) for a in message.attempts),
        result=result(message.result) if message.HasField("result") else None,
        waits_for=message.waits_for if message.HasField("waits_for") else None,
    )


def task_page_to_pb(page: TaskPage) -> tm.ListTasksReply:
    return tm.ListTasksReply(tasks=[task_to_pb(t) for t in page.tasks], next_cursor=page.next_cursor)


def task_page(message: tm.ListTasksReply) -> TaskPage:
    return TaskPage(
        tasks=tuple(task(t) for t in message.tasks),
        next_cursor=message.next_cursor if message.HasField("next_cursor") else None,
    )


def task_counts_to_pb(counts: TaskCounts) -> tm.CountTasksReply:
    return tm.CountTasksReply(
        counts=[tm.CountTasksReply.Count(state=_STATE_TO_PB[s], tasks=n) for s, n in counts.items()]
    )


def task_counts(message: tm.CountTasksReply) -> TaskCounts:
    return {state(count.state): count.tasks for count in message.counts}


def task_stats_to_pb(stats: TaskStats) -> tm.GetStatsReply:
    return tm.GetStatsReply(
        counts=task_counts_to_pb(stats.counts).counts,
        queued=[
            tm.GetStatsReply.Line(model=line.model, priority=_PRIORITY_TO_PB[line.priority], tasks=tasks)
            for line, tasks in sorted(stats.queued.items())
        ],
        open_bytes=stats.open_bytes,
        undelivered=stats.undelivered,
        oldest_undelivered_ms=stats.oldest_undelivered_ms,
        commits=stats.commits,
        commit_ms=stats.commit_ms,
        ended=[
            tm.GetStatsReply.Ended(state=_STATE_TO_PB[state], model=model, device_id=device_id, tasks=count)
            for (state, model, device_id), count in stats.ended.items()
        ],
        delivery=[
            tm.GetStatsReply.Durations(model=model, counts=took.counts, sum_ms=took.sum_ms)
            for model, took in stats.delivery.items()
        ],
    )


def task_stats(message: tm.GetStatsReply) -> TaskStats:
    return TaskStats(
        counts=task_counts(tm.CountTasksReply(counts=message.counts)),
        queued={Line(line.model, priority(line.priority)): line.tasks for line in message.queued},
        open_bytes=message.open_bytes,
        undelivered=message.undelivered,
        oldest_undelivered_ms=message.oldest_undelivered_ms if message.HasField("oldest_undelivered_ms") else None,
        commits=message.commits,
        commit_ms=message.commit_ms,
        ended={
            (state(e.state), e.model, DeviceId(e.device_id) if e.HasField("device_id") else None): e.tasks
            for e in message.ended
        },
        delivery={took.model: Durations(list(took.counts), took.sum_ms) for took in message.delivery},
    )


def models_to_pb(models: Iterable[ModelFacts]) -> tm.ListModelsReply:
    return tm.ListModelsReply(
        models=[
            tm.ListModelsReply.Model(name=m.name, version=m.version, description=m.description, labels=m.labels)
            for m in models
        ]
    )


def models(message: tm.ListModelsReply) -> tuple[ModelFacts, ...]:
    return tuple(
        ModelFacts(name=m.name, version=m.version, description=m.description, labels=tuple(m.labels))
        for m in message.models
    )


def submission_to_pb(submission: Submission) -> tm.SubmitRequest:
    return tm.SubmitRequest(
        model=submission.model,
        file_name=submission.file_name,
        image=submission.image,
        client_id=submission.client_id,
        submission_key=submission.submission_key,
        receiver_url=submission.receiver_url,
        remaining_ms=submission.remaining_ms,
        priority=_PRIORITY_TO_PB[submission.priority],
        traceparent=submission.traceparent,
    )


def submission(message: tm.SubmitRequest) -> Submission:
    return Submission(
        model=message.model,
        file_name=message.file_name,
        image=message.image,
        client_id=message.client_id,
        submission_key=message.submission_key,
        receiver_url=message.receiver_url if message.HasField("receiver_url") else None,
        remaining_ms=message.remaining_ms if message.HasField("remaining_ms") else None,
        priority=priority(message.priority),
        traceparent=message.traceparent if message.HasField("traceparent") else None,
    )


def list_request(filter_: TaskFilter, *, limit: int, cursor: int | None) -> tm.ListTasksRequest:
    return tm.ListTasksRequest(
        state=_STATE_TO_PB[filter_.state] if filter_.state else None,
        model=filter_.model,
        client_id=filter_.client_id,
        device_id=filter_.device_id,
        priority=_PRIORITY_TO_PB[filter_.priority] if filter_.priority else None,
        page_size=limit,
        cursor=cursor,
    )


def list_filter(message: tm.ListTasksRequest) -> TaskFilter:
    return TaskFilter(
        state=state(message.state) if message.HasField("state") else None,
        model=message.model if message.HasField("model") else None,
        client_id=message.client_id if message.HasField("client_id") else None,
        device_id=DeviceId(message.device_id) if message.HasField("device_id") else None,
        priority=priority(message.priority) if message.HasField("priority") else None,
    )


def chunks(data: bytes) -> Iterable[bytes]:
    """Cut a picture into pieces of at most CHUNK_BYTES; a small one is not copied."""
    return (data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES))


# --- what a board holds ---


def held_outcome_to_pb(outcome: HeldOutcome) -> agent.OutboxEntry:
    return agent.OutboxEntry(
        ledger_id=outcome.ledger_id,
        task_id=outcome.task_id,
        attempt_id=outcome.attempt_id,
        labels_digest=outcome.labels_digest,
        is_winner=outcome.is_winner,
        is_delivered=outcome.is_delivered,
    )


def held_outcome(message: agent.OutboxEntry) -> HeldOutcome:
    return HeldOutcome(
        ledger_id=message.ledger_id,
        task_id=TaskId(message.task_id),
        attempt_id=AttemptId(message.attempt_id),
        labels_digest=message.labels_digest if message.HasField("labels_digest") else None,
        is_winner=message.is_winner,
        is_delivered=message.is_delivered,
    )

"""What the task manager makes of a task's life: one trace, in order, whatever happens to it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgesched.domain.device import DeviceId
from edgesched.domain.lifecycle import Event
from edgesched.domain.task import FailureKind, Task, TaskId, Timings
from edgesched.ledger.base import LedgerEvent
from edgesched.ledger.memory import MemoryLedger
from edgesched.task_manager.traces import TaskTraces
from tests.support.ledgers import (
    RECEIVER,
    SetClock,
    about,
    accepted,
    failure,
    finished,
    labels,
    new_task,
    picture_lost,
    sent_out,
)
from tests.support.traces import Kept, Told, tree

MS = 1_000_000
YEAR_2025_NS = 1_735_689_600_000_000_000
TRACE_ID = 0x4BF92F3577B34DA6A3CE929D0E0E4736
SAMPLED = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
NOT_SAMPLED = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"
RESULT = replace(labels(), timings=Timings(queued_ms=1, infer_ms=5, service_ms=6, transfer_ms=2))


class Bench:
    """A ledger and its traces, under clocks that only the test moves."""

    def __init__(self, most: int = 100) -> None:
        self.kept = Kept()
        self.now_ms = 5_000
        self.wall_step_ms = 0
        self.set_clock = SetClock()
        self.ledger = MemoryLedger(now_ms=self.set_clock.now_ms)
        self.traces = TaskTraces(
            self.kept.tracing,
            now_ns=lambda: self.now_ms * MS,
            wall_ns=lambda: YEAR_2025_NS + (self.now_ms + self.wall_step_ms) * MS,
            most=most,
        )

    async def accepted(self, traceparent: str | None = None, *, receiver_url: str | None = None) -> TaskId:
        task = await accepted(self.ledger, new_task(receiver_url=receiver_url))
        arrived_ns = self.traces.now_ns()
        self.now_ms += 4
        self.traces.accepted(task, traceparent, arrived_ns)
        return task.task_id

    async def happen(self, event: LedgerEvent, *, after_ms: int = 10) -> Task | None:
        self.now_ms += after_ms
        at_ns = self.traces.now_ns()
        (applied,) = await self.ledger.apply_many([event])
        self.now_ms += 2  # of the commit
        self.traces.committed(event, applied, at_ns)
        if applied.task is not None and not applied.is_stale:
            self.traces.announced(applied.task)
        return applied.task

    def spans(self) -> dict[str, Told]:
        spans = self.kept.spans()
        assert len({span.name for span in spans}) == len(spans)
        return {span.name: span for span in spans}


async def delivered(bench: Bench, traceparent: str | None = None) -> None:
    task_id = await bench.accepted(traceparent, receiver_url=RECEIVER)
    await bench.happen(sent_out(task_id, "a"))
    await bench.happen(about(task_id, Event.ACCEPTED, "a"))
    await bench.happen(finished(task_id, "a", RESULT))
    await bench.happen(about(task_id, Event.DELIVERED, "a"))


async def test_a_task_is_one_trace_with_a_span_for_every_part_of_its_life() -> None:
    bench = Bench()
    await delivered(bench)

    assert tree(bench.kept.spans()) == {
        "task": None,
        "accept": "task",
        "queue": "task",
        "attempt": "task",
        "board": "attempt",
        "transfer": "board",
        "wait": "board",
        "work": "board",
        "infer": "work",
        "report": "board",
        "delivery": "task",
    }
    spans = bench.spans()
    assert {span.service for span in spans.values()} == {
        "edgesched-task-manager",
        "edgesched-agent",
        "edgesched-worker",
    }
    assert spans["task"].attributes["edgesched.task.state"] == "delivered"
    assert spans["attempt"].attributes["edgesched.device.id"] == "rk3588-1"
    assert spans["attempt"].attributes["edgesched.placement.reason"] == "load: it is idle"
    assert all(span.error is None for span in spans.values())


async def test_times_are_when_things_happened_not_when_they_were_committed() -> None:
    bench = Bench()
    await delivered(bench)

    def ms(name: str) -> tuple[int, int]:
        span = bench.spans()[name]
        return (span.started_ns - YEAR_2025_NS) // MS - 5_000, (span.ended_ns - YEAR_2025_NS) // MS - 5_000

    assert ms("accept") == (0, 4)
    assert ms("queue") == (4, 14)
    assert ms("attempt") == (14, 38)
    assert ms("wait") == (26, 27)
    assert ms("work") == (27, 33)
    assert ms("delivery") == (40, 50)  # since the commit of its labels
    assert ms("task") == (0, 50)


async def test_the_clients_trace_goes_on() -> None:
    bench = Bench()
    await delivered(bench, SAMPLED)

    assert {span.trace_id for span in bench.kept.spans()} == {TRACE_ID}
    assert bench.spans()["task"].parent_id == 0x00F067AA0BA902B7


@pytest.mark.parametrize("nonsense", ["", "nonsense", SAMPLED[:-3], SAMPLED.replace("4bf9", "ÄÖÜß"), "0" * 100_000])
async def test_a_traceparent_that_is_none_costs_nothing_but_the_link_to_it(nonsense: str) -> None:
    bench = Bench()
    await delivered(bench, nonsense)

    assert bench.spans()["task"].parent_id is None


async def test_what_the_client_does_not_sample_is_not_followed() -> None:
    bench = Bench()
    await delivered(bench, NOT_SAMPLED)

    assert bench.kept.spans() == []


async def test_a_wall_clock_that_is_set_back_meanwhile_does_not_disorder_a_trace() -> None:
    bench = Bench()
    task_id = await bench.accepted()
    await bench.happen(sent_out(task_id, "a"))
    bench.wall_step_ms = -3_600_000
    await bench.happen(finished(task_id, "a", RESULT))

    task, *others = sorted(bench.kept.spans(), key=lambda span: span.name != "task")
    assert len(others) > 5
    assert all(task.started_ns <= span.started_ns <= span.ended_ns <= task.ended_ns for span in others)


async def test_a_failed_attempt_is_an_error_and_the_next_one_follows_in_the_same_trace() -> None:
    bench = Bench()
    task_id = await bench.accepted()
    await bench.happen(sent_out(task_id, "a"))
    why = failure(FailureKind.WORKER_CRASHED, "signal 11")
    await bench.happen(about(task_id, Event.ATTEMPT_FAILED, "a", why))
    await bench.happen(sent_out(task_id, "b", DeviceId("orin-1")), after_ms=500)
    await bench.happen(finished(task_id, "b", RESULT))

    spans = bench.kept.spans()
    first, second = (span for span in spans if span.name == "attempt")
    assert (first.error, first.attributes["error.type"]) == ("signal 11", "worker_crashed")
    assert (second.error, second.attributes["edgesched.device.id"]) == (None, "orin-1")
    waits = [span.ended_ns - span.started_ns for span in spans if span.name == "queue"]
    assert waits == [10 * MS, 502 * MS]
    (task,) = (span for span in spans if span.name == "task")
    assert (task.error, task.attributes["edgesched.attempts.failed"]) == (None, 1)


@pytest.mark.parametrize(
    ("event", "state", "error_type"),
    [
        (Event.CANCELLED, "cancelled", "cancelled"),
        (Event.EXPIRED, "expired", "expired"),
        (Event.PICTURE_LOST, "failed", "picture_lost"),
        (Event.GAVE_UP, "failed", "worker_error"),
    ],
)
async def test_a_task_that_ends_without_labels_ends_its_attempt_and_its_trace(
    event: Event, state: str, error_type: str
) -> None:
    bench = Bench()
    task_id = await bench.accepted()
    await bench.happen(sent_out(task_id, "a"))
    ending = picture_lost(task_id) if event is Event.PICTURE_LOST else about(task_id, event, "a")
    await bench.happen(ending)

    assert set(bench.spans()) == {"accept", "queue", "attempt", "task"}
    attempt, task = bench.spans()["attempt"], bench.spans()["task"]
    assert attempt.error
    assert task.error
    assert attempt.attributes["error.type"] == error_type
    assert task.attributes["edgesched.task.state"] == state


async def test_a_task_that_expires_by_time_ends_its_trace() -> None:
    bench = Bench()
    task = await accepted(bench.ledger, new_task(deadline_ms=1))
    bench.traces.accepted(task, None, bench.traces.now_ns())
    bench.set_clock.wall_ms += 5
    (expired,) = await bench.ledger.expire_due()
    assert expired.task is not None
    bench.traces.announced(expired.task)

    assert bench.spans()["task"].attributes["edgesched.task.state"] == "expired"


async def test_what_boards_say_twice_or_too_late_is_told_once() -> None:
    bench = Bench()
    task_id = await bench.accepted(receiver_url=RECEIVER)
    await bench.happen(sent_out(task_id, "a"))
    for _ in range(2):
        await bench.happen(about(task_id, Event.ACCEPTED, "a"))
    for attempt in ("a", "a", "late"):
        await bench.happen(finished(task_id, attempt, RESULT))
    for _ in range(2):
        await bench.happen(about(task_id, Event.DELIVERED, "a"))

    names = [span.name for span in bench.kept.spans()]
    assert sorted(names) == sorted(set(names))
    assert bench.spans()["delivery"].started_ns < bench.spans()["delivery"].ended_ns


async def test_labels_of_an_attempt_that_was_given_up_end_the_one_that_replaced_it() -> None:
    bench = Bench()
    task_id = await bench.accepted()
    await bench.happen(sent_out(task_id, "a"))
    await bench.happen(about(task_id, Event.DEVICE_LOST, "a"))
    await bench.happen(sent_out(task_id, "b"))
    await bench.happen(finished(task_id, "a", RESULT))

    first, second = (span for span in bench.kept.spans() if span.name == "attempt")
    assert first.error == "it broke"
    assert second.error == "another attempt had the labels first"
    assert "board" not in {span.name for span in bench.kept.spans()}


async def test_memory_is_bounded_and_what_is_let_go_of_says_so() -> None:
    bench = Bench(most=2)
    waiting = [await bench.accepted(receiver_url=RECEIVER) for _ in range(3)]
    for task_id in waiting:
        await bench.happen(sent_out(task_id, "a" + task_id))
    assert [span.name for span in bench.kept.spans()].count("queue") == 2  # the third is not followed
    await bench.happen(finished(waiting[0], "a" + waiting[0], RESULT))
    waiting.append(await bench.accepted(receiver_url=RECEIVER))  # there is room again
    await bench.happen(finished(waiting[1], "a" + waiting[1], RESULT))
    await bench.happen(sent_out(waiting[3], "a3"))
    await bench.happen(finished(waiting[3], "a3", RESULT))

    (forgotten,) = (span for span in bench.kept.spans() if span.name == "task")
    assert forgotten.attributes["edgesched.task.id"] == waiting[0]
    assert "too many" in forgotten.attributes["edgesched.trace.cut"]


async def test_when_the_task_manager_stops_the_roots_of_open_traces_are_told() -> None:
    bench = Bench()
    await bench.accepted()
    task_id = await bench.accepted(receiver_url=RECEIVER)
    await bench.happen(sent_out(task_id, "a"))
    await bench.happen(finished(task_id, "a", RESULT))
    bench.traces.close()
    bench.traces.close()

    cut = [span.attributes.get("edgesched.trace.cut") for span in bench.kept.spans() if span.name == "task"]
    assert cut == ["the task manager stopped before the task had ended"] * 2

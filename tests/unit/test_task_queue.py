"""The cache of waiting tasks: order, back-off, one line per model."""

from __future__ import annotations

from edgesched.domain.lifecycle import State
from edgesched.domain.task import ImageRef, Task, TaskId
from edgesched.task_manager.queue import QueuedTask, TaskQueue


def queued(seq: int, *, model: str = "m", not_before_ms: float = 0.0) -> QueuedTask:
    task = Task(
        task_id=TaskId(f"t{seq}"),
        seq=seq,
        revision=seq,
        state=State.QUEUED,
        client_id="c",
        model=model,
        file_name="a.jpg",
        image=ImageRef("i"),
        size_bytes=1,
        receiver_url=None,
        created_at_ms=0,
        updated_at_ms=0,
        expires_at_ms=None,
        attempt_id=None,
        device_id=None,
        failed_attempts=0,
        last_error=None,
    )
    return QueuedTask(task, not_before_ms=not_before_ms)


def ids(entries: object) -> list[str]:
    return [entry.task.task_id for entry in entries]  # type: ignore[attr-defined]


def test_the_oldest_comes_first_also_when_it_came_back_later() -> None:
    queue = TaskQueue()
    for seq in (5, 9, 2):
        queue.add(queued(seq), now_ms=0)

    assert ids(queue.heads(2, now_ms=0)) == ["t2", "t5"]


def test_looking_takes_nothing_away() -> None:
    queue = TaskQueue()
    queue.add(queued(1), now_ms=0)

    assert ids(queue.heads(5, now_ms=0)) == ids(queue.heads(5, now_ms=0)) == ["t1"]


def test_a_taken_task_is_gone_and_may_come_back() -> None:
    queue = TaskQueue()
    queue.add(queued(1), now_ms=0)
    taken = queue.take(TaskId("t1"))
    assert taken is not None
    assert queue.heads(5, now_ms=0) == []

    queue.add(taken, now_ms=0)

    assert ids(queue.heads(5, now_ms=0)) == ["t1"]
    assert len(queue) == 1


def test_a_task_that_is_added_twice_waits_once() -> None:
    queue = TaskQueue()
    queue.add(queued(1), now_ms=0)
    queue.add(queued(1), now_ms=0)

    assert ids(queue.heads(5, now_ms=0)) == ["t1"]


def test_a_task_taken_and_added_again_before_anybody_looked_is_listed_once() -> None:
    queue = TaskQueue()
    queue.add(queued(1), now_ms=0)
    queue.take(TaskId("t1"))
    queue.add(queued(1), now_ms=0)

    assert ids(queue.heads(5, now_ms=0)) == ["t1"]


def test_one_model_does_not_hold_up_another() -> None:
    queue = TaskQueue()
    for seq in range(100):
        queue.add(queued(seq, model="nobody-runs-it"), now_ms=0)
    queue.add(queued(100, model="m"), now_ms=0)

    assert "t100" in ids(queue.heads(3, now_ms=0))
    assert ids(queue.heads(3, now_ms=0, models=["m"])) == ["t100"]


def test_a_retry_waits_for_its_back_off() -> None:
    queue = TaskQueue()
    queue.add(queued(1, not_before_ms=500), now_ms=100)

    assert queue.heads(5, now_ms=499) == []
    assert queue.next_delay_ms(now_ms=100) == 400
    assert ids(queue.heads(5, now_ms=500)) == ["t1"]
    assert queue.next_delay_ms(now_ms=500) is None

"""The cache of waiting tasks: order, back-off, one line per model and priority, and whose turn it is."""

from __future__ import annotations

from collections import Counter

import pytest

from edgesched.domain.lifecycle import State
from edgesched.domain.task import ImageRef, Line, Priority, Task, TaskId
from edgesched.task_manager.queue import QueuedTask, TaskQueue


def queued(
    seq: int, *, model: str = "m", not_before_ms: float = 0.0, priority: Priority = Priority.NORMAL
) -> QueuedTask:
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
        priority=priority,
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


def taken(queue: TaskQueue, count: int, *, models: list[str] | None = None) -> list[str]:
    """The tasks that get a device, one after the other, while each decision looks at the first two of each model."""
    order = []
    for _ in range(count):
        entry = queue.heads(2, now_ms=0, models=models)[0]
        assert queue.take(entry.task.task_id) is entry
        order.append(str(entry.task.priority))
    return order


def test_while_all_wait_each_priority_has_four_times_the_turns_of_the_next_lower_one() -> None:
    queue = TaskQueue()
    for seq in range(600):
        queue.add(queued(seq, priority=list(Priority)[seq % 3]), now_ms=0)

    order = Counter(taken(queue, 210))

    assert order == {"high": 160, "normal": 40, "low": 10}


def test_a_single_urgent_task_is_next_whatever_waits() -> None:
    queue = TaskQueue()
    for seq in range(100):
        queue.add(queued(seq, priority=Priority.LOW), now_ms=0)
    taken(queue, 50)
    queue.add(queued(1_000, priority=Priority.HIGH), now_ms=0)

    assert taken(queue, 3) == ["high", "low", "low"]


def test_who_had_nothing_to_do_saves_up_no_turns() -> None:
    queue = TaskQueue()
    for seq in range(200):
        queue.add(queued(seq, priority=Priority.HIGH), now_ms=0)
    taken(queue, 160)
    for seq in range(200, 300):
        queue.add(queued(seq, priority=Priority.LOW), now_ms=0)

    assert taken(queue, 34).count("low") == 2


def test_a_priority_whose_tasks_find_no_device_holds_up_no_other() -> None:
    queue = TaskQueue()
    queue.add(queued(1, model="nobody-runs-it", priority=Priority.HIGH), now_ms=0)
    for seq in range(2, 40):
        queue.add(queued(seq, priority=list(Priority)[seq % 2]), now_ms=0)

    assert Counter(taken(queue, 10, models=["m"])) == {"normal": 8, "low": 2}
    assert ids(queue.heads(1, now_ms=0))[0] == "t1"


@pytest.mark.parametrize("idle", [{"high": 100}, {"low": 1}, {"high": 90, "normal": 1, "low": 70}])
def test_backlogs_that_find_no_device_change_nobodys_share(idle: dict[str, int]) -> None:
    queue = TaskQueue()
    for number, name in enumerate(3 * [name for name, count in idle.items() for _ in range(count)]):
        queue.add(queued(-number, model=f"nobody-runs-it-{number % 3}", priority=Priority(name)), now_ms=0)
    for seq in range(300, 900):
        queue.add(queued(seq, priority=list(Priority)[seq % 3]), now_ms=0)

    order = []
    for _ in range(210):  # of the heads of all models only those of one find a device
        entry = next(entry for entry in queue.heads(8, now_ms=0) if entry.task.model == "m")
        queue.take(entry.task.task_id)
        order.append(str(entry.task.priority))

    assert Counter(order) == {"high": 160, "normal": 40, "low": 10}


def test_models_take_turns_in_the_order_of_acceptance() -> None:
    queue = TaskQueue()
    for seq in range(6):
        queue.add(queued(seq, model="ab"[seq % 2]), now_ms=0)

    assert ids(queue.heads(2, now_ms=0)) == ["t0", "t1", "t2", "t3"]


def test_no_model_has_more_heads_than_were_asked_for() -> None:
    queue = TaskQueue()
    for seq in range(30):
        queue.add(queued(seq, model="ab"[seq % 2], priority=list(Priority)[seq % 3]), now_ms=0)

    heads = queue.heads(4, now_ms=0)

    assert Counter(entry.task.model for entry in heads) == {"a": 4, "b": 4}
    assert heads[0].task.priority is Priority.HIGH


def test_a_line_is_as_long_as_those_who_wait_in_it() -> None:
    queue = TaskQueue()
    for seq in range(3):
        queue.add(queued(seq), now_ms=0)
    queue.add(queued(3, not_before_ms=500), now_ms=0)
    queue.add(queued(3, not_before_ms=700), now_ms=0)
    queue.take(TaskId("t0"))
    queue.drop(TaskId("t1"))
    queue.drop(TaskId("t1"))

    assert queue.length(Line("m", Priority.NORMAL)) == len(queue) == 2
    assert queue.length(Line("m", Priority.LOW)) == 0

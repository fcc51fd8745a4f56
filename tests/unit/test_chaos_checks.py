"""The chaos harness can fail: each kind of loss that it is there to find is found."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest

from edgesched.domain.detection import Detection, as_json, text_lines
from edgesched.domain.device import DeviceId
from edgesched.domain.lifecycle import State
from edgesched.domain.task import (
    Attempt,
    AttemptId,
    Failure,
    FailureKind,
    ImageRef,
    Priority,
    Task,
    TaskDetails,
    TaskId,
)
from tests.chaos.checks import (
    check_acknowledged,
    check_attempts,
    check_labels,
    check_logs,
    check_states,
    read_acknowledged,
)
from tests.chaos.gaps import Span, common, gaps, uncovered_s
from tests.chaos.plan import Layout, Plan
from tests.chaos.schedule import Fault, Kind, faults

STAR = Detection(class_id=3, label="star", confidence=0.9, x1=1.0, y1=2.0, x2=30.0, y2=40.0)
RIGHT = {"a.jpg": [as_json(STAR)]}


def attempt(attempt_id: str, failure: Failure | None = None, ended_at_ms: int | None = 9) -> Attempt:
    return Attempt(
        attempt_id=AttemptId(attempt_id),
        task_id=TaskId("t1"),
        device_id=DeviceId("orin-1"),
        reason="",
        started_at_ms=1,
        ended_at_ms=ended_at_ms,
        failure=failure,
        timings=None,
    )


def delivered(task_id: str = "t1", file_name: str = "a.jpg", *attempts: Attempt) -> TaskDetails:
    task = Task(
        task_id=TaskId(task_id),
        seq=1,
        revision=1,
        state=State.DELIVERED,
        client_id="c",
        model="shapes",
        file_name=file_name,
        image=ImageRef("i"),
        size_bytes=1,
        receiver_url="http://127.0.0.1:1",
        created_at_ms=1,
        updated_at_ms=2,
        expires_at_ms=None,
        attempt_id=AttemptId("w1"),
        device_id=DeviceId("orin-1"),
        failed_attempts=0,
        last_error=None,
        priority=Priority.NORMAL,
    )
    return TaskDetails(task=task, attempts=attempts or (attempt("w1"),), result=None)


def write_labels(folder: Path, stem: str = "a", task_id: str = "t1", file_name: str = "a.jpg") -> Path:
    folder.mkdir(exist_ok=True)
    content = {"task_id": task_id, "model": "shapes", "file_name": file_name, "detections": RIGHT["a.jpg"]}
    path = folder / f"{stem}.json"
    path.write_text(json.dumps(content))
    path.with_suffix(".txt").write_text(text_lines([STAR]))
    return path


def test_a_run_without_loss_passes_every_check(tmp_path: Path) -> None:
    tasks = [delivered()]
    write_labels(tmp_path / "rst")
    (tmp_path / "acknowledged.jsonl").write_text('{"path": "/pictures/a.jpg", "task_id": "t1"}\n' * 2)

    acknowledged, unreadable = read_acknowledged(tmp_path / "acknowledged.jsonl")

    assert acknowledged == {"t1": "a.jpg"}
    assert unreadable == []
    assert check_acknowledged(acknowledged, tasks, {"a.jpg"}) == []
    assert check_states(tasks) == []
    assert check_attempts(tasks) == []
    assert check_labels(tmp_path / "rst", tasks, RIGHT) == []


@pytest.mark.parametrize(
    ("acknowledged", "tasks", "words"),
    [
        ({"t1": "a.jpg", "t2": "a.jpg"}, [delivered()], "not in the ledger"),
        ({"t1": "b.jpg"}, [delivered()], "in the ledger it is of a.jpg"),
        ({}, [delivered()], "was never acknowledged"),
        ({"t1": "a.jpg"}, [delivered(), delivered("t2")], "never acknowledged"),
        ({"t1": "a.jpg", "t2": "a.jpg"}, [delivered(), delivered("t2")], "a.jpg has 2 tasks"),
    ],
)
def test_a_ledger_that_disagrees_with_the_client_is_found(
    acknowledged: dict[TaskId, str], tasks: list[TaskDetails], words: str
) -> None:
    assert any(words in problem for problem in check_acknowledged(acknowledged, tasks, {"a.jpg"}))


def test_a_torn_line_and_a_task_of_two_pictures_are_found(tmp_path: Path) -> None:
    path = tmp_path / "acknowledged.jsonl"
    path.write_text('{"path": "a.jpg", "task_id": "t1"}\n{"path": "b.jpg", "task_id": "t1"}\n{"path": "c.j')

    _, problems = read_acknowledged(path)

    assert len(problems) == 2


def test_a_task_that_did_not_come_to_its_end_is_found() -> None:
    details = delivered()

    assert check_states([replace(details, task=replace(details.task, state=State.DONE))])


@pytest.mark.parametrize(
    "attempts",
    [
        [attempt("w1"), attempt("w2")],
        [attempt("w1"), attempt("w2", Failure(kind=FailureKind.DEVICE_LOST, message=""), ended_at_ms=None)],
        [attempt("w2")],
        [attempt("w1", Failure(kind=FailureKind.DEVICE_LOST, message=""))],
    ],
    ids=["two winners", "one is open", "the winner is none of them", "no winner"],
)
def test_a_task_without_exactly_one_winner_is_found(attempts: list[Attempt]) -> None:
    assert check_attempts([delivered("t1", "a.jpg", *attempts)])


def test_labels_that_are_missing_double_wrong_or_nobodys_are_found(tmp_path: Path) -> None:
    tasks, folder = [delivered()], tmp_path / "rst"
    assert check_labels(folder, tasks, RIGHT)

    path = write_labels(folder)
    path.with_suffix(".txt").unlink()
    assert check_labels(folder, tasks, RIGHT) == ["a.txt is missing"]

    write_labels(folder, "a.t1")
    assert any("has 2 label files" in problem for problem in check_labels(folder, tasks, RIGHT))
    for left in folder.iterdir():
        left.unlink()

    write_labels(folder)
    write_labels(folder, "b", "t2")
    assert check_labels(folder, tasks, RIGHT) == ["b.json belongs to no task", "b.txt belongs to no task"]
    assert len(check_labels(folder, tasks, {"a.jpg": []})) == 4


def test_a_traceback_in_a_log_is_found(tmp_path: Path) -> None:
    (tmp_path / "up.log").write_text("Traceback (most recent call last):\n")

    assert check_logs(tmp_path)


def test_a_gap_counts_only_while_something_waits() -> None:
    deliveries = [(0.0, 1.0), (0.5, 8.0), (20.0, 21.0), (2.0, 8.5)]  # accepted, delivered

    assert gaps(deliveries) == [Span(0.0, 1.0), Span(1.0, 8.0), Span(8.0, 8.5), Span(20.0, 21.0)]


def test_what_faults_explain_of_a_gap_is_not_held_against_the_product() -> None:
    assert uncovered_s(Span(10.0, 20.0), []) == 10.0
    assert uncovered_s(Span(10.0, 20.0), [Span(0.0, 12.0), Span(11.0, 13.0), Span(15.0, 16.0), Span(19.0, 30.0)]) == 5.0
    assert uncovered_s(Span(10.0, 20.0), [Span(30.0, 40.0), Span(5.0, 6.0)]) == 10.0
    assert common([[Span(0.0, 5.0), Span(8.0, 9.0)], [Span(3.0, 8.5)]]) == [Span(3.0, 5.0), Span(8.0, 8.5)]
    assert common([[Span(0.0, 5.0)], []]) == []


@pytest.mark.parametrize("layout", list(Layout))
def test_the_seed_alone_decides_the_faults_and_each_round_hits_every_kind(layout: Layout, tmp_path: Path) -> None:
    plan = Plan(seed=5, pictures=1, boards="orin", layout=layout, directory=tmp_path, rounds=2)
    drawn: list[Fault] = list(faults(plan))

    assert drawn == list(faults(plan))
    assert drawn != list(faults(replace(plan, seed=6)))
    half = len(drawn) // 2
    first, second = ({(fault.action, fault.kind) for fault in part} for part in (drawn[:half], drawn[half:]))
    assert first == second
    assert len(first) == half
    masters = {Kind.UP} if layout is Layout.TOGETHER else {Kind.TASK_MANAGER, Kind.GATEWAY}
    every = set(Kind) - {Kind.UP, Kind.TASK_MANAGER, Kind.GATEWAY} | masters
    assert {kind for _, kind in first} == every
    only = replace(plan, only=frozenset({Kind.WORKER}), rounds=None)
    assert {fault.kind for fault in itertools.islice(faults(only), 50)} == {Kind.WORKER}

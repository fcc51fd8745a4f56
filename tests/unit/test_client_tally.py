from __future__ import annotations

from client.pictures import Picture
from client.submitter import Acknowledged, Refused
from client.tally import Tally
from edgesched.domain.device import DeviceId
from edgesched.domain.lifecycle import State
from edgesched.domain.task import Priority, Task, TaskId


def picture(name: str) -> Picture:
    return Picture(source=name, file_name=name, load=lambda: b"")


def acknowledged(name: str, task_id: str) -> Acknowledged:
    return Acknowledged(picture=picture(name), task_id=TaskId(task_id), submission_key=name, size_bytes=500_000)


def task(task_id: str, state: State, *, took_ms: int = 0, last_error: str | None = None) -> Task:
    return Task(
        task_id=TaskId(task_id),
        seq=1,
        revision=1,
        state=state,
        client_id="me",
        model="shapes",
        file_name="x",
        image=None,
        size_bytes=1,
        receiver_url="http://127.0.0.1:8888",
        created_at_ms=5_000,
        updated_at_ms=5_000 + took_ms,
        expires_at_ms=None,
        attempt_id=None,
        device_id=DeviceId("d"),
        failed_attempts=0,
        last_error=last_error,
        priority=Priority.NORMAL,
    )


def tally_of(*names: str) -> Tally:
    tally = Tally([picture(name) for name in names])
    tally.begin()
    return tally


def test_every_picture_is_told_as_sent_refused_or_not_acknowledged() -> None:
    tally = tally_of("a", "b", "c", "d")
    tally.take(acknowledged("a", "t1"))
    tally.take(acknowledged("b", "t2"))
    tally.take(Refused(picture=picture("c"), reason="not a picture"))
    first, *rest = tally.summary(waited=False)
    assert first.startswith("sent 2 of 4 pictures, refused 1, 1.0 MB in ")
    assert rest == ["refused: c: not a picture", "not acknowledged: d"]


def test_pictures_of_an_interrupted_run_count_as_acknowledged_and_not_as_sent() -> None:
    tally = tally_of("a", "b", "c")
    tally.take_earlier(picture("a"), TaskId("t1"))
    tally.take_earlier(picture("b"), TaskId("t2"))
    assert (tally.pictures_per_s, tally.answered) == (0.0, 2)
    tally.take(acknowledged("c", "t3"))
    (line,) = tally.summary(waited=False)
    assert line.startswith("sent 1 of 3 pictures, 2 were acknowledged before, refused 0, 0.5 MB in ")
    for task_id in ("t1", "t2", "t3"):
        assert not tally.all_settled
        tally.learn(task(task_id, State.DELIVERED))
    assert tally.all_settled
    assert tally.all_labelled


def test_a_run_that_never_began_has_nothing_to_tell() -> None:
    assert list(Tally([picture("a")]).summary(waited=True)) == []


def test_a_long_list_is_shortened_but_refusals_are_all_named() -> None:
    tally = tally_of(*(f"p{n}" for n in range(60)))
    for number in range(30):
        tally.take(Refused(picture=picture(f"p{number}"), reason="no"))
    lines = list(tally.summary(waited=False))
    assert sum(line.startswith("refused: ") for line in lines) == 30
    assert sum(line.startswith("not acknowledged: ") for line in lines) == 20
    assert lines[-1] == "... and 10 more"


def test_labels_are_told_per_state_with_the_times_they_took() -> None:
    tally = tally_of("a", "b", "c")
    for number, name in enumerate("abc"):
        tally.take(acknowledged(name, f"t{number}"))
    for number in range(3):
        tally.learn(task(f"t{number}", State.QUEUED))
    tally.learn(task("t0", State.DELIVERED, took_ms=100))
    assert not tally.all_labelled
    tally.learn(task("t1", State.FAILED, took_ms=300, last_error="truncated"))
    assert tally.settled == 2
    _, *rest = tally.summary(waited=True)
    assert rest == [
        "labels: 2 of 3 settled (1 queued, 1 delivered, 1 failed); from submission p50 100 ms, p99 300 ms",
        "failed: b (task t1): truncated",
        "not settled, still with the task manager: c (task t2)",
    ]


def test_all_are_labelled_only_when_each_one_is() -> None:
    tally = tally_of("a", "b")
    tally.take(acknowledged("a", "t1"))
    tally.take(acknowledged("b", "t2"))
    tally.learn(task("t1", State.DELIVERED))
    assert not tally.all_labelled, "nothing is known of the second"
    tally.learn(task("t2", State.DONE))
    assert not tally.all_labelled, "its receiver does not have them yet"
    tally.learn(task("t2", State.DELIVERED))
    assert tally.all_labelled

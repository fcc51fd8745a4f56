"""The sender against a task manager that answers as each test says."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from client.pictures import MAX_PICTURE_BYTES, Picture
from client.send_pic import end_when_told
from client.submitter import Acknowledged, Patience, Report, Step, Waiting, submit_all
from client.waiter import MAX_WATCHED_IDS, are_known, wait_settled
from edgesched import wire
from edgesched.domain.lifecycle import State
from edgesched.domain.task import Task, TaskId
from edgesched.errors import NotKnown, PeerUnavailable
from edgesched.v1 import task_manager_pb2 as pb
from tests.support.fake_task_manager import FakeTaskManager, RunningFake, running
from tests.support.senders import make_pictures, run_send_pic, send_pic

NOBODY = "127.0.0.1:1"  # nothing listens on port 1
INVALID = 3
NOT_FOUND = 5
RESOURCE_EXHAUSTED = 8


@pytest.fixture
async def server() -> AsyncIterator[RunningFake]:
    async with running(FakeTaskManager()) as started:
        yield started


def some_pictures(count: int) -> list[Picture]:
    return [Picture(source=f"{n}", file_name=f"{n}.jpg", load=f"picture {n}".encode) for n in range(count)]


@asynccontextmanager
async def channel_to(server: RunningFake) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(server.target, options=wire.CHANNEL_OPTIONS) as channel:
        yield channel


async def submit(
    target: str,
    pictures: list[Picture],
    *,
    in_flight: int = 4,
    steps: list[Step] | None = None,
    deadline_s: float | None = None,
    patience: Patience | None = None,
) -> Report:
    async with grpc.aio.insecure_channel(target, options=wire.CHANNEL_OPTIONS) as channel:
        return await submit_all(
            channel,
            pictures,
            model="shapes",
            receiver_url="http://127.0.0.1:8888",
            client_id="me",
            in_flight=in_flight,
            deadline_s=deadline_s,
            patience=patience,
            on_progress=None if steps is None else steps.append,
        )


async def test_every_picture_is_acknowledged_once_with_a_key_of_its_own(server: RunningFake) -> None:
    steps: list[Step] = []
    report = await submit(server.target, some_pictures(40), steps=steps)
    fake = server.fake
    assert sorted(item.picture.source for item in report.acknowledged) == sorted(map(str, range(40)))
    assert {item.task_id for item in report.acknowledged} == set(fake.tasks)
    assert report.refused == ()
    assert steps == list(report.acknowledged)
    assert len({request.submission_key for request in fake.received}) == 40
    assert fake.streams == 1
    first = fake.received[0]
    assert (first.model, first.client_id, first.receiver_url) == ("shapes", "me", "http://127.0.0.1:8888")
    assert not first.HasField("remaining_ms")


async def test_answers_in_any_order_find_their_pictures(server: RunningFake) -> None:
    server.fake.reply_in_groups_of = 5
    report = await submit(server.target, some_pictures(20), in_flight=5)
    by_name = {server.fake.tasks[item.task_id].file_name: item.picture.file_name for item in report.acknowledged}
    assert len(by_name) == 20
    assert all(sent == kept for sent, kept in by_name.items())


async def test_no_more_pictures_than_allowed_are_loaded_or_unanswered(server: RunningFake) -> None:
    in_hand: set[str] = set()
    most = 0

    def picture(number: int) -> Picture:
        def load() -> bytes:
            nonlocal most
            in_hand.add(str(number))
            most = max(most, len(in_hand))
            return b"x"

        return Picture(source=str(number), file_name=f"{number}.jpg", load=load)

    def on_progress(step: Step) -> None:
        assert isinstance(step, Acknowledged)
        in_hand.remove(step.picture.source)

    server.fake.reply_in_groups_of = 3
    async with channel_to(server) as channel:
        pictures = map(picture, range(12))
        await submit_all(
            channel, pictures, model="m", receiver_url=None, client_id="me", in_flight=3, on_progress=on_progress
        )
    assert most == 3
    assert not in_hand


async def test_a_refused_picture_costs_no_other_one(server: RunningFake) -> None:
    def refuse_the_third(request: pb.SubmitRequest) -> pb.Refusal | None:
        return pb.Refusal(status_code=INVALID, message="not a picture") if request.file_name == "3.jpg" else None

    server.fake.refusal_for = refuse_the_third
    report = await submit(server.target, some_pictures(10))
    assert [(item.picture.source, item.reason) for item in report.refused] == [("3", "not a picture")]
    assert len(report.acknowledged) == 9
    assert len(server.fake.received) == 10


async def test_a_full_queue_is_waited_for_and_the_same_submission_sent_again(server: RunningFake) -> None:
    full = {"0.jpg": 2, "1.jpg": 1}

    def refuse_at_first(request: pb.SubmitRequest) -> pb.Refusal | None:
        if full.get(request.file_name, 0) == 0:
            return None
        full[request.file_name] -= 1
        return pb.Refusal(status_code=RESOURCE_EXHAUSTED, message="1000 tasks wait", retry_after_ms=5)

    server.fake.refusal_for = refuse_at_first
    steps: list[Step] = []
    report = await submit(server.target, some_pictures(3), steps=steps)
    assert len(report.acknowledged) == 3
    keys = [request.submission_key for request in server.fake.received if request.file_name == "0.jpg"]
    assert len(keys) == 3
    assert len(set(keys)) == 1
    assert [step for step in steps if isinstance(step, Waiting)] == [
        Waiting(reason="full, waiting (1000 tasks wait)")
    ] * 3


async def test_a_broken_stream_is_opened_again_and_the_same_keys_are_sent(server: RunningFake) -> None:
    server.fake.break_after = [3, 1, 5]
    server.fake.replies_are_lost = True
    report = await submit(server.target, some_pictures(20))
    assert len(report.acknowledged) == 20
    assert server.fake.streams == 4
    assert len(server.fake.received) > 20
    assert len(server.fake.tasks) == 20, "a picture that was sent twice became two tasks"


async def test_a_task_manager_that_was_restarted_gets_what_it_had_not_answered() -> None:
    fake = FakeTaskManager()
    fake.reply_in_groups_of = 100  # the first one never answers
    async with running(fake) as first:
        sending = asyncio.create_task(submit(first.target, some_pictures(6), in_flight=6))
        async with asyncio.timeout(10):
            await fake.got_one.wait()
    second = FakeTaskManager()
    async with running(second, port=first.port):
        async with asyncio.timeout(20):
            report = await sending
    assert len(report.acknowledged) == 6
    assert {request.submission_key for request in fake.received} <= {r.submission_key for r in second.received}


async def test_a_picture_that_cannot_be_loaded_or_carried_is_refused_here(server: RunningFake) -> None:
    def fail() -> bytes:
        raise PermissionError(13, "Permission denied")

    pictures = [
        Picture(source="locked", file_name="locked.jpg", load=fail),
        Picture(source="huge", file_name="huge.jpg", load=lambda: bytes(MAX_PICTURE_BYTES + 1)),
        Picture(source="odd", file_name="odd\udcff.jpg", load=lambda: b"x"),
        *some_pictures(2),
    ]
    report = await submit(server.target, pictures)
    reasons = {item.picture.source: item.reason for item in report.refused}
    assert reasons["locked"] == "it cannot be read: Permission denied"
    assert "more than one message can carry" in reasons["huge"]
    assert "UTF-8" in reasons["odd"]
    assert len(report.acknowledged) == 2
    assert server.fake.streams == 1


async def test_the_largest_picture_that_is_allowed_travels(server: RunningFake) -> None:
    largest = Picture(source="large", file_name="large.jpg", load=lambda: bytes(MAX_PICTURE_BYTES))
    report = await submit(server.target, [largest])
    assert report.acknowledged[0].size_bytes == MAX_PICTURE_BYTES
    assert server.fake.streams == 1


async def test_a_deadline_shrinks_while_the_picture_waits(server: RunningFake) -> None:
    refused_once: list[int] = []

    def refuse_first(request: pb.SubmitRequest) -> pb.Refusal | None:
        refused_once.append(request.remaining_ms)
        return pb.Refusal(status_code=RESOURCE_EXHAUSTED, retry_after_ms=50) if len(refused_once) == 1 else None

    server.fake.refusal_for = refuse_first
    await submit(server.target, some_pictures(1), deadline_s=30)
    first, second = refused_once
    assert 29_000 < first <= 30_000
    assert second <= first - 50


async def test_a_task_manager_that_was_never_there_ends_the_run_with_one_sentence() -> None:
    with pytest.raises(PeerUnavailable, match=r"did not answer within 0.4 s .*; is it running"):
        await submit(NOBODY, some_pictures(3), patience=Patience(first_answer_s=0.4, next_answer_s=60))


async def test_silence_after_an_answer_ends_the_run_too(server: RunningFake) -> None:
    server.fake.answers_at_most = 2
    steps: list[Step] = []
    with pytest.raises(PeerUnavailable, match=r"stopped answering 1 s ago"):
        await submit(
            server.target,
            some_pictures(3),
            in_flight=2,
            steps=steps,
            patience=Patience(first_answer_s=60, next_answer_s=1),
        )
    assert len([step for step in steps if isinstance(step, Acknowledged)]) == 2


async def test_a_server_that_is_no_task_manager_is_not_asked_again() -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        with pytest.raises(PeerUnavailable, match="refuses to take pictures"):
            await submit(f"127.0.0.1:{port}", some_pictures(1), patience=Patience(first_answer_s=60))
    finally:
        await server.stop(None)


# --- waiting for labels ---


async def submitted(server: RunningFake, count: int) -> list[TaskId]:
    report = await submit(server.target, some_pictures(count))
    return [item.task_id for item in report.acknowledged]


async def test_waiting_ends_when_every_task_has_settled(server: RunningFake) -> None:
    fake = server.fake
    first, second, third = await submitted(server, 3)
    await fake.move(first, pb.TASK_STATE_DELIVERED)  # settled before anybody watches
    changes: list[Task] = []
    everything_seen = asyncio.Event()

    def on_change(task: Task) -> None:
        changes.append(task)
        if len({change.task_id for change in changes}) == 3:
            everything_seen.set()

    async with channel_to(server) as channel, asyncio.timeout(10):
        waiting = asyncio.create_task(wait_settled(channel, [first, second, third], on_change=on_change))
        await everything_seen.wait()
        await fake.move(second, pb.TASK_STATE_DONE)  # not yet the end: a receiver was named
        await fake.move(third, pb.TASK_STATE_FAILED, last_error="not a picture")
        await fake.move(second, pb.TASK_STATE_DELIVERED)
        known = await waiting
    assert {i: task.state for i, task in known.items()} == {
        first: State.DELIVERED,
        second: State.DELIVERED,
        third: State.FAILED,
    }
    assert known[third].last_error == "not a picture"


async def test_a_broken_watch_goes_on_with_those_that_are_left(server: RunningFake) -> None:
    ids = await submitted(server, 4)
    for task_id in ids:
        await server.fake.move(task_id, pb.TASK_STATE_DELIVERED)
    server.fake.end_watch_after = [1, 0, 2]
    async with channel_to(server) as channel, asyncio.timeout(10):
        known = await wait_settled(channel, ids)
    assert all(task.state is State.DELIVERED for task in known.values())
    assert [len(request.task_ids) for request in server.fake.watched] == [4, 3, 3, 1]


async def test_waiting_without_news_ends_with_what_is_known(server: RunningFake) -> None:
    done, stuck = await submitted(server, 2)
    await server.fake.move(done, pb.TASK_STATE_DELIVERED)
    async with channel_to(server) as channel, asyncio.timeout(10):
        known = await wait_settled(channel, [done, stuck], timeout_s=1)
    assert known[done].is_settled
    assert known[stuck].state is State.QUEUED


async def test_more_tasks_than_one_watch_may_name_are_watched_in_parts(server: RunningFake) -> None:
    (task_id,) = await submitted(server, 1)
    await server.fake.move(task_id, pb.TASK_STATE_DELIVERED)
    settled = server.fake.tasks.pop(task_id)
    ids = [TaskId(f"t{number}") for number in range(MAX_WATCHED_IDS + 1)]
    for i in ids:
        server.fake.tasks[i] = pb.Task()
        server.fake.tasks[i].CopyFrom(settled)
        server.fake.tasks[i].task_id = i
    async with channel_to(server) as channel, asyncio.timeout(30):
        known = await wait_settled(channel, ids)
    assert known.keys() == set(ids)
    assert sorted(len(request.task_ids) for request in server.fake.watched) == [1, MAX_WATCHED_IDS]


async def test_waiting_for_a_task_that_is_not_known_is_an_error(server: RunningFake) -> None:
    async with channel_to(server) as channel:
        with pytest.raises(NotKnown, match="no task nonsense"):
            await wait_settled(channel, [TaskId("nonsense")])


async def test_tasks_are_known_only_if_the_task_manager_says_so(server: RunningFake) -> None:
    ids = await submitted(server, 3)
    await server.fake.move(ids[0], pb.TASK_STATE_DELIVERED)
    async with channel_to(server) as channel, asyncio.timeout(10):
        assert await are_known(channel, ids)
        assert not await are_known(channel, [*ids, TaskId("nonsense")])
    async with grpc.aio.insecure_channel(NOBODY) as channel, asyncio.timeout(10):
        assert not await are_known(channel, ids, timeout_s=0.2)


# --- the command ---


async def test_the_command_sends_a_directory_and_notes_each_acknowledgement(
    server: RunningFake, tmp_path: Path
) -> None:
    directory = make_pictures(tmp_path / "pictures", 5)
    noted = tmp_path / "acknowledged.jsonl"
    arguments = ("-P", server.port, "-D", directory, "-n", 9, "-w", 2, "--no-receiver", "--acknowledged", noted)
    arguments += ("--priority", "low")
    code, out, err = await run_send_pic(tmp_path, *arguments)
    assert (code, err) == (0, "")
    assert {request.priority for request in server.fake.received} == {pb.PRIORITY_LOW}
    assert "holds 5 pictures, fewer than --max: all are sent" in out
    assert "sent 5 of 5 pictures, refused 0" in out
    lines = [json.loads(line) for line in noted.read_text().splitlines()]
    assert {(line["path"], line["task_id"]) for line in lines} == {
        (str(directory / task.file_name), task.task_id) for task in server.fake.tasks.values()
    }
    assert not server.fake.received[0].HasField("receiver_url")

    await run_send_pic(tmp_path, *arguments)
    assert len({request.client_id for request in server.fake.received}) == 1
    assert len(server.fake.tasks) == 10, "a second run sends its pictures anew"


async def test_the_command_names_what_was_refused_and_fails(server: RunningFake, tmp_path: Path) -> None:
    server.fake.refusal_for = lambda request: pb.Refusal(status_code=NOT_FOUND, message="no such model; there are: a")
    directory = make_pictures(tmp_path / "pictures", 1)
    code, out, _ = await run_send_pic(tmp_path, "-P", server.port, "-D", directory, "--no-receiver")
    assert code == 1
    assert f"refused: {directory / '0.jpg'}: no such model; there are: a" in out


async def test_the_command_warns_when_no_receiver_listens_and_goes_on(server: RunningFake, tmp_path: Path) -> None:
    directory = make_pictures(tmp_path / "pictures", 1)
    config = tmp_path / "sender.toml"
    config.write_text("receiver_port = 1\n")
    code, _, err = await run_send_pic(tmp_path, "-P", server.port, "-D", directory, "--config", config)
    assert code == 0
    assert err.count("warning: no receiver listens on http://127.0.0.1:1 yet; start one with") == 1
    assert server.fake.received[0].receiver_url == "http://127.0.0.1:1"


async def test_the_command_waits_for_labels_and_fails_if_a_picture_has_none(
    server: RunningFake, tmp_path: Path
) -> None:
    directory = make_pictures(tmp_path / "pictures", 2)
    async with send_pic(tmp_path, "-P", server.port, "-D", directory, "--no-receiver", "--wait") as process:
        async with asyncio.timeout(30):
            await server.fake.is_watched.wait()
            await server.fake.move("task-1", pb.TASK_STATE_DONE, after_ms=120)
            await server.fake.move("task-2", pb.TASK_STATE_FAILED, after_ms=40, last_error="truncated")
            out, _ = await process.communicate()
    assert process.returncode == 1
    assert "labels: 2 of 2 settled (1 done, 1 failed); from submission p50 40 ms, p99 120 ms" in out.decode()
    assert f"failed: {directory / server.fake.tasks['task-2'].file_name} (task task-2): truncated" in out.decode()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupted_command_says_what_was_acknowledged(
    server: RunningFake, tmp_path: Path, signum: signal.Signals
) -> None:
    server.fake.answers_at_most = 2
    directory = make_pictures(tmp_path / "pictures", 4)
    noted = tmp_path / "acknowledged.jsonl"
    arguments = ("-P", server.port, "-D", directory, "-w", 1, "--no-receiver", "--acknowledged", noted)
    async with send_pic(tmp_path, *arguments) as process, asyncio.timeout(30):
        await server.fake.fell_silent.wait()
        asked_at = time.monotonic()
        process.send_signal(signum)
        out, err = await process.communicate()
    assert time.monotonic() - asked_at < 3.0  # one, on a machine that has time
    assert process.returncode == 130
    assert err.decode() == ""
    assert "sent 2 of 4 pictures" in out.decode()
    assert len(noted.read_text().splitlines()) == 2
    assert f"not acknowledged: {directory}" in out.decode()


async def test_a_second_interrupt_at_once_does_not_break_into_the_end_that_the_first_one_began() -> None:
    told: list[str] = []

    async def work() -> None:
        end_when_told()
        try:
            signal.raise_signal(signal.SIGINT)
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            signal.raise_signal(signal.SIGINT)
            for _ in range(5):
                await asyncio.sleep(0)  # the loop hears of the signal in one of these turns
            told.append("what was acknowledged")
            raise

    (outcome,) = await asyncio.gather(asyncio.create_task(work()), return_exceptions=True)
    for signum in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().remove_signal_handler(signum)
    assert isinstance(outcome, asyncio.CancelledError)
    assert told == ["what was acknowledged"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--dir", "missing"), "edgesched: --dir missing: cannot be read: no such file or directory\n"),
        (("--dir", __file__), f"edgesched: --dir {__file__}: cannot be read: not a directory\n"),
        (("--max", "0"), "max_pictures (flag): Input should be greater than 0, got 0"),
        (("--receiver", "nowhere:8888"), "edgesched: --receiver nowhere:8888: give a URL such as http://"),
        (("--host", "no.such.host.invalid"), "edgesched: --host no.such.host.invalid: cannot be reached"),
        (("--receiver", "http://x", "--no-receiver"), "exclude each other"),
        (("--acknowledged", "/no/such/file"), "edgesched: --acknowledged /no/such/file: cannot be written"),
    ],
)
async def test_a_command_that_cannot_start_says_why(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    directory = make_pictures(tmp_path / "pictures", 1)
    code, out, err = await run_send_pic(tmp_path, "--dir", directory, *arguments)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert out == ""


async def test_an_empty_directory_is_an_error(tmp_path: Path) -> None:
    code, _, err = await run_send_pic(tmp_path, "--dir", tmp_path)
    assert code == 2
    assert f"no pictures in {tmp_path}" in err

"""A sender that was interrupted and is run again, against a task manager that answers as each test says."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edgesched.v1 import task_manager_pb2 as pb
from tests.support.fake_task_manager import FakeTaskManager, RunningFake, running
from tests.support.senders import make_pictures, run_send_pic, send_pic

ALREADY_THERE = re.compile(r"resuming an interrupted run: (\d+) of (\d+) pictures were acknowledged before\n")


@pytest.fixture
async def server() -> AsyncIterator[RunningFake]:
    async with running(FakeTaskManager()) as started:
        yield started


async def killed(
    tmp_path: Path, fake: FakeTaskManager, *arguments: object, after: int, signum: signal.Signals = signal.SIGKILL
) -> str:
    """A run that is ended after so many more answers. Returns: its output."""
    fake.answers_at_most = len(fake.received) + after
    fake.fell_silent.clear()
    async with send_pic(tmp_path, *arguments) as process, asyncio.timeout(30):
        await fake.fell_silent.wait()
        process.send_signal(signum)
        out, _ = await process.communicate()
    fake.answers_at_most = None
    return out.decode()


def keys_by_name(fake: FakeTaskManager) -> dict[str, set[str]]:
    keys: dict[str, set[str]] = defaultdict(set)
    for request in fake.received:
        keys[request.file_name].add(request.submission_key)
    return keys


def each_has_one_key(fake: FakeTaskManager, count: int) -> bool:
    keys = keys_by_name(fake)
    every = set().union(*keys.values())
    return len(keys) == len(every) == len(fake.tasks) == count and all(len(own) == 1 for own in keys.values())


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT])
async def test_an_interrupted_run_goes_on_where_it_was(
    server: RunningFake, tmp_path: Path, signum: signal.Signals
) -> None:
    fake = server.fake
    directory = make_pictures(tmp_path / "pictures", 9)
    noted = tmp_path / "acknowledged.jsonl"
    arguments = ("-P", server.port, "-D", directory, "-w", 1, "--no-receiver", "--acknowledged", noted)
    await killed(tmp_path, fake, *arguments, after=4, signum=signum)
    assert len(fake.received) == 5

    code, out, err = await run_send_pic(tmp_path, *arguments)
    assert (code, err) == (0, "")
    assert "resuming an interrupted run: 4 of 9 pictures were acknowledged before\n" in out
    assert "sent 5 of 9 pictures, 4 were acknowledged before, refused 0" in out
    assert len(fake.received) == 10, "no bytes are sent again of what was acknowledged"
    assert each_has_one_key(fake, 9)
    lines = [json.loads(line) for line in noted.read_text().splitlines()]
    assert {line["task_id"]: line["path"] for line in lines} == {
        task_id: str(directory / task.file_name) for task_id, task in fake.tasks.items()
    }

    code, out, _ = await run_send_pic(tmp_path, *arguments)
    assert code == 0
    assert "resuming" not in out
    assert len(fake.tasks) == 18, "a completed run is over: the next one makes new tasks"


async def test_a_sender_killed_again_and_again_makes_one_task_of_each_picture(
    server: RunningFake, tmp_path: Path
) -> None:
    """The task manager has accepted pictures of which the sender never learned."""
    fake = server.fake
    fake.replies_are_lost = True
    directory = make_pictures(tmp_path / "pictures", 30)
    for number in range(10, 20):
        (directory / f"{number}.jpg").write_bytes(b"these all look the same")
    arguments = ("-P", server.port, "-D", directory, "-w", 4, "--no-receiver")
    known_before = 0
    for after in (0, 3, 7, 1):
        out = await killed(tmp_path, fake, *arguments, after=after)
        if resumed := ALREADY_THERE.search(out):  # not the first one
            assert known_before <= int(resumed[1]) <= len(fake.tasks)
            known_before = int(resumed[1])
    assert known_before > 0
    code, out, _ = await run_send_pic(tmp_path, *arguments)
    assert code == 0
    assert ALREADY_THERE.search(out)
    assert each_has_one_key(fake, 30)


async def test_a_key_is_on_the_disk_before_the_picture_leaves(server: RunningFake, tmp_path: Path) -> None:
    missing: list[str] = []

    def look(request: pb.SubmitRequest) -> None:
        (journal,) = (tmp_path / "state" / "runs").iterdir()
        if request.submission_key not in journal.read_text():
            missing.append(request.file_name)

    server.fake.refusal_for = look
    directory = make_pictures(tmp_path / "pictures", 5)
    await run_send_pic(tmp_path, "-P", server.port, "-D", directory, "--no-receiver")
    assert len(server.fake.received) == 5
    assert missing == []
    assert not any((tmp_path / "state" / "runs").iterdir()), "a journal of completed runs would only grow"


async def test_a_picture_that_changed_in_between_is_a_new_one(server: RunningFake, tmp_path: Path) -> None:
    directory = make_pictures(tmp_path / "pictures", 4)
    arguments = ("-P", server.port, "-D", directory, "-w", 1, "--no-receiver")
    await killed(tmp_path, server.fake, *arguments, after=2)
    (directory / "0.jpg").write_bytes(b"drawn anew")
    status = (directory / "1.jpg").stat()
    os.utime(directory / "1.jpg", ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000_000))
    _, out, _ = await run_send_pic(tmp_path, *arguments)
    assert "resuming an interrupted run: 0 of 4 pictures were acknowledged before\n" in out
    assert {name: len(keys) for name, keys in keys_by_name(server.fake).items()} == {
        "0.jpg": 2,
        "1.jpg": 2,
        "2.jpg": 1,
        "3.jpg": 1,
    }


async def test_the_same_picture_for_another_model_is_another_task(server: RunningFake, tmp_path: Path) -> None:
    directory = make_pictures(tmp_path / "pictures", 3)
    arguments = ("-P", server.port, "-D", directory, "-w", 1, "--no-receiver")
    await killed(tmp_path, server.fake, *arguments, after=1)
    _, out, _ = await run_send_pic(tmp_path, *arguments, "--model", "other")
    assert "resuming" not in out
    _, out, _ = await run_send_pic(tmp_path, *arguments)
    assert "resuming an interrupted run: 1 of 3 pictures were acknowledged before\n" in out
    assert len(server.fake.tasks) == 6


async def test_two_senders_at_once_are_two_runs(server: RunningFake, tmp_path: Path) -> None:
    directory = make_pictures(tmp_path / "pictures", 8)
    arguments = ("-P", server.port, "-D", directory, "--no-receiver")
    first, second = await asyncio.gather(run_send_pic(tmp_path, *arguments), run_send_pic(tmp_path, *arguments))
    assert (first[0], second[0]) == (0, 0)
    assert len(server.fake.tasks) == 16
    assert {name: len(keys) for name, keys in keys_by_name(server.fake).items()} == {f"{n}.jpg": 2 for n in range(8)}
    assert len({request.client_id for request in server.fake.received}) == 1, "both made the client's id at once"


async def test_a_task_manager_that_has_lost_its_memory_gets_every_picture_again(tmp_path: Path) -> None:
    directory = make_pictures(tmp_path / "pictures", 6)
    async with running(FakeTaskManager()) as first:
        arguments = ("-P", first.port, "-D", directory, "-w", 1, "--no-receiver")
        await killed(tmp_path, first.fake, *arguments, after=3)
    async with running(FakeTaskManager(), port=first.port) as second:
        code, out, _ = await run_send_pic(tmp_path, *arguments)
    assert code == 0
    assert "resuming an interrupted run: 3 of 6 pictures were acknowledged before\n" in out
    assert "the task manager does not confirm all of them: they are sent again" in out
    assert each_has_one_key(second.fake, 6)
    assert all(keys <= keys_by_name(second.fake)[name] for name, keys in keys_by_name(first.fake).items())


async def test_a_run_that_was_interrupted_while_it_waited_waits_again_for_the_same_tasks(
    server: RunningFake, tmp_path: Path
) -> None:
    fake = server.fake
    directory = make_pictures(tmp_path / "pictures", 3)
    arguments = ("-P", server.port, "-D", directory, "--no-receiver", "--wait")
    async with send_pic(tmp_path, *arguments) as process, asyncio.timeout(30):
        await fake.is_watched.wait()
        process.kill()
        await process.communicate()
    for task_id in list(fake.tasks):
        await fake.move(task_id, pb.TASK_STATE_DONE)
    code, out, _ = await run_send_pic(tmp_path, *arguments)
    assert code == 0
    assert "sent 0 of 3 pictures, 3 were acknowledged before" in out
    assert "labels: 3 of 3 settled (3 done)" in out
    assert len(fake.received) == 3


async def test_a_run_that_gave_up_waiting_is_resumed_and_one_whose_tasks_failed_is_over(
    server: RunningFake, tmp_path: Path
) -> None:
    fake = server.fake
    directory = make_pictures(tmp_path / "pictures", 1)
    arguments = ("-P", server.port, "-D", directory, "--no-receiver", "--wait", "--give-up-after", 0.5)
    code, out, _ = await run_send_pic(tmp_path, *arguments)
    assert (code, len(fake.tasks)) == (1, 1)
    assert "not settled, still with the task manager" in out

    await fake.move("task-1", pb.TASK_STATE_FAILED, last_error="truncated")
    code, out, _ = await run_send_pic(tmp_path, *arguments)
    assert (code, len(fake.tasks)) == (1, 1)
    assert "(task task-1): truncated" in out

    await run_send_pic(tmp_path, *arguments)
    assert len(fake.tasks) == 2


async def test_a_damaged_journal_is_told_and_set_aside(server: RunningFake, tmp_path: Path) -> None:
    directory = make_pictures(tmp_path / "pictures", 4)
    arguments = ("-P", server.port, "-D", directory, "-w", 1, "--no-receiver")
    await killed(tmp_path, server.fake, *arguments, after=2)
    (journal,) = (tmp_path / "state" / "runs").iterdir()
    content = journal.read_bytes()
    journal.write_bytes(content.replace(b"picture", b"p\x00\x00\x00ure", 1))
    code, out, _ = await run_send_pic(tmp_path, *arguments)
    assert code == 0
    assert f"see {journal}.damaged\n" in out
    assert Path(f"{journal}.damaged").exists()
    assert "resuming an interrupted run: 1 of 4 pictures were acknowledged before\n" in out

"""A task manager whose ledger or pictures are not what they were: restored, damaged, or somebody else's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from agents import receive
from edgesched.domain.lifecycle import State
from edgesched.domain.task import TaskId
from edgesched.errors import StartupError
from edgesched.images.records import HEADER, place_of, segment_path
from edgesched.ledger.backup import back_up, restore
from edgesched.ledger.sqlite import SqliteLedger
from edgesched.task_manager import device_link
from edgesched.upkeep.audit import audit
from edgesched.v1 import agent_pb2 as pb
from edgesched.v1 import task_manager_pb2 as tm
from tests.support.fake_boards import FakeBoard, ListedBoards, circle, serving
from tests.support.ledgers import SetClock
from tests.support.task_managers import small_jpeg, task_manager

NOBODY = ListedBoards([])
DELIVER = pb.OutcomeAck.VERDICT_DELIVER
DISCARD = pb.OutcomeAck.VERDICT_DISCARD


class RememberingBoard(FakeBoard):
    """Refuses owners of yesterday, as the real agent does."""

    highest = 0
    refused = 0

    async def Work(self, requests: AsyncIterator[pb.TaskManagerItems], context: Any) -> AsyncIterator[pb.AgentItems]:
        first = await anext(requests)
        if first.items[0].open.epoch < self.highest:
            self.refused += 1
            metadata = ((receive.HIGHEST_EPOCH_KEY, str(self.highest)),)
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "that epoch is over", metadata)
        self.highest = first.items[0].open.epoch

        async def all_of_them() -> AsyncIterator[pb.TaskManagerItems]:
            yield first
            async for message in requests:
                yield message

        async for message in super().Work(all_of_them(), context):
            yield message


def test_both_sides_of_a_stream_have_the_same_word_for_the_highest_epoch() -> None:
    assert device_link.HIGHEST_EPOCH_KEY == receive.HIGHEST_EPOCH_KEY


async def test_a_restored_master_takes_an_epoch_above_what_the_boards_have_seen(tmp_path: Path) -> None:
    first, second = RememberingBoard("b1"), RememberingBoard("b2")
    async with serving(first), serving(second):
        async with task_manager(tmp_path, NOBODY) as client:
            task_id = await client.submit()
        back_up(tmp_path / "ledger.sqlite3", tmp_path / "backup")
        first.highest, second.highest = 41, 12  # owners that came after the backup
        (tmp_path / "ledger.sqlite3").unlink()  # and no trace of them on this disk
        restore(tmp_path / "backup", tmp_path / "ledger.sqlite3", replace=False)
        boards = ListedBoards([first, second], window=1)
        async with task_manager(tmp_path, boards) as client:
            other_id = await client.submit()
            for wanted in (task_id, other_id):
                await client.until(wanted, lambda task: task.state is State.DONE)
    assert first.refused == 1
    assert first.highest > 41
    assert second.highest in (12, first.highest)
    async with SqliteLedger.opened(
        tmp_path / "ledger.sqlite3", now_ms=SetClock().now_ms, durability="process"
    ) as ledger:
        assert ledger.ownership.epoch == first.highest + 1, "the epoch that was taken is durable"


async def test_a_refusal_that_is_not_about_epochs_changes_no_epoch(tmp_path: Path) -> None:
    class Stubborn(FakeBoard):
        async def Work(
            self, requests: AsyncIterator[pb.TaskManagerItems], context: Any
        ) -> AsyncIterator[pb.AgentItems]:
            first = await anext(requests)
            self.opens.append(first.items[0].open)
            self._notify()
            metadata = ((receive.HIGHEST_EPOCH_KEY, str(first.items[0].open.epoch)),)
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now", metadata)
            yield pb.AgentItems()

    async with serving(Stubborn("b1")) as board, task_manager(tmp_path, ListedBoards([board])) as client:
        await client.submit()
        await board.until(lambda: len(board.opens) >= 3)
    assert {opened.epoch for opened in board.opens} == {1}


async def test_a_damaged_picture_fails_its_task_and_stops_nobody_else(tmp_path: Path) -> None:
    async with task_manager(tmp_path, NOBODY) as client:
        damaged, sound = await client.submit(), await client.submit(image=small_jpeg(seed=1))
    async with SqliteLedger.opened(
        tmp_path / "ledger.sqlite3", now_ms=SetClock().now_ms, durability="process"
    ) as ledger:
        (task,) = await ledger.get_many([TaskId(damaged)])
    assert task.image is not None
    place = place_of(task.image)
    with segment_path(tmp_path / "upload", place.segment).open("r+b") as file:
        file.seek(place.offset + HEADER.size + 20)
        file.write(b"\xff\x00\xff")
    async with serving(FakeBoard("b1")) as board, task_manager(tmp_path, ListedBoards([board])) as client:
        failed = await client.until(damaged, lambda task: task.state is State.FAILED)
        await client.until(sound, lambda task: task.state is State.DONE)
        with pytest.raises(grpc.aio.AioRpcError, match="picture"):
            await client.stub.RetryTask(tm.RetryTaskRequest(task_id=damaged), timeout=10)
    assert (failed.last_error or "").startswith("picture_lost: ")
    assert audit(tmp_path / "ledger.sqlite3", tmp_path / "upload", whole=True).is_clean


async def test_labels_that_nobody_waits_for_any_more_are_discarded_when_their_board_comes_back(tmp_path: Path) -> None:
    class Delivering(FakeBoard):
        """It lists what it is trying to deliver, and says nothing more of it: the verdict came long ago."""

        async def Work(
            self, requests: AsyncIterator[pb.TaskManagerItems], context: Any
        ) -> AsyncIterator[pb.AgentItems]:
            async for message in super().Work(requests, context):
                if len(self.opens) == 1 or not message.items[0].HasField("outcome"):
                    yield message

    async with serving(Delivering("b1")) as board, task_manager(tmp_path, ListedBoards([board])) as client:
        abandoned, awaited = [await client.submit(receiver_url="http://127.0.0.1:1") for _ in range(2)]
        await board.until(lambda: [ack.verdict for ack in board.acks] == [DELIVER, DELIVER])
        await client.stub.AbandonDelivery(tm.AbandonDeliveryRequest(task_id=abandoned), timeout=10)
        await board.until(lambda: [ack.verdict for ack in board.acks] == [DELIVER, DELIVER, DISCARD])
        board.acks.clear()
        board.outbox = [circle(dispatch, b"") for dispatch in board.dispatches]
        board.hang_up()
        await board.until(lambda: bool(board.acks))
        attempts = {dispatch.task_id: dispatch.attempt_id for dispatch in board.dispatches}
        assert (await client.details(awaited)).task.state == tm.TASK_STATE_DONE
    assert [(ack.attempt_id, ack.verdict) for ack in board.acks] == [(attempts[abandoned], DISCARD)]


async def test_the_pictures_of_another_ledger_are_not_deleted(tmp_path: Path) -> None:
    """A mistyped --ledger with the usual --upload_path: everything in there would be nobody's."""
    async with task_manager(tmp_path, NOBODY) as client:
        task_id = await client.submit()
    before = {path.name: path.read_bytes() for path in (tmp_path / "upload").iterdir()}
    with pytest.raises(StartupError, match="there is no ledger"):
        async with task_manager(tmp_path, NOBODY, ledger_path=tmp_path / "mistyped.sqlite3"):
            pass
    assert {path.name: path.read_bytes() for path in (tmp_path / "upload").iterdir()} == before
    async with serving(FakeBoard("b1")) as board, task_manager(tmp_path, ListedBoards([board])) as client:
        await client.until(task_id, lambda task: task.state is State.DONE)


async def test_a_ledger_that_has_gone_is_missed_before_a_new_one_is_made(tmp_path: Path) -> None:
    async with task_manager(tmp_path, NOBODY) as client:
        await client.submit()
    ledger = tmp_path / "ledger.sqlite3"
    for path in tmp_path.glob("ledger.sqlite3*"):
        path.unlink()
    with pytest.raises(StartupError, match=r"there is no ledger .*edgesched ledger restore"):
        async with task_manager(tmp_path, NOBODY):
            pass
    assert not ledger.exists(), "it would hide that the other one has gone"

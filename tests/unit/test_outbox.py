"""The outbox: labels are told at once, durable if they have to wait, and gone only when they are settled."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agents.durable import write_atomically
from agents.outbox import MAX_FAILURES, RESERVED_PER_ATTEMPT, Entry, Outbox, Stage
from agents.work import Assignment
from edgesched.domain.detection import Detection
from edgesched.domain.task import AttemptId, Failure, FailureKind, Result, TaskId, Timings
from edgesched.errors import StartupError
from tests.support.agent_parts import logged

WITHIN_S = 10.0
LEDGER = "ledger"
URL = "http://receiver/"
MIB = 1 << 20
LABELS = Result(
    detections=(
        Detection(class_id=0, label="kreis ○\n", confidence=0.25, x1=0.1, y1=1 / 3, x2=1e-9 + 0.1, y2=5e6),
        Detection(class_id=7, label="", confidence=1.0, x1=0.0, y1=0.0, x2=0.0, y2=0.0),
    ),
    width=None,
    height=4,
    timings=Timings(service_ms=0.1, transfer_ms=None),
)
CRASH = Failure(kind=FailureKind.WORKER_CRASHED, message="it died")


def assignment(attempt: str, *, ledger: str = LEDGER, url: str | None = URL) -> Assignment:
    return Assignment(
        ledger_id=ledger,
        task_id=TaskId(f"task-{attempt}"),
        attempt_id=AttemptId(attempt),
        model="shapes",
        file_name='a "b"\n.jpg',
        receiver_url=url,
    )


class Life:
    """One life of an outbox, and what it had to tell."""

    def __init__(self, outbox: Outbox, told: list[tuple[str, Stage]]) -> None:
        self.outbox = outbox
        self.told = told

    async def add(self, *attempts: str, url: str | None = URL, ledger: str = LEDGER) -> None:
        """One group of labels, which is durable on return."""
        for attempt in attempts:
            self.outbox.add(assignment(attempt, url=url, ledger=ledger), LABELS)
        await self.outbox.flush()

    async def settled_on_disk(self) -> None:
        """Wait for a later group: what was removed before it is off the disk then."""
        await self.add("fence", ledger="other")

    def get(self, attempt: str) -> Entry:
        entry = self.outbox.get(AttemptId(attempt))
        assert entry is not None
        return entry

    def judge(self, attempt: str, *, deliver: bool, ledger: str = LEDGER) -> None:
        self.outbox.judged(ledger, AttemptId(attempt), deliver=deliver)

    def waiting_for(self, url: str = URL) -> list[str]:
        return [entry.attempt_id for entry in self.outbox.to_deliver(url)]


@asynccontextmanager
async def living(directory: Path, *, max_bytes: int = MIB) -> AsyncIterator[Life]:
    told: list[tuple[str, Stage]] = []
    async with Outbox.opened(
        directory, max_bytes=max_bytes, on_due=lambda entry: told.append((entry.attempt_id, entry.stage))
    ) as outbox:
        run = asyncio.create_task(outbox.run())
        try:
            yield Life(outbox, told)
        finally:
            run.cancel()
            await asyncio.wait({run})


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


async def test_labels_are_told_at_once_and_written_when_they_have_to_wait(tmp_path: Path) -> None:
    async with living(tmp_path) as life:
        with logged("outbox.written") as written:
            life.outbox.add(assignment("a1"), LABELS)
            assert life.told == [("a1", Stage.WAITING_ACK)]
            assert files(tmp_path) == []
            await asyncio.wait_for(written.wait(), WITHIN_S)
        async with living(tmp_path) as second:  # as if the first one had been killed now
            assert second.get("a1").outcome() == LABELS


async def test_a_board_that_dies_before_it_has_written_tells_of_nothing_so_the_task_is_done_again(
    tmp_path: Path,
) -> None:
    async with Outbox.opened(tmp_path, max_bytes=MIB, on_due=lambda _: None) as outbox:  # nobody runs it
        outbox.add(assignment("a1"), LABELS)
        async with living(tmp_path) as second:
            assert second.outbox.count == 0
            assert second.told == []


async def test_what_the_ledger_settles_in_time_is_never_written(tmp_path: Path) -> None:
    async with living(tmp_path) as life:
        with logged("outbox.written") as written:
            life.outbox.add(assignment("late"), LABELS)
            for number in range(100):
                life.outbox.add(assignment(f"a{number}"), LABELS)
                life.judge(f"a{number}", deliver=False)
            life.outbox.add(assignment("newest"), LABELS)
            await asyncio.wait_for(written.wait(), WITHIN_S)
        assert len(files(tmp_path)) == 1
        async with living(tmp_path) as second:
            assert [entry.attempt_id for entry in second.outbox.entries()] == ["late", "newest"]


async def test_labels_that_are_settled_while_they_are_written_leave_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may_end = threading.Event(), threading.Event()

    def slowly(path: Path, data: bytes) -> None:
        begun.set()
        may_end.wait(WITHIN_S)
        write_atomically(path, data)

    monkeypatch.setattr("agents.outbox_files.write_atomically", slowly)
    async with living(tmp_path) as life:
        life.outbox.add(assignment("a1"), LABELS)
        flush = asyncio.create_task(life.outbox.flush())
        await asyncio.to_thread(begun.wait, WITHIN_S)
        life.judge("a1", deliver=False)
        may_end.set()
        await flush
        assert life.outbox.count == 0
        assert len(files(tmp_path)) == 1
        assert life.outbox.has_room_for(MIB // RESERVED_PER_ATTEMPT)
        await life.settled_on_disk()
        assert len(files(tmp_path)) == 1  # the fence's


async def test_labels_come_back_exactly_after_a_crash(tmp_path: Path) -> None:
    async with living(tmp_path) as life:
        await life.add("a1", "a2")
        assert life.get("a1").outcome() == LABELS
        async with living(tmp_path) as second:  # as if the first one had been killed: nothing of it was closed
            assert second.outbox.count == 2
            entry = second.get("a1")
            assert entry.assignment == assignment("a1")
            assert entry.outcome() == LABELS
            assert entry.stage is Stage.WAITING_ACK


async def test_what_was_not_flushed_is_written_at_a_clean_end(tmp_path: Path) -> None:
    async with Outbox.opened(tmp_path, max_bytes=MIB, on_due=lambda _: None) as outbox:
        outbox.add(assignment("a1"), LABELS)
    async with living(tmp_path) as life:
        assert life.outbox.count == 1


async def test_outcomes_that_come_together_share_one_file(tmp_path: Path) -> None:
    async with living(tmp_path) as life:
        await life.add("a1", "a2", "a3")
        await life.add("a4")
        assert len(files(tmp_path)) == 2


async def test_a_file_goes_when_all_its_entries_are_settled(tmp_path: Path) -> None:
    async with living(tmp_path) as life:
        await life.add("a1", "a2")
        first = files(tmp_path)
        life.judge("a1", deliver=False)
        await life.settled_on_disk()
        assert first[0] in files(tmp_path)
        life.judge("a2", deliver=False)
        life.outbox.judged("other", AttemptId("fence"), deliver=False)
        await life.settled_on_disk()
        assert first[0] not in files(tmp_path)


async def test_a_number_is_never_used_twice_so_no_file_is_overwritten(tmp_path: Path) -> None:
    async with living(tmp_path) as life:
        await life.add("a1")
    async with living(tmp_path) as life:
        await life.add("a2")
    async with living(tmp_path) as life:
        assert life.outbox.count == 2


async def test_delivery_starts_with_the_ledgers_word_and_ends_with_its_note(tmp_path: Path) -> None:
    async with living(tmp_path) as life:
        await life.add("a1")
        assert life.outbox.receivers() == ()
        life.judge("a1", deliver=True)
        life.judge("a1", deliver=True)
        assert life.outbox.deliverable.is_set()
        assert life.waiting_for() == ["a1"]
        life.outbox.delivered(life.get("a1"))
        assert life.told[-1] == ("a1", Stage.REPORTING)
        assert life.outbox.receivers() == ()
        life.judge("a1", deliver=True)  # said again: it is delivered already
        assert life.get("a1").is_delivered
        life.outbox.delivery_known(LEDGER, AttemptId("a1"))
        assert life.outbox.count == 0


async def test_a_rejected_delivery_keeps_its_reason_until_it_is_noted(tmp_path: Path) -> None:
    async with living(tmp_path) as life:
        await life.add("a1")
        life.judge("a1", deliver=True)
        life.outbox.rejected(life.get("a1"), "no such client")
        entry = life.get("a1")
        assert (entry.stage, entry.is_delivered, entry.error) == (Stage.REPORTING, False, "no such client")


async def test_a_verdict_settles_in_every_stage(tmp_path: Path) -> None:
    async with living(tmp_path) as life:
        await life.add("waiting", "delivering", "reporting")
        life.judge("delivering", deliver=True)
        life.judge("reporting", deliver=True)
        late = life.get("delivering")
        life.outbox.delivered(life.get("reporting"))
        for attempt in ("waiting", "delivering", "reporting"):
            life.judge(attempt, deliver=False)
        assert life.outbox.count == 0
        assert life.outbox.receivers() == ()
        told = list(life.told)
        life.outbox.delivered(late)  # the answer of a POST that was on its way
        assert life.told == told


async def test_deliver_without_a_receiver_is_the_end(tmp_path: Path) -> None:
    async with living(tmp_path) as life:
        await life.add("a1", url=None)
        life.judge("a1", deliver=True)
        assert life.outbox.count == 0


async def test_only_its_own_ledger_may_judge_an_outcome(tmp_path: Path) -> None:
    async with living(tmp_path) as life:
        await life.add("a1")
        life.judge("a1", deliver=False, ledger="stranger")
        life.outbox.delivery_known("stranger", AttemptId("a1"))
        life.judge("unknown", deliver=False)
        assert life.outbox.count == 1


async def test_a_failure_is_told_at_once_and_needs_no_disk(tmp_path: Path) -> None:
    async with living(tmp_path) as life:
        life.outbox.add(assignment("a1"), CRASH)
        assert life.told == [("a1", Stage.WAITING_ACK)]
        assert life.get("a1").outcome() == CRASH
        assert files(tmp_path) == []
        life.judge("a1", deliver=True)  # there is nothing to deliver
        assert life.outbox.count == 0


async def test_failures_that_nobody_asks_for_are_bounded(tmp_path: Path) -> None:
    async with living(tmp_path) as life:
        for i in range(MAX_FAILURES + 5):
            life.outbox.add(assignment(f"a{i}"), CRASH)
        assert life.outbox.count == MAX_FAILURES
        assert life.outbox.get(AttemptId("a4")) is None
        assert life.get("a5").failure == CRASH


async def test_room_counts_what_lies_on_the_disk_and_comes_back(tmp_path: Path) -> None:
    async with living(tmp_path, max_bytes=70_000) as life:
        assert life.outbox.has_room_for(1)
        assert not life.outbox.has_room_for(2)
        life.outbox.add(assignment("settled"), LABELS)
        assert not life.outbox.has_room_for(1)
        life.judge("settled", deliver=False)
        assert life.outbox.has_room_for(1)
        for i in range(20):
            life.outbox.add(assignment(f"a{i}"), LABELS)
        assert not life.outbox.has_room_for(1)
        await life.outbox.flush()
        assert not life.outbox.has_room_for(1)
        async with living(tmp_path, max_bytes=70_000) as second:
            assert not second.outbox.has_room_for(1)
            for i in range(20):
                second.judge(f"a{i}", deliver=False)
            assert second.outbox.has_room_for(1)


async def test_a_damaged_file_is_set_aside_and_the_others_are_read(tmp_path: Path) -> None:
    async with living(tmp_path) as life:
        await life.add("a1")
        await life.add("a2")
    first, second = files(tmp_path)
    whole = (tmp_path / first).read_bytes()
    (tmp_path / "draft.jsonl.tmp").write_bytes(b"half")
    (tmp_path / "oddly-named.jsonl").write_bytes(whole)
    for damage in (whole[:-20], b"\x00" * len(whole), whole.replace(b'"width"', b'"wide"'), b"\xff\xfe\n"):
        (tmp_path / first).write_bytes(damage)
        async with living(tmp_path) as life:
            assert life.outbox.get(AttemptId("a1")) is None
            assert life.outbox.get(AttemptId("a2")) is not None
        assert files(tmp_path) == [f"{first}.damaged", second, "oddly-named.jsonl.damaged"]
        assert (tmp_path / f"{first}.damaged").read_bytes() == damage


async def test_a_disk_that_refuses_is_told_of_and_tried_again(tmp_path: Path) -> None:
    directory = tmp_path / "outbox"
    async with living(directory) as life:
        directory.rmdir()  # root may write where it has no permission, so the directory itself has to go
        with logged("outbox.write_failed") as refused, logged("outbox.written") as written:
            life.outbox.add(assignment("a1"), LABELS)
            await asyncio.wait_for(refused.wait(), WITHIN_S)
            assert life.outbox.trouble is not None
            directory.mkdir()
            await asyncio.wait_for(written.wait(), WITHIN_S)
        assert life.outbox.trouble is None
        assert len(files(directory)) == 1


async def test_a_disk_that_refuses_is_no_trouble_any_more_once_all_is_settled(tmp_path: Path) -> None:
    directory = tmp_path / "outbox"
    async with living(directory) as life:
        directory.rmdir()
        life.outbox.add(assignment("a1"), LABELS)
        await life.outbox.flush()
        assert life.outbox.trouble is not None
        life.judge("a1", deliver=False)
        await life.outbox.flush()
        assert life.outbox.trouble is None


async def test_a_directory_that_cannot_be_used_is_a_startup_error(tmp_path: Path) -> None:
    (tmp_path / "outbox").write_text("a file")
    with pytest.raises(StartupError, match="--workspace"):
        async with living(tmp_path / "outbox"):
            pass

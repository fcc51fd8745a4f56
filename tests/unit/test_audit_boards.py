"""What boards hold is held against the ledger: what it explains is no finding, each contradiction is one."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from edgesched.domain.detection import digest
from edgesched.domain.device import DeviceId
from edgesched.domain.outbox import HeldOutcome, Inventory
from edgesched.domain.task import AttemptId, TaskId
from edgesched.upkeep.audit import Report, audit
from tests.support.ledgers import BOARD, SetClock, labels
from tests.support.old_masters import OLD_MS, Workplace, fill, opened

LABELS = digest(labels().detections)
OTHER_LABELS = digest(labels(0.5).detections)
RETIRED_KEY = "submission_key = 'key of retired'"


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("intact")
    asyncio.run(fill(Workplace.below(directory)))
    return directory


@pytest.fixture
def place(intact: Path, tmp_path: Path) -> Workplace:
    shutil.copytree(intact, tmp_path, dirs_exist_ok=True)
    return Workplace.below(tmp_path)


def asked(place: Workplace, query: str) -> str:
    with contextlib.closing(sqlite3.connect(place.ledger)) as connection:
        (value,) = connection.execute(query).fetchone()
        return str(value)


def held(task_id: str, attempt_id: str | None = None, **others: object) -> HeldOutcome:
    """Labels that wait for the ledger's verdict, of its own if `look` is asked about them."""
    outcome = HeldOutcome(
        ledger_id="ours",
        task_id=TaskId(task_id),
        attempt_id=AttemptId(attempt_id or f"{task_id}-a"),
        labels_digest=LABELS,
        is_winner=False,
        is_delivered=False,
    )
    return replace(outcome, **others)


def look(place: Workplace, *outcomes: HeldOutcome, board: DeviceId = BOARD) -> Report:
    ledger_id = asked(place, "SELECT ledger_id FROM meta")
    ours: Sequence[HeldOutcome] = [
        replace(outcome, ledger_id=ledger_id) if outcome.ledger_id == "ours" else outcome for outcome in outcomes
    ]
    inventory = Inventory(device_id=board, outcomes=ours)
    return audit(place.ledger, place.upload, whole=False, inventories=[inventory], release_within_s=0.05)


EXPLAINED: dict[str, HeldOutcome] = {
    "labels that wait for the verdict": held("running"),
    "labels of an attempt that the ledger has never seen": held("queued-1", "unseen"),
    "labels of an attempt that was given up": held("queued-2"),
    "a failure that waits for the verdict": held("running", labels_digest=None),
    "late labels of a dead letter": held("failed", "unseen"),
    "labels that nobody wants any more": held("cancelled"),
    "labels of a loser": held("done-1", "unseen", labels_digest=OTHER_LABELS),
    "the winner, before the board has heard of it": held("done-2"),
    "the winner, on its way to the receiver": held("done-2", is_winner=True),
    "the winner, delivered, which the ledger has not heard of": held("done-2", is_winner=True, is_delivered=True),
    "the winner, delivered": held("delivered", is_winner=True, is_delivered=True),
}


@pytest.mark.parametrize("name", EXPLAINED)
def test_what_the_ledger_explains_is_no_finding(place: Workplace, name: str) -> None:
    report = look(place, EXPLAINED[name])
    assert report.findings == []
    assert report.boards[BOARD].ours == 1


CONTRADICTIONS: dict[str, tuple[HeldOutcome, str]] = {
    "a task that the ledger has never had": (held("nobodys"), "outbox.unknown"),
    "a failure of a task that the ledger has never had": (held("nobodys", labels_digest=None), "outbox.unknown"),
    "an attempt of another task": (held("queued-1", "running-a"), "outbox.attempt"),
    "an attempt of another task, of a task that the ledger never had": (held("nobodys", "running-a"), "outbox.attempt"),
    "a winner of a task without labels": (held("running", is_winner=True), "outbox.winner"),
    "a second winner": (held("done-2", "second", is_winner=True), "outbox.winner"),
    "a winner of a cancelled task": (held("cancelled", is_winner=True), "outbox.winner"),
    "other labels than the ledger has": (held("done-2", labels_digest=OTHER_LABELS), "outbox.labels"),
    "a failure, and the ledger has its labels": (held("done-2", labels_digest=None), "outbox.labels"),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_each_contradiction_is_found(place: Workplace, name: str) -> None:
    outcome, check = CONTRADICTIONS[name]
    (finding,) = look(place, outcome, held("running")).findings
    assert (finding.check, finding.task_id) == (check, outcome.task_id)
    assert f"board {BOARD} holds attempt {outcome.attempt_id}" in finding.what
    assert finding.advice


def test_a_retired_task_is_explained_by_its_key(place: Workplace) -> None:
    attempt = asked(place, f"SELECT json_extract(task, '$.attempt_id') FROM retired_submission WHERE {RETIRED_KEY}")
    assert look(place, held("retired", attempt, is_winner=True)).findings == []
    (finding,) = look(place, held("retired", "second", is_winner=True)).findings
    assert finding.check == "outbox.winner"


def test_a_task_that_is_older_than_the_memory_of_keys_is_counted_and_no_fault(place: Workplace) -> None:
    """A board that was in a drawer for a month: nobody can say any more whether there was such a task."""

    async def forget() -> None:
        clock = SetClock(OLD_MS + 10)
        async with opened(place, clock) as (ledger, _):
            await ledger.retire_tasks(settled_before_ms=0, keys_before_ms=clock.wall_ms, limit=9)

    asyncio.run(forget())
    report = look(place, held("retired"))
    assert report.findings == []
    assert report.boards[BOARD].forgotten == 1


def test_outcomes_of_another_ledger_are_counted_and_not_judged(place: Workplace) -> None:
    report = look(place, held("running", is_winner=True, ledger_id="somebody else's"))
    assert report.findings == []
    assert (report.boards[BOARD].ours, report.boards[BOARD].foreign) == (0, 1)


def test_a_board_with_open_attempts_that_was_not_asked_is_listed(place: Workplace) -> None:
    assert dict(look(place, board=DeviceId("orin-1")).not_audited) == {BOARD: 2}
    assert dict(look(place).not_audited) == {}


async def test_tasks_that_are_retired_while_it_looks_raise_no_false_alarm(place: Workplace) -> None:
    """What boards told of a moment ago may be gone by now; that it was there can still be known."""
    clock = SetClock(OLD_MS + 1_000)
    async with opened(place, clock) as (ledger, images):
        clock.wall_ms += 1
        inventory = [held(name, is_winner=True) for name in ("done-1", "delivered")]
        retired = await ledger.retire_tasks(settled_before_ms=clock.wall_ms, keys_before_ms=0, limit=99)
        await images.release(retired.images)
        report = await asyncio.to_thread(look, place, *inventory)
    assert report.findings == []

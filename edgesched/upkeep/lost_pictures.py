"""Gives up pictures that are gone, so that a task manager can start again with the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from edgesched.domain.lifecycle import Event
from edgesched.domain.task import Task
from edgesched.errors import StartupError
from edgesched.images.segment_files import owner_of
from edgesched.images.survey import look_for
from edgesched.ledger.audit import LedgerFile
from edgesched.ledger.base import Applied, Ledger, LedgerEvent

PAGE = 1_000


def check_pictures(ledger_path: Path, directory: Path) -> None:
    """A wrong directory would cost every open task its picture.

    Raises: StartupError if these are not this ledger's pictures, or there is no usable ledger.
    """
    with LedgerFile.opened(ledger_path) as ledger:
        ledger_id = ledger.facts().ledger_id
    if not directory.is_dir():
        raise StartupError(
            f"there is no picture directory {directory}: correct --upload_path, or make an empty one if all are lost"
        )
    owner = owner_of(directory)
    if owner not in (None, ledger_id):
        raise StartupError(
            f"the pictures in {directory} belong to ledger {owner}, and {ledger_path} is ledger {ledger_id}: "
            "give the --ledger and the --upload_path that belong together"
        )


async def give_up_lost_pictures(ledger: Ledger, directory: Path) -> Sequence[Applied]:
    """Every task whose picture is not there as it was stored loses it; one that still needs it becomes FAILED.

    directory: `check_pictures` has been asked whether it is the right one. Every picture in it is read.
    Returns: what became of those tasks.
    """
    lost: list[LedgerEvent] = []
    cursor = 0
    while page := await ledger.changes_since(cursor, limit=PAGE):
        cursor = page[-1].revision
        lost += await asyncio.to_thread(_lost, page, directory)
    return [applied for at in range(0, len(lost), PAGE) for applied in await ledger.apply_many(lost[at : at + PAGE])]


def _lost(tasks: Sequence[Task], directory: Path) -> list[LedgerEvent]:
    by_ref = {task.image: task for task in tasks if task.image is not None}
    return [
        LedgerEvent(task_id=by_ref[seen.ref].task_id, event=Event.PICTURE_LOST, reason=seen.problem)
        for seen in look_for(directory, by_ref, whole=True)
        if seen.problem is not None
    ]

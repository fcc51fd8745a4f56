"""The outbox as audits ask for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from agents.outbox import Entry, Outbox, Stage
from edgesched import wire
from edgesched.domain.detection import digest
from edgesched.domain.outbox import HeldOutcome
from edgesched.domain.task import Failure
from edgesched.v1 import agent_pb2 as pb

PAGE = 256


async def pages(outbox: Outbox, device_id: str) -> AsyncIterator[pb.InventoryPage]:
    """At least one. Labels are parsed and digested in a thread: a full outbox has hundreds of thousands of them."""
    entries = tuple(outbox.entries())
    for at in range(0, max(1, len(entries)), PAGE):
        held = await asyncio.to_thread(_held, entries[at : at + PAGE])
        yield pb.InventoryPage(device_id=device_id, entries=map(wire.held_outcome_to_pb, held))


def _held(entries: Sequence[Entry]) -> list[HeldOutcome]:
    return [_told_of(entry) for entry in entries]


def _told_of(entry: Entry) -> HeldOutcome:
    outcome = entry.outcome()
    return HeldOutcome(
        ledger_id=entry.assignment.ledger_id,
        task_id=entry.assignment.task_id,
        attempt_id=entry.attempt_id,
        labels_digest=None if isinstance(outcome, Failure) else digest(outcome.detections),
        is_winner=entry.stage in (Stage.DELIVERING, Stage.REPORTING),
        is_delivered=entry.is_delivered,
    )

"""What is wrong with the cluster: in English for /health, and so that the dashboard can say it in its own language."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from edgesched import rest
from edgesched.domain.device import DeviceState
from edgesched.domain.fact import fact
from edgesched.domain.lifecycle import State
from edgesched.domain.task import MAX_COUNTED_UNDELIVERED, TaskCounts, TaskStats
from edgesched.errors import PeerUnavailable
from edgesched.ports import TaskQueries
from gateway.fleet import Fleet
from gateway.rivals import Rivals

UNDELIVERED_MS = 15_000.0
"""Boards deliver at once, and the task manager after some seconds: labels that wait for longer have no receiver."""

CORDONED, DRAINING = "cordoned", "draining"
MOST_NAMED = 5  # devices; `edgesched devices list` has all


@fact
class Trouble:
    """Something that is wrong. kind and values: for whoever says it in another language; text: in English."""

    kind: str
    text: str
    values: Mapping[str, object] = field(default_factory=dict)


TROUBLES: rest.Wire[tuple[Trouble, ...]] = rest.Wire(tuple[Trouble, ...])


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One look at everything. counts: None if the task manager does not answer."""

    entries: Sequence[rest.DeviceEntry]
    counts: TaskCounts | None
    troubles: tuple[Trouble, ...]


class Lookout:
    def __init__(self, fleet: Fleet, tasks: TaskQueries, rivals: Rivals) -> None:
        self._fleet = fleet
        self._tasks = tasks
        self._rivals = rivals

    async def look(self) -> Look:
        entries = self._fleet.entries()
        counts: TaskCounts | None = None
        troubles = [*_of_devices(entries)]
        try:
            stats = await self._tasks.stats()
            counts = stats.counts
            troubles += _of_idle_fleet(counts.get(State.QUEUED, 0), entries) or _of_idle_models(stats, entries)
            troubles += _of_deliveries(stats)
        except PeerUnavailable as error:
            troubles.append(Trouble(kind="task_manager_away", text=str(error)))
        if (rivalry := self._rivals.problem()) is not None:
            troubles.append(Trouble(kind="rivals", text=rivalry))
        return Look(entries=entries, counts=counts, troubles=tuple(troubles))


def _of_devices(entries: Sequence[rest.DeviceEntry]) -> Iterator[Trouble]:
    for state in DeviceState:
        ids = sorted(entry.device.device_id for entry in entries if entry.device.state is state)
        if state is not DeviceState.READY and ids:
            shown = ", ".join(ids[:MOST_NAMED]) + (", ..." if len(ids) > MOST_NAMED else "")
            text = f"devices {state.value}: {len(ids)} ({shown})"
            yield Trouble(kind=f"devices_{state.value}", text=text, values={"n": len(ids), "devices": shown})
    if not any(entry.device.state is DeviceState.READY for entry in entries):
        yield Trouble(kind="no_device_ready", text="no device is ready")


def _of_idle_fleet(queued: int, entries: Sequence[rest.DeviceEntry]) -> Sequence[Trouble]:
    """Each standing alone may be meant so; tasks that wait for boards of which none takes any are not."""
    standings = Counter(_standing(entry) for entry in entries)
    if not queued or not entries or DeviceState.READY in standings:
        return ()
    listed = ", ".join(f"{count} {standing}" for standing, count in sorted(standings.items()))
    mend = "look at their boards with `edgesched devices list`"
    if CORDONED in standings or DRAINING in standings:
        mend = "give one work again with `edgesched devices uncordon`, or " + mend
    text = f"{queued} queued tasks wait and no device takes work ({listed}): {mend}"
    return (Trouble(kind="idle_fleet", text=text, values={"n": queued, "standings": dict(standings)}),)


def _of_idle_models(stats: TaskStats, entries: Sequence[rest.DeviceEntry]) -> Sequence[Trouble]:
    """Some devices take work, but none that can run a model of which tasks wait."""
    at_work = [entry for entry in entries if _standing(entry) is DeviceState.READY]
    able = {model for entry in at_work for model in entry.device.models}
    queued: Counter[str] = Counter()
    for line, tasks in stats.queued.items():
        queued[line.model] += tasks
    return [
        Trouble(
            kind="idle_model",
            text=f"{tasks} queued tasks of model {model} wait and no device that takes work can run it: add its build "
            "to a board (docs/models.md), give one that has it work again, or cancel them: `edgesched tasks cancel`",
            values={"n": tasks, "model": model},
        )
        for model, tasks in sorted(queued.items())
        if at_work and model not in able
    ]


def _standing(entry: rest.DeviceEntry) -> str:
    device = entry.device
    if device.state is not DeviceState.READY:
        return device.state
    return DRAINING if device.is_draining else CORDONED if device.is_cordoned else DeviceState.READY


def _of_deliveries(stats: TaskStats) -> Sequence[Trouble]:
    if stats.oldest_undelivered_ms is None or stats.oldest_undelivered_ms < UNDELIVERED_MS:
        return ()
    count = f"{stats.undelivered}{' or more' if stats.undelivered >= MAX_COUNTED_UNDELIVERED else ''}"
    age_s = f"{stats.oldest_undelivered_ms / 1000:.0f}"
    text = (
        f"{count} labelled tasks are not delivered, the oldest for {age_s} s: start the receiver that they name, or "
        "give them up with `edgesched tasks abandon`"
    )
    return (Trouble(kind="undelivered", text=text, values={"n": count, "seconds": age_s}),)

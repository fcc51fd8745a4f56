"""/health: for people (everything), for supervisors (live) and for whoever waits to send requests (ready)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict

from edgesched import __version__, rest
from edgesched.domain.device import DeviceId, DeviceState
from edgesched.domain.fact import fact
from edgesched.domain.lifecycle import State
from edgesched.domain.task import MAX_COUNTED_UNDELIVERED, TaskCounts, TaskStats
from edgesched.errors import PeerUnavailable
from edgesched.ports import TaskQueries
from gateway.fleet import Fleet
from gateway.rivals import Rivals
from gateway.routes import Route, json_reply

UNDELIVERED_MS = 15_000.0
"""Boards deliver at once, and the task manager after some seconds: labels that wait for longer have no receiver."""

CORDONED, DRAINING = "cordoned", "draining"
MOST_NAMED = 5  # devices; `edgesched devices list` has all


class HealthReport(BaseModel):
    """`problems` says in words what makes it degraded, `warnings` what does not.

    tasks: None if the task manager does not answer.
    """

    model_config = ConfigDict(frozen=True)

    status: Literal["ok", "degraded"]
    version: str
    devices: Mapping[DeviceState, int]
    cordoned: int  # devices that an operator wants to get no work, draining ones among them
    workers: Mapping[str, int]  # state -> worker processes of all devices that are not silent
    tasks: Mapping[State, int] | None
    problems: Sequence[str]
    warnings: Sequence[str] = ()


class Alive(BaseModel):
    status: Literal["ok"] = "ok"


HEALTH: rest.Wire[HealthReport] = rest.Wire(HealthReport)
ALIVE: rest.Wire[Alive] = rest.Wire(Alive)


@fact
class Trouble:
    """Something that is wrong. kind and values: for whoever says it in another language; text: in English."""

    kind: str
    text: str
    values: Mapping[str, object] = field(default_factory=dict)


TROUBLES: rest.Wire[tuple[Trouble, ...]] = rest.Wire(tuple[Trouble, ...])


class Health:
    def __init__(self, fleet: Fleet, tasks: TaskQueries, rivals: Rivals) -> None:
        self._fleet = fleet
        self._tasks = tasks
        self._rivals = rivals

    def routes(self) -> Sequence[Route]:
        alive = ALIVE.adapter
        return (
            Route(
                method="GET",
                path="/health",
                handler=self.report,
                summary="how the cluster is: devices, workers, tasks",
                reply=HEALTH.adapter,
            ),
            Route(
                method="GET",
                path="/health/live",
                handler=self.answer,
                summary="200: the process runs",
                reply=alive,
            ),
            Route(
                method="GET",
                path="/health/ready",
                handler=self.answer,
                summary="200: agents may register",
                reply=alive,
            ),
        )

    async def report(self, request: web.Request) -> web.Response:
        """200 as long as the gateway runs: what is wrong elsewhere is the content, not the status."""
        return json_reply(HEALTH.dump((await self._look())[0]))

    async def troubles(self) -> tuple[Trouble, ...]:
        return (await self._look())[1]

    async def _look(self) -> tuple[HealthReport, tuple[Trouble, ...]]:
        entries = self._fleet.entries()
        states = Counter(entry.device.state for entry in entries)
        talking = [entry for entry in entries if entry.device.state is not DeviceState.SILENT]
        counts: TaskCounts | None = None
        troubles = [
            _of_devices(state, [entry.device.device_id for entry in entries if entry.device.state is state])
            for state in DeviceState
            if state is not DeviceState.READY and states[state]
        ]
        if not states[DeviceState.READY]:
            troubles.append(Trouble(kind="no_device_ready", text="no device is ready"))
        try:
            stats = await self._tasks.stats()
            counts = stats.counts
            troubles += _of_idle_fleet(counts.get(State.QUEUED, 0), entries) or _of_idle_models(stats, entries)
            troubles += _of_deliveries(stats)
        except PeerUnavailable as error:
            troubles.append(Trouble(kind="task_manager_away", text=str(error)))
        if (rivalry := self._rivals.problem()) is not None:
            troubles.append(Trouble(kind="rivals", text=rivalry))
        report = HealthReport(
            status="degraded" if troubles else "ok",
            version=__version__,
            devices={state: states[state] for state in DeviceState},
            cordoned=sum(entry.device.is_cordoned for entry in entries),
            workers=Counter(worker.state for entry in talking for worker in entry.workers),
            tasks=None if counts is None else {state: counts.get(state, 0) for state in State},
            problems=[trouble.text for trouble in troubles],
            warnings=[f"{entry.device.device_id}: {warning}" for entry in talking for warning in entry.warnings],
        )
        return report, tuple(troubles)

    async def answer(self, request: web.Request) -> web.Response:
        """The gateway needs nobody else to take registrations and to place: once it listens, it is ready."""
        return json_reply(ALIVE.dump(Alive()))


def _of_devices(state: DeviceState, ids: Sequence[DeviceId]) -> Trouble:
    shown = ", ".join(sorted(ids)[:MOST_NAMED]) + (", ..." if len(ids) > MOST_NAMED else "")
    text = f"devices {state.value}: {len(ids)} ({shown})"
    return Trouble(kind=f"devices_{state.value}", text=text, values={"n": len(ids), "devices": shown})


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
    return (Trouble(kind="undelivered", text=text, values={"n": stats.undelivered, "seconds": age_s}),)

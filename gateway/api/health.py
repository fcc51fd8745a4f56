"""/health: for people (everything), for supervisors (live) and for whoever waits to send requests (ready)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict

from edgesched import __version__, rest
from edgesched.domain.device import DeviceState
from edgesched.domain.lifecycle import State
from gateway.lookout import Lookout
from gateway.routes import Route, json_reply


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


class Health:
    def __init__(self, lookout: Lookout) -> None:
        self._lookout = lookout

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
        look = await self._lookout.look()
        entries, counts = look.entries, look.counts
        states = Counter(entry.device.state for entry in entries)
        talking = [entry for entry in entries if entry.device.state is not DeviceState.SILENT]
        report = HealthReport(
            status="degraded" if look.troubles else "ok",
            version=__version__,
            devices={state: states[state] for state in DeviceState},
            cordoned=sum(entry.device.is_cordoned for entry in entries),
            workers=Counter(worker.state for entry in talking for worker in entry.workers),
            tasks=None if counts is None else {state: counts.get(state, 0) for state in State},
            problems=[trouble.text for trouble in look.troubles],
            warnings=[f"{entry.device.device_id}: {warning}" for entry in talking for warning in entry.warnings],
        )
        return json_reply(HEALTH.dump(report))

    async def answer(self, request: web.Request) -> web.Response:
        """The gateway needs nobody else to take registrations and to place: once it listens, it is ready."""
        return json_reply(ALIVE.dump(Alive()))

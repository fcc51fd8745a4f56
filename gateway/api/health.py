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
from edgesched.domain.task import TaskCounts
from edgesched.errors import PeerUnavailable
from edgesched.ports import TaskQueries
from gateway.registry import Registry
from gateway.routes import Route, json_reply


class HealthReport(BaseModel):
    """`problems` says in words what makes it degraded. tasks: None if the task manager does not answer."""

    model_config = ConfigDict(frozen=True)

    status: Literal["ok", "degraded"]
    version: str
    devices: Mapping[DeviceState, int]
    tasks: Mapping[State, int] | None
    problems: Sequence[str]


HEALTH: rest.Wire[HealthReport] = rest.Wire(HealthReport)


class Health:
    def __init__(self, registry: Registry, tasks: TaskQueries) -> None:
        self._registry = registry
        self._tasks = tasks

    def routes(self) -> Sequence[Route]:
        return (
            Route(method="GET", path="/health", handler=self.report, summary="how the cluster is"),
            Route(method="GET", path="/health/live", handler=self.answer, summary="200: the process runs"),
            Route(method="GET", path="/health/ready", handler=self.answer, summary="200: agents may register"),
        )

    async def report(self, request: web.Request) -> web.Response:
        """200 as long as the gateway runs: what is wrong elsewhere is the content, not the status."""
        states = Counter(device.state for device in self._registry.snapshot().devices)
        counts: TaskCounts | None = None
        problems = [
            f"devices {state.value}: {states[state]}"
            for state in DeviceState
            if state is not DeviceState.READY and states[state]
        ]
        if not states[DeviceState.READY]:
            problems.append("no device is ready")
        try:
            counts = await self._tasks.counts()
        except PeerUnavailable as error:
            problems.append(str(error))
        report = HealthReport(
            status="degraded" if problems else "ok",
            version=__version__,
            devices={state: states[state] for state in DeviceState},
            tasks=None if counts is None else {state: counts.get(state, 0) for state in State},
            problems=problems,
        )
        return json_reply(HEALTH.dump(report))

    async def answer(self, request: web.Request) -> web.Response:
        """The gateway needs nobody else to take registrations and to place: once it listens, it is ready."""
        return json_reply(b'{"status":"ok"}')

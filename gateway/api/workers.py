"""/workers: the worker processes of all boards, and what they write."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Annotated

from aiohttp import web
from pydantic import BaseModel, Field

from edgesched import rest
from edgesched.clock import Clock
from edgesched.domain.device import DeviceId
from edgesched.errors import InvalidInput, NotKnown, nearest
from gateway.commands import Commands
from gateway.fleet import Fleet
from gateway.registry import Registry
from gateway.routes import LARGEST_NUMBER, Route, asked_of, json_reply
from gateway.worker_logs import LINES_PER_WORKER, WorkerLogs

LONGEST_WAIT_MS = 30_000
NOT_KNOWN = {404: "no such worker or device; the detail names the nearest one"}
DURATION = re.compile(r"(?P<number>[0-9]{1,9}(\.[0-9]{1,6})?)(?P<unit>[smhd]?)")
UNITS_MS = {"s": 1_000.0, "m": 60_000.0, "h": 3_600_000.0, "d": 86_400_000.0}
ALIASES = ("/workers", "/remote-workers")


class WorkerQuery(BaseModel):
    device_id: Annotated[DeviceId | None, Field(max_length=64)] = None
    state: Annotated[str | None, Field(max_length=32, description="like ready, busy or stopped")] = None


class LogQuery(BaseModel):
    tail: Annotated[int, Field(ge=1, le=LINES_PER_WORKER * 10, description="the last so many lines")] = 200
    since: Annotated[
        str | None, Field(max_length=20, description="only lines of the last 90s, 10m, 2h or 1d, or so many seconds")
    ] = None
    since_s: Annotated[float | None, Field(ge=0, le=1e9, description="the same in seconds")] = None
    after: Annotated[int, Field(ge=0, le=LARGEST_NUMBER, description="only lines behind this cursor")] = 0
    wait_ms: Annotated[
        int, Field(ge=0, le=LONGEST_WAIT_MS, description="follow: if there is no line, wait so long for one")
    ] = 0

    def asked_ms(self) -> float | None:
        """How far back. Raises: InvalidInput."""
        if self.since is None:
            return None if self.since_s is None else self.since_s * 1000
        if self.since_s is not None:
            raise InvalidInput("since and since_s say the same: give one of them")
        match = DURATION.fullmatch(self.since)
        if match is None:
            raise InvalidInput(f"since must be like 90s, 10m, 2h or 1d, or a number of seconds, got {self.since!r}")
        return float(match["number"]) * UNITS_MS[match["unit"] or "s"]


class WorkerRoutes:
    def __init__(self, fleet: Fleet, registry: Registry, commands: Commands, logs: WorkerLogs, clock: Clock) -> None:
        self._fleet = fleet
        self._registry = registry
        self._commands = commands
        self._logs = logs
        self._clock = clock

    def routes(self) -> Sequence[Route]:
        reading = [
            (f"{path}/{{worker}}/logs", "the last lines of a worker (by device id: of all its workers)")
            for path in ALIASES
        ]
        reading.append(("/devices/{worker}/logs", "the last lines of all workers of a device"))
        return (
            *(route for path in ALIASES for route in self._listing(path)),
            *(
                Route(
                    method="GET",
                    path=path,
                    handler=self.logs,
                    summary=f"{summary}, also after its board died",
                    query=LogQuery,
                    reply=rest.LOG_PAGE.adapter,
                    problems=NOT_KNOWN | {429: "too many readers"},
                )
                for path, summary in reading
            ),
            Route(
                method="POST",
                path="/devices/{device_id}/logs",
                handler=self.take,
                summary="an agent sends new lines of its workers",
                body=rest.LOG_SHIPMENT.adapter,
                reply=rest.LOG_SHIPMENT_REPLY.adapter,
                problems={404: "not registered, or not with that boot_id: register again"},
            ),
        )

    def _listing(self, path: str) -> Iterator[Route]:
        yield Route(
            method="GET",
            path=path,
            handler=self.list,
            summary="every worker: process, state, task, restarts, exit codes",
            query=WorkerQuery,
            reply=rest.WORKER_LIST.adapter,
        )
        yield Route(
            method="GET",
            path=f"{path}/{{worker}}",
            handler=self.show,
            summary="one worker",
            reply=rest.WORKER_ENTRY.adapter,
            problems=NOT_KNOWN,
        )

    async def list(self, request: web.Request) -> web.Response:
        query = asked_of(request, WorkerQuery)
        found = tuple(
            entry
            for entry in self._entries()
            if query.device_id in (None, entry.device_id) and query.state in (None, entry.report.state)
        )
        return json_reply(rest.WORKER_LIST.dump(rest.WorkerList(workers=found)))

    async def show(self, request: web.Request) -> web.Response:
        name = request.match_info["worker"]
        entries = {entry.id: entry for entry in self._entries()}
        if name not in entries:
            raise NotKnown(f"there is no worker {name!r}{nearest(name, entries)}; GET /workers lists those there are")
        return json_reply(rest.WORKER_ENTRY.dump(entries[name]))

    async def logs(self, request: web.Request) -> web.Response:
        name, query = request.match_info["worker"], asked_of(request, LogQuery)
        back_ms = query.asked_ms()
        self._check_known(name)
        page = await self._logs.follow(
            name,
            tail=query.tail,
            after=query.after,
            since_ms=0 if back_ms is None else max(0, self._clock.wall_ms() - int(back_ms)),
            wait_s=query.wait_ms / 1000,
        )
        return json_reply(rest.LOG_PAGE.dump(page))

    async def take(self, request: web.Request) -> web.Response:
        device_id = DeviceId(request.match_info["device_id"])
        shipment = rest.LOG_SHIPMENT.parse(await request.read())
        self._registry.check_start(device_id, shipment.boot_id)
        for shipped in shipment.logs:
            if not shipped.worker.startswith(f"{device_id}-"):
                raise InvalidInput(
                    f"logs: {shipped.worker!r} is no worker of {device_id}: those are named {device_id}-0 ..."
                )
        have = self._logs.take(device_id, shipment.logs)
        return json_reply(rest.LOG_SHIPMENT_REPLY.dump(rest.LogShipmentReply(have=dict(have))))

    def _entries(self) -> Iterator[rest.WorkerEntry]:
        for entry in self._fleet.entries():
            device = entry.device
            waiting = self._commands.open_for(device.device_id)
            for report in entry.workers:
                yield rest.WorkerEntry(
                    id=report.name,
                    device_id=device.device_id,
                    board_type=device.board_type,
                    emulated=device.emulated,
                    device_state=device.state,
                    last_heartbeat_age_ms=device.last_heartbeat_age_ms,
                    report=report,
                    command=next((c for c in reversed(waiting) if c.overlaps(report.name)), None),
                )

    def _check_known(self, name: str) -> None:
        """A worker or a device that is listed, or of which there are lines. Raises: NotKnown."""
        known = {*self._logs.workers(), *self._logs.devices(), *self._fleet.listed_ids()}
        known |= {report.name for entry in self._fleet.entries() for report in entry.workers}
        if name not in known:
            meant = nearest(name, sorted(known))
            raise NotKnown(f"there is no worker or device {name!r}{meant}; GET /workers lists those there are")

"""/devices: agents register, report and leave; people look, and say what they want of a device."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated

from aiohttp import web
from pydantic import BaseModel, Field

from edgesched import rest
from edgesched.domain.device import DeviceId
from edgesched.errors import InvalidInput
from gateway.api.commands import to_do
from gateway.commands import Commands
from gateway.fleet import Fleet
from gateway.registry import Registry
from gateway.routes import Route, asked_of, json_reply, query_of
from gateway.worker_logs import WorkerLogs

NOT_KNOWN = {404: "no such device; the detail names the nearest one"}


class DeviceQuery(BaseModel):
    archived: Annotated[bool, Field(description="list the archived devices with their last facts instead")] = False


class LeaveQuery(BaseModel):
    boot_id: Annotated[
        str | None, Field(description="which start of the agent leaves; absent: forget an archived device")
    ] = None


class Devices:
    def __init__(self, registry: Registry, fleet: Fleet, commands: Commands, logs: WorkerLogs) -> None:
        self._registry = registry
        self._fleet = fleet
        self._commands = commands
        self._logs = logs

    def routes(self) -> Sequence[Route]:
        one = "/devices/{device_id}"
        entry = rest.DEVICE_ENTRY.adapter
        return (
            Route(
                method="GET",
                path="/devices",
                handler=self.list,
                summary="every device",
                query=DeviceQuery,
                reply=rest.DEVICE_LIST.adapter,
            ),
            Route(
                method="POST",
                path="/devices",
                handler=self.register,
                summary="register an agent",
                body=rest.DEVICE_REGISTRATION.adapter,
                reply=rest.REGISTRATION_REPLY.adapter,
                problems={
                    409: "a live agent has that id",
                    422: "the gateway cannot reach the agent",
                    429: "too many devices",
                },
            ),
            Route(
                method="GET",
                path=one,
                handler=self.show,
                summary="one device",
                reply=entry,
                problems=NOT_KNOWN,
            ),
            Route(
                method="DELETE",
                path=one,
                handler=self.leave,
                summary="?boot_id=: the agent leaves; without: forget an archived device",
                query=LeaveQuery,
                status=204,
                problems=NOT_KNOWN,
            ),
            Route(
                method="POST",
                path=f"{one}/heartbeat",
                handler=self.heartbeat,
                summary="an agent's report",
                body=rest.HEARTBEAT.adapter,
                reply=rest.HEARTBEAT_REPLY.adapter,
                problems={404: "not registered, or not with that boot_id: register again"},
            ),
            *(
                Route(
                    method="POST",
                    path=f"{one}/{verb}",
                    handler=self._wish(change),
                    summary=summary,
                    reply=entry,
                    problems=NOT_KNOWN,
                )
                for verb, change, summary in (
                    ("cordon", self._fleet.cordon, "give it no new work"),
                    ("uncordon", self._fleet.uncordon, "give it work again, after cordon or drain"),
                    ("drain", self._fleet.drain, "give it no new work; is_drained says when nothing is left on it"),
                )
            ),
            Route(
                method="PATCH",
                path=f"{one}/labels",
                handler=self.label,
                summary="set labels; null takes one back",
                body=rest.LABEL_CHANGES.adapter,
                reply=entry,
                problems=NOT_KNOWN,
            ),
        )

    async def list(self, request: web.Request) -> web.Response:
        is_archive = asked_of(request, DeviceQuery).archived
        entries = self._fleet.archived() if is_archive else self._fleet.entries()
        return json_reply(rest.DEVICE_LIST.dump(rest.DeviceList(devices=tuple(entries))))

    async def show(self, request: web.Request) -> web.Response:
        return json_reply(rest.DEVICE_ENTRY.dump(self._fleet.entry(_device_id(request))))

    async def register(self, request: web.Request) -> web.Response:
        registration = rest.DEVICE_REGISTRATION.parse(await request.read())
        address = await self._registry.register(registration, seen_ip=request.remote)
        reply = rest.RegistrationReply(address=address, heartbeat_interval_ms=self._registry.heartbeat_interval_ms)
        return json_reply(rest.REGISTRATION_REPLY.dump(reply))

    async def heartbeat(self, request: web.Request) -> web.Response:
        device_id = _device_id(request)
        self._registry.heartbeat(device_id, rest.HEARTBEAT.parse(await request.read()))
        reply = rest.HeartbeatReply(
            heartbeat_interval_ms=self._registry.heartbeat_interval_ms,
            commands=to_do(self._commands.open_for(device_id)),
        )
        return json_reply(rest.HEARTBEAT_REPLY.dump(reply))

    async def leave(self, request: web.Request) -> web.Response:
        device_id, boot_id = _device_id(request), query_of(request, LeaveQuery).boot_id
        if boot_id is not None:
            await self._fleet.leave(device_id, boot_id)
        elif self._fleet.is_registered(device_id):
            raise InvalidInput("boot_id is missing: say which start of the agent leaves (GET /devices shows it)")
        else:
            await self._fleet.forget(device_id)
            self._logs.forget(device_id)
        return web.Response(status=204)

    async def label(self, request: web.Request) -> web.Response:
        changes = rest.LABEL_CHANGES.parse(await request.read())
        return json_reply(rest.DEVICE_ENTRY.dump(await self._fleet.label(_device_id(request), changes.labels)))

    def _wish(
        self, change: Callable[[DeviceId], Awaitable[rest.DeviceEntry]]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handler(request: web.Request) -> web.Response:
            return json_reply(rest.DEVICE_ENTRY.dump(await change(_device_id(request))))

        return handler


def _device_id(request: web.Request) -> DeviceId:
    return DeviceId(request.match_info["device_id"])

"""/devices: agents register, report and leave; people look."""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web

from edgesched import rest
from edgesched.domain.device import DeviceId
from edgesched.errors import InvalidInput
from gateway.registry import Registry
from gateway.routes import Route, json_reply


class Devices:
    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def routes(self) -> Sequence[Route]:
        one = "/devices/{device_id}"
        return (
            Route(method="GET", path="/devices", handler=self.list, summary="every device"),
            Route(method="POST", path="/devices", handler=self.register, summary="register an agent"),
            Route(method="GET", path=one, handler=self.show, summary="one device"),
            Route(method="DELETE", path=one, handler=self.leave, summary="?boot_id=: the agent leaves"),
            Route(method="POST", path=f"{one}/heartbeat", handler=self.heartbeat, summary="an agent's report"),
        )

    async def list(self, request: web.Request) -> web.Response:
        return json_reply(rest.DEVICE_LIST.dump(rest.DeviceList(devices=tuple(self._registry.entries()))))

    async def show(self, request: web.Request) -> web.Response:
        return json_reply(rest.DEVICE_ENTRY.dump(self._registry.entry(_device_id(request))))

    async def register(self, request: web.Request) -> web.Response:
        registration = rest.DEVICE_REGISTRATION.parse(await request.read())
        address = await self._registry.register(registration, seen_ip=request.remote)
        reply = rest.RegistrationReply(address=address, heartbeat_interval_ms=self._registry.heartbeat_interval_ms)
        return json_reply(rest.REGISTRATION_REPLY.dump(reply))

    async def heartbeat(self, request: web.Request) -> web.Response:
        self._registry.heartbeat(_device_id(request), rest.HEARTBEAT.parse(await request.read()))
        reply = rest.HeartbeatReply(heartbeat_interval_ms=self._registry.heartbeat_interval_ms)
        return json_reply(rest.HEARTBEAT_REPLY.dump(reply))

    async def leave(self, request: web.Request) -> web.Response:
        boot_id = request.query.get("boot_id")
        if boot_id is None:
            raise InvalidInput("boot_id is missing: say which start of the agent leaves (GET /devices shows it)")
        self._registry.leave(_device_id(request), boot_id)
        return web.Response(status=204)


def _device_id(request: web.Request) -> DeviceId:
    return DeviceId(request.match_info["device_id"])

"""/commands: what operators tell the workers of one board or of many; and how boards get and settle it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from aiohttp import web
from pydantic import BaseModel, Field

from edgesched import rest
from edgesched.domain.command import Command, CommandId, CommandState
from edgesched.domain.device import DeviceId
from edgesched.errors import InvalidInput, NotKnown, nearest
from gateway.commands import MAX_OPEN, Commands, Target
from gateway.fleet import Fleet
from gateway.registry import Registry
from gateway.routes import Route, json_reply, query_of

LONGEST_WAIT_MS = 30_000
NOT_KNOWN = {404: "no such device, worker or command; the detail names the nearest one"}
REFUSED = NOT_KNOWN | {
    409: "it contradicts a command that is under way, or its key came with another request",
    429: "too many commands wait for that device",
}


class CommandQuery(BaseModel):
    device_id: Annotated[DeviceId | None, Field(max_length=64)] = None
    state: CommandState | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 100


class PollQuery(BaseModel):
    boot_id: Annotated[str, Field(max_length=64, description="which start of the agent asks")]
    wait_ms: Annotated[int, Field(ge=0, le=LONGEST_WAIT_MS, description="wait so long for a command to come")] = 0
    in_hand: Annotated[
        str, Field(max_length=66 * MAX_OPEN, description="ids that the board has already, with commas between")
    ] = ""


class CommandRoutes:
    def __init__(self, commands: Commands, fleet: Fleet, registry: Registry) -> None:
        self._commands = commands
        self._fleet = fleet
        self._registry = registry

    def routes(self) -> Sequence[Route]:
        return (*self._routes_for_people(), *self._routes_for_boards())

    def _routes_for_people(self) -> Sequence[Route]:
        listing = rest.COMMAND_LIST.adapter
        told = (
            (
                "/workers/{worker}/command",
                self.tell_worker,
                "start, stop, restart or kill a worker (or, by device id, all)",
            ),
            ("/devices/{device_id}/command", self.tell_device, "start, stop, restart or kill all workers of a device"),
        )
        return (
            *(
                Route(
                    method="POST",
                    path=path,
                    handler=handler,
                    summary=summary,
                    body=rest.ORDER.adapter,
                    reply=rest.COMMAND.adapter,
                    status=202,
                    problems=REFUSED,
                )
                for path, handler, summary in told
            ),
            Route(
                method="POST",
                path="/commands",
                handler=self.tell_many,
                summary="the same for all workers of every device that fits: by id, board type, labels, or all",
                body=rest.FLEET_ORDER.adapter,
                reply=listing,
                status=202,
                problems=REFUSED,
            ),
            Route(
                method="GET",
                path="/commands",
                handler=self.list,
                summary="commands, newest first",
                query=CommandQuery,
                reply=listing,
            ),
            Route(
                method="GET",
                path="/commands/{command_id}",
                handler=self.show,
                summary="one command and what became of it",
                reply=rest.COMMAND.adapter,
                problems=NOT_KNOWN,
            ),
        )

    def _routes_for_boards(self) -> Sequence[Route]:
        unknown = {404: "not registered, or not with that boot_id: register again"}
        return (
            Route(
                method="GET",
                path="/devices/{device_id}/commands",
                handler=self.poll,
                summary="an agent waits for what it is told",
                query=PollQuery,
                reply=rest.COMMANDS_TO_DO.adapter,
                problems=unknown,
            ),
            Route(
                method="POST",
                path="/devices/{device_id}/commands/{command_id}",
                handler=self.settle,
                summary="an agent says what became of a command",
                body=rest.COMMAND_OUTCOME.adapter,
                reply=rest.COMMAND.adapter,
                problems=unknown,
            ),
        )

    # --- people ---

    async def tell_worker(self, request: web.Request) -> web.Response:
        name = request.match_info["worker"]
        return await self._tell(request, self._worker(name), name)

    async def tell_device(self, request: web.Request) -> web.Response:
        device_id = DeviceId(request.match_info["device_id"])
        self._fleet.entry(device_id)
        return await self._tell(request, Target(device_id), device_id)

    async def tell_many(self, request: web.Request) -> web.Response:
        order = rest.FLEET_ORDER.parse(await request.read())
        asked = order.model_dump_json(exclude={"key"}, exclude_defaults=True)
        targets = [Target(device_id) for device_id in self._selected(order)]
        commands = await self._commands.order(targets, order.command, key=order.key, asked=asked)
        return _listed(commands, status=202)

    async def list(self, request: web.Request) -> web.Response:
        query = query_of(request, CommandQuery)
        found = await self._commands.newest(device_id=query.device_id, state=query.state, limit=query.limit)
        return _listed(found)

    async def show(self, request: web.Request) -> web.Response:
        command = await self._commands.get(CommandId(request.match_info["command_id"]))
        return json_reply(rest.COMMAND.dump(command))

    async def _tell(self, request: web.Request, target: Target, name: str) -> web.Response:
        order = rest.ORDER.parse(await request.read())
        asked = f"{order.command} {name}"
        (command,) = await self._commands.order([target], order.command, key=order.key, asked=asked)
        return json_reply(rest.COMMAND.dump(command), status=202)

    def _worker(self, name: str) -> Target:
        """Raises: NotKnown with the nearest match."""
        entries = self._fleet.entries()
        names = {str(entry.device.device_id): Target(entry.device.device_id) for entry in entries}
        # Where a device is named like another one's worker, the worker is meant: devices have a route of their own.
        names |= {report.name: Target(e.device.device_id, report.name) for e in entries for report in e.workers}
        if name not in names:
            raise NotKnown(f"there is no worker {name!r}{nearest(name, names)}; GET /workers lists those there are")
        return names[name]

    def _selected(self, order: rest.FleetOrder) -> Sequence[DeviceId]:
        """Raises: InvalidInput (nothing or too much is given), NotKnown (no such device, or none fits)."""
        is_narrowed = order.devices is not None or order.board_type is not None or bool(order.labels)
        if order.all == is_narrowed:
            raise InvalidInput("say for which devices: devices, board_type or labels; or all, and nothing else")
        for device_id in order.devices or ():
            self._fleet.entry(device_id)
        fitting = [
            entry.device.device_id
            for entry in self._fleet.entries()
            if (order.devices is None or entry.device.device_id in order.devices)
            and order.board_type in (None, entry.device.board_type)
            and order.labels.items() <= entry.device.labels.items()
        ]
        if not fitting:
            raise NotKnown("no device fits; GET /devices lists those there are")
        return fitting

    # --- boards ---

    async def poll(self, request: web.Request) -> web.Response:
        device_id, query = DeviceId(request.match_info["device_id"]), query_of(request, PollQuery)
        self._registry.check_start(device_id, query.boot_id)
        in_hand = frozenset(filter(None, query.in_hand.split(",")))
        found = await self._commands.next_for(device_id, in_hand, query.wait_ms / 1000)
        return json_reply(rest.COMMANDS_TO_DO.dump(rest.CommandsToDo(commands=to_do(found))))

    async def settle(self, request: web.Request) -> web.Response:
        device_id = DeviceId(request.match_info["device_id"])
        outcome = rest.COMMAND_OUTCOME.parse(await request.read())
        self._registry.check_start(device_id, outcome.boot_id)
        command = await self._commands.ended(
            device_id,
            CommandId(request.match_info["command_id"]),
            succeeded=outcome.succeeded,
            detail=outcome.detail,
        )
        return json_reply(rest.COMMAND.dump(command))


def to_do(commands: Sequence[Command]) -> tuple[rest.CommandToDo, ...]:
    return tuple(rest.CommandToDo(command_id=c.command_id, verb=c.verb, worker=c.worker) for c in commands)


def _listed(commands: Sequence[Command], *, status: int = 200) -> web.Response:
    return json_reply(rest.COMMAND_LIST.dump(rest.CommandList(commands=tuple(commands))), status=status)

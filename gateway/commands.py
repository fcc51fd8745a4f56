"""What operators tell the workers of boards: kept until a board has taken it, until it is done, or too late.

A board asks for its commands and waits for the answer, so that it gets them behind any router. It names those that it
has in hand; what it does not name is said again. It remembers what it has carried out, so nothing is done twice.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from edgesched.clock import Clock
from edgesched.domain.command import Command, CommandEvent, CommandId, CommandState, Verb, advance
from edgesched.domain.device import DeviceId
from edgesched.errors import Conflict, NotKnown, Overloaded, StorageFailed, nearest
from gateway.command_rows import CommandRows
from gateway.fleet import Fleet

log = logging.getLogger(__name__)

PENDING_MS = 60_000
"""A board that has not taken a command after so long gets it no more: it would come as a surprise."""

DELIVERED_MS = 600_000
"""A stop waits for the task in hand, a start for models that are built. After so long nobody will say any more."""

MAX_OPEN = 64
"""Of one device."""

LOOK_EVERY_S = 1.0
NEAREST_AMONG = 200  # of the newest commands: an id that is not known is compared with theirs


@dataclass(frozen=True, slots=True)
class Target:
    device_id: DeviceId
    worker: str | None = None  # None: all its workers


class Commands:
    """One per gateway. Whatever it has answered is on the disk."""

    def __init__(self, fleet: Fleet, rows: CommandRows, clock: Clock) -> None:
        self._fleet = fleet
        self._rows = rows
        self._clock = clock
        self._open: defaultdict[DeviceId, dict[CommandId, Command]] = defaultdict(dict)
        self._polls: dict[DeviceId, asyncio.Event] = {}
        self._changing = asyncio.Lock()
        self._is_closed = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        for command in await self._rows.still_open():
            self._open[command.device_id][command.command_id] = command
        async with asyncio.TaskGroup() as tasks:
            looking = tasks.create_task(self._look_for_late_ones(), name="Commands.expire")
            try:
                yield
            finally:
                looking.cancel()

    # --- operators ---

    async def order(
        self, targets: Sequence[Target], verb: Verb, *, key: str | None = None, asked: str = ""
    ) -> Sequence[Command]:
        """One command per target, or none at all. What is under way already is not told a second time.

        asked: the request; with the same key only the same request may come again.
        Raises: Conflict (the key came with another request, or a target is told something else now), Overloaded.
        """
        async with self._changing:
            if key is not None:
                known, asked_before = await self._rows.of_key(key)
                if asked_before is not None:
                    return self._same(known, asked_before, asked, key)
            under_way = {target: self._under_way(target, verb) for target in targets}
            new = {target: self._new(target, verb, key) for target, same in under_way.items() if same is None}
            replaced = [
                self._moved(command, CommandEvent.REPLACED, "a kill came before the board took it")
                for target in new
                for command in self._overlapping(target)
                if verb is Verb.KILL and command.state is CommandState.PENDING
            ]
            answer = [same or new[target] for target, same in under_way.items()]
            await self._rows.order(list(new.values()), replaced, key=key, answer=answer, asked=asked)
            self._note([*replaced, *new.values()])
        return answer

    async def get(self, command_id: CommandId) -> Command:
        """Raises: NotKnown."""
        found = await self._rows.get(command_id)
        if found is None:
            recent = await self._rows.newest(device_id=None, state=None, limit=NEAREST_AMONG)
            meant = nearest(command_id, (command.command_id for command in recent))
            raise NotKnown(f"there is no command {command_id!r}{meant}; GET /commands lists them")
        return found

    async def newest(
        self, *, device_id: DeviceId | None = None, state: CommandState | None = None, limit: int
    ) -> Sequence[Command]:
        return await self._rows.newest(device_id=device_id, state=state, limit=limit)

    def open_for(self, device_id: DeviceId) -> Sequence[Command]:
        """Oldest first."""
        return tuple(self._open[device_id].values()) if device_id in self._open else ()

    # --- boards ---

    async def next_for(self, device_id: DeviceId, in_hand: Collection[str], wait_s: float) -> Sequence[Command]:
        """Those that the board does not have yet; waits for one. A newer call for the device ends this one."""
        await self._taken(device_id, in_hand)
        earlier = self._polls.get(device_id)
        mine = self._polls[device_id] = asyncio.Event()
        if earlier is not None:
            earlier.set()
        try:
            async with asyncio.timeout(wait_s):
                while not (news := self._news(device_id, in_hand)) and self._polls.get(device_id) is mine:
                    if self._is_closed:
                        break
                    mine.clear()
                    await mine.wait()
        except TimeoutError:
            news = ()
        finally:
            if self._polls.get(device_id) is mine:
                del self._polls[device_id]
        return news

    async def ended(self, device_id: DeviceId, command_id: CommandId, *, succeeded: bool, detail: str) -> Command:
        """The board says what became of it. Said twice, the first word counts. Raises: NotKnown."""
        async with self._changing:
            command = await self.get(command_id)
            if command.device_id != device_id:
                raise NotKnown(f"command {command_id!r} is not for device {device_id!r}")
            event = CommandEvent.SUCCEEDED if succeeded else CommandEvent.BROKE
            if advance(command.state, event) is not command.state:
                command = self._moved(command, event, detail or None)
                await self._rows.update([command])
                self._note([command])
        return command

    async def expire(self) -> None:
        """End what nobody has taken, or settled, in its time, and what is for a device that is gone."""
        async with self._changing:
            now_ms = self._clock.wall_ms()
            listed = self._fleet.listed_ids()
            late = [c for of_device in self._open.values() for c in of_device.values() if c.expires_at_ms <= now_ms]
            gone = [c for device_id, found in self._open.items() if device_id not in listed for c in found.values()]
            ended = {c.command_id: self._moved(c, CommandEvent.TIMED_OUT, _why_late(c)) for c in late}
            ended |= {c.command_id: self._moved(c, CommandEvent.TIMED_OUT, "the device was removed") for c in gone}
            if ended:
                await self._rows.update(list(ended.values()))
                self._note(list(ended.values()))

    def close(self) -> None:
        """The gateway is stopping: let go of the boards that wait for an answer."""
        self._is_closed = True
        for poll in self._polls.values():
            poll.set()

    # --- inside ---

    def _same(self, known: Sequence[Command], asked_before: str, asked: str, key: str) -> Sequence[Command]:
        if asked_before != asked:
            raise Conflict(f"key {key!r} was used for another command: {asked_before}; give a new key")
        return known

    def _overlapping(self, target: Target) -> Sequence[Command]:
        return [command for command in self.open_for(target.device_id) if command.overlaps(target.worker)]

    def _under_way(self, target: Target, verb: Verb) -> Command | None:
        """The same command if it is open. Raises: Conflict, Overloaded."""
        overlapping = self._overlapping(target)
        for command in overlapping:
            if command.verb is verb and command.worker == target.worker:
                return command
        for command in overlapping:
            if verb is not Verb.KILL and command.verb is not verb:
                whom = command.worker or f"all workers of {command.device_id}"
                raise Conflict(
                    f"{whom}: {command.verb} is {command.state} (command {command.command_id}), which {verb} would "
                    "contradict, so nobody was told anything; wait until it has ended, or send kill"
                )
        if len(self.open_for(target.device_id)) >= MAX_OPEN:
            raise Overloaded(
                f"{MAX_OPEN} commands wait for device {target.device_id}, which is the limit", retry_after_ms=10_000
            )
        return None

    def _new(self, target: Target, verb: Verb, key: str | None) -> Command:
        now_ms = self._clock.wall_ms()
        return Command(
            command_id=CommandId(uuid.uuid4().hex),
            device_id=target.device_id,
            worker=target.worker,
            verb=verb,
            state=CommandState.PENDING,
            created_at_ms=now_ms,
            updated_at_ms=now_ms,
            expires_at_ms=now_ms + PENDING_MS,
            key=key,
        )

    def _moved(self, command: Command, event: CommandEvent, detail: str | None) -> Command:
        now_ms = self._clock.wall_ms()
        state = advance(command.state, event)
        expires_at_ms = now_ms + DELIVERED_MS if event is CommandEvent.TAKEN else command.expires_at_ms
        return replace(command, state=state, updated_at_ms=now_ms, expires_at_ms=expires_at_ms, detail=detail)

    async def _taken(self, device_id: DeviceId, in_hand: Collection[str]) -> None:
        """The board has them."""
        async with self._changing:
            taken = [
                self._moved(command, CommandEvent.TAKEN, None)
                for command in self.open_for(device_id)
                if command.command_id in in_hand and command.state is CommandState.PENDING
            ]
            if taken:
                await self._rows.update(taken)
                self._note(taken)

    def _news(self, device_id: DeviceId, in_hand: Collection[str]) -> Sequence[Command]:
        return tuple(command for command in self.open_for(device_id) if command.command_id not in in_hand)

    def _note(self, changed: Sequence[Command]) -> None:
        """Remember what is open, wake who waits for it, and have people see it."""
        for command in changed:
            of_device = self._open[command.device_id]
            if command.is_open:
                of_device[command.command_id] = command
            else:
                of_device.pop(command.command_id, None)
            if not of_device:
                del self._open[command.device_id]
            if command.state is CommandState.PENDING and command.device_id in self._polls:
                self._polls[command.device_id].set()
            log.info("command.changed", extra=_facts(command))

    async def _look_for_late_ones(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if self._open:
                try:
                    await self.expire()
                except StorageFailed as error:
                    log.error("commands.not_written", extra={"cause": str(error)})


def _why_late(command: Command) -> str:
    if command.state is CommandState.PENDING:
        return (
            f"the board did not take it within {PENDING_MS // 1000} s; look whether it is connected, and send it again"
        )
    return "the board took it and never said what became of it; look at its workers and their logs"


def _facts(command: Command) -> Mapping[str, object]:
    return {
        "command_id": command.command_id,
        "device_id": command.device_id,
        "worker": command.worker,
        "verb": command.verb.value,
        "state": command.state.value,
        "detail": command.detail,
    }

"""What operators tell this board's workers: fetched from the gateway, done once, and its end told.

The board knows four verbs and nothing else: there is no way from the network to a command of the system.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

from agents.command_journal import CommandJournal, Ending
from agents.gateway_door import LONGEST_PAUSE_S, GatewayDoor, again_and_again
from edgesched.domain.command import Verb
from edgesched.errors import EdgeSchedError, InvalidInput, PeerUnavailable
from edgesched.rest import COMMAND_OUTCOME, COMMANDS_TO_DO, CommandOutcome, CommandToDo

WAIT_S = 20.0
"""Of one long poll. Routers forget connections on which nothing was said for longer than a minute or so."""

CALL_TIMEOUT_S = 10.0
MAX_IN_HAND = 64
MAX_DETAIL_CHARS = 2_000

log = logging.getLogger(__name__)


class Workers(Protocol):
    async def control(self, action: str, worker: str | None) -> None:
        """Raises: EdgeSchedError if it cannot be done."""
        ...


class Commands:
    """In hand is what was begun here, until the gateway has heard how it ended."""

    def __init__(self, workers: Workers, journal: CommandJournal) -> None:
        self._workers = workers
        self._journal = journal
        self._in_hand: set[str] = set()
        self._to_do: asyncio.Queue[CommandToDo] = asyncio.Queue()
        self._endings: dict[str, Ending] = {}  # not heard by the gateway yet
        self._has_ending = asyncio.Event()

    def offer(self, commands: Sequence[CommandToDo]) -> None:
        """Take what is not in hand yet. What finds no room is said again."""
        for command in commands:
            if command.command_id not in self._in_hand and len(self._in_hand) < MAX_IN_HAND:
                self._in_hand.add(command.command_id)
                self._to_do.put_nowait(command)

    async def run(self) -> None:
        """Carry out what was taken, until cancelled. A kill does not wait for the stop before it."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                command = await self._to_do.get()
                tasks.create_task(self._carry_out(command), name=f"{command.verb} {command.worker or 'all'}")

    async def link(self, door: GatewayDoor) -> None:
        """Fetch commands and tell their ends, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(again_and_again(lambda: self._fetch(door)), name="commands")
            tasks.create_task(again_and_again(lambda: self._tell(door)), name="outcomes")

    # --- inside ---

    async def _carry_out(self, command: CommandToDo) -> None:
        if self._journal.knows(command.command_id):
            interrupted = "the agent ended while it did this; look at the workers, and send it again if it is needed"
            ending = self._journal.ending(command.command_id) or Ending(succeeded=False, detail=interrupted)
        else:
            ending = await self._do(command)
        self._endings[command.command_id] = ending
        self._has_ending.set()

    async def _do(self, command: CommandToDo) -> Ending:
        try:
            await asyncio.to_thread(self._journal.note, command.command_id, None)
        except OSError as error:
            return Ending(succeeded=False, detail=f"nothing was done: the board's disk refuses ({error.strerror})")
        extra = {"command_id": command.command_id, "verb": command.verb.value, "worker": command.worker}
        log.info("command.begun", extra=extra)
        try:
            await self._workers.control(Verb(command.verb).value, command.worker)
            ending = Ending(succeeded=True)
        except EdgeSchedError as error:
            ending = Ending(succeeded=False, detail=str(error)[:MAX_DETAIL_CHARS])
        log.info("command.ended", extra=extra | {"succeeded": ending.succeeded, "detail": ending.detail})
        try:
            await asyncio.to_thread(self._journal.note, command.command_id, ending)
        except OSError as error:  # it is known to have begun, so that it is not done again
            log.error("command_journal.failed", extra={"reason": error.strerror})
        return ending

    async def _fetch(self, door: GatewayDoor) -> None:
        if len(self._in_hand) >= MAX_IN_HAND:
            await asyncio.sleep(LONGEST_PAUSE_S)
        in_hand = ",".join(sorted(self._in_hand))
        query = f"?boot_id={door.boot_id}&wait_ms={int(WAIT_S * 1000)}&in_hand={in_hand}"
        answer = await door.call("GET", f"/commands{query}", timeout_s=WAIT_S + CALL_TIMEOUT_S)
        if answer.status != 200:  # it has forgotten us, which the next heartbeat learns; or it is an older one
            await asyncio.sleep(LONGEST_PAUSE_S)
            return
        try:
            self.offer(COMMANDS_TO_DO.parse(answer.body).commands)
        except InvalidInput as error:  # another version: heartbeats go on without
            raise PeerUnavailable(f"its commands cannot be read: {error}") from error

    async def _tell(self, door: GatewayDoor) -> None:
        await self._has_ending.wait()
        self._has_ending.clear()
        try:
            for command_id, ending in list(self._endings.items()):
                outcome = CommandOutcome(boot_id=door.boot_id, succeeded=ending.succeeded, detail=ending.detail)
                body = COMMAND_OUTCOME.dump(outcome)
                # Whatever it answers, a refusal too, it has heard. If it has forgotten this board it asks again.
                await door.call("POST", f"/commands/{command_id}", body, timeout_s=CALL_TIMEOUT_S)
                del self._endings[command_id]
                self._in_hand.discard(command_id)
        finally:
            if self._endings:
                self._has_ending.set()

"""What the gateway's operators may do with this board: tell its workers what to do, and read what they write."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from agents.command_journal import CommandJournal
from agents.commands import Commands
from agents.gateway_door import GatewayDoor
from agents.log_shipping import LogShipping
from agents.supervisor import Supervisor
from edgesched.rest import CommandToDo


class RemoteControl:
    """One per daemon."""

    def __init__(self, supervisor: Supervisor, workspace: Path, *, on_done: Callable[[], None]) -> None:
        """on_done: called when a command has ended. Raises: StartupError if what was done cannot be read."""
        self._supervisor = supervisor
        self._on_done = on_done
        self._commands = Commands(self, CommandJournal.read(workspace / "commands.json"))
        self._logs = LogShipping(supervisor.logs, lambda: [report.name for report in supervisor.reports()])

    def offer(self, commands: Sequence[CommandToDo]) -> None:
        """Those that came with a heartbeat's answer."""
        self._commands.offer(commands)

    async def run(self) -> None:
        """Carry commands out, also while the gateway is away, until cancelled."""
        await self._commands.run()

    async def link(self, door: GatewayDoor) -> None:
        """Talk to the gateway until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._commands.link(door), name="commands")
            tasks.create_task(self._logs.link(door), name="logs")

    async def control(self, action: str, worker: str | None) -> None:
        """Raises: EdgeSchedError if it cannot be done."""
        try:
            await self._supervisor.control(action, worker)
        finally:
            self._on_done()

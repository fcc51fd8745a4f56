"""A board does what it is told once, whoever dies or is cut off meanwhile; against a real gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agents import command_journal
from agents.command_journal import CommandJournal, Ending
from agents.commands import Commands
from agents.gateway_door import GatewayDoor
from edgesched.errors import NotKnown
from edgesched.rest import CommandToDo
from tests.chaos.link import Link
from tests.support.agent_parts import WITHIN_S
from tests.support.gateways import GatewayUnderTest, agent_port, gateway_under_test

WORKERS = [{"name": f"rk-1-{i}", "pid": 7, "state": "ready"} for i in range(2)]


class FakeWorkers:
    """Does what it is told when the test lets it, and remembers."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str | None]] = []
        self.begun = asyncio.Event()
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def control(self, action: str, worker: str | None) -> None:
        self.told.append((action, worker))
        self.begun.set()
        if action != "kill":
            await self.may_end.wait()
        if worker == "rk-1-1":
            raise NotKnown("rk-1-1 went missing")


@pytest.fixture
async def gateway() -> AsyncIterator[GatewayUnderTest]:
    async with gateway_under_test() as gateway, agent_port() as port:
        await gateway.register("rk-1", port)
        await gateway.heartbeat("rk-1", workers=WORKERS)
        yield gateway


@asynccontextmanager
async def board(
    gateway: GatewayUnderTest, workers: FakeWorkers, workspace: Path, url: str | None = None
) -> AsyncIterator[Commands]:
    commands = Commands(workers, CommandJournal.read(workspace / "commands.json"))
    known = asyncio.Event()
    known.set()
    door = GatewayDoor(url or gateway.url, gateway.session, device_id="rk-1", boot_id="boot-1", known=known)
    loops = {asyncio.create_task(commands.run()), asyncio.create_task(commands.link(door))}
    try:
        yield commands
    finally:
        for loop in loops:
            loop.cancel()
        await asyncio.wait(loops)


async def tell(gateway: GatewayUnderTest, worker: str, command: str) -> str:
    answer = await gateway.call("POST", f"/api/workers/{worker}/command", {"command": command})
    assert answer.status == 202, answer.body
    command_id: str = answer.body["command_id"]
    return command_id


async def until(gateway: GatewayUnderTest, command_id: str, state: str) -> dict[str, Any]:
    async with asyncio.timeout(WITHIN_S):
        while True:
            command: dict[str, Any] = (await gateway.call("GET", f"/commands/{command_id}")).body
            if command["state"] == state:
                return command


async def test_a_verb_reaches_the_workers_and_its_end_the_gateway(gateway: GatewayUnderTest, tmp_path: Path) -> None:
    workers = FakeWorkers()
    async with board(gateway, workers, tmp_path):
        await until(gateway, await tell(gateway, "rk-1", "restart"), "done")
        failed = await until(gateway, await tell(gateway, "rk-1-1", "stop"), "failed")
    assert workers.told == [("restart", None), ("stop", "rk-1-1")]
    assert failed["detail"] == "rk-1-1 went missing"


async def test_a_kill_does_not_wait_for_the_stop_before_it(gateway: GatewayUnderTest, tmp_path: Path) -> None:
    workers = FakeWorkers()
    workers.may_end.clear()
    async with board(gateway, workers, tmp_path):
        stop = await tell(gateway, "rk-1", "stop")
        await until(gateway, stop, "delivered")
        await until(gateway, await tell(gateway, "rk-1", "kill"), "done")
        assert (await gateway.call("GET", f"/commands/{stop}")).body["state"] == "delivered"
        workers.may_end.set()
        await until(gateway, stop, "done")


async def test_what_is_said_twice_is_done_once(gateway: GatewayUnderTest, tmp_path: Path) -> None:
    workers = FakeWorkers()
    async with board(gateway, workers, tmp_path) as commands:
        command_id = await tell(gateway, "rk-1-0", "restart")
        await until(gateway, command_id, "done")
        # A heartbeat's answer that was on its way since before: it is told once more, and only its end is.
        commands.offer([CommandToDo.model_validate({"command_id": command_id, "verb": "restart", "worker": "rk-1-0"})])
        await until(gateway, await tell(gateway, "rk-1-0", "start"), "done")
    assert workers.told == [("restart", "rk-1-0"), ("start", "rk-1-0")]


async def test_an_end_that_the_gateway_did_not_hear_is_told_when_it_is_back(
    gateway: GatewayUnderTest, tmp_path: Path
) -> None:
    workers = FakeWorkers()
    workers.may_end.clear()
    link = Link("to the gateway", gateway.url.removeprefix("http://"))
    async with link.opened(), board(gateway, workers, tmp_path, url=f"http://{link.address}"):
        command_id = await tell(gateway, "rk-1", "restart")
        await until(gateway, command_id, "delivered")
        link.cut()
        workers.may_end.set()
        link.mend()
        await until(gateway, command_id, "done")
    assert workers.told == [("restart", None)]


async def test_an_agent_that_dies_while_it_does_it_never_does_it_again(
    gateway: GatewayUnderTest, tmp_path: Path
) -> None:
    first, second = FakeWorkers(), FakeWorkers()
    first.may_end.clear()
    command_id = ""
    async with board(gateway, first, tmp_path):
        command_id = await tell(gateway, "rk-1", "restart")
        await first.begun.wait()
    async with board(gateway, second, tmp_path):
        command = await until(gateway, command_id, "failed")
    assert "the agent ended while it did this" in command["detail"]
    assert (first.told, second.told) == ([("restart", None)], [])


async def test_an_agent_that_dies_before_it_told_the_end_tells_it_after(
    gateway: GatewayUnderTest, tmp_path: Path
) -> None:
    command_id = await tell(gateway, "rk-1", "restart")
    CommandJournal.read(tmp_path / "commands.json").note(command_id, Ending(succeeded=True))
    workers = FakeWorkers()
    async with board(gateway, workers, tmp_path):
        await until(gateway, command_id, "done")
    assert workers.told == []


async def test_nothing_is_done_that_cannot_be_written_down(gateway: GatewayUnderTest, tmp_path: Path) -> None:
    workers = FakeWorkers()
    async with board(gateway, workers, tmp_path / "gone"):
        command = await until(gateway, await tell(gateway, "rk-1", "kill"), "failed")
    assert "nothing was done: the board's disk refuses" in command["detail"]
    assert workers.told == []


async def test_commands_that_are_noted_at_once_are_all_noted(tmp_path: Path) -> None:
    journal = CommandJournal.read(tmp_path / "commands.json")
    await asyncio.gather(*(asyncio.to_thread(journal.note, str(number), None) for number in range(16)))
    again = CommandJournal.read(tmp_path / "commands.json")
    assert all(again.knows(str(number)) for number in range(16))


def test_the_journal_keeps_the_newest_and_survives_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "commands.json"
    journal = CommandJournal.read(path)
    monkeypatch.setattr(command_journal, "KEPT", 3)
    for number in range(4):
        journal.note(str(number), None)
    again = CommandJournal.read(path)
    assert [again.knows(str(number)) for number in range(4)] == [False, True, True, True]
    path.write_text('{"x": 1')
    assert not CommandJournal.read(path).knows("1")
    assert path.with_name("commands.json.damaged").exists()

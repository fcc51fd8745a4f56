"""`edgesched audit` asks agents what they hold; who cannot be asked is listed and is no fault."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import sys
from pathlib import Path
from typing import Any

import grpc.aio
from aiohttp import web

from edgesched import wire
from edgesched.domain.detection import digest
from edgesched.rest import DEVICE_REGISTRATION
from edgesched.v1 import agent_pb2 as pb
from edgesched.v1 import agent_pb2_grpc as pb_grpc
from tests.support.agent_parts import DEVICE_ID, LEDGER, FakeReceiver, Master, listening, running_agent
from tests.support.old_masters import Workplace, fill

ROOT = Path(__file__).parents[2]
WITHIN_S = 60.0


async def audited(place: Workplace, *arguments: str) -> tuple[int, dict[str, Any]]:
    """`edgesched audit --json ARGUMENTS`. Returns: exit code, report."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "edgesched", "audit", "--json", *arguments),
        *("--ledger", place.ledger, "--upload_path", place.upload),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(WITHIN_S):
        output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, json.loads(output)


def id_of(place: Workplace) -> str:
    with contextlib.closing(sqlite3.connect(place.ledger)) as connection:
        (ledger_id,) = connection.execute("SELECT ledger_id FROM meta").fetchone()
        return str(ledger_id)


async def finish(master: Master, attempt: str, **options: Any) -> pb.Outcome:
    await master.dispatch(attempt, **options)
    await master.next("accepted")
    outcome: pb.Outcome = await master.next("outcome")
    return outcome


async def inventory(address: str) -> list[pb.InventoryPage]:
    async with grpc.aio.insecure_channel(address, options=wire.CHANNEL_OPTIONS) as channel:
        async with asyncio.timeout(WITHIN_S):
            return [page async for page in pb_grpc.AgentStub(channel).Inventory(pb.InventoryRequest())]


async def test_an_agent_tells_what_its_outbox_holds(tmp_path: Path) -> None:
    receiver = FakeReceiver()
    async with listening(receiver.app()) as url, running_agent(tmp_path) as agent, agent.connected() as master:
        (page,) = await inventory(agent.address)
        assert (page.device_id, list(page.entries)) == (DEVICE_ID, [])
        await master.next("hello")
        said = {name: await finish(master, name, receiver_url=url) for name in ("a1", "a2", "a3")}
        await master.judge("a2", deliver=True)
        await master.next("delivery_report")
        await master.judge("a3", deliver=False)
        await master.fence()
        (page,) = await inventory(agent.address)
        waits, delivered = map(wire.held_outcome, page.entries)
        assert (waits.ledger_id, waits.task_id, waits.attempt_id) == (LEDGER, "task-a1", "a1")
        assert (waits.is_winner, waits.is_delivered) == (False, False)
        assert (delivered.attempt_id, delivered.is_winner, delivered.is_delivered) == ("a2", True, True)
        assert waits.labels_digest == digest(wire.result(said["a1"].result).detections)


async def test_an_agent_tells_of_a_failure_without_labels(tmp_path: Path) -> None:
    async with running_agent(tmp_path) as agent, agent.connected() as master:
        await master.next("hello")
        assert (await finish(master, "a1", picture="raise")).HasField("failure")
        (page,) = await inventory(agent.address)
        assert [entry.HasField("labels_digest") for entry in page.entries] == [False]


async def test_an_audit_holds_what_a_board_has_against_the_ledger(tmp_path: Path) -> None:
    place = Workplace.below(tmp_path)
    await fill(place)
    async with running_agent(tmp_path / "board") as agent:
        async with agent.connected(ledger="another") as master:
            await master.next("hello")
            await finish(master, "old")
        code, report = await audited(place, "--agent", agent.address)
        assert (code, report["boards"]) == (0, {DEVICE_ID: {"ours": 0, "foreign": 1, "forgotten": 0}})
        async with agent.connected(ledger=id_of(place)) as master:
            await master.next("hello")
            await finish(master, "a1")
        code, report = await audited(place, "--agent", agent.address)
    assert code == 1
    assert [(finding["check"], finding["task_id"]) for finding in report["findings"]] == [("outbox.unknown", "task-a1")]


async def test_the_gateway_says_which_boards_to_ask_and_those_that_are_away_are_listed(tmp_path: Path) -> None:
    place = Workplace.below(tmp_path)
    await fill(place)

    async with running_agent(tmp_path / "board") as agent:
        registration = DEVICE_REGISTRATION.parse(json.dumps(agent.gateway.registrations[0]))

        def entry(device_id: str, address: str) -> dict[str, Any]:
            device = registration.model_dump(mode="json", exclude={"agent_port", "advertise", "labels"})
            facts = {"device_id": device_id, "address": address, "state": "ready", "last_heartbeat_age_ms": 1.0}
            return {"device": device | facts | {"telemetry": {}, "unhealthy_reason": None, "outbox_count": 0}}

        async def devices(_: web.Request) -> web.Response:
            there = entry(DEVICE_ID, agent.address)
            moved, gone = entry("moved", agent.address.replace("127.0.0.1", "localhost")), entry("gone", "127.0.0.1:1")
            return web.json_response({"devices": [there, moved, gone]})

        gateway = web.Application()
        gateway.router.add_get("/api/v1/devices", devices)
        async with listening(gateway) as url:
            code, report = await audited(place, "--gateway-url", url)
        assert (code, report["clean"], set(report["boards"])) == (0, True, {DEVICE_ID})
        assert f"board {DEVICE_ID} answers at its address" in report["boards_away"]["moved"]
        assert "no agent answers at 127.0.0.1:1" in report["boards_away"]["gone"]
        assert report["boards_not_audited"] == {"rk3588-1": 2}
        code, report = await audited(place, "--boards", "--gateway-url", url)
    assert code == 0
    assert "no gateway answers" in report["boards_away"]["the gateway's boards"]


async def test_an_audit_asks_nobody_unless_it_is_told_to(tmp_path: Path) -> None:
    place = Workplace.below(tmp_path)
    await fill(place)
    code, report = await audited(place)
    assert (code, report["boards"], report["boards_away"]) == (0, {}, {})

"""What operators tell the workers of boards: it gets there once, whoever is away, and its end is known."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from edgesched.domain.command import OPEN_STATES, TRANSITIONS, CommandEvent, CommandState, advance
from edgesched.errors import IllegalTransition
from gateway import command_rows
from gateway.commands import DELIVERED_MS, MAX_OPEN, PENDING_MS
from tests.support.gateways import Answer, GatewayUnderTest, agent_port, gateway_under_test

WORKERS = [{"name": f"rk-1-{i}", "pid": 7 + i, "state": "ready", "restarts": i} for i in range(2)]
WAIT_MS = 30_000


@pytest.fixture
async def port() -> AsyncIterator[int]:
    async with agent_port() as port:
        yield port


@pytest.fixture
async def gateway(port: int) -> AsyncIterator[GatewayUnderTest]:
    async with gateway_under_test() as gateway:
        await gateway.register("rk-1", port, labels={"room": "lab"})
        await gateway.heartbeat("rk-1", workers=WORKERS)
        yield gateway


async def tell(gateway: GatewayUnderTest, worker: str, command: str, key: str | None = None) -> Answer:
    body = {"command": command} | ({"key": key} if key else {})
    return await gateway.call("POST", f"/api/workers/{worker}/command", body)


async def poll(
    gateway: GatewayUnderTest, *in_hand: str, wait_ms: int = 0, boot_id: str = "boot-1", device_id: str = "rk-1"
) -> Sequence[dict[str, Any]]:
    path = f"/api/v1/devices/{device_id}/commands"
    answer = await gateway.call("GET", path, boot_id=boot_id, wait_ms=wait_ms, in_hand=",".join(in_hand))
    assert answer.status == 200, answer.body
    found: Sequence[dict[str, Any]] = answer.body["commands"]
    return found


async def settle(gateway: GatewayUnderTest, command_id: str, *, succeeded: bool = True, detail: str = "") -> Answer:
    body = {"boot_id": "boot-1", "succeeded": succeeded, "detail": detail}
    return await gateway.call("POST", f"/api/v1/devices/rk-1/commands/{command_id}", body)


async def state_of(gateway: GatewayUnderTest, command_id: str) -> str:
    state: str = (await gateway.call("GET", f"/api/v1/commands/{command_id}")).body["state"]
    return state


# -- the life of a command


async def test_a_command_goes_to_the_board_that_waits_and_its_end_is_known(gateway: GatewayUnderTest) -> None:
    waiting = asyncio.create_task(poll(gateway, wait_ms=WAIT_MS))
    answer = await tell(gateway, "rk-1-1", "restart")
    assert (answer.status, answer.body["state"], answer.body["worker"]) == (202, "pending", "rk-1-1")
    command_id = answer.body["command_id"]
    assert await waiting == [{"command_id": command_id, "verb": "restart", "worker": "rk-1-1"}]
    assert await poll(gateway, command_id) == []
    assert await state_of(gateway, command_id) == "delivered"
    (listed,) = (await gateway.call("GET", "/api/remote-workers", state="ready", device_id="rk-1")).body["workers"][1:]
    assert (listed["id"], listed["command"]["verb"], listed["report"]["pid"]) == ("rk-1-1", "restart", 8)
    assert (await settle(gateway, command_id, detail="it runs again")).status == 200
    shown = (await gateway.call("GET", f"/api/v1/commands/{command_id}")).body
    assert (shown["state"], shown["detail"]) == ("done", "it runs again")
    assert await poll(gateway) == []
    assert (await gateway.call("GET", "/api/v1/remote-workers/rk-1-1")).body["command"] is None


async def test_a_command_whose_answer_was_lost_is_said_again_until_the_board_has_it(gateway: GatewayUnderTest) -> None:
    command_id = (await tell(gateway, "rk-1", "stop")).body["command_id"]
    for _ in range(2):
        assert [c["command_id"] for c in await poll(gateway)] == [command_id]
        assert await state_of(gateway, command_id) == "pending"
    beat = await gateway.heartbeat("rk-1", workers=WORKERS)  # a board whose poll does not come through gets it here
    assert beat.body["commands"] == [{"command_id": command_id, "verb": "stop", "worker": None}]


async def test_a_newer_poll_of_a_board_ends_the_older_one(gateway: GatewayUnderTest) -> None:
    polls = {asyncio.create_task(poll(gateway, wait_ms=WAIT_MS)) for _ in range(2)}
    (older,), (newer,) = await asyncio.wait(polls, return_when=asyncio.FIRST_COMPLETED)
    assert await older == []
    await tell(gateway, "rk-1", "stop")
    assert len(await newer) == 1


async def test_an_outcome_that_is_said_twice_changes_nothing(gateway: GatewayUnderTest) -> None:
    command_id = (await tell(gateway, "rk-1", "stop")).body["command_id"]
    assert (await settle(gateway, command_id, succeeded=False, detail="no")).body["state"] == "failed"
    assert (await settle(gateway, command_id, detail="yes")).body["state"] == "failed"


async def test_a_board_that_did_it_after_it_expired_is_believed(gateway: GatewayUnderTest) -> None:
    command_id = (await tell(gateway, "rk-1", "stop")).body["command_id"]
    gateway.clock.now_ms += PENDING_MS
    await gateway.parts.commands.expire()
    assert await state_of(gateway, command_id) == "expired"
    assert await poll(gateway) == []
    assert (await settle(gateway, command_id)).body["state"] == "done"


async def test_a_command_that_the_board_took_and_never_settled_expires_later(gateway: GatewayUnderTest) -> None:
    command_id = (await tell(gateway, "rk-1", "stop")).body["command_id"]
    await poll(gateway, command_id)
    gateway.clock.now_ms += PENDING_MS
    await gateway.parts.commands.expire()
    assert await state_of(gateway, command_id) == "delivered"
    gateway.clock.now_ms += DELIVERED_MS
    await gateway.parts.commands.expire()
    shown = (await gateway.call("GET", f"/commands/{command_id}")).body
    assert (shown["state"], "never said" in shown["detail"]) == ("expired", True)


async def test_commands_of_a_removed_device_expire(gateway: GatewayUnderTest) -> None:
    command_id = (await tell(gateway, "rk-1", "stop")).body["command_id"]
    await gateway.call("DELETE", "/devices/rk-1", boot_id="boot-1")
    await gateway.parts.commands.expire()
    shown = (await gateway.call("GET", f"/commands/{command_id}")).body
    assert (shown["state"], shown["detail"]) == ("expired", "the device was removed")
    assert (await tell(gateway, "rk-1", "stop")).status == 404


async def test_commands_survive_a_restart_of_the_gateway(port: int, tmp_path: Path) -> None:
    state = tmp_path / "gateway.sqlite3"
    async with gateway_under_test(gateway_state_path=state) as gateway:
        await gateway.register("rk-1", port)
        command_id = (await tell(gateway, "rk-1", "stop", key="k")).body["command_id"]
    async with gateway_under_test(gateway_state_path=state) as gateway:
        await gateway.register("rk-1", port)
        assert [c["command_id"] for c in await poll(gateway)] == [command_id]
        assert (await tell(gateway, "rk-1", "stop", key="k")).body["command_id"] == command_id


@pytest.mark.parametrize("state", list(CommandState))
def test_what_has_ended_is_open_no_more_whatever_comes(state: CommandState) -> None:
    for event in CommandEvent:
        if (state, event) in TRANSITIONS:
            assert state in OPEN_STATES or TRANSITIONS[state, event] not in OPEN_STATES
        else:
            with pytest.raises(IllegalTransition):
                advance(state, event)


# -- saying it twice, and contradicting


async def test_the_same_key_is_the_same_command_even_when_it_has_ended(gateway: GatewayUnderTest) -> None:
    first = (await tell(gateway, "rk-1-0", "restart", key="k1")).body
    await settle(gateway, first["command_id"])
    again = await tell(gateway, "rk-1-0", "restart", key="k1")
    assert (again.status, again.body["command_id"], again.body["state"]) == (202, first["command_id"], "done")
    assert await poll(gateway) == []
    other = await tell(gateway, "rk-1-0", "stop", key="k1")
    assert (other.status, "give a new key" in other.body["detail"]) == (409, True)


async def test_a_key_is_kept_also_where_somebody_else_had_told_the_same_before(gateway: GatewayUnderTest) -> None:
    first = (await tell(gateway, "rk-1-0", "restart")).body["command_id"]
    assert (await tell(gateway, "rk-1-0", "restart", key="k")).body["command_id"] == first
    await settle(gateway, first)
    assert (await tell(gateway, "rk-1-0", "restart", key="k")).body["command_id"] == first
    assert await poll(gateway) == []


async def test_only_the_newest_commands_are_kept_and_open_ones_always(
    gateway: GatewayUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_rows, "MAX_KEPT", 2)
    oldest = (await tell(gateway, "rk-1-1", "stop")).body["command_id"]
    told = []
    for _ in range(4):
        gateway.clock.now_ms += 1
        told.append((await tell(gateway, "rk-1-0", "restart")).body["command_id"])
        await settle(gateway, told[-1])
    listed = (await gateway.call("GET", "/commands")).body["commands"]
    assert [command["command_id"] for command in listed] == [told[3], told[2], oldest]


async def test_what_is_under_way_is_not_told_a_second_time(gateway: GatewayUnderTest) -> None:
    first = (await tell(gateway, "rk-1-0", "restart")).body["command_id"]
    assert (await tell(gateway, "rk-1-0", "restart")).body["command_id"] == first
    assert len(await poll(gateway)) == 1


async def test_a_contradiction_is_refused_and_a_kill_is_not(gateway: GatewayUnderTest) -> None:
    stop = (await tell(gateway, "rk-1-0", "stop")).body["command_id"]
    for target in ("rk-1-0", "rk-1"):
        refused = await tell(gateway, target, "start")
        assert (refused.status, stop in refused.body["detail"]) == (409, True)
    assert (await tell(gateway, "rk-1-1", "start")).status == 202  # another worker
    assert (await tell(gateway, "rk-1-0", "kill")).status == 202
    assert await state_of(gateway, stop) == "superseded"
    assert [c["verb"] for c in await poll(gateway)] == ["start", "kill"]


async def test_a_kill_comes_beside_a_stop_that_the_board_has(gateway: GatewayUnderTest) -> None:
    stop = (await tell(gateway, "rk-1", "stop")).body["command_id"]
    await poll(gateway, stop)
    assert (await tell(gateway, "rk-1-0", "kill")).status == 202
    assert await state_of(gateway, stop) == "delivered"
    assert [c["verb"] for c in await poll(gateway, stop)] == ["kill"]


async def test_more_than_a_board_can_mean_is_refused(gateway: GatewayUnderTest) -> None:
    await gateway.heartbeat("rk-1", workers=[{**WORKERS[0], "name": f"rk-1-{i}"} for i in range(MAX_OPEN + 1)])
    for number in range(MAX_OPEN):
        assert (await tell(gateway, f"rk-1-{number}", "stop")).status == 202
    answer = await tell(gateway, f"rk-1-{MAX_OPEN}", "stop")
    assert (answer.status, "Retry-After" in answer.headers) == (429, True)


# -- who is meant


async def test_many_devices_are_told_at_once_or_none(gateway: GatewayUnderTest, port: int) -> None:
    await gateway.register("orin-1", port, board_type="orin")
    chosen = await gateway.call("POST", "/commands", {"command": "restart", "labels": {"room": "lab"}})
    assert [c["device_id"] for c in chosen.body["commands"]] == ["rk-1"]
    refused = await gateway.call("POST", "/commands", {"command": "stop", "all": True})
    assert refused.status == 409
    assert await poll(gateway, device_id="orin-1") == []
    by_type = await gateway.call("POST", "/commands", {"command": "stop", "board_type": "orin", "key": "k"})
    assert [c["device_id"] for c in by_type.body["commands"]] == ["orin-1"]
    again = await gateway.call("POST", "/commands", {"command": "stop", "board_type": "orin", "key": "k"})
    assert again.body == by_type.body
    listed = (await gateway.call("GET", "/commands", device_id="orin-1", state="pending")).body["commands"]
    assert listed == by_type.body["commands"]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"command": "stop"}, 400, "say for which devices"),
        ({"command": "stop", "all": True, "labels": {"a": "b"}}, 400, "and nothing else"),
        ({"command": "stop", "labels": {"room": "roof"}}, 404, "no device fits"),
        ({"command": "stop", "devices": ["rk-2"]}, 404, "did you mean 'rk-1'"),
        ({"command": "stop", "all": True, "kye": "k"}, 400, "kye: there is no such field; did you mean 'key'?"),
        ({"command": "rm -rf /", "all": True}, 400, "command: Input should be 'start', 'stop', 'restart' or 'kill'"),
    ],
)
async def test_a_choice_that_makes_no_sense_is_refused(
    gateway: GatewayUnderTest, body: dict[str, object], status: int, words: str
) -> None:
    answer = await gateway.call("POST", "/commands", body)
    assert (answer.status, words in answer.body["detail"]) == (status, True), answer.body


async def test_unknown_names_are_refused_with_the_nearest_one(gateway: GatewayUnderTest) -> None:
    for method, path in (
        ("POST", "/api/workers/rk-1-7/command"),
        ("GET", "/api/remote-workers/rk-1-7"),
        ("GET", "/api/remote-workers/rk-1-7/logs"),
    ):
        answer = await gateway.call(method, path, {"command": "stop"} if method == "POST" else None)
        assert (answer.status, "did you mean 'rk-1-" in answer.body["detail"]) == (404, True), answer.body
    assert (await gateway.call("POST", "/devices/rk-9/command", {"command": "stop"})).status == 404
    assert (await gateway.call("GET", "/commands/nonsense")).status == 404
    told = await gateway.call("POST", "/devices/rk-1/command", {"command": "stop"})
    command_id = told.body["command_id"]
    mistyped = await gateway.call("GET", f"/commands/{command_id[:-1]}")
    assert (mistyped.status, f"did you mean '{command_id}'" in mistyped.body["detail"]) == (404, True)


async def test_only_the_present_start_of_a_registered_agent_gets_and_settles_commands(
    gateway: GatewayUnderTest, port: int
) -> None:
    command_id = (await tell(gateway, "rk-1", "stop")).body["command_id"]
    path = "/api/v1/devices/rk-1/commands"
    assert (await gateway.call("GET", path, boot_id="boot-0")).status == 404
    body = {"boot_id": "boot-0", "succeeded": True}
    assert (await gateway.call("POST", f"{path}/{command_id}", body)).status == 404
    await gateway.register("rk-2", port)
    elsewhere = f"/api/v1/devices/rk-2/commands/{command_id}"
    assert (await gateway.call("POST", elsewhere, {"boot_id": "boot-1", "succeeded": True})).status == 404

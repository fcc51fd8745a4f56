"""What workers write: the last lines are readable at the gateway, once each, also after their board died."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway import worker_logs
from gateway.worker_logs import LINES_PER_WORKER
from tests.support.gateways import HEARTBEAT_TIMEOUT_MS, GatewayUnderTest, agent_port, gateway_under_test

WORKER = {"name": "rk-1-0", "pid": 7, "state": "ready", "restarts": 0}


@pytest.fixture
async def port() -> AsyncIterator[int]:
    async with agent_port() as port:
        yield port


@pytest.fixture
async def gateway(port: int) -> AsyncIterator[GatewayUnderTest]:
    async with gateway_under_test() as gateway:
        await gateway.register("rk-1", port)
        await gateway.heartbeat("rk-1", workers=[WORKER])
        yield gateway


async def ship(
    gateway: GatewayUnderTest, *numbers: int, after: int | None = 0, worker: str = "rk-1-0", age_ms: int = 0
) -> dict[str, int]:
    lines = [{"number": number, "age_ms": age_ms, "text": f"line {number}"} for number in numbers]
    body = {"boot_id": "boot-1", "logs": [{"worker": worker, "after": after, "lines": lines}]}
    answer = await gateway.call("POST", "/api/v1/devices/rk-1/logs", body)
    assert answer.status == 200, answer.body
    have: dict[str, int] = answer.body["have"]
    return have


async def lines(gateway: GatewayUnderTest, name: str = "rk-1-0", **query: int | str) -> list[str]:
    answer = await gateway.call("GET", f"/api/remote-workers/{name}/logs", **query)
    assert answer.status == 200, answer.body
    return [line["text"] for line in answer.body["lines"]]


async def test_lines_are_kept_once_however_often_they_are_sent(gateway: GatewayUnderTest) -> None:
    assert await lines(gateway) == []
    assert await ship(gateway, 1, 2) == {"rk-1-0": 2}
    assert await ship(gateway, 1, 2) == {"rk-1-0": 2}  # its answer was lost
    assert await ship(gateway, 2, 3, after=2) == {"rk-1-0": 3}
    assert await lines(gateway) == ["line 1", "line 2", "line 3"]
    assert await lines(gateway, tail=2) == ["line 2", "line 3"]


async def test_a_board_with_an_empty_disk_starts_anew(gateway: GatewayUnderTest) -> None:
    await ship(gateway, 41, 42)
    assert await ship(gateway, 1) == {"rk-1-0": 42}  # so the board learns that its own numbers are younger
    assert await ship(gateway, 1, after=None) == {"rk-1-0": 1}
    assert await lines(gateway) == ["line 41", "line 42", "line 1"]


async def test_a_log_is_read_from_a_time_on_and_followed(gateway: GatewayUnderTest) -> None:
    await ship(gateway, 1, age_ms=60_000)
    await ship(gateway, 2, after=1, age_ms=1_000)
    assert await lines(gateway, since_s=30) == ["line 2"]
    cursor = (await gateway.call("GET", "/workers/rk-1-0/logs")).body["cursor"]
    following = asyncio.create_task(lines(gateway, after=cursor, wait_ms=30_000))
    await ship(gateway, 1, worker="rk-1-1")  # somebody else's line wakes nobody
    await ship(gateway, 3, after=2)
    assert await following == ["line 3"]
    assert await lines(gateway, after=cursor, wait_ms=0) == ["line 3"]


@pytest.mark.parametrize(
    ("since", "number_of_lines"), [("30", 1), ("30s", 1), ("0.5m", 1), ("2m", 2), ("1h", 2), ("1d", 2)]
)
async def test_since_takes_a_duration_as_people_write_it(
    gateway: GatewayUnderTest, since: str, number_of_lines: int
) -> None:
    await ship(gateway, 1, age_ms=60_000)
    await ship(gateway, 2, after=1, age_ms=1_000)
    assert await lines(gateway, since=since) == ["line 1", "line 2"][-number_of_lines:]


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ({"since": "yesterday"}, "since must be like 90s, 10m, 2h or 1d, or a number of seconds, got 'yesterday'"),
        ({"since": "-5s"}, "since must be like"),
        ({"since": ""}, "since must be like"),
        ({"since": "5s", "since_s": "5"}, "give one of them"),
        ({"sinse": "10s"}, "'sinse'; did you mean 'since'?; there are: tail, since, since_s, after, wait_ms"),
    ],
)
async def test_a_log_query_that_cannot_be_meant_is_refused_with_what_there_is(
    gateway: GatewayUnderTest, query: dict[str, str], named: str
) -> None:
    answer = await gateway.call("GET", "/api/remote-workers/rk-1/logs", **query)
    assert answer.status == 400
    assert named in answer.body["detail"]


async def test_the_lines_of_a_device_are_those_of_its_workers_in_order(gateway: GatewayUnderTest) -> None:
    await ship(gateway, 1)
    await ship(gateway, 7, worker="rk-1-1")
    await ship(gateway, 2, after=1)
    assert await lines(gateway, "rk-1") == ["line 1", "line 7", "line 2"]
    page = (await gateway.call("GET", "/devices/rk-1/logs")).body
    assert [line["worker"] for line in page["lines"]] == ["rk-1-0", "rk-1-1", "rk-1-0"]


async def test_the_lines_of_a_device_come_in_the_order_in_which_they_were_written(gateway: GatewayUnderTest) -> None:
    await ship(gateway, 1, age_ms=5_000)
    await ship(gateway, 2, after=1, age_ms=1_000)
    await ship(gateway, 7, worker="rk-1-1", age_ms=3_000)  # carried later, written earlier
    assert await lines(gateway, "rk-1") == ["line 1", "line 7", "line 2"]
    assert await lines(gateway, "rk-1", tail=2) == ["line 7", "line 2"]
    page = (await gateway.call("GET", "/devices/rk-1/logs", tail=1)).body
    assert [line["text"] for line in page["lines"]] == ["line 2"]
    assert await lines(gateway, "rk-1", after=page["cursor"]) == [], "what the tail left out was not missed"
    await ship(gateway, 3, after=2, age_ms=4_000)  # its board's clock jumped
    assert await lines(gateway) == ["line 1", "line 2", "line 3"], "a worker's own lines never change their order"


async def test_nobody_writes_into_another_boards_log(gateway: GatewayUnderTest, port: int) -> None:
    await ship(gateway, 1)
    body = {
        "boot_id": "boot-1",
        "logs": [{"worker": "rk-1-0", "after": None, "lines": [{"number": 9, "age_ms": 0, "text": "x"}]}],
    }
    await gateway.register("rk-2", port)
    answer = await gateway.call("POST", "/api/v1/devices/rk-2/logs", body)
    assert (answer.status, "is no worker of rk-2" in answer.body["detail"]) == (400, True)
    await gateway.register("rk", port)  # whose worker could have that name
    assert (await gateway.call("POST", "/api/v1/devices/rk/logs", body)).body == {"have": {}}
    assert await lines(gateway) == ["line 1"]


async def test_a_log_is_readable_after_its_board_died_and_the_gateway_restarted(port: int, tmp_path: Path) -> None:
    state = tmp_path / "gateway.sqlite3"
    async with gateway_under_test(gateway_state_path=state) as gateway:
        await gateway.register("rk-1", port)
        await ship(gateway, 1, 2)
        gateway.clock.now_ms += HEARTBEAT_TIMEOUT_MS + 1
        cursor = (await gateway.call("GET", "/workers/rk-1-0/logs")).body["cursor"]
        assert await lines(gateway) == ["line 1", "line 2"]
    async with gateway_under_test(gateway_state_path=state) as gateway:
        assert await lines(gateway) == ["line 1", "line 2"]
        await gateway.register("rk-1", port)
        assert await ship(gateway, after=0) == {"rk-1-0": 2}
        await ship(gateway, 3, after=2)
        assert await lines(gateway, after=cursor) == ["line 3"]
        assert (await gateway.call("DELETE", "/devices/rk-1", boot_id="boot-1")).status == 204
        assert await lines(gateway) == ["line 1", "line 2", "line 3"]
        assert (await gateway.call("DELETE", "/devices/rk-1")).status == 204  # forget it
        assert (await gateway.call("GET", "/workers/rk-1-0/logs")).status == 404


async def test_only_the_last_lines_are_kept_in_memory_and_on_the_disk(port: int, tmp_path: Path) -> None:
    state = tmp_path / "gateway.sqlite3"
    async with gateway_under_test(gateway_state_path=state) as gateway:
        await gateway.register("rk-1", port)
        for first in range(1, 2 * LINES_PER_WORKER, 100):
            await ship(gateway, *range(first, first + 100), after=first - 1)
            await gateway.parts.logs.write()
        kept = await lines(gateway, tail=5_000)
        assert (len(kept), kept[-1]) == (LINES_PER_WORKER, f"line {2 * LINES_PER_WORKER}")
    async with gateway_under_test(gateway_state_path=state) as gateway:
        assert await lines(gateway, tail=5_000) == kept


async def test_all_logs_together_are_bounded_and_the_quietest_goes_first(
    gateway: GatewayUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_logs, "MAX_WORKERS", 2)
    for worker in ("rk-1-1", "rk-1-0", "rk-1-2"):
        await ship(gateway, 1, worker=worker)
    assert sorted(gateway.parts.logs.workers()) == ["rk-1-0", "rk-1-2"]
    await gateway.parts.logs.write()


async def test_lines_that_are_too_long_or_too_many_are_refused(gateway: GatewayUnderTest) -> None:
    def body(text: str, count: int) -> dict[str, Any]:
        many = [{"number": number + 1, "age_ms": 0, "text": text} for number in range(count)]
        return {"boot_id": "boot-1", "logs": [{"worker": "rk-1-0", "after": 0, "lines": many}]}

    for refused in (body("x" * 2_001, 1), body("x", 501)):
        assert (await gateway.call("POST", "/devices/rk-1/logs", refused)).status == 400

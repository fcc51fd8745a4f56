"""What the workers write is carried to the gateway: each line once, and on after every interruption."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from agents.gateway_door import GatewayDoor
from agents.log_shipping import LogShipping
from edgesched.rest import MAX_LOG_LINES
from tests.support.agent_parts import WITHIN_S
from tests.support.gateways import GatewayUnderTest, agent_port, gateway_under_test


@dataclass(frozen=True)
class FakeLine:
    number: int
    text: str
    at_ms: int
    source: str = "output"


class FakeLogs:
    def __init__(self) -> None:
        self.lines: list[FakeLine] = []
        self.first = 1

    def write(self, *texts: str, at_ms: int | None = None) -> None:
        for text in texts:
            number = self.first + len(self.lines)
            self.lines.append(FakeLine(number, text, int(time.time() * 1000) if at_ms is None else at_ms))

    def last_number(self, worker: str) -> int:
        return self.lines[-1].number if self.lines else 0

    def tail(self, worker: str, max_lines: int, since: int | None = None) -> Sequence[FakeLine]:
        if since is None:
            return self.lines[-max_lines:]
        return [line for line in self.lines if line.number > since][:max_lines]


@pytest.fixture
async def gateway() -> AsyncIterator[GatewayUnderTest]:
    async with gateway_under_test() as gateway, agent_port() as port:
        await gateway.register("rk-1", port)
        yield gateway


@asynccontextmanager
async def shipping(gateway: GatewayUnderTest, logs: FakeLogs) -> AsyncIterator[None]:
    known = asyncio.Event()
    known.set()
    door = GatewayDoor(gateway.url, gateway.session, device_id="rk-1", boot_id="boot-1", known=known)
    loop = asyncio.create_task(LogShipping(logs, lambda: ["rk-1-0"], pause_s=0.01).link(door))
    try:
        yield
    finally:
        loop.cancel()
        await asyncio.wait({loop})


async def lines_until(gateway: GatewayUnderTest, last: str) -> list[str]:
    async with asyncio.timeout(WITHIN_S):
        while True:
            page = await gateway.call("GET", "/devices/rk-1/logs", tail=5_000)
            texts = [line["text"] for line in page.body["lines"]]
            if texts and texts[-1] == last:
                return texts


async def test_lines_arrive_once_and_go_on_after_a_restart_of_the_agent(gateway: GatewayUnderTest) -> None:
    logs = FakeLogs()
    logs.write("a", "b")
    async with shipping(gateway, logs):
        assert await lines_until(gateway, "b") == ["a", "b"]
        logs.write("c")
        assert await lines_until(gateway, "c") == ["a", "b", "c"]
    logs.write("d")
    async with shipping(gateway, logs):
        assert await lines_until(gateway, "d") == ["a", "b", "c", "d"]


async def test_a_gateway_that_forgot_gets_what_is_there_again(gateway: GatewayUnderTest) -> None:
    logs = FakeLogs()
    logs.write("a")
    async with shipping(gateway, logs):
        await lines_until(gateway, "a")
        gateway.parts.logs.forget("rk-1")  # type: ignore[arg-type]
        logs.write("b")
        assert await lines_until(gateway, "b") == ["a", "b"]


async def test_a_board_whose_disk_was_wiped_is_heard(gateway: GatewayUnderTest) -> None:
    logs = FakeLogs()
    logs.first = 100
    logs.write("old")
    async with shipping(gateway, logs):
        await lines_until(gateway, "old")
    logs = FakeLogs()
    logs.write("new")
    async with shipping(gateway, logs):
        assert await lines_until(gateway, "new") == ["old", "new"]


async def test_a_flood_is_carried_from_its_end(gateway: GatewayUnderTest) -> None:
    logs = FakeLogs()
    logs.write(*(f"line {number}" for number in range(3 * MAX_LOG_LINES)))
    async with shipping(gateway, logs):
        texts = await lines_until(gateway, f"line {3 * MAX_LOG_LINES - 1}")
    assert len(texts) == MAX_LOG_LINES


async def test_a_board_whose_clock_was_not_set_is_not_believed(gateway: GatewayUnderTest) -> None:
    logs = FakeLogs()
    logs.write("a", at_ms=5_000)  # 1970
    async with shipping(gateway, logs):
        await lines_until(gateway, "a")
    (line,) = (await gateway.call("GET", "/workers/rk-1-0/logs")).body["lines"]
    assert (line["at_ms"], line["source"]) == (gateway.clock.wall_ms(), "output")

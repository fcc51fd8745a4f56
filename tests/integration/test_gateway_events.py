"""Live news: what happens reaches every reader, and no reader can hurt the gateway or the others."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from edgesched.domain.lifecycle import State
from edgesched.domain.task import TaskId
from gateway.api.events import Events
from gateway.app import Gateway, listening
from gateway.events import MAX_TASKS_PER_TICK, MAX_WAITING, EventHub, Reader, frame
from gateway.lookout import Lookout
from gateway.problems import problems
from tests.integration.test_gateway_tasks import TASK
from tests.support.fleets import finished, request
from tests.support.gateways import (
    HEARTBEAT_TIMEOUT_MS,
    LOCALHOST,
    CannedTasks,
    GatewayUnderTest,
    ManualClock,
    agent_port,
    gateway_parts,
    gateway_under_test,
)

BOUND_S = 10.0


@pytest.fixture
async def gateway() -> AsyncIterator[GatewayUnderTest]:
    async with gateway_under_test() as gateway:
        yield gateway


class Listener:
    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def next(self, event: str) -> Any:
        """The data of the next such event; others are passed over."""
        async with asyncio.timeout(BOUND_S):
            name = ""
            while line := (await self._response.content.readline()).decode():
                if line.startswith("event: "):
                    name = line[7:].strip()
                elif line.startswith("data: ") and name == event:
                    return json.loads(line[6:])
        raise AssertionError(f"the stream ended before {event}")

    async def line(self) -> bytes:
        async with asyncio.timeout(BOUND_S):
            return await self._response.content.readline()


@asynccontextmanager
async def listening_to(gateway: GatewayUnderTest) -> AsyncIterator[Listener]:
    async with gateway.session.get(f"{gateway.url}/api/v1/events") as response:
        assert (response.status, response.content_type) == (200, "text/event-stream")
        yield Listener(response)


async def test_a_reader_first_learns_what_there_is(gateway: GatewayUnderTest) -> None:
    async with agent_port() as port:
        await gateway.register("rk-1", port)
        async with listening_to(gateway) as listener:
            hello = await listener.next("hello")
    assert hello["counts"]["queue"] == [{"model": "shapes", "priority": "normal", "tasks": 2}]
    states = hello["counts"]["states"]
    assert (states["queued"], states["failed"]) == (2, 0)
    assert [entry["device"]["device_id"] for entry in hello["devices"]] == ["rk-1"]


async def test_what_is_wrong_is_told_when_it_changes(gateway: GatewayUnderTest) -> None:
    async with agent_port() as port:
        await gateway.register("rk-1", port)
        async with listening_to(gateway) as listener:
            assert (await listener.next("hello"))["problems"] == []
            assert (await listener.next("problems"))["problems"] == [], "whoever came before has heard it now"
            await gateway.call("POST", "/devices/rk-1/cordon")
            (problem,) = (await listener.next("problems"))["problems"]
            assert problem["kind"] == "idle_fleet"
            assert problem["values"] == {"n": 2, "standings": {"cordoned": 1}}
            assert "no device takes work (1 cordoned)" in problem["text"]
            await gateway.call("POST", "/devices/rk-1/uncordon")
            assert (await listener.next("problems"))["problems"] == []


async def test_devices_that_change_fall_silent_or_leave_are_news(gateway: GatewayUnderTest) -> None:
    async with agent_port() as port, listening_to(gateway) as listener:
        await listener.next("hello")
        await gateway.register("rk-1", port)
        news = await listener.next("devices")
        assert (news["devices"][0]["device"]["device_id"], news["gone"]) == ("rk-1", [])
        await gateway.heartbeat("rk-1", telemetry={"temperature_c": 50.0})
        assert (await listener.next("devices"))["devices"][0]["device"]["telemetry"]["temperature_c"] == 50.0
        gateway.clock.now_ms += HEARTBEAT_TIMEOUT_MS + 1  # nobody calls, and yet it is noticed
        assert (await listener.next("devices"))["devices"][0]["device"]["state"] == "silent"
        await gateway.call("POST", "/devices/rk-1/cordon")
        assert (await listener.next("devices"))["devices"][0]["device"]["is_cordoned"] is True
        await gateway.call("DELETE", "/devices/rk-1", boot_id="boot-1")
        assert await listener.next("devices") == {"devices": [], "gone": ["rk-1"]}


async def test_tasks_come_in_their_newest_state_and_the_counts_follow(gateway: GatewayUnderTest) -> None:
    async with listening_to(gateway) as listener:
        await listener.next("hello")
        gateway.tasks.news.put_nowait(replace(TASK, state=State.QUEUED))
        gateway.tasks.news.put_nowait(TASK)
        news = await listener.next("tasks")
        assert [(task["task_id"], task["state"]) for task in news["tasks"]] == [(TASK.task_id, "done")]
        assert news["omitted"] == 0
        assert (await listener.next("counts"))["states"]["done"] == 5


async def test_more_than_anybody_reads_is_counted_not_sent(gateway: GatewayUnderTest) -> None:
    async with listening_to(gateway) as listener:
        await listener.next("hello")
        for i in range(MAX_TASKS_PER_TICK + 7):
            gateway.tasks.news.put_nowait(replace(TASK, task_id=TaskId(f"t{i}")))
        news = await listener.next("tasks")
    assert len(news["tasks"]) + news["omitted"] == MAX_TASKS_PER_TICK + 7
    assert news["tasks"][-1]["task_id"] == f"t{MAX_TASKS_PER_TICK + 6}"


async def test_throughput_and_latency_are_told_and_kept_for_later_readers(gateway: GatewayUnderTest) -> None:
    placement = gateway.parts.placement
    await placement.place(request(finished=[finished("rk-1", total_ms=40.0), finished("rk-1", succeeded=False)]))
    gateway.clock.now_ms += 5_000
    async with listening_to(gateway) as listener:
        point = (await listener.next("hello"))["activity"][-1]
    assert (point["labelled"], point["failed"], point["p50_ms"], point["p95_ms"]) == (1, 1, 40.0, 40.0)
    answer = await gateway.call("GET", "/activity")
    assert answer.body["points"][-1] == point


async def test_a_task_manager_that_is_away_is_said_once_and_devices_go_on(gateway: GatewayUnderTest) -> None:
    gateway.tasks.is_reachable = False
    async with agent_port() as port, listening_to(gateway) as listener:
        assert (await listener.next("hello"))["counts"] is None
        assert "start it" in (await listener.next("task_manager_away"))["reason"]
        await gateway.register("rk-1", port)
        assert (await listener.next("devices"))["devices"]


async def test_every_reader_gets_the_news_and_leaves_nothing_behind(gateway: GatewayUnderTest) -> None:
    async with agent_port() as port:
        async with listening_to(gateway) as one, listening_to(gateway) as two:
            await one.next("hello")
            await two.next("hello")
            await gateway.register("rk-1", port)
            assert await one.next("devices") == await two.next("devices")
    async with asyncio.timeout(BOUND_S):
        while "EventHub.gather" in {task.get_name() for task in asyncio.all_tasks()}:
            await gateway.call("GET", "/health/live")  # it notices the hung-up connections in its own time


async def test_a_stopping_gateway_says_so_and_does_not_wait_for_readers() -> None:
    async with aiohttp.ClientSession() as session:
        async with gateway_under_test() as gateway:
            listener = Listener(await session.get(f"{gateway.url}/events"))
            await listener.next("hello")
        # It is down now, and what it said last is still there to read.
        assert "stopping" in (await listener.next("closing"))["reason"]


@asynccontextmanager
async def small_gateway(
    tasks: CannedTasks | None = None, **options: Any
) -> AsyncIterator[tuple[str, EventHub, Gateway]]:
    async with gateway_parts(ManualClock()) as parts:
        desk = tasks or CannedTasks()
        lookout = Lookout(parts.fleet, desk, parts.rivals)
        hub = EventHub(parts.registry, parts.fleet, desk, parts.activity, lookout)
        app = web.Application(middlewares=[problems])
        for route in Events(hub, parts.activity, **options).routes():
            app.router.add_get(route.path, route.handler)
        async with listening(app, host=LOCALHOST, http_port=0, browser_port=None) as ports:
            try:
                yield f"http://{LOCALHOST}:{ports.http}", hub, parts
            finally:
                await hub.close()


async def test_silence_is_filled_with_comments() -> None:
    async with small_gateway(heartbeat_s=0.05) as (url, _, _), aiohttp.ClientSession() as session:
        async with session.get(f"{url}/events") as response:
            listener = Listener(response)
            await listener.next("hello")
            lines = [await listener.line() for _ in range(3)]
    assert b"event: alive\n" in lines


async def test_a_reader_that_is_too_slow_is_told_and_let_go() -> None:
    reader = Reader()
    for i in range(MAX_WAITING + 5):
        reader.offer(frame("tasks", b"%d" % i))
    last = await reader.next()
    assert last is not None
    assert last.startswith(b"event: dropped\n")
    assert await reader.next() is None


async def test_a_client_that_reads_nothing_is_hung_up_on() -> None:
    tasks = CannedTasks()
    async with small_gateway(tasks, write_timeout_s=0.2) as (url, hub, _):
        reader, writer = await asyncio.open_connection(LOCALHOST, int(url.rpartition(":")[2]), limit=1_024)
        writer.write(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(BOUND_S):
            assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
            while hub.reader_count:  # far more than the sockets' buffers hold
                for i in range(MAX_TASKS_PER_TICK):
                    tasks.news.put_nowait(replace(TASK, task_id=TaskId(f"t{i}"), file_name="x" * 50_000))
                await asyncio.sleep(0.05)  # the hub's own clock ticks meanwhile
        writer.close()

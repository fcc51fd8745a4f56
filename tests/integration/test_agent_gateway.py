"""What the agent tells the gateway, and what it does when the gateway is away, forgets it or refuses it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import grpc
import pytest

from agents.boards.emulated import EMULATED_PROFILES, EmulatedBoard
from agents.link import LinkMeter
from agents.registration import Registration
from edgesched.domain.device import BoardType, DeviceProfile, Telemetry
from edgesched.errors import StartupError
from edgesched.rest import DeviceRegistration, Heartbeat
from tests.support.agent_parts import WITHIN_S, FakeGateway, fake_plan, listening, logged, running_agent

DEVICE = DeviceRegistration(
    device_id="board-1",
    board_type=BoardType.GENERIC,
    emulated=False,
    boot_id="boot",
    agent_port=1,
    profile=DeviceProfile(slots=1, service_ms=1.0, link_mbps=1.0, round_trip_ms=1.0),
    models=frozenset({"shapes"}),
    window_tasks=4,
    window_bytes=1,
)


@asynccontextmanager
async def registering(url: str) -> AsyncIterator[tuple[Registration, asyncio.Task[None], LinkMeter]]:
    meter = LinkMeter()

    async def report() -> Heartbeat:
        return Heartbeat(boot_id="boot", telemetry=Telemetry())

    async with aiohttp.ClientSession() as session:
        registration = Registration(url, session, DEVICE, report, meter=meter, refused_pause_s=0.01)
        task = asyncio.create_task(registration.run())
        try:
            yield registration, task, meter
        finally:
            task.cancel()
            await asyncio.wait({task})


async def test_a_board_tells_what_it_is(tmp_path: Path) -> None:
    board = EmulatedBoard(BoardType.RK3588, EMULATED_PROFILES[BoardType.RK3588])
    async with running_agent(tmp_path, board=board, workers=2, advertise="example:1") as agent:
        (told,) = agent.gateway.registrations
        assert told["board_type"] == "rk3588"
        assert told["emulated"] is True
        assert told["models"] == ["shapes"]
        assert told["profile"]["slots"] == 2  # what runs here, not what the profile says
        assert told["window_tasks"] == 6
        assert told["advertise"] == "example:1"
        beat = await agent.gateway.beat()
        assert beat["boot_id"] == told["boot_id"]
        assert beat["unhealthy_reason"] is None
        assert [worker["name"] for worker in beat["workers"]] == ["board-1-0", "board-1-1"]
        while beat["telemetry"]["xpu_used_fraction"] is None:
            beat = await agent.gateway.beat()
        assert 0.0 <= beat["telemetry"]["xpu_used_fraction"] <= 1.0
        assert beat["telemetry"]["link_latency_ms"] > 0.0
        assert beat["telemetry"]["link_bandwidth_mbps"] is None  # nothing was transferred yet


async def test_it_leaves_when_it_is_stopped(tmp_path: Path) -> None:
    async with running_agent(tmp_path) as agent:
        gateway = agent.gateway
    assert gateway.left == [f"board-1 {gateway.registrations[0]['boot_id']}"]


async def test_it_registers_again_when_the_gateway_has_forgotten_it(tmp_path: Path) -> None:
    async with running_agent(tmp_path) as agent:
        await agent.gateway.beat()
        agent.gateway.registered.clear()
        agent.gateway.has_forgotten = True
        await agent.gateway.address()
        first, second = agent.gateway.registrations
        assert first == second


async def test_a_change_of_health_is_told_before_the_next_heartbeat_is_due(tmp_path: Path) -> None:
    async with running_agent(tmp_path, plan=fake_plan(down_pause_s=1.0)) as agent, agent.connected() as master:
        agent.gateway.interval_ms = 600_000
        while (await agent.gateway.beat())["unhealthy_reason"] is not None:
            pass
        await master.next("hello")
        for i in range(5):
            await master.dispatch(f"a{i}", "exit 9")
        while (await agent.gateway.beat())["unhealthy_reason"] is None:
            pass


async def test_a_gateway_that_is_away_is_waited_for() -> None:
    gateway = FakeGateway()
    async with listening(gateway.app()) as url:
        pass
    with logged("gateway.awaited") as warned:
        async with registering(url) as (registration, _, meter), asyncio.timeout(WITHIN_S):
            await warned.wait()
            async with listening(gateway.app(), port=int(url.rpartition(":")[2])):
                await registration.registered.wait()
                await gateway.beat()
                await gateway.beat()
                assert meter.latency_ms is not None
                assert meter.latency_ms > 0.0


@pytest.mark.parametrize("status", [400, 409])
async def test_a_refusal_for_good_ends_the_agent_with_the_gateways_sentence(status: int) -> None:
    gateway = FakeGateway()
    gateway.refusals = [(status, "give this one another --device-id")]
    async with listening(gateway.app()) as url, registering(url) as (_, task, _):
        with pytest.raises(StartupError, match="another --device-id"):
            await asyncio.wait_for(task, WITHIN_S)


async def test_an_agent_that_cannot_be_reached_says_so_and_tries_again(caplog: pytest.LogCaptureFixture) -> None:
    gateway = FakeGateway()
    gateway.refusals = [(422, "start the agent with --advertise HOST:PORT")]
    async with listening(gateway.app()) as url, registering(url) as (registration, _, _):
        async with asyncio.timeout(WITHIN_S):
            await registration.registered.wait()
    (refused,) = [record for record in caplog.records if record.message == "device.refused"]
    assert refused.levelno == logging.ERROR
    assert "--advertise" in vars(refused)["reason"]


async def test_a_url_that_is_no_url_ends_the_agent() -> None:
    async with registering("gateway") as (_, task, _):
        with pytest.raises(StartupError, match="--master-url"):
            await asyncio.wait_for(task, WITHIN_S)


async def test_links_are_cut_without_a_goodbye_and_restored(tmp_path: Path) -> None:
    async with running_agent(tmp_path, disconnect_s=0.6, reconnect_s=0.3, bandwidth_fluctuate=True) as agent:
        async with agent.connected(number=1) as master:
            await master.next("hello")
            assert set((await agent.gateway.beat())["simulated"]) == {"bandwidth", "disconnect"}
            code, _ = await master.ended()
            assert code is not grpc.StatusCode.OK
        while not agent.gateway.beats.empty():
            agent.gateway.beats.get_nowait()
        await agent.gateway.beat()
        async with agent.connected(number=2) as master:
            await master.next("hello")
            await master.fence()
        assert agent.gateway.left == []
        assert len(agent.gateway.registrations) == 1

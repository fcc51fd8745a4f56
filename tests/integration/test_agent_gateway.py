"""What the agent tells the gateway, and what it does when the gateway is away, forgets it or refuses it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import grpc
import pytest

from agents.boards.emulated import EmulatedBoard
from agents.link import LinkMeter
from agents.registration import Registration, check_advertised, check_gateway_url
from edgesched.domain.device import BoardType, DeviceProfile, Telemetry
from edgesched.domain.profiles import USUAL_PROFILES
from edgesched.errors import StartupError
from edgesched.rest import DeviceRegistration, Heartbeat
from edgesched.settings import GatewaySettings
from edgesched.v1 import types_pb2 as types
from tests.chaos.link import Link
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


async def test_a_board_that_runs_batches_has_room_for_them_and_says_how_large_they_are(tmp_path: Path) -> None:
    plan = replace(fake_plan("batches"), models=({"name": "shapes", "build": {"max_batch": 16}},))
    async with running_agent(tmp_path, plan=plan, workers=2) as agent:
        (told,) = agent.gateway.registrations
        assert told["window_tasks"] == 2 * 4 * 16
        beat = await agent.gateway.beat()
        while not beat["workers"][0]["batches"]:
            beat = await agent.gateway.beat()
        assert beat["workers"][0]["batches"] == {"shapes": 4}


async def test_a_board_tells_what_it_is(tmp_path: Path) -> None:
    board = EmulatedBoard(BoardType.RK3588, USUAL_PROFILES[BoardType.RK3588])
    async with running_agent(tmp_path, board=board, workers=2, advertise="example:1") as agent:
        (told,) = agent.gateway.registrations
        assert told["board_type"] == "rk3588"
        assert told["emulated"] is True
        assert told["models"] == ["shapes"]
        assert told["profile"]["slots"] == 2  # what runs here, not what the profile says
        assert told["window_tasks"] == 16
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


async def test_a_model_that_cannot_be_loaded_is_not_offered_and_its_reason_is_told(tmp_path: Path) -> None:
    plan = replace(fake_plan(), models=({"name": "shapes"}, {"name": "broken-1"}))
    async with running_agent(tmp_path, plan=plan) as agent, agent.connected() as master:
        assert agent.gateway.registrations[0]["models"] == ["shapes"]
        beat = await agent.gateway.beat()
        assert beat["unavailable_models"] == {"broken-1": "broken-1 is out of order"}
        assert beat["unhealthy_reason"] is None
        await master.next("hello")
        await master.dispatch("a1", model="broken-1")
        failure = (await master.next("outcome")).failure
        assert failure.kind == types.FAILURE_KIND_REFUSED
        assert "broken-1 is out of order" in failure.message


async def test_a_board_is_seen_while_its_models_load_and_says_that_it_cannot_work_yet(tmp_path: Path) -> None:
    plan = replace(fake_plan(), models=({"name": "endless"},))
    async with running_agent(tmp_path, plan=plan) as agent:
        assert (await agent.gateway.beat())["unhealthy_reason"] == "its workers are still loading the models"
        assert agent.gateway.registrations


async def test_what_somebody_should_look_at_stays_visible(tmp_path: Path) -> None:
    (tmp_path / "workers.json").write_text("{")
    async with running_agent(tmp_path, workers=2, total_cpus=1) as agent:
        for _ in range(2):
            beat = await agent.gateway.beat()
            assert beat["unhealthy_reason"] is None
            too_many, damaged = beat["warnings"]
            assert "2 workers share 1 CPUs" in too_many
            assert "workers.json.damaged" in damaged


async def test_it_registers_again_when_it_can_run_other_models_than_before(tmp_path: Path) -> None:
    models = ({"name": "shapes"}, {"name": "broken-1", "directory": str(tmp_path)})
    plan = replace(fake_plan(), models=models)
    async with running_agent(tmp_path, plan=plan) as agent, agent.connected() as master:
        assert agent.gateway.registrations[0]["models"] == ["shapes"]
        await master.next("hello")
        while (await agent.gateway.beat())["unhealthy_reason"] is not None:
            pass
        (tmp_path / "repaired").touch()
        agent.gateway.registered.clear()
        await master.dispatch("a1", "exit 9")  # the next worker finds the model repaired
        await agent.gateway.address()
        assert sorted(agent.gateway.registrations[-1]["models"]) == ["broken-1", "shapes"]
        while (await agent.gateway.beat())["unavailable_models"]:
            pass
    assert agent.gateway.left == [f"board-1 {agent.gateway.registrations[0]['boot_id']}"]


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
        for i in range(6):
            await master.dispatch(f"a{i}", "exit 9")
        while (await agent.gateway.beat())["unhealthy_reason"] is None:
            pass


async def test_a_connection_that_has_fallen_silent_does_not_make_the_board_silent() -> None:
    gateway, settings = FakeGateway(), GatewaySettings()
    async with listening(gateway.app()) as url:
        link = Link("to the gateway", url.removeprefix("http://"))
        async with link.opened(), registering(f"http://{link.address}") as (registration, _, _):
            await registration.registered.wait()
            await gateway.beat()
            link.vanish()  # a router has forgotten the connection; new ones work
            link.mend()

            heard_in_time_ms = settings.heartbeat_timeout_ms - settings.heartbeat_interval_ms
            async with asyncio.timeout(heard_in_time_ms / 1000):
                await gateway.beats.get()  # this one may have been on its way
                await gateway.beats.get()


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


@pytest.mark.parametrize("url", ["gateway", "gateway:6666", "htp:/foo", "http://", "http://h:99999", "ftp://h"])
def test_a_gateway_url_that_can_never_be_called_is_refused(url: str) -> None:
    with pytest.raises(StartupError, match="--master-url"):
        check_gateway_url(url)


@pytest.mark.parametrize("url", ["http://h", "https://h.example/edge", "http://127.0.0.1:6666", "http://[::1]:6666"])
def test_a_gateway_url_that_may_be_there_is_taken(url: str) -> None:
    check_gateway_url(url)


@pytest.mark.parametrize("address", ["nowhere", "nowhere:", ":20810", "h:0", "h:65536", "h:x", "::1:5", "[::1]"])
def test_an_address_that_nobody_can_dial_is_not_advertised(address: str) -> None:
    with pytest.raises(StartupError, match="--advertise"):
        check_advertised(address)


@pytest.mark.parametrize("address", ["board:20810", "10.0.0.7:1", "[fe80::1]:65535"])
def test_an_address_that_may_be_dialled_is_advertised(address: str) -> None:
    check_advertised(address)


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

"""The `Placement` port in one process: plans, and waiting for the fleet to change."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from edgesched import rest
from edgesched.domain.device import DeviceId, Telemetry
from edgesched.errors import InvalidInput
from edgesched.rest import DeviceRegistration, Heartbeat
from gateway.local_placement import LocalPlacement
from gateway.registry import Registry
from tests.support.fleets import finished, request
from tests.support.gateways import LOCALHOST, ManualClock, agent_port, registration

NAME = DeviceId("d")
BEAT = Heartbeat(boot_id="boot-1", telemetry=Telemetry())


@pytest.fixture
async def known() -> AsyncIterator[DeviceRegistration]:
    async with agent_port() as port:
        yield rest.DEVICE_REGISTRATION.parse(json.dumps(registration(NAME, port)))


def registry(*, heartbeat_interval_ms: int = 60_000, clock: ManualClock | None = None) -> Registry:
    return Registry(clock or ManualClock(), heartbeat_interval_ms=heartbeat_interval_ms, heartbeat_timeout_ms=180_000)


async def wakes(placement: LocalPlacement, change: Callable[[], Awaitable[object] | None]) -> bool:
    """Whether somebody who waits for a change is woken by this one."""
    waiting = asyncio.ensure_future(placement.wait_for_change())
    await asyncio.sleep(0)
    outcome = change()
    if outcome is not None:
        await outcome
    for _ in range(5):
        await asyncio.sleep(0)
    is_woken = waiting.done()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    return is_woken


async def test_what_may_change_a_plan_wakes_and_an_ordinary_heartbeat_does_not(known: DeviceRegistration) -> None:
    fleet = registry()
    placement = LocalPlacement(fleet)
    await placement.place(request())
    ill = BEAT.model_copy(update={"unhealthy_reason": "hot"})
    full = BEAT.model_copy(update={"telemetry": Telemetry(memory_used_fraction=0.99)})
    holding = BEAT.model_copy(update={"outbox_count": 1})

    assert await wakes(placement, lambda: fleet.register(known, seen_ip=LOCALHOST))
    assert not await wakes(placement, lambda: fleet.heartbeat(NAME, BEAT))
    assert await wakes(placement, lambda: fleet.heartbeat(NAME, ill))
    assert not await wakes(placement, lambda: fleet.heartbeat(NAME, ill))
    assert await wakes(placement, lambda: fleet.heartbeat(NAME, full))
    assert await wakes(placement, lambda: fleet.heartbeat(NAME, holding))
    assert await wakes(placement, lambda: fleet.leave(NAME, "boot-1"))


async def test_a_device_that_speaks_again_wakes(known: DeviceRegistration) -> None:
    clock = ManualClock()
    fleet = registry(clock=clock)
    placement = LocalPlacement(fleet)
    await fleet.register(known, seen_ip=LOCALHOST)
    clock.now_ms += 200_000
    plan = await placement.place(request())
    assert plan.decisions[0].device_id is None
    assert [route.is_ready for route in plan.routes] == [False]
    assert await wakes(placement, lambda: fleet.heartbeat(NAME, BEAT))
    assert (await placement.place(request())).decisions[0].device_id == NAME


async def test_a_change_between_plan_and_wait_is_not_missed(known: DeviceRegistration) -> None:
    fleet = registry()
    placement = LocalPlacement(fleet)
    await placement.place(request())
    await fleet.register(known, seen_ip=LOCALHOST)
    async with asyncio.timeout(5):
        await placement.wait_for_change()
    assert not await wakes(placement, lambda: None)  # and it is told only once


async def test_waiting_is_bounded_by_the_heartbeat_interval() -> None:
    placement = LocalPlacement(registry(heartbeat_interval_ms=20))
    await placement.place(request())
    async with asyncio.timeout(5):
        await placement.wait_for_change()


async def test_what_finished_teaches_later_plans(known: DeviceRegistration) -> None:
    fleet = registry()
    placement = LocalPlacement(fleet)
    await fleet.register(known, seen_ip=LOCALHOST)
    await placement.place(request(finished=[finished(NAME, service_ms=1027.0)]))
    decision = placement.dry_run(model="shapes", size_bytes=1, strategy=None)
    assert decision.chosen is not None
    assert decision.chosen.terms["service_ms"] > 2 * known.profile.service_ms


async def test_an_unknown_strategy_is_refused_at_the_start_and_later() -> None:
    with pytest.raises(InvalidInput, match="load, roundrobin"):
        LocalPlacement(registry(), default_strategy="greedy")
    with pytest.raises(InvalidInput, match="load, roundrobin"):
        await LocalPlacement(registry()).place(request(strategy="greedy"))


async def test_ipv6_peers_are_written_in_brackets_and_mapped_ones_as_ipv4(known: DeviceRegistration) -> None:
    fleet = registry()
    address = await fleet.register(known, seen_ip=f"::ffff:{LOCALHOST}")
    assert address == f"{LOCALHOST}:{known.agent_port}"
    server = await asyncio.start_server(lambda r, w: w.close(), "::1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        moved = known.model_copy(update={"agent_port": port})
        assert await fleet.register(moved, seen_ip="::1") == f"[::1]:{port}"

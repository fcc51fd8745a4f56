"""Agents register, report and leave; everything here goes over a real port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.gateways import (
    HEARTBEAT_TIMEOUT_MS,
    GatewayUnderTest,
    agent_port,
    closed_port,
    gateway_under_test,
    registration,
)


@pytest.fixture
async def gateway() -> AsyncIterator[GatewayUnderTest]:
    async with gateway_under_test() as gateway:
        yield gateway


@pytest.fixture
async def port() -> AsyncIterator[int]:
    async with agent_port() as port:
        yield port


async def listed(gateway: GatewayUnderTest) -> dict[str, Any]:
    answer = await gateway.call("GET", "/devices")
    assert answer.status == 200
    return {entry["device"]["device_id"]: entry["device"] for entry in answer.body["devices"]}


async def test_an_agent_registers_reports_and_leaves(gateway: GatewayUnderTest, port: int) -> None:
    answer = await gateway.register("rk-1", port)
    assert answer.status == 200
    assert answer.body == {"address": f"127.0.0.1:{port}", "heartbeat_interval_ms": 2_000}

    gateway.clock.now_ms += 500
    report: dict[str, Any] = {"telemetry": {"cpu_used_fraction": 0.25}, "outbox_count": 3, "simulated": ["bandwidth"]}
    answer = await gateway.heartbeat("rk-1", **report)
    assert (answer.status, answer.body) == (200, {"heartbeat_interval_ms": 2_000, "commands": []})

    answer = await gateway.call("GET", "/api/v1/devices/rk-1")
    device = answer.body["device"]
    assert answer.body["simulated"] == ["bandwidth"]
    assert (device["state"], device["emulated"], device["outbox_count"]) == ("ready", True, 3)
    assert device["telemetry"]["cpu_used_fraction"] == 0.25
    assert device["telemetry"]["power_w"] is None

    assert (await gateway.call("DELETE", "/devices/rk-1", boot_id="another")).status == 404
    assert (await gateway.call("DELETE", "/devices/rk-1", boot_id="boot-1")).status == 204
    assert await listed(gateway) == {}


async def test_a_silent_device_stays_listed_and_comes_back_with_a_heartbeat(
    gateway: GatewayUnderTest, port: int
) -> None:
    await gateway.register("rk-1", port)
    gateway.clock.now_ms += HEARTBEAT_TIMEOUT_MS
    assert (await listed(gateway))["rk-1"]["state"] == "ready"
    gateway.clock.now_ms += 1
    assert (await listed(gateway))["rk-1"]["state"] == "silent"
    await gateway.heartbeat("rk-1")
    assert (await listed(gateway))["rk-1"]["state"] == "ready"


async def test_a_device_that_cannot_work_says_why(gateway: GatewayUnderTest, port: int) -> None:
    await gateway.register("rk-1", port)
    await gateway.heartbeat("rk-1", unhealthy_reason="the workers keep crashing")
    device = (await listed(gateway))["rk-1"]
    assert (device["state"], device["unhealthy_reason"]) == ("unhealthy", "the workers keep crashing")


async def test_what_a_working_device_warns_of_is_seen_with_the_device_and_in_health(
    gateway: GatewayUnderTest, port: int
) -> None:
    await gateway.register("rk-1", port)
    await gateway.heartbeat("rk-1", warnings=["9 workers share 2 CPUs"])
    (entry,) = (await gateway.call("GET", "/api/v1/devices")).body["devices"]
    assert entry["warnings"] == ["9 workers share 2 CPUs"]
    health = (await gateway.call("GET", "/health")).body
    assert (health["status"], health["warnings"]) == ("ok", ["rk-1: 9 workers share 2 CPUs"])


async def test_registering_again_with_the_same_boot_keeps_what_is_known(gateway: GatewayUnderTest, port: int) -> None:
    await gateway.register("rk-1", port)
    await gateway.heartbeat("rk-1", outbox_count=4)
    assert (await gateway.register("rk-1", port, models=["shapes", "yolo"])).status == 200
    device = (await listed(gateway))["rk-1"]
    assert device["outbox_count"] == 4
    assert sorted(device["models"]) == ["shapes", "yolo"]


async def test_a_heartbeat_of_an_unknown_device_or_boot_is_told_to_register(
    gateway: GatewayUnderTest, port: int
) -> None:
    answer = await gateway.heartbeat("rk-1")
    assert answer.status == 404
    assert "register again" in answer.body["detail"]
    await gateway.register("rk-1", port)
    assert (await gateway.heartbeat("rk-1", boot_id="boot-0")).status == 404


async def test_an_agent_that_cannot_be_reached_is_refused_with_the_fix(gateway: GatewayUnderTest) -> None:
    port = await closed_port()
    answer = await gateway.register("rk-1", 20810, advertise=f"127.0.0.1:{port}")
    assert answer.status == 422
    assert answer.body["detail"] == (
        f"the gateway cannot reach the agent at 127.0.0.1:{port}; "
        "open that port or start the agent with --advertise HOST:PORT"
    )
    assert await listed(gateway) == {}


async def test_the_advertised_address_wins(gateway: GatewayUnderTest, port: int) -> None:
    answer = await gateway.register("rk-1", 20810, advertise=f"localhost:{port}")
    assert answer.body["address"] == f"localhost:{port}"


@pytest.mark.parametrize(
    "advertise", ["", "10.0.0.5", ":20810", "host:", "host:0", "host:65536", "host:x", "::1:20810", "h:1:2"]
)
async def test_an_advertised_address_that_is_none_is_named(gateway: GatewayUnderTest, advertise: str) -> None:
    answer = await gateway.register("rk-1", 20810, advertise=advertise)
    assert answer.status == 400
    assert "HOST:PORT" in answer.body["detail"]


@pytest.mark.parametrize("advertise", ["a\0b:20810", f"{'x' * 300}:20810", "no such host:1"])
async def test_a_host_name_that_no_resolver_takes_is_unreachable(gateway: GatewayUnderTest, advertise: str) -> None:
    assert (await gateway.register("rk-1", 20810, advertise=advertise)).status == 422


async def test_a_second_live_agent_with_the_same_id_is_refused_with_the_fix(
    gateway: GatewayUnderTest, port: int
) -> None:
    await gateway.register("rk-1", port)
    async with agent_port() as other:
        answer = await gateway.register("rk-1", other, boot_id="boot-2")
    assert answer.status == 409
    assert answer.body["detail"] == (
        f"device id 'rk-1' is in use by a live agent at 127.0.0.1:{port}; give this one another --device-id"
    )
    assert (await gateway.heartbeat("rk-1")).status == 200  # the first one goes on


async def test_a_restarted_agent_replaces_its_old_self(gateway: GatewayUnderTest, port: int) -> None:
    await gateway.register("rk-1", port)
    await gateway.heartbeat("rk-1", unhealthy_reason="old")
    assert (await gateway.register("rk-1", port, boot_id="boot-2")).status == 200
    assert (await listed(gateway))["rk-1"]["state"] == "ready"
    assert (await gateway.heartbeat("rk-1", boot_id="boot-1")).status == 404


async def test_an_agent_that_moved_replaces_the_dead_address(gateway: GatewayUnderTest, port: int) -> None:
    async with agent_port() as old:
        await gateway.register("rk-1", old)
    assert (await gateway.register("rk-1", port, boot_id="boot-2")).status == 200


async def test_an_address_that_still_answers_does_not_keep_the_id_of_a_silent_device(
    gateway: GatewayUnderTest, port: int
) -> None:
    await gateway.register("rk-1", port)
    gateway.clock.now_ms += HEARTBEAT_TIMEOUT_MS + 1
    async with agent_port() as other:
        assert (await gateway.register("rk-1", other, boot_id="boot-2")).status == 200


async def test_of_two_agents_that_register_one_id_at_once_only_one_wins(gateway: GatewayUnderTest, port: int) -> None:
    async with agent_port() as other:
        answers = await asyncio.gather(
            gateway.register("rk-1", port, boot_id="boot-1"), gateway.register("rk-1", other, boot_id="boot-2")
        )
    assert sorted(answer.status for answer in answers) == [200, 409]


# -- bad input


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"board_type": "ATLAS X"}, ["board_type", "pattern"]),
        ({"device_id": "../etc"}, ["device_id"]),
        ({"device_id": "<script>"}, ["device_id"]),
        ({"agent_port": 0}, ["agent_port"]),
        ({"window_tasks": 0}, ["window_tasks"]),
        ({"profile": {"slots": 3}}, ["profile.service_ms", "profile.link_mbps"]),
        (
            {"profile": {"slots": 0, "service_ms": 1.0, "link_mbps": 1.0, "round_trip_ms": 1.0}},
            ["slots must be 1 to 256, got 0"],
        ),
        (
            {"profile": {"slots": 1_000_000_000, "service_ms": 1.0, "link_mbps": 1.0, "round_trip_ms": 1.0}},
            ["slots must be 1 to 256"],
        ),
        (
            {"profile": {"slots": 1, "service_ms": 1.0, "link_mbps": 0.0, "round_trip_ms": 1.0}},
            ["link_mbps must not be 0"],
        ),
        (
            {"profile": {"slots": 1, "service_ms": -1.0, "link_mbps": 1.0, "round_trip_ms": 1.0}},
            ["service_ms must be a finite number"],
        ),
    ],
)
async def test_a_malformed_registration_names_what_is_wrong(
    gateway: GatewayUnderTest, port: int, changes: dict[str, Any], named: list[str]
) -> None:
    answer = await gateway.call("POST", "/devices", {**registration("rk-1", port), **changes})
    assert answer.status == 400
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    for part in named:
        assert part in answer.body["detail"]


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"", "body"),
        (b"{", "Invalid JSON"),
        (b"[]", "body"),
        (b'{"telemetry":{}}', "boot_id"),
        (b'{"boot_id":"boot-1","telemetry":{"cpu_used_fraction":NaN}}', "cpu_used_fraction"),
        (b'{"boot_id":"boot-1","telemetry":{"cpu_used_fraction":1.5}}', "cpu_used_fraction"),
        (b'{"boot_id":"boot-1","telemetry":{"link_bandwidth_mbps":-1}}', "link_bandwidth_mbps"),
        (b'{"boot_id":"boot-1","telemetry":{"power_w":Infinity}}', "power_w"),
        (b'{"boot_id":"boot-1","telemetry":{"memory_used_fraction":"lots"}}', "telemetry.memory_used_fraction"),
        (b'{"boot_id":"boot-1","telemetry":{},"outbox_count":-1}', "outbox_count"),
        (b"\xff\xfe\x00", "Invalid JSON"),
    ],
)
async def test_a_malformed_heartbeat_is_refused_and_changes_nothing(
    gateway: GatewayUnderTest, port: int, body: bytes, named: str
) -> None:
    await gateway.register("rk-1", port)
    before = await listed(gateway)
    answer = await gateway.call("POST", "/devices/rk-1/heartbeat", body)
    assert answer.status == 400
    assert named in answer.body["detail"]
    assert await listed(gateway) == before


async def test_leaving_without_a_boot_id_is_refused(gateway: GatewayUnderTest, port: int) -> None:
    await gateway.register("rk-1", port)
    answer = await gateway.call("DELETE", "/devices/rk-1")
    assert answer.status == 400
    assert "boot_id" in answer.body["detail"]


async def test_an_unknown_device_is_not_found(gateway: GatewayUnderTest) -> None:
    assert (await gateway.call("GET", "/devices/nobody")).status == 404

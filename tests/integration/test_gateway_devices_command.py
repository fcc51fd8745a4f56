"""`edgesched devices`: what people type, against a real gateway."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from edgesched.cli import models
from edgesched.cli.devices import app
from tests.support.fleets import finished, request
from tests.support.gateways import GatewayUnderTest, agent_port, closed_port, gateway_under_test


@pytest.fixture
async def gateway() -> AsyncIterator[GatewayUnderTest]:
    async with gateway_under_test() as gateway, agent_port() as port:
        await gateway.register("rk-1", port, labels={"room": "lab"})
        yield gateway


async def typed(gateway: GatewayUnderTest, *arguments: str) -> Any:
    return await asyncio.to_thread(CliRunner().invoke, app, [*arguments, "--url", gateway.url])


async def test_devices_are_listed_for_people_and_for_scripts(gateway: GatewayUnderTest) -> None:
    result = await typed(gateway, "list")
    assert result.exit_code == 0, result.output
    assert "rk-1" in result.output
    assert "rk3588" in result.output
    (line,) = (await typed(gateway, "list", "--json")).output.splitlines()
    assert json.loads(line)["device"]["device_id"] == "rk-1"
    assert "no device is archived" in (await typed(gateway, "list", "--archived")).output


async def test_a_device_is_shown_with_what_is_known(gateway: GatewayUnderTest) -> None:
    worker = {"name": "rk-1-0", "pid": 7, "state": "ready", "restarts": 2}
    await gateway.heartbeat("rk-1", telemetry={"temperature_c": 61.5}, workers=[worker])
    output = (await typed(gateway, "show", "rk-1")).output
    for words in ("ready", "room=lab", "61.5", "ready, 2 restarts", "not known"):
        assert words in output
    assert "power_w" not in output


async def test_a_model_that_fails_on_a_device_is_shown(gateway: GatewayUnderTest) -> None:
    assert "failing" not in (await typed(gateway, "show", "rk-1")).output
    failed = finished("rk-1", succeeded=False)
    await gateway.parts.placement.place(request(finished=[failed]))
    output = (await typed(gateway, "show", "rk-1")).output
    assert re.search(r"^failing +model shapes: 1 in a row, one task at a time$", output, re.M)
    await gateway.parts.placement.place(request(finished=[failed, failed]))
    output = (await typed(gateway, "show", "rk-1")).output
    assert re.search(r"^failing +model shapes: 3 in a row, one task tries again in [01]\.\d s$", output, re.M)


async def test_why_a_model_is_not_loaded_is_shown_with_the_device_and_with_the_models(
    gateway: GatewayUnderTest,
) -> None:
    await gateway.heartbeat("rk-1", unavailable_models={"yolo": "yolo.rknn is no RKNN file"})
    assert re.search(
        r"^not loaded: yolo +yolo.rknn is no RKNN file$", (await typed(gateway, "show", "rk-1")).output, re.M
    )
    listing = typer.Typer()
    listing.command()(models.command)
    result = await asyncio.to_thread(CliRunner().invoke, listing, ["--url", gateway.url])
    assert result.exit_code == 0, result.output
    assert "rk-1 could not load yolo: yolo.rknn is no RKNN file\n" in result.output


async def test_cordon_drain_uncordon_and_labels_reach_the_gateway(gateway: GatewayUnderTest) -> None:
    assert (await typed(gateway, "cordon", "rk-1")).output == "rk-1 gets no new work\n"
    assert gateway.registry.entry("rk-1").device.is_cordoned  # type: ignore[arg-type]
    assert (await typed(gateway, "drain", "rk-1")).exit_code == 0
    assert "draining" in (await typed(gateway, "list")).output.replace("\n", "")
    assert (await typed(gateway, "uncordon", "rk-1")).exit_code == 0
    result = await typed(gateway, "label", "rk-1", "room=roof", "owner=ann")
    assert result.output == "rk-1: labels owner=ann, room=roof\n"
    assert (await typed(gateway, "label", "rk-1", "room-")).output == "rk-1: labels owner=ann, room=lab\n"


async def test_refusals_are_one_sentence_and_exit_code_2(gateway: GatewayUnderTest) -> None:
    result = await typed(gateway, "cordon", "rk-2")
    assert result.exit_code == 2
    assert "did you mean 'rk-1'?" in result.output
    assert (await typed(gateway, "label", "rk-1", "room")).exit_code == 2
    gateway.url = f"http://127.0.0.1:{await closed_port()}"
    result = await typed(gateway, "list")
    assert (result.exit_code, "no gateway answers at" in result.output) == (2, True)


async def test_operators_scripts_get_the_device_as_it_is_then(gateway: GatewayUnderTest) -> None:
    for verb, is_cordoned in (("cordon", True), ("uncordon", False), ("drain", True)):
        device = json.loads((await typed(gateway, verb, "rk-1", "--json")).output)["device"]
        assert (device["device_id"], device["is_cordoned"]) == ("rk-1", is_cordoned)
    assert json.loads((await typed(gateway, "label", "rk-1", "a=b", "--json")).output)["device"]["labels"]["a"] == "b"

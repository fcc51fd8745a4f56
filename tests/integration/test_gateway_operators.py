"""What operators want of a device: it is obeyed, shown, and survives a restart. Absent devices are not forgotten."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from edgesched.errors import StartupError
from gateway.state import STEPS
from tests.support.fleets import finished, request, task
from tests.support.gateways import (
    HEARTBEAT_TIMEOUT_MS,
    GatewayUnderTest,
    ManualClock,
    agent_port,
    gateway_parts,
    gateway_under_test,
)

DAY_MS = 24 * 3600 * 1000


@pytest.fixture
async def port() -> AsyncIterator[int]:
    async with agent_port() as port:
        yield port


async def device(gateway: GatewayUnderTest, device_id: str = "rk-1") -> dict[str, Any]:
    answer = await gateway.call("GET", f"/devices/{device_id}")
    assert answer.status == 200, answer.body
    body: dict[str, Any] = answer.body
    return body


async def ids(gateway: GatewayUnderTest, **params: str) -> list[str]:
    body = (await gateway.call("GET", "/devices", **params)).body
    return [entry["device"]["device_id"] for entry in body["devices"]]


async def test_a_cordoned_device_gets_no_new_work_until_it_is_uncordoned(port: int) -> None:
    async with gateway_under_test() as gateway:
        await gateway.register("rk-1", port)
        answer = await gateway.call("POST", "/api/v1/devices/rk-1/cordon")
        assert (answer.status, answer.body["device"]["is_cordoned"]) == (200, True)
        plan = await gateway.parts.placement.place(request(task()))
        assert plan.decisions[0].excluded == {"rk-1": "cordoned by an operator"}

        assert (await gateway.call("POST", "/devices/rk-1/uncordon")).body["device"]["is_cordoned"] is False
        plan = await gateway.parts.placement.place(request(task()))
        assert plan.decisions[0].device_id == "rk-1"


async def test_cordon_said_twice_is_cordon(port: int) -> None:
    async with gateway_under_test() as gateway:
        await gateway.register("rk-1", port)
        for _ in range(2):
            answer = await gateway.call("POST", "/devices/rk-1/cordon")
            assert (answer.status, answer.body["device"]["is_cordoned"]) == (200, True)


async def test_a_draining_device_is_drained_when_nothing_is_left_on_it(port: int) -> None:
    async with gateway_under_test() as gateway:
        await gateway.register("rk-1", port)
        plan = await gateway.parts.placement.place(request(task()))
        assert plan.decisions[0].device_id == "rk-1"
        entry = (await gateway.call("POST", "/devices/rk-1/drain")).body
        assert (entry["device"]["is_draining"], entry["in_flight"], entry["is_drained"]) == (True, 1, False)

        await gateway.heartbeat("rk-1", outbox_count=1)
        await gateway.parts.placement.place(request())  # nothing is in flight any more
        assert (await device(gateway))["is_drained"] is False
        await gateway.heartbeat("rk-1", outbox_count=0)
        assert (await device(gateway))["is_drained"] is True


async def test_what_is_in_flight_is_not_known_while_nobody_tells(port: int) -> None:
    async with gateway_under_test() as gateway:
        await gateway.register("rk-1", port)
        assert (await device(gateway))["in_flight"] is None
        await gateway.parts.placement.place(request(task()))
        assert (await device(gateway))["in_flight"] == 1
        gateway.clock.now_ms += 5_001
        assert (await device(gateway))["in_flight"] is None


async def test_the_window_is_the_one_that_placement_goes_by(port: int) -> None:
    async with gateway_under_test() as gateway:
        await gateway.register("rk-1", port)
        first = (await device(gateway))["window_tasks"]
        await gateway.parts.placement.place(request(task(), finished=[finished("rk-1"), finished("rk-1")]))
        assert first < (await device(gateway))["window_tasks"] <= 8


async def test_a_breaker_that_opened_is_shown(port: int) -> None:
    async with gateway_under_test() as gateway:
        await gateway.register("rk-1", port)
        failures = [finished("rk-1", succeeded=False) for _ in range(3)]
        plan = await gateway.parts.placement.place(request(task(), finished=failures))
        assert plan.decisions[0].device_id is None
        entry = await device(gateway)
        assert entry["failing_model"] == "shapes"
        assert entry["failures_in_a_row"] == 3
        assert 0 < entry["breaker_open_ms"] <= 1_000


async def test_of_several_models_that_fail_the_worst_is_shown(port: int) -> None:
    async with gateway_under_test() as gateway:
        await gateway.register("rk-1", port, models=["shapes", "segv", "removed"])
        failed = [finished("rk-1", model=model, succeeded=False) for model in ("shapes", *["segv"] * 3)]
        await gateway.parts.placement.place(request(finished=failed))
        entry = await device(gateway)
        assert (entry["failing_model"], entry["failures_in_a_row"]) == ("segv", 3)
        assert entry["window_tasks"] == 1  # a new board's, as before
        await gateway.parts.placement.place(request(finished=[finished("rk-1"), finished("rk-1")]))
        assert (await device(gateway))["window_tasks"] == 3


async def test_labels_of_operators_win_and_can_be_taken_back(port: int) -> None:
    async with gateway_under_test() as gateway:
        await gateway.register("rk-1", port, labels={"room": "lab", "rack": "2"})
        changes = {"labels": {"room": "roof", "owner": "ann"}}
        answer = await gateway.call("PATCH", "/devices/rk-1/labels", changes)
        assert answer.body["device"]["labels"] == {"room": "roof", "rack": "2", "owner": "ann"}
        assert answer.body["operator_labels"] == {"room": "roof", "owner": "ann"}
        answer = await gateway.call("PATCH", "/devices/rk-1/labels", {"labels": {"room": None}})
        assert answer.body["device"]["labels"] == {"room": "lab", "rack": "2", "owner": "ann"}


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"labels": {"": "x"}}, "labels"),
        ({"labels": {"a b": "x"}}, "labels.a b"),
        ({"labels": {"a": "x" * 200}}, "labels.a"),
        ({"labels": {"a": 5}}, "labels.a"),
        ({"label": {}}, "labels"),
        ({"labels": {f"n{i}": "x" for i in range(65)}}, "labels"),
        ({"labels": {}, "lables": {}}, "lables: there is no such field; did you mean 'labels'?"),
        (b"{", "Invalid JSON"),
    ],
)
async def test_malformed_labels_are_named(port: int, body: object, named: str) -> None:
    async with gateway_under_test() as gateway:
        await gateway.register("rk-1", port)
        answer = await gateway.call("PATCH", "/devices/rk-1/labels", body)
        assert answer.status == 400
        assert named in answer.body["detail"]


async def test_labels_do_not_grow_without_bound(port: int) -> None:
    async with gateway_under_test() as gateway:
        await gateway.register("rk-1", port)
        for first in (0, 40):
            labels = {f"n{i}": "x" for i in range(first, first + 40)}
            answer = await gateway.call("PATCH", "/devices/rk-1/labels", {"labels": labels})
        assert answer.status == 400
        assert len((await device(gateway))["device"]["labels"]) == 40


@pytest.mark.parametrize("path", ["", "/cordon", "/uncordon", "/drain", "/labels"])
async def test_an_unknown_device_is_404_with_the_nearest_match(port: int, path: str) -> None:
    method = {"": "GET", "/labels": "PATCH"}.get(path, "POST")
    async with gateway_under_test() as gateway:
        await gateway.register("rk3588-1", port)
        answer = await gateway.call(method, f"/devices/rk3558-1{path}", {"labels": {}})
        assert answer.status == 404
        assert "did you mean 'rk3588-1'?" in answer.body["detail"]


async def test_what_operators_set_survives_a_restart(port: int, tmp_path: Path) -> None:
    state = tmp_path / "gateway.sqlite3"
    async with gateway_under_test(gateway_state_path=state) as gateway:
        await gateway.register("rk-1", port)
        await gateway.call("POST", "/devices/rk-1/drain")
        await gateway.call("PATCH", "/devices/rk-1/labels", {"labels": {"room": "roof"}})
    async with gateway_under_test(gateway_state_path=state) as gateway:
        missing = await device(gateway)  # known, but it has not registered again
        assert (missing["device"]["state"], missing["device"]["is_draining"]) == ("silent", True)
        assert (await gateway.heartbeat("rk-1")).status == 404
        await gateway.register("rk-1", port, boot_id="boot-2")
        back = (await device(gateway))["device"]
        assert (back["state"], back["is_draining"], back["labels"]) == ("ready", True, {"room": "roof"})
        assert await ids(gateway) == ["rk-1"]


async def test_a_missing_device_gets_no_work_and_no_connection(port: int, tmp_path: Path) -> None:
    state = tmp_path / "gateway.sqlite3"
    async with gateway_under_test(gateway_state_path=state) as gateway:
        await gateway.register("rk-1", port)
    async with gateway_under_test(gateway_state_path=state) as gateway:
        plan = await gateway.parts.placement.place(request(task()))
    assert (plan.decisions[0].device_id, list(plan.routes)) == (None, [])


async def test_a_device_that_was_silent_for_long_is_archived_with_its_last_facts(port: int) -> None:
    async with gateway_under_test() as gateway:
        await gateway.register("rk-1", port)
        await gateway.heartbeat("rk-1", telemetry={"temperature_c": 71.0})
        gateway.clock.now_ms += DAY_MS
        await gateway.parts.fleet.write_down()
        assert await ids(gateway) == ["rk-1"]
        gateway.clock.now_ms += 1
        await gateway.parts.fleet.write_down()

        assert (await ids(gateway), await ids(gateway, archived="true")) == ([], ["rk-1"])
        (entry,) = (await gateway.call("GET", "/devices", archived="true")).body["devices"]
        assert (entry["archived"], entry["device"]["telemetry"]["temperature_c"]) == ("silent", 71.0)
        assert entry["device"]["last_heartbeat_age_ms"] == DAY_MS + 1
        answer = await gateway.heartbeat("rk-1")
        assert (answer.status, "register again" in answer.body["detail"]) == (404, True)
        answer = await gateway.call("POST", "/devices/rk-1/cordon")
        assert (answer.status, "archived" in answer.body["detail"]) == (404, True)

        await gateway.register("rk-1", port)
        assert (await ids(gateway), await ids(gateway, archived="true")) == (["rk-1"], [])


async def test_a_device_that_does_not_come_back_after_a_restart_is_archived_too(port: int, tmp_path: Path) -> None:
    state = tmp_path / "gateway.sqlite3"
    async with gateway_under_test(gateway_state_path=state) as gateway:
        await gateway.register("rk-1", port)
    async with gateway_under_test(gateway_state_path=state) as gateway:
        assert await ids(gateway) == ["rk-1"]
        gateway.clock.now_ms += DAY_MS + HEARTBEAT_TIMEOUT_MS
        await gateway.parts.fleet.write_down()
        assert (await ids(gateway), await ids(gateway, archived="true")) == ([], ["rk-1"])


async def test_a_device_that_left_is_in_the_archive_and_can_be_forgotten(port: int, tmp_path: Path) -> None:
    state = tmp_path / "gateway.sqlite3"
    async with gateway_under_test(gateway_state_path=state) as gateway:
        await gateway.register("rk-1", port)
        await gateway.call("POST", "/devices/rk-1/cordon")
        assert (await gateway.call("DELETE", "/devices/rk-1")).status == 400  # it is alive
        assert (await gateway.call("DELETE", "/devices/rk-1", boot_id="boot-1")).status == 204
        (entry,) = (await gateway.call("GET", "/devices", archived="true")).body["devices"]
        assert entry["archived"] == "left"
        assert (await gateway.call("DELETE", "/devices/rk-1")).status == 204
        assert (await gateway.call("DELETE", "/devices/rk-1")).status == 404
    async with gateway_under_test(gateway_state_path=state) as gateway:
        assert (await ids(gateway), await ids(gateway, archived="true")) == ([], [])
        await gateway.register("rk-1", port)
        assert (await device(gateway))["device"]["is_cordoned"] is False


async def test_two_gateways_never_share_a_state_file(tmp_path: Path) -> None:
    state = tmp_path / "gateway.sqlite3"
    async with gateway_parts(ManualClock(), gateway_state_path=state):
        with pytest.raises(StartupError, match="in use by another process; stop that one, or give this one --state"):
            async with gateway_parts(ManualClock(), gateway_state_path=state):
                pass


async def test_a_file_that_is_no_state_of_ours_is_refused_with_its_name(tmp_path: Path) -> None:
    state = tmp_path / "gateway.sqlite3"
    state.write_bytes(b"this is no database, and it is long enough to be looked at" * 100)
    with pytest.raises(StartupError, match=r"gateway\.sqlite3 cannot be used"):
        async with gateway_parts(ManualClock(), gateway_state_path=state):
            pass


async def test_a_state_file_of_the_version_before_is_taken_over(port: int, tmp_path: Path) -> None:
    state = tmp_path / "gateway.sqlite3"
    with contextlib.closing(sqlite3.connect(state)) as connection:
        connection.executescript(f"{STEPS[0]} PRAGMA user_version = 1;")
        connection.execute("INSERT INTO wish VALUES ('rk-1', 1, 0, '{}')")
        connection.commit()
    async with gateway_under_test(gateway_state_path=state) as gateway:
        await gateway.register("rk-1", port)
        assert (await device(gateway))["device"]["is_cordoned"] is True
        assert (await gateway.call("POST", "/devices/rk-1/command", {"command": "stop"})).status == 202

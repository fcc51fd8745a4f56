"""/metrics says what is known, in Prometheus' form, and says nothing of what is not; deploy/ asks for nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from edgesched.domain.device import DeviceId
from edgesched.domain.durations import Durations
from edgesched.domain.lifecycle import State
from tests.support.fleets import finished, in_flight, request, task
from tests.support.gateways import HEARTBEAT_TIMEOUT_MS, GatewayUnderTest, agent_port, gateway_under_test

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.fixture
async def gateway() -> AsyncIterator[GatewayUnderTest]:
    async with gateway_under_test() as gateway, agent_port() as port:
        await gateway.register("rk-1", port)
        yield gateway


async def scraped(gateway: GatewayUnderTest) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    answer = await gateway.call("GET", "/metrics")
    assert answer.status == 200
    samples: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(answer.body):
        for sample in family.samples:
            samples.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return samples


async def test_tasks_devices_and_delivery_are_measured(gateway: GatewayUnderTest) -> None:
    gateway.tasks.undelivered = 3
    worker = {"name": "rk-1-0", "pid": 7, "state": "ready", "restarts": 2}
    telemetry = {"temperature_c": 61.5, "xpu_used_fraction": 0.5}
    await gateway.heartbeat("rk-1", telemetry=telemetry, outbox_count=4, workers=[worker])
    gateway.clock.now_ms += 1_500
    samples = await scraped(gateway)

    assert samples["edgesched_task_manager_up"] == {(): 1.0}
    assert samples["edgesched_tasks"][(("state", "queued"),)] == 2.0
    assert samples["edgesched_tasks"][(("state", "failed"),)] == 0.0
    assert samples["edgesched_queue_depth"] == {(("model", "shapes"), ("priority", "normal")): 2.0}
    assert samples["edgesched_undelivered_tasks"] == {(): 3.0}
    assert samples["edgesched_delivery_lag_seconds"] == {(): 1.5}
    assert samples["edgesched_ledger_commits_total"] == {(): 4.0}
    assert samples["edgesched_ledger_commit_seconds_total"] == {(): pytest.approx(0.008)}
    one = (("device_id", "rk-1"),)
    assert samples["edgesched_device_heartbeat_age_seconds"][one] == 1.5
    assert samples["edgesched_device_temperature_celsius"][one] == 61.5
    assert samples["edgesched_device_xpu_used_ratio"][one] == 0.5
    assert samples["edgesched_device_outbox_results"][one] == 4.0
    assert samples["edgesched_device_breaker_open"][one] == 0.0
    restarts = samples["edgesched_worker_restarts_total"]
    assert restarts[("device_id", "rk-1"), ("worker", "rk-1-0")] == 2.0


async def test_what_is_not_known_has_no_sample(gateway: GatewayUnderTest) -> None:
    gateway.tasks.is_reachable = False
    samples = await scraped(gateway)
    assert samples["edgesched_task_manager_up"] == {(): 0.0}
    for name in ("tasks", "delivery_lag_seconds", "device_power_watts", "device_in_flight_tasks"):
        assert not samples.get(f"edgesched_{name}"), name


async def test_what_a_board_said_before_it_fell_silent_is_no_figure_of_now(gateway: GatewayUnderTest) -> None:
    await gateway.heartbeat("rk-1", telemetry={"temperature_c": 61.5})
    gateway.clock.now_ms += HEARTBEAT_TIMEOUT_MS + 1
    samples = await scraped(gateway)
    assert "edgesched_device_temperature_celsius" not in samples
    assert samples["edgesched_device_heartbeat_age_seconds"] == {(("device_id", "rk-1"),): pytest.approx(6.001)}


async def test_placement_tells_latencies_per_stage_and_outcomes_per_device(gateway: GatewayUnderTest) -> None:
    done = finished("rk-1", service_ms=30.0, transfer_ms=None, total_ms=45.0, waited_ms=200.0, infer_ms=20.0)
    await gateway.parts.placement.place(request(task(), finished=[done, finished("rk-1", succeeded=False)]))
    samples = await scraped(gateway)
    count = samples["edgesched_stage_seconds_count"]
    assert count[("model", "shapes"), ("stage", "total")] == 1.0
    assert (("model", "shapes"), ("stage", "transfer")) not in count
    assert samples["edgesched_stage_seconds_sum"][("model", "shapes"), ("stage", "service")] == pytest.approx(0.03)
    for stage, seconds in (("queue", 0.2), ("infer", 0.02)):
        assert samples["edgesched_stage_seconds_sum"][("model", "shapes"), ("stage", stage)] == pytest.approx(seconds)
    attempts = samples["edgesched_attempts_total"]
    assert attempts[("device_id", "rk-1"), ("model", "shapes"), ("outcome", "labelled")] == 1.0
    assert attempts[("device_id", "rk-1"), ("model", "shapes"), ("outcome", "failed")] == 1.0
    assert samples["edgesched_device_in_flight_tasks"][(("device_id", "rk-1"),)] == 1.0


async def test_ended_tasks_are_counted_by_state_model_and_device(gateway: GatewayUnderTest) -> None:
    took = Durations()
    for ms in (3.0, 30.0, 120_000.0):
        took.add(ms)
    gateway.tasks.delivery = {"shapes": took}
    gateway.tasks.ended.update({(State.DELIVERED, "shapes", DeviceId("rk-1")): 3, (State.EXPIRED, "shapes", None): 1})
    samples = await scraped(gateway)
    assert samples["edgesched_tasks_ended_total"] == {
        (("device_id", "rk-1"), ("model", "shapes"), ("state", "delivered")): 3.0,
        (("device_id", ""), ("model", "shapes"), ("state", "expired")): 1.0,
    }
    delivery = (("model", "shapes"), ("stage", "delivery"))
    assert samples["edgesched_stage_seconds_count"][delivery] == 3.0
    assert samples["edgesched_stage_seconds_sum"][delivery] == pytest.approx(120.033)
    up_to = {dict(labels)["le"]: n for labels, n in samples["edgesched_stage_seconds_bucket"].items()}
    assert [up_to[le] for le in ("0.002", "0.005", "0.05", "60.0", "+Inf")] == [0.0, 1.0, 2.0, 2.0, 3.0]


async def test_tasks_in_flight_are_told_by_device_and_model_while_they_are_known(gateway: GatewayUnderTest) -> None:
    await gateway.parts.placement.place(request(task(), task("b", model="other")))
    flying = (await scraped(gateway))["edgesched_in_flight_tasks"]
    assert flying == {(("device_id", "rk-1"), ("model", "shapes")): 1.0}, "other waits: no board has it"
    held = [*in_flight("rk-1", 2), *in_flight("rk-1", 3, model="other")]
    await gateway.parts.placement.place(request(flying=held))
    flying = (await scraped(gateway))["edgesched_in_flight_tasks"]
    assert flying[("device_id", "rk-1"), ("model", "other")] == 3.0
    gateway.clock.now_ms += 6_000
    assert "edgesched_in_flight_tasks" not in await scraped(gateway)


async def test_two_gateways_in_one_process_do_not_share_figures(gateway: GatewayUnderTest) -> None:
    await gateway.parts.placement.place(request(finished=[finished("rk-1")]))
    async with gateway_under_test() as other:
        assert "edgesched_attempts_total" not in await scraped(other)


def expressions(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "expr":
                yield inner
            else:
                yield from expressions(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from expressions(inner)


async def test_dashboard_and_alerts_ask_only_for_what_there_is(gateway: GatewayUnderTest) -> None:
    gateway.tasks.undelivered = 1
    gateway.tasks.ended[State.DELIVERED, "shapes", DeviceId("rk-1")] = 1
    worker = {"name": "rk-1-0", "pid": 7, "state": "ready", "restarts": 2}
    telemetry = {
        "cpu_used_fraction": 0.5,
        "memory_used_fraction": 0.5,
        "xpu_used_fraction": 0.5,
        "temperature_c": 50,
        "power_w": 5,
        "link_bandwidth_mbps": 90,
        "link_latency_ms": 2,
    }
    await gateway.heartbeat("rk-1", telemetry=telemetry, workers=[worker])
    await gateway.parts.placement.place(request(task(), finished=[finished("rk-1")]))
    known = set(await scraped(gateway))
    dashboard = json.loads((DEPLOY / "grafana" / "edgesched.json").read_text())
    rules = (DEPLOY / "prometheus" / "edgesched.rules.yml").read_text()
    asked = [*expressions(dashboard), *re.findall(r"^ +expr: (.+)$", rules, re.MULTILINE)]
    assert len(asked) > 15
    for expression in asked:
        names = re.findall(r"\bedgesched_\w+", expression)
        assert names, expression
        assert set(names) <= known, expression

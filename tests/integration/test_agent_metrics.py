"""/metrics of a board: what it knows itself, and only where somebody asked for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from agents.metrics import AgentMetrics
from agents.work import Assignment
from edgesched.domain.device import Telemetry
from edgesched.domain.task import AttemptId, Failure, FailureKind, Result, TaskId, Timings
from edgesched.errors import StartupError
from edgesched.local.children import ChildSpec, running
from edgesched.rest import Heartbeat, WorkerReport
from tests.support.agent_parts import WITHIN_S
from tests.support.gateways import gateway_under_test

ASSIGNMENT = Assignment(
    ledger_id="ledger",
    task_id=TaskId("t"),
    attempt_id=AttemptId("a"),
    model="shapes",
    file_name="a.jpg",
    receiver_url=None,
)
LABELLED = Result(detections=(), width=1, height=1, timings=Timings(infer_ms=30.0, decode_ms=2.0))
WORKER = WorkerReport(name="b-0", pid=7, state="busy", restarts=2, memory_bytes=5_000)
BEAT = Heartbeat(boot_id="boot", telemetry=Telemetry(temperature_c=61.0), outbox_count=3, workers=(WORKER,))

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@asynccontextmanager
async def served(metrics: AgentMetrics) -> AsyncIterator[str]:
    serving = asyncio.create_task(metrics.run("127.0.0.1", 0))
    try:
        async with asyncio.timeout(WITHIN_S):
            await metrics.listening.wait()
        yield f"http://127.0.0.1:{metrics.port}/metrics"
    finally:
        serving.cancel()
        await asyncio.wait({serving})


async def scraped(url: str) -> Samples:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        assert response.status == 200
        families = text_string_to_metric_families(await response.text())
        return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def of(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return f"edgesched_agent_{name}", frozenset(labels.items())


async def test_each_stage_is_timed_and_each_outcome_counted() -> None:
    metrics = AgentMetrics(lambda: None, lambda: 4)
    for _ in range(2):
        metrics.count(ASSIGNMENT, LABELLED)
    metrics.count(ASSIGNMENT, Failure(kind=FailureKind.WORKER_CRASHED, message="it died"))
    async with served(metrics) as url:
        seen = await scraped(url)
    assert seen[of("attempts_total", model="shapes", outcome="labelled")] == 2
    assert seen[of("attempts_total", model="shapes", outcome="worker_crashed")] == 1
    assert seen[of("stage_seconds_sum", stage="infer", model="shapes")] == pytest.approx(0.06)
    assert seen[of("stage_seconds_bucket", stage="infer", model="shapes", le="0.02")] == 0
    assert seen[of("stage_seconds_bucket", stage="infer", model="shapes", le="0.05")] == 2
    assert of("stage_seconds_count", stage="transfer", model="shapes") not in seen  # nobody measured it
    assert seen[of("held_attempts")] == 4


async def test_what_the_last_heartbeat_told_is_shown_and_what_is_not_known_is_absent() -> None:
    async with served(AgentMetrics(lambda: BEAT, lambda: 0)) as url:
        seen = await scraped(url)
    assert seen[of("temperature_celsius")] == 61.0
    assert of("power_watts") not in seen
    assert seen[of("worker_state", worker="b-0", state="busy")] == 1
    assert seen[of("worker_restarts_total", worker="b-0")] == 2
    assert seen[of("worker_memory_bytes", worker="b-0")] == 5_000
    assert (seen[of("outbox_results")], seen[of("healthy")]) == (3, 1)


async def test_a_taken_port_is_one_sentence_at_the_start() -> None:
    metrics = AgentMetrics(lambda: None, lambda: 0)
    async with served(AgentMetrics(lambda: None, lambda: 0)) as url:
        port = int(url.split(":")[2].split("/")[0])
        with pytest.raises(StartupError, match="choose another --metrics-port"):
            await metrics.run("127.0.0.1", port)


@pytest.mark.slow
async def test_a_real_agent_serves_them_where_it_says(tmp_path: Path) -> None:
    async with gateway_under_test() as gateway:
        options = ["--master-url", gateway.url, "--port", "0", "--metrics-port", "0", "--workspace", str(tmp_path)]
        arguments = ["agent", "--emulate", "orin", "--backend", "echo", "--workers", "1", *options]
        async with running(ChildSpec(name="agent", arguments=arguments, log_path=tmp_path / "log")) as (agent,):
            async with asyncio.timeout(WITHIN_S):
                seen = await scraped(f"http://{agent.ready['metrics']}/metrics")
                while of("healthy") not in seen:  # known from its first heartbeat on
                    seen = await scraped(f"http://{agent.ready['metrics']}/metrics")
    assert seen[of("healthy")] == 1

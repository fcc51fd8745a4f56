"""/metrics of one board, for a Prometheus that asks boards themselves. Imported only where a port is set for it.

The gateway shows the same telemetry of all boards; what only the board knows is how long each step of a picture takes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from agents.work import Assignment, Outcome
from edgesched import __version__
from edgesched.domain.device import Telemetry
from edgesched.domain.task import Result
from edgesched.errors import StartupError
from edgesched.rest import Heartbeat

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
STAGES = {  # field of Timings -> stage
    "transfer_ms": "transfer",
    "queued_ms": "queued",
    "decode_ms": "decode",
    "preprocess_ms": "preprocess",
    "infer_ms": "infer",
    "postprocess_ms": "postprocess",
    "service_ms": "service",
}
TELEMETRY = {  # field of Telemetry -> metric, help
    "cpu_used_fraction": ("cpu_used_ratio", "Share of its CPU that is used, 0..1"),
    "memory_used_fraction": ("memory_used_ratio", "Share of its memory that is used, 0..1"),
    "xpu_used_fraction": ("xpu_used_ratio", "Share of its accelerator that is used, 0..1"),
    "temperature_c": ("temperature_celsius", "Its highest temperature"),
    "power_w": ("power_watts", "What it draws"),
    "link_bandwidth_mbps": ("link_bandwidth_mbps", "Measured from the master to it, Mbit/s"),
    "link_latency_ms": ("link_latency_milliseconds", "Measured round trip"),
}


class AgentMetrics(Collector):
    """Counts outcomes as they come, and shows what the last heartbeat told."""

    def __init__(self, last_beat: Callable[[], Heartbeat | None], held: Callable[[], int]) -> None:
        self._last_beat = last_beat
        self._held = held
        self._registry = CollectorRegistry(auto_describe=False)
        self._attempts = Counter(
            "edgesched_agent_attempts",
            "Attempts that ended on this board",
            ("model", "outcome"),
            registry=self._registry,
        )
        self._stages = Histogram(
            "edgesched_agent_stage_seconds",
            "Time of one picture in a stage on this board; service: as long as it held a worker",
            ("stage", "model"),
            buckets=SECONDS,
            registry=self._registry,
        )
        self._registry.register(self)
        self.port: int | None = None
        self.listening = asyncio.Event()

    def count(self, assignment: Assignment, outcome: Outcome) -> None:
        if not isinstance(outcome, Result):
            self._attempts.labels(assignment.model, outcome.kind.value).inc()
            return
        self._attempts.labels(assignment.model, "labelled").inc()
        for field, stage in STAGES.items():
            took_ms = getattr(outcome.timings, field)
            if took_ms is not None:
                self._stages.labels(stage, assignment.model).observe(took_ms / 1000)

    def collect(self) -> Iterable[Metric]:
        yield _gauge("build_info", "Always 1", {(__version__,): 1.0}, "version")
        yield _gauge("held_attempts", "Pictures that wait or are worked on here", {(): float(self._held())})
        beat = self._last_beat()
        if beat is not None:
            yield from _of_beat(beat)

    async def run(self, host: str, port: int) -> None:
        """Serve until cancelled. Port 0: the operating system chooses. Raises: StartupError if it cannot be had."""
        app = web.Application()
        app.router.add_get("/metrics", self._show)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            try:
                await web.TCPSite(runner, host, port).start()
            except OSError as error:
                raise StartupError(
                    f"cannot listen on port {port} of {host} ({error.strerror}); choose another --metrics-port"
                ) from error
            self.port = runner.addresses[0][1]
            self.listening.set()
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    async def _show(self, request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


def _of_beat(beat: Heartbeat) -> Iterator[Metric]:
    yield _gauge("healthy", "0: it can do no work", {(): float(beat.unhealthy_reason is None)})
    yield _gauge("outbox_results", "Finished here, not yet settled", {(): float(beat.outbox_count)})
    yield from _of_telemetry(beat.telemetry)
    states = {(worker.name, worker.state): 1.0 for worker in beat.workers}
    yield _gauge("worker_state", "1 for the state that the worker is in", states, "worker", "state")
    sizes = {(w.name,): float(w.memory_bytes) for w in beat.workers if w.memory_bytes is not None}
    yield _gauge("worker_memory_bytes", "What it holds in memory", sizes, "worker")
    restarts = CounterMetricFamily("edgesched_agent_worker_restarts", "Of each worker", labels=("worker",))
    for worker in beat.workers:
        restarts.add_metric((worker.name,), worker.restarts)
    yield restarts


def _of_telemetry(telemetry: Telemetry) -> Iterator[Metric]:
    for field, (name, help_) in TELEMETRY.items():
        value = getattr(telemetry, field)
        yield _gauge(name, help_, {} if value is None else {(): value})


def _gauge(name: str, help_: str, samples: Mapping[Any, float], *labels: str) -> GaugeMetricFamily:
    """samples: values of the labels -> value."""
    gauge = GaugeMetricFamily(f"edgesched_agent_{name}", help_, labels=labels)
    for values, value in samples.items():
        gauge.add_metric(values, value)
    return gauge

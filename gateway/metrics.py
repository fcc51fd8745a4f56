"""/metrics in Prometheus' text form: what is known at the moment of the scrape, and what placement requests have told.

A figure that is not known has no sample: a graph with a gap is honest, a zero is not.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from edgesched import __version__, rest
from edgesched.domain.device import DeviceId, DeviceState
from edgesched.domain.durations import BOUNDS_MS, Durations
from edgesched.domain.lifecycle import State
from edgesched.domain.task import TaskStats
from edgesched.errors import PeerUnavailable
from edgesched.ports import FinishedSample, PlacementPlan, PlacementRequest, TaskQueries
from gateway.activity import Activity
from gateway.fleet import Fleet
from gateway.routes import Route

log = logging.getLogger(__name__)

ASK_TIMEOUT_S = 2.0
TELEMETRY = {  # field of Telemetry -> metric, help
    "cpu_used_fraction": ("cpu_used_ratio", "Share of its CPU that is used, 0..1"),
    "memory_used_fraction": ("memory_used_ratio", "Share of its memory that is used, 0..1"),
    "xpu_used_fraction": ("xpu_used_ratio", "Share of its accelerator that is used, 0..1"),
    "temperature_c": ("temperature_celsius", "Its highest temperature"),
    "power_w": ("power_watts", "What it draws"),
    "link_bandwidth_mbps": ("link_bandwidth_mbps", "Measured from the task manager to it, Mbit/s"),
    "link_latency_ms": ("link_latency_milliseconds", "Measured round trip"),
}


class Metrics:
    """One per gateway, so that two in one process (tests) do not share their figures."""

    def __init__(self, fleet: Fleet, tasks: TaskQueries, activity: Activity) -> None:
        self._fleet = fleet
        self._activity = activity
        self._tasks = tasks
        self._placement = PlacementFigures()
        self.observe = self._placement.observe
        """To be told of every placement."""

    def routes(self) -> Sequence[Route]:
        return (
            Route(
                method="GET",
                path="/metrics",
                handler=self.show,
                summary="figures for Prometheus",
                media=("text/plain",),
            ),
        )

    async def show(self, request: web.Request) -> web.Response:
        stats: TaskStats | None = None
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                stats = await self._tasks.stats()
        except (PeerUnavailable, TimeoutError) as error:
            log.warning("metrics.task_manager_away", extra={"cause": str(error) or "timeout"})
        placed = self._placement.metrics({} if stats is None else stats.delivery)
        flying = _in_flight(self._activity.in_flight_by_model())
        now = CollectorRegistry(auto_describe=False)
        now.register(_Collected((*placed, *_of_tasks(stats), flying, *_of_devices(self._fleet.entries()))))
        return web.Response(body=generate_latest(now), headers={"Content-Type": CONTENT_TYPE_LATEST})


class PlacementFigures:
    """What placement requests have told: as many entries as there are devices, models and strategies.

    Counted in plain numbers and given to the library only when somebody scrapes: requests come hundreds of times a
    second, and the library's own counters and histograms cost more than the decisions that they would count.
    """

    def __init__(self) -> None:
        self._times: defaultdict[tuple[str, str], Durations] = defaultdict(Durations)  # by stage and model
        self._attempts: Counter[tuple[str, str, bool]] = Counter()  # by device, model and success
        self._decisions: Counter[tuple[str, bool]] = Counter()  # by strategy, and whether a device was found

    def observe(self, request: PlacementRequest, plan: PlacementPlan) -> None:
        """Told of every placement."""
        for sample in request.finished:
            self._attempts[sample.device_id, sample.model, sample.succeeded] += 1
            if sample.succeeded:
                self._time(sample)
        for decision in plan.decisions:
            self._decisions[decision.strategy, decision.device_id is not None] += 1

    def metrics(self, delivery: Mapping[str, Durations]) -> Iterable[Metric]:
        """delivery: a stage that placement knows nothing of, by model."""
        stages = HistogramMetricFamily(
            "edgesched_stage_seconds",
            "Time of one picture in a stage: queue (accepted to sent out), transfer (to the board), decode, infer, "
            "service (on a worker, decode and infer among it), total (sent out to labelled), delivery (labelled to "
            "taken by the receiver)",
            labels=("stage", "model"),
        )
        for labels, times in (*self._times.items(), *((("delivery", model), t) for model, t in delivery.items())):
            stages.add_metric(labels, _buckets(times), times.sum_ms / 1000)
        attempts = CounterMetricFamily(
            "edgesched_attempts",
            "Attempts that ended, as placement was told",
            labels=("device_id", "model", "outcome"),
        )
        for (device_id, model, succeeded), count in self._attempts.items():
            attempts.add_metric((device_id, model, "labelled" if succeeded else "failed"), count)
        decisions = CounterMetricFamily(
            "edgesched_decisions",
            "Placement decisions; waits: no device could take the task at once",
            labels=("strategy", "outcome"),
        )
        for (strategy, is_sent), count in self._decisions.items():
            decisions.add_metric((strategy, "sent" if is_sent else "waits"), count)
        return (stages, attempts, decisions)

    def _time(self, sample: FinishedSample) -> None:
        for stage, duration_ms in (
            ("queue", sample.waited_ms),
            ("transfer", sample.transfer_ms),
            ("decode", sample.decode_ms),
            ("infer", sample.infer_ms),
            ("service", sample.service_ms),
            ("total", sample.total_ms),
        ):
            if duration_ms is not None:
                self._times[stage, sample.model].add(duration_ms)


class _Collected(Collector):
    """Figures of one scrape."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = tuple(metrics)

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _buckets(times: Durations) -> list[tuple[str, float]]:
    """As Prometheus wants them: bound in seconds -> durations up to it, all shorter ones included."""
    names = [*(str(bound / 1000) for bound in BOUNDS_MS), "+Inf"]
    return list(zip(names, map(float, accumulate(times.counts)), strict=True))


def _of_tasks(stats: TaskStats | None) -> Iterator[Metric]:
    yield _gauge("edgesched_build_info", "Always 1", ("version",), [((__version__,), 1.0)])
    answered = float(stats is not None)
    yield _gauge("edgesched_task_manager_up", "Whether the task manager answers the gateway", (), [((), answered)])
    if stats is None:
        return
    by_state = [((state.value,), float(stats.counts.get(state, 0))) for state in State]
    yield _gauge("edgesched_tasks", "Tasks in the ledger by state", ("state",), by_state)
    ended = CounterMetricFamily(
        "edgesched_tasks_ended",
        "Tasks that came into an end state since the task manager started, by the last device that they were on; done: "
        "labelled, and counted again once delivered",
        labels=("state", "model", "device_id"),
    )
    for (state, model, device_id), count in stats.ended.items():
        ended.add_metric((state.value, model, device_id or ""), count)
    yield ended
    in_line = [((line.model, line.priority.value), float(tasks)) for line, tasks in sorted(stats.queued.items())]
    yield _gauge("edgesched_queue_depth", "Queued tasks", ("model", "priority"), in_line)
    yield _gauge("edgesched_open_bytes", "Pictures of open tasks", (), [((), float(stats.open_bytes))])
    help_ = "Tasks with labels that their receiver has not taken, counted up to 1000"
    yield _gauge("edgesched_undelivered_tasks", help_, (), [((), float(stats.undelivered))])
    lag = [] if stats.oldest_undelivered_ms is None else [((), stats.oldest_undelivered_ms / 1000)]
    yield _gauge("edgesched_delivery_lag_seconds", "Age of the oldest labels that are not delivered", (), lag)
    commits = CounterMetricFamily("edgesched_ledger_commits", "Commits of task events since the task manager started")
    commits.add_metric((), stats.commits)
    yield commits
    seconds = CounterMetricFamily("edgesched_ledger_commit_seconds", "Time that those commits took")
    seconds.add_metric((), stats.commit_ms / 1000)
    yield seconds


def _in_flight(counts: Mapping[tuple[DeviceId, str], int]) -> Metric:
    help_ = "Tasks on their way to a device or on it, by model; those that wait are in edgesched_queue_depth"
    samples = [(labels, float(count)) for labels, count in sorted(counts.items())]
    return _gauge("edgesched_in_flight_tasks", help_, ("device_id", "model"), samples)


def _of_devices(entries: Sequence[rest.DeviceEntry]) -> Iterator[Metric]:
    states = []
    for entry in entries:
        device = entry.device
        labels = (device.device_id, device.board_type, "true" if device.emulated else "false")
        states += [((*labels, state.value), float(device.state is state)) for state in DeviceState]
    help_ = "1 for the state that the device is in"
    yield _gauge("edgesched_device_state", help_, ("device_id", "board_type", "emulated", "state"), states)
    for name, help_, read in (
        ("heartbeat_age_seconds", "Since it was last heard of", lambda e: e.device.last_heartbeat_age_ms / 1000),
        ("cordoned", "1: an operator wants it to get no work", lambda e: float(e.device.is_cordoned)),
        ("draining", "1: the same, and it shall become empty", lambda e: float(e.device.is_draining)),
        ("window_tasks", "How many tasks it may hold now", lambda e: e.window_tasks),
        ("in_flight_tasks", "Tasks on their way to it or on it", lambda e: e.in_flight),
        ("in_flight_bytes", "Bytes of their pictures", lambda e: e.in_flight_bytes),
        ("pictures_per_second", "Labelled lately", lambda e: e.pictures_per_s),
        ("outbox_results", "Finished on it, not yet settled", lambda e: float(e.device.outbox_count)),
        ("failures_in_a_row", "Of the model that fails worst there", lambda e: float(e.failures_in_a_row)),
        ("breaker_open", "1: it gets no work of a model that fails there", lambda e: float(e.breaker_open_ms > 0)),
    ):
        samples = [((entry.device.device_id,), value) for entry in entries if (value := read(entry)) is not None]
        yield _gauge(f"edgesched_device_{name}", help_, ("device_id",), samples)
    heard = [e for e in entries if e.device.state is not DeviceState.SILENT]  # nobody knows how the others are
    for field, (name, help_) in TELEMETRY.items():
        readings = [((e.device.device_id,), v) for e in heard if (v := getattr(e.device.telemetry, field)) is not None]
        yield _gauge(f"edgesched_device_{name}", help_, ("device_id",), readings)
    workers = [
        ((entry.device.device_id, worker.name, worker.state), 1.0) for entry in entries for worker in entry.workers
    ]
    yield _gauge(
        "edgesched_worker_state", "1 for the state that the worker is in", ("device_id", "worker", "state"), workers
    )
    restarts = CounterMetricFamily(
        "edgesched_worker_restarts", "As the agent reports them", labels=("device_id", "worker")
    )
    for entry in entries:
        for worker in entry.workers:
            restarts.add_metric((entry.device.device_id, worker.name), worker.restarts)
    yield restarts


def _gauge(
    name: str, help_: str, labels: Sequence[str], samples: Iterable[tuple[Sequence[str], float]]
) -> GaugeMetricFamily:
    gauge = GaugeMetricFamily(name, help_, labels=labels)
    for values, value in samples:
        gauge.add_metric(values, value)
    return gauge

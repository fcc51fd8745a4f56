"""What the task manager's placement requests tell about work: what is in flight where, and what got done."""

from __future__ import annotations

import math
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edgesched.clock import Clock
from edgesched.domain.device import DeviceId
from edgesched.placement.fleet import Standing
from edgesched.ports import FinishedSample, PlacementPlan, PlacementRequest
from gateway.local_placement import LocalPlacement

STALE_MS = 5_000.0
"""The task manager asks at least once a second. After so long without a request nobody knows what is in flight."""

RATE_MS = 10_000.0
BUCKET_MS = 1_000.0
POINT_MS = 5_000
HISTORY_POINTS = 120  # ten minutes
MAX_SAMPLES_PER_POINT = 2_000

LARGE_FLEET = 256
LEARNED_VALID_MS = 1_000.0

Observer = Callable[[PlacementRequest, PlacementPlan], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceWork:
    """None: no request has told it lately."""

    in_flight: int | None
    in_flight_bytes: int | None
    pictures_per_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementFacts:
    """What placement has learned about a device."""

    window_tasks: int | None = None  # how many it may hold now; grows with what it completes
    failing_model: str | None = None  # of those that failed last time the one that it gets no work of for longest
    failures: int = 0  # of that model, in a row
    open_ms: float = 0.0  # for so long the device gets no work of it


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivityPoint:
    """What ended within a few seconds. Latencies are from sending a picture out to its labels; None if none ended."""

    at_ms: int  # the end of the interval, the gateway's wall clock
    seconds: float
    labelled: int
    failed: int
    p50_ms: float | None
    p95_ms: float | None


class Activity:
    """Fed by `observe`. Everything in it is bounded, and nothing of it outlives the process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._asked_at_ms = -math.inf
        self._first_asked_at_ms: float | None = None
        self._last: tuple[PlacementRequest, PlacementPlan] | None = None
        self._tasks: Counter[DeviceId] = Counter()  # of `_last`, once somebody asked
        self._bytes: Counter[DeviceId] = Counter()
        self._by_model: Counter[tuple[DeviceId, str]] = Counter()
        self._labelled: defaultdict[DeviceId, deque[tuple[float, int]]] = defaultdict(deque)
        self._history: deque[ActivityPoint] = deque(maxlen=HISTORY_POINTS)
        self._point_began_ms = clock.monotonic_ms()
        self._labelled_now = 0
        self._failed_now = 0
        self._latencies_now: list[float] = []

    def observe(self, request: PlacementRequest, plan: PlacementPlan) -> None:
        now_ms = self._clock.monotonic_ms()
        self._close_points(now_ms)
        self._asked_at_ms = now_ms
        if self._first_asked_at_ms is None:
            self._first_asked_at_ms = now_ms
        self._last = (request, plan)
        for sample in request.finished:
            self._count(sample, now_ms)

    def of(self, device_id: DeviceId) -> DeviceWork:
        now_ms = self._clock.monotonic_ms()
        if self._is_stale(now_ms) or self._first_asked_at_ms is None:
            return DeviceWork(in_flight=None, in_flight_bytes=None, pictures_per_s=None)
        self._tally()
        buckets = self._labelled.get(device_id, deque())
        recent = sum(count for at_ms, count in buckets if now_ms - at_ms <= RATE_MS)
        span_ms = min(RATE_MS, max(BUCKET_MS, now_ms - self._first_asked_at_ms))
        return DeviceWork(
            in_flight=self._tasks[device_id],
            in_flight_bytes=self._bytes[device_id],
            pictures_per_s=recent * 1000 / span_ms,
        )

    def in_flight_by_model(self) -> Mapping[tuple[DeviceId, str], int]:
        """Where there is any. Empty also if no request has told it lately."""
        if self._is_stale(self._clock.monotonic_ms()):
            return {}
        self._tally()
        return dict(self._by_model)

    def history(self) -> Sequence[ActivityPoint]:
        """Closed intervals, oldest first."""
        self._close_points(self._clock.monotonic_ms())
        return tuple(self._history)

    def forget(self, device_id: DeviceId) -> None:
        """The device left."""
        self._labelled.pop(device_id, None)

    def _is_stale(self, now_ms: float) -> bool:
        return now_ms - self._asked_at_ms > STALE_MS

    def _tally(self) -> None:
        """Counted when somebody looks: requests come hundreds of times more often."""
        if self._last is None:
            return
        (request, plan), self._last = self._last, None
        self._tasks, self._bytes, self._by_model = Counter(), Counter(), Counter()
        models = {task.task_id: task.model for task in request.tasks}
        for attempt in request.in_flight:
            self._tasks[attempt.device_id] += 1
            self._bytes[attempt.device_id] += attempt.size_bytes
            self._by_model[attempt.device_id, attempt.model] += 1
        for decision in plan.decisions:
            if decision.device_id is not None:
                self._tasks[decision.device_id] += 1
                self._by_model[decision.device_id, models[decision.task_id]] += 1

    def _count(self, sample: FinishedSample, now_ms: float) -> None:
        if not sample.succeeded:
            self._failed_now += 1
            return
        self._labelled_now += 1
        if len(self._latencies_now) < MAX_SAMPLES_PER_POINT:
            self._latencies_now.append(sample.total_ms)
        buckets = self._labelled[sample.device_id]
        if buckets and now_ms - buckets[-1][0] < BUCKET_MS:
            buckets[-1] = (buckets[-1][0], buckets[-1][1] + 1)
        else:
            buckets.append((now_ms, 1))
        while now_ms - buckets[0][0] > RATE_MS:
            buckets.popleft()

    def _close_points(self, now_ms: float) -> None:
        behind = int((now_ms - self._point_began_ms) // POINT_MS)
        if behind > HISTORY_POINTS:  # nobody asked for a long time
            self._point_began_ms += (behind - HISTORY_POINTS) * POINT_MS
        while now_ms - self._point_began_ms >= POINT_MS:
            self._point_began_ms += POINT_MS
            latencies = sorted(self._latencies_now)
            self._history.append(
                ActivityPoint(
                    at_ms=int(self._clock.wall_ms() - (now_ms - self._point_began_ms)),
                    seconds=POINT_MS / 1000,
                    labelled=self._labelled_now,
                    failed=self._failed_now,
                    p50_ms=_quantile(latencies, 0.50),
                    p95_ms=_quantile(latencies, 0.95),
                )
            )
            self._labelled_now = self._failed_now = 0
            self._latencies_now = []


class ObservedPlacement(LocalPlacement):
    """The same placement, and whoever wants to know is told of each request and its plan."""

    observers: tuple[Observer, ...] = ()
    _learned: Mapping[DeviceId, PlacementFacts] = {}
    _learned_at_ms = -math.inf

    async def place(self, request: PlacementRequest) -> PlacementPlan:
        plan = await super().place(request)
        for observe in self.observers:
            observe(request, plan)
        return plan

    def learned(self) -> Mapping[DeviceId, PlacementFacts]:
        """Of each device. Of a large fleet it may be a second old."""
        fleet = self._snapshot()
        if len(fleet.devices) <= LARGE_FLEET or fleet.at_ms - self._learned_at_ms > LEARNED_VALID_MS:
            self._learned_at_ms = fleet.at_ms
            self._learned = {
                device_id: _facts(standing) for device_id, standing in self._memory.idle_view(fleet).standings.items()
            }
        return self._learned


def _facts(standing: Standing) -> PlacementFacts:
    """A model that the device does not have any more is nobody's trouble."""
    failing = (
        (standing.open_ms.get(model, 0.0), breaker.failures, model)
        for model, breaker in standing.memory.breakers.items()
        if model in standing.device.models
    )
    open_ms, failures, model = max(failing, default=(0.0, 0, None))
    return PlacementFacts(window_tasks=standing.window, failing_model=model, failures=failures, open_ms=open_ms)


def _quantile(ordered: Sequence[float], fraction: float) -> float | None:
    """Nearest rank."""
    return ordered[min(len(ordered) - 1, math.ceil(fraction * len(ordered)) - 1)] if ordered else None

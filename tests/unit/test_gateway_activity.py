"""What placement requests tell about work, and for how long it counts."""

from __future__ import annotations

import pytest

from edgesched.domain.device import DeviceId
from edgesched.ports import PlacementPlan
from gateway.activity import HISTORY_POINTS, POINT_MS, Activity
from tests.support.fleets import finished, in_flight, request
from tests.support.gateways import ManualClock

EMPTY = PlacementPlan(decisions=(), routes=())
RK = DeviceId("rk-1")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def test_nothing_is_known_before_the_first_request(clock: ManualClock) -> None:
    work = Activity(clock).of(RK)
    assert (work.in_flight, work.in_flight_bytes, work.pictures_per_s) == (None, None, None)


def test_in_flight_is_what_the_last_request_said(clock: ManualClock) -> None:
    activity = Activity(clock)
    activity.observe(request(flying=in_flight(RK, 3)), EMPTY)
    assert activity.of(RK).in_flight == 3
    activity.observe(request(flying=in_flight(RK, 1)), EMPTY)
    assert activity.of(RK).in_flight == 1
    assert activity.of(DeviceId("other")).in_flight == 0


def test_the_rate_is_of_the_last_ten_seconds(clock: ManualClock) -> None:
    activity = Activity(clock)
    for _ in range(20):
        activity.observe(request(finished=[finished(RK), finished(RK)]), EMPTY)
        clock.now_ms += 1_000
    assert activity.of(RK).pictures_per_s == pytest.approx(2.0, rel=0.11)
    for _ in range(12):
        activity.observe(request(), EMPTY)
        clock.now_ms += 1_000
    assert activity.of(RK).pictures_per_s == 0.0


def test_history_has_one_point_per_interval_and_an_end(clock: ManualClock) -> None:
    activity = Activity(clock)
    samples = [finished(RK, total_ms=float(ms)) for ms in range(1, 101)]
    activity.observe(request(finished=samples), EMPTY)
    clock.now_ms += POINT_MS
    (point,) = activity.history()
    assert (point.labelled, point.failed, point.p50_ms, point.p95_ms) == (100, 0, 50.0, 95.0)
    assert point.at_ms == clock.wall_ms()
    clock.now_ms += 10 * HISTORY_POINTS * POINT_MS
    points = activity.history()
    assert len(points) == HISTORY_POINTS
    assert {point.labelled for point in points} == {0}
    assert points[-1].p50_ms is None
    assert points[-1].at_ms == clock.wall_ms()

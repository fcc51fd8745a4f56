"""What placement learns from finished work, and what it refuses to learn."""

from __future__ import annotations

import math

import pytest

from edgesched.domain.device import DeviceId
from edgesched.placement.estimate import PlacementMemory, link_ms_per_byte, round_trip_ms, service_ms
from tests.support.fleets import MODEL, device, finished, telemetry

BOARD = device("d")
PER_BYTE = 8 / 100_000  # 100 Mbit/s


def service(memory: PlacementMemory) -> float:
    return service_ms(BOARD, memory.of(BOARD.device_id), MODEL)


def per_byte(memory: PlacementMemory) -> float:
    return link_ms_per_byte(BOARD, memory.of(BOARD.device_id))


def test_a_cold_device_is_as_fast_as_its_profile() -> None:
    memory = PlacementMemory()
    assert service(memory) == BOARD.profile.service_ms
    assert per_byte(memory) == pytest.approx(PER_BYTE)
    assert round_trip_ms(BOARD) == BOARD.profile.round_trip_ms


def test_a_sample_moves_the_service_time_by_a_tenth() -> None:
    memory = PlacementMemory()
    memory.learn(finished("d", service_ms=127.0), BOARD)
    assert service(memory) == pytest.approx(27.0 + 0.1 * 100.0)


def test_the_estimate_ends_where_the_samples_are() -> None:
    memory = PlacementMemory()
    for _ in range(100):
        memory.learn(finished("d", service_ms=90.0, transfer_ms=160.0), BOARD)
    assert service(memory) == pytest.approx(90.0, rel=0.01)
    assert per_byte(memory) == pytest.approx(0.001, rel=0.01)


def test_models_are_learned_apart() -> None:
    board = device("d", models=frozenset({MODEL, "other"}))
    memory = PlacementMemory()
    memory.learn(finished("d", service_ms=127.0, model="other"), board)
    assert service_ms(board, memory.of(board.device_id), MODEL) == 27.0
    assert service_ms(board, memory.of(board.device_id), "other") > 27.0


@pytest.mark.parametrize("nonsense", [math.nan, math.inf, -math.inf, -1.0, None])
def test_a_reading_that_is_no_duration_teaches_nothing(nonsense: float | None) -> None:
    memory = PlacementMemory()
    memory.learn(finished("d", service_ms=nonsense, transfer_ms=nonsense), BOARD)
    assert service(memory) == 27.0
    assert per_byte(memory) == pytest.approx(PER_BYTE)


def test_failing_fast_is_not_learned_as_being_fast() -> None:
    memory = PlacementMemory()
    memory.learn(finished("d", service_ms=0.1, transfer_ms=0.1, succeeded=False), BOARD)
    assert service(memory) == 27.0
    assert per_byte(memory) == pytest.approx(PER_BYTE)


def test_small_bodies_say_nothing_about_the_link() -> None:
    memory = PlacementMemory()
    memory.learn(finished("d", size_bytes=32 * 1024, transfer_ms=500.0), BOARD)
    assert per_byte(memory) == pytest.approx(PER_BYTE)


def test_one_impossibly_fast_transfer_does_not_make_the_link_fast() -> None:
    memory = PlacementMemory()
    memory.learn(finished("d", transfer_ms=0.0), BOARD)
    assert per_byte(memory) == pytest.approx(0.9 * PER_BYTE)


def test_a_model_that_the_device_does_not_have_is_not_remembered() -> None:
    memory = PlacementMemory()
    memory.learn(finished("d", model="made-up", service_ms=1.0), BOARD)
    assert memory.of(BOARD.device_id).service_ms == {}


def test_the_link_is_never_thought_faster_than_it_reports() -> None:
    slow = device("d", telemetry=telemetry(link_bandwidth_mbps=10.0))
    fast = device("d", telemetry=telemetry(link_bandwidth_mbps=1000.0))
    memory = PlacementMemory()
    assert link_ms_per_byte(slow, memory.of(slow.device_id)) == pytest.approx(10 * PER_BYTE)
    assert link_ms_per_byte(fast, memory.of(fast.device_id)) == pytest.approx(PER_BYTE)


def test_a_link_reported_as_dead_is_slow_but_finite() -> None:
    dead = device("d", telemetry=telemetry(link_bandwidth_mbps=0.0))
    assert 0.1 < link_ms_per_byte(dead, PlacementMemory().of(dead.device_id)) < math.inf


def test_what_left_is_forgotten() -> None:
    memory = PlacementMemory()
    memory.learn(finished("d", service_ms=127.0), BOARD)
    memory.keep_only({DeviceId("another")})
    assert service(memory) == 27.0

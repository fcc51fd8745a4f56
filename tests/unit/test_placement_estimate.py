"""What placement learns from finished work and from reports, and what it refuses to learn."""

from __future__ import annotations

import math

import pytest

from edgesched.domain.device import Device
from edgesched.placement.estimate import DeviceMemory, link_ms_per_byte, round_trip_ms, service_ms
from tests.support.fleets import MODEL, device, finished, telemetry

BOARD = device("d")
PER_BYTE = 8 / 100_000  # 100 Mbit/s


def memory_of(*samples: dict[str, float | None], board: Device = BOARD, now_ms: float = 0.0) -> DeviceMemory:
    memory = DeviceMemory(boot_id=board.boot_id)
    for sample in samples:
        memory.learn(finished(board.device_id, **sample), board, now_ms)
    return memory


def service(memory: DeviceMemory, now_ms: float = 0.0) -> float:
    return service_ms(BOARD, memory, MODEL, now_ms)


def per_byte(memory: DeviceMemory, now_ms: float = 0.0) -> float:
    return link_ms_per_byte(BOARD, memory, now_ms)


def test_a_cold_device_is_as_fast_as_its_profile() -> None:
    assert service(memory_of()) == BOARD.profile.service_ms
    assert per_byte(memory_of()) == pytest.approx(PER_BYTE)
    assert round_trip_ms(BOARD) == BOARD.profile.round_trip_ms


def test_the_profile_counts_as_one_sample_and_each_later_sample_as_a_tenth_at_least() -> None:
    assert service(memory_of({"service_ms": 127.0})) == pytest.approx(77.0)
    many = memory_of(*[{"service_ms": 27.0}] * 20, {"service_ms": 47.0})
    assert service(many) == pytest.approx(27.0 + 0.1 * 20.0)


def test_one_frozen_second_is_not_the_new_speed() -> None:
    memory = memory_of(*[{"service_ms": 27.0}] * 20, {"service_ms": 2_000.0})
    assert service(memory) <= 27.0 * 1.3 + 1e-9


def test_the_estimate_ends_where_the_samples_are() -> None:
    memory = memory_of(*[{"service_ms": 90.0, "transfer_ms": 160.0}] * 100)
    assert service(memory) == pytest.approx(90.0, rel=0.01)
    assert per_byte(memory) == pytest.approx(0.001, rel=0.01)


def test_without_news_an_estimate_goes_half_way_back_to_the_profile_in_thirty_seconds() -> None:
    memory = memory_of(*[{"service_ms": 127.0, "transfer_ms": 160.0}] * 200)
    assert service(memory, 30_000.0) == pytest.approx(27.0 + 50.0, rel=0.01)
    assert per_byte(memory, 30_000.0) == pytest.approx((0.001 + PER_BYTE) / 2, rel=0.01)
    assert service(memory, 600_000.0) == pytest.approx(27.0, rel=0.01)


def test_models_are_learned_apart() -> None:
    board = device("d", models=frozenset({MODEL, "other"}))
    memory = DeviceMemory(boot_id="b")
    memory.learn(finished("d", service_ms=127.0, model="other"), board, 0.0)
    assert service_ms(board, memory, MODEL, 0.0) == 27.0
    assert service_ms(board, memory, "other", 0.0) > 27.0


@pytest.mark.parametrize("nonsense", [math.nan, math.inf, -math.inf, -1.0, None])
def test_a_reading_that_is_no_duration_teaches_nothing(nonsense: float | None) -> None:
    memory = memory_of({"service_ms": nonsense, "transfer_ms": nonsense, "predicted_ms": nonsense})
    assert service(memory) == 27.0
    assert per_byte(memory) == pytest.approx(PER_BYTE)
    assert memory.late_ms == 0.0


def test_failing_fast_is_not_learned_as_being_fast() -> None:
    memory = memory_of()
    memory.learn(finished("d", service_ms=0.1, transfer_ms=0.1, succeeded=False), BOARD, 0.0)
    assert service(memory) == 27.0
    assert per_byte(memory) == pytest.approx(PER_BYTE)


def test_small_bodies_say_nothing_about_the_link() -> None:
    assert per_byte(memory_of({"size_bytes": 32 * 1024, "transfer_ms": 500.0})) == pytest.approx(PER_BYTE)


def test_one_impossibly_fast_transfer_does_not_make_the_link_fast() -> None:
    memory = memory_of(*[{"transfer_ms": 12.8}] * 20, {"transfer_ms": 0.0})
    assert per_byte(memory) == pytest.approx(0.9 * PER_BYTE)


def test_a_model_that_the_device_does_not_have_is_not_remembered() -> None:
    assert memory_of({"service_ms": 1.0}, board=device("d", models=frozenset())).service == {}


def test_the_link_is_never_thought_faster_than_it_reports() -> None:
    slow = device("d", telemetry=telemetry(link_bandwidth_mbps=10.0))
    fast = device("d", telemetry=telemetry(link_bandwidth_mbps=1000.0))
    assert link_ms_per_byte(slow, memory_of(), 0.0) == pytest.approx(10 * PER_BYTE)
    assert link_ms_per_byte(fast, memory_of(), 0.0) == pytest.approx(PER_BYTE)


def test_an_old_report_of_the_link_counts_no_more() -> None:
    slow = device("d", telemetry=telemetry(link_bandwidth_mbps=10.0))
    memory = memory_of()
    memory.hear(slow, 0.0)
    assert link_ms_per_byte(slow, memory, 5_000.0) == pytest.approx(10 * PER_BYTE)
    assert link_ms_per_byte(slow, memory, 7_000.0) == pytest.approx(PER_BYTE)


def test_a_link_reported_as_dead_is_slow_but_finite() -> None:
    dead = device("d", telemetry=telemetry(link_bandwidth_mbps=0.0))
    assert 0.1 < link_ms_per_byte(dead, memory_of(), 0.0) < math.inf


def test_use_that_our_work_does_not_explain_makes_the_board_slower() -> None:
    memory = memory_of()
    memory.hear(device("d", telemetry=telemetry(xpu_used_fraction=0.0)), 0.0)
    memory.hear(device("d", telemetry=telemetry(xpu_used_fraction=0.8)), 2_000.0)
    assert service(memory, 2_000.0) == pytest.approx(27.0 / (1 - 0.4))
    assert service(memory, 4_000.0) < service(memory, 2_000.0)  # the report grows old
    assert service(memory, 60_000.0) == 27.0


def test_use_that_our_own_work_explains_does_not() -> None:
    memory = memory_of()
    memory.hear(device("d", telemetry=telemetry(xpu_used_fraction=0.0)), 0.0)
    for _ in range(150):  # 150 x 27 ms in 2 s of three slots: 67 %
        memory.learn(finished("d", service_ms=27.0), BOARD, 1_000.0)
    memory.hear(device("d", telemetry=telemetry(xpu_used_fraction=0.7)), 2_000.0)
    assert memory.others == 0.0


def test_the_same_report_again_is_no_news() -> None:
    memory = memory_of()
    board = device("d", telemetry=telemetry(xpu_used_fraction=0.9))
    memory.hear(board, 0.0)
    assert not memory.hear(device("d", telemetry=telemetry(xpu_used_fraction=0.9)), 2_000.0)
    assert memory.others == 0.0

"""Whatever a device tells of itself, placement can reckon with it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesched.domain.device import LARGEST, DeviceProfile, Telemetry
from edgesched.errors import InvalidInput
from edgesched.placement.window import bandwidth_delay


@pytest.mark.parametrize("field", ["service_ms", "link_mbps", "round_trip_ms"])
@pytest.mark.parametrize("value", [1.7e308, float("inf"), float("nan"), -1.0])
def test_a_profile_beyond_all_measure_is_refused(field: str, value: float) -> None:
    usual = {"slots": 1, "service_ms": 5.0, "link_mbps": 1000.0, "round_trip_ms": 1.0}
    with pytest.raises(InvalidInput, match=field):
        DeviceProfile(**{**usual, field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [1.7e308, float("-inf"), float("nan")])
def test_a_reading_beyond_all_measure_is_refused(value: float) -> None:
    with pytest.raises(InvalidInput, match="link_latency_ms"):
        Telemetry(link_latency_ms=value)


TIMES = st.floats(min_value=0.0, max_value=LARGEST)


@given(TIMES, TIMES, TIMES, st.integers(1, 256))
def test_a_window_can_be_reckoned_for_every_profile_that_is_taken(
    service_ms: float, transfer_ms: float, round_trip_ms: float, slots: int
) -> None:
    window = bandwidth_delay(service_ms=service_ms, transfer_ms=transfer_ms, round_trip_ms=round_trip_ms, slots=slots)
    assert 1 <= window <= 1_000_000

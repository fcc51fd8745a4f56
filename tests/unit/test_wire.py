"""What comes over the wire from boards is checked where it is read."""

from __future__ import annotations

from edgesched import wire
from edgesched.domain.task import Timings
from edgesched.v1 import types_pb2 as types


def test_a_time_that_is_no_duration_is_not_known() -> None:
    told = types.Timings(
        service_ms=float("nan"), transfer_ms=float("inf"), queued_ms=-1.0, infer_ms=12.5, decode_ms=0.0
    )
    assert wire.timings(told) == Timings(infer_ms=12.5, decode_ms=0.0)


def test_timings_are_read_as_they_were_written() -> None:
    timings = Timings(queued_ms=1.0, service_ms=20.0)
    assert wire.timings(wire.timings_to_pb(timings)) == timings

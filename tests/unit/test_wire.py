"""What comes over the wire from boards is checked where it is read."""

from __future__ import annotations

from dataclasses import replace

from edgesched import wire
from edgesched.domain.lifecycle import State
from edgesched.domain.task import Priority, Submission, TaskFilter, Timings
from edgesched.v1 import types_pb2 as types


def test_a_time_that_is_no_duration_is_not_known() -> None:
    told = types.Timings(
        service_ms=float("nan"), transfer_ms=float("inf"), queued_ms=-1.0, infer_ms=12.5, decode_ms=0.0
    )
    assert wire.timings(told) == Timings(infer_ms=12.5, decode_ms=0.0)


def test_timings_are_read_as_they_were_written() -> None:
    timings = Timings(queued_ms=1.0, service_ms=20.0)
    assert wire.timings(wire.timings_to_pb(timings)) == timings


def test_a_submission_is_read_as_it_was_written() -> None:
    plain = Submission(
        model="shapes",
        file_name="a.jpg",
        image=b"x",
        client_id="me",
        submission_key="k",
        receiver_url=None,
        remaining_ms=None,
    )
    whole = replace(plain, receiver_url="http://127.0.0.1:8888", remaining_ms=5, traceparent="00-ab-cd-01")
    whole = replace(whole, priority=Priority.HIGH)
    for submission in (plain, whole):
        assert wire.submission(wire.submission_to_pb(submission)) == submission


def test_a_filter_is_read_as_it_was_written() -> None:
    for filter_ in (TaskFilter(), TaskFilter(state=State.DONE, model="m", client_id="c", priority=Priority.LOW)):
        assert wire.list_filter(wire.list_request(filter_, limit=5, cursor=None)) == filter_

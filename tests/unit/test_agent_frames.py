"""What a worker may say; everything else is refused before it can do harm."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.frames import (
    MAX_HEADER_BYTES,
    PREFIX,
    Done,
    Dropped,
    Failed,
    FrameReader,
    LogLine,
    Pulse,
    Ready,
    Started,
    Unavailable,
    frame_start,
    parse,
)
from edgesched import wire
from edgesched.domain.task import FailureKind
from edgesched.errors import InvalidInput

DETECTION = {"class_id": 1, "label": "star", "confidence": 0.5, "x1": 1, "y1": 2, "x2": 3.5, "y2": 4}
DONE: dict[str, Any] = {
    "type": "done",
    "attempt_id": "a1",
    "detections": [DETECTION],
    "width": 10,
    "height": 20,
    "decode_ms": 1,
    "preprocess_ms": 2,
    "infer_ms": 3.5,
    "postprocess_ms": 4,
    "service_ms": 11,
    "overrun_ms": 0,
}


def read(**header: Any) -> Any:
    return parse(json.dumps(header).encode())


def test_every_message_is_understood() -> None:
    assert read(type="ready", pid=5, python="3.8", versions={"numpy": "1"}, models=["a"]) == Ready(
        pid=5, python="3.8", versions={"numpy": "1"}, models=("a",)
    )
    partly = read(type="ready", pid=5, python="3", versions={}, models=["a"], unavailable_models={"b": "its file"})
    assert partly.unavailable_models == {"b": "its file"}
    assert read(type="dropped", attempt_id="a1") == Dropped(attempt_id="a1")
    assert read(type="unavailable", reason="no driver") == Unavailable(reason="no driver")
    assert read(type="started", attempt_id="a1") == Started(attempt_id="a1")
    assert read(type="heartbeat") == Pulse()
    assert read(type="log", level="info", event="x", fields={"a": 1}) == LogLine(
        level="info", event="x", fields={"a": 1}
    )
    failed = read(type="failed", attempt_id="a1", kind="invalid_input", message="x" * 9_999)
    assert isinstance(failed, Failed)
    assert failed.failure().kind is FailureKind.INVALID_INPUT
    assert len(failed.failure().message) == 2_000


READY: dict[str, Any] = {"type": "ready", "pid": 5, "python": "3.8", "versions": {}, "models": ["a", "b"]}


def test_a_worker_says_what_it_measured_of_batches() -> None:
    on = {"sizes": [1, 2, 4], "curve_ms": {"1": 8.04, "2": 6, "4": 5}}
    off = {"sizes": [1], "curve_ms": {"1": 6.9, "2": 7.1}}
    ready = read(**READY, batches={"a": on, "b": off})
    assert isinstance(ready, Ready)
    assert ready.largest_batch == 4
    assert str(ready.batches["a"]) == "batches of up to 4 (ms per picture by size: 1: 8.0, 2: 6.0, 4: 5.0)"
    assert str(ready.batches["b"]) == "no batches (ms per picture by size: 1: 6.9, 2: 7.1)"
    assert read(**READY).largest_batch == 1


@pytest.mark.parametrize("size", [0, 65])
def test_a_batch_of_an_impossible_size_is_refused(size: int) -> None:
    with pytest.raises(InvalidInput, match="sizes"):
        read(**READY, batches={"a": {"sizes": [1, size], "curve_ms": {}}})


def test_time_for_others_in_a_batch_counts_as_waiting() -> None:
    result = read(**DONE, others_ms=33).result(queued_ms=7.0, transfer_ms=None)
    assert (result.timings.queued_ms, result.timings.service_ms) == (40.0, 11)


def test_labels_and_times_of_worker_and_daemon_come_together() -> None:
    done = read(**DONE, something_new=5)
    assert isinstance(done, Done)
    result = done.result(queued_ms=7.0, transfer_ms=None)
    assert [d.label for d in result.detections] == ["star"]
    assert (result.timings.queued_ms, result.timings.infer_ms, result.timings.transfer_ms) == (7.0, 3.5, None)
    assert wire.result(wire.result_to_pb(result)) == result


@pytest.mark.parametrize(
    "change",
    [
        {"detections": [{**DETECTION, "class_id": 2**31}]},
        {"detections": [{**DETECTION, "class_id": -1}]},
        {"detections": [{**DETECTION, "confidence": 1.5}]},
        {"detections": [{**DETECTION, "x2": 0}]},
        {"detections": [{**DETECTION, "x1": float("nan")}]},
        {"detections": [{**DETECTION, "label": None}]},
        {"detections": None},
        {"width": 0},
        {"height": 2**32},
        {"service_ms": -1},
        {"infer_ms": float("inf")},
        {"attempt_id": 5},
        {"type": "finished"},
        {"type": None},
    ],
)
def test_an_answer_that_would_break_something_later_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        read(**{**DONE, **change})


@pytest.mark.parametrize("header", [b"", b"5", b"[]", b'"type"', b"{}", b"\xff", b'{"type": {}}', b"[" * 100_000])
def test_a_header_that_is_no_message_is_refused(header: bytes) -> None:
    with pytest.raises(InvalidInput):
        parse(header)


@given(st.lists(st.sampled_from(["a", "b" * 300, "ü"]), max_size=8), st.data())
def test_frames_are_found_however_the_bytes_arrive(attempts: list[str], data: st.DataObject) -> None:
    stream = b"".join(frame_start({"type": "started", "attempt_id": a}, 0) for a in attempts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    reader = FrameReader()
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert [m for piece in pieces for m in reader.feed(piece)] == [Started(attempt_id=a) for a in attempts]


@pytest.mark.parametrize("sizes", [(MAX_HEADER_BYTES + 1, 0), (2, 1), (2**32 - 1, 2**32 - 1)])
def test_sizes_that_no_worker_sends_are_refused_before_anything_is_kept(sizes: tuple[int, int]) -> None:
    with pytest.raises(InvalidInput):
        list(FrameReader().feed(PREFIX.pack(*sizes)))


def test_messages_before_a_bad_frame_are_not_lost() -> None:
    good = frame_start({"type": "started", "attempt_id": "a1"}, 0)
    messages = FrameReader().feed(good + b"this is no frame")
    assert next(messages) == Started(attempt_id="a1")
    with pytest.raises(InvalidInput):
        next(messages)

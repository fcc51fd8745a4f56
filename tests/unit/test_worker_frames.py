from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.worker.errors import FrameError
from agents.worker.frames import MAX_BODY_BYTES, MAX_HEADER_BYTES, read_frame
from tests.support.frames import write_frame


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair()
    with left, right:
        left.settimeout(5)
        right.settimeout(5)
        yield left, right


@given(
    st.dictionaries(st.text(), st.integers() | st.text() | st.none() | st.lists(st.floats(allow_nan=False, width=16))),
    st.binary(max_size=5_000),
)
def test_a_frame_arrives_as_it_was_sent(fields: dict[str, object], body: bytes) -> None:
    header = {**{k: v for k, v in fields.items() if "inf" not in repr(v)}, "type": "task"}
    left, right = socket.socketpair()
    with left, right:
        write_frame(left, header, body)
        assert read_frame(right) == (header, bytearray(body))


def test_a_closed_socket_between_frames_is_the_end(pair: tuple[socket.socket, socket.socket]) -> None:
    write_frame(pair[0], {"type": "stop"})
    pair[0].close()
    assert read_frame(pair[1])[0] == {"type": "stop"}
    with pytest.raises(EOFError):
        read_frame(pair[1])


@pytest.mark.parametrize("kept", [1, 7, 8, 12, 30])
def test_a_torn_frame_is_refused(pair: tuple[socket.socket, socket.socket], kept: int) -> None:
    header = b'{"type":"task"}'
    pair[0].sendall((struct.pack("<II", len(header), 20) + header + b"x" * 20)[:kept])
    pair[0].close()
    with pytest.raises(FrameError, match="ended inside a frame"):
        read_frame(pair[1])


@pytest.mark.parametrize("sizes", [(MAX_HEADER_BYTES + 1, 0), (20, MAX_BODY_BYTES + 1)])
def test_lengths_over_the_bounds_are_refused_unread(
    pair: tuple[socket.socket, socket.socket], sizes: tuple[int, int]
) -> None:
    pair[0].sendall(struct.pack("<II", *sizes))
    with pytest.raises(FrameError, match="over the limit"):
        read_frame(pair[1])


@pytest.mark.parametrize("header", [b"", b"nonsense", b"[1]", b'{"kind":"task"}', b'{"type":3}', b"\xff\xfe"])
def test_a_header_that_is_no_typed_object_is_refused(pair: tuple[socket.socket, socket.socket], header: bytes) -> None:
    pair[0].sendall(struct.pack("<II", len(header), 0) + header)
    with pytest.raises(FrameError, match="header"):
        read_frame(pair[1])


@pytest.mark.parametrize("header", [{"type": "done", "x": float("nan")}, {"type": "log", "x": "y" * MAX_HEADER_BYTES}])
def test_a_frame_that_may_not_be_sent_leaves_the_stream_whole(
    pair: tuple[socket.socket, socket.socket], header: dict[str, object]
) -> None:
    with pytest.raises(FrameError):
        write_frame(pair[0], header)
    write_frame(pair[0], {"type": "heartbeat"})
    assert read_frame(pair[1])[0] == {"type": "heartbeat"}

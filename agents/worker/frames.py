"""Frames on the socket between daemon and worker.

A frame is two little-endian uint32 (header bytes, body bytes), then the header (a UTF-8 JSON object that has a
"type"), then the body (an encoded picture, or nothing).
"""

from __future__ import annotations

import json
import socket
import struct
from typing import Any, Dict, Mapping, Tuple

from .errors import FrameError

PREFIX = struct.Struct("<II")
MAX_HEADER_BYTES = 1 << 20
MAX_BODY_BYTES = 256 << 20

_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"))  # json.dumps would make one for each frame


def read_frame(sock: socket.socket) -> Tuple[Dict[str, Any], bytearray]:
    """Wait for the next frame.

    Returns: its header and its body; the body was received straight into the one buffer that is returned.
    Raises: EOFError if the other end closed between two frames; FrameError if it closed inside one, if a length is
        over its bound, or if the header is no JSON object with a "type".
    """
    prefix = bytearray(PREFIX.size)
    got = _receive_into(sock, prefix)
    if got == 0:
        raise EOFError("the other end closed the socket")
    _expect_whole(got, prefix, "prefix")
    header_size, body_size = PREFIX.unpack(prefix)
    _check_bounds(header_size, body_size)
    header_bytes, body = bytearray(header_size), bytearray(body_size)
    _expect_whole(_receive_into(sock, header_bytes), header_bytes, "header")
    _expect_whole(_receive_into(sock, body), body, "body")
    return _parse_header(header_bytes), body


def encoded(header: Mapping[str, Any], body_size: int = 0) -> bytes:
    """A frame up to its body. Raises: FrameError if it is over a bound or holds NaN or infinity."""
    try:
        header_bytes = _ENCODER.encode(header).encode()
    except ValueError as error:
        raise FrameError(f"the header of a {header.get('type')!r} frame is not JSON: {error}") from error
    _check_bounds(len(header_bytes), body_size)
    return PREFIX.pack(len(header_bytes), body_size) + header_bytes


def _receive_into(sock: socket.socket, buffer: bytearray) -> int:
    """Fill the buffer; returns how many bytes came before the stream ended, all of them as a rule."""
    view, got = memoryview(buffer), 0
    while got < len(buffer):
        try:
            count = sock.recv_into(view[got:])
        except ConnectionResetError:  # the other end closed with frames of ours unread
            break
        if count == 0:
            break
        got += count
    return got


def _expect_whole(got: int, buffer: bytearray, part: str) -> None:
    if got < len(buffer):
        raise FrameError(f"the stream ended inside a frame: {got} of {len(buffer)} bytes of the {part} came")


def _check_bounds(header_size: int, body_size: int) -> None:
    if header_size > MAX_HEADER_BYTES:
        raise FrameError(f"a header of {header_size} bytes is over the limit of {MAX_HEADER_BYTES}")
    if body_size > MAX_BODY_BYTES:
        raise FrameError(f"a body of {body_size} bytes is over the limit of {MAX_BODY_BYTES}")


def _parse_header(header_bytes: bytearray) -> Dict[str, Any]:
    try:
        header = json.loads(header_bytes.decode())
    except ValueError as error:
        raise FrameError(f"a header is not UTF-8 JSON: {error}") from error
    if not isinstance(header, dict) or not isinstance(header.get("type"), str):
        raise FrameError('a header is not a JSON object with a "type"')
    return header

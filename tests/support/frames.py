"""The daemon's end of a worker's socket, by hand."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

from agents.worker.frames import encoded


def write_frame(sock: socket.socket, header: Mapping[str, Any], body: bytes = b"") -> None:
    sock.sendall(encoded(header, len(body)) + body)

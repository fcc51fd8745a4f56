"""Where this machine is, as seen by the task manager, and whether a receiver listens there."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from contextlib import suppress
from urllib.parse import urlsplit

from edgesched.errors import StartupError

PROBE_S = 1.0


def local_address_towards(host: str, port: int) -> str:
    """The address of this machine that packets to `host` leave from. Nothing is sent.

    Raises: StartupError if the name is not known or no route leads there.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(address)  # UDP: only picks the route
            return str(probe.getsockname()[0])
    except (OSError, UnicodeError) as error:
        raise StartupError(f"--host {host}: cannot be reached: {error}") from error


def joined(host: str, port: int) -> str:
    """`host:port`, with the brackets that an IPv6 address needs."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_receiver_url(url: str) -> str:
    """The URL itself.

    Raises: StartupError if nothing could be posted to it.
    """
    with suppress(ValueError):  # a port that is no number
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and url.isprintable():
            return url
    raise StartupError(f"--receiver {url}: give a URL such as http://192.168.1.5:8888")


async def somebody_listens(host: str, port: int) -> bool:
    try:
        async with asyncio.timeout(PROBE_S):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True

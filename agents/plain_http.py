"""POSTs over kept connections to receivers that speak the plainest HTTP/1.1; most do.

aiohttp's client costs five times as much per POST (measured: 195 us of CPU against 38), and a busy board makes one for
every picture or two. Whatever is not plain, in the URL or in an answer, is left to aiohttp: a POST may be repeated.
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

from yarl import URL

from agents.http import MAX_REPLY_BYTES, Reply
from edgesched.errors import PeerUnavailable

KEPT_CONNECTIONS = 8
KEPT_S = 15.0
"""One that was not used for so long may have died in silence; servers and routers forget them after a minute or so."""

HTTP_PORT = 80
MAX_HEAD_BYTES = 16 * 1024
STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([2-5]\d\d)(?: [^\r\n]*)?")
FRAMING = (b"content-length", b"transfer-encoding", b"connection")


class NotPlain(Exception):
    """Only a whole HTTP client can make this call."""


@dataclass(frozen=True, slots=True)
class Target:
    host: str
    port: int
    head: bytes  # of a request, up to the length of its body


class PlainHttp:
    """Keeps one connection per origin, of those that were used last."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, int], _Connection] = {}

    async def post(self, url: str, body: bytes, *, timeout_s: float) -> Reply:
        """One POST with a JSON body, to the URL exactly as it is given.

        Raises: NotPlain; PeerUnavailable if no whole answer came in time.
        """
        target = target_of(url)
        if target is None:
            raise NotPlain(f"{url!r} is not a plain http URL")
        try:
            if (kept := self._take(target)) is not None:
                try:
                    return await self._post(kept, target, body, timeout_s)
                except ConnectionError:  # it was closed meanwhile, as connections are that were idle for long
                    pass
            async with asyncio.timeout(timeout_s):
                connection = await _connect(target)
            return await self._post(connection, target, body, timeout_s)
        except TimeoutError as error:
            raise PeerUnavailable(f"no answer within {timeout_s:.0f} s") from error
        except OSError as error:
            raise PeerUnavailable(str(error) or type(error).__name__) from error

    async def _post(self, connection: _Connection, target: Target, body: bytes, timeout_s: float) -> Reply:
        reply = await connection.post(target, body, timeout_s)
        self._keep(target, connection)
        return reply

    def close(self) -> None:
        for connection in self._kept.values():
            connection.close()
        self._kept.clear()

    def _take(self, target: Target) -> _Connection | None:
        connection = self._kept.pop((target.host, target.port), None)
        if connection is None or connection.is_usable:
            return connection
        connection.close()
        return None

    def _keep(self, target: Target, connection: _Connection) -> None:
        if not connection.is_usable:
            connection.close()
            return
        self._kept[target.host, target.port], replaced = connection, self._kept.pop((target.host, target.port), None)
        if replaced is not None:
            replaced.close()
        while len(self._kept) > KEPT_CONNECTIONS:
            self._kept.pop(next(iter(self._kept))).close()


async def _connect(target: Target) -> _Connection:
    _, connection = await asyncio.get_running_loop().create_connection(_Connection, target.host, target.port)
    return connection


class _Connection(asyncio.Protocol):
    """One request at a time. An error or a timeout closes it."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._reply: asyncio.Future[Reply] | None = None
        self._used_at = 0.0
        self._may_be_kept = True

    @property
    def is_usable(self) -> bool:
        is_open = self._transport is not None and not self._transport.is_closing()
        return is_open and self._may_be_kept and time.monotonic() - self._used_at < KEPT_S

    async def post(self, target: Target, body: bytes, timeout_s: float) -> Reply:
        """Raises: OSError, TimeoutError, NotPlain, PeerUnavailable."""
        loop = asyncio.get_running_loop()
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the connection was closed")
        self._reply = loop.create_future()
        self._transport.write(b"%b%d\r\n\r\n%b" % (target.head, len(body), body))
        timer = loop.call_later(timeout_s, self._fail, TimeoutError())  # much cheaper than asyncio.timeout
        try:
            reply = await self._reply
        except BaseException:
            self.close()
            raise
        finally:
            timer.cancel()
            self._reply = None
        self._used_at = time.monotonic()
        return reply

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # --- called by the event loop ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are not derived from it
        self._used_at = time.monotonic()

    def data_received(self, data: bytes) -> None:
        if self._reply is None or self._reply.done():
            self.close()  # nobody asked for it
            return
        self._received += data
        try:
            reply = self._whole_reply()
        except (NotPlain, PeerUnavailable) as error:
            self._fail(error)
            return
        if reply is not None:
            self._received.clear()
            self._reply.set_result(reply)

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(error or ConnectionResetError("it closed the connection without a whole answer"))

    def _fail(self, error: Exception) -> None:
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(error)

    def _whole_reply(self) -> Reply | None:
        """Raises: NotPlain, PeerUnavailable."""
        received = self._received
        end = received.find(b"\r\n\r\n")
        if end < 0:
            if len(received) > MAX_HEAD_BYTES:
                raise NotPlain("the answer's head is long")
            return None
        head = parse_head(bytes(received[:end]))
        start = end + 4
        missing = start + head.length - len(received)
        if head.length > MAX_REPLY_BYTES:
            raise PeerUnavailable(f"its answer is longer than {MAX_REPLY_BYTES} bytes")
        if missing > 0:
            return None
        self._may_be_kept = head.is_kept and missing == 0
        return Reply(status=head.status, body=bytes(received[start : start + head.length]))


@dataclass(frozen=True, slots=True)
class Head:
    status: int
    length: int
    is_kept: bool  # the connection may be used again


def parse_head(data: bytes) -> Head:
    """The head of an answer, without the empty line. Raises: NotPlain for any that leaves room for doubt."""
    status_line, *lines = data.split(b"\r\n")
    status = STATUS_LINE.fullmatch(status_line)
    headers: dict[bytes, bytes] = {}
    for line in lines:
        name, _, value = line.partition(b":")
        if (name := name.lower()) in FRAMING:
            if name in headers:
                raise NotPlain(f"the answer says twice what its {name.decode()} is")
            headers[name] = value.strip().lower()
    length = headers.get(b"content-length", b"")
    if status is None or not length.isdigit() or len(length) > 18 or b"transfer-encoding" in headers:
        raise NotPlain(f"the answer is not plain: {data[:200]!r}")
    is_kept = status[1] == b"1" and headers.get(b"connection", b"keep-alive") == b"keep-alive"
    return Head(int(status[2]), int(length), is_kept)


@lru_cache(maxsize=64)
def target_of(url: str) -> Target | None:
    """None: not a plain one."""
    if not re.fullmatch(r"http://[!-~]+", url):
        return None
    try:
        parsed = URL(url, encoded=True)
        host, port = parsed.raw_host, parsed.port
    except ValueError:
        return None
    if not host or not port or parsed.raw_user is not None or parsed.raw_password is not None:
        return None
    named = f"[{host}]" if ":" in host else host
    if port != HTTP_PORT:
        named += f":{port}"
    head = f"POST {parsed.raw_path_qs} HTTP/1.1\r\nHost: {named}\r\nContent-Type: application/json\r\n"
    return Target(host, port, f"{head}Accept: */*\r\nUser-Agent: edgesched\r\nContent-Length: ".encode("ascii"))

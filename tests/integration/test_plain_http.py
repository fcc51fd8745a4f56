"""POSTs over kept connections: what is plain is done at once, whatever is not is left to a whole HTTP client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from agents.http import MAX_REPLY_BYTES
from agents.plain_http import KEPT_CONNECTIONS, NotPlain, PlainHttp, target_of
from edgesched.errors import PeerUnavailable

WITHIN_S = 10.0
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


class Server:
    """Answers each request on a connection with the next of these bytes; after the last one it closes it."""

    def __init__(self, answers: Sequence[bytes]) -> None:
        self.url = ""
        self.requests: list[bytes] = []
        self.connections = 0
        self.closed = asyncio.Event()
        self._answers = answers

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            for answer in self._answers:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(length))
                for part in answer.split(b"|"):  # each comes alone
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(0)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            self.closed.set()


@asynccontextmanager
async def serving(*answers: bytes) -> AsyncIterator[Server]:
    server = Server(answers)
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0) as listener:
        server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/a%2Fb?c=%3D"
        yield server


@asynccontextmanager
async def plain_http() -> AsyncIterator[PlainHttp]:
    plain = PlainHttp()
    try:
        yield plain
    finally:
        plain.close()


async def test_one_connection_serves_many_posts_to_the_url_as_it_was_given() -> None:
    async with serving(OK, OK, OK) as server, plain_http() as plain:
        for _ in range(3):
            reply = await plain.post(server.url, b'{"a": 1}', timeout_s=WITHIN_S)
            assert (reply.status, reply.body) == (200, b"hi")
        assert server.connections == 1
        for request in server.requests:
            assert request.startswith(b"POST /a%2Fb?c=%3D HTTP/1.1\r\nHost: 127.0.0.1:")
            assert b"\r\nContent-Type: application/json\r\n" in request
            assert request.endswith(b'\r\n\r\n{"a": 1}')


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Len|gth:2\r\n|\r\n|h|i",
        b"HTTP/1.1 200\r\nSet-Cookie: a\r\nSet-Cookie: b\r\ncontent-length:  2 \r\n\r\nhi",
    ],
)
async def test_an_answer_may_come_in_pieces_and_be_written_in_any_way(answer: bytes) -> None:
    async with serving(answer) as server, plain_http() as plain:
        assert (await plain.post(server.url, b"", timeout_s=WITHIN_S)).body == b"hi"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi, and more",
    ],
)
async def test_a_connection_that_cannot_be_used_again_is_not(answer: bytes) -> None:
    async with serving(answer, answer) as server, plain_http() as plain:
        for _ in range(2):
            assert (await plain.post(server.url, b"", timeout_s=WITHIN_S)).body == b"hi"
        assert server.connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\n\r\nuntil it closes",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000,
    ],
)
async def test_an_answer_that_is_not_plain_is_left_to_others(answer: bytes) -> None:
    async with serving(answer) as server, plain_http() as plain:
        with pytest.raises(NotPlain):
            await plain.post(server.url, b"", timeout_s=WITHIN_S)
        await asyncio.wait_for(server.closed.wait(), WITHIN_S)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (MAX_REPLY_BYTES + 1),
    ],
)
async def test_an_answer_that_is_not_whole_or_too_long_is_none(answer: bytes) -> None:
    async with serving(answer) as server, plain_http() as plain:
        with pytest.raises(PeerUnavailable):
            await plain.post(server.url, b"", timeout_s=WITHIN_S)


async def test_who_does_not_answer_in_time_loses_the_connection() -> None:
    async with serving(b"HTTP/1.1 ", OK) as server, plain_http() as plain:
        with pytest.raises(PeerUnavailable, match="no answer within") as raised:
            await plain.post(server.url, b"", timeout_s=0.05)
        assert isinstance(raised.value.__cause__, TimeoutError)
        await asyncio.wait_for(server.closed.wait(), WITHIN_S)


async def test_a_receiver_that_was_restarted_gets_a_new_connection() -> None:
    async with serving(OK) as server, plain_http() as plain:
        for _ in range(2):
            await plain.post(server.url, b"", timeout_s=WITHIN_S)
            await asyncio.wait_for(server.closed.wait(), WITHIN_S)
        assert server.connections == 2


async def test_a_receiver_that_is_not_there_is_unavailable() -> None:
    async with serving(OK) as server:
        pass
    async with plain_http() as plain:
        with pytest.raises(PeerUnavailable):
            await plain.post(server.url, b"", timeout_s=WITHIN_S)


@pytest.mark.parametrize(
    "url",
    [
        "https://host/",
        "http://user:secret@host/",
        "http://host:99999/",
        "http://host/a b",
        "http://host/\r\nX-Evil: 1",
        "http://höst/",
        "http:///path",
        "ftp://host/",
        "nonsense",
    ],
)
async def test_a_url_that_is_not_plain_is_left_to_others(url: str) -> None:
    async with plain_http() as plain:
        with pytest.raises(NotPlain):
            await plain.post(url, b"", timeout_s=WITHIN_S)


def test_hosts_are_named_as_the_standard_wants_it() -> None:
    for url, host, port, named in (
        ("http://host", "host", 80, b"POST / HTTP/1.1\r\nHost: host\r\n"),
        ("http://host:8080/x#y", "host", 8080, b"POST /x HTTP/1.1\r\nHost: host:8080\r\n"),
        ("http://[::1]:81/?q", "::1", 81, b"POST /?q HTTP/1.1\r\nHost: [::1]:81\r\n"),
    ):
        target = target_of(url)
        assert target is not None
        assert (target.host, target.port) == (host, port)
        assert target.head.startswith(named)


async def test_only_so_many_connections_are_kept() -> None:
    count = KEPT_CONNECTIONS + 1
    async with plain_http() as plain, AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(serving(OK, OK)) for _ in range(count)]
        for server in [*servers, *reversed(servers)]:
            await plain.post(server.url, b"", timeout_s=WITHIN_S)
        assert [server.connections for server in servers] == [2, *[1] * KEPT_CONNECTIONS]

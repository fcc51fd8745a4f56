"""A peer that vanishes without a word: no reset, no end of the connection, just silence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from edgesched import wire
from tests.chaos.link import Link

QUICK = dict(wire.keepalive(200, 200))
WITHIN_S = 5.0


async def answer_all(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[Any, Any]) -> None:
    async for request in requests:
        await context.write(request)


@asynccontextmanager
async def echoing(options: dict[str, int]) -> AsyncIterator[str]:
    server = grpc.aio.server(options=list(options.items()))
    handler = grpc.stream_stream_rpc_method_handler(answer_all)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("echo.Echo", {"Echo": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def test_a_stream_to_a_peer_that_has_vanished_breaks_after_two_short_times() -> None:
    async with echoing(dict(wire.SERVER_OPTIONS)) as address:
        link = Link("to the peer", address)
        options = list((dict(wire.CHANNEL_OPTIONS) | QUICK).items())
        async with link.opened(), grpc.aio.insecure_channel(link.address, options=options) as channel:
            call = channel.stream_stream("/echo.Echo/Echo")()
            await call.write(b"are you there?")
            assert await call.read() == b"are you there?"
            link.stall()

            async with asyncio.timeout(WITHIN_S):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await call.read()

    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("options", [wire.CHANNEL_OPTIONS, wire.SERVER_OPTIONS], ids=["channel", "server"])
def test_everybody_keeps_to_the_times_that_were_seen_to_work(options: tuple[tuple[str, int], ...]) -> None:
    times = dict(options)

    assert times["grpc.http2.ping_timeout_ms"] == times["grpc.keepalive_timeout_ms"] <= 5_000
    assert times["grpc.keepalive_time_ms"] <= 10_000

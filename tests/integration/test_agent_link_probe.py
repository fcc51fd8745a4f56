"""What a board learns of a link over which no pictures come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from agents.link import LinkMeter, LinkShaper
from agents.link_probe import LARGEST_BYTES, SMALLEST_BYTES, LinkProbe, next_size
from gateway.api.link import LinkProbe as GatewaySide
from gateway.problems import problems
from tests.support.agent_parts import WITHIN_S, listening, logged


class Bytes:
    """A gateway that gives them as its `answer` says, and notes how many were asked for."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[int] = asyncio.Queue()
        self.pause_s = 0.0
        self.status = 200
        self.missing = 0

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/api/v1/link-probe", self._give)
        return app

    async def next(self) -> int:
        async with asyncio.timeout(WITHIN_S):
            return await self.asked.get()

    async def _give(self, request: web.Request) -> web.StreamResponse:
        size = int(request.query["bytes"])
        response = web.StreamResponse(status=self.status)
        response.content_length = size - self.missing
        await response.prepare(request)
        await response.write(b"x" * 1_000)
        await asyncio.sleep(self.pause_s)
        await response.write(b"x" * (size - 1_000 - self.missing))
        await response.write_eof()
        self.asked.put_nowait(size)
        return response


@asynccontextmanager
async def probing(
    source: Bytes, meter: LinkMeter, *, shaper: LinkShaper | None = None, interval_s: float = 0.01
) -> AsyncIterator[None]:
    known = asyncio.Event()
    known.set()
    async with listening(source.app()) as url, aiohttp.ClientSession() as session:
        probe = asyncio.create_task(LinkProbe(url, session, meter, shaper).run(known, interval_s))
        try:
            yield
        finally:
            probe.cancel()
            await asyncio.wait({probe})
            assert probe.cancelled()


async def test_an_idle_link_is_measured_from_real_bytes() -> None:
    source, meter = Bytes(), LinkMeter()
    source.pause_s = 0.01  # so that the bytes come slowly enough to be measured
    async with probing(source, meter):
        assert await source.next() == SMALLEST_BYTES
        await source.next()  # the first was noted
        assert meter.bandwidth_mbps is not None
        assert 0.0 < meter.bandwidth_mbps <= SMALLEST_BYTES * 8 / 0.01 / 1e6


def test_more_bytes_are_asked_for_where_they_come_too_quickly_but_never_many() -> None:
    size = SMALLEST_BYTES
    for duration_ms, expected in (
        (0.0, 4 * SMALLEST_BYTES),
        (50.0, 4 * SMALLEST_BYTES),
        (1.0, LARGEST_BYTES),
        (1.0, LARGEST_BYTES),
        (200.0, 4 * SMALLEST_BYTES),
        (2_000.0, SMALLEST_BYTES),
        (2_000.0, SMALLEST_BYTES),
    ):
        size = next_size(size, duration_ms)
        assert size == expected


async def test_an_emulated_link_shows_its_own_bandwidth() -> None:
    source, meter = Bytes(), LinkMeter()
    async with probing(source, meter, shaper=LinkShaper(mbps=20.0, round_trip_ms=2.0)):
        await source.next()
        await source.next()
        assert meter.bandwidth_mbps is not None
        assert 0.0 < meter.bandwidth_mbps <= 20.1


async def test_a_link_with_pictures_is_left_alone() -> None:
    source, meter = Bytes(), LinkMeter()
    meter.transferred(100_000, 10.0)
    async with probing(source, meter, interval_s=600.0):
        await asyncio.sleep(0)
        assert source.asked.empty()
    assert meter.bandwidth_mbps == pytest.approx(80.0)


@pytest.mark.parametrize(("status", "missing"), [(404, 0), (200, 500)])
async def test_an_answer_that_is_none_leaves_the_bandwidth_unknown(status: int, missing: int) -> None:
    source, meter = Bytes(), LinkMeter()
    source.status, source.missing = status, missing
    async with probing(source, meter):
        for _ in range(3):
            await source.next()
    assert meter.bandwidth_mbps is None


async def test_a_gateway_that_is_not_there_is_asked_again() -> None:
    meter, known = LinkMeter(), asyncio.Event()
    known.set()
    async with aiohttp.ClientSession() as session:
        with logged("link.probe_failed") as failed:
            probe = asyncio.create_task(LinkProbe("http://127.0.0.1:1", session, meter, None).run(known, 0.001))
            await asyncio.wait_for(failed.wait(), WITHIN_S)
        assert not probe.done()
        probe.cancel()
        await asyncio.wait({probe})
    assert meter.bandwidth_mbps is None


async def test_the_gateway_gives_as_many_bytes_as_were_asked_for_within_a_bound() -> None:
    app = web.Application(middlewares=[problems])
    (route,) = GatewaySide().routes()
    app.router.add_get(route.path, route.handler)
    async with listening(app) as url, aiohttp.ClientSession() as session:
        for query, status, size in (("?bytes=1000", 200, 1_000), ("", 200, SMALLEST_BYTES), ("?bytes=1", 200, 1)):
            async with session.get(f"{url}/link-probe{query}") as answer:
                assert (answer.status, len(await answer.read())) == (status, size)
        for query in ("?bytes=0", "?bytes=1048577", "?bytes=many"):
            async with session.get(f"{url}/link-probe{query}") as answer:
                assert answer.status == 400

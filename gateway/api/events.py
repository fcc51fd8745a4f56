"""/events: server-sent events for dashboards; /activity: the same figures for who only looks once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

from aiohttp import web
from pydantic import BaseModel, ConfigDict

from edgesched import rest
from gateway.activity import Activity, ActivityPoint
from gateway.events import EventHub, frame
from gateway.routes import Route, json_reply

HEARTBEAT_S = 10.0
WRITE_TIMEOUT_S = 10.0
RECONNECT_MS = 2_000


class ActivityReport(BaseModel):
    """The last ten minutes in steps of a few seconds, oldest first."""

    model_config = ConfigDict(frozen=True)

    points: tuple[ActivityPoint, ...]


ACTIVITY: rest.Wire[ActivityReport] = rest.Wire(ActivityReport)


class Events:
    def __init__(
        self,
        hub: EventHub,
        activity: Activity,
        *,
        heartbeat_s: float = HEARTBEAT_S,
        write_timeout_s: float = WRITE_TIMEOUT_S,
    ) -> None:
        self._hub = hub
        self._activity = activity
        self._heartbeat_s = heartbeat_s
        self._write_timeout_s = write_timeout_s

    def routes(self) -> Sequence[Route]:
        news = "hello, devices, tasks, counts, activity, alive, dropped and closing as server-sent events"
        return (
            Route(
                method="GET",
                path="/events",
                handler=self.stream,
                summary=news,
                media=("text/event-stream",),
                problems={429: "too many readers"},
            ),
            Route(
                method="GET",
                path="/activity",
                handler=self.activity,
                summary="pictures labelled and their latency, lately",
                reply=ACTIVITY.adapter,
            ),
        )

    async def activity(self, request: web.Request) -> web.Response:
        return json_reply(ACTIVITY.dump(ActivityReport(points=tuple(self._activity.history()))))

    async def stream(self, request: web.Request) -> web.StreamResponse:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        response = web.StreamResponse(headers=headers)
        response.content_type = "text/event-stream"
        response.charset = "utf-8"
        if request.method == "HEAD":
            await response.prepare(request)
            return response
        async with self._hub.reading() as reader:
            await response.prepare(request)
            try:
                await self._write(response, b"retry: %d\n\n" % RECONNECT_MS)
                while True:
                    try:
                        async with asyncio.timeout(self._heartbeat_s):
                            data = await reader.next()
                    except TimeoutError:
                        data = frame("alive", b"{}")  # no comment: a page must hear that the gateway lives
                    if data is None:
                        break
                    await self._write(response, data)
            except (TimeoutError, ConnectionError):  # it reads nothing any more, or hung up
                if request.transport is not None:
                    cast(asyncio.WriteTransport, request.transport).abort()
        return response

    async def _write(self, response: web.StreamResponse, data: bytes) -> None:
        async with asyncio.timeout(self._write_timeout_s):
            await response.write(data)

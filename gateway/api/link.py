"""GET /link-probe: bytes for a board that wants to know how fast its link is while no picture comes over it."""

from __future__ import annotations

import os
from collections.abc import Sequence

from aiohttp import web
from pydantic import BaseModel, Field

from gateway.routes import Route, query_of

MAX_BYTES = 1024 * 1024


class ProbeQuery(BaseModel):
    bytes: int = Field(64 * 1024, ge=1, le=MAX_BYTES, description="how many")


class LinkProbe:
    def __init__(self) -> None:
        self._bytes = os.urandom(MAX_BYTES)  # nothing on the way can make them fewer

    def routes(self) -> Sequence[Route]:
        return (
            Route(
                method="GET",
                path="/link-probe",
                handler=self.send,
                summary="so many bytes, for a board that measures its idle link",
                query=ProbeQuery,
                media=("application/octet-stream",),
            ),
        )

    async def send(self, request: web.Request) -> web.Response:
        query = query_of(request, ProbeQuery)
        return web.Response(body=self._bytes[: query.bytes], content_type="application/octet-stream")

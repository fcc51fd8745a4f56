"""What the gateway says of itself: at / the dashboard or the list of routes, and the OpenAPI document with its page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from aiohttp import web

from edgesched import __version__
from edgesched.rest import API_PREFIX
from gateway import docs, openapi
from gateway.dashboard import Dashboard
from gateway.routes import Route, json_reply


class Pages:
    """Made when somebody first asks: they never change while the process lives."""

    def __init__(self, routes: Sequence[Route], dashboard: Dashboard) -> None:
        self._routes = routes
        self._dashboard = dashboard

    @cached_property
    def _document(self) -> dict[str, Any]:
        return openapi.document(self._routes)

    @cached_property
    def _docs(self) -> str:
        return docs.page(self._document)

    async def openapi(self, request: web.Request) -> web.Response:
        return json_reply(json.dumps(self._document).encode())

    async def docs(self, request: web.Request) -> web.Response:
        headers = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
        return web.Response(text=self._docs, content_type="text/html", charset="utf-8", headers=headers)

    async def index(self, request: web.Request) -> web.Response:
        """The dashboard for browsers; for programs what there is."""
        if "text/html" in request.headers.get("Accept", ""):
            return self._dashboard.index(request)
        listing = [
            {"method": route.method, "path": API_PREFIX + route.path, "alias": route.path, "summary": route.summary}
            for route in self._routes
        ]
        headers = {"Vary": "Accept"}
        body = {"name": "edgesched gateway", "version": __version__, "routes": listing}
        return web.json_response(body, headers=headers)

"""The page for people at /: plain files that a browser reads as they are, served from memory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources

from aiohttp import web

from edgesched.errors import NotKnown

MEDIA: Mapping[str, str] = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}

SAFE = {
    # Nothing comes from elsewhere, nothing inline runs, and no script may turn text into markup.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # ask each time, answered with 304: a new version is seen at once
}


@dataclass(frozen=True, slots=True)
class PageFile:
    data: bytes
    media: str
    etag: str


class Dashboard:
    """The files are read when somebody first asks."""

    @cached_property
    def files(self) -> Mapping[str, PageFile]:
        """By name. Only what a browser may have."""
        found = {}
        for entry in resources.files(__package__).iterdir():
            media = MEDIA.get(entry.name[entry.name.rfind(".") :])
            if media is not None:
                data = entry.read_bytes()
                found[entry.name] = PageFile(data, media, f'"{hashlib.sha256(data).hexdigest()[:32]}"')
        return found

    def index(self, request: web.Request) -> web.Response:
        return self._reply(request, "index.html")

    async def file(self, request: web.Request) -> web.Response:
        """Raises: NotKnown."""
        return self._reply(request, request.match_info["name"])

    def _reply(self, request: web.Request, name: str) -> web.Response:
        found = self.files.get(name)
        if found is None:
            raise NotKnown("the dashboard has no such file; it is at /")
        headers = {**SAFE, "ETag": found.etag, "Vary": "Accept"}
        if request.headers.get("If-None-Match") == found.etag:
            return web.Response(status=304, headers=headers)
        return web.Response(body=found.data, content_type=found.media, charset="utf-8", headers=headers)

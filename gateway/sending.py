"""Large answers to slow readers: bounded in number and in time, so that a vanished browser holds no memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from aiohttp import web

from edgesched.errors import Overloaded

MAX_AT_ONCE = 16
WAIT_FOR_TURN_S = 5.0
CHUNK_BYTES = 256 * 1024
CHUNK_TIMEOUT_S = 15.0
IMMUTABLE = "private, max-age=31536000, immutable"

SAFE = {
    # It is somebody's upload: whatever its bytes are, a browser shall take them for nothing but a picture.
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
}


class Sender:
    def __init__(self, max_at_once: int = MAX_AT_ONCE) -> None:
        self._turns = asyncio.Semaphore(max_at_once)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Take it before the content is read into memory. Raises: Overloaded if none comes free in time."""
        try:
            async with asyncio.timeout(WAIT_FOR_TURN_S):
                await self._turns.acquire()
        except TimeoutError:
            raise Overloaded("too many pictures are being sent; try again", retry_after_ms=1_000) from None
        try:
            yield
        finally:
            self._turns.release()

    async def send(
        self, request: web.Request, data: bytes, *, media: str, headers: Mapping[str, str]
    ) -> web.StreamResponse:
        """Whoever takes longer than CHUNK_TIMEOUT_S for one piece is hung up on."""
        response = web.StreamResponse(headers={**SAFE, **headers})
        response.content_type = media
        response.content_length = len(data)
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        try:
            for at in range(0, len(data), CHUNK_BYTES):
                async with asyncio.timeout(CHUNK_TIMEOUT_S):
                    await response.write(data[at : at + CHUNK_BYTES])
        except (TimeoutError, ConnectionError):
            if request.transport is not None:
                request.transport.abort()
        return response


def media_type(data: bytes) -> str:
    """Of the pictures that the task manager accepts."""
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data.startswith(b"\x89PNG"):
        return "image/png"
    if data.startswith(b"BM"):
        return "image/bmp"
    return "image/webp" if data[8:12] == b"WEBP" else "application/octet-stream"

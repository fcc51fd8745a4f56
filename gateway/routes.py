"""What every resource of the API needs: the shape of a route, JSON answers, numbers from a query."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from aiohttp import web

from edgesched.errors import InvalidInput

LARGEST_NUMBER = 2**53
"""JSON numbers are exact up to here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One row of the API. It is served under the versioned prefix and, as an alias, without."""

    method: str
    path: str
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    summary: str


def json_reply(body: bytes, *, status: int = 200) -> web.Response:
    return web.Response(status=status, body=body, content_type="application/json", charset="utf-8")


def whole_number(query: Mapping[str, str], name: str, *, lowest: int = 0, highest: int = LARGEST_NUMBER) -> int | None:
    """The parameter `name`, or None if it is not there.

    Raises: InvalidInput.
    """
    text = query.get(name)
    if text is None:
        return None
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(LARGEST_NUMBER))
    if not is_number or not lowest <= int(text) <= highest:
        raise InvalidInput(f"{name} must be a whole number from {lowest} to {highest}, got {text[:40]!r}")
    return int(text)

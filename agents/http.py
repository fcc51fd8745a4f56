"""The way in which the daemon makes HTTP calls; labels go a shorter one to most receivers (plain_http.py)."""

from __future__ import annotations

import os
from dataclasses import dataclass

import aiohttp
from yarl import URL

from edgesched.errors import InvalidInput, PeerUnavailable
from edgesched.rest import PROBLEM

MAX_REPLY_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    status: int
    body: bytes


async def call(
    session: aiohttp.ClientSession, method: str, url: str, body: bytes | None = None, *, timeout_s: float
) -> Reply:
    """One request with a JSON body, to the URL exactly as it is given. Redirects are not followed.

    Raises: InvalidInput if the URL can never be called; PeerUnavailable if no whole answer came in time.
    """
    headers = {"Content-Type": "application/json"} if body is not None else {}
    try:
        async with session.request(
            method,
            URL(url, encoded=True),
            data=body,
            headers=headers,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=timeout_s),
        ) as response:
            return Reply(status=response.status, body=await _bounded_body(response))
    except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError, ValueError) as error:
        raise InvalidInput(f"{url!r} is not a URL that can be called: {error}") from error
    except TimeoutError as error:
        raise PeerUnavailable(f"no answer within {timeout_s:.0f} s") from error
    except (aiohttp.ClientError, OSError) as error:
        raise PeerUnavailable(reason_of(error)) from error


def reason_of(error: Exception) -> str:
    """Why a call came to nothing, for people."""
    if isinstance(error, aiohttp.ClientConnectorError):
        code, text = error.os_error.errno or 0, error.os_error.strerror
        return f"{error.host}:{error.port}: {os.strerror(code) if code > 0 else text}"  # below 0: looking up the name
    return str(error) or type(error).__name__


def sentence_of(body: bytes) -> str:
    """What a refusal says to people."""
    try:
        return PROBLEM.parse(body).detail
    except InvalidInput:
        return body[:200].decode(errors="replace") or "no reason given"


async def _bounded_body(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_REPLY_BYTES:
            raise PeerUnavailable(f"its answer is longer than {MAX_REPLY_BYTES} bytes")
    return bytes(body)

"""One call to the gateway, for the commands that look at it and tell it things; and what those commands share."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

import typer

from edgesched.errors import EdgeSchedError, InvalidInput, PeerUnavailable
from edgesched.process import fail

if TYPE_CHECKING:
    from rich.console import Console

CALL_TIMEOUT_S = 10.0
GATEWAY = "http://127.0.0.1:6666"
PIPED_WIDTH = 200  # columns where no terminal says how wide it is

Url = Annotated[str, typer.Option("--url", "-u", metavar="URL", help="The gateway.")]


def ask(url: str, method: str, path: str, body: bytes | None = None, *, timeout_s: float = CALL_TIMEOUT_S) -> bytes:
    """Ends the process with one sentence when it is refused."""
    try:
        return call(url, method, path, body, timeout_s=timeout_s)
    except EdgeSchedError as error:
        fail(str(error))


def call(url: str, method: str, path: str, body: bytes | None = None, *, timeout_s: float = CALL_TIMEOUT_S) -> bytes:
    """Raises: InvalidInput (it refuses), PeerUnavailable (it does not answer)."""
    from edgesched.rest import API_PREFIX, PROBLEM

    address = f"{url if '://' in url else f'http://{url}'}".rstrip("/") + API_PREFIX + path
    if not address.startswith(("http://", "https://")):
        raise InvalidInput(f"--url {url}: give an address that begins with http:// or https://")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it is on our own network
    try:
        request = urllib.request.Request(address, data=body, method=method)
        with opener.open(request, timeout=timeout_s) as response:
            answer: bytes = response.read()
            return answer
    except urllib.error.HTTPError as error:
        try:
            detail = PROBLEM.parse(error.read()).detail
        except InvalidInput:
            detail = f"{address} answered {error.code} {error.reason}; is a gateway there?"
        raise (PeerUnavailable if error.code >= 500 else InvalidInput)(detail) from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise PeerUnavailable(f"no gateway answers at {url} ({reason}); name the right URL") from error


def quoted(name: str) -> str:
    return quote(name, safe="")


def console() -> Console:
    from rich.console import Console

    made = Console(emoji=False, markup=False)  # names are shown as they are
    if not made.is_terminal:
        made.width = PIPED_WIDTH
    return made

"""One call to the gateway, for the commands that look at it and tell it things; and what those commands share."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import reduce
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from edgesched.errors import EdgeSchedError, InvalidInput, PeerUnavailable
from edgesched.process import fail

if TYPE_CHECKING:
    from rich.console import Console

CALL_TIMEOUT_S = 10.0
COMPLETION_TIMEOUT_S = 1.0
GATEWAY = "http://127.0.0.1:6666"
PIPED_WIDTH = 200  # columns where no terminal says how wide it is

Url = Annotated[str, typer.Option("--url", "-u", metavar="URL", help="The gateway.")]


def ask(url: str, method: str, path: str, body: bytes | None = None, *, is_exact: bool = False) -> bytes:
    """As `call`. Ends the process with one sentence when it is refused."""
    try:
        return call(url, method, path, body, is_exact=is_exact)
    except EdgeSchedError as error:
        fail(str(error))


def call(
    url: str,
    method: str,
    path: str,
    body: bytes | None = None,
    *,
    is_exact: bool = False,
    timeout_s: float = CALL_TIMEOUT_S,
) -> bytes:
    """The JSON that it answers.

    is_exact: with every text as it is, for scripts; else as a terminal may show it.
    Raises: InvalidInput (it refuses), PeerUnavailable (it does not answer).
    """
    from edgesched.rest import API_PREFIX, PROBLEM

    address = f"{url if '://' in url else f'http://{url}'}".rstrip("/") + API_PREFIX + path
    if not address.startswith(("http://", "https://")):
        raise InvalidInput(f"--url {url}: give an address that begins with http:// or https://")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it is on our own network
    try:
        request = urllib.request.Request(address, data=body, method=method)
        with opener.open(request, timeout=timeout_s) as response:
            answer: bytes = response.read()
            return answer if is_exact else visible_json(answer)
    except urllib.error.HTTPError as error:
        try:
            detail = PROBLEM.parse(error.read()).detail
        except InvalidInput:
            detail = f"{address} answered {error.code} {error.reason}; is a gateway there?"
        raise (PeerUnavailable if error.code >= 500 else InvalidInput)(detail) from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise PeerUnavailable(f"no gateway answers at {url} ({reason}); name the right URL") from error


def named_by(path: str, *keys: str) -> Callable[[typer.Context, str], list[str]]:
    """Completion of names that the gateway knows: `keys` lead to each name in the list that it gives at `path`.

    One that does not answer at once completes nothing: a shell waits for it.
    """

    def complete(context: typer.Context, incomplete: str) -> list[str]:
        import json

        try:
            body = call(context.params.get("url") or GATEWAY, "GET", path, timeout_s=COMPLETION_TIMEOUT_S)
        except EdgeSchedError:
            return []
        (entries,) = json.loads(body).values()
        names = [reduce(lambda value, key: value[key], keys, entry) for entry in entries]
        return [name for name in names if name.startswith(incomplete)]

    return complete


def visible_json(body: bytes) -> bytes:
    """The same with every text as a terminal may show it: boards and clients wrote them."""
    import json

    from edgesched.errors import visible

    def shown(value: Any) -> Any:
        match value:
            case str():
                return visible(value)
            case list():
                return [shown(item) for item in value]
            case dict():
                return {visible(name): shown(item) for name, item in value.items()}
        return value

    return json.dumps(shown(json.loads(body))).encode()


def quoted(name: str) -> str:
    return quote(name, safe="")


def console() -> Console:
    from rich.console import Console

    made = Console(emoji=False, markup=False)  # names are shown as they are
    if not made.is_terminal:
        made.width = PIPED_WIDTH
    return made

"""`edgesched logs DEVICE|WORKER`: what worker processes wrote, also those of a board that has died."""

from __future__ import annotations

import re
import time
from typing import Annotated

import typer

from edgesched.cli.gateway_call import CALL_TIMEOUT_S, GATEWAY, Url, ask, call, named_by, quoted

FOLLOW_S = 20.0
RETRY_S = 2.0
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def command(
    name: Annotated[
        str,
        typer.Argument(
            metavar="DEVICE|WORKER",
            help="A worker, or a device for all its workers.",
            autocompletion=named_by("/workers", "id"),
        ),
    ],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines are written; Ctrl-C ends it.")] = False,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="Only lines of the last 90s, 10m, 2h or 1d.")
    ] = None,
    tail: Annotated[int, typer.Option("--tail", "-n", min=1, max=5000, help="At most the last so many lines.")] = 200,
    url: Url = GATEWAY,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts: one JSON object per line.")] = False,
) -> None:
    """What the workers of a board wrote, newest last."""
    path = f"/workers/{quoted(name)}/logs?tail={tail}"
    if since is not None:
        path += f"&since_s={_seconds(since)}"
    cursor = _print(ask(url, "GET", path, is_exact=as_json), as_json)
    try:
        while follow:
            cursor = _print(_next(url, name, cursor, is_exact=as_json), as_json) or cursor
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


def _next(url: str, name: str, cursor: int, *, is_exact: bool) -> bytes:
    """What is behind the cursor, once there is something. A gateway that is away is waited for."""
    import sys

    from edgesched.errors import InvalidInput, PeerUnavailable
    from edgesched.process import fail

    is_told = False
    path = f"/workers/{quoted(name)}/logs?tail=5000&after={cursor}&wait_ms={int(FOLLOW_S * 1000)}"
    while True:
        try:
            return call(url, "GET", path, is_exact=is_exact, timeout_s=FOLLOW_S + CALL_TIMEOUT_S)
        except InvalidInput as error:
            fail(str(error))
        except PeerUnavailable as error:
            if not is_told:
                print(f"{error}; trying again", file=sys.stderr)
            is_told = True
            time.sleep(RETRY_S)


def _print(body: bytes, as_json: bool) -> int:
    """Returns the cursor behind the last line."""
    import json

    from edgesched.rest import LOG_PAGE

    page = LOG_PAGE.parse(body)
    for line in page.lines:
        if as_json:
            print(json.dumps(line.model_dump()), flush=True)
        else:
            at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(line.at_ms / 1000))
            print(f"{at} {line.worker} {line.text}", flush=True)
    return page.cursor


def _seconds(text: str) -> float:
    from edgesched.process import fail

    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    if found is None:
        fail(f"--since {text!r} is no time; write 90s, 10m, 2h or 1d")
    return float(found[1]) * UNITS[found[2] or "s"]

"""Receives labels: `python client/rst_recv.py --port 8888 --dir DIR`, or `edgesched receive`."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any

try:
    import typer
    from rich.console import Console
    from rich.live import Live

    from client.addresses import joined
    from client.receiver import Counters, RunningReceiver, running_receiver
    from edgesched import process
    from edgesched.settings import ReceiverSettings
except ModuleNotFoundError as error:
    sys.exit(f"{error}: run this with .venv/bin/python, or `pip install` the project into the environment in use")

log = logging.getLogger("client.rst_recv")

LIVE_PERIOD_S = 0.5
LOG_PERIOD_S = 2.0

Show = Callable[[Counters, float], None]
"""(counters, pictures per second)"""


def command(
    port: Annotated[
        int | None, typer.Option("--port", "-p", help="HTTP port that labels are posted to. [default: 8888]")
    ] = None,
    result_dir: Annotated[
        Path | None,
        typer.Option(
            "--dir",
            "-d",
            metavar="DIR",
            help="Labels go to DIR/MODEL/rst/, or to DIR/MODEL/ if DIR itself is named rst. "
            "[default: workspace/client/data]",
        ),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(
            "--host", metavar="ADDRESS", help="Address to listen on (no authentication yet). [default: 127.0.0.1]"
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE|DIR", help="A TOML file, or a directory with receiver.toml."),
    ] = None,
    log_dir: Annotated[
        Path | None, typer.Option("--log-dir", metavar="DIR", help="Also write a rotating log file here.")
    ] = None,
    log_level: Annotated[
        str | None, typer.Option("--log-level", metavar="LEVEL", help="debug, info, warning or error. [default: info]")
    ] = None,
    log_format: Annotated[
        str | None, typer.Option("--log-format", metavar="FORMAT", help="text or json. [default: text]")
    ] = None,
) -> None:
    """Receive labels and write them as files: PICTURE.json, and PICTURE.txt with one line per object.

    A second picture of the same name gets PICTURE.TASK_ID.json and .txt. Labels that come twice are written once.
    """
    flags = {
        "receiver_port": port,
        "result_dir": result_dir,
        "host": host,
        "log_dir": log_dir,
        "log_level": log_level,
        "log_format": log_format,
    }
    process.main("receiver", ReceiverSettings, _serve, config=config, flags=flags)


async def _serve(settings: ReceiverSettings, stop: asyncio.Event) -> None:
    started = time.monotonic()
    async with running_receiver(settings.result_dir, host=settings.host, port=settings.receiver_port) as receiver:
        print(f"READY http={joined(settings.host, receiver.port)}", flush=True)
        await _until_stopped(receiver, stop)
    counters = receiver.counters
    print(
        f"received {counters.received} pictures, {counters.repeated} again, {counters.rejected} rejected "
        f"in {time.monotonic() - started:.1f} s; labels are in {settings.result_dir}",
        flush=True,
    )


async def _until_stopped(receiver: RunningReceiver, stop: asyncio.Event) -> None:
    display, show, period_s = _output(Console())
    with display:
        stopped = asyncio.create_task(stop.wait())
        reporter = asyncio.create_task(_report(receiver.counters, show, period_s))
        try:
            awaited: set[asyncio.Future[Any]] = {stopped, reporter, receiver.broken}
            ended, _ = await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
            for one in ended:
                one.result()  # a crash ends the process, loudly
        finally:
            stopped.cancel()
            reporter.cancel()


async def _report(counters: Counters, show: Show, period_s: float) -> None:
    while True:
        before = counters.received
        await asyncio.sleep(period_s)
        show(counters, (counters.received - before) / period_s)


def _output(console: Console) -> tuple[AbstractContextManager[object], Show, float]:
    """A line that counts in place on a terminal, log lines elsewhere."""
    if console.is_terminal:
        live = Live("waiting for labels", console=console, auto_refresh=False, transient=True)
        return live, lambda counters, rate: live.update(_line(counters, rate), refresh=True), LIVE_PERIOD_S
    return nullcontext(), _to_log, LOG_PERIOD_S


def _line(counters: Counters, rate: float) -> str:
    return (
        f"{counters.received} pictures received, {rate:.0f}/s; "
        f"{counters.repeated} again, {counters.rejected} rejected, {counters.failed} not stored"
    )


def _to_log(counters: Counters, rate: float) -> None:
    if rate:
        log.info("labels.received", extra={"pictures": counters.received, "per_s": rate})


if __name__ == "__main__":
    typer.run(command)

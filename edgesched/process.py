"""How every process starts and ends: settings, logs, signals, one clear sentence instead of a traceback."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from edgesched import logs
from edgesched.errors import StaleEpoch, StartupError, StorageFailed, visible
from edgesched.settings import ProcessSettings, SettingsT, load

log = logging.getLogger(__name__)

EXIT_STARTUP = 2
EXIT_CRASHED = 1

Serve = Callable[[SettingsT, asyncio.Event], Coroutine[Any, Any, None]]


def main(
    name: str,
    kind: type[SettingsT],
    serve: Serve[SettingsT],
    *,
    config: Path | None,
    flags: Mapping[str, object],
    log_name: Callable[[SettingsT], str] | None = None,
) -> None:
    """Run one process until it is told to stop.

    serve: gets the settings and an event that SIGINT and SIGTERM set; a second signal ends the process at once.
    log_name: the name of its log file, when several processes of this kind may share a log directory.
    Ends with exit code 0, or 2 when it cannot start, or 1 after a crash (which is logged whole).
    """
    refused: list[str] = []
    broken: list[str] = []
    try:
        settings = load(kind, config=config, flags=flags).settings
        logs.configure(
            log_name(settings) if log_name else name,
            level=settings.log_level,
            log_format=settings.log_format,
            log_dir=settings.log_dir,
        )
        _warn_if_open(settings)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_until_told(serve, settings))
    except* StartupError as group:
        refused = [str(error) for error in _leaves(group)]
    except* (StorageFailed, StaleEpoch) as group:  # nothing more may be acknowledged or decided here
        broken = [str(error) for error in _leaves(group)]
    for cause in broken:
        log.critical("process.lost_its_ledger", extra={"cause": cause})
    if broken:
        sys.exit(EXIT_CRASHED)
    if refused:
        fail("; ".join(refused))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it is installed: measured here, it saves a tenth of what a picture costs each process."""
    try:
        import uvloop
    except ImportError:  # a board without a wheel for it
        return None
    return uvloop.new_event_loop


def fail(message: str) -> NoReturn:
    """One sentence for people, exit code 2."""
    print(f"edgesched: {visible(message)}", file=sys.stderr)
    sys.exit(EXIT_STARTUP)


async def _until_told(serve: Serve[SettingsT], settings: SettingsT) -> None:
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            os._exit(128 + signal.SIGINT)
        stop.set()

    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, on_signal)
    await serve(settings, stop)


async def unless_stopped(work: Coroutine[Any, Any, None], stop: asyncio.Event) -> None:
    """Do `work`, but cancel it when `stop` is set first. Returns once it has ended either way."""
    doing = asyncio.create_task(work)
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({doing, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if doing.done():
        return doing.result()
    doing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await doing


def _leaves(group: BaseExceptionGroup[Any]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _warn_if_open(settings: ProcessSettings) -> None:
    host = getattr(settings, "host", "127.0.0.1")
    if host not in ("127.0.0.1", "localhost", "::1"):
        log.warning(
            "process.listens_openly",
            extra={"host": host, "advice": "there is no authentication yet: let only trusted networks reach it"},
        )


@contextmanager
def sole_user(path: Path, what: str, remedy: str) -> Iterator[None]:
    """Hold `path` locked, so that two processes never share what it guards. The kernel releases it with the process.

    Raises: StartupError if another process holds it: "<what> is in use by another process; <remedy>".
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        raise StartupError(f"{path} cannot be written: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartupError(f"{what} is in use by another process; {remedy}") from None
        yield

"""Sends pictures: `python client/send_pic.py --dir DIR --max N --workers N`, or `edgesched send`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated

try:
    import typer
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    from client import addresses, durable, identity, pictures
    from client.pictures import Picture
    from client.run import Note, Plan, Run, Show
    from client.run_journal import Destination, RunJournal
    from client.tally import Tally
    from edgesched import logs, process, tracing
    from edgesched.domain.task import Priority, TaskId
    from edgesched.errors import EdgeSchedError, StartupError, StorageFailed, visible
    from edgesched.settings import SenderSettings, load
except ModuleNotFoundError as error:
    sys.exit(f"{error}: run this with .venv/bin/python, or `pip install` the project into the environment in use")

LINE_PERIOD_S = 2.0
INTERRUPTED = 130
IMPATIENCE_S = 1.0


def command(
    host: Annotated[
        str | None,
        typer.Option("--host", "-H", metavar="ADDRESS", help="The task manager's address. [default: 127.0.0.1]"),
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", "-P", help="The task manager's gRPC port. [default: 9999]")
    ] = None,
    picture_dir: Annotated[
        Path | None,
        typer.Option(
            "--dir",
            "-D",
            metavar="DIR",
            help="Pictures to send (jpg jpeg png bmp webp), with sub-directories. [default: workspace/client/pictures]",
        ),
    ] = None,
    max_pictures: Annotated[
        int | None, typer.Option("--max", "-n", help="Send at most so many. [default: all]")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", "-w", help="How many pictures may be unacknowledged at once. [default: 8]"),
    ] = None,
    receiver: Annotated[
        str | None,
        typer.Option(
            "--receiver", metavar="URL", help="Where labels are posted to. [default: port 8888 of this machine]"
        ),
    ] = None,
    no_receiver: Annotated[
        bool, typer.Option("--no-receiver", help="Post labels nowhere; ask for them later.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until every picture has its labels.")] = False,
    model: Annotated[
        str | None,
        typer.Option("--model", "--tasktype", metavar="NAME", help="The model that labels them. [default: shapes]"),
    ] = None,
    deadline: Annotated[
        float | None,
        typer.Option(
            "--deadline", metavar="S", help="A picture without labels expires after so many seconds. [default: never]"
        ),
    ] = None,
    priority: Annotated[
        Priority | None,
        typer.Option(
            "--priority",
            help="Whose turn comes sooner while tasks wait; no priority starves another. [default: normal]",
        ),
    ] = None,
    give_up_after: Annotated[
        float | None,
        typer.Option(
            "--give-up-after", metavar="S", help="Stop after so many seconds without an answer or news. [default: 300]"
        ),
    ] = None,
    acknowledged: Annotated[
        Path | None,
        typer.Option(
            "--acknowledged", metavar="FILE", help="Append a JSON line (path, task_id) per acknowledged picture."
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE|DIR", help="A TOML file, or a directory with sender.toml.")
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
    """Send pictures to be labelled.

    A run that was interrupted (Ctrl-C, a crash, a power cut) is resumed by the same command within 7 days: no picture
    is labelled twice, and those that were accepted keep their priority and deadline. Pictures that changed since are
    new ones, and so is everything for another task manager, model or receiver. Once a run has completed (with --wait:
    once every task has ended), the same command sends all anew.

    Exit code: 0 all were accepted (with --wait: and labelled), 1 not all, 2 nothing could be started, 130 interrupted.
    """
    flags = {
        "task_manager_host": host,
        "task_manager_port": port,
        "picture_dir": picture_dir,
        "max_pictures": max_pictures,
        "sender_workers": workers,
        "receiver_url": receiver,
        "model": model,
        "deadline_s": deadline,
        "priority": priority,
        "give_up_after_s": give_up_after,
        "log_dir": log_dir,
        "log_level": log_level,
        "log_format": log_format,
    }
    if receiver and no_receiver:
        raise typer.BadParameter("--receiver and --no-receiver exclude each other")
    try:
        settings = load(SenderSettings, config=config, flags=flags).settings
        code = asyncio.run(_run(settings, has_receiver=not no_receiver, wait=wait, acknowledged=acknowledged))
    except StartupError as error:
        process.fail(str(error))
    except EdgeSchedError as error:
        typer.echo(f"edgesched: {error}", err=True)
        code = 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        code = INTERRUPTED
    raise typer.Exit(code)


async def _run(settings: SenderSettings, *, has_receiver: bool, wait: bool, acknowledged: Path | None) -> int:
    """Returns: the exit code."""
    end_when_told()
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    found = await asyncio.to_thread(pictures.find, settings.picture_dir, settings.max_pictures)
    if settings.max_pictures and len(found.pictures) < settings.max_pictures:
        console.print(f"{settings.picture_dir} holds {len(found.pictures)} pictures, fewer than --max: all are sent")
    plan = await _plan(settings, has_receiver=has_receiver, wait=wait)
    tally = Tally(found.pictures, found.unreadable)
    try:
        with _display(console) as show, _noting(acknowledged) as note:
            logs.configure("sender", level=settings.log_level, log_format=settings.log_format, log_dir=settings.log_dir)
            state_dir = settings.client_state_dir
            journal = await asyncio.to_thread(RunJournal.begin, state_dir, found.pictures, plan.destination)
            with closing(journal):
                async with tracing.opened(settings.otlp_endpoint) as spans:
                    run = Run(plan, journal, tally, show=show, note=note, tell=console.print, tracing=spans)
                    await run.complete()
    finally:
        for line in tally.summary(waited=wait):
            console.print(visible(line))
    return 1 if tally.refused or (wait and not tally.all_labelled) else 0


def end_when_told() -> None:
    """The first signal ends what goes on, and what was acknowledged is told; one long after it ends the process.

    Not left to asyncio.run: it answers a second SIGINT, which follows at once where a whole group of processes is told,
    with an exception in the middle of whatever runs.
    """
    loop, me = asyncio.get_running_loop(), asyncio.current_task()
    told_at: float | None = None

    def end() -> None:
        nonlocal told_at
        if told_at is None and me is not None:
            told_at = loop.time()
            me.cancel()
        elif told_at is not None and loop.time() - told_at > IMPATIENCE_S:
            os._exit(INTERRUPTED)

    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, end)


async def _plan(settings: SenderSettings, *, has_receiver: bool, wait: bool) -> Plan:
    return Plan(
        destination=Destination(
            task_manager=addresses.joined(settings.task_manager_host, settings.task_manager_port),
            model=settings.model,
            receiver_url=await _receiver_url(settings) if has_receiver else None,
        ),
        client_id=await asyncio.to_thread(identity.client_id, settings.client_state_dir),
        in_flight=settings.sender_workers,
        deadline_s=settings.deadline_s,
        priority=Priority(settings.priority),
        give_up_after_s=settings.give_up_after_s,
        wait=wait,
    )


@contextmanager
def _display(console: Console) -> Iterator[Show]:
    """Bars on a terminal, a line now and then elsewhere."""
    if console.is_terminal:
        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[remark]}", markup=False),
        )
        with Progress(TextColumn("{task.description}"), *columns, console=console) as bars:
            stages: dict[str, TaskID] = {}

            def draw(stage: str, done: int, total: int, remark: str) -> None:
                if stage not in stages:
                    stages[stage] = bars.add_task(stage, total=total, remark="")
                bars.update(stages[stage], completed=done, remark=visible(remark))

            yield draw
        return
    said_at = time.monotonic()

    def say(stage: str, done: int, total: int, remark: str) -> None:
        nonlocal said_at
        if time.monotonic() - said_at >= LINE_PERIOD_S:
            said_at = time.monotonic()
            console.print(visible(f"{stage}: {done} of {total} ({remark})"))

    yield say


async def _receiver_url(settings: SenderSettings) -> str:
    """Where labels are posted. Warns if that is this machine and no receiver is there yet."""
    if settings.receiver_url is not None:
        return addresses.check_receiver_url(settings.receiver_url)
    host, port = settings.task_manager_host, settings.receiver_port
    address = await asyncio.to_thread(addresses.local_address_towards, host, settings.task_manager_port)
    url = f"http://{addresses.joined(address, port)}"
    if not await addresses.somebody_listens(address, port):
        command = f"python client/rst_recv.py --port {port}"
        if not addresses.is_loopback(address):
            command += f" --host {address}"
        typer.echo(
            f"warning: no receiver listens on {url} yet; start one with `{command}` "
            "(labels are kept until then), or use --no-receiver",
            err=True,
        )
    return url


@contextmanager
def _noting(path: Path | None) -> Iterator[Note]:
    """What writes one acknowledgement per line, at once: another program may be reading along."""
    if path is None:
        yield lambda picture, task_id: None
        return
    try:
        file = path.open("ab", buffering=0)
    except OSError as error:
        raise StartupError(f"--acknowledged {path}: cannot be written: {error.strerror}") from error

    def note(picture: Picture, task_id: TaskId) -> None:
        line = json.dumps({"path": picture.source, "task_id": task_id}).encode() + b"\n"
        try:
            durable.write_all(file.fileno(), line)
        except OSError as error:
            raise StorageFailed(f"--acknowledged {path}: cannot be written: {error.strerror}") from error

    with file:
        yield note


if __name__ == "__main__":
    typer.run(command)

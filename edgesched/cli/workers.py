"""`edgesched workers [list|start|stop|restart|kill]`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from edgesched.cli.gateway_call import GATEWAY, Url, ask, call, console, named_by, quoted

if TYPE_CHECKING:
    from edgesched.domain.command import Command
    from edgesched.rest import WorkerEntry, WorkerReport

app = typer.Typer(help="Look at the worker processes of all boards, and start, stop, restart or kill them.")

LOOK_EVERY_S = 0.3
TELL_AFTER_S = 2.0
STYLES = {"busy": "cyan", "stopped": "yellow", "down": "red", "restarting": "yellow", "silent": "yellow"}

Json = Annotated[bool, typer.Option("--json", help="For scripts: one JSON object per line.")]
Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[WORKER|DEVICE...]",
        help="Workers by name; a device id means all its workers.",
        autocompletion=named_by("/workers", "id"),
    ),
]
BoardType = Annotated[str | None, typer.Option("--type", metavar="TYPE", help="All devices of this board type.")]
Labels = Annotated[list[str] | None, typer.Option("--label", metavar="NAME=VALUE", help="All devices with this label.")]
Everything = Annotated[bool, typer.Option("--all", help="All devices.")]
Wait = Annotated[float, typer.Option("--wait", min=0, metavar="SECONDS", help="Wait so long for it to be done.")]


@app.callback(invoke_without_command=True)
def default(context: typer.Context, url: Url = GATEWAY, as_json: Json = False) -> None:
    """Without a command: list them."""
    from edgesched.process import fail

    verb = context.invoked_subcommand
    if verb is None:
        list_workers(url=url, as_json=as_json)
        return
    for name, option in (("url", "--url"), ("as_json", "--json")):
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            fail(f"put {option} behind the command: edgesched workers {verb} {option} ...")


@app.command("list")
def list_workers(url: Url = GATEWAY, as_json: Json = False) -> None:
    """Every worker: process, state, task, restarts, exit codes."""
    from edgesched.rest import WORKER_ENTRY, WORKER_LIST

    workers = WORKER_LIST.parse(ask(url, "GET", "/workers", is_exact=as_json)).workers
    if as_json:
        for entry in workers:
            print(WORKER_ENTRY.dump(entry).decode())
    else:
        _print_table(workers)


@app.command()
def start(
    names: Names = None,
    board_type: BoardType = None,
    labels: Labels = None,
    everything: Everything = False,
    wait_s: Wait = 60.0,
    url: Url = GATEWAY,
    as_json: Json = False,
) -> None:
    """Start what is stopped."""
    _tell("start", names, board_type, labels, everything, wait_s, url, as_json)


@app.command()
def stop(
    names: Names = None,
    board_type: BoardType = None,
    labels: Labels = None,
    everything: Everything = False,
    wait_s: Wait = 60.0,
    url: Url = GATEWAY,
    as_json: Json = False,
) -> None:
    """Stop after the task in hand. It stays stopped until it is started."""
    _tell("stop", names, board_type, labels, everything, wait_s, url, as_json)


@app.command()
def restart(
    names: Names = None,
    board_type: BoardType = None,
    labels: Labels = None,
    everything: Everything = False,
    wait_s: Wait = 60.0,
    url: Url = GATEWAY,
    as_json: Json = False,
) -> None:
    """Stop after the task in hand, then start again."""
    _tell("restart", names, board_type, labels, everything, wait_s, url, as_json)


@app.command()
def kill(
    names: Names = None,
    board_type: BoardType = None,
    labels: Labels = None,
    everything: Everything = False,
    wait_s: Wait = 60.0,
    url: Url = GATEWAY,
    as_json: Json = False,
) -> None:
    """End at once; the picture in hand goes elsewhere. It stays ended until it is started."""
    _tell("kill", names, board_type, labels, everything, wait_s, url, as_json)


def _tell(
    verb: str,
    names: list[str] | None,
    board_type: str | None,
    labels: list[str] | None,
    everything: bool,
    wait_s: float,
    url: str,
    as_json: bool,
) -> None:
    """Ends with exit code 1 if something was not done (in time)."""
    from edgesched.errors import InvalidInput, PeerUnavailable
    from edgesched.process import fail
    from edgesched.rest import COMMAND

    is_choice = board_type is not None or bool(labels) or everything
    if bool(names) == is_choice:
        fail("say for whom: names of workers or devices; or --type, --label or --all")
    commands = _by_name(url, verb, names) if names else _by_choice(url, verb, board_type, labels, everything)
    until = time.monotonic() + wait_s
    tell_at = time.monotonic() + TELL_AFTER_S
    waiting = {command.command_id: command for command in commands}
    ended: list[Command] = []
    while waiting:
        for command_id in list(waiting):
            try:
                answer = call(url, "GET", f"/commands/{command_id}", is_exact=as_json)
            except PeerUnavailable as error:  # a gateway that starts again still knows the command
                if time.monotonic() >= until:
                    fail(f"{error}; what was ordered is kept there")
                break
            except InvalidInput as error:
                fail(str(error))
            waiting[command_id] = COMMAND.parse(answer)
            if not waiting[command_id].is_open:
                ended.append(waiting.pop(command_id))
                _print_end(ended[-1], as_json)
        if waiting and time.monotonic() >= until:
            break
        if waiting and time.monotonic() >= tell_at:
            tell_at = until
            _tell_of_waiting(url, waiting.values(), wait_s)
        if waiting:
            time.sleep(LOOK_EVERY_S)
    for command in waiting.values():
        _print_end(command, as_json)
    is_well = all(command.state == "done" for command in ended) and (not waiting or wait_s == 0)
    raise typer.Exit(0 if is_well else 1)


def _tell_of_waiting(url: str, commands: Iterable[Command], wait_s: float) -> None:
    from edgesched.rest import DEVICE_ENTRY

    ids = sorted({command.device_id for command in commands})
    states = [
        DEVICE_ENTRY.parse(ask(url, "GET", f"/devices/{quoted(device_id)}")).device.state for device_id in ids[:5]
    ]
    shown = ", ".join(f"{device_id} ({state})" for device_id, state in zip(ids[:5], states, strict=True))
    more = f" and {len(ids) - 5} more" if len(ids) > 5 else ""
    print(f"waiting up to {wait_s:g} s for {shown}{more}; a silent board does it when it is back", file=sys.stderr)


def _by_name(url: str, verb: str, names: list[str]) -> list[Command]:
    import json

    from edgesched.rest import COMMAND

    body = json.dumps({"command": verb}).encode()
    return [COMMAND.parse(ask(url, "POST", f"/workers/{quoted(name)}/command", body)) for name in names]


def _by_choice(
    url: str, verb: str, board_type: str | None, labels: list[str] | None, everything: bool
) -> list[Command]:
    import json

    from edgesched.process import fail
    from edgesched.rest import COMMAND_LIST

    wanted = {}
    for text in labels or ():
        name, equals, value = text.partition("=")
        if not equals:
            fail(f"--label {text!r} is not NAME=VALUE")
        wanted[name] = value
    order = {"command": verb, "board_type": board_type, "labels": wanted, "all": everything}
    return list(COMMAND_LIST.parse(ask(url, "POST", "/commands", json.dumps(order).encode())).commands)


def _print_end(command: Command, as_json: bool) -> None:
    from edgesched.rest import COMMAND

    if as_json:
        print(COMMAND.dump(command).decode(), flush=True)
        return
    whom = command.worker or f"{command.device_id} (all workers)"
    detail = f": {command.detail}" if command.detail else ""
    print(f"{whom}: {command.verb} {command.state}{detail}", flush=True)


def _codes(report: WorkerReport) -> str:
    """The newest last."""
    known = report.exit_codes or (() if report.last_exit_code is None else (report.last_exit_code,))
    return " ".join(map(str, known[-5:])) or "-"


def _print_table(workers: tuple[WorkerEntry, ...]) -> None:
    from rich.table import Table

    if not workers:
        print("there is no worker; start an agent with: edgesched agent --master-ip <this machine>")
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("worker", "type", "state", "pid", "task", "restarts", "exit codes", "memory"):
        table.add_column(column, overflow="fold")
    for entry in workers:
        report = entry.report
        is_silent = entry.device_state == "silent"
        state = f"board silent (was {report.state})" if is_silent else report.state
        if entry.command is not None:
            state += f", told to {entry.command.verb}"
        if report.reason is not None and report.reason != report.state:
            state += f": {report.reason}"
        table.add_row(
            entry.id,
            f"{entry.board_type}{' (emulated)' if entry.emulated else ''}",
            state,
            "-" if report.pid is None else str(report.pid),
            report.current_task or "-",
            str(report.restarts),
            _codes(report),
            "-" if report.memory_bytes is None else f"{report.memory_bytes / 1e6:.0f} MB",
            style=STYLES.get("silent" if is_silent else report.state),
        )
    console().print(table)

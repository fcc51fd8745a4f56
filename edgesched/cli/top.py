"""`edgesched top`: the cluster at a glance, live; one look when its output is no terminal."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from edgesched.cli.gateway_call import GATEWAY, Url, call, console

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Group
    from rich.table import Table

    from edgesched.domain.lifecycle import State
    from edgesched.domain.task import Task
    from edgesched.rest import DeviceEntry, QueueLine

TASKS_SHOWN = 10
HEADINGS = 5
"""Lines of a look besides the first ones, devices and tasks."""

STYLES = {"ready": "green", "unhealthy": "red", "silent": "yellow"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One look at everything."""

    devices: tuple[DeviceEntry, ...]
    counts: Mapping[State, int] | None  # None: the task manager does not answer
    queue: tuple[QueueLine, ...]
    tasks: tuple[Task, ...]


def command(
    url: Url = GATEWAY,
    interval_s: Annotated[
        float, typer.Option("--interval", "-i", min=0.2, metavar="SECONDS", help="Look again after so long.")
    ] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="One look, as without a terminal.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts: one look as one JSON object.")] = False,
) -> None:
    """Devices, queue, rates and the newest tasks, live. Ctrl-C ends it."""
    from edgesched.errors import EdgeSchedError
    from edgesched.process import fail

    terminal = console()
    try:
        first = _look(url, is_exact=as_json)
    except EdgeSchedError as error:
        fail(str(error))
    if as_json:
        _print_json(first)
    elif once or not terminal.is_terminal:
        terminal.print(_drawn(first, None))
    else:
        try:
            _show(url, first, interval_s)
        except KeyboardInterrupt:
            raise typer.Exit(0) from None


def _show(url: str, look: Look, interval_s: float) -> None:
    """Until Ctrl-C. What does not answer is waited for, beside what was seen last."""
    from rich.live import Live

    from edgesched.errors import EdgeSchedError

    terminal = console()
    with Live(_drawn(look, None, terminal.height), console=terminal, screen=True, auto_refresh=False) as live:
        while os.isatty(sys.stdout.fileno()):  # a window that was closed takes its terminal along
            time.sleep(interval_s)
            trouble = None
            try:
                look = _look(url)
            except EdgeSchedError as error:
                trouble = f"{error}; what you see is old"
            live.update(_drawn(look, trouble, terminal.height), refresh=True)


def _look(url: str, *, is_exact: bool = False) -> Look:
    """Raises: PeerUnavailable, InvalidInput."""
    from collections.abc import Mapping

    from edgesched.domain.lifecycle import State
    from edgesched.errors import PeerUnavailable
    from edgesched.rest import DEVICE_LIST, QUEUE, TASK_PAGE, Wire

    devices = DEVICE_LIST.parse(call(url, "GET", "/devices", is_exact=is_exact)).devices
    try:
        counts = Wire[Mapping[State, int]](Mapping[State, int]).parse(call(url, "GET", "/tasks/counts"))
        queue = QUEUE.parse(call(url, "GET", "/tasks/queue", is_exact=is_exact))
        tasks = tuple(TASK_PAGE.parse(call(url, "GET", f"/tasks?limit={TASKS_SHOWN}", is_exact=is_exact)).tasks)
    except PeerUnavailable:
        return Look(devices=devices, counts=None, queue=(), tasks=())
    return Look(devices=devices, counts=counts, queue=queue, tasks=tasks)


def _drawn(look: Look, trouble: str | None, height: int | None = None) -> Group:
    """height: lines of the screen; None: no limit."""
    from rich.console import Group
    from rich.text import Text

    ready = sum(entry.device.state == "ready" and not entry.device.is_cordoned for entry in look.devices)
    rates = [entry.pictures_per_s for entry in look.devices if entry.pictures_per_s is not None]
    rate = f"{sum(rates):.1f} pictures/s" if rates else "no rate yet"
    parts: list[Text | Table] = [Text(f"{ready} of {len(look.devices)} devices ready    {rate}", style="bold")]
    if trouble is not None:
        parts.append(Text(trouble, style="red"))
    if look.counts is None:
        parts.append(Text("the task manager does not answer", style="red"))
    else:
        open_ones = "    ".join(f"{state.value} {count}" for state, count in look.counts.items() if count)
        parts.append(Text(open_ones or "no task"))
    if look.queue:
        lines = "    ".join(f"{line.model} {line.priority} {line.tasks}" for line in look.queue)
        parts.append(Text(f"in line: {lines}"))
    most = None if height is None else max(1, height - len(parts) - len(look.tasks) - HEADINGS)
    parts += [Text(), _devices(look.devices, most), Text(), _tasks(look.tasks)]
    return Group(*parts)


def _devices(devices: tuple[DeviceEntry, ...], most: int | None) -> Table:
    """most: rows that there is room for; then devices that are not ready come first. None: any number."""
    from rich.table import Table

    from edgesched.domain.device import Telemetry

    left_out = 0
    if most is not None and len(devices) > most:
        left_out = len(devices) - most
        devices = tuple(sorted(devices, key=lambda entry: entry.device.state == "ready"))[:most]
    table = Table(box=None, header_style="bold", pad_edge=False)
    columns = ("device", "type", "state", "in flight", "pictures/s", "CPU", "memory", "XPU", "temp.", "link", "heard")
    for column in columns:
        table.add_column(column, no_wrap=True, justify="left" if column in columns[:3] else "right")
    for entry in devices:
        device = entry.device
        told = Telemetry() if device.state == "silent" else device.telemetry
        places = device.window_tasks if entry.window_tasks is None else entry.window_tasks
        state = "cordoned" if device.is_cordoned and device.state == "ready" else device.state.value
        table.add_row(
            device.device_id,
            f"{device.board_type}{'*' if device.emulated else ''}",
            state,
            "-" if entry.in_flight is None else f"{entry.in_flight}/{places}",
            _number(entry.pictures_per_s, "{:.1f}"),
            _number(told.cpu_used_fraction, "{:.0%}"),
            _number(told.memory_used_fraction, "{:.0%}"),
            _number(told.xpu_used_fraction, "{:.0%}"),
            _number(told.temperature_c, "{:.0f} °C"),
            _number(told.link_bandwidth_mbps, "{:.0f} Mb/s"),
            f"{device.last_heartbeat_age_ms / 1000:.1f} s",
            style=STYLES.get(state, "yellow"),
        )
    notes = ["* emulated"] if any(entry.device.emulated for entry in devices) else []
    notes += [f"and {left_out} more; `edgesched devices list` has all"] if left_out else []
    table.caption, table.caption_justify = "    ".join(notes) or None, "left"
    return table


def _tasks(tasks: tuple[Task, ...]) -> Table:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("newest tasks", "model", "state", "device", "changed"):
        table.add_column(column, no_wrap=True)
    for task in tasks:
        changed = time.strftime("%H:%M:%S", time.localtime(task.updated_at_ms / 1000))
        table.add_row(task.file_name[:60], task.model, task.state.value, task.device_id or "-", changed)
    return table


def _number(value: float | None, shape: str) -> str:
    return "-" if value is None else shape.format(value)


def _print_json(look: Look) -> None:
    import json

    from edgesched.rest import DEVICE_ENTRY, QUEUE, TASK

    counts = None if look.counts is None else {state.value: count for state, count in look.counts.items()}
    devices = [json.loads(DEVICE_ENTRY.dump(entry)) for entry in look.devices]
    tasks = [json.loads(TASK.dump(task)) for task in look.tasks]
    queue = json.loads(QUEUE.dump(look.queue))
    print(json.dumps({"devices": devices, "counts": counts, "queue": queue, "tasks": tasks}))

"""`edgesched devices list|show|cordon|uncordon|drain|label`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from edgesched.cli.gateway_call import GATEWAY, Url, ask, console, named_by, quoted

if TYPE_CHECKING:
    from edgesched.rest import DeviceEntry

app = typer.Typer(help="Look at devices, and say which of them may get work.", no_args_is_help=True)

Json = Annotated[bool, typer.Option("--json", help="For scripts: one JSON object per device.")]
of_device = named_by("/devices", "device", "device_id")
DeviceIds = Annotated[
    list[str], typer.Argument(metavar="DEVICE_ID...", help="One or more device ids.", autocompletion=of_device)
]

STYLES = {"ready": "green", "unhealthy": "red", "silent": "yellow"}


@app.command("list")
def list_devices(
    archived: Annotated[bool, typer.Option("--archived", help="Those that left or were silent for long.")] = False,
    url: Url = GATEWAY,
    as_json: Json = False,
) -> None:
    """Every device."""
    from edgesched.rest import DEVICE_ENTRY, DEVICE_LIST

    path = f"/devices?archived={'true' if archived else 'false'}"
    devices = DEVICE_LIST.parse(ask(url, "GET", path, is_exact=as_json)).devices
    if as_json:
        for entry in devices:
            print(DEVICE_ENTRY.dump(entry).decode())
    else:
        _print_table(devices, are_archived=archived)


@app.command()
def show(device_ids: DeviceIds, url: Url = GATEWAY, as_json: Json = False) -> None:
    """Everything about a device."""
    from edgesched.rest import DEVICE_ENTRY

    for device_id in device_ids:
        body = ask(url, "GET", f"/devices/{quoted(device_id)}", is_exact=as_json)
        if as_json:
            print(body.decode())
        else:
            _print_details(DEVICE_ENTRY.parse(body))


@app.command()
def cordon(device_ids: DeviceIds, url: Url = GATEWAY, as_json: Json = False) -> None:
    """Give a device no new work."""
    _tell(url, device_ids, "cordon", "gets no new work", as_json)


@app.command()
def uncordon(device_ids: DeviceIds, url: Url = GATEWAY, as_json: Json = False) -> None:
    """Give a device work again, after cordon or drain."""
    _tell(url, device_ids, "uncordon", "may get work", as_json)


@app.command()
def drain(device_ids: DeviceIds, url: Url = GATEWAY, as_json: Json = False) -> None:
    """Give a device no new work, and see when nothing is left on it."""
    _tell(url, device_ids, "drain", "drains; `edgesched devices show` says when it is drained", as_json)


@app.command()
def label(
    device_id: Annotated[str, typer.Argument(metavar="DEVICE_ID", autocompletion=of_device)],
    labels: Annotated[
        list[str], typer.Argument(metavar="NAME=VALUE|NAME-...", help="NAME=VALUE sets, NAME- takes back.")
    ],
    url: Url = GATEWAY,
    as_json: Json = False,
) -> None:
    """Set labels of a device, or take back what was set here."""
    import json

    from edgesched.process import fail
    from edgesched.rest import DEVICE_ENTRY

    changes: dict[str, str | None] = {}
    for text in labels:
        name, equals, value = text.partition("=")
        if equals:
            changes[name] = value
        elif text.endswith("-"):
            changes[text[:-1]] = None
        else:
            fail(f"{text!r} is neither NAME=VALUE nor NAME-")
    body = json.dumps({"labels": changes}).encode()
    answer = ask(url, "PATCH", f"/devices/{quoted(device_id)}/labels", body, is_exact=as_json)
    if as_json:
        print(answer.decode())
        return
    entry = DEVICE_ENTRY.parse(answer)
    shown = ", ".join(f"{name}={value}" for name, value in sorted(entry.device.labels.items())) or "none"
    print(f"{device_id}: labels {shown}")


def _tell(url: str, device_ids: list[str], verb: str, outcome: str, as_json: bool) -> None:
    for device_id in device_ids:
        body = ask(url, "POST", f"/devices/{quoted(device_id)}/{verb}", is_exact=as_json)
        print(body.decode() if as_json else f"{device_id} {outcome}")


def _print_table(devices: tuple[DeviceEntry, ...], *, are_archived: bool) -> None:
    from rich.table import Table

    if not devices:
        hint = "; start one with: edgesched agent --master-ip <this machine>"
        print("no device is archived" if are_archived else f"there is no device{hint}")
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("device", "type", "state", "in flight", "pictures/s", "models", "heard"):
        table.add_column(column, overflow="fold")
    for entry in devices:
        device = entry.device
        kind = f"{device.board_type}{' (emulated)' if device.emulated else ''}"
        in_flight = "-" if entry.in_flight is None else f"{entry.in_flight}/{_window(entry)}"
        rate = "-" if entry.pictures_per_s is None else f"{entry.pictures_per_s:.1f}"
        table.add_row(
            device.device_id,
            kind,
            _standing(entry),
            in_flight,
            rate,
            ", ".join(sorted(device.models)),
            f"{device.last_heartbeat_age_ms / 1000:.1f} s ago",
            style=None if device.is_cordoned else STYLES.get(device.state.value),
        )
    console().print(table)


def _print_details(entry: DeviceEntry) -> None:
    device = entry.device
    facts: dict[str, object] = {
        "device": device.device_id,
        "type": f"{device.board_type}{' (emulated)' if device.emulated else ''}",
        "state": _standing(entry),
        "address": device.address,
        "models": ", ".join(sorted(device.models)) or "none",
        "labels": ", ".join(f"{k}={v}" for k, v in sorted(device.labels.items())) or "none",
        "in flight": "not known" if entry.in_flight is None else f"{entry.in_flight} of {_window(entry)}",
        "outbox": device.outbox_count,
        "heard": f"{device.last_heartbeat_age_ms / 1000:.1f} s ago",
    }
    if entry.failing_model is not None:
        open_s = entry.breaker_open_ms / 1000
        next_try = f", one task tries again in {open_s:.1f} s" if open_s else ", one task at a time"
        facts["failing"] = f"model {entry.failing_model}: {entry.failures_in_a_row} in a row{next_try}"
    telemetry = {name: getattr(device.telemetry, name) for name in device.telemetry.__slots__}
    facts |= {name: f"{value:g}" for name, value in telemetry.items() if value is not None}
    facts |= {f"worker {worker.name}": f"{worker.state}, {worker.restarts} restarts" for worker in entry.workers}
    facts |= {f"not loaded: {model}": reason for model, reason in sorted(entry.unavailable_models.items())}
    facts |= {f"warning {i}": warning for i, warning in enumerate(entry.warnings, 1)}
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {value}")
    print()


def _window(entry: DeviceEntry) -> int:
    return entry.device.window_tasks if entry.window_tasks is None else entry.window_tasks


def _standing(entry: DeviceEntry) -> str:
    """State, and what an operator wants."""
    device = entry.device
    words = [f"archived ({entry.archived})" if entry.archived else device.state.value]
    if device.is_draining:
        words.append("drained" if entry.is_drained else "draining")
    elif device.is_cordoned:
        words.append("cordoned")
    if device.unhealthy_reason:
        words.append(device.unhealthy_reason)
    return ", ".join(words)

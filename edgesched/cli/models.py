"""`edgesched models`: what the cluster can label, which devices can do it now, and why others cannot."""

from __future__ import annotations

from typing import Annotated

import typer

from edgesched.cli.gateway_call import GATEWAY, Url, ask, console


def command(
    url: Url = GATEWAY,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts: one JSON object per model.")] = False,
) -> None:
    """Every model of the catalogue, the ready devices that can run it, and why others could not load it."""
    from rich.table import Table

    from edgesched.rest import DEVICE_LIST, MODEL_ENTRY, MODEL_LIST

    models = MODEL_LIST.parse(ask(url, "GET", "/models", is_exact=as_json)).models
    if as_json:
        for entry in models:
            print(MODEL_ENTRY.dump(entry).decode())
        return
    if not models:
        print("the catalogue is empty; add a model to the task manager's models directory")
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("model", "version", "labels", "devices", "description"):
        table.add_column(column, overflow="fold")
    for entry in models:
        devices = ", ".join(entry.devices) or "none is ready"
        model = entry.model
        table.add_row(model.name, model.version, str(len(model.labels)), devices, model.description)
    console().print(table)
    for device in DEVICE_LIST.parse(ask(url, "GET", "/devices")).devices:
        for name, reason in sorted(device.unavailable_models.items()):
            print(f"{device.device.device_id} could not load {name}: {reason}")

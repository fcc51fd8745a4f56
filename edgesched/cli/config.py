"""`edgesched config show`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgesched.cli import options

app = typer.Typer(help="Look at the settings.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    pass


@app.command()
def show(
    process: Annotated[
        str | None,
        typer.Argument(help="up, task-manager, gateway, agent, receive or send; all of them when not given."),
    ] = None,
    config: options.Config = None,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """The effective value of every setting, and where it came from: flag, environment, file or default."""
    from edgesched.errors import StartupError
    from edgesched.process import fail
    from edgesched.settings import PROCESSES

    if process is not None:
        process = _process_named(process)
    if process is not None and process not in PROCESSES:
        fail(f"there is no process {process!r}; there are: {', '.join(PROCESSES)}")
    wanted = [process] if process else list(PROCESSES)
    try:
        rows = [row for name in wanted for row in _rows(name, config, is_only=process is not None)]
    except StartupError as error:
        fail(str(error))
    if as_json:
        _print_json(rows)
    else:
        _print_table(rows, with_process=process is None)


def _process_named(name: str) -> str:
    """Also the name of its configuration file: task_manager, receiver, sender."""
    from edgesched.settings import PROCESSES

    name = name.replace("_", "-")
    by_stem = {kind.file_stems[0].replace("_", "-"): known for known, kind in PROCESSES.items() if known != "up"}
    return by_stem.get(name, name)


Row = tuple[str, str, object, str, str]  # process, field, value, origin, description


def _rows(name: str, config: Path | None, *, is_only: bool) -> list[Row]:
    from edgesched.settings import PROCESSES, load

    kind = PROCESSES[name]
    if config is not None and not is_only and not _has_file_for(name, config):
        config = None  # a directory need not have a file for every process
    loaded = load(kind, config=config)
    return [
        (name, field, getattr(loaded.settings, field), loaded.origins[field], info.description or "")
        for field, info in kind.model_fields.items()
    ]


def _has_file_for(name: str, config: Path) -> bool:
    from edgesched.settings import PROCESSES

    return config.is_dir() and any((config / f"{stem}.toml").is_file() for stem in PROCESSES[name].file_stems)


def _print_json(rows: list[Row]) -> None:
    import json

    listed = [
        {"process": process, "field": field, "value": value, "origin": origin}
        for process, field, value, origin, _ in rows
    ]
    print(json.dumps(listed, indent=2, default=str))


def _print_table(rows: list[Row], *, with_process: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    if with_process:
        table.add_column("process")
    for column in ("setting", "value", "from"):
        table.add_column(column, overflow="fold")
    table.add_column("meaning", style="dim")
    for process, field, value, origin, description in rows:
        shown = "-" if value is None else str(value)
        style = None if origin == "default" else "green"
        cells = [field, shown, origin, description]
        table.add_row(*([process, *cells] if with_process else cells), style=style)
    Console(emoji=False).print(table)

"""Flags that several commands share, so that they look and read the same everywhere.

A flag that is not given is None: then the environment, the configuration file and the default decide (`settings.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE|DIR", help="A TOML file, or a directory with one per process."),
]
LogDir = Annotated[
    Path | None, typer.Option("--log-dir", metavar="DIR", help="Also write a rotating log file per process here.")
]
LogLevel = Annotated[
    str | None, typer.Option("--log-level", metavar="LEVEL", help="debug, info, warning or error. [default: info]")
]
LogFormat = Annotated[
    str | None,
    typer.Option("--log-format", metavar="FORMAT", help="text for people, json for machines. [default: text]"),
]
Host = Annotated[
    str | None,
    typer.Option(
        "--host", metavar="ADDRESS", help="Address to listen on (no authentication yet). [default: 127.0.0.1]"
    ),
]
Strategy = Annotated[
    str | None,
    typer.Option(
        "--strategy",
        "-s",
        metavar="NAME",
        help="How a device is picked: load, fastest or roundrobin. [default: load]",
        autocompletion=lambda: ["load", "fastest", "roundrobin"],
    ),
]
UploadPath = Annotated[
    Path | None,
    typer.Option(
        "--upload_path",
        "--upload-path",
        "-u",
        metavar="DIR",
        help="Where pictures are kept. [default: workspace/master/data/upload]",
    ),
]
KeepUpload = Annotated[
    bool | None,
    typer.Option(
        "--keep-upload", help="Never let a settled task's picture go, nor its row. [default: as image_retention_s says]"
    ),
]
LedgerPath = Annotated[
    Path | None,
    typer.Option("--ledger", metavar="FILE", help="The ledger. [default: workspace/master/ledger.sqlite3]"),
]
Durability = Annotated[
    str | None,
    typer.Option(
        "--durability",
        metavar="power|process",
        help="What an acknowledged task survives: a power cut, or only the death of a process. [default: power]",
    ),
]
Models = Annotated[
    Path | None,
    typer.Option("--models", metavar="DIR", help="Model directories; the demo model is built in. [default: models]"),
]

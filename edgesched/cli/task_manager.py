"""`edgesched task-manager`, `python -m edgesched.task_manager`."""

from __future__ import annotations

from typing import Annotated

import typer

from edgesched.cli import options


def command(
    port: Annotated[
        int | None, typer.Option("--port", "-p", help="gRPC port for clients; 0: any free one. [default: 9999]")
    ] = None,
    host: options.Host = None,
    strategy: options.Strategy = None,
    upload_path: options.UploadPath = None,
    keep_upload: options.KeepUpload = None,
    ledger: options.LedgerPath = None,
    models: options.Models = None,
    durability: options.Durability = None,
    gateway_url: Annotated[
        str | None,
        typer.Option("--gateway-url", metavar="URL", help="Where the gateway is. [default: http://127.0.0.1:6666]"),
    ] = None,
    config: options.Config = None,
    log_dir: options.LogDir = None,
    log_level: options.LogLevel = None,
    log_format: options.LogFormat = None,
) -> None:
    """Accept pictures (gRPC), keep them safe, dispatch them to devices. The gateway is another process."""
    from edgesched import process
    from edgesched.settings import TaskManagerSettings
    from edgesched.task_manager.app import serve

    process.main(
        "task_manager",
        TaskManagerSettings,
        serve,
        config=config,
        flags={
            "grpc_port": port,
            "host": host,
            "strategy": strategy,
            "upload_path": upload_path,
            "keep_upload": keep_upload,
            "ledger_path": ledger,
            "models_dir": models,
            "durability": durability,
            "gateway_url": gateway_url,
            "log_dir": log_dir,
            "log_level": log_level,
            "log_format": log_format,
        },
    )

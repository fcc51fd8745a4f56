"""`edgesched gateway`, `python -m gateway`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgesched.cli import options


def command(
    port: Annotated[
        int | None,
        typer.Option("--http-port", "--port", "-p", help="HTTP port for agents and programs. [default: 6666]"),
    ] = None,
    browser_port: Annotated[
        int | None, typer.Option("--browser-port", help="The same on a port that browsers allow. [default: 8080]")
    ] = None,
    host: options.Host = None,
    strategy: options.Strategy = None,
    task_manager: Annotated[
        str | None,
        typer.Option("--task-manager", metavar="HOST:PORT", help="The task manager. [default: 127.0.0.1:9999]"),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option("--state", metavar="FILE", help="What operators set. [default: workspace/master/gateway.sqlite3]"),
    ] = None,
    config: options.Config = None,
    log_dir: options.LogDir = None,
    log_level: options.LogLevel = None,
    log_format: options.LogFormat = None,
) -> None:
    """Keep the fleet and pick devices: registry, heartbeats, placement, REST. The task manager is another process."""
    from edgesched import process
    from edgesched.settings import GatewaySettings
    from gateway.app import serve

    process.main(
        "gateway",
        GatewaySettings,
        serve,
        config=config,
        flags={
            "http_port": port,
            "browser_port": browser_port,
            "host": host,
            "strategy": strategy,
            "task_manager": task_manager,
            "gateway_state_path": state,
            "log_dir": log_dir,
            "log_level": log_level,
            "log_format": log_format,
        },
    )

"""`edgesched agent`, `python -m agents`; `agent init` and `agent doctor` are modules of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgesched.cli import agent_doctor, agent_init, options

app = typer.Typer(
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("init")(agent_init.command)
app.command("doctor")(agent_doctor.command)


@app.callback(invoke_without_command=True)
def command(
    port: Annotated[
        int | None, typer.Option("--port", "-p", help="gRPC port, dialled by the task manager. [default: 20810]")
    ] = None,
    host: options.Host = None,
    master_ip: Annotated[
        str | None, typer.Option("--master-ip", metavar="ADDRESS", help="The gateway's address. [default: 127.0.0.1]")
    ] = None,
    master_port: Annotated[
        int | None, typer.Option("--master-port", help="The gateway's HTTP port. [default: 6666]")
    ] = None,
    master_url: Annotated[
        str | None, typer.Option("--master-url", metavar="URL", help="Instead of --master-ip and --master-port.")
    ] = None,
    advertise: Annotated[
        str | None,
        typer.Option(
            "--advertise", metavar="HOST:PORT", help="Where the task manager reaches this agent. [default: as seen]"
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option("--device", metavar="TYPE", help="atlas, rk3588, orin or generic. [default: detected]"),
    ] = None,
    device_id: Annotated[
        str | None, typer.Option("--device-id", metavar="NAME", help="Name of this device. [default: made once, kept]")
    ] = None,
    emulate: Annotated[
        str | None, typer.Option("--emulate", metavar="TYPE", help="Be an emulated atlas, rk3588 or orin.")
    ] = None,
    workspace: Annotated[
        Path | None,
        typer.Option(
            "--workspace", metavar="DIR", help="Outbox, device id and state of this agent. [default: workspace/slave]"
        ),
    ] = None,
    models: options.Models = None,
    workers: Annotated[
        int | None, typer.Option("--workers", metavar="N", help="Worker processes. [default: one per slot]")
    ] = None,
    backend: Annotated[
        str | None, typer.Option("--backend", metavar="NAME", help="For every model (echo: no work, for benches).")
    ] = None,
    python_bin: Annotated[
        str | None, typer.Option("--python-bin", metavar="FILE", help="The workers' interpreter. [default: this one]")
    ] = None,
    metrics_port: Annotated[
        int | None, typer.Option("--metrics-port", metavar="PORT", help="Also serve /metrics for Prometheus here.")
    ] = None,
    disconnect: Annotated[
        float | None,
        typer.Option("--disconnect", metavar="SECONDS", help="Test: every so often, cut all links, silently."),
    ] = None,
    reconnect: Annotated[
        float | None,
        typer.Option("--reconnect", metavar="SECONDS", help="Test: restore them each time after this. [default: 20]"),
    ] = None,
    bandwidth_fluctuate: Annotated[
        bool | None,
        typer.Option(
            "--bandwidth-fluctuate",
            show_default=False,
            help="Test: throttle the incoming link, 50-500 Mbit/s.",
        ),
    ] = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Show what board this is and what its sensors say, and end.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --probe: for scripts.")] = False,
    config: options.Config = None,
    log_dir: options.LogDir = None,
    log_level: options.LogLevel = None,
    log_format: options.LogFormat = None,
    context: typer.Context = None,  # type: ignore[assignment]  # only a direct call leaves it out
) -> None:
    """Be one board: take pictures from the task manager, label them, deliver the labels."""
    if getattr(context, "invoked_subcommand", None) is not None:
        return _check_order(context)
    if probe or as_json:
        return _probe(device, emulate, config, is_asked_for=probe, as_json=as_json)

    from agents.app import serve
    from edgesched import process
    from edgesched.settings import AgentSettings

    process.main(
        "agent",
        AgentSettings,
        serve,
        config=config,
        log_name=lambda settings: f"agent-{settings.device_id or settings.agent_port}",
        flags={
            "agent_port": port,
            "host": host,
            "master_ip": master_ip,
            "master_port": master_port,
            "master_url": master_url,
            "metrics_port": metrics_port,
            "advertise": advertise,
            "device": device,
            "device_id": device_id,
            "emulate": emulate,
            "workspace_dir": workspace,
            "models_dir": models,
            "workers": workers,
            "backend": backend,
            "python_bin": python_bin,
            "disconnect_s": disconnect,
            "reconnect_s": reconnect,
            "bandwidth_fluctuate": bandwidth_fluctuate,
            "log_dir": log_dir,
            "log_level": log_level,
            "log_format": log_format,
        },
    )


def _probe(device: str | None, emulate: str | None, config: Path | None, *, is_asked_for: bool, as_json: bool) -> None:
    from agents.boards.probe import probe
    from edgesched.errors import StartupError
    from edgesched.process import fail
    from edgesched.settings import AgentSettings, load

    if not is_asked_for:
        fail("--json goes with --probe")
    if emulate is not None:
        fail("--probe looks at the real board: leave --emulate away")
    try:
        settings = load(AgentSettings, config=config, flags={"device": device}).settings
        report = probe(settings.device)
    except StartupError as error:
        fail(str(error))
    print(report.as_json() if as_json else report.as_text())


def _check_order(context: typer.Context) -> None:
    """A flag before `init` or `doctor` would be read and forgotten."""
    from edgesched.process import fail

    if any(value not in (None, False) for value in context.params.values()):
        fail(f"put the flags behind the command: edgesched agent {context.invoked_subcommand} --flag ...")

"""`edgesched`: a table of commands. Each one is a module of this package, imported only when it is asked for."""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Mapping
from typing import Any

import typer

INTERRUPTED = 130
PART_MISSING = 2
OURS = ("edgesched", "agents", "gateway", "client")

COMMANDS: Mapping[str, str] = {  # name -> module with a function `command` or a typer.Typer `app`; or module:function
    "demo": "edgesched.cli.demo",
    "up": "edgesched.cli.up",
    "task-manager": "edgesched.cli.task_manager",
    "gateway": "edgesched.cli.gateway",
    "agent": "edgesched.cli.agent",
    "receive": "client.rst_recv",
    "send": "client.send_pic",
    "tasks": "edgesched.cli.tasks",
    "model": "edgesched.cli.model",
    "audit": "edgesched.cli.audit",
    "ledger": "edgesched.cli.ledger",
    "outbox": "edgesched.cli.outbox",
    "devices": "edgesched.cli.devices",
    "cordon": "edgesched.cli.devices:cordon",
    "uncordon": "edgesched.cli.devices:uncordon",
    "drain": "edgesched.cli.devices:drain",
    "workers": "edgesched.cli.workers",
    "logs": "edgesched.cli.logs",
    "models": "edgesched.cli.models",
    "top": "edgesched.cli.top",
    "draw": "edgesched.cli.draw",
    "simulate": "edgesched.cli.simulate",
    "config": "edgesched.cli.config",
    "bundle": "edgesched.cli.bundle",
}

HELP = """A handful of unlike edge boards that look like one fast, dependable inference server.

Start with `edgesched demo`. Every command explains itself with --help.
"""


# Each picture makes some hundred short-lived objects and hardly any cycle, and imports make thousands that stay: at
# Python's 700 the collector took 2 to 3 % of the CPU of a busy process, and 5 % of the time in which one starts.
gc.set_threshold(10_000, 20, 20)

# gRPC prints its own view of broken connections and taken ports to stderr; our logs and messages say it in our words.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

# A fork runs handlers of gRPC, for children that go on using it; ours only begin another program. While messages came
# and went, up to one child in ten died in these handlers, of SIGSEGV; or it hung there, and so did its parent.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")


def main() -> None:
    """The console script."""
    asked_for = next((argument for argument in sys.argv[1:] if not argument.startswith("-")), None)
    app = _typer(help=HELP, no_args_is_help=True)
    app.callback()(_options)
    for name in COMMANDS:
        if asked_for == name or asked_for not in COMMANDS:
            _add(app, name)
    _call(app)


def run_command(name: str) -> None:
    """One command as a program of its own: `python -m gateway`, `python client/send_pic.py`."""
    module = importlib.import_module(COMMANDS[name])
    if isinstance(app := getattr(module, "app", None), typer.Typer):  # it has commands of its own beside
        return _call(app)
    app = _typer(add_completion=False)
    app.command()(module.command)
    _call(app)


def _typer(**options: Any) -> typer.Typer:
    return typer.Typer(
        pretty_exceptions_enable=False,  # a crash is for the log: pages of coloured frames help nobody
        rich_markup_mode="markdown",
        context_settings={"help_option_names": ["-h", "--help"]},
        **options,
    )


def _call(app: typer.Typer) -> None:
    try:
        app()
    except KeyboardInterrupt:  # before a command has taken the signal over: while it is imported, say
        sys.exit(INTERRUPTED)
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        if package in OURS:
            raise
        print(
            f"edgesched: this needs the Python package {package}, which {sys.executable} does not have: install "
            "edgesched with all its parts ('.[all]'), or on a board '.[agent,cpu]'",
            file=sys.stderr,
        )
        sys.exit(PART_MISSING)


def _add(app: typer.Typer, name: str) -> None:
    module_name, _, function = COMMANDS[name].partition(":")
    module = importlib.import_module(module_name)
    if function:
        app.command(name)(getattr(module, function))
    elif isinstance(group := getattr(module, "app", None), typer.Typer):
        app.add_typer(group, name=name)
    else:
        app.command(name)(module.command)


def _show_version(wanted: bool) -> None:
    if wanted:
        from edgesched import __version__

        print(f"edgesched {__version__}")
        raise typer.Exit


def _options(
    version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Show the version."),
) -> None:
    pass

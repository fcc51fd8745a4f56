"""`edgesched audit`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from edgesched.cli import options

if TYPE_CHECKING:
    from edgesched.cli.boards import Asked
    from edgesched.settings import TaskManagerSettings
    from edgesched.upkeep.audit import Progress, Report

EXIT_FINDINGS = 1


def command(
    ledger: options.LedgerPath = None,
    upload_path: options.UploadPath = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Do not read every picture and label; look at rows and headers only.")
    ] = False,
    boards: Annotated[
        bool, typer.Option("--boards", help="Also ask the boards that the gateway knows what they hold.")
    ] = False,
    gateway_url: Annotated[
        str | None,
        typer.Option("--gateway-url", metavar="URL", help="That gateway; with --boards. [default: as in the settings]"),
    ] = None,
    agents: Annotated[
        list[str] | None,
        typer.Option("--agent", metavar="HOST:PORT", help="Also ask this board; may be given again."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts: one JSON object.")] = False,
    config: options.Config = None,
) -> None:
    """Check that every accepted picture is accounted for. Safe while the task manager runs.

    Without --boards and --agent it uses no network. A board that cannot be asked is listed, and is no fault.

    Exit code 0: everything adds up; 1: a list of what does not; 2: it cannot be checked.
    """
    from edgesched.errors import StartupError
    from edgesched.process import fail
    from edgesched.settings import TaskManagerSettings, load
    from edgesched.upkeep.audit import audit

    try:
        flags = {"ledger_path": ledger, "upload_path": upload_path, "gateway_url": gateway_url}
        settings = load(TaskManagerSettings, config=config, flags=flags).settings
        asked = _ask(settings, boards or gateway_url is not None, agents or [])
        with _progress(is_shown=not as_json and sys.stderr.isatty()) as progress:
            report = audit(
                settings.ledger_path,
                settings.upload_path,
                whole=not quick,
                inventories=asked.inventories if asked else (),
                progress=progress,
            )
    except StartupError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename or settings.upload_path} cannot be read: {error.strerror}")
    if as_json:
        _print_json(report, asked)
    else:
        _print(report, asked)
    if not report.is_clean:
        raise typer.Exit(EXIT_FINDINGS)


def _ask(settings: TaskManagerSettings, boards: bool, agents: list[str]) -> Asked | None:
    """None: nobody is to be asked."""
    if not boards and not agents:
        return None
    from edgesched.cli.boards import ask_boards

    return ask_boards(settings.gateway_url if boards else None, agents)


@contextmanager
def _progress(*, is_shown: bool) -> Iterator[Progress]:
    if not is_shown:
        yield lambda what, done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    with Bar(console=Console(stderr=True), transient=True) as bar:
        lines: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in lines:
                lines[what] = bar.add_task(what)
            bar.update(lines[what], completed=done, total=total)

        yield show


def _print(report: Report, asked: Asked | None) -> None:
    facts = report.facts
    if facts is not None:
        live, retired = sum(facts.live.values()), sum(facts.retired.values())
        print(f"ledger {facts.ledger_id}: {facts.accepted} accepted = {live} here + {retired} retired")
        print(
            f"looked at {live} tasks, {facts.attempts} attempts, {facts.labels} labels, {report.pictures} pictures",
            end="",
        )
        print("" if report.is_whole else " (--quick: not read whole)")
        if facts.given_up:
            print(f"{facts.given_up} failed tasks were given up because their picture is gone: `edgesched tasks list`")
    _print_boards(report, asked)
    for finding in report.findings:
        print(f"\n{finding.check}: {f'task {finding.task_id}: ' if finding.task_id else ''}{finding.what}")
        print(f"  -> {finding.advice}")
    for check, count in sorted(report.omitted.items()):
        print(f"\n{check}: and {count} more")
    total = len(report.findings) + report.omitted.total()
    print("everything adds up" if report.is_clean else f"\nit does NOT add up; findings: {total}")


def _print_boards(report: Report, asked: Asked | None) -> None:
    for device_id, held in sorted(report.boards.items()):
        print(f"board {device_id} holds {held.ours} outcomes of this ledger", end="")
        if held.forgotten:
            print(f", {held.forgotten} of them of tasks that are so old that the ledger has forgotten them", end="")
        print(f", and {held.foreign} of others: `edgesched outbox --help`" if held.foreign else "")
    for name, why in sorted(asked.away.items() if asked else ()):
        print(f"not audited: {name}: {why}")
    away = asked.away if asked else {}
    for device_id, attempts in sorted(report.not_audited.items()):
        if device_id not in away:
            print(
                f"not audited: board {device_id} ({attempts} open attempts); `--boards` asks those that can be reached"
            )


def _print_json(report: Report, asked: Asked | None) -> None:
    import json
    from dataclasses import asdict

    shown = {
        "clean": report.is_clean,
        "whole": report.is_whole,
        "facts": asdict(report.facts) if report.facts else None,
        "pictures": report.pictures,
        "findings": [asdict(finding) for finding in report.findings],
        "omitted": dict(report.omitted),
        "boards": {device_id: asdict(held) for device_id, held in report.boards.items()},
        "boards_not_audited": dict(report.not_audited),  # with open attempts, and how many
        "boards_away": asked.away if asked else {},  # asked in vain, and why
    }
    print(json.dumps(shown, indent=2, ensure_ascii=False))

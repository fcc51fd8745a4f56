"""`edgesched audit`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from edgesched.cli import options

if TYPE_CHECKING:
    from edgesched.upkeep.audit import Progress, Report

EXIT_FINDINGS = 1


def command(
    ledger: options.LedgerPath = None,
    upload_path: options.UploadPath = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Do not read every picture and label; look at rows and headers only.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts: one JSON object.")] = False,
    config: options.Config = None,
) -> None:
    """Check that every accepted picture is accounted for. Safe while the task manager runs.

    Exit code 0: everything adds up; 1: a list of what does not; 2: it cannot be checked.
    """
    from edgesched.errors import StartupError
    from edgesched.process import fail
    from edgesched.settings import TaskManagerSettings, load
    from edgesched.upkeep.audit import audit

    try:
        settings = load(
            TaskManagerSettings, config=config, flags={"ledger_path": ledger, "upload_path": upload_path}
        ).settings
        with _progress(is_shown=not as_json and sys.stderr.isatty()) as progress:
            report = audit(settings.ledger_path, settings.upload_path, whole=not quick, progress=progress)
    except StartupError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename or settings.upload_path} cannot be read: {error.strerror}")
    if as_json:
        _print_json(report)
    else:
        _print(report)
    if not report.is_clean:
        raise typer.Exit(EXIT_FINDINGS)


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


def _print(report: Report) -> None:
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
    for device_id, attempts in sorted(report.not_audited.items()):
        print(f"not audited: board {device_id} ({attempts} open attempts); what it holds, it reports when it connects")
    for finding in report.findings:
        print(f"\n{finding.check}: {f'task {finding.task_id}: ' if finding.task_id else ''}{finding.what}")
        print(f"  -> {finding.advice}")
    for check, count in sorted(report.omitted.items()):
        print(f"\n{check}: and {count} more")
    total = len(report.findings) + report.omitted.total()
    print("everything adds up" if report.is_clean else f"\nit does NOT add up; findings: {total}")


def _print_json(report: Report) -> None:
    import json
    from dataclasses import asdict

    shown = {
        "clean": report.is_clean,
        "whole": report.is_whole,
        "facts": asdict(report.facts) if report.facts else None,
        "pictures": report.pictures,
        "findings": [asdict(finding) for finding in report.findings],
        "omitted": dict(report.omitted),
        "boards_not_audited": dict(report.not_audited),
    }
    print(json.dumps(shown, indent=2, ensure_ascii=False))

"""`edgesched outbox list|drop`, on a board."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgesched.cli import options

if TYPE_CHECKING:
    from agents.outbox_files import OutboxFiles

app = typer.Typer(
    help="See whose labels this board keeps, and give up those of a ledger that is gone.", no_args_is_help=True
)

Workspace = Annotated[
    Path | None, typer.Option("--workspace", metavar="DIR", help="The agent's. [default: workspace/slave]")
]


@app.command("list")
def list_outcomes(
    workspace: Workspace = None,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts: one JSON object per ledger.")] = False,
    config: options.Config = None,
) -> None:
    """Labels on this board's disk by ledger, while the agent runs or not. Some may be settled and not cleared yet."""
    import json

    with _sentences():
        counts = _counts(_files(_directory(workspace, config)))
    if as_json:
        for ledger_id, count in counts.items():
            print(json.dumps({"ledger_id": ledger_id, "outcomes": count}))
        return
    for ledger_id, count in counts.items():
        print(f"ledger {ledger_id}: {count} outcomes")
    print("`edgesched audit` says which ledger is whose" if counts else "the outbox is empty")


@app.command()
def drop(
    ledger_id: Annotated[str, typer.Argument(metavar="LEDGER_ID", help="As `edgesched outbox list` shows it.")],
    workspace: Workspace = None,
    config: options.Config = None,
) -> None:
    """Delete all labels of one ledger from this board; its agent must be stopped.

    If that ledger still wants them, their pictures are labelled again; it loses nothing else.
    """
    from edgesched.process import fail, sole_user

    with _sentences():
        directory = _directory(workspace, config)
        with sole_user(directory / "agent.lock", f"the workspace {directory}", "stop the agent first"):
            files = _files(directory)
            counts = _counts(files)
            if ledger_id not in counts:
                fail(f"there is nothing of ledger {ledger_id!r} here; there is of: {', '.join(counts) or 'none'}")
            dropped = files.drop(ledger_id)
    print(f"{dropped} outcomes of ledger {ledger_id} are gone from {directory}")


def _directory(workspace: Path | None, config: Path | None) -> Path:
    from edgesched.settings import AgentSettings, load

    return load(AgentSettings, config=config, flags={"workspace_dir": workspace}).settings.workspace_dir


def _files(directory: Path) -> OutboxFiles:
    from agents.outbox_files import OutboxFiles
    from edgesched.errors import StartupError

    outbox = directory / "outbox"
    if not outbox.is_dir():
        raise StartupError(f"there is no outbox in {directory}: give the agent's --workspace")
    return OutboxFiles(outbox)


def _counts(files: OutboxFiles) -> dict[str, int]:
    from collections import Counter

    return dict(Counter(outcome.ledger_id for outcome in files.stored()))


@contextmanager
def _sentences() -> Iterator[None]:
    from edgesched.errors import StartupError
    from edgesched.process import fail

    try:
        yield
    except StartupError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename or 'the outbox'} cannot be used: {error.strerror}")

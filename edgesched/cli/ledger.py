"""`edgesched ledger backup|restore|repair|migrate`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgesched.cli import options

if TYPE_CHECKING:
    from edgesched.ledger.base import Applied
    from edgesched.settings import TaskManagerSettings

app = typer.Typer(help="Back up, restore, repair and migrate the ledger.", no_args_is_help=True)

LISTED = 20


@app.command()
def backup(
    to: Annotated[Path, typer.Option("--to", metavar="FILE", help="The copy; a file that exists is never replaced.")],
    ledger: options.LedgerPath = None,
    config: options.Config = None,
) -> None:
    """Copy the ledger to one file, while the task manager runs or not. The copy is checked."""
    from edgesched.ledger.backup import back_up

    with _sentences():
        path = _settings(config, ledger).ledger_path
        back_up(path, to)
    print(f"{path} is copied to {to} ({to.stat().st_size} bytes), and the copy is sound")
    print("Pictures are not in it: copy the picture directory after it, if they are to be restored as well.")


@app.command()
def restore(
    source: Annotated[Path, typer.Option("--from", metavar="FILE", help="A copy that `ledger backup` made.")],
    ledger: options.LedgerPath = None,
    upload_path: options.UploadPath = None,
    replace: Annotated[bool, typer.Option("--replace", help="Move a ledger that is there aside.")] = False,
    config: options.Config = None,
) -> None:
    """Put a backup in the ledger's place; the task manager must be stopped.

    Tasks whose picture is gone become FAILED with that cause; all others go on from where they were.
    """
    from edgesched.ledger import backup
    from edgesched.upkeep.lost_pictures import check_pictures

    with _sentences():
        settings = _settings(config, ledger, upload_path)
        with _sole_user(settings.ledger_path):
            check_pictures(source, settings.upload_path)
            aside = backup.restore(source, settings.ledger_path, replace=replace)
            print(f"{source} is restored to {settings.ledger_path}")
            if aside is not None:
                print(f"The ledger that was there is {aside} now. Pictures that only it names go at the next start.")
            _give_up_lost_pictures(settings)


@app.command()
def repair(
    ledger: options.LedgerPath = None, upload_path: options.UploadPath = None, config: options.Config = None
) -> None:
    """Give up pictures that are gone or damaged; the task manager must be stopped.

    Their tasks become FAILED with that cause if they still needed them. It reads every picture.
    """
    from edgesched.upkeep.lost_pictures import check_pictures

    with _sentences():
        settings = _settings(config, ledger, upload_path)
        with _sole_user(settings.ledger_path):
            check_pictures(settings.ledger_path, settings.upload_path)
            _give_up_lost_pictures(settings)


@app.command()
def migrate(ledger: options.LedgerPath = None, config: options.Config = None) -> None:
    """Bring a ledger of an earlier release up to this one; the task manager must be stopped. A backup is made first."""
    from edgesched.ledger import migrations

    with _sentences():
        path = _settings(config, ledger).ledger_path
        with _sole_user(path):
            backup = migrations.migrate(path)
    if backup is None:
        print(f"{path} is of this release's version already")
    else:
        print(f"{path} is migrated; as it was before, it is {backup}")


def _settings(config: Path | None, ledger: Path | None, upload_path: Path | None = None) -> TaskManagerSettings:
    from edgesched.settings import TaskManagerSettings, load

    flags = {"ledger_path": ledger, "upload_path": upload_path}
    return load(TaskManagerSettings, config=config, flags=flags).settings


@contextmanager
def _sentences() -> Iterator[None]:
    from edgesched.errors import StartupError, StorageFailed
    from edgesched.process import fail

    try:
        yield
    except (StartupError, StorageFailed) as error:
        fail(str(error))


@contextmanager
def _sole_user(ledger_path: Path) -> Iterator[None]:
    from edgesched.process import sole_user

    lock_path = ledger_path.with_suffix(".lock")
    with sole_user(lock_path, f"the ledger {ledger_path}", "stop the task manager first"):
        yield


def _give_up_lost_pictures(settings: TaskManagerSettings) -> None:
    import asyncio

    from edgesched.clock import SystemClock
    from edgesched.ledger.sqlite import SqliteLedger
    from edgesched.upkeep.lost_pictures import give_up_lost_pictures

    async def give_up() -> Sequence[Applied]:
        now_ms = SystemClock().wall_ms
        async with SqliteLedger.opened(settings.ledger_path, now_ms=now_ms, durability="power") as ledger:
            return await give_up_lost_pictures(ledger, settings.upload_path)

    _print_given_up(asyncio.run(give_up()))


def _print_given_up(given_up: Sequence[Applied]) -> None:
    from edgesched.domain.lifecycle import State

    failed = [a.task for a in given_up if a.task is not None and a.task.state is State.FAILED]
    if not given_up:
        print("All pictures that it names are there.")
        return
    print(f"{len(given_up)} pictures are gone; {len(failed)} tasks needed theirs and are FAILED now")
    for task in failed[:LISTED]:
        print(f"  {task.task_id}  {task.file_name}: {task.last_error}")
    if len(failed) > LISTED:
        print(f"  and {len(failed) - LISTED} more: `edgesched tasks list --state failed`")

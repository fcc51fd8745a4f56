"""Brings a ledger of an earlier release up to this one's schema."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgesched.errors import StartupError
from edgesched.ledger.backup import back_up, free_name
from edgesched.ledger.database import SCHEMA_VERSION, connect, transaction, version_of

STEPS: Mapping[int, Sequence[str]] = {  # from this version to the next one
    1: (
        "ALTER TABLE retired_submission RENAME COLUMN settled_at_ms TO retired_at_ms",
        # When the rows went was not written down: counting from now, no key is forgotten too early.
        "UPDATE retired_submission SET retired_at_ms = CAST(strftime('%s', 'now') AS INTEGER) * 1000",
    ),
    2: (
        "ALTER TABLE task ADD COLUMN priority TEXT NOT NULL DEFAULT 'normal'",
        "CREATE INDEX task_in_line ON task (model, priority, seq) WHERE state = 'queued'",
        "UPDATE retired_submission SET task = json_set(task, '$.priority', 'normal')",
    ),
}


def migrate(path: Path, *, steps: Mapping[int, Sequence[str]] = STEPS, wanted: int = SCHEMA_VERSION) -> Path | None:
    """Take every step that is missing, in one transaction, after a backup. The caller holds the ledger's lock.

    Returns: the backup; None if the ledger is of this version already.
    Raises: StartupError, and then the ledger is as it was.
    """
    if not path.is_file():
        raise StartupError(f"there is no ledger {path}")
    try:
        with contextlib.closing(connect(path, "rw")) as connection:
            version = version_of(connection, path)
            if version == wanted:
                return None
            if not all(number in steps for number in range(version, wanted)) or version > wanted:
                raise StartupError(
                    f"the ledger {path} is of schema version {version}; this release cannot bring it to {wanted}"
                )
            backup = free_name(path, f".version-{version}")
            back_up(path, backup)
            with transaction(connection, "IMMEDIATE"):
                for number in range(version, wanted):
                    for statement in steps[number]:
                        connection.execute(statement)
                connection.execute("UPDATE meta SET schema_version = ?", (wanted,))
            return backup
    except sqlite3.Error as error:
        raise StartupError(f"the ledger {path} cannot be migrated, and was not changed: {error}") from error

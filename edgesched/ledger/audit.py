"""Reads a ledger's file for the audit: read-only and beside its owner, one consistent state of things at a time."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgesched.domain.device import DeviceId
from edgesched.domain.lifecycle import State
from edgesched.domain.outbox import Inventory
from edgesched.domain.task import ImageRef, TaskId
from edgesched.errors import StartupError, StorageFailed
from edgesched.ledger.checks import CHECKS, GIVEN_UP, RESTORE
from edgesched.ledger.database import check_version, open_for_reading, schema, transaction
from edgesched.ledger.finding import Finding
from edgesched.ledger.held import HeldReport, broken_outcomes
from edgesched.ledger.rows import RESULT_COLUMNS, result_of

MAX_DAMAGE_LINES = 20
LABEL_PAGE = 500

REPLACE_FILE = (
    "stop the task manager, keep a copy of the file, and put a backup in its place: "
    "`edgesched ledger restore --from BACKUP --replace`"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedPicture:
    """A picture that a task's row names."""

    task_id: TaskId
    state: str
    ref: ImageRef
    digest: str  # of what was submitted


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a ledger says of itself at one moment. States are text: an audit may meet any."""

    ledger_id: str
    accepted: int
    live: Mapping[str, int]
    retired: Mapping[str, int]
    attempts: int
    labels: int
    given_up: int  # dead letters whose picture is gone, and that say so
    open_attempts: Mapping[DeviceId, int]


class LedgerFile:
    """A ledger's file, looked at from outside. Blocking.

    Every method raises StorageFailed where the file is too damaged to be read on.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @classmethod
    @contextlib.contextmanager
    def opened(cls, path: Path) -> Iterator[LedgerFile]:
        """Raises: StartupError if there is no ledger of this release's version; StorageFailed if it is damaged."""
        if not path.is_file():
            raise StartupError(f"there is no ledger {path}")
        with _reading(path), contextlib.closing(open_for_reading(path)) as connection:
            check_version(connection, path)
            yield cls(connection)

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """Whatever is read inside the block is of one moment. Keep it short: meanwhile the owner's log only grows."""
        with transaction(self._connection, "DEFERRED"):
            yield

    def damage(self) -> Iterator[Finding]:
        """The file as such: pages, indices, types; and its tables as this release makes them."""
        for (line,) in self._connection.execute(f"PRAGMA integrity_check({MAX_DAMAGE_LINES})"):
            if line != "ok":
                yield Finding(check="file", what=f"the database is damaged: {line}", advice=REPLACE_FILE)
        for name in sorted(_objects(self._connection) ^ _objects_of_this_release()):
            yield Finding(check="schema", what=f"the database's structure was changed: {name[0]}", advice=REPLACE_FILE)

    def facts(self) -> Facts:
        ask = self._connection.execute
        counters = dict(ask("SELECT name, value FROM counter").fetchall())
        return Facts(
            ledger_id=str(*ask("SELECT ledger_id FROM meta").fetchone()),
            accepted=counters.get("accepted", 0),
            live=dict(ask("SELECT state, COUNT(*) FROM task GROUP BY state").fetchall()),
            retired={state: counters.get(f"retired_{state}", 0) for state in State},
            attempts=self._number("SELECT COUNT(*) FROM attempt"),
            labels=self._number("SELECT COUNT(*) FROM result"),
            given_up=self._number(GIVEN_UP),
            open_attempts=dict(
                ask("SELECT device_id, COUNT(*) FROM attempt WHERE ended_at_ms IS NULL GROUP BY device_id").fetchall()
            ),
        )

    def broken_rows(self) -> Iterator[Finding]:
        """One finding per row that breaks a promise of checks.py."""
        for check in CHECKS:
            for task_id, *details in self._connection.execute(check.query):
                yield Finding(
                    check=check.name, what=check.what.format(*details), advice=check.advice, task_id=_id_of(task_id)
                )

    def broken_counts(self, facts: Facts) -> Iterator[Finding]:
        live, retired = sum(facts.live.values()), sum(facts.retired.values())
        if facts.accepted != live + retired:
            yield Finding(
                check="count",
                what=f"{facts.accepted} tasks were accepted, but there are {live} and {retired} were retired: "
                f"{facts.accepted - live - retired:+d} are unaccounted for",
                advice=RESTORE,
            )
        remembered = self._number("SELECT COUNT(*) FROM retired_submission")
        if remembered > retired:
            what = f"{remembered} keys of retired tasks are remembered, but only {retired} tasks were retired"
            yield Finding(check="count", what=what, advice=RESTORE)

    def pictures(self) -> Iterator[NamedPicture]:
        rows = self._connection.execute("SELECT task_id, state, image, image_digest FROM task WHERE image IS NOT NULL")
        for task_id, state, image, digest in rows:
            yield NamedPicture(task_id=TaskId(task_id), state=state, ref=ImageRef(image), digest=digest)

    def still_named(self, pictures: Collection[NamedPicture]) -> list[NamedPicture]:
        """Those of them that their tasks name now: the others were let go meanwhile, as it should be."""
        query = "SELECT 1 FROM task WHERE task_id = ? AND image = ?"
        return [p for p in pictures if self._connection.execute(query, (p.task_id, p.ref)).fetchone()]

    def is_named(self, ref: ImageRef) -> bool:
        return self._connection.execute("SELECT 1 FROM task WHERE image = ? LIMIT 1", (ref,)).fetchone() is not None

    def damaged_labels(self) -> Iterator[Finding | None]:
        """For each task with labels: a finding if they are not those that were stored, else None.

        Page by page, each a moment of its own: labels are written once, and only ever deleted.
        """
        last = 0
        while True:
            rows = self._connection.execute(_LABELS, (last, LABEL_PAGE)).fetchall()
            for row in rows:
                try:
                    result_of(row[1:])
                    yield None
                except StorageFailed as error:
                    yield Finding(check="labels.digest", what=str(error), advice=RESTORE, task_id=_id_of(row[1]))
            if len(rows) < LABEL_PAGE:
                return
            last = rows[-1][0]

    def broken_outcomes(self, inventory: Inventory, ledger_id: str, report: HeldReport) -> Iterator[Finding]:
        """What a board holds and this ledger contradicts. It was asked before; each outcome is looked up by itself."""
        yield from broken_outcomes(self._connection, ledger_id, inventory, report)

    def _number(self, query: str) -> int:
        (number,) = self._connection.execute(query).fetchone()
        return int(number)


_LABELS = f"""
    SELECT result.seq, {RESULT_COLUMNS} FROM result JOIN task USING (seq)
    LEFT JOIN attempt ON attempt.attempt_id = result.attempt_id WHERE result.seq > ? ORDER BY result.seq LIMIT ?"""


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StorageFailed(f"the ledger {path} cannot be read: {error}") from error


def _id_of(value: str | None) -> TaskId | None:
    return None if value is None else TaskId(value)


def _objects_of_this_release() -> set[tuple[str, str]]:
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(schema())
        return _objects(connection)


def _objects(connection: sqlite3.Connection) -> set[tuple[str, str]]:
    """Tables and indices, and how they are defined, whatever the spelling and the comments."""
    rows = connection.execute(
        "SELECT type || ' ' || name, COALESCE(sql, '') FROM sqlite_master WHERE name NOT LIKE 'sqlite_stat%'"
    ).fetchall()
    return {(name, "".join(re.sub(r'--[^\n]*|"', "", sql).split())) for name, sql in rows}

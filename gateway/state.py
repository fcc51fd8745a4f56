"""What the gateway must not forget: what operators set, and what was known of each device. Its own small SQLite file.

Commands and workers' logs are in it too; `command_rows.py` and `log_rows.py` know their tables.

The standard library's sqlite3 in one thread of its own: that is all that aiosqlite would add, without one more package.
A few writes a minute need no group commit; each one is on the disk when its call returns.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from edgesched.domain.device import DeviceId
from edgesched.errors import InvalidInput, StartupError, StorageFailed
from edgesched.process import sole_user
from edgesched.rest import DEVICE_ENTRY, DeviceEntry
from gateway.registry import Wishes

STEPS = (
    """
CREATE TABLE wish (
    device_id TEXT PRIMARY KEY,
    is_cordoned INTEGER NOT NULL,
    is_draining INTEGER NOT NULL,
    labels TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE device (
    device_id TEXT PRIMARY KEY,
    entry TEXT NOT NULL,
    heard_at_ms INTEGER NOT NULL,
    archived TEXT
) STRICT;
CREATE INDEX device_by_age ON device (heard_at_ms);
""",
    """
CREATE TABLE command (
    command_id TEXT PRIMARY KEY,
    device_id TEXT NOT NULL,
    worker TEXT,
    verb TEXT NOT NULL,
    state TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    updated_at_ms INTEGER NOT NULL,
    expires_at_ms INTEGER NOT NULL,
    detail TEXT,
    key TEXT
) STRICT;
CREATE INDEX command_by_age ON command (created_at_ms);
CREATE INDEX command_by_state ON command (state);
CREATE TABLE command_key (
    key TEXT NOT NULL,
    position INTEGER NOT NULL,
    command_id TEXT NOT NULL,
    asked TEXT NOT NULL,
    PRIMARY KEY (key, position)
) STRICT;
CREATE INDEX command_key_by_command ON command_key (command_id);
CREATE TABLE worker_line (
    cursor INTEGER PRIMARY KEY,
    device_id TEXT NOT NULL,
    worker TEXT NOT NULL,
    number INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    source TEXT NOT NULL,
    text TEXT NOT NULL
) STRICT;
CREATE INDEX worker_line_by_worker ON worker_line (worker, cursor);
""",
)
"""What each version of the file adds to the one before."""

SCHEMA_VERSION = len(STEPS)
MAX_REMEMBERED = 10_000
BUSY_TIMEOUT_S = 5.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """The last facts of one device. archived: None while it may still come back by itself."""

    device_id: DeviceId
    entry: DeviceEntry
    heard_at_ms: int  # the gateway's wall clock
    archived: str | None = None


class GatewayState:
    """Async outside, one thread inside. Open it with `opened`."""

    def __init__(self, connection: sqlite3.Connection, thread: ThreadPoolExecutor) -> None:
        self._connection = connection
        self._thread = thread

    @classmethod
    @asynccontextmanager
    async def opened(cls, path: Path) -> AsyncIterator[GatewayState]:
        """Raises: StartupError if the file is not ours, cannot be written or is in use by another gateway."""
        remedy = "stop that one, or give this one --state FILE"
        with sole_user(path.with_suffix(".lock"), f"the gateway's state {path}", remedy):
            thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="gateway-state")
            loop = asyncio.get_running_loop()
            try:
                connection = await loop.run_in_executor(thread, _connect, path)
                try:
                    yield cls(connection, thread)
                finally:
                    await loop.run_in_executor(thread, connection.close)
            finally:
                thread.shutdown()

    async def wishes(self) -> Mapping[DeviceId, Wishes]:
        def read(connection: sqlite3.Connection) -> Mapping[DeviceId, Wishes]:
            rows = connection.execute("SELECT device_id, is_cordoned, is_draining, labels FROM wish")
            return {
                DeviceId(device_id): Wishes(
                    is_cordoned=bool(cordoned), is_draining=bool(draining), labels=json.loads(labels)
                )
                for device_id, cordoned, draining, labels in rows
            }

        return await self.transact(read)

    async def set_wishes(self, device_id: DeviceId, wishes: Wishes) -> None:
        """Durable when it returns."""

        def write(connection: sqlite3.Connection) -> None:
            row = (device_id, wishes.is_cordoned, wishes.is_draining, json.dumps(dict(wishes.labels)))
            connection.execute("INSERT OR REPLACE INTO wish VALUES (?, ?, ?, ?)", row)

        await self.transact(write)

    async def remember(self, devices: Sequence[Remembered]) -> None:
        """Put each device's newest facts in the place of older ones. Beyond MAX_REMEMBERED the oldest are dropped."""

        def write(connection: sqlite3.Connection) -> None:
            rows = [(d.device_id, DEVICE_ENTRY.dump(d.entry).decode(), d.heard_at_ms, d.archived) for d in devices]
            connection.executemany("INSERT OR REPLACE INTO device VALUES (?, ?, ?, ?)", rows)
            connection.execute(
                "DELETE FROM device WHERE device_id IN "
                "(SELECT device_id FROM device ORDER BY heard_at_ms DESC LIMIT -1 OFFSET ?)",
                (MAX_REMEMBERED,),
            )

        await self.transact(write)

    async def forget(self, device_ids: Collection[DeviceId]) -> None:
        """Neither their facts nor what operators wanted of them is kept."""

        def write(connection: sqlite3.Connection) -> None:
            rows = [(device_id,) for device_id in device_ids]
            connection.executemany("DELETE FROM device WHERE device_id = ?", rows)
            connection.executemany("DELETE FROM wish WHERE device_id = ?", rows)

        await self.transact(write)

    async def remembered(self) -> Sequence[Remembered]:
        """Newest first. Facts that this version cannot read are left out."""

        def read(connection: sqlite3.Connection) -> Sequence[Remembered]:
            query = "SELECT device_id, entry, heard_at_ms, archived FROM device ORDER BY heard_at_ms DESC"
            return [found for row in connection.execute(query) if (found := _remembered(*row)) is not None]

        return await self.transact(read)

    async def transact(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` as one transaction in the file's own thread. Raises: StorageFailed."""

        def transaction() -> T:
            with self._connection:
                return work(self._connection)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, transaction)
        except sqlite3.Error as error:
            raise StorageFailed(f"the gateway's state cannot be read or written: {error}") from error


def _connect(path: Path) -> sqlite3.Connection:
    try:
        connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if not 0 <= version <= SCHEMA_VERSION:
                raise StartupError(
                    f"{path} was written by another version of the gateway (schema {version}, this one knows "
                    f"{SCHEMA_VERSION}); give another --state FILE"
                )
            if version < SCHEMA_VERSION:
                steps = "".join(STEPS[version:])
                with connection:
                    connection.executescript(f"BEGIN; {steps} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
        except BaseException:
            connection.close()
            raise
    except sqlite3.Error as error:
        raise StartupError(f"{path} cannot be used as the gateway's state: {error}") from error
    return connection


def _remembered(device_id: str, entry: str, heard_at_ms: int, archived: str | None) -> Remembered | None:
    try:
        facts = DEVICE_ENTRY.parse(entry)
    except InvalidInput:
        return None
    return Remembered(device_id=DeviceId(device_id), entry=facts, heard_at_ms=heard_at_ms, archived=archived)

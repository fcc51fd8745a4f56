"""The table of commands."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from edgesched.domain.command import OPEN_STATES, Command, CommandId, CommandState, Verb
from edgesched.domain.device import DeviceId
from gateway.state import GatewayState

MAX_KEPT = 10_000
"""Older ones that have ended are let go."""

COLUMNS = "command_id, device_id, worker, verb, state, created_at_ms, updated_at_ms, expires_at_ms, detail, key"
OPEN = ", ".join(f"'{state.value}'" for state in sorted(OPEN_STATES))


class CommandRows:
    """Every write is on the disk when its call returns. All raise StorageFailed."""

    def __init__(self, state: GatewayState) -> None:
        self._state = state

    async def add(self, commands: Sequence[Command], asked: str) -> None:
        """asked: the request that they came with, to know it again by its key."""

        def write(connection: sqlite3.Connection) -> None:
            rows = [(*_row(command), asked) for command in commands]
            connection.executemany(f"INSERT INTO command ({COLUMNS}, asked) VALUES (?,?,?,?,?,?,?,?,?,?,?)", rows)
            connection.execute(
                f"DELETE FROM command WHERE state NOT IN ({OPEN}) AND command_id IN "
                "(SELECT command_id FROM command ORDER BY created_at_ms DESC, rowid DESC LIMIT -1 OFFSET ?)",
                (MAX_KEPT,),
            )

        await self._state.transact(write)

    async def update(self, commands: Sequence[Command]) -> None:
        def write(connection: sqlite3.Connection) -> None:
            rows = [(c.state, c.updated_at_ms, c.expires_at_ms, c.detail, c.command_id) for c in commands]
            change = "UPDATE command SET state = ?, updated_at_ms = ?, expires_at_ms = ?, detail = ?"
            connection.executemany(f"{change} WHERE command_id = ?", rows)

        await self._state.transact(write)

    async def still_open(self) -> Sequence[Command]:
        """Oldest first."""
        return await self._read(f"WHERE state IN ({OPEN}) ORDER BY created_at_ms, rowid", ())

    async def newest(self, *, device_id: DeviceId | None, state: CommandState | None, limit: int) -> Sequence[Command]:
        which = "WHERE (?1 IS NULL OR device_id = ?1) AND (?2 IS NULL OR state = ?2)"
        return await self._read(f"{which} ORDER BY created_at_ms DESC, rowid DESC LIMIT ?3", (device_id, state, limit))

    async def get(self, command_id: CommandId) -> Command | None:
        found = await self._read("WHERE command_id = ?", (command_id,))
        return found[0] if found else None

    async def of_key(self, key: str) -> tuple[Sequence[Command], str | None]:
        """The commands that came with this key, and the request; nothing if it is new."""

        def read(connection: sqlite3.Connection) -> tuple[Sequence[Command], str | None]:
            query = f"SELECT {COLUMNS}, asked FROM command WHERE key = ? ORDER BY rowid"
            rows = connection.execute(query, (key,)).fetchall()
            return [_command(row[:-1]) for row in rows], rows[0][-1] if rows else None

        return await self._state.transact(read)

    async def _read(self, which: str, values: tuple[object, ...]) -> Sequence[Command]:
        def read(connection: sqlite3.Connection) -> Sequence[Command]:
            return [_command(row) for row in connection.execute(f"SELECT {COLUMNS} FROM command {which}", values)]

        return await self._state.transact(read)


def _row(c: Command) -> tuple[object, ...]:
    ends = (c.created_at_ms, c.updated_at_ms, c.expires_at_ms, c.detail, c.key)
    return (c.command_id, c.device_id, c.worker, c.verb, c.state, *ends)


def _command(row: Sequence[Any]) -> Command:
    fields = dict(zip(COLUMNS.split(", "), row, strict=True))
    return Command(**fields | {"verb": Verb(fields["verb"]), "state": CommandState(fields["state"])})

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

    async def order(
        self,
        new: Sequence[Command],
        replaced: Sequence[Command],
        *,
        key: str | None,
        answer: Sequence[Command],
        asked: str,
    ) -> None:
        """Everything that one request did, or nothing.

        key: with it comes the same answer again. asked: the request, to know it again.
        """

        def write(connection: sqlite3.Connection) -> None:
            _update(connection, replaced)
            connection.executemany(
                f"INSERT INTO command ({COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?)", [_row(command) for command in new]
            )
            if key is not None:
                rows = [(key, position, command.command_id, asked) for position, command in enumerate(answer)]
                connection.executemany("INSERT INTO command_key VALUES (?, ?, ?, ?)", rows)
            if new:
                _prune(connection)

        await self._state.transact(write)

    async def update(self, commands: Sequence[Command]) -> None:
        await self._state.transact(lambda connection: _update(connection, commands))

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
        """The answer that a request with this key got, and the request; nothing if the key is new."""

        def read(connection: sqlite3.Connection) -> tuple[Sequence[Command], str | None]:
            columns = ", ".join(f"command.{name}" for name in COLUMNS.split(", "))
            query = f"""SELECT {columns}, command_key.asked FROM command_key JOIN command USING (command_id)
                        WHERE command_key.key = ? ORDER BY position"""
            rows = connection.execute(query, (key,)).fetchall()
            return [_command(row[:-1]) for row in rows], rows[0][-1] if rows else None

        return await self._state.transact(read)

    async def _read(self, which: str, values: tuple[object, ...]) -> Sequence[Command]:
        def read(connection: sqlite3.Connection) -> Sequence[Command]:
            return [_command(row) for row in connection.execute(f"SELECT {COLUMNS} FROM command {which}", values)]

        return await self._state.transact(read)


def _update(connection: sqlite3.Connection, commands: Sequence[Command]) -> None:
    rows = [(c.state, c.updated_at_ms, c.expires_at_ms, c.detail, c.command_id) for c in commands]
    change = "UPDATE command SET state = ?, updated_at_ms = ?, expires_at_ms = ?, detail = ?"
    connection.executemany(f"{change} WHERE command_id = ?", rows)


def _prune(connection: sqlite3.Connection) -> None:
    """Their keys go with the old commands: after so many others nobody repeats a request."""
    old = "SELECT command_id FROM command ORDER BY created_at_ms DESC, rowid DESC LIMIT -1 OFFSET ?"
    connection.execute(f"DELETE FROM command WHERE state NOT IN ({OPEN}) AND command_id IN ({old})", (MAX_KEPT,))
    connection.execute("DELETE FROM command_key WHERE command_id NOT IN (SELECT command_id FROM command)")


def _row(c: Command) -> tuple[object, ...]:
    ends = (c.created_at_ms, c.updated_at_ms, c.expires_at_ms, c.detail, c.key)
    return (c.command_id, c.device_id, c.worker, c.verb, c.state, *ends)


def _command(row: Sequence[Any]) -> Command:
    fields = dict(zip(COLUMNS.split(", "), row, strict=True))
    return Command(**fields | {"verb": Verb(fields["verb"]), "state": CommandState(fields["state"])})

"""The table of what workers wrote."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping, Sequence

from edgesched.domain.device import DeviceId
from edgesched.rest import LogLine
from gateway.state import GatewayState


class LogRows:
    """Written now and then, in one transaction for all. Both raise StorageFailed."""

    def __init__(self, state: GatewayState) -> None:
        self._state = state

    async def write(
        self, lines: Sequence[tuple[DeviceId, LogLine]], oldest_kept: Mapping[str, int], forgotten: Collection[str]
    ) -> None:
        """oldest_kept: worker -> cursor; what is older is let go. forgotten: workers whose lines from before are."""

        def write(connection: sqlite3.Connection) -> None:
            connection.executemany("DELETE FROM worker_line WHERE worker = ?", [(worker,) for worker in forgotten])
            rows = [(n.cursor, device_id, n.worker, n.number, n.at_ms, n.source, n.text) for device_id, n in lines]
            connection.executemany("INSERT OR REPLACE INTO worker_line VALUES (?,?,?,?,?,?,?)", rows)
            old = list(oldest_kept.items())
            connection.executemany("DELETE FROM worker_line WHERE worker = ? AND cursor < ?", old)

        await self._state.transact(write)

    async def all(self) -> Sequence[tuple[DeviceId, LogLine]]:
        """Oldest first."""

        def read(connection: sqlite3.Connection) -> Sequence[tuple[DeviceId, LogLine]]:
            query = "SELECT device_id, cursor, worker, number, at_ms, source, text FROM worker_line ORDER BY cursor"
            return [(DeviceId(row[0]), _line(*row[1:])) for row in connection.execute(query)]

        return await self._state.transact(read)


def _line(cursor: int, worker: str, number: int, at_ms: int, source: str, text: str) -> LogLine:
    return LogLine(cursor=cursor, worker=worker, number=number, at_ms=at_ms, source=source, text=text)

"""A small file about the board's workers, for people and for the next start of the daemon."""

from __future__ import annotations

import asyncio
import logging
import threading
from dataclasses import dataclass, field
from pathlib import Path

from agents.durable import set_aside, write_atomically
from edgesched.errors import InvalidInput, StartupError
from edgesched.rest import Wire

EXIT_CODES_KEPT = 10

log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class WorkerRecord:
    """What is remembered of one worker, over all processes that it was."""

    pid: int | None = None
    state: str = ""
    restarts: int = 0
    exit_codes: list[int] = field(default_factory=list)  # the newest last; negative: the signal that ended it
    is_stopped: bool = False  # by an operator: it stays so when the daemon starts again

    def ended(self, exit_code: int) -> None:
        self.pid = None
        self.exit_codes = [*self.exit_codes, exit_code][-EXIT_CODES_KEPT:]


_FILE: Wire[dict[str, WorkerRecord]] = Wire(dict[str, WorkerRecord])


class WorkerStates:
    """All workers' records by name, written soon after each change."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._records: dict[str, WorkerRecord] = {}
        self._changed = asyncio.Event()
        self._writing = threading.Lock()
        self._damage: str | None = None
        self._refusal: str | None = None

    @classmethod
    def read(cls, path: Path) -> WorkerStates:
        """A damaged file is set aside and counting begins anew.

        Raises: StartupError if the file is there and cannot be used.
        """
        states = cls(path)
        try:
            states._records = _FILE.parse(path.read_bytes())
        except FileNotFoundError:
            pass
        except InvalidInput as error:
            states._set_aside(str(error))
        except OSError as error:
            raise StartupError(f"{path}: cannot be used ({error.strerror}): correct its permissions") from error
        return states

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is wrong with the file, for people."""
        return tuple(filter(None, (self._damage, self._refusal)))

    def of(self, worker: str) -> WorkerRecord:
        """The worker's record, which its slot keeps up to date."""
        return self._records.setdefault(worker, WorkerRecord())

    def changed(self) -> None:
        """Have the file written soon."""
        self._changed.set()

    async def run(self) -> None:
        """Write what has changed, until cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            await asyncio.to_thread(self.write)

    def write(self) -> None:
        """Write the file now. A disk that refuses costs no picture, so that it is only a warning."""
        with self._writing:
            try:
                write_atomically(self._path, _FILE.dump(self._records))
                self._refusal = None
            except OSError as error:
                reason = f"{self._path} cannot be written ({error.strerror}): free some disk or correct its permissions"
                if self._refusal is None:
                    log.error("worker_states.failed", extra={"reason": reason})
                self._refusal = reason

    def _set_aside(self, reason: str) -> None:
        try:
            kept_as = set_aside(self._path)
        except OSError as error:
            raise StartupError(f"{self._path}: cannot be set aside ({error.strerror}): delete it") from error
        self._damage = f"{self._path} was damaged: it is kept as {kept_as.name}, and restarts are counted anew"
        log.error("worker_states.damaged", extra={"kept_as": str(kept_as), "reason": reason})

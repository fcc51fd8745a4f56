"""Which commands this board has carried out, so that one that is said again is not done again."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from agents.durable import set_aside, write_atomically
from edgesched.errors import InvalidInput, StartupError
from edgesched.rest import Body, Wire

KEPT = 256
"""More than a gateway ever has open for one board."""

log = logging.getLogger(__name__)


class Ending(Body):
    succeeded: bool
    detail: str = ""


_FILE: Wire[dict[str, Ending | None]] = Wire(dict[str, Ending | None])


class CommandJournal:
    """A small file. None: begun, and no end is known."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, Ending | None] = {}
        self._writing = threading.Lock()  # a kill is noted beside the stop before it

    @classmethod
    def read(cls, path: Path) -> CommandJournal:
        """A damaged file is set aside: a command of the last minutes may then be done twice.

        Raises: StartupError if the file is there and cannot be used.
        """
        journal = cls(path)
        try:
            journal._known = _FILE.parse(path.read_bytes())
        except FileNotFoundError:
            pass
        except InvalidInput as error:
            log.error("command_journal.damaged", extra={"kept_as": str(set_aside(path)), "reason": str(error)})
        except OSError as error:
            raise StartupError(f"{path}: cannot be read ({error.strerror}): correct its permissions") from error
        return journal

    def knows(self, command_id: str) -> bool:
        return command_id in self._known

    def ending(self, command_id: str) -> Ending | None:
        return self._known.get(command_id)

    def note(self, command_id: str, ending: Ending | None) -> None:
        """Durable when it returns; blocks while it syncs. Raises: OSError; nothing has changed then."""
        with self._writing:
            known = {**self._known, command_id: ending}
            while len(known) > KEPT:
                del known[next(iter(known))]
            write_atomically(self._path, _FILE.dump(known))
            self._known = known

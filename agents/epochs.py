"""The highest epoch that this board has served, per ledger: an owner of yesterday is refused, also after a restart."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path

from agents.durable import set_aside, write_atomically
from edgesched.errors import StartupError

log = logging.getLogger(__name__)


class Epochs:
    """A small file that changes only when a ledger gets a new owner."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._highest: dict[str, int] = {}
        self._raising = threading.Lock()  # whoever asked first may be gone before its write has ended

    @classmethod
    def read(cls, path: Path) -> Epochs:
        """A damaged file is set aside: the next owner that connects is believed then.

        Raises: StartupError if the file is there and cannot be read.
        """
        epochs = cls(path)
        try:
            content = json.loads(path.read_bytes())
            epochs._highest = {str(ledger_id): int(epoch) for ledger_id, epoch in content.items()}
        except FileNotFoundError:
            pass
        except OSError as error:
            raise StartupError(f"{path}: cannot be read ({error.strerror}): correct its permissions") from error
        except (ValueError, TypeError, AttributeError) as error:
            log.error("epochs.damaged", extra={"kept_as": str(set_aside(path)), "reason": str(error)})
        return epochs

    def highest(self, ledger_id: str) -> int:
        """0 if the ledger was never served."""
        return self._highest.get(ledger_id, 0)

    def raise_to(self, ledger_id: str, epoch: int) -> None:
        """Durable when it returns; blocks while it syncs. Raises: OSError; nothing has changed then."""
        with self._raising:
            if epoch > self.highest(ledger_id):
                higher = {**self._highest, ledger_id: epoch}
                write_atomically(self._path, json.dumps(higher).encode())
                self._highest = higher

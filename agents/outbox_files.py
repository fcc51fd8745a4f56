"""The outbox on the disk: one file per group of outcomes, written once, never changed, removed whole.

Everything here blocks; the outbox calls it in a thread.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from agents.durable import set_aside, sync_directory, write_atomically
from edgesched.domain.task import AttemptId, Result, TaskId
from edgesched.errors import InvalidInput
from edgesched.rest import Wire

SUFFIX = ".jsonl"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredOutcome:
    """One line of a file."""

    ledger_id: str
    task_id: TaskId
    attempt_id: AttemptId
    model: str
    file_name: str
    receiver_url: str | None
    created_at_ms: int  # the board's wall clock, for people: boards may boot with a wrong one
    result: Result


STORED_OUTCOME: Wire[StoredOutcome] = Wire(StoredOutcome)


@dataclass(slots=True, kw_only=True, eq=False)
class Group:
    """One file. `live`: how many of its entries are not settled yet."""

    path: Path
    size_bytes: int
    live: int


class OutboxFiles:
    """The directory. One caller at a time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._next_number = 1

    def recover(self) -> list[tuple[Group, list[bytes]]]:
        """The groups that an earlier life left, oldest first, with their lines; each line parses.

        A damaged file is set aside and told of, a draft is removed.
        Raises: OSError if the directory cannot be used.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        for draft in self._directory.glob("*.tmp"):
            draft.unlink()
        groups = []
        for path in sorted(self._directory.glob(f"*{SUFFIX}")):
            try:
                self._next_number = max(self._next_number, int(path.stem) + 1)
                lines = path.read_bytes().splitlines()
                for line in lines:
                    STORED_OUTCOME.parse(line)
            except (InvalidInput, ValueError) as error:
                log.error("outbox.file_damaged", extra={"kept_as": str(set_aside(path)), "reason": str(error)})
                continue
            groups.append((Group(path=path, size_bytes=path.stat().st_size, live=len(lines)), lines))
        return groups

    def write(self, lines: Sequence[bytes], obsolete: Iterable[Group]) -> Group | None:
        """Remove the obsolete groups, and write one with these lines, if there are any.

        What was written survives a power cut when this returns. Removals are not synced: a file that comes back is
        settled by the ledger once more.
        Raises: OSError; nothing is kept then.
        """
        for group in obsolete:
            group.path.unlink(missing_ok=True)
        if not lines:
            return None
        path = self._directory / f"{self._next_number:012d}{SUFFIX}"
        self._next_number += 1
        data = b"\n".join(lines) + b"\n"
        write_atomically(path, data)
        return Group(path=path, size_bytes=len(data), live=len(lines))

    def stored(self) -> Iterator[StoredOutcome]:
        """What the files hold, oldest first, settled or not; damaged files are left out, and nothing is changed.

        May run beside the owner. Raises: OSError if the directory cannot be read.
        """
        for path in sorted(self._directory.iterdir()):
            if path.suffix == SUFFIX:
                with contextlib.suppress(FileNotFoundError, InvalidInput):  # settled meanwhile, or damaged
                    yield from [STORED_OUTCOME.parse(line) for line in path.read_bytes().splitlines()]

    def drop(self, ledger_id: str) -> int:
        """Delete all outcomes of one ledger. The others stay, also when it is killed half way: then some are left.

        Nobody else may use the directory meanwhile. Returns: how many there were. Raises: OSError.
        """
        dropped = 0
        for path in sorted(self._directory.glob(f"*{SUFFIX}")):
            lines = path.read_bytes().splitlines()
            try:
                kept = [line for line in lines if STORED_OUTCOME.parse(line).ledger_id != ledger_id]
            except InvalidInput:
                continue  # the agent's next start sets it aside
            if not kept:
                path.unlink()
            elif len(kept) < len(lines):
                write_atomically(path, b"\n".join(kept) + b"\n")
            dropped += len(lines) - len(kept)
        self.sync()
        return dropped

    def sync(self) -> None:
        """Make removals durable as well, for a clean end. Raises: OSError."""
        sync_directory(self._directory)

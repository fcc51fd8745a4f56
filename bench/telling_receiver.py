"""The product's receiver within the bench's own process, so that a client knows when its labels have arrived."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from client.label_store import LabelStore, Verdict
from client.receiver import Receiver, running_receiver
from edgesched.rest import LabelledPicture


class TellingReceiver(Receiver):
    """Says which labels are safe; the answer to whoever delivered them follows at once."""

    def __init__(self, store: LabelStore, on_stored: Callable[[list[str]], None]) -> None:
        super().__init__(store)
        self._on_stored = on_stored

    def note(self, items: Sequence[LabelledPicture], verdicts: Sequence[Verdict]) -> None:
        super().note(items, verdicts)
        self._on_stored([item.task_id for item, verdict in zip(items, verdicts, strict=True) if verdict.is_new])


@asynccontextmanager
async def receiving(directory: Path, on_stored: Callable[[list[str]], None]) -> AsyncIterator[str]:
    """Yields the receiver's URL. on_stored: called in the event loop with the ids of tasks whose labels have come."""
    kind = partial(TellingReceiver, on_stored=on_stored)
    async with running_receiver(directory, host="127.0.0.1", port=0, kind=kind) as receiver:
        yield f"http://127.0.0.1:{receiver.port}"

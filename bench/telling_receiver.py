"""The product's receiver within the bench's own process, so that a client knows when its labels have arrived."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from client.label_store import LabelStore, Verdict
from client.receiver import Receiver
from edgesched.rest import LabelledPicture


class TellingStore(LabelStore):
    """Says which labels are safe; the answer to whoever delivered them follows at once."""

    on_stored: Callable[[list[str]], None] = staticmethod(lambda task_ids: None)

    def store(self, items: Sequence[LabelledPicture]) -> list[Verdict]:
        verdicts = super().store(items)
        self.on_stored([str(item.task_id) for item, verdict in zip(items, verdicts, strict=True) if verdict.is_new])
        return verdicts


@asynccontextmanager
async def receiving(directory: Path, on_stored: Callable[[list[str]], None]) -> AsyncIterator[str]:
    """Yields the receiver's URL. on_stored: called in the event loop with the ids of tasks whose labels have come."""
    loop = asyncio.get_running_loop()
    with TellingStore.opened(directory) as store:
        assert isinstance(store, TellingStore)
        store.on_stored = lambda task_ids: loop.call_soon_threadsafe(on_stored, task_ids)
        receiver = Receiver(store)
        runner = web.AppRunner(receiver.app(), access_log=None)
        await runner.setup()
        writer = asyncio.create_task(receiver.run())
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()
            writer.cancel()
            await asyncio.wait({writer})

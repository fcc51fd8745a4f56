"""One suite over every ledger: each test of `ledger` runs with all of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edgesched.ledger.base import Ledger
from edgesched.ledger.memory import MemoryLedger
from edgesched.ledger.sqlite import SqliteLedger
from tests.support.ledgers import SetClock


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture(params=["memory", "sqlite"])
async def ledger(request: pytest.FixtureRequest, tmp_path: Path, clock: SetClock) -> AsyncIterator[Ledger]:
    if request.param == "memory":
        yield MemoryLedger(now_ms=clock.now_ms)
        return
    path = tmp_path / "ledger.sqlite3"
    async with SqliteLedger.opened(path, now_ms=clock.now_ms, durability="process") as opened:
        yield opened

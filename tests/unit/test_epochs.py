from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from agents.epochs import Epochs


def test_owners_that_come_at_once_are_all_remembered(tmp_path: Path) -> None:
    path = tmp_path / "epochs.json"
    epochs = Epochs.read(path)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: epochs.raise_to(f"ledger-{n % 4}", n), range(1, 41)))
    again = Epochs.read(path)
    assert [again.highest(f"ledger-{n}") for n in range(4)] == [40, 37, 38, 39]

"""What a worker takes of the machine, with the programs that it started."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from agents.worker_watch import usage_of_children

SHARED_BYTES = 60_000_000
HOARD = f"hoard = b'x' * {SHARED_BYTES}; print('ready', flush=True); input(); print(len(hoard))"
FORKS = f"import os; hoard = b'x' * {SHARED_BYTES}; os.fork(); os.fork(); print('ready', flush=True); input()"


@contextmanager
def running(*command: str, ready_lines: int = 1) -> Iterator[int]:
    """Its pid, once it has said as often that it is ready; it ends when its input does."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(ready_lines)] == [b"ready\n"] * ready_lines
        yield process.pid


def test_each_child_is_counted_with_the_programs_below_it() -> None:
    python = f"{sys.executable} -I -S -c"
    with (
        running("/bin/sh", "-c", f'sh -c "{python} \\"{HOARD}\\"; exit"; exit') as feeder,
        running(sys.executable, "-I", "-S", "-c", "print('ready', flush=True); input()") as modest,
    ):
        used = usage_of_children()
        assert used[feeder].memory_bytes > SHARED_BYTES
        assert used[feeder].cpu_s > 0.0
        assert 0 < used[modest].memory_bytes < SHARED_BYTES
    assert feeder not in usage_of_children()


def test_memory_that_processes_share_counts_once() -> None:
    with running(sys.executable, "-I", "-S", "-c", FORKS, ready_lines=4) as pid:
        assert SHARED_BYTES < usage_of_children()[pid].memory_bytes < 2 * SHARED_BYTES

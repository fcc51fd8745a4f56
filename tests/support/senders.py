"""The sender as a process of its own."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "client" / "send_pic.py"
BARE = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
"""Nothing of the environment of whoever runs the tests, but the checkout that they belong to."""


@asynccontextmanager
async def send_pic(tmp_path: Path, *arguments: object) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(SCRIPT),
        *map(str, arguments),
        env={**BARE, "EDGESCHED_CLIENT_STATE_DIR": str(tmp_path / "state")},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def run_send_pic(tmp_path: Path, *arguments: object) -> tuple[int, str, str]:
    async with send_pic(tmp_path, *arguments) as process, asyncio.timeout(30):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


def make_pictures(directory: Path, count: int) -> Path:
    directory.mkdir()
    for number in range(count):
        (directory / f"{number}.jpg").write_bytes(f"picture {number}".encode())
    return directory

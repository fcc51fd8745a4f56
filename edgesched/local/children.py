"""Child processes with a READY line: started, waited for, and never left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from edgesched.errors import StartupError

READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0
LAST_LINES = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """ready: what its READY line said, `READY grpc=127.0.0.1:9999` -> {"grpc": "127.0.0.1:9999"}."""

    name: str
    process: asyncio.subprocess.Process
    ready: Mapping[str, str]
    log_path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """`edgesched <arguments>`; its stderr goes to `log_path`."""

    name: str
    arguments: Sequence[str]
    log_path: Path


@asynccontextmanager
async def running(*specs: ChildSpec) -> AsyncIterator[Sequence[Child]]:
    """All of them, started at the same time and ready, while the context lasts.

    They get SIGTERM at the end, and SIGKILL if they do not go; the kernel kills them if this process dies first. Each
    has a session of its own, so that Ctrl-C in the terminal reaches only us and we decide the order.
    Raises: StartupError, with the last lines of its log, if one of them ends before it is ready.
    """
    processes: list[asyncio.subprocess.Process] = []
    drains: list[asyncio.Task[None]] = []
    try:
        for spec in specs:
            processes.append(await _start(spec))
        waits = [_until_ready(spec, process) for spec, process in zip(specs, processes, strict=True)]
        ready = await asyncio.gather(*waits)
        drains = [asyncio.create_task(_drain(process)) for process in processes]
        yield [
            Child(name=spec.name, process=process, ready=said, log_path=spec.log_path)
            for spec, process, said in zip(specs, processes, ready, strict=True)
        ]
    finally:
        await asyncio.gather(*map(_stop, processes))
        for drain in drains:
            drain.cancel()


async def _start(spec: ChildSpec) -> asyncio.subprocess.Process:
    spec.log_path.parent.mkdir(parents=True, exist_ok=True)
    with spec.log_path.open("ab") as log_file:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "edgesched.local.tied",
            str(os.getpid()),
            *spec.arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=log_file,
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )


async def _until_ready(spec: ChildSpec, process: asyncio.subprocess.Process) -> Mapping[str, str]:
    assert process.stdout is not None
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            while line := await process.stdout.readline():
                words = line.decode(errors="replace").split()
                if words[:1] == ["READY"]:
                    return dict(word.split("=", 1) for word in words[1:] if "=" in word)
            problem = f"ended with exit code {await process.wait()}"
    except TimeoutError:
        problem = f"was not ready within {READY_TIMEOUT_S:g} s"
    raise StartupError(f"{spec.name} {problem}; its log ({spec.log_path}) ends with:\n{_last_lines(spec.log_path)}")


def _last_lines(log_path: Path) -> str:
    with contextlib.suppress(OSError):
        lines = log_path.read_text(errors="replace").splitlines()
        return "\n".join(f"  {line}" for line in lines[-LAST_LINES:]) or "  (it is empty)"
    return "  (it cannot be read)"


async def _drain(process: asyncio.subprocess.Process) -> None:
    """A pipe that nobody reads would block the child when it is full."""
    assert process.stdout is not None
    while await process.stdout.read(65536):
        pass


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        pass
    finally:  # also when we are cancelled while waiting
        if process.returncode is None:
            process.kill()

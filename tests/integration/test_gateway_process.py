"""The gateway as a process: ports, the READY line, signals and exit codes."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from edgesched.errors import StartupError
from gateway.app import BoundPorts, build_app, listening, make_placement, ready_line
from gateway.registry import Registry, accepts_connections
from tests.support.gateways import LOCALHOST, CannedTasks, ManualClock, agent_port, closed_port, gateway_parts

ROOT = Path(__file__).parents[2]
BOUND_S = 30.0


@pytest.fixture
async def app() -> AsyncIterator[web.Application]:
    async with gateway_parts(ManualClock()) as parts:
        yield build_app(parts, CannedTasks())


@asynccontextmanager
async def gateway_process(state: Path, *flags: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "--state", str(state / "gateway.sqlite3"), *flags),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(BOUND_S):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_cleanly_and_frees_its_ports(signum: signal.Signals, tmp_path: Path) -> None:
    nobody = f"{LOCALHOST}:{await closed_port()}"
    async with gateway_process(tmp_path, "-p", "0", "--browser-port", "0", "--task-manager", nobody) as process:
        assert process.stdout is not None
        ready = re.fullmatch(
            r"READY http=(127\.0\.0\.1:\d+) browser=(127\.0\.0\.1:\d+)\n", (await process.stdout.readline()).decode()
        )
        assert ready is not None
        async with aiohttp.ClientSession() as session:
            for address in ready.groups():
                async with session.get(f"http://{address}/health") as response:
                    body = await response.json()
                    assert (response.status, body["status"], body["tasks"]) == (200, "degraded", None)
            process.send_signal(signum)
            assert await process.wait() == 0
        for address in ready.groups():
            assert not await accepts_connections(address)


@pytest.mark.parametrize(
    ("nonsense", "answer"),
    [
        (b"GET / HTTP/9.9\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nno header\r\n\r\n", b"400"),
        (b"GET http://[::bad/ HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
        (b"POST /schedule HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
        (b"POST /schedule HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nabcde", b"400"),
    ],
)
async def test_what_is_no_request_costs_one_line_of_the_log(tmp_path: Path, nonsense: bytes, answer: bytes) -> None:
    async with gateway_process(tmp_path, "-p", "0", "--browser-port", "0") as process:
        assert process.stdout is not None
        ready = re.match(r"READY http=(.+):(\d+) ", (await process.stdout.readline()).decode())
        assert ready is not None
        reader, writer = await asyncio.open_connection(ready[1], int(ready[2]))
        writer.write(nonsense)
        assert (await reader.readline()).split()[1] == answer
        await reader.read()  # it hangs up
        writer.close()
        process.send_signal(signal.SIGTERM)
        _, err = await process.communicate()
    lines = err.decode().splitlines()
    assert len(lines) == 1, lines
    assert "request.malformed" in lines[0]


async def test_a_taken_port_ends_it_with_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    async with agent_port() as taken, gateway_process(tmp_path, "--http-port", str(taken)) as process:
        out, err = await process.communicate()
    assert (process.returncode, out) == (2, b"")
    assert f"cannot listen on port {taken}" in err.decode()
    assert "--http-port" in err.decode()
    assert "Traceback" not in err.decode()


async def test_a_taken_browser_port_is_only_a_warning(app: web.Application, caplog: pytest.LogCaptureFixture) -> None:
    async with (
        agent_port() as taken,
        listening(app, host=LOCALHOST, http_port=0, browser_port=taken) as ports,
    ):
        assert ports.browser is None
        assert await accepts_connections(f"{LOCALHOST}:{ports.http}")
    assert "gateway.browser_port_unavailable" in caplog.text


async def test_one_port_for_both_is_opened_once(app: web.Application, caplog: pytest.LogCaptureFixture) -> None:
    free = await closed_port()
    async with listening(app, host=LOCALHOST, http_port=free, browser_port=free) as ports:
        assert ports == BoundPorts(http=free, browser=None)
    assert caplog.text == ""


async def test_an_address_of_another_machine_is_refused(app: web.Application) -> None:
    with pytest.raises(StartupError, match=r"cannot listen on port 0 of 192\.0\.2\.1"):
        async with listening(app, host="192.0.2.1", http_port=0, browser_port=None):
            pass


def test_an_unknown_strategy_is_an_error_at_the_start() -> None:
    registry = Registry(ManualClock(), heartbeat_interval_ms=2_000, heartbeat_timeout_ms=6_000)
    with pytest.raises(StartupError, match="--strategy: there is no strategy 'greedy'; use one of: load, roundrobin"):
        make_placement(registry, "greedy")


def test_the_ready_line_leaves_out_a_port_that_is_not_there() -> None:
    assert ready_line("::1", BoundPorts(http=6666, browser=None)) == "READY http=[::1]:6666"

"""`edgesched workers|logs|models|top`: what people type, against a real gateway."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import pytest
import typer
from aiohttp import web
from typer.testing import CliRunner

from edgesched.cli import devices, logs, models, top, workers
from edgesched.cli.gateway_call import named_by
from gateway.app import listening
from tests.support.agent_parts import WITHIN_S
from tests.support.gateways import LOCALHOST, GatewayUnderTest, agent_port, closed_port, gateway_under_test

WORKERS = [
    {"name": "rk-1-0", "pid": 4711, "state": "busy", "current_task": "0190aa", "restarts": 2, "last_exit_code": -11},
    {"name": "rk-1-1", "pid": None, "state": "stopped", "restarts": 0},
]


@pytest.fixture
async def gateway() -> AsyncIterator[GatewayUnderTest]:
    async with gateway_under_test() as gateway, agent_port() as port:
        await gateway.register("rk-1", port, labels={"room": "lab"})
        await gateway.heartbeat("rk-1", workers=WORKERS)
        lines = [{"number": n, "age_ms": 60_000 * (3 - n), "text": f"line {n}"} for n in (1, 2, 3)]
        log = {"worker": "rk-1-0", "after": 0, "lines": lines}
        await gateway.call("POST", "/devices/rk-1/logs", {"boot_id": "boot-1", "logs": [log]})
        yield gateway


def app_of(command: Callable[..., None]) -> typer.Typer:
    app = typer.Typer()
    app.command()(command)
    return app


async def typed(gateway: GatewayUnderTest, app: typer.Typer, *arguments: str) -> Any:
    return await asyncio.to_thread(CliRunner().invoke, app, [*arguments, "--url", gateway.url])


async def carry_out(gateway: GatewayUnderTest, *, succeeded: bool = True) -> str:
    """As a board would: the next command, and its end. Returns it in words."""
    path = "/api/v1/devices/rk-1/commands"
    answer = await gateway.call("GET", path, boot_id="boot-1", wait_ms=10_000)
    (command,) = answer.body["commands"]
    ending = {"boot_id": "boot-1", "succeeded": succeeded, "detail": "" if succeeded else "it is not there"}
    await gateway.call("POST", f"{path}/{command['command_id']}", ending)
    return f"{command['verb']} {command['worker']}"


# -- workers


async def test_workers_are_listed_for_people_and_for_scripts(gateway: GatewayUnderTest) -> None:
    result = await typed(gateway, workers.app)
    assert result.exit_code == 0, result.output
    for words in ("rk-1-0", "busy", "4711", "0190aa", "-11", "stopped"):
        assert words in result.output
    first, second = (await typed(gateway, workers.app, "list", "--json")).output.splitlines()
    assert (json.loads(first)["id"], json.loads(second)["report"]["pid"]) == ("rk-1-0", None)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("restart", "rk-1-0"), "restart rk-1-0"),
        (("stop", "rk-1"), "stop None"),
        (("kill", "--all"), "kill None"),
        (("start", "--type", "rk3588", "--label", "room=lab"), "start None"),
    ],
)
async def test_a_verb_is_carried_out_and_waited_for(
    gateway: GatewayUnderTest, arguments: tuple[str, ...], told: str
) -> None:
    result, done = await asyncio.gather(typed(gateway, workers.app, *arguments), carry_out(gateway))
    assert (result.exit_code, done) == (0, told), result.output
    assert f"{arguments[0]} done" in result.output


async def test_what_was_not_done_is_exit_code_1(gateway: GatewayUnderTest) -> None:
    result, _ = await asyncio.gather(typed(gateway, workers.app, "stop", "rk-1"), carry_out(gateway, succeeded=False))
    assert (result.exit_code, "stop failed: it is not there" in result.output) == (1, True)
    result = await typed(gateway, workers.app, "stop", "rk-1", "--wait", "0")
    assert (result.exit_code, "stop pending" in result.output) == (0, True)
    result = await typed(gateway, workers.app, "start", "rk-1")
    assert (result.exit_code, "would contradict" in result.output) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("stop",), "say for whom"),
        (("stop", "rk-1", "--all"), "say for whom"),
        (("stop", "--label", "room"), "is not NAME=VALUE"),
        (("stop", "rk-1-7"), "did you mean 'rk-1-"),
        (("--json", "stop", "rk-1"), "put --json behind the command: edgesched workers stop --json"),
        (("--url", "http://elsewhere:1", "list"), "put --url behind the command"),
    ],
)
async def test_what_makes_no_sense_is_one_sentence(
    gateway: GatewayUnderTest, arguments: tuple[str, ...], words: str
) -> None:
    result = await typed(gateway, workers.app, *arguments)
    assert (result.exit_code, words in result.output) == (2, True), result.output


# -- logs


@asynccontextmanager
async def gateway_that_answers(told: Any, looks: Iterator[web.Response]) -> AsyncIterator[str]:
    """Its URL. told: to an order; looks: to each question what became of it."""

    async def order(_: web.Request) -> web.Response:
        return web.json_response(told)

    async def look(_: web.Request) -> web.Response:
        return next(looks)

    app = web.Application()
    app.router.add_post("/api/v1/workers/rk-1/command", order)
    app.router.add_get("/api/v1/commands/{id}", look)
    async with listening(app, host=LOCALHOST, http_port=0, browser_port=None) as ports:
        yield f"http://{LOCALHOST}:{ports.http}"


async def test_a_wait_outlives_a_gateway_that_starts_again(gateway: GatewayUnderTest) -> None:
    told = (await gateway.call("POST", "/devices/rk-1/command", {"command": "stop"})).body
    looks = iter([web.Response(status=503), web.json_response(told | {"state": "done"})])
    async with gateway_that_answers(told, looks) as gateway.url:
        result = await typed(gateway, workers.app, "stop", "rk-1")
    assert (result.exit_code, "stop done" in result.output) == (0, True), result.output


async def test_a_gateway_that_stays_away_ends_the_wait(gateway: GatewayUnderTest) -> None:
    told = (await gateway.call("POST", "/devices/rk-1/command", {"command": "stop"})).body
    looks = (web.Response(status=503) for _ in count())
    async with gateway_that_answers(told, looks) as gateway.url:
        result = await typed(gateway, workers.app, "stop", "rk-1", "--wait", "0.5")
    assert (result.exit_code, "what was ordered is kept there" in result.output) == (2, True), result.output


async def test_logs_are_read_by_tail_and_time(gateway: GatewayUnderTest) -> None:
    app = app_of(logs.command)
    assert [x.split(" ", 2)[2] for x in (await typed(gateway, app, "rk-1")).output.splitlines()] == [
        "rk-1-0 line 1", "rk-1-0 line 2", "rk-1-0 line 3",
    ]  # fmt: skip
    assert len((await typed(gateway, app, "rk-1-0", "--tail", "1")).output.splitlines()) == 1
    assert len((await typed(gateway, app, "rk-1-0", "--since", "90s")).output.splitlines()) == 2
    (line,) = (await typed(gateway, app, "rk-1-0", "--tail", "1", "--json")).output.splitlines()
    assert json.loads(line)["text"] == "line 3"
    for wrong in (("rk-1-7",), ("rk-1", "--since", "soon")):
        assert (await typed(gateway, app, *wrong)).exit_code == 2


async def test_logs_are_followed_until_ctrl_c(gateway: GatewayUnderTest) -> None:
    arguments = ["-m", "edgesched", "logs", "rk-1", "--follow", "--url", gateway.url]
    child = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=subprocess.PIPE)
    assert child.stdout is not None
    async with asyncio.timeout(WITHIN_S):
        for _ in range(3):
            await child.stdout.readline()
        log = {"worker": "rk-1-0", "after": 3, "lines": [{"number": 4, "age_ms": 0, "text": "line 4"}]}
        await gateway.call("POST", "/devices/rk-1/logs", {"boot_id": "boot-1", "logs": [log]})
        assert (await child.stdout.readline()).endswith(b"line 4\n")
        child.send_signal(signal.SIGINT)
        assert await child.wait() == 0


# -- models, top


async def test_models_are_listed_with_the_devices_that_run_them(gateway: GatewayUnderTest) -> None:
    app = app_of(models.command)
    assert "rk-1" in (await typed(gateway, app)).output
    (line,) = (await typed(gateway, app, "--json")).output.splitlines()
    assert json.loads(line)["devices"] == ["rk-1"]


async def test_top_is_one_look_where_no_terminal_is(gateway: GatewayUnderTest) -> None:
    app = app_of(top.command)
    output = (await typed(gateway, app)).output
    for words in ("1 of 1 devices ready", "queued 2", "in line: shapes normal 2", "rk-1", "rk3588*", "* emulated"):
        assert words in output
    look = json.loads((await typed(gateway, app, "--json")).output)
    assert (look["counts"]["queued"], look["devices"][0]["device"]["device_id"]) == (2, "rk-1")
    assert look["queue"] == [{"model": "shapes", "priority": "normal", "tasks": 2}]
    await gateway.call("POST", "/devices/rk-1/cordon")
    assert "0 of 1 devices ready" in (await typed(gateway, app)).output
    gateway.tasks.is_reachable = False
    assert "the task manager does not answer" in (await typed(gateway, app)).output
    gateway.url = f"http://127.0.0.1:{await closed_port()}"
    assert (await typed(gateway, app)).exit_code == 2


async def test_top_is_live_in_a_terminal_and_ends_with_ctrl_c(gateway: GatewayUnderTest) -> None:
    ours, theirs = pty.openpty()
    arguments = ["-m", "edgesched", "top", "--interval", "0.2", "--url", gateway.url]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "160", "LINES": "13"}
    child = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    try:
        await asyncio.wait_for(asyncio.to_thread(read_until, ours, b"1 of 1 devices ready"), WITHIN_S)
        async with agent_port() as port:
            await gateway.register("orin-1", port)
            await asyncio.wait_for(asyncio.to_thread(read_until, ours, b"2 of 2 devices ready"), WITHIN_S)
            await gateway.register("zz-1", port)
            await gateway.heartbeat("zz-1", unhealthy_reason="no driver")
            for number in range(6):
                await gateway.register(f"b-{number}", port)
            seen = await asyncio.wait_for(asyncio.to_thread(read_until, ours, b"and 4 more"), WITHIN_S)
            assert b"zz-1" in seen.split(b"devices ready")[-1], "what cannot work is shown where not all fit"
        child.send_signal(signal.SIGINT)
        rest = await asyncio.wait_for(asyncio.to_thread(read_until, ours, None), WITHIN_S)
        assert await asyncio.wait_for(child.wait(), WITHIN_S) == 0
        assert b"Traceback" not in rest
    finally:
        if child.returncode is None:
            child.kill()
        os.close(ours)


async def test_top_ends_when_its_terminal_is_gone_also_where_nobody_is_told(gateway: GatewayUnderTest) -> None:
    ours, theirs = pty.openpty()
    ignoring = "import signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); sys.argv[0] = 'edgesched'; "
    arguments = ["-c", ignoring + "from edgesched.cli.main import main; main()", "top", "-i", "0.2", "-u", gateway.url]
    child = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    try:
        await asyncio.wait_for(asyncio.to_thread(read_until, ours, b"devices ready"), WITHIN_S)
        os.close(ours)
        await asyncio.wait_for(child.wait(), WITHIN_S)
    finally:
        if child.returncode is None:
            child.kill()


def read_until(terminal: int, wanted: bytes | None) -> bytes:
    """None: to its end."""
    seen = b""
    while wanted is None or wanted not in seen:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # the last one at the other end has gone
            return seen
        if not data:
            return seen
        seen += data
    return seen


# -- what boards write


HOSTILE = "\x1b[2J\x1b[31mall is well\x07\r\u202e"
SEEN = r"\x1b[2J\x1b[31mall is well\x07\r\u202e"


async def test_what_boards_write_does_not_steer_the_terminal(gateway: GatewayUnderTest) -> None:
    log = {"worker": "rk-1-0", "after": 3, "lines": [{"number": 4, "age_ms": 0, "text": HOSTILE}]}
    await gateway.call("POST", "/devices/rk-1/logs", {"boot_id": "boot-1", "logs": [log]})
    worker = WORKERS[0] | {"state": "down", "reason": HOSTILE}
    await gateway.heartbeat("rk-1", unhealthy_reason=HOSTILE, workers=[worker])
    for app, arguments in (
        (app_of(logs.command), ("rk-1",)),
        (devices.app, ("list",)),
        (devices.app, ("show", "rk-1")),
        (workers.app, ("list",)),
    ):
        output = (await typed(gateway, app, *arguments)).output
        assert SEEN in output, (arguments, output)
        assert not {"\x1b", "\x07", "\r", "\u202e"} & set(output), (arguments, output)
    exact = (await typed(gateway, app_of(logs.command), "rk-1", "--json")).output.splitlines()[-1]
    assert json.loads(exact)["text"] == HOSTILE, "scripts get what was written"


async def test_names_are_completed_from_what_the_gateway_knows(gateway: GatewayUnderTest) -> None:
    complete = named_by("/workers", "id")
    context = typer.Context(typer.main.get_command(app_of(logs.command)))
    context.params = {"url": gateway.url}
    assert await asyncio.to_thread(complete, context, "rk-1-") == ["rk-1-0", "rk-1-1"]
    assert await asyncio.to_thread(complete, context, "x") == []
    context.params = {"url": f"http://127.0.0.1:{await closed_port()}"}
    assert await asyncio.to_thread(complete, context, "") == [], "a shell is not told of errors"

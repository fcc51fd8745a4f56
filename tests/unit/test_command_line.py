"""The command line itself, whatever the command."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("package", "arguments"),
    [("numpy", ["model", "check", "models/shapes"]), ("grpc_reflection", ["up"]), ("psutil", ["agent", "--probe"])],
)
def test_a_part_that_is_not_installed_is_named_with_what_to_install(package: str, arguments: list[str]) -> None:
    code = f"import sys; sys.modules[{package!r}] = None; from edgesched.cli.main import main; main()"
    command = (sys.executable, "-c", code, *arguments)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"edgesched: this needs the Python package {package}, which {sys.executable} ")
    assert "[agent,cpu]" in done.stderr


FORKING = """
import asyncio
import edgesched.cli.main
import grpc.aio

async def echo(requests, context):
    async for request in requests:
        await context.write(request)

async def talk(port):
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.stream_stream("/echo.Echo/Echo")()
        while True:
            await call.write(bytes(20_000))
            await call.read()
            await asyncio.sleep(0.0005)

async def main():
    server = grpc.aio.server()
    handlers = {"Echo": grpc.stream_stream_rpc_method_handler(echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("echo.Echo", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    talks = [asyncio.create_task(talk(port)) for _ in range(4)]
    codes = [await (await asyncio.create_subprocess_exec("true")).wait() for _ in range(200)]
    assert not any(talk.done() for talk in talks)
    for talk_ in talks:
        talk_.cancel()
    await asyncio.wait(talks)
    await server.stop(None)
    print(200 - codes.count(0))

try:
    import uvloop
    uvloop.run(main())
except ModuleNotFoundError:
    asyncio.run(main())
"""


def test_children_that_are_started_while_grpc_is_busy_live() -> None:
    command = (sys.executable, "-c", FORKING)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GRPC_")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=environment)
    assert done.stdout == "0\n"


@pytest.mark.parametrize("verb", ["cordon", "uncordon", "drain"])
def test_what_operators_do_most_needs_no_detour(verb: str) -> None:
    command = (sys.executable, "-m", "edgesched", verb, "rk-1", "--url", "http://127.0.0.1:1")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "no gateway answers at http://127.0.0.1:1" in done.stderr

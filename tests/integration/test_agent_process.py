"""The agent as people start it: `python -m agents`, with real workers and the echo backend."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from edgesched.v1 import types_pb2 as types
from tests.support.agent_parts import DEVICE_ID, FakeGateway, FakeReceiver, Master, listening
from tests.support.graphs import LABELS, SIZE, bright_box_graph, bright_box_picture, encoded

READY_WITHIN_S = 60.0  # the workers load numpy and OpenCV, perhaps on a busy machine


class AgentProcess:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.address = ""
        self.device_id = ""

    async def ready(self) -> None:
        assert self.process.stdout is not None
        async with asyncio.timeout(READY_WITHIN_S):
            line = (await self.process.stdout.readline()).decode()
        assert line.startswith("READY "), line
        words = dict(word.split("=") for word in line.split()[1:])
        self.address, self.device_id = words["grpc"], words["device"]

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    async def said(self, event: str) -> None:
        """Wait until it logs this."""
        assert self.process.stderr is not None
        async with asyncio.timeout(READY_WITHIN_S):
            while event not in (await self.process.stderr.readline()).decode():
                pass

    async def ended(self) -> tuple[int, str]:
        """The exit code, and what was written to stderr."""
        async with asyncio.timeout(READY_WITHIN_S):
            _, errors = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, errors.decode()


@asynccontextmanager
async def started(
    workspace: Path, gateway_url: str, *flags: str, device_id: str | None = DEVICE_ID
) -> AsyncIterator[AgentProcess]:
    """A process that may not be ready yet; killed at the end if it has not ended."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "agents", "--port", "0", "--workers", "1"),
        *(("--device-id", device_id) if device_id else ()),
        *("--workspace", str(workspace), "--models", str(workspace / "models"), "--master-url", gateway_url),
        *flags,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield AgentProcess(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


def write_model(workspace: Path, name: str, build: Sequence[str], *, decoder: str = "none") -> Path:
    directory = workspace / "models" / name
    directory.mkdir(parents=True)
    text = [f'name = "{name}"', f"labels = {json.dumps(LABELS)}", f'decoder = "{decoder}"', "[builds.default]", *build]
    (directory / "model.toml").write_text("\n".join(text))
    return directory


def write_echo_model(workspace: Path) -> None:
    write_model(workspace, "nothing", ['backend = "echo"', 'file = ""', "input_width = 1", "input_height = 1"])


async def test_echo_end_to_end_a_clean_stop_and_a_restart_with_labels_on_the_disk(tmp_path: Path) -> None:
    gateway, receiver = FakeGateway(), FakeReceiver()
    async with listening(gateway.app()) as gateway_url, listening(receiver.app()) as receiver_url:
        async with started(tmp_path, gateway_url, "--backend", "echo") as agent:
            await agent.ready()
            assert agent.device_id == DEVICE_ID
            async with Master.connected(agent.address) as master:
                first_boot = (await master.next("hello")).boot_id
                for attempt in ("a1", "a2"):
                    await master.dispatch(attempt, receiver_url=receiver_url)
                    await master.next("accepted")
                    assert not (await master.next("outcome")).result.HasField("width")  # echo looks at no picture
                agent.process.send_signal(signal.SIGTERM)
            workers = agent.workers()
            code, errors = await agent.ended()
            assert code == 0, errors
            assert not any(worker.is_running() for worker in workers)
            assert gateway.left == [f"{DEVICE_ID} {first_boot}"]
        async with started(tmp_path, gateway_url, "--backend", "echo") as agent:
            await agent.ready()
            async with Master.connected(agent.address, number=2) as master:
                hello = await master.next("hello")
                assert hello.boot_id != first_boot
                assert sorted(held.attempt_id for held in hello.outbox) == ["a1", "a2"]
                for _ in range(2):
                    await master.judge((await master.next("outcome")).attempt_id, deliver=True)
                assert {(await master.next("delivery_report")).delivered for _ in range(2)} == {True}


async def test_no_worker_outlives_a_killed_daemon_and_labels_that_had_to_wait_are_kept(tmp_path: Path) -> None:
    gateway = FakeGateway()
    write_echo_model(tmp_path)
    async with listening(gateway.app()) as gateway_url:
        async with started(tmp_path, gateway_url, "--workers", "2", "--log-level", "debug") as agent:
            await agent.ready()
            workers = agent.workers()
            assert len(workers) == 2
            async with Master.connected(agent.address) as master:
                await master.next("hello")
                await master.dispatch("a1", model="nothing")
                await master.next("accepted")
                await master.next("outcome")
                await agent.said("outbox.written")
                agent.process.kill()
            await agent.ended()
            assert not psutil.wait_procs(workers, timeout=READY_WITHIN_S)[1]
        async with started(tmp_path, gateway_url) as agent:
            await agent.ready()
            async with Master.connected(agent.address, number=2) as master:
                assert [held.attempt_id for held in (await master.next("hello")).outbox] == ["a1"]


async def test_a_real_picture_is_labelled_by_a_model_of_ones_own_on_an_emulated_board(tmp_path: Path) -> None:
    gateway = FakeGateway()
    build = ['file = "model.onnx"', f"input_width = {SIZE}", f"input_height = {SIZE}"]
    directory = write_model(tmp_path, "bright", build, decoder="yolov8")
    bright_box_graph(directory / "model.onnx", "yolov8")
    async with (
        listening(gateway.app()) as gateway_url,
        started(tmp_path, gateway_url, "--emulate", "orin", "--workers", "1") as agent,
    ):
        await agent.ready()
        (registration,) = gateway.registrations
        assert registration["emulated"] is True
        async with Master.connected(agent.address) as master:
            await master.next("hello")
            await master.dispatch("a1", encoded(bright_box_picture(100, 80, (10, 20, 50, 60))), model="bright")
            await master.next("accepted")
            result = (await master.next("outcome")).result
            assert (result.width, result.height) == (100, 80)
            assert [detection.label for detection in result.detections] == [LABELS[1]]
            assert result.timings.service_ms >= 12.0  # the profile's
            await master.dispatch("a2", b"this is no picture", model="bright")
            await master.next("accepted")
            assert (await master.next("outcome")).failure.kind == types.FAILURE_KIND_INVALID_INPUT


async def test_one_bad_model_does_not_take_the_board_out_of_service(tmp_path: Path) -> None:
    gateway = FakeGateway()
    build = ['file = "model.onnx"', f"input_width = {SIZE}", f"input_height = {SIZE}"]
    wild = write_model(tmp_path, "wild", build, decoder="wild:decode")
    bright_box_graph(wild / "model.onnx", "yolov8")
    (wild / "wild.py").write_text("def decode(outputs, model, geometry):\n    raise KeyError('wild')\n")
    deadly = write_model(tmp_path, "deadly", build, decoder="deadly:decode")
    bright_box_graph(deadly / "model.onnx", "yolov8")
    (deadly / "deadly.py").write_text("import os, signal\n\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    broken = write_model(tmp_path, "broken", build, decoder="yolov8")
    (broken / "model.onnx").write_bytes(b"this is no model")
    for name in ("garbled", "shapes"):  # the second was to hide the built-in model of this name
        (tmp_path / "models" / name).mkdir()
        (tmp_path / "models" / name / "model.toml").write_bytes(b"name = \xff\xfe")
    write_echo_model(tmp_path)
    async with listening(gateway.app()) as gateway_url, started(tmp_path, gateway_url) as agent:
        await agent.ready()
        assert "nothing" in gateway.registrations[-1]["models"]
        bad = {"wild", "broken", "deadly", "garbled", "shapes"}
        while bad & set(gateway.registrations[-1]["models"]):  # it registered before its workers had tried them all
            await gateway.beat()
        reasons = (await gateway.beat())["unavailable_models"]
        assert set(reasons) == bad
        assert "garbled/model.toml: cannot be read" in reasons["garbled"]
        assert "SIGSEGV" in reasons["deadly"]
        async with Master.connected(agent.address) as master:
            await master.next("hello")
            await master.dispatch("a1", model="wild")
            failure = (await master.next("outcome")).failure
            assert failure.kind == types.FAILURE_KIND_REFUSED
            assert "KeyError: 'wild'" in failure.message
            await master.dispatch("a2", model="nothing")
            await master.next("accepted")
            assert (await master.next("outcome")).HasField("result")


async def test_what_keeps_an_agent_from_starting_is_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    gateway = FakeGateway()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        async with listening(gateway.app()) as url:
            for flags, expected in (
                (["--port", port], port),
                (["--emulate", "toaster"], "atlas, rk3588, orin"),
                (["--device", "toaster"], "generic"),
                (["--device-id", "a b"], "--device-id"),
                (["--python-bin", "/bin/nosuch"], "--python-bin"),
                (["--master-url", "htp:/foo"], "--master-url"),
                (["--advertise", "nowhere"], "--advertise"),
            ):
                async with started(tmp_path, url, "--backend", "echo", *flags) as agent:
                    code, errors = await agent.ended()
                    assert code == 2, errors
                    assert expected in errors
                    assert "Traceback" not in errors
                    assert "worker" not in errors.partition("edgesched:")[0], "no worker was started for nothing"


async def test_a_device_id_in_use_and_a_workspace_in_use_end_it_with_the_reason(tmp_path: Path) -> None:
    gateway = FakeGateway()
    async with listening(gateway.app()) as url:
        gateway.refusals = [(409, "device id 'board-1' is in use")]
        async with started(tmp_path, url, "--backend", "echo") as agent:
            code, errors = await agent.ended()
            assert (code, "is in use" in errors) == (2, True), errors
        async with started(tmp_path, url, "--backend", "echo") as first:
            await first.ready()
            async with started(tmp_path, url, "--backend", "echo") as second:
                code, errors = await second.ended()
                assert (code, "--workspace" in errors) == (2, True), errors


async def test_a_second_signal_ends_it_at_once_and_takes_the_workers_along(tmp_path: Path) -> None:
    gateway = FakeGateway()
    write_echo_model(tmp_path)
    async with listening(gateway.app()) as url, started(tmp_path, url, "--emulate", "atlas") as agent:
        await agent.ready()
        workers = agent.workers()
        os.kill(workers[0].pid, signal.SIGSTOP)  # so that a clean stop would take its time
        agent.process.send_signal(signal.SIGINT)
        agent.process.send_signal(signal.SIGTERM)
        assert (await agent.ended())[0] == 128 + signal.SIGINT
        assert not psutil.wait_procs(workers, timeout=READY_WITHIN_S)[1]


async def test_a_device_id_is_made_once_and_kept(tmp_path: Path) -> None:
    gateway = FakeGateway()
    async with listening(gateway.app()) as url:
        for _ in range(2):
            async with started(tmp_path, url, "--backend", "echo", device_id=None) as agent:
                await agent.ready()
                agent.process.terminate()
                await agent.ended()
    first, second = (registration["device_id"] for registration in gateway.registrations)
    assert first == second == json.loads((tmp_path / "device.json").read_text())["device_id"]

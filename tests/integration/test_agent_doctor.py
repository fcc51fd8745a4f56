"""`edgesched agent doctor`: what keeps a board from working is named, with what to do. Boards are made of files."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from agents.boards.detect import emulated_board, real_board
from agents.doctor.driver import look_at_driver
from agents.doctor.examine import examine
from agents.doctor.findings import Finding, Report, State
from agents.doctor.interpreter import look_at_interpreter
from agents.doctor.models import Models, look_at_models
from agents.doctor.surroundings import look_at_disk, look_at_gateway, look_at_name, look_at_port
from agents.identity import identify
from agents.machine import Machine
from agents.start_warnings import start_warnings
from agents.worker_process import Pace
from edgesched.settings import AgentSettings
from tests.integration.test_agent_process import write_model
from tests.support.agent_parts import listening
from tests.support.graphs import SIZE, bright_box_graph
from tests.unit.test_agent_boards import forbidden, put

ROOT = Path(__file__).parents[2]
BUILD = ['file = "model.onnx"', f"input_width = {SIZE}", f"input_height = {SIZE}"]
RK3588 = {"proc/device-tree/compatible": "rockchip,rk3588\0"}
NPU = {**RK3588, "dev/rknpu": "", "usr/lib/librknnrt.so": ""}


def files(root: Path, content: Mapping[str, str]) -> Path:
    for path, text in content.items():
        put(root, path, text.encode())
    return root


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A directory that another user may reach; pytest's own ones are closed."""
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        yield Path(place)


def settings_for(tmp_path: Path, **changes: Any) -> AgentSettings:
    given = {"workspace_dir": tmp_path / "state", "models_dir": tmp_path / "models", "agent_port": 0, **changes}
    return AgentSettings(**given)


def told(findings: list[Finding] | Report, state: State) -> str:
    """What was found in this state, with the remedies, as one text."""
    found = findings.findings if isinstance(findings, Report) else findings
    return "\n".join(f"{one.name}: {one.text} -> {one.remedy}" for one in found if one.state is state)


# --- the driver ---


def test_an_agent_on_a_board_without_its_driver_says_so_in_its_heartbeats(tmp_path: Path) -> None:
    settings = AgentSettings.model_validate({"workers": 1, "total_cpus": 8})
    real, emulated = real_board("rk3588"), emulated_board("rk3588")
    (told,) = start_warnings(settings, 1, real, tmp_path)
    assert "the rk3588 accelerator could not be used" in told
    assert "neither /dev/rknpu nor one in /dev/dri" in told
    assert "others run on the CPU" in told
    for board in (emulated, real_board("generic")):
        assert start_warnings(settings, 1, board, tmp_path) == ()
    assert start_warnings(settings, 1, real, files(tmp_path, NPU)) == ()


@pytest.mark.parametrize(
    ("board", "content", "expected"),
    [
        ("rk3588", {"dev/rknpu": ""}, ["/usr/lib/librknnrt.so is missing", "rknn-toolkit2 repository", "ldconfig"]),
        ("rk3588", {"usr/lib/librknnrt.so": ""}, ["neither /dev/rknpu nor one in /dev/dri", "rknpu driver"]),
        ("rk3588", {"usr/lib/librknnrt.so": "", "dev/accel/accel0": ""}, ["mainline", "does not work with librknnrt"]),
        ("atlas", {}, ["no /dev/davinci0", "install the Ascend driver"]),
        ("atlas", {"dev/davinci0": "", "dev/davinci_manager": ""}, ["/dev/devmm_svm, /dev/hisi_hdc is missing"]),
        ("orin", {}, ["neither /dev/nvmap nor", "nvidia-jetpack", "--runtime nvidia"]),
    ],
)
def test_a_missing_driver_names_what_to_install(
    tmp_path: Path, board: str, content: dict[str, str], expected: list[str]
) -> None:
    problems = told(look_at_driver(board, files(tmp_path, content)), State.PROBLEM)
    assert all(part in problems for part in expected), problems


@pytest.mark.parametrize(
    ("board", "content"),
    [
        ("rk3588", NPU),
        ("rk3588", {"usr/lib/librknnrt.so": "", "dev/dri/renderD129": ""}),
        ("atlas", dict.fromkeys(("dev/davinci0", "dev/davinci_manager", "dev/devmm_svm", "dev/hisi_hdc"), "")),
        ("orin", {"dev/nvmap": "", "dev/nvhost-gpu": ""}),
        ("orin", {"dev/nvmap": "", "dev/nvgpu/igpu0/ctrl": ""}),
        ("generic", {}),
    ],
)
def test_a_driver_that_is_there_is_no_problem(tmp_path: Path, board: str, content: dict[str, str]) -> None:
    findings = look_at_driver(board, files(tmp_path, content))
    assert {finding.state for finding in findings} <= {State.OK}


def test_a_display_s_device_is_not_taken_for_the_npu(tmp_path: Path) -> None:
    files(tmp_path, {"usr/lib/librknnrt.so": "", "dev/dri/renderD128": "", "dev/dri/renderD129": ""})
    for number, driver in ((128, "panthor"), (129, "RKNPU")):
        (tmp_path / f"sys/bus/{driver}").mkdir(parents=True)
        device = tmp_path / f"sys/class/drm/renderD{number}/device"
        device.mkdir(parents=True)
        (device / "driver").symlink_to(tmp_path / f"sys/bus/{driver}")
    assert "may use /dev/dri/renderD129" in told(look_at_driver("rk3588", tmp_path), State.OK)


def test_a_device_that_is_for_others_names_the_group_to_join(open_place: Path) -> None:
    files(open_place, NPU)
    with forbidden(open_place / "dev/rknpu"):
        problems = told(look_at_driver("rk3588", open_place), State.PROBLEM)
    assert "may not read and write /dev/rknpu" in problems
    assert "usermod -aG" in problems or "udev rule" in problems


# --- the interpreter ---


async def looked_at(python: str, path: Sequence[str], board: str, backends: frozenset[str]) -> list[Finding]:
    return [finding async for finding in look_at_interpreter(python, path, board, backends)]


def interpreter(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


async def test_an_interpreter_without_numpy_is_told_what_to_install_there(tmp_path: Path) -> None:
    bare = interpreter(tmp_path / "python", f'exec {sys.executable} -S "$@"')
    problems = told(await looked_at(bare, (), "generic", frozenset({"onnx"})), State.PROBLEM)
    for package in ("numpy", "opencv-python-headless", "onnxruntime"):
        assert f"{bare} -m pip install {package}" in problems
    assert "No module named 'numpy'" in problems


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo 3.6.9", "is Python 3.6.9; the workers need 3.8 or newer"),
        ("echo hello", "does not run Python: hello"),
        ("exit 3", "does not run Python: exit code 3"),
    ],
)
async def test_what_is_no_interpreter_for_workers_is_refused(tmp_path: Path, script: str, expected: str) -> None:
    findings = await looked_at(interpreter(tmp_path / "python", script), (), "generic", frozenset())
    assert expected in told(findings, State.PROBLEM)
    nowhere = await looked_at("/nowhere/python", (), "generic", frozenset())
    assert "/nowhere/python is no program" in told(nowhere, State.PROBLEM)


async def test_an_interpreter_that_never_answers_is_ended_with_all_that_it_has_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.doctor.interpreter.RUN_TIMEOUT_S", 1.0)
    held = tmp_path / "held"
    os.mkfifo(held)
    ended = os.open(held, os.O_RDONLY | os.O_NONBLOCK)
    hanging = interpreter(tmp_path / "python", f"exec 9>{held}\nsleep 1000")
    problems = told(await looked_at(hanging, (), "generic", frozenset()), State.PROBLEM)
    assert "does not run Python: it did not end within 1 s" in problems
    hung_up = select.poll()
    hung_up.register(ended, select.POLLHUP)
    assert hung_up.poll(5_000)  # nobody holds the other end any more
    os.close(ended)


async def test_a_vendors_library_is_only_a_must_for_models_that_use_it(tmp_path: Path) -> None:
    idle = await looked_at(sys.executable, (), "rk3588", frozenset({"onnx"}))
    assert "the accelerator stays idle" in told(idle, State.WARNING)
    assert told(idle, State.PROBLEM) == ""
    needed = await looked_at(sys.executable, (), "rk3588", frozenset({"rknn"}))
    assert "pip install rknn-toolkit-lite2" in told(needed, State.PROBLEM)


async def test_a_plain_computer_without_onnxruntime_is_told_that_the_demo_model_asks_for_it(tmp_path: Path) -> None:
    bare = interpreter(tmp_path / "python", f'exec {sys.executable} -S "$@"')
    warnings = told(await looked_at(bare, (), "generic", frozenset()), State.WARNING)
    assert "no model of yours asks for it, but the built-in demo model does" in warnings
    assert "accelerator" not in warnings


async def test_a_package_is_looked_for_in_python_path_and_may_crash(tmp_path: Path) -> None:
    files(tmp_path, {"there/acl.py": "print('noise')", "broken/acl.py": "import os; os.kill(os.getpid(), 11)"})
    for place, state, expected in (("there", State.OK, "pyACL"), ("broken", State.PROBLEM, "killed by SIGSEGV")):
        path = (str(tmp_path / place),)
        assert expected in told(await looked_at(sys.executable, path, "atlas", frozenset({"acl"})), state)


# --- the models ---


async def models_in(tmp_path: Path, python: str = sys.executable, **changes: Any) -> list[Finding]:
    settings = settings_for(tmp_path, **changes)
    return await look_at_models(settings, Models(settings, "generic"), python, Pace(start_timeout_s=60.0))


async def test_every_model_is_tried_as_the_agent_would(tmp_path: Path) -> None:
    good = write_model(tmp_path, "bright", BUILD, decoder="yolov8")
    bright_box_graph(good / "model.onnx", "yolov8")
    wrong = write_model(tmp_path, "wrong", BUILD, decoder="yolov5")
    bright_box_graph(wrong / "model.onnx", "yolov8")
    (tmp_path / "models" / "lost").mkdir()
    (tmp_path / "models" / "lost" / "model.toml").write_text(
        'name = "lost"\nlabels = ["a"]\ndecoder = "none"\n'
        '[builds.rk3588]\nfile = "gone.rknn"\ninput_width = 8\ninput_height = 8\n'
        '[builds.atlas]\nbackend = "echo"\nfile = ""\n'
    )
    findings = await models_in(tmp_path)
    assert "bright runs with backend onnx" in told(findings, State.OK)
    assert "model 'wrong' cannot run on backend 'onnx': ValueError: decoder yolov5 expects" in told(
        findings, State.PROBLEM
    )
    assert "lost has no build for generic" in told(findings, State.WARNING)
    assert not (tmp_path / "state").exists()  # a doctor only looks


async def test_a_worker_that_cannot_start_or_dies_says_so(tmp_path: Path) -> None:
    dying = interpreter(tmp_path / "dying", "kill -SEGV $$")
    assert "was killed by SIGSEGV while it loaded" in told(await models_in(tmp_path, dying), State.PROBLEM)
    bare = interpreter(tmp_path / "bare", f'exec {sys.executable} -S "$@"')
    assert "install opencv-python-headless for that" in told(await models_in(tmp_path, bare), State.PROBLEM)


# --- what is around it ---


async def test_a_gateway_is_looked_for_and_its_clock_compared() -> None:
    date = "Sat, 01 Jan 2000 00:00:00 GMT"

    async def ready(request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"}, headers={"Date": date})

    app = web.Application()
    app.router.add_get("/health/ready", ready)
    async with listening(app) as url:
        findings = await look_at_gateway(AgentSettings(master_url=url))
        assert told(findings, State.PROBLEM) == ""
        assert "clock: it differs from the gateway's by" in told(findings, State.WARNING)
        assert "chrony" in told(findings, State.WARNING)
    gone = told(await look_at_gateway(AgentSettings(master_url=url)), State.PROBLEM)
    assert f"{url} cannot be reached ({url.removeprefix('http://')}: Connection refused)" in gone
    lost = told(await look_at_gateway(AgentSettings(master_ip="no-such-machine.invalid")), State.PROBLEM)
    assert "(no-such-machine.invalid:6666: " in lost
    assert "edgesched up --host 0.0.0.0" in gone
    async with listening(web.Application()) as url:
        assert "something else than a gateway" in told(
            await look_at_gateway(AgentSettings(master_url=url)), State.PROBLEM
        )


def test_a_taken_port_and_one_that_the_master_cannot_reach_are_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        finding = look_at_port(settings_for(tmp_path, agent_port=port))
        assert f"cannot listen on 127.0.0.1:{port}" in finding.text
    closed = look_at_port(settings_for(tmp_path, master_ip="192.168.1.10"))
    assert closed.state is State.PROBLEM
    assert 'host = "0.0.0.0"' in str(closed.remedy)
    assert look_at_port(settings_for(tmp_path)).state is State.OK


def test_a_disk_that_is_full_or_closed_is_named(open_place: Path) -> None:
    full = look_at_disk(settings_for(open_place, outbox_bytes=2**60))
    assert (full.state, "make room" in str(full.remedy)) == (State.PROBLEM, True)
    (open_place / "state").mkdir()
    with forbidden(open_place / "state"):
        assert "chown" in str(look_at_disk(settings_for(open_place)).remedy)
    assert look_at_disk(settings_for(open_place)).state is State.OK


def test_a_damaged_name_is_told_before_the_agent_takes_a_new_one(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "device.json").write_text("garbage")
    finding = look_at_name(settings_for(tmp_path))
    assert finding.state is State.WARNING
    assert "is damaged" in finding.text
    assert (tmp_path / "state" / "device.json").read_text() == "garbage"  # nothing was changed


def test_a_copied_disk_is_told_before_the_agent_renames_itself(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    assert look_at_name(settings).state is State.NOTE
    settings.workspace_dir.mkdir()
    identify(settings.workspace_dir, None)
    assert look_at_name(settings).state is State.OK
    (settings.workspace_dir / "device.json").unlink()
    identify(settings.workspace_dir, None, Machine(serial=None, macs=frozenset({"of another one"})))
    before = (settings.workspace_dir / "device.json").read_bytes()
    look_at_name(settings)
    assert (settings.workspace_dir / "device.json").read_bytes() == before


# --- all of it ---


async def test_a_board_in_good_order_can_work_and_one_finding_is_enough_that_it_cannot(tmp_path: Path) -> None:
    async def ready(request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    app = web.Application()
    app.router.add_get("/health/ready", ready)
    async with listening(app) as url:
        report = await examine(settings_for(tmp_path, master_url=url, device="generic"), tmp_path)
    assert report.can_work, told(report, State.PROBLEM)
    assert json.loads(report.as_json())["can_work"] is True
    assert report.verdict() == "problems: 0, warnings: 0; the board can work as it is"
    files(tmp_path, RK3588)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "bad").mkdir()
    (tmp_path / "models" / "bad" / "model.toml").write_text("name =")
    report = await examine(settings_for(tmp_path, master_url=url, python_bin="/nowhere/python"), tmp_path)
    assert not report.can_work
    for part in ("rknpu", "/nowhere/python", "model.toml", "gateway"):
        assert part in told(report, State.PROBLEM)
    assert "how busy the accelerator is cannot be known" in told(report, State.WARNING)


def test_the_command_ends_with_1_if_something_keeps_the_board_from_working(tmp_path: Path) -> None:
    (tmp_path / "agent.toml").write_text(
        f'workspace_dir = "{tmp_path}/state"\nmodels_dir = "{tmp_path}/models"\npython_bin = "/nowhere/python"\n'
        'master_url = "http://127.0.0.1:1"\nagent_port = 0\n'
    )
    command = [sys.executable, "-m", "edgesched", "agent", "doctor", "--config", str(tmp_path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)
    assert done.returncode == 1, done.stderr
    names = {one["name"] for one in json.loads(done.stdout)["findings"] if one["state"] == "PROBLEM"}
    assert names == {"interpreter", "gateway"}

"""The systemd units start what exists, where the documents and `agent init` say that it is."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest
import typer
import typer.core

from agents import app as agent_app
from agents.worker_process import Pace
from edgesched.cli import agent, agent_init
from edgesched.cli.main import COMMANDS
from edgesched.settings import PROCESSES, TaskManagerSettings

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
README = (DEPLOY / "systemd" / "README.md").read_text(encoding="utf-8")
PROGRAM = "/opt/edgesched/venv/bin/edgesched"
HARDENING = {
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "CapabilityBoundingSet": "",
    "User": "edgesched",
    "StateDirectory": "edgesched",
    "Restart": "on-failure",
    "KillMode": "mixed",
}


def settings_of(unit: Path) -> dict[str, list[str]]:
    """Key -> its values, in order. Raises: AssertionError for a line that is none."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith(("#", "[")):
            key, equals, value = line.partition("=")
            assert equals, line
            found.setdefault(key, []).append(value)
    return found


def only(unit: Path, key: str) -> str:
    (value,) = settings_of(unit)[key]
    return value


each_unit = pytest.mark.parametrize("unit", UNITS, ids=[unit.stem for unit in UNITS])


@each_unit
def test_what_it_starts_is_a_command_with_its_flags(unit: Path) -> None:
    program, name, *arguments = shlex.split(only(unit, "ExecStart"))
    assert program == PROGRAM
    assert name in PROCESSES
    module = importlib.import_module(COMMANDS[name])
    app = getattr(module, "app", None)
    if app is None:
        app = typer.Typer()
        app.command()(module.command)
    typer.main.get_command(app).make_context(name, list(arguments))  # parses, and does nothing more
    assert arguments == ["--config", str(agent_init.CONFIG)]


@each_unit
def test_it_may_do_little_and_comes_back_when_it_fails(unit: Path) -> None:
    for key, value in HARDENING.items():
        assert settings_of(unit)[key] == [value], key
    confined = {"DevicePolicy": ["closed"]} if "agent" in unit.name else {"PrivateDevices": ["yes"]}
    assert confined.items() <= settings_of(unit).items()


def test_stopping_has_the_time_that_it_needs() -> None:
    pace = Pace()
    stop_s = {unit.stem: int(only(unit, "TimeoutStopSec")) for unit in UNITS}
    drain_s = TaskManagerSettings.model_fields["drain_timeout_ms"].default / 1000
    assert min(stop_s["edgesched-up"], stop_s["edgesched-task-manager"]) >= 2 * drain_s
    assert stop_s["edgesched-agent"] >= 2 * (agent_app.FINISH_S + pace.stop_wait_s + pace.terminate_wait_s)


def test_the_paths_are_those_of_the_documents_and_of_agent_init() -> None:
    for unit in UNITS:
        assert unit.name in README
        assert only(unit, "WorkingDirectory") == "/var/lib/edgesched"
    assert Path("/var/lib/edgesched") in agent_init.WORKSPACE.parents
    assert Path("/var/lib/edgesched") in agent_init.MODELS.parents
    for path in ("/opt/edgesched/venv", "/etc/edgesched", "/var/lib/edgesched/models", "/opt/edgesched/worker"):
        assert path in README
    assert only(DEPLOY / "systemd" / "edgesched-agent.service", "EnvironmentFile") == "-/etc/edgesched/agent.env"
    assert "/etc/edgesched/agent.env" in README


def test_every_accelerator_that_the_doctor_looks_for_is_let_through() -> None:
    allowed = " ".join(settings_of(DEPLOY / "systemd" / "edgesched-agent.service")["DeviceAllow"])
    for device in ("char-drm", "/dev/rknpu", "/dev/nvmap", "char-nvhost*", "char-nvgpu*", "/dev/davinci0"):
        assert device in allowed
    for device in ("/dev/davinci_manager", "/dev/devmm_svm", "/dev/hisi_hdc"):
        assert device in allowed


@pytest.mark.parametrize("path", sorted((DEPLOY / "boards").glob("*.txt")), ids=lambda path: path.stem)
def test_every_line_of_a_board_s_list_is_a_requirement(path: Path) -> None:
    from packaging.requirements import Requirement

    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    names = {Requirement(line).name for line in lines}
    assert {"numpy", "opencv-python-headless"} <= names
    assert path.name in (DEPLOY / "boards" / "README.md").read_text(encoding="utf-8")


def test_every_folder_says_what_it_is_for() -> None:
    for folder in (path for path in DEPLOY.iterdir() if path.is_dir()):
        assert re.match(r"# \w", (folder / "README.md").read_text(encoding="utf-8")), folder


@pytest.mark.parametrize(
    "name", ["README.md", "README.zh-CN.md", "deploy/systemd/README.md", "deploy/bundle/README.md"]
)
def test_every_command_of_the_installation_exists(name: str) -> None:
    text = (DEPLOY.parent / name).read_text(encoding="utf-8")
    for line in re.findall(
        r"(?:^|sudo |-u edgesched |`)edgesched (agent (?:init|doctor)[^`#\n]*)", text, flags=re.MULTILINE
    ):
        _, command, *arguments = shlex.split(line.replace("<", "").replace(">", ""))
        group = typer.main.get_command(agent.app)
        assert isinstance(group, typer.core.TyperGroup)
        group.commands[command].make_context(command, arguments)
    assert re.findall(r"\]\(([\w./-]+)\)", text)
    for target in re.findall(r"\]\(([\w./-]+)\)", text):
        assert ((DEPLOY.parent / name).parent / target).exists(), target

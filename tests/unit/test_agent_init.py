"""`edgesched agent init`: a board's configuration, with comments, and its name."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agents.config_file import Wishes, write_config
from edgesched.cli import agent, agent_init
from edgesched.errors import StartupError
from edgesched.settings import AgentSettings, load

TREE = {
    "rk3588": ("proc/device-tree/compatible", b"xunlong,orangepi-5-plus\0rockchip,rk3588\0"),
    "orin": ("etc/nv_tegra_release", b"# R36 (release), REVISION: 4.3"),
    "atlas": ("dev/davinci_manager", b""),
}


def wishes(tmp_path: Path, **changes: str) -> Wishes:
    given = {"master_ip": "192.168.1.10", **changes}
    return Wishes(workspace=tmp_path / "state", models=tmp_path / "models", **given)


def settings_of(path: Path) -> AgentSettings:
    return load(AgentSettings, config=path).settings


@pytest.mark.parametrize("board", sorted(TREE))
def test_what_is_written_is_what_the_agent_reads(tmp_path: Path, board: str) -> None:
    path, content = TREE[board]
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_bytes(content)
    written = write_config(tmp_path / "etc", wishes(tmp_path), force=False, root=tmp_path)
    settings = settings_of(tmp_path / "etc")
    assert (written.board, settings.device, settings.master_ip) == (board, board, "192.168.1.10")
    assert (settings.workspace_dir, settings.models_dir) == (tmp_path / "state", tmp_path / "models")
    assert settings.device_id is None  # it is kept in the workspace, where a copied disk is noticed
    assert json.loads((tmp_path / "state" / "device.json").read_text())["device_id"] == written.identity.device_id
    assert f"deploy/boards/{board}.txt" in written.path.read_text()


def test_every_line_that_is_commented_out_can_be_switched_on(tmp_path: Path) -> None:
    path = write_config(tmp_path / "a.toml", wishes(tmp_path), force=False, root=tmp_path).path
    path.write_text(re.sub(r"^# (?=[a-z_]+ = )", "", path.read_text(), flags=re.MULTILINE))
    settings = settings_of(path)
    assert settings.device == "generic"
    assert settings.device_id
    assert settings.python_bin
    assert settings.workers


def test_a_plain_computer_goes_on_being_looked_at(tmp_path: Path) -> None:
    """Its driver may only be missing yet."""
    path = write_config(tmp_path, wishes(tmp_path), force=False, root=tmp_path).path
    assert settings_of(path).device is None


def test_a_file_that_is_there_is_only_replaced_by_force_and_the_name_stays(tmp_path: Path) -> None:
    first = write_config(tmp_path, wishes(tmp_path), force=False)
    first.path.write_text("# mine")
    with pytest.raises(StartupError, match=r"agent\.toml is there already: .*--force"):
        write_config(tmp_path, wishes(tmp_path), force=False)
    assert first.path.read_text() == "# mine"
    again = write_config(tmp_path, wishes(tmp_path), force=True)
    assert again.identity.device_id == first.identity.device_id


def test_odd_values_stay_what_they_are(tmp_path: Path) -> None:
    odd = 'a "quoted" \\ path\n# é'
    path = write_config(tmp_path, wishes(tmp_path, python_bin=odd, device="RK3588"), force=False).path
    assert (settings_of(path).python_bin, settings_of(path).device) == (odd, "rk3588")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"device": "toaster"}, "generic"),
        ({"device_id": "a b"}, "letters"),
        ({"master_ip": "http://x:1/"}, "name or the IP address"),
        ({"master_ip": ""}, "--master-ip ''"),
    ],
)
def test_a_mistake_leaves_no_file_behind(tmp_path: Path, change: dict[str, str], told: str) -> None:
    with pytest.raises(StartupError, match=told):
        write_config(tmp_path, wishes(tmp_path, **change), force=False)
    assert not (tmp_path / "agent.toml").exists()


def test_where_it_may_not_write_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "etc").write_text("a file, no directory")
    with pytest.raises(StartupError, match=r"etc/deeper is a file, or lies in one: choose .*--workspace and --models$"):
        write_config(tmp_path / "etc" / "deeper", wishes(tmp_path), force=False)
    with pytest.raises(StartupError, match=r"/proc/edgesched cannot be written \(.*\): choose other places .* sudo$"):
        write_config(Path("/proc/edgesched"), wishes(tmp_path), force=False)


def test_the_command_says_what_to_do_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    agent_init.command(config=tmp_path, workspace=tmp_path / "state", models=tmp_path / "models", device_id="shelf-3")
    told = capsys.readouterr().out
    assert f"edgesched agent doctor --config {tmp_path / 'agent.toml'}" in told
    assert "name  shelf-3" in told
    assert "note:" not in told
    agent_init.command(tmp_path, tmp_path / "state", tmp_path / "models", python_bin="/nowhere/python", force=True)
    assert "note: /nowhere/python is no program that can be run yet" in capsys.readouterr().out


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files for others")
def test_what_root_makes_below_a_service_s_directory_belongs_to_the_service(tmp_path: Path) -> None:
    service = tmp_path / "var"
    service.mkdir()
    os.chown(service, 4242, 4242)
    given = Wishes(workspace=service / "agent", models=service / "models", master_ip="10.0.0.1")
    write_config(tmp_path / "etc", given, force=False)
    for made in ("agent", "agent/device.json", "models"):
        assert (service / made).stat().st_uid == 4242


def test_flags_before_the_command_are_refused_and_not_forgotten(tmp_path: Path) -> None:
    before = CliRunner().invoke(agent.app, ["--device", "rk3588", "init", "--config", str(tmp_path)])
    assert before.exit_code == 2
    assert "put the flags behind the command: edgesched agent init --flag" in before.output
    assert not (tmp_path / "agent.toml").exists()
    places = ["--config", str(tmp_path), "--workspace", str(tmp_path / "state"), "--models", str(tmp_path / "models")]
    behind = CliRunner().invoke(agent.app, ["init", "--device", "rk3588", *places])
    assert behind.exit_code == 0, behind.output
    assert settings_of(tmp_path).device == "rk3588"


def test_a_damaged_name_is_told_in_a_sentence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "device.json").write_text("{")
    flags = ("--config", tmp_path / "etc", "--workspace", tmp_path / "state", "--models", tmp_path / "models")
    done = CliRunner().invoke(agent.app, ["init", *map(str, flags)])
    assert done.exit_code == 0, done.output
    assert "note: the file with this board's name cannot be read (" in done.output
    assert "device.file_damaged" not in done.output + "".join(capfd.readouterr())


def test_a_refused_name_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="device-id"):
        write_config(tmp_path / "etc", wishes(tmp_path, device_id="a b/../c"), force=False, root=tmp_path)
    assert list(tmp_path.iterdir()) == []

"""`edgesched agent --probe`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agents.boards.probe import probe
from agents.boards.readings import TELEMETRY, TEMPERATURE, XPU
from edgesched.cli import agent
from edgesched.domain.device import BoardType


@pytest.fixture
def orange_pi(tmp_path: Path) -> Path:
    for path, content in {
        "proc/device-tree/compatible": b"xunlong,orangepi-5-plus\0rockchip,rk3588\0",
        "proc/device-tree/model": b"Orange Pi 5 Plus\0",
        "sys/class/thermal/thermal_zone0/type": b"npu-thermal",
        "sys/class/thermal/thermal_zone0/temp": b"51500",
        "sys/class/devfreq/fdab0000.npu/load": b"100@1000000000Hz",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    return tmp_path


def test_a_probe_shows_what_was_found_and_why_the_rest_is_unknown(orange_pi: Path) -> None:
    text = probe(None, orange_pi).as_text()
    for expected in (
        "rk3588: /proc/device-tree/compatible names rockchip,rk3588",
        "Orange Pi 5 Plus",
        "51.5 C",
        "npu_driver                   unknown",
        "it says 100%, as it does whenever the NPU has power",
        "boards with this chip have no power sensor",
    ):
        assert expected in text


def test_a_probe_for_scripts_has_the_same_as_json(orange_pi: Path) -> None:
    found = json.loads(probe(None, orange_pi).as_json())
    assert found["board_type"] == "rk3588"
    assert found["labels"] == {"model": "Orange Pi 5 Plus", "chip": "RK3588"}
    assert set(found["readings"]) == set(TELEMETRY)
    assert found["readings"][TEMPERATURE]["value"] == 51.5
    assert found["readings"][XPU]["value"] is None
    assert "it says 100%" in found["readings"][XPU]["reason"]
    assert found["details"]["architecture"]["value"]


def test_the_command_probes_this_machine_and_ends_well(capsys: pytest.CaptureFixture[str]) -> None:
    agent.command(probe=True, as_json=True)
    assert json.loads(capsys.readouterr().out)["board_type"] in list(BoardType)
    agent.command(probe=True, device="RK3588")
    assert capsys.readouterr().out.startswith("board  rk3588: as --device or the settings say")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"as_json": True}, "--json goes with --probe"),
        ({"probe": True, "emulate": "orin"}, "leave --emulate away"),
        ({"probe": True, "device": "toaster"}, "is not a board type"),
    ],
)
def test_a_probe_that_makes_no_sense_is_refused_in_one_sentence(
    arguments: dict[str, Any], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        agent.command(**arguments)
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err

"""`edgesched simulate` as people use it: a table, a picture, their own fleet, what really arrived."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
import typer
from typer.testing import CliRunner, Result

from edgesched.cli import simulate

FLEET = '[[device]]\nboard = "rk3588"\ncount = 2\n'


def simulated(*arguments: object) -> Result:
    app = typer.Typer()
    app.command()(simulate.command)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    path = tmp_path / "my-fleet.toml"
    path.write_text(FLEET, encoding="utf-8")
    return path


def test_ones_own_fleet_and_trace_give_a_table_and_a_picture(fleet: Path, tmp_path: Path) -> None:
    trace, plot = tmp_path / "trace.csv", tmp_path / "plot.svg"
    trace.write_text("at_ms,size_bytes\n" + "".join(f"{100 * i},80000\n" for i in range(9)), encoding="utf-8")
    result = simulated("--fleet", fleet, "--replay", trace, "-s", "fastest, load", "--plot", plot)
    assert result.exit_code == 0
    told = " ".join(result.stdout.split())
    assert "Fleet my-fleet: 2 boards" in told
    assert "9 pictures arrive in 0.8 s" in told
    assert "fastest" in told
    assert "load" in told
    ElementTree.parse(plot)


def test_a_closed_loop_says_who_sends(fleet: Path) -> None:
    result = simulated("--fleet", fleet, "--clients", 3, "--seconds", 1, "-s", "load")
    assert result.exit_code == 0
    assert "3 clients send" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--burst", "3", "--clients", "2"], "exclude each other"),
        (["--burst", "3", "-s", "magic"], "there is no strategy 'magic'"),
        (["--burst", "3", "-s", ""], "there is no strategy ''"),
        (["--burst", "3", "--fault", "melts:0:1"], "there is no fault 'melts'"),
        (["--burst", "3", "--fault", "dies:7:1"], "the boards are 0 to 1"),
        (["--burst", "3", "--plot", "/nowhere/at/all.svg"], "--plot /nowhere/at/all.svg"),
        (["--replay", "/nowhere/ledger.sqlite3"], "--replay /nowhere/ledger.sqlite3"),
        (["--arrivals", "tides"], "there is no arrival pattern 'tides'"),
        (["--fleet", "/nowhere/fleet.toml"], "no such file, and no built-in fleet"),
    ],
)
def test_what_is_wrong_is_one_sentence(fleet: Path, arguments: list[str], told: str) -> None:
    result = simulated("--fleet", fleet, *arguments)
    assert result.exit_code == 2
    assert told in result.stderr
    assert "Traceback" not in result.stderr

"""`edgesched simulate` as people use it: a table, a picture, their own fleet, what really arrived."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
import typer
from typer.testing import CliRunner, Result

from edgesched.cli import simulate
from edgesched.errors import InvalidInput
from edgesched.simulation import fleets, traces
from edgesched.simulation.runs import parse_fault

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


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("dies:0:nan", "begins at 0 s or later"),
        ("dies:0:-1", "begins at 0 s or later"),
        ("dies:0:5:2", "ends after that"),
        ("link-drops:0:1:2:0", "above 0"),
        ("is-shared:0:1:2:-5", "above 0"),
        ("slows:0:1:2:inf", "at most"),
    ],
)
def test_a_fault_that_cannot_be_is_refused(fault: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=rf"--fault {fault}: .*{says}"):
        parse_fault(fault, fleets.load("small"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("device = [1, 2]", "must be a table"),
        ("sizes = 3", "must be a table"),
        ('[device]\nboard = "orin"', r"\[\[device\]\]"),
        ('[sizes]\nsmallest_bytes = "a"\n[[device]]\nboard = "orin"', "smallest_bytes must be a number"),
    ],
)
def test_a_fleet_file_that_is_none_is_one_sentence(text: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        fleets.parse(text, name="mine")


@pytest.mark.parametrize("row", ["1e300,4000", "5,99999999999999999999999999", "nan,1"])
def test_a_trace_beyond_all_measure_is_refused(row: str) -> None:
    with pytest.raises(InvalidInput, match="line 2"):
        traces.parse(f"at_ms,size_bytes\n{row}\n")

"""Boards and backends of other packages: found, packed, and never the end of a board that does without them."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from agents.boards.detect import detect, evidence, known_types, real_board
from agents.models import brought_backends
from agents.worker.backends import make_backend
from agents.worker.backends.echo import EchoBackend
from agents.worker.errors import BackendUnavailable, InvalidInput
from agents.worker_archive import pack_worker
from edgesched.errors import StartupError

BOARD = """
from agents.boards.sensed import SensedBoard
from edgesched.domain.device import DeviceProfile

class Board(SensedBoard):
    board_type = "abacus"
    profile = DeviceProfile(slots=1, service_ms=1.0, link_mbps=1.0, round_trip_ms=1.0)

    @classmethod
    def evidence(cls, root):
        return "it has beads" if (root / "beads").exists() else None
"""


class Shelf:
    """A directory of installed packages."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def put(self, package: str, content: str, **points: str) -> None:
        """points: a group's last word -> `name = object`."""
        self._place.mkdir(exist_ok=True)
        (self._place / f"{package}.py").write_text(content)
        info = self._place / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        text = "".join(f"[edgesched.{group}]\n{line}\n" for group, line in points.items())
        (info / "entry_points.txt").write_text(text)


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    place = tmp_path / "installed"
    place.mkdir()
    monkeypatch.syspath_prepend(str(place))
    return Shelf(place)


def test_a_package_brings_a_board_that_is_detected_and_named(shelf: Shelf, tmp_path: Path) -> None:
    shelf.put("acme_one", BOARD, boards="abacus = acme_one:Board")
    assert "abacus" in known_types()
    assert real_board("ABACUS").board_type == "abacus"
    assert detect(tmp_path) == "generic"
    (tmp_path / "beads").touch()
    assert evidence(tmp_path) == ("abacus", "it has beads (says abacus of acme_one 1.0)")
    assert real_board(None, tmp_path).board_type == "abacus"


def test_a_broken_package_is_named_and_spoils_no_detection(
    shelf: Shelf, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shelf.put("acme_two", "import no_such_library", boards="abacus = acme_two:Board")
    assert detect(tmp_path) == "generic"
    told = "abacus of acme_two 1.0 cannot be loaded .ModuleNotFoundError.*no_such_library.*uninstall that package"
    assert caplog.records[-1].message == "board.not_loaded"
    with pytest.raises(StartupError, match=told):
        real_board("abacus")


def test_a_board_that_crashes_while_it_looks_around_is_passed_over(
    shelf: Shelf, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shelf.put("acme_seven", BOARD.replace('"it has beads"', "1 / 0"), boards="abacus = acme_seven:Board")
    (tmp_path / "beads").touch()
    assert detect(tmp_path) == "generic"
    assert "ZeroDivisionError" in str(caplog.records[-1].__dict__["reason"])


def test_a_name_that_no_gateway_takes_is_refused_on_the_board(shelf: Shelf, tmp_path: Path) -> None:
    shelf.put("acme_eight", BOARD.replace('"abacus"', '"My Board"'), boards="My Board = acme_eight:Board")
    (tmp_path / "beads").touch()
    with pytest.raises(StartupError, match="a board's name has lower-case letters"):
        real_board(None, tmp_path)


def test_what_is_no_board_is_refused_by_name(shelf: Shelf) -> None:
    shelf.put("acme_three", "class Board:\n    board_type = 'abacus'\n", boards="abacus = acme_three:Board")
    with pytest.raises(StartupError, match=r"must be a class derived from agents\.boards\.sensed\.SensedBoard"):
        real_board("abacus")


def test_a_name_that_is_built_in_or_taken_stays_what_it_is(shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:
    shelf.put("acme_four", BOARD, boards="rk3588 = acme_four:Board\nabacus = acme_four:Board")
    shelf.put("acme_five", BOARD, boards="abacus = acme_five:Board")
    assert real_board("rk3588").board_type == "rk3588"
    real_board("abacus")
    assert {record.message for record in caplog.records} == {"plugin.ignored"}


def test_a_backend_of_another_package_reaches_an_interpreter_that_does_not_have_it(
    shelf: Shelf, tmp_path: Path
) -> None:
    content = "from agents.worker.errors import WorkerError\nclass Backend: pass\n"
    shelf.put("acme_six", content, backends="abacus = acme_six:Backend")
    assert brought_backends() == {"abacus": "acme_six:Backend"}
    archive = tmp_path / "worker.pyz"
    pack_worker(archive, brought_backends().values())
    assert "acme_six.py" in zipfile.ZipFile(archive).namelist()
    script = f"import sys; sys.path.insert(0, {str(archive)!r}); from acme_six import Backend, WorkerError"
    subprocess.run([sys.executable, "-I", "-S", "-c", script], check=True, timeout=30, cwd="/")


def test_a_package_whose_files_are_gone_does_not_keep_the_others_from_being_packed(tmp_path: Path) -> None:
    archive = tmp_path / "worker.pyz"
    pack_worker(archive, ["no_such_package.backend:Backend"])
    assert "agents/worker/loop.py" in zipfile.ZipFile(archive).namelist()


def test_a_built_in_backend_is_never_replaced_and_a_missing_one_is_named() -> None:
    assert isinstance(make_backend("echo", "no_such_package:Echo"), EchoBackend)
    with pytest.raises(BackendUnavailable, match="'abacus' needs no_such_package"):
        make_backend("abacus", "no_such_package:Backend")
    with pytest.raises(InvalidInput, match="install the package that brings it beside the agent"):
        make_backend("abacus")

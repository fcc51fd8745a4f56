"""What the workers are told to load, and the archive that they run from."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from agents.models import check_backend, worker_specs
from agents.worker_archive import pack_worker
from edgesched.catalogue import Build, Catalogue, Model
from edgesched.domain.device import BoardType
from edgesched.errors import StartupError


def model(directory: Path, name: str, *, decoder: str = "yolov8", **builds: str) -> Model:
    made = {board: Build(file=file, input_width=8, input_height=8) for board, file in builds.items()}
    return Model(directory=directory, name=name, labels=("a",), decoder=decoder, builds=made)


def test_a_board_gets_its_own_build_else_the_default_one(tmp_path: Path) -> None:
    for name in ("own.bin", "common.bin"):
        (tmp_path / name).touch()
    catalogue = Catalogue(
        {
            "both": model(tmp_path, "both", default="common.bin", orin="own.bin"),
            "default": model(tmp_path, "default", default="common.bin"),
            "elsewhere": model(tmp_path, "elsewhere", atlas="own.bin"),
            "lost": model(tmp_path, "lost", default="missing.bin"),
        }
    )
    specs, wrong = worker_specs(catalogue, BoardType.ORIN, None)
    assert list(wrong) == ["lost"]
    assert "missing.bin" in wrong["lost"]
    files = {spec["name"]: spec["build"]["file"] for spec in specs}
    assert files == {"both": "own.bin", "default": "common.bin"}


def test_echo_runs_every_model_without_its_file_and_without_its_decoder(tmp_path: Path) -> None:
    catalogue = Catalogue({"elsewhere": model(tmp_path, "elsewhere", atlas="missing.bin")})
    (spec,), _ = worker_specs(catalogue, BoardType.ORIN, "echo")
    assert (spec["build"]["backend"], spec["decoder"]) == ("echo", "none")


def test_a_backend_that_nobody_knows_is_refused_with_those_that_there_are() -> None:
    check_backend("mine", {"mine": "m:M"})
    with pytest.raises(StartupError, match=r"--backend 'nope' is no backend: use one of acl, echo, exec, mine, onnx"):
        check_backend("nope", {"mine": "m:M"})


def test_a_build_without_a_file_is_not_said_to_lack_the_file_of_no_name(tmp_path: Path) -> None:
    program = Build(backend="exec", file="", input_width=1, input_height=1, options={"start_cmd": "./run"})
    own = Model(directory=tmp_path, name="own", labels=("a",), decoder="none", builds={"default": program})
    _, wrong = worker_specs(Catalogue({"own": own}), BoardType.ORIN, "onnx")
    assert wrong == {"own": f"backend 'onnx' needs a file, and the build in {tmp_path} names none"}


def test_the_archive_runs_without_edgesched_around_it(tmp_path: Path) -> None:
    archive = tmp_path / "run" / "worker.pyz"
    pack_worker(archive)
    assert {"__main__.py", "agents/worker/__main__.py", "agents/worker/loop.py"} <= set(
        zipfile.ZipFile(archive).namelist()
    )
    command = [sys.executable, "-I", "-S", str(archive), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    assert "--fd" in done.stdout


def test_an_interpreter_that_is_too_old_for_workers_says_so_in_one_line(tmp_path: Path) -> None:
    pack_worker(tmp_path / "worker.pyz")
    code = "import runpy, sys; sys.version_info = (3, 6, 15); runpy.run_path(sys.argv[1], run_name='__main__')"
    command = (sys.executable, "-I", "-c", code, tmp_path / "worker.pyz")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr == f"{sys.executable} is Python 3.6: the workers need 3.8 or newer\n"

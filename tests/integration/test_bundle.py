"""`edgesched bundle`: one file with which a board is installed without a network. pip sees a few small wheels."""

from __future__ import annotations

import dataclasses
import ensurepip
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from edgesched.cli import bundle
from edgesched.cli.bundle import THIS_PYTHON
from edgesched.cli.bundle_files import Wanted, make_bundle
from edgesched.errors import StartupError
from tests.support.wheels import make_wheel

WITHIN_S = 100.0
TAG = f"cp{THIS_PYTHON.replace('.', '')}"
PROGRAM: Mapping[str, Any] = {
    "files": {"edgesched/__init__.py": "def main():\n    import acme_dep\n    print('edgesched 9.9')\n"},
    "requires": ['acme-dep; extra == "agent"'],
    "extras": ["agent"],
    "entry_points": {"console_scripts": {"edgesched": "edgesched:main"}},
}


MACHINE = platform.machine()

pytestmark = pytest.mark.skipif(MACHINE not in ("x86_64", "aarch64"), reason="bundles are made for these two")


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """All that pip can find."""
    place = tmp_path_factory.mktemp("index")
    (pip,) = (Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl")
    shutil.copy(pip, place)
    for machine in ("aarch64", "x86_64"):
        tag = f"{TAG}-{TAG}-manylinux_2_28_{machine}"
        make_wheel(place, "acme-dep", tag=tag, files={"acme_dep.py": ""})
    make_wheel(place, "acme-dep", "2.0", tag=f"{TAG}-{TAG}-manylinux_2_39_aarch64")  # for newer systems than a board's
    with pytest.MonkeyPatch.context() as environment:
        for name in list(os.environ):
            if name.startswith("PIP_"):
                environment.delenv(name)
        environment.setenv("PIP_CONFIG_FILE", os.devnull)
        environment.setenv("PIP_NO_INDEX", "1")
        environment.setenv("PIP_FIND_LINKS", str(place))
        yield place


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_wheel(tmp_path_factory.mktemp("own"), "edgesched", "9.9", **PROGRAM)


def wanted(wheel: Path, **changes: Any) -> Wanted:
    given = {"platform": MACHINE, "python": THIS_PYTHON, "extras": "agent", "board": None}
    return Wanted(**{**given, "worker_python": THIS_PYTHON, "wheel": wheel, **changes})


def unpacked(archive: Path) -> Path:
    with tarfile.open(archive) as file:
        file.extractall(archive.parent, filter="data")
    (place,) = (path for path in archive.parent.iterdir() if path.is_dir())
    return place


def test_a_bundle_has_the_wheels_of_its_platform_and_their_digests(
    index: Path, wheel: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle.command(tmp_path / "out.tar", extras="agent", wheel=wheel)
    name = f"edgesched-9.9-aarch64-py{THIS_PYTHON}"
    assert f"on the board: tar xf out.tar && sudo {name}/install.sh" in capsys.readouterr().out
    place = unpacked(tmp_path / "out.tar")
    assert place.name == name
    wheels = {path.name for path in (place / "wheels").iterdir()}
    assert wheels == {wheel.name, f"acme_dep-1.0-{TAG}-{TAG}-manylinux_2_28_aarch64.whl"}
    manifest = json.loads((place / "manifest.json").read_text())
    assert (manifest["edgesched"], manifest["platform"], manifest["extras"]) == ("9.9", "aarch64", ["agent"])
    listed = {file["path"]: file["sha256"] for file in manifest["files"]}
    there = {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}
    assert there - set(listed) == {"manifest.json", "SHA256SUMS"}
    for path, digest in listed.items():
        assert hashlib.sha256((place / path).read_bytes()).hexdigest() == digest
    assert {"deploy/systemd/edgesched-agent.service", "config_files/agent.toml"} <= set(listed)


def run(script: Path, target: Path, **environment: str) -> tuple[int, str]:
    """As on a board: only what a bare system has, and an interpreter that is named. Exit code, and what it said."""
    done = subprocess.run(
        [script, target],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=WITHIN_S,
        check=False,
        env={"PATH": "/usr/bin:/bin", "PYTHON": sys.executable, "PIP_NO_INDEX": "1", **environment},
    )
    return done.returncode, done.stdout


def test_a_board_is_installed_without_a_network(index: Path, wheel: Path, tmp_path: Path) -> None:
    make_bundle(tmp_path / "made" / "out.tar", wanted(wheel))
    place, target = unpacked(tmp_path / "made" / "out.tar"), tmp_path / "opt"
    script = place / "install.sh"

    code, told = run(script, target, PYTHON="/nowhere/python")
    assert (code, f"Python {THIS_PYTHON} is needed, /nowhere/python is none" in told) == (2, True)
    (tmp_path / "uname").write_text("#!/bin/sh\necho sparc64\n")
    (tmp_path / "uname").chmod(0o755)
    code, told = run(script, target, PATH=f"{tmp_path}:/usr/bin:/bin")
    assert (code, f"this bundle is for {MACHINE}, not for sparc64" in told) == (2, True)
    assert not target.exists()

    (target / "venv-9.9" / "bin").mkdir(parents=True)  # an installation that was interrupted is simply begun again
    (target / "venv.new").symlink_to("venv-9.9")
    code, told = run(script, target)
    assert (code, "installed edgesched 9.9 in" in told) == (0, True), told
    assert (target / "venv").readlink() == Path("venv-9.9")
    program = [target / "venv" / "bin" / "edgesched"]
    assert subprocess.run(program, capture_output=True, text=True, check=True, env={}).stdout == "edgesched 9.9\n"

    with (place / "wheels" / wheel.name).open("ab") as file:
        file.write(b"damage")
    code, told = run(script, target)
    assert (code, "files are damaged or missing" in told) == (2, True)
    assert subprocess.run(program, check=False, env={}, capture_output=True).returncode == 0


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"python": "3"}, "no version of Python"),
        ({"python": "3.99"}, r"no python3\.99 here to run pip with: install Python 3\.99"),
        ({"wheel": Path("/nowhere/edgesched-1-py3-none-any.whl")}, "there is no such file"),
        ({"wheel": Path(__file__)}, "is no wheel of edgesched"),
        ({"platform": "riscv64"}, r"(?s)pip could not get everything.*acme-dep"),
    ],
)
def test_what_cannot_be_made_is_told_and_an_old_bundle_stays(
    index: Path, wheel: Path, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    (tmp_path / "out.tar").write_bytes(b"an old one")
    with pytest.raises(StartupError, match=told):
        make_bundle(tmp_path / "out.tar", dataclasses.replace(wanted(wheel), **changes))
    assert [path.name for path in tmp_path.iterdir()] == ["out.tar"]
    assert (tmp_path / "out.tar").read_bytes() == b"an old one"

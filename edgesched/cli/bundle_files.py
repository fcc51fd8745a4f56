"""How an offline bundle is made: pip fetches the wheels of another platform, and a script goes with them."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgesched.errors import StartupError

PIP_TIMEOUT_S = 1800.0
OLDEST_GLIBC, NEWEST_GLIBC = 17, 31
"""2.17: manylinux2014. 2.31: Ubuntu 20.04 of JetPack 5, the oldest system of a board that is supported."""

VERSION = re.compile(r"3\.\d{1,2}")
WHEEL = re.compile(r"edgesched-([^-]+)-")
BESIDE = ("deploy", "config_files", "README.md", "LICENSE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    platform: str
    python: str
    extras: str
    board: str | None
    worker_python: str
    wheel: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    name: str  # of the directory in the archive
    wheels: int
    size_bytes: int


def make_bundle(target: Path, wanted: Wanted) -> Made:
    """Write the archive; an old one is replaced only by a whole one.

    Raises: StartupError if pip cannot get something, with pip's own words.
    """
    for version in (wanted.python, wanted.worker_python):
        if not VERSION.fullmatch(version):
            raise StartupError(f"{version!r} is no version of Python like 3.11")
    if wanted.wheel is not None and not wanted.wheel.is_file():
        raise StartupError(f"--wheel {wanted.wheel}: there is no such file")
    pip = _pip_of(wanted.python)
    with tempfile.TemporaryDirectory(prefix="edgesched-bundle-") as scratch:
        wheel = wanted.wheel or _own_wheel(Path(scratch) / "own")
        version = _version_of(wheel)
        name = f"edgesched-{version}-{wanted.platform}-py{wanted.python}"
        place = Path(scratch) / name
        _fetch(pip, wanted.platform, wanted.python, place / "wheels", [f"edgesched[{wanted.extras}] @ {_url(wheel)}"])
        _fetch_pip(pip, min(wanted.python, wanted.worker_python, key=_numbers), place / "pip")
        if wanted.board is not None:
            _fetch_for_workers(wanted, place)
        _copy_beside(place)
        (place / "install.sh").write_text(_script(wanted, version))
        (place / "install.sh").chmod(0o755)
        _write_manifest(place, wanted, version)
        _pack(place, target)
        return Made(name=name, wheels=len(list(place.rglob("*.whl"))), size_bytes=target.stat().st_size)


# --- pip ---


def _pip_of(python: str) -> list[str]:
    """The pip of this version of Python: it judges conditions in requirements by the version that it runs under."""
    ours = f"{sys.version_info.major}.{sys.version_info.minor}"
    program = sys.executable if python == ours else shutil.which(f"python{python}")
    advice = f"install Python {python} with pip on this machine (python{python} -m pip must work), or choose {ours}"
    if program is None:
        raise StartupError(f"there is no python{python} here to run pip with: {advice}")
    return [program, "-m", "pip", "--disable-pip-version-check", "--no-input"]


def _own_wheel(place: Path) -> Path:
    root = Path(__file__).parents[2]
    if not (root / "pyproject.toml").is_file():
        raise StartupError("run this in a checkout of edgesched, or name its wheel with --wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    _call([*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", str(place), str(root)])
    return next(place.glob("edgesched-*.whl"))


def _fetch(pip: Sequence[str], platform: str, python: str, place: Path, requirements: Sequence[str]) -> None:
    """All wheels of these requirements, for that platform and that Python, and of what they require."""
    place.mkdir(parents=True)
    tags = [f"manylinux_2_{minor}_{platform}" for minor in range(NEWEST_GLIBC, OLDEST_GLIBC - 1, -1)]
    tags += [f"manylinux2014_{platform}", f"linux_{platform}"]
    constraints = Path(__file__).parents[2] / "constraints.txt"
    is_ours = any(requirement.startswith("edgesched[") for requirement in requirements)
    _call(
        [
            *(*pip, "download", "--quiet", "--dest", str(place), "--only-binary=:all:"),
            *("--implementation", "cp", "--python-version", python),
            *(part for tag in tags for part in ("--platform", tag)),
            *(("--constraint", str(constraints)) if is_ours and constraints.is_file() else ()),
            *requirements,
        ]
    )


def _fetch_pip(pip: Sequence[str], python: str, place: Path) -> None:
    """One that runs under the older of the two interpreters; a system's Python may have none."""
    only = ("--no-deps", "--only-binary=:all:", "--python-version", python)
    _call([*pip, "download", "--quiet", *only, "--dest", str(place), "pip"])


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _fetch_for_workers(wanted: Wanted, place: Path) -> None:
    requirements = Path(__file__).parents[2] / "deploy" / "boards" / f"{wanted.board}.txt"
    if not requirements.is_file():
        raise StartupError(f"--board needs deploy/boards/{wanted.board}.txt: run this in a checkout of edgesched")
    pip = _pip_of(wanted.worker_python)
    _fetch(pip, wanted.platform, wanted.worker_python, place / "worker-wheels", ["--requirement", str(requirements)])
    shutil.copy(requirements, place / "worker-requirements.txt")


def _call(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StartupError(f"{command[0]} did not work: {error}") from error
    if done.returncode != 0:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise StartupError("pip could not get everything:\n" + "\n".join(lines[-5:]))


# --- what goes beside the wheels ---


def _copy_beside(place: Path) -> None:
    """Units, lists and examples, where there is a checkout to take them from."""
    root = Path(__file__).parents[2]
    for name in BESIDE:
        if (root / name).is_dir():
            shutil.copytree(root / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif (root / name).is_file():
            shutil.copy(root / name, place / name)


def _script(wanted: Wanted, version: str) -> str:
    script = (Path(__file__).parent / "bundle_install.sh").read_text(encoding="utf-8")
    facts = {
        "VERSION": version,
        "MACHINE": wanted.platform,
        "PYTHON": wanted.python,
        "EXTRAS": wanted.extras,
        "WORKER_PYTHON": wanted.worker_python,
        # JetPack installs TensorRT for its own interpreter alone.
        "WORKER_FLAGS": "--system-site-packages" if wanted.board == "orin" else "",
    }
    for key, value in facts.items():
        script = script.replace(f"@{key}@", value)
    return script


def _write_manifest(place: Path, wanted: Wanted, version: str) -> None:
    files = [
        {"path": str(path.relative_to(place)), "size_bytes": path.stat().st_size, "sha256": _digest(path)}
        for path in sorted(place.rglob("*"))
        if path.is_file()
    ]
    manifest = {
        "edgesched": version,
        "platform": wanted.platform,
        "python": wanted.python,
        "extras": wanted.extras.split(","),
        "board": wanted.board,
        "worker_python": wanted.worker_python if wanted.board else None,
        "files": files,
    }
    (place / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    sums = "".join(f"{file['sha256']}  {file['path']}\n" for file in files)
    (place / "SHA256SUMS").write_text(sums)  # the same for sha256sum, which every board has


def _pack(place: Path, target: Path) -> None:
    """Wheels are compressed already."""
    draft = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(draft, "w") as archive:
            archive.add(place, place.name, filter=_of_root)
        draft.replace(target)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise StartupError(f"{target} cannot be written: {error.strerror}") from error


def _of_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _version_of(wheel: Path) -> str:
    match = WHEEL.match(wheel.name)
    if match is None:
        raise StartupError(f"--wheel {wheel} is no wheel of edgesched: its name must begin with edgesched-")
    return match[1]


def _url(wheel: Path) -> str:
    return wheel.resolve().as_uri()

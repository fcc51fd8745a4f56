"""The workers' interpreter (`python_bin`), and what can be imported there."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

from agents.doctor.findings import Finding, ok, problem, warning
from edgesched.domain.device import BoardType

OLDEST = (3, 8)
RUN_TIMEOUT_S = 60.0
"""The first import of a vendor's package reads hundreds of megabytes from a slow card."""

LONGEST_REASON = 300

VERSION = "import sys; print('%d.%d.%d' % sys.version_info[:3])"
IMPORT = """
import importlib, json, sys
sys.path.extend(json.loads(sys.argv[2]))
module = importlib.import_module(sys.argv[1])
print()
print(getattr(module, "__version__", ""))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """name: what people call it. module: what is imported. remedy: `{python}` is the interpreter."""

    name: str
    module: str
    remedy: str


NUMPY = Package(name="numpy", module="numpy", remedy="{python} -m pip install numpy")
OPENCV = Package(name="OpenCV", module="cv2", remedy="{python} -m pip install opencv-python-headless")
ONNXRUNTIME = Package(name="onnxruntime", module="onnxruntime", remedy="{python} -m pip install onnxruntime")
RKNNLITE = Package(
    name="rknnlite",
    module="rknnlite.api",
    remedy="{python} -m pip install rknn-toolkit-lite2 (there is none for every Python: deploy/boards/rk3588.txt)",
)
PYACL = Package(
    name="pyACL",
    module="acl",
    remedy="install CANN, name its python/site-packages in python_path, and start the agent with the environment that "
    "its set_env.sh sets (deploy/boards/atlas.txt)",
)
TENSORRT = Package(
    name="TensorRT",
    module="tensorrt",
    remedy="sudo apt-get install python3-libnvinfer, and let python_bin be /usr/bin/python3, or an environment "
    "made from it with --system-site-packages (deploy/boards/orin.txt)",
)
CUDA = Package(name="cuda-python", module="cuda", remedy="{python} -m pip install cuda-python (deploy/boards/orin.txt)")

OF_BACKEND: Mapping[str, Sequence[Package]] = {
    "onnx": (ONNXRUNTIME,),
    "rknn": (RKNNLITE,),
    "acl": (PYACL,),
    "tensorrt": (TENSORRT, CUDA),
}
ACCELERATOR: Mapping[str, str] = {  # board -> the backend of its accelerator
    BoardType.ATLAS: "acl",
    BoardType.RK3588: "rknn",
    BoardType.ORIN: "tensorrt",
    BoardType.GENERIC: "onnx",
}


async def look_at_interpreter(
    python: str, python_path: Sequence[str], board: str, backends: frozenset[str]
) -> AsyncIterator[Finding]:
    """backends: those that the models on this board use; what only the board's accelerator needs is no must."""
    if shutil.which(python) is None:
        remedy = "give the path of a Python interpreter as python_bin, or leave it out to use the agent's own"
        yield problem("interpreter", f"{python} is no program that can be run", remedy)
        return
    code, text = await _run(python, VERSION)
    version = text.strip().splitlines()[-1] if text.strip() else ""
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if code != 0 or len(numbers) != 2:
        yield problem("interpreter", f"{python} does not run Python: {_reason(code, text)}", "correct python_bin")
        return
    if numbers < OLDEST:
        remedy = "install Python 3.8 or newer with the vendor's package, and name it in python_bin"
        yield problem("interpreter", f"{python} is Python {version}; the workers need 3.8 or newer", remedy)
        return
    yield ok("interpreter", f"{python}: Python {version}")
    needed = [NUMPY, OPENCV, *_packages(backends)]
    extra = [package for package in OF_BACKEND.get(ACCELERATOR.get(board, ""), ()) if package not in needed]
    for package in needed:  # one after the other: a small board has little memory
        yield await _look_at(python, python_path, package)
    for package in extra:
        yield await _look_at(python, python_path, package, without_it=_loss(board))


def _packages(backends: frozenset[str]) -> list[Package]:
    return [package for backend in sorted(backends) for package in OF_BACKEND.get(backend, ())]


def _loss(board: str) -> str:
    """What a board lacks without the package of its own backend, if no model of the person's own uses that."""
    if board == BoardType.GENERIC:
        return "no model of yours asks for it, but the built-in demo model does"
    return "no model asks for it, but without it the accelerator stays idle"


async def _look_at(
    python: str, python_path: Sequence[str], package: Package, *, without_it: str | None = None
) -> Finding:
    """without_it: what its absence costs, if the board can do without; None: it is needed."""
    code, text = await _run(python, IMPORT, package.module, json.dumps(list(python_path)))
    if code == 0:
        return ok(package.name, text.splitlines()[-1] if text.splitlines() else "")
    told = f"{python} cannot import {package.module}: {_reason(code, text)}"
    remedy = package.remedy.format(python=python)
    if without_it is None:
        return problem(package.name, told, remedy)
    return warning(package.name, f"{told}; {without_it}", remedy)


async def _run(python: str, script: str, *arguments: str) -> tuple[int, str]:
    """Exit code (negative: a signal) and what it printed."""
    try:
        process = await asyncio.create_subprocess_exec(
            *(python, "-I", "-c", script, *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,  # a wrapper script is ended with what it has started, which holds our pipe
        )
    except OSError as error:
        return 127, error.strerror or str(error)
    is_over = False
    try:
        async with asyncio.timeout(RUN_TIMEOUT_S):
            printed, _ = await process.communicate()
        is_over = True
    except TimeoutError:
        return 124, f"it did not end within {RUN_TIMEOUT_S:.0f} s"
    finally:
        if not is_over:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    assert process.returncode is not None  # communicate() has returned
    return process.returncode, printed.decode(errors="replace")


def _reason(code: int, text: str) -> str:
    """The last line is Python's own word; a crash has none."""
    if code < 0:
        return f"it was killed by {signal.Signals(-code).name}: the package does not fit this system"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:LONGEST_REASON] if lines else f"exit code {code}"

"""What `edgesched model convert` runs: one row per board in CONVERTERS, each the vendor's own converter."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgesched.catalogue import DEFAULT_BUILD, Build, Model, read_model
from edgesched.cli import convert_rknn
from edgesched.errors import InvalidInput, StartupError

TIMEOUT_S = 2 * 3600.0  # a large network on a small board
PROBE_TIMEOUT_S = 60.0
MAX_CALIBRATION_PICTURES = 200
TRTEXEC = "/usr/src/tensorrt/bin/trtexec"  # where JetPack puts it; it is not on PATH
TOOLKIT_LINES = """\
  python3.11 -m venv ~/rknn
  ~/rknn/bin/pip install --extra-index-url https://download.pytorch.org/whl/cpu 'numpy==1.26.4' 'onnx==1.16.1' \\
      'protobuf==4.25.4' 'setuptools<81' 'torch==2.13.0' fast-histogram onnxruntime opencv-python-headless psutil \\
      ruamel.yaml scipy tqdm
  ~/rknn/bin/pip install --no-deps rknn-toolkit2==2.5.0"""
PICTURE_ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the user asked for. scratch: a directory that goes away afterwards."""

    model: Model
    directory: Path
    scratch: Path
    soc: str | None = None
    python: Path | None = None
    pictures: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One run of a converter. missing: what has to be installed first, None if nothing. build: for model.toml."""

    command: tuple[str, ...]
    output: Path
    missing: str | None
    build: Mapping[str, Any]


def planned(request: Request, board: str) -> Plan:
    """How the model would be converted. Raises: InvalidInput if it cannot be, whatever is installed."""
    source = request.model.builds.get(DEFAULT_BUILD)
    if source is None or not source.file.endswith(".onnx") or source.lacks_file(request.directory):
        raise InvalidInput(
            f"a conversion starts from an ONNX graph: give {request.directory}/model.toml a [builds.{DEFAULT_BUILD}] "
            "whose file is one"
        )
    there = request.model.builds.get(board)
    plan = CONVERTERS[board](request, source)
    if there is not None and there.file != plan.output.name:
        raise InvalidInput(
            f"{request.directory}/model.toml has a [builds.{board}] already, which names {there.file!r}: remove it, or "
            f"name {plan.output.name!r} in it, and try again"
        )
    return plan


def converted(request: Request, board: str, plan: Plan) -> None:
    """Run the converter and add the build to model.toml. Raises: StartupError with what to install, or what failed."""
    line = shlex.join(plan.command)
    if plan.missing is not None:
        raise StartupError(f"{plan.missing}\nThen this command would be run:\n  {line}")
    print(f"running: {line}", flush=True)
    before = plan.output.stat().st_mtime_ns if plan.output.exists() else None
    try:
        done = subprocess.run(plan.command, check=False, timeout=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StartupError(f"the converter did not finish: {error}") from error
    is_new = plan.output.exists() and plan.output.stat().st_mtime_ns != before
    if done.returncode != 0 or not is_new:
        raise StartupError(f"the converter failed (exit code {done.returncode}): its own lines above say why")
    print(f"wrote {plan.output}")
    if board not in request.model.builds:
        _add_build(request.directory, board, plan.build)
    print(f"check it: edgesched model check {request.directory}")


def _for_rk3588(request: Request, source: Build) -> Plan:
    if (source.layout, source.dtype) != ("nchw", "float32"):
        raise InvalidInput("rknn-toolkit2 converts graphs that take float32 NCHW; this one takes something else")
    python = str(request.python or sys.executable)
    if shutil.which(python) is None:
        raise InvalidInput(f"--python {python}: there is no such program")
    output = request.directory / Path(source.file).with_suffix(".rknn").name
    # The toolkit computes (pixel - mean) / std, our description (pixel * scale - mean) / std.
    mean = [value / source.scale for value in source.mean]
    std = [value / source.scale for value in source.std]
    command = [python, convert_rknn.__file__, str(request.directory / source.file), str(output)]
    command += [request.soc or "rk3588", json.dumps(mean), json.dumps(std)]
    if request.pictures is not None:
        _check_heads(request, source)
        command.append(str(_calibration_list(source, request.pictures, request.scratch)))
    missing = None
    if not _has_toolkit(python):
        missing = (
            f"{python} has no rknn-toolkit2. It wants older packages than edgesched, so give it an environment of its "
            f"own (Linux, Python 3.10 to 3.12):\n{TOOLKIT_LINES}\nand add: --python ~/rknn/bin/python"
        )
    build = {"backend": "rknn", "file": output.name, **_same_picture(source)}
    return Plan(command=tuple(command), output=output, missing=missing, build=build)


def _for_atlas(request: Request, source: Build) -> Plan:
    soc = request.soc or "<chip>"
    stem = request.directory / Path(source.file).stem
    shape = f"1,3,{source.input_height},{source.input_width}"
    if source.layout == "nhwc":
        shape = f"1,{source.input_height},{source.input_width},3"
    atc = shutil.which("atc")
    command = (
        atc or "atc",
        f"--model={request.directory / source.file}",
        "--framework=5",  # ONNX
        f"--output={stem}",
        f"--soc_version={soc}",
        f"--input_format={source.layout.upper()}",
        f"--input_shape={_session(request.directory / source.file).get_inputs()[0].name}:{shape}",
        "--log=error",
    )
    if request.soc is None:
        raise InvalidInput(
            "name the chip with --soc, as `npu-smi info` shows it with Ascend in front: Ascend310, Ascend310P3, "
            "Ascend310B1 or Ascend310B4. Then this command is run:\n  " + shlex.join(command)
        )
    missing = None
    if atc is None:
        missing = (
            "atc is not on PATH. It is part of Huawei's CANN toolkit (a download from hiascend.com, for the board or "
            "for an x86_64 or aarch64 Linux machine): install it, then `source "
            "/usr/local/Ascend/ascend-toolkit/set_env.sh`."
        )
    build = {**_as_described(source), "backend": "acl", "file": f"{stem.name}.om"}
    return Plan(command=command, output=stem.with_suffix(".om"), missing=missing, build=build)


def _for_orin(request: Request, source: Build) -> Plan:
    output = request.directory / Path(source.file).with_suffix(".engine").name
    trtexec = shutil.which("trtexec") or (TRTEXEC if Path(TRTEXEC).exists() else None)
    command = (trtexec or TRTEXEC, f"--onnx={request.directory / source.file}", f"--saveEngine={output}", "--fp16")
    missing = None
    if trtexec is None:
        graph = {**_as_described(source), "backend": "tensorrt", "file": source.file}
        missing = (
            "trtexec is not here. An engine only runs on the kind of board that built it, so run this on the Orin "
            "itself, where JetPack brings trtexec (apt install nvidia-jetpack). Or convert nothing: with this in "
            f"model.toml each Orin builds and keeps its own engine when its agent first starts:\n\n"
            f"{_table('orin', graph)}"
        )
    build = {**_as_described(source), "backend": "tensorrt", "file": output.name}
    return Plan(command=command, output=output, missing=missing, build=build)


CONVERTERS: Mapping[str, Callable[[Request, Build], Plan]] = {
    "rk3588": _for_rk3588,
    "atlas": _for_atlas,
    "orin": _for_orin,
}


def _as_described(source: Build) -> dict[str, Any]:
    """The source's own lines: what another backend for the same input needs too."""
    return source.model_dump(mode="json", exclude={"backend", "file", "max_batch", "options"}, exclude_unset=True)


def _same_picture(source: Build) -> dict[str, Any]:
    """Those of them that stay true when the model normalises the pixels itself."""
    kept = ("decoder", "input_width", "input_height", "colour_order", "resize", "pad_value")
    return {key: value for key, value in _as_described(source).items() if key in kept}


def _table(board: str, build: Mapping[str, Any]) -> str:
    """A build as TOML: its values are words, numbers and lists of numbers, which JSON writes the same way."""
    first = [(key, build[key]) for key in ("backend", "file")]
    rest = [(key, value) for key, value in build.items() if key not in ("backend", "file")]
    lines = [f"{key} = {json.dumps(value)}" for key, value in [*first, *rest]]
    return f"[builds.{board}]\n" + "\n".join(lines) + "\n"


def _add_build(directory: Path, board: str, build: Mapping[str, Any]) -> None:
    """Append the table to model.toml, unless the file could then not be read."""
    path = directory / "model.toml"
    before = path.read_text(encoding="utf-8")
    table = _table(board, build)
    path.write_text(before.rstrip("\n") + "\n\n" + table, encoding="utf-8")
    try:
        read_model(directory)
    except InvalidInput:
        path.write_text(before, encoding="utf-8")
        raise
    print(f"added to {path}:\n\n{table}")


def _has_toolkit(python: str) -> bool:
    probe = "import importlib.util as u, sys; sys.exit(u.find_spec('rknn') is None)"
    try:
        return subprocess.run([python, "-c", probe], check=False, timeout=PROBE_TIMEOUT_S).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _check_heads(request: Request, source: Build) -> None:
    """Refuse to quantise what cannot survive it: of 256 steps from 0 to the input's size none is left for scores."""
    decoder = source.decoder or request.model.decoder
    if decoder in ("yolov5", "yolov8") and len(_session(request.directory / source.file).get_outputs()) == 1:
        raise InvalidInput(
            f"{source.file} joins boxes and scores in one output, which 8 bits cannot hold: export it with its raw "
            "heads (Rockchip's forks of YOLOv5 and YOLOv8 do), or leave out --pictures for 16-bit floats"
        )


def _session(graph: Path) -> Any:
    """The graph in ONNX Runtime, to look at its inputs and outputs. Raises: InvalidInput."""
    try:
        import onnxruntime
    except ImportError:
        raise InvalidInput("looking into the graph needs onnxruntime: pip install 'edgesched[cpu]'") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise InvalidInput(f"{graph} is no graph that ONNX Runtime reads: {error}") from error


def _calibration_list(source: Build, pictures: Path, folder: Path) -> Path:
    """The pictures as the model will see them, letterboxed, and a file that lists them.

    Raises: InvalidInput if there is none, or one cannot be read.
    """
    import cv2

    from agents.worker.errors import WorkerError
    from agents.worker.vision import Preprocessor, decode_picture

    paths = sorted(path for path in pictures.rglob("*") if path.suffix.lower() in PICTURE_ENDINGS)
    if not paths:
        raise InvalidInput(f"--pictures {pictures}: there is no picture in it")
    preprocessor = Preprocessor(_pixels_of(source))
    listed = []
    for index, path in enumerate(paths[:MAX_CALIBRATION_PICTURES]):
        try:
            preprocessor.prepare(decode_picture(path.read_bytes()))
        except WorkerError as error:
            raise InvalidInput(f"--pictures: {path}: {error}") from error
        target = folder / f"{index:04d}.png"
        # The toolkit reads files as RGB, OpenCV writes BGR: so the first channel of the input comes last here.
        cv2.imwrite(str(target), preprocessor.batch(1)[0, :, :, ::-1])
        listed.append(str(target))
    dataset = folder / "dataset.txt"
    dataset.write_text("\n".join(listed) + "\n")
    return dataset


def _pixels_of(source: Build) -> Any:
    """The source's input before it is normalised."""
    from agents.worker.spec import parse_model

    plain = {"layout": "nhwc", "dtype": "uint8", "scale": 1.0, "mean": (0.0,) * 3, "std": (1.0,) * 3}
    build = source.model_copy(update=plain)
    model = Model(directory=Path(), name="calibration", labels=("any",), decoder="none", builds={DEFAULT_BUILD: build})
    return parse_model(model.worker_spec(build)).build

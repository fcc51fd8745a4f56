"""`edgesched model check` and `edgesched model convert`, with stand-ins for the vendors' converters on PATH."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from edgesched.catalogue import read_model
from edgesched.cli.model import app
from tests.support.graphs import LABELS, bright_box_graph, constant_graph, encoded

TOML = f"""\
name = "box"
labels = {list(LABELS)}
decoder = "yolov8"

[builds.default]
file = "box.onnx"
input_width = 64
input_height = 64
"""

Run = Callable[..., Result]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "box"
    folder.mkdir()
    bright_box_graph(folder / "box.onnx", "yolov8")
    (folder / "model.toml").write_text(TOML.replace("'", '"'))
    return folder


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)

    return run


def add(model: Path, lines: str) -> None:
    (model / "model.toml").write_text((model / "model.toml").read_text() + "\n" + lines)


def tool(tmp_path: Path, name: str, script: str) -> Path:
    """A converter of this name on PATH; it writes down how it was called."""
    path = tmp_path / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/called\n{script}\n')
    path.chmod(0o755)
    return path


# --- check ---


def test_a_good_model_is_run_and_every_board_is_told_what_it_lacks(model: Path, run: Run) -> None:
    done = run("check", model)
    assert done.exit_code == 0
    assert "ok: runs here: outputs (1, 7, 1) fit decoder yolov8 and 3 labels" in done.output
    assert (
        f"rk3588: uses [builds.default], on its CPU; for its accelerator: edgesched model convert {model} --board"
        in (done.output)
    )
    assert "generic: uses [builds.default]\n" in done.output


def test_labels_that_do_not_fit_the_outputs_are_a_problem(model: Path, run: Run) -> None:
    (model / "model.toml").write_text(TOML.replace(str(list(LABELS)), '["one"]'))
    done = run("check", model)
    assert done.exit_code == 1
    assert "PROBLEM: model 'box' cannot run on backend 'onnx'" in done.output
    assert "for 1 labels, got (1, 7, 1)" in done.output


def test_a_decoder_that_cannot_be_imported_is_a_problem(model: Path, run: Run) -> None:
    (model / "model.toml").write_text(TOML.replace("'", '"').replace('"yolov8"', '"mine:decode"'))
    done = run("check", model)
    assert done.exit_code == 1
    assert "mine.py, which does not exist" in done.output


@pytest.mark.parametrize(
    ("decoder", "told"),
    [
        ("raise SystemExit(3)", "ended with exit code 3"),
        ("import os; os._exit(7)", "ended with exit code 7"),
        ("import os; os.kill(os.getpid(), 11)", "was killed by SIGSEGV"),
        ("def decode(*_):\n    while True: pass", "took longer than 4 s"),
    ],
)
def test_a_decoder_that_ends_or_hangs_its_process_is_a_problem(
    model: Path, run: Run, monkeypatch: pytest.MonkeyPatch, decoder: str, told: str
) -> None:
    monkeypatch.setattr("edgesched.cli.model_check.LOAD_TIMEOUT_S", 4.0)
    monkeypatch.setattr("edgesched.cli.model_check.PATIENCE_S", 3.9)
    (model / "model.toml").write_text(TOML.replace("'", '"').replace('"yolov8"', '"mine:decode"'))
    (model / "mine.py").write_text(decoder)
    done = run("check", model)
    assert done.exit_code == 1
    assert f"PROBLEM: the process that loaded and tried it {told}" in done.output


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (
            '[builds.rk3588]\nfile = "box.rknn"\ninput_width = 64\ninput_height = 64',
            "there is no file box.rknn: make it with",
        ),
        ('[builds.RK3588]\nfile = "box.onnx"\ninput_width = 64\ninput_height = 64', "'RK3588'; did you mean 'rk3588'?"),
        ('[builds.rk3558]\nfile = "box.onnx"\ninput_width = 64\ninput_height = 64', "'rk3558'; did you mean 'rk3588'?"),
        ('[builds.atlas]\nfile = "text.om"\ninput_width = 64\ninput_height = 64', "text.om is no OM file"),
        ('[builds.atlas]\nfile = "cut.om"\ninput_width = 64\ninput_height = 64', "cut.om is no OM file"),
        ('[builds.rk3588]\nfile = "text.rknn"\ninput_width = 64\ninput_height = 64', "text.rknn is no RKNN file"),
        (
            '[builds.orin]\nbackend = "cuda"\nfile = "box.onnx"\ninput_width = 64\ninput_height = 64',
            "no backend 'cuda'",
        ),
        ('[builds.generic]\nbackend = "exec"', "needs one command"),
        ('[builds.generic]\nbackend = "exec"\noptions = {picture_cmd = " "}', "its command is empty"),
        (
            '[builds.generic]\nbackend = "exec"\noptions = {picture_cmd = \'sh -c "unterminated\'}',
            "the shell cannot read the command",
        ),
        (
            '[builds.generic]\nbackend = "exec"\noptions = {picture_cmd = "./label.sh ${PICTURE}"}',
            "there is no program ./label.sh in",
        ),
        ('[builds.generic]\nbackend = "exec"\nfile = "run.sh"\noptions = {start_cmd = "./run.sh"}', "no file run.sh"),
    ],
)
def test_a_build_that_cannot_work_is_a_problem(model: Path, run: Run, lines: str, told: str) -> None:
    for name in ("text.rknn", "text.om"):
        (model / name).write_text("not a model" * 100)
    (model / "cut.om").write_bytes(b"IMOD and no more")
    add(model, lines)
    done = run("check", model)
    assert done.exit_code == 1
    assert told in done.output


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (
            '[builds.rk3588]\nfile = "box.rknn"\ninput_width = 64\ninput_height = 64',
            "not tried: model 'box': backend 'rknn' needs",
        ),
        (
            '[builds.orin]\nbackend = "tensorrt"\nfile = "box.onnx"\ninput_width = 64\ninput_height = 64',
            "the graph is right: on this machine's CPU outputs (1, 7, 1) fit decoder yolov8",
        ),
        (
            '[builds.orin]\nfile = "box.onnx"\ninput_width = 64\ninput_height = 64\n'
            'options = {providers = ["CUDAExecutionProvider"]}',
            "but model 'box': this onnxruntime has no CUDAExecutionProvider",
        ),
        (
            '[builds.atlas]\nfile = "box.om"\ninput_width = 64\ninput_height = 64',
            "not tried: model 'box': backend 'acl' needs",
        ),
        (
            '[builds.mango-pi]\nfile = "box.onnx"\ninput_width = 64\ninput_height = 64',
            "not tried: no board is called 'mango-pi' here",
        ),
        (
            '[builds.atlas]\nbackend = "exec"\noptions = {start_cmd = "docker run x"}',
            "which is not run here: docker run x",
        ),
        (
            '[builds.atlas]\nbackend = "exec"\noptions = {picture_cmd = "/nowhere/prog ${PICTURE}"}',
            "there is no /nowhere/prog on this machine, so see that it is on the board",
        ),
        (
            '[builds.atlas]\nbackend = "exec"\noptions = {picture_cmd = "cd sub && exec ./run"}',
            "which is not run here: cd sub && exec ./run\n",
        ),
    ],
)
def test_what_only_the_board_can_tell_is_no_problem(model: Path, run: Run, lines: str, told: str) -> None:
    (model / "box.rknn").write_bytes(b"RKNN and so on")
    (model / "box.om").write_bytes(b"IMOD".ljust(300, b"."))
    add(model, lines)
    done = run("check", model)
    assert done.exit_code == 0, done.output
    assert told in done.output


def test_a_model_without_a_default_build_names_the_boards_that_cannot_run_it(model: Path, run: Run) -> None:
    (model / "model.toml").write_text(TOML.replace("'", '"').replace("builds.default", "builds.generic"))
    done = run("check", model)
    assert "atlas: cannot run it: there is neither [builds.atlas] nor [builds.default]" in done.output


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ('colour = "red"', "colour"),
        ("", "no build's file is there"),
    ],
)
def test_a_directory_that_is_no_model_is_one_message(tmp_path: Path, run: Run, lines: str, told: str) -> None:
    (tmp_path / "model.toml").write_text(f"{lines}\n{TOML}".replace("'", '"'))
    done = run("check", tmp_path)
    assert done.exit_code == 2
    assert told in done.output
    done = run("check", tmp_path / "nowhere")
    assert done.exit_code == 2
    assert "nowhere/model.toml" in done.output


# --- convert ---


def test_atc_is_called_and_the_build_is_added(
    model: Path, run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tool(tmp_path, "atc", f"echo om > {model}/box.om")
    done = run("convert", model, "--board", "atlas", "--soc", "Ascend310B4")
    assert done.exit_code == 0, done.output
    called = (tmp_path / "called").read_text().splitlines()
    assert {"--framework=5", "--soc_version=Ascend310B4", "--input_format=NCHW"} <= set(called)
    assert "--input_shape=image:1,3,64,64" in called
    build = read_model(model).builds["atlas"]
    assert (build.backend, build.file, build.layout, build.dtype) == ("acl", "box.om", "nchw", "float32")
    again = run("convert", model, "--board", "atlas", "--soc", "Ascend310B4")  # the build is there already
    assert again.exit_code == 0, again.output


def test_the_chip_must_be_named_for_atlas(model: Path, run: Run) -> None:
    done = run("convert", model, "--board", "atlas")
    assert done.exit_code == 2
    assert "name the chip with --soc" in done.output
    assert "Ascend310B4" in done.output


def test_a_converter_that_is_not_there_is_told_with_its_command(model: Path, run: Run) -> None:
    done = run("convert", model, "--board", "atlas", "--soc", "Ascend310B4")
    assert done.exit_code == 2
    assert "atc is not on PATH" in done.output
    assert f"atc --model={model}/box.onnx --framework=5 --output={model}/box --soc_version=Ascend310B4" in done.output
    done = run("convert", model, "--board", "orin")
    assert "run this on the Orin itself" in done.output
    assert '[builds.orin]\nbackend = "tensorrt"\nfile = "box.onnx"' in done.output
    assert f"--onnx={model}/box.onnx --saveEngine={model}/box.engine --fp16" in done.output
    done = run("convert", model, "--board", "rk3588")
    assert f"{sys.executable} has no rknn-toolkit2" in done.output
    assert "--no-deps rknn-toolkit2" in done.output
    assert (
        f"convert_rknn.py {model}/box.onnx {model}/box.rknn rk3588 '[0.0, 0.0, 0.0]' '[255.0, 255.0, 255.0]'"
        in done.output
    )
    done = run("convert", model, "--board", "rk3588", "--python", "/nowhere/python")
    assert "--python /nowhere/python: there is no such program" in done.output
    assert set(read_model(model).builds) == {"default"}


@pytest.mark.parametrize("script", ["exit 1", "true"])
def test_a_converter_that_fails_changes_nothing(model: Path, run: Run, tmp_path: Path, script: str) -> None:
    tool(tmp_path, "atc", script)
    before = (model / "model.toml").read_text()
    done = run("convert", model, "--board", "atlas", "--soc", "Ascend310B4")
    assert done.exit_code == 2
    assert "the converter failed" in done.output
    assert (model / "model.toml").read_text() == before


def test_trtexec_makes_an_engine_on_the_board(model: Path, run: Run, tmp_path: Path) -> None:
    tool(tmp_path, "trtexec", f"echo plan > {model}/box.engine")
    done = run("convert", model, "--board", "orin")
    assert done.exit_code == 0, done.output
    build = read_model(model).builds["orin"]
    assert (build.backend, build.file) == ("tensorrt", "box.engine")


RKNN_STUB = """
import json, os, pathlib
class RKNN:
    def __init__(self, verbose=False): self.said = []
    def config(self, **named): self.said.append(named)
    def load_onnx(self, model): self.said.append(model); return 0
    def build(self, do_quantization, dataset=None):
        self.said.append([do_quantization, pathlib.Path(dataset).read_text() if dataset else None]); return 0
    def export_rknn(self, path):
        pathlib.Path(path).write_bytes(b"RKNN")
        pathlib.Path(os.environ["SAID"]).write_text(json.dumps(self.said))
        return 0
    def release(self): pass
"""


@pytest.fixture
def toolkit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for rknn-toolkit2 that the interpreter finds. Returns: the file in which it says what it was told."""
    package = tmp_path / "site" / "rknn"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "api.py").write_text(RKNN_STUB)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    monkeypatch.setenv("SAID", str(tmp_path / "said"))
    return tmp_path / "said"


def test_the_toolkit_gets_the_normalisation_that_the_board_then_does_itself(
    model: Path, run: Run, toolkit: Path
) -> None:
    add(model, "scale = 0.5\nmean = [1.0, 2.0, 3.0]\nstd = [4.0, 5.0, 6.0]")
    done = run("convert", model, "--board", "rk3588")
    assert done.exit_code == 0, done.output
    said = toolkit.read_text()
    assert '"mean_values": [[2.0, 4.0, 6.0]], "std_values": [[8.0, 10.0, 12.0]], "target_platform": "rk3588"' in said
    build = read_model(model).builds["rk3588"]
    assert (build.backend, build.file, build.layout, build.dtype, build.scale) == (
        "rknn",
        "box.rknn",
        "nhwc",
        "uint8",
        1.0,
    )
    assert build.mean == (0.0, 0.0, 0.0)


def test_calibration_pictures_are_listed_as_the_model_will_see_them(
    model: Path, run: Run, toolkit: Path, tmp_path: Path
) -> None:
    scores = [np.zeros((1, channels, 64 // s, 64 // s), np.float32) for s in (8, 16, 32) for channels in (64, 3)]
    constant_graph(model / "box.onnx", *scores)  # raw heads
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "one.png").write_bytes(encoded(np.full((10, 20, 3), 9, np.uint8)))
    done = run("convert", model, "--board", "rk3588", "--pictures", pictures)
    assert done.exit_code == 0, done.output
    assert "[true, " in toolkit.read_text()
    assert "0000.png" in toolkit.read_text()
    (pictures / "two.png").write_bytes(b"no picture")
    done = run("convert", model, "--board", "rk3588", "--pictures", pictures)
    assert done.exit_code == 2
    assert "two.png: not a picture" in done.output


def test_a_joined_output_is_not_quantised(model: Path, run: Run, toolkit: Path, tmp_path: Path) -> None:
    done = run("convert", model, "--board", "rk3588", "--pictures", tmp_path)
    assert done.exit_code == 2
    assert "joins boxes and scores in one output, which 8 bits cannot hold" in done.output
    assert not toolkit.exists()


def test_a_build_that_names_another_file_is_not_overwritten(model: Path, run: Run) -> None:
    (model / "own.om").touch()
    add(model, '[builds.atlas]\nfile = "own.om"\ninput_width = 64\ninput_height = 64')
    done = run("convert", model, "--board", "atlas", "--soc", "Ascend310B4")
    assert done.exit_code == 2
    assert "has a [builds.atlas] already, which names 'own.om'" in done.output


def test_a_conversion_starts_from_onnx(model: Path, run: Run) -> None:
    os.rename(model / "box.onnx", model / "box.om")
    (model / "model.toml").write_text(TOML.replace("'", '"').replace("box.onnx", "box.om"))
    done = run("convert", model, "--board", "orin")
    assert done.exit_code == 2
    assert "a conversion starts from an ONNX graph" in done.output

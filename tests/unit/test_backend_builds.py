"""What a `[builds.<board>]` of model.toml may leave out, and what workers are told of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agents.models import worker_specs
from agents.worker.spec import MAX_BATCH as WORKERS_MAX_BATCH
from agents.worker.spec import parse_model
from edgesched.catalogue import MAX_BATCH, Catalogue, Model, read_model
from edgesched.domain.device import BoardType
from edgesched.errors import InvalidInput

HEAD = 'name = "m"\nlabels = ["a", "b"]\ndecoder = "yolov8"\n'
SIZE = "input_width = 8\ninput_height = 8\n"


def read(directory: Path, builds: str, head: str = HEAD) -> Model:
    for name in ("m.onnx", "m.rknn", "m.om", "m.engine"):
        (directory / name).touch()
    (directory / "model.toml").write_text(head + builds)
    return read_model(directory)


def spec_for(model: Model, board: BoardType, backend: str | None = None) -> dict[str, Any]:
    (spec,), _ = worker_specs(Catalogue({model.name: model}), board, backend)
    return spec


@pytest.mark.parametrize(
    ("file", "backend", "layout", "dtype", "scale"),
    [
        ("m.onnx", "onnx", "nchw", "float32", 1 / 255),
        ("m.rknn", "rknn", "nhwc", "uint8", 1.0),
        ("m.om", "acl", "nchw", "float32", 1 / 255),
        ("m.engine", "tensorrt", "nchw", "float32", 1 / 255),
    ],
)
def test_the_file_s_ending_chooses_the_backend_and_what_it_takes(
    tmp_path: Path, file: str, backend: str, layout: str, dtype: str, scale: float
) -> None:
    build = read(tmp_path, f'[builds.default]\nfile = "{file}"\n{SIZE}').builds["default"]
    assert (build.backend, build.layout, build.dtype, build.scale) == (backend, layout, dtype, scale)


def test_what_is_written_wins_over_the_ending(tmp_path: Path) -> None:
    model = read(tmp_path, f'[builds.orin]\nbackend = "tensorrt"\nfile = "m.onnx"\ndtype = "float16"\n{SIZE}')
    assert (model.builds["orin"].backend, model.builds["orin"].dtype) == ("tensorrt", "float16")


def test_uint8_with_a_scale_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"builds\.rk3588: .*scale must be 1 .leave it out."):
        read(tmp_path, f'[builds.rk3588]\nfile = "m.rknn"\nscale = 0.0039\n{SIZE}')


def test_the_largest_batch_is_told_to_the_workers(tmp_path: Path) -> None:
    model = read(tmp_path, f'[builds.default]\nfile = "m.onnx"\nmax_batch = 8\n{SIZE}')
    assert parse_model(spec_for(model, BoardType.ORIN)).build.max_batch == 8
    assert MAX_BATCH == WORKERS_MAX_BATCH


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('file = "m.rknn"\nmax_batch = 2', "max_batch must be 1 .leave it out.: backend 'rknn' takes one picture at"),
        ('file = "m.onnx"\nmax_batch = 0', "max_batch: .*greater than or equal to 1"),
        ('file = "m.onnx"\nmax_batch = 65', "max_batch: .*less than or equal to 64"),
    ],
)
def test_a_batch_that_cannot_be_is_refused(tmp_path: Path, line: str, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        read(tmp_path, f"[builds.default]\n{line}\n{SIZE}")


def test_one_model_has_a_build_per_board_and_a_decoder_per_build(tmp_path: Path) -> None:
    own = f'[builds.orin]\nfile = "m.engine"\ndecoder = "mine:decode"\n{SIZE}'
    model = read(tmp_path, f'[builds.default]\nfile = "m.onnx"\n{SIZE}{own}')
    decoders = {board: spec_for(model, board)["decoder"] for board in (BoardType.ORIN, BoardType.ATLAS)}
    assert decoders == {BoardType.ORIN: "mine:decode", BoardType.ATLAS: "yolov8"}
    with pytest.raises(InvalidInput, match=r"builds\.default\.decoder: .*use one of yolov5"):
        read(tmp_path, f'[builds.default]\nfile = "m.onnx"\ndecoder = "yolov99"\n{SIZE}')


def test_a_program_of_ones_own_needs_no_file_and_no_input_size(tmp_path: Path) -> None:
    command = "docker run --rm --init -v ${INPUT_DIR}:/app/input x"
    model = read(tmp_path, f'[builds.generic]\nbackend = "exec"\noptions = {{ start_cmd = "{command}" }}\n')
    spec = parse_model(spec_for(model, BoardType.GENERIC))
    assert (spec.build.file, spec.build.options) == ("", {"start_cmd": command})


def test_a_program_that_is_named_must_be_there(tmp_path: Path) -> None:
    build = '[builds.generic]\nbackend = "exec"\nfile = "run.sh"\noptions = { start_cmd = "./run.sh" }\n'
    with pytest.raises(InvalidInput, match=r"no build's file is there .run\.sh"):
        read(tmp_path, build)


def test_anchors_reach_the_worker(tmp_path: Path) -> None:
    anchors = "anchors = [[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12], [13, 14, 15, 16, 17, 18]]\n"
    model = read(tmp_path, f'[builds.default]\nfile = "m.onnx"\n{SIZE}', HEAD + anchors)
    assert parse_model(spec_for(model, BoardType.GENERIC)).anchors[1] == (7, 8, 9, 10, 11, 12)


def test_echo_decodes_nothing_whatever_the_build_says(tmp_path: Path) -> None:
    model = read(tmp_path, f'[builds.default]\nfile = "m.onnx"\ndecoder = "yolov5"\n{SIZE}')
    assert spec_for(model, BoardType.GENERIC, "echo")["decoder"] == "none"


def documented_builds() -> list[str]:
    text = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
    blocks = [block.split("```")[0] for block in text.split("```toml\n")[1:]]
    return [block for block in blocks if "[builds." in block]


@pytest.mark.parametrize("block", documented_builds())
def test_what_the_documentation_shows_can_be_read(tmp_path: Path, block: str) -> None:
    for ending in ("onnx", "rknn", "om"):
        (tmp_path / f"traffic.{ending}").touch()
    (tmp_path / "labels.txt").write_text("car\nbicycle\n")
    assert read(tmp_path, block, "" if block.startswith("name") else HEAD).builds


def test_every_board_has_an_example() -> None:
    shown = "".join(documented_builds())
    assert all(f"[builds.{board}]" in shown for board in ("default", "rk3588", "atlas", "orin"))

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.worker import vision
from agents.worker.errors import InvalidInput
from agents.worker.spec import BuildSpec, parse_model
from agents.worker.vision import Preprocessor, decode_picture, lay_out
from tests.support.graphs import encoded, spec_for

NOISE = np.random.default_rng(7).integers(0, 256, (48, 80, 3), dtype=np.uint8)
SMOOTH = cv2.GaussianBlur(NOISE, (9, 9), 0)


def build_of(**changes: Any) -> BuildSpec:
    return parse_model(spec_for(Path("m.onnx"), "yolov8", **changes)).build


@pytest.mark.parametrize("ending", [".png", ".bmp", ".jpg", ".webp"])
def test_every_usual_format_is_decoded(ending: str) -> None:
    picture = decode_picture(bytearray(encoded(SMOOTH, ending)))
    assert picture.shape == (48, 80, 3)
    assert picture.dtype == np.uint8
    assert np.abs(picture.astype(int) - SMOOTH).mean() < (1 if ending in (".png", ".bmp") else 15)


@pytest.mark.parametrize(
    "picture", [NOISE[:, :, 0], np.dstack([NOISE, NOISE[:, :, :1]]), NOISE.astype(np.uint16) * 257]
)
def test_grey_transparent_and_16_bit_pictures_become_bgr(picture: np.ndarray) -> None:
    assert decode_picture(encoded(picture)).shape == (48, 80, 3)


def with_orientation(jpeg: bytes, orientation: int) -> bytes:
    """The JPEG with an EXIF block that asks for a turn."""
    tiff = b"II*\0" + struct.pack("<IHHHIII", 8, 1, 0x0112, 3, 1, orientation, 0)
    block = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + jpeg[2:]


def test_an_orientation_does_not_turn_the_pixels() -> None:
    jpeg = encoded(SMOOTH, ".jpg")
    turned = with_orientation(jpeg, 6)
    as_opencv_likes = cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR)
    assert as_opencv_likes is not None
    assert as_opencv_likes.shape == (80, 48, 3)
    assert np.array_equal(decode_picture(turned), decode_picture(jpeg))


@pytest.mark.parametrize("body", [b"", b"\xff\xd8", b"\xff\xd8\xff", b"hello, I am no picture", b"\x89PNG\r\n\x1a\n"])
def test_no_picture_is_invalid_input(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        decode_picture(bytearray(body))


@pytest.mark.parametrize("ending", [".png", ".bmp", ".jpg", ".webp"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_a_truncated_picture_is_invalid_input(ending: str, kept: float) -> None:
    whole = encoded(NOISE, ending)
    with pytest.raises(InvalidInput):
        decode_picture(whole[: int(len(whole) * kept)])


def test_a_truncated_jpeg_is_named_and_its_thumbnail_does_not_hide_it() -> None:
    thumbnail = encoded(NOISE[:8, :8], ".jpg")
    block = b"Exif\0\0" + thumbnail
    whole = encoded(NOISE, ".jpg")
    photo = whole[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + whole[2:]
    assert decode_picture(photo).shape == (48, 80, 3)
    with pytest.raises(InvalidInput, match="truncated JPEG"):
        decode_picture(photo[:-100])


@pytest.mark.parametrize("tail", [b"\0" * 4000, b"\xff" * 10, b"some maker's note"])
def test_bytes_after_a_jpegs_end_do_no_harm(tail: bytes) -> None:
    jpeg = encoded(NOISE, ".jpg")
    assert np.array_equal(decode_picture(jpeg + tail), decode_picture(jpeg))


def test_a_picture_over_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vision, "MAX_PIXELS", 48 * 80 - 1)
    with pytest.raises(InvalidInput, match="80x48 pixels are over the limit"):
        decode_picture(encoded(NOISE))


def plain_input(build: BuildSpec, picture: np.ndarray) -> np.ndarray:
    """The definition of the input, step by step in numpy."""
    _, width, height = lay_out(build, picture.shape[1], picture.shape[0])
    left, top = (build.input_width - width) // 2, (build.input_height - height) // 2
    canvas = np.full((build.input_height, build.input_width, 3), build.pad_value, np.uint8)
    resized = cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)
    canvas[top : top + height, left : left + width] = resized
    if build.colour_order == "rgb":
        canvas = canvas[:, :, ::-1]
    mean, std = np.array(build.mean, np.float32), np.array(build.std, np.float32)
    values: np.ndarray = (canvas.astype(np.float32) * np.float32(build.scale) - mean) / std
    if build.dtype == "uint8":
        values = np.clip(np.rint(values), 0, 255)
    values = values.astype(build.dtype)
    return (values.transpose(2, 0, 1) if build.layout == "nchw" else values)[np.newaxis]


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
@pytest.mark.parametrize("colour_order", ["rgb", "bgr"])
@pytest.mark.parametrize("resize", ["letterbox", "stretch"])
@pytest.mark.parametrize(
    "values",
    [(1 / 255, [0.0] * 3, [1.0] * 3), (1.0, [0.0] * 3, [1.0] * 3), (0.0039, [0.48, 0.45, 0.4], [0.22, 0.23, 0.3])],
)
def test_the_input_equals_its_plain_definition(
    layout: str, dtype: str, colour_order: str, resize: str, values: tuple[float, list[float], list[float]]
) -> None:
    build = build_of(
        layout=layout, dtype=dtype, colour_order=colour_order, resize=resize,
        scale=values[0], mean=values[1], std=values[2], input_width=72, input_height=40, pad_value=99,
    )  # fmt: skip
    preprocessor = Preprocessor(build)
    for picture in (NOISE, np.ascontiguousarray(NOISE.transpose(1, 0, 2)), NOISE[:30, :33]):
        preprocessor.prepare(picture)
        batch = preprocessor.batch(1)
        assert batch.shape == build.input_shape
        assert batch.dtype == np.dtype(dtype)
        assert batch.flags.c_contiguous
        assert np.array_equal(batch, plain_input(build, picture))


def test_a_letterbox_is_centred_and_keeps_the_aspect() -> None:
    geometry, width, height = lay_out(build_of(input_width=320, input_height=320), 640, 480)
    assert (width, height) == (320, 240)
    assert (geometry.pad_left, geometry.pad_top) == (0, 40)
    assert (geometry.scale_x, geometry.scale_y) == (0.5, 0.5)


def test_a_picture_of_one_pixels_width_still_has_a_width() -> None:
    geometry, width, height = lay_out(build_of(), 1, 60_000)
    assert (width, height) == (1, 64)
    assert geometry.to_original(np.array([[geometry.pad_left, 0, geometry.pad_left + 1, 64]])).tolist() == [
        [0, 0, 1, 60_000]
    ]


sides = st.integers(1, 9_000)


@given(sides, sides, st.integers(1, 1_280), st.integers(1, 1_280), st.sampled_from(["letterbox", "stretch"]), st.data())
def test_there_and_back_is_the_same_place(
    width: int, height: int, input_width: int, input_height: int, resize: str, data: st.DataObject
) -> None:
    geometry, *_ = lay_out(build_of(input_width=input_width, input_height=input_height, resize=resize), width, height)
    box = np.array([[data.draw(st.floats(0, side)) for side in (width, height, width, height)]])
    there = geometry.to_input(box)
    assert (there >= -1e-6).all()
    assert (there <= np.array([input_width, input_height] * 2) + 1e-6).all()
    assert np.abs(geometry.to_original(there) - box).max() < 1
    assert np.abs(geometry.to_original(there) - box).max() < 1e-6

"""What the task manager takes for a picture."""

from __future__ import annotations

import contextlib
import io

import cv2
import imagesize
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesched.errors import InvalidInput
from edgesched.task_manager import pictures
from edgesched.task_manager.pictures import PictureLimits, check_file_name, check_picture

LIMITS = PictureLimits(max_bytes=1_000_000, max_megapixels=64)


def encoded(suffix: str, width: int = 64, height: int = 48) -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    _, data = cv2.imencode(suffix, noise)
    return data.tobytes()


def png_header(width: int, height: int) -> bytes:
    sizes = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + sizes + b"\x08\x02\x00\x00\x00\x00\x00\x00\x00" + b"IEND"


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp"])
def test_the_four_formats_are_taken_whatever_they_are_called(suffix: str) -> None:
    check_picture(encoded(suffix), LIMITS)


@pytest.mark.parametrize("parameters", [[], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]], ids=["baseline", "progressive"])
@pytest.mark.parametrize("comment_bytes", [0, 40_000])
@given(width=st.integers(1, 400), height=st.integers(1, 400))
@settings(max_examples=20, deadline=None)
def test_the_size_of_a_jpeg_is_what_the_library_says(
    parameters: list[int], comment_bytes: int, width: int, height: int
) -> None:
    _, array = cv2.imencode(".jpg", np.zeros((height, width, 3), np.uint8), parameters)
    data = array.tobytes()
    if comment_bytes:
        data = data[:2] + b"\xff\xfe" + comment_bytes.to_bytes(2, "big") + bytes(comment_bytes - 2) + data[2:]
    assert pictures.jpeg_size(data) == imagesize.get(io.BytesIO(data)) == (width, height)


def test_bytes_behind_the_end_marker_do_no_harm() -> None:
    check_picture(encoded(".jpg") + b"\x00" * 100, LIMITS)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        (b"hello, I am a text file", "not a JPEG"),
        (b"GIF89a" + b"\x00" * 100, "not a JPEG"),
        (encoded(".jpg")[:-200], "truncated"),
        (encoded(".png")[:-20], "truncated"),
        (b"\xff\xd8\xff\xd9", "header is damaged|no dimensions"),
        (png_header(10_000, 10_001), "megapixels"),
        (png_header(0, 5), "no dimensions"),
        (encoded(".bmp", 1000, 1000), "max_picture_bytes"),
    ],
    ids=["empty", "text", "gif", "cut jpeg", "cut png", "bare jpeg", "bomb", "no width", "too many bytes"],
)
def test_anything_else_is_refused_with_the_reason(data: bytes, why: str) -> None:
    with pytest.raises(InvalidInput, match=why):
        check_picture(data, LIMITS)


@given(
    st.binary(max_size=300),
    st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"RIFF\x00\x00\x00\x00WEBP"]),
)
def test_garbage_behind_a_good_start_never_breaks_the_check(garbage: bytes, start: bytes) -> None:
    with contextlib.suppress(InvalidInput):
        check_picture(start + garbage + b"\xff\xd9IEND", LIMITS)


@pytest.mark.parametrize("name", ["a.jpg", "猫.png", "two words.jpeg", "...jpg", "no-suffix"])
def test_plain_names_are_taken(name: str) -> None:
    check_file_name(name)


@pytest.mark.parametrize(
    "name", ["", " ", ".", "..", "../a.jpg", "a/b.jpg", "a\\b.jpg", "a\x00.jpg", "a\n.jpg", "x" * 256, "é" * 128]
)
def test_names_that_could_leave_a_directory_or_a_terminal_are_refused(name: str) -> None:
    with pytest.raises(InvalidInput):
        check_file_name(name)

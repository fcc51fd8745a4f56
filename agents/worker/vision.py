"""From the bytes of a picture to a model's input, and the way back for boxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Tuple, Union

import cv2
import numpy as np

from .errors import InvalidInput
from .spec import MAX_PIXELS, BuildSpec

TAIL_BYTES = 8192  # cameras and phones append padding and previews after a picture's end marker
OUT_OF_MEMORY = -4  # cv2.Error.StsNoMem

Bytes = Union[bytes, bytearray]


def decode_picture(body: Bytes) -> np.ndarray:
    """Decode an encoded picture (JPEG, PNG, BMP, WebP, and whatever else this OpenCV reads).

    The pixels stay as stored: an EXIF orientation is not applied, so boxes fit the file.
    Returns: uint8 (height, width, 3), BGR.
    Raises: InvalidInput if it is no picture, is cut off, or has more than MAX_PIXELS; MemoryError.
    """
    check_complete(body)
    try:
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        picture: Optional[np.ndarray] = cv2.imdecode(np.frombuffer(body, np.uint8), flags)
    except cv2.error as error:
        if error.code == OUT_OF_MEMORY:
            raise MemoryError("OpenCV found no memory to decode a picture") from error
        if "CV_IO_MAX_IMAGE" in str(error):
            raise InvalidInput(f"the picture has over {MAX_PIXELS} pixels: send a smaller one") from error
        raise InvalidInput(f"OpenCV refuses the picture: {error.err or error}") from error
    if picture is None:
        raise InvalidInput("not a picture, or a damaged one: it cannot be decoded")
    height, width = picture.shape[:2]
    if height * width > MAX_PIXELS:
        raise InvalidInput(f"{width}x{height} pixels are over the limit of {MAX_PIXELS}: send a smaller picture")
    return picture


def check_complete(body: Bytes) -> None:
    """Refuse a picture whose end is missing; some versions of OpenCV paint the missing part grey instead.

    Raises: InvalidInput for an empty body, and for a JPEG or PNG without its end marker near the end.
    """
    if not body:
        raise InvalidInput("the picture has 0 bytes")
    tail = max(0, len(body) - TAIL_BYTES)
    if body.startswith(b"\xff\xd8"):
        if body.rfind(b"\xff\xd9", max(tail, _scan_start(body))) < 0:
            raise InvalidInput("truncated JPEG: its end marker is missing")
    elif body.startswith(b"\x89PNG\r\n\x1a\n") and body.rfind(b"IEND", tail) < 0:
        raise InvalidInput("truncated PNG: its end chunk is missing")


def _scan_start(body: Bytes) -> int:
    """Where a JPEG's pixels begin; before that, an embedded thumbnail may have an end marker of its own."""
    at = 2
    while at + 4 <= len(body) and body[at] == 0xFF and body[at + 1] != 0xDA:
        if body[at + 1] == 0xFF:  # a fill byte
            at += 1
        else:
            at += 2 + int.from_bytes(body[at + 2 : at + 4], "big")
    return min(at, len(body))


@dataclass(frozen=True)
class Geometry:
    """How a picture lies in a model's input; every length is in pixels.

    scale_x, scale_y: input pixels per pixel of the original. pad_left, pad_top: the letterbox's bars.
    """

    original_width: int
    original_height: int
    input_width: int
    input_height: int
    scale_x: float
    scale_y: float
    pad_left: int
    pad_top: int

    def to_original(self, boxes: np.ndarray) -> np.ndarray:
        """Map boxes, numbers (n, 4) x1 y1 x2 y2 in input pixels, to float64 (n, 4) in pixels of the original.

        Nothing is clipped: that is done once, when the labels are made.
        """
        mapped: np.ndarray = (np.asarray(boxes, np.float64).reshape(-1, 4) - self._offset()) / self._scale()
        return mapped

    def to_input(self, boxes: np.ndarray) -> np.ndarray:
        """The way there: boxes (n, 4) in pixels of the original to float64 (n, 4) in input pixels."""
        mapped: np.ndarray = np.asarray(boxes, np.float64).reshape(-1, 4) * self._scale() + self._offset()
        return mapped

    def _scale(self) -> np.ndarray:
        return np.array([self.scale_x, self.scale_y, self.scale_x, self.scale_y])

    def _offset(self) -> np.ndarray:
        return np.array([self.pad_left, self.pad_top, self.pad_left, self.pad_top], np.float64)


def lay_out(build: BuildSpec, width: int, height: int) -> Tuple[Geometry, int, int]:
    """Plan how a picture of width x height goes into the input of a build.

    letterbox keeps the aspect and centres the picture (an odd pixel goes to the right or the bottom); stretch fills.
    Returns: the geometry, and the width and height that the picture is resized to. The geometry's scales are those
        of the rounded size, so mapping a box back does not drift.
    """
    new_width, new_height = build.input_width, build.input_height
    if build.resize == "letterbox":
        scale = min(build.input_width / width, build.input_height / height)
        new_width = min(max(1, round(width * scale)), build.input_width)
        new_height = min(max(1, round(height * scale)), build.input_height)
    geometry = Geometry(
        original_width=width,
        original_height=height,
        input_width=build.input_width,
        input_height=build.input_height,
        scale_x=new_width / width,
        scale_y=new_height / height,
        pad_left=(build.input_width - new_width) // 2,
        pad_top=(build.input_height - new_height) // 2,
    )
    return geometry, new_width, new_height


class Preprocessor:
    """Makes a model's input. The buffers are allocated once; each batch overwrites the input of the last.

    A table of 256 values per channel does scale, mean, std and dtype in one pass.
    """

    def __init__(self, build: BuildSpec, max_batch: int = 1) -> None:
        self._build = build
        self._canvas: np.ndarray = np.empty((build.input_height, build.input_width, 3), np.uint8)
        self._input = np.zeros(build.batch_shape(max_batch), build.dtype)
        self._out: np.ndarray = self._input
        tables = value_tables(build)
        if build.dtype == "float16":  # a look-up only copies, and every version of OpenCV can copy int16
            self._out, tables = self._out.view(np.int16), tables.view(np.int16)
        self._tables = [tables]
        if build.layout == "nchw":
            self._tables = [np.ascontiguousarray(tables[:, :, channel]) for channel in range(3)]

    def batch(self, size: int) -> np.ndarray:
        """The first pictures of the input, in the build's shape and dtype; a place that was not prepared has zeros, or
        the picture before."""
        return self._input[:size]

    def prepare(self, picture: np.ndarray, place: int = 0) -> Geometry:
        """Resize and normalise one picture, uint8 (height, width, 3) BGR, into its place in the batch.

        Returns: where it lies in the model's input.
        """
        geometry, width, height = lay_out(self._build, picture.shape[1], picture.shape[0])
        self._canvas[:] = self._build.pad_value
        top, left = geometry.pad_top, geometry.pad_left
        inside = self._canvas[top : top + height, left : left + width]
        cv2.resize(picture, (width, height), dst=inside, interpolation=cv2.INTER_LINEAR)
        if self._build.layout == "nchw":
            self._fill_planes(self._out[place])
        else:
            self._fill_pixels(self._out[place])
        return geometry

    def _fill_planes(self, out: np.ndarray) -> None:
        planes = cv2.split(self._canvas)
        if self._build.colour_order == "rgb":
            planes = planes[::-1]
        for channel, table in enumerate(self._tables):
            cv2.LUT(planes[channel], table, dst=out[channel])

    def _fill_pixels(self, out: np.ndarray) -> None:
        pixels = self._canvas
        if self._build.colour_order == "rgb":
            pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
        cv2.LUT(pixels, self._tables[0], dst=out)


def value_tables(build: BuildSpec) -> np.ndarray:
    """What each pixel value becomes, by the plain definition: (value * scale - mean) / std, computed in float32.

    Returns: (1, 256, 3) in the build's dtype, channels in its colour order; for uint8 rounded and saturated.
    """
    values = np.arange(256, dtype=np.float32).reshape(1, 256, 1)
    mean, std = np.array(build.mean, np.float32), np.array(build.std, np.float32)
    table: np.ndarray = (values * np.float32(build.scale) - mean) / std
    if build.dtype == "uint8":
        table = np.clip(np.rint(table), 0, 255)
    return table.astype(build.dtype)

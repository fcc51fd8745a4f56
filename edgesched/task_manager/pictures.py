"""What counts as a picture, checked before anything is stored. Decoding is the worker's job."""

from __future__ import annotations

import io
from dataclasses import dataclass

import imagesize

from edgesched.errors import InvalidInput

MAX_NAME_BYTES = 255

_JPEG_START, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND"
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # but for DHT, JPG and DAC
_WITHOUT_LENGTH = frozenset(range(0xD0, 0xDB))  # RSTn, SOI, EOI; and SOS, behind which no frame header can come
_TAIL_BYTES = 4096  # some cameras append padding or thumbnails behind the end marker


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureLimits:
    max_bytes: int
    max_megapixels: int


def check_file_name(name: str) -> None:
    """A plain name that is safe as the stem of a label file on any machine.

    Raises: InvalidInput.
    """
    if not name or name.strip() in ("", ".", "..") or "/" in name or "\\" in name:
        raise InvalidInput(f"file name {name!r} must be a plain name without directories; send only the last part")
    if not name.isprintable() and any(ord(c) < 32 or ord(c) == 127 for c in name):
        raise InvalidInput(f"file name {name!r} has control characters; rename the file")
    if len(name.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES:
        raise InvalidInput(f"file name {name[:40]!r}… is longer than {MAX_NAME_BYTES} bytes; rename the file")


def check_picture(data: bytes, limits: PictureLimits) -> None:
    """Magic bytes, dimensions, size and end marker of a JPEG, PNG, BMP or WebP picture. The extension does not matter.

    Raises: InvalidInput naming what is wrong.
    """
    if not data:
        raise InvalidInput("the picture is empty (0 bytes)")
    if len(data) > limits.max_bytes:
        raise InvalidInput(
            f"the picture has {len(data)} bytes, more than max_picture_bytes = {limits.max_bytes}; make it smaller"
        )
    kind = _kind(data)
    if kind is None:
        raise InvalidInput("this is not a JPEG, PNG, BMP or WebP picture")
    if kind == "JPEG" and data.rfind(_JPEG_END, -_TAIL_BYTES) < 0:
        raise InvalidInput("the JPEG is truncated: it has no end marker")
    if kind == "PNG" and data.rfind(_PNG_END, -_TAIL_BYTES) < 0:
        raise InvalidInput("the PNG is truncated: it has no IEND chunk")
    width, height = (jpeg_size(data) if kind == "JPEG" else None) or _size(data, kind)
    if width <= 0 or height <= 0:
        raise InvalidInput(f"the {kind} header gives no dimensions")
    if width * height > limits.max_megapixels * 1_000_000:
        raise InvalidInput(
            f"the picture is {width}x{height}, more than {limits.max_megapixels} megapixels (max_picture_megapixels)"
        )


def _size(data: bytes, kind: str) -> tuple[int, int]:
    """Width and height."""
    try:
        width, height = imagesize.get(io.BytesIO(data), exif_rotation=False)
    except Exception as error:  # the library raises whatever a damaged header trips over
        raise InvalidInput(f"the {kind} header is damaged: {error}") from error
    return width, height


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of an ordinary JPEG; None: ask the library, which takes ten times as long for it.

    Source: ITU-T T.81, B.1.1.3 and B.2.2: segments of marker and length up to the frame header (SOF).
    """
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in _FRAME_HEADERS:
            return int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
        if not (0xC0 <= marker <= 0xFE) or marker in _WITHOUT_LENGTH:
            return None
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _kind(data: bytes) -> str | None:
    if data.startswith(_JPEG_START):
        return "JPEG"
    if data.startswith(_PNG_START):
        return "PNG"
    if data.startswith(b"BM"):
        return "BMP"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WebP"
    return None

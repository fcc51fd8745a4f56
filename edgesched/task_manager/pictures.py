"""What counts as a picture, checked before anything is stored. Decoding is the worker's job."""

from __future__ import annotations

import io
from dataclasses import dataclass

import imagesize

from edgesched.errors import InvalidInput

MAX_NAME_BYTES = 255

_JPEG_START, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND"
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
    if any(ord(c) < 32 or ord(c) == 127 for c in name):
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
    if kind == "JPEG" and _JPEG_END not in data[-_TAIL_BYTES:]:
        raise InvalidInput("the JPEG is truncated: it has no end marker")
    if kind == "PNG" and _PNG_END not in data[-_TAIL_BYTES:]:
        raise InvalidInput("the PNG is truncated: it has no IEND chunk")
    try:
        width, height = imagesize.get(io.BytesIO(data), exif_rotation=False)
    except Exception as error:  # the library raises whatever a damaged header trips over
        raise InvalidInput(f"the {kind} header is damaged: {error}") from error
    if width <= 0 or height <= 0:
        raise InvalidInput(f"the {kind} header gives no dimensions")
    if width * height > limits.max_megapixels * 1_000_000:
        raise InvalidInput(
            f"the picture is {width}x{height}, more than {limits.max_megapixels} megapixels (max_picture_megapixels)"
        )


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

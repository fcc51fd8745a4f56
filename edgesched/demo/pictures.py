"""Draws pictures of simple shapes whose true boxes are known: food for the demo, its model and the tests.

Coordinates are continuous: pixel column i covers x from i to i + 1, so a box around one pixel is 1 wide.
Colours are RGB while drawing; only the JPEG encoder is handed OpenCV's BGR.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.float32]  # (height, width, 3), RGB, 0..255
Mask = npt.NDArray[np.float32]  # (height, width), 0 outside .. 1 inside
Contour = npt.NDArray[np.float64]  # (points, 2), x then y
Owners = npt.NDArray[np.int16]  # (height, width), the topmost shape's index at each pixel, -1 where there is none
Colour = npt.NDArray[np.float32]  # (3,), RGB, 0..255

SIDE_RANGE_PX = (240, 800)
ASPECT_RANGE = (0.5, 2.0)  # width / height
MAX_SHAPES = 7
SIZE_RANGE = (0.10, 0.46)  # diameter of a shape's circumcircle, in parts of the picture's longer side
MAX_OCCLUDED_FRACTION = 0.4
MAX_BOX_IOU = 0.35  # two boxes that nearly coincide could not survive any detector's non-maximum suppression
MIN_COLOUR_DISTANCE = 90.0  # Euclidean in RGB, between a shape and what it lies on
MARGIN_PX = 2.0  # between a shape and the edge of the picture
JPEG_QUALITY_RANGE = (55, 95)
OVERSAMPLING = 4  # a mask is drawn this many times larger and averaged, which makes its edges smooth
PLACING_TRIES = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class TrueBox:
    """The box around a shape's whole outline, in pixels of its picture, whatever covers the shape."""

    class_id: int  # index into LABELS
    label: str
    x1: float
    y1: float
    x2: float
    y2: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    file_name: str
    jpeg: bytes
    width: int
    height: int
    truth: tuple[TrueBox, ...]  # in drawing order: a later shape may cover an earlier one


@dataclass(frozen=True, slots=True)
class Palette:
    """Colours that look well together, as 0xRRGGBB."""

    grounds: tuple[int, ...]  # for the background; close to each other
    inks: tuple[int, ...]  # for the shapes; far from the grounds


PALETTES: tuple[Palette, ...] = (
    Palette((0x12182B, 0x1D2A4D, 0x27406B), (0xFFCF56, 0xFF6F59, 0x7DE2D1, 0xF4F1DE, 0xB79CED)),
    Palette((0xF7F3E9, 0xECE3D0, 0xFBFAF6), (0xC8553D, 0x2D5D7B, 0x4B7F7F, 0xE3932B, 0x3D3A4B, 0x6A8E4E)),
    Palette((0x14281D, 0x1F3B2D, 0x2F5D46), (0xF6E7CB, 0xE9A23B, 0xE0603F, 0xA8D672, 0x8FD3E8)),
    Palette((0xFFE3EC, 0xFFD1DC, 0xFFF4E0), (0xD7268A, 0x5B2A86, 0x0B7A75, 0xF26419, 0x2660A4)),
    Palette((0xD6EEF5, 0xA9D6E5, 0xE8F7FB), (0x014F86, 0xE4572E, 0xE89A0C, 0x6A0F49, 0x1B5E3C)),
    Palette((0x3B1F4A, 0x522850, 0x6B3459), (0xFFD9A0, 0xFF9770, 0x8EE3EF, 0xF7AEF8, 0xE9FF70)),
    Palette((0x2C313A, 0x3D4450, 0x525B6B), (0xF25F5C, 0xFFE066, 0x70C1B3, 0xF7FFF7, 0x5DA9E9, 0xFF9F1C)),
    Palette((0xE8D8B9, 0xD9C39A, 0xF2E8D5), (0x7B2D26, 0x19535F, 0x0B7A75, 0x402E32, 0xB83A55, 0x2B4C7E)),
    Palette((0x0E3B43, 0x145C66, 0x1E7078), (0xFFE8A3, 0xFF8360, 0xE8EBE4, 0xF5B700, 0xC3F584)),
    Palette((0xE4E4EC, 0xCDCFDC, 0xF4F4F8), (0x22223B, 0x9A031E, 0x5F0F40, 0xE36414, 0x0F4C5C, 0x3A5A9B)),
)


# -- outlines: contours inside the unit circle; where a second contour lies inside the first, it is a hole


def _polygon(corners: int, radii: Sequence[float] = (1.0,)) -> Contour:
    angles = np.arange(corners) * (2 * math.pi / corners)
    radius = np.resize(np.asarray(radii, dtype=np.float64), corners)
    return np.stack((radius * np.cos(angles), radius * np.sin(angles)), axis=1)


def _circle(rng: np.random.Generator) -> list[Contour]:
    return [_polygon(128)]


def _square(rng: np.random.Generator) -> list[Contour]:
    return [_polygon(4)]


def _triangle(rng: np.random.Generator) -> list[Contour]:
    return [_polygon(3)]


def _star(rng: np.random.Generator) -> list[Contour]:
    return [_polygon(10, (1.0, rng.uniform(0.40, 0.50)))]


def _cross(rng: np.random.Generator) -> list[Contour]:
    half = rng.uniform(0.26, 0.36)
    reach = math.sqrt(1.0 - half * half)
    arm = np.array([(reach, -half), (reach, half), (half, half)])
    quarter_turns = [np.linalg.matrix_power(np.array([(0.0, -1.0), (1.0, 0.0)]), n) for n in range(4)]
    return [np.concatenate([arm @ turn.T for turn in quarter_turns])]


def _ring(rng: np.random.Generator) -> list[Contour]:
    return [_polygon(128), _polygon(96) * rng.uniform(0.52, 0.72)]


def _heart(rng: np.random.Generator) -> list[Contour]:
    """Source: the well-known curve x = 16 sin^3 t, y = 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t."""
    t = np.linspace(0.0, 2 * math.pi, 160, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) - 2.5
    return [np.stack((x, y), axis=1) / 17.0]


def _moon(rng: np.random.Generator) -> list[Contour]:
    """The unit disc less a second disc, which cuts the rim at the angles -tip and +tip."""
    waist, tip = rng.uniform(0.50, 0.70), math.radians(rng.uniform(38.0, 55.0))
    shift = (1.0 - (1.0 - waist) ** 2) / (2 * (1.0 - waist + math.cos(tip)))  # to the second disc's centre
    bite = shift + 1.0 - waist  # its radius
    inner = math.atan2(math.sin(tip), math.cos(tip) - shift)  # the tip as seen from its centre
    outside = np.linspace(tip, 2 * math.pi - tip, 96)
    inside = np.linspace(2 * math.pi - inner, inner, 64)[1:-1]
    rim = np.stack((np.cos(outside), np.sin(outside)), axis=1)
    cut = np.stack((shift + bite * np.cos(inside), bite * np.sin(inside)), axis=1)
    return [np.concatenate((rim, cut))]


OUTLINES: Mapping[str, Callable[[np.random.Generator], list[Contour]]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "ring": _ring,
    "heart": _heart,
    "moon": _moon,
}
LABELS: tuple[str, ...] = tuple(OUTLINES)


# -- backgrounds


def _blend(weight: Mask, low: Colour, high: Colour) -> Pixels:
    """weight: 0 gives `low`, 1 gives `high`."""
    blended: Pixels = low + weight[:, :, np.newaxis] * (high - low)
    return blended


def _ramp(rng: np.random.Generator, width: int, height: int) -> Mask:
    """Returns 0..1, rising steadily in a random direction across the picture."""
    angle = rng.uniform(0.0, 2 * math.pi)
    x = np.arange(width, dtype=np.float32)[np.newaxis, :] * np.float32(math.cos(angle))
    y = np.arange(height, dtype=np.float32)[:, np.newaxis] * np.float32(math.sin(angle))
    ramp = x + y
    scaled: Mask = (ramp - ramp.min()) / (ramp.max() - ramp.min())
    return scaled


def _plain(rng: np.random.Generator, width: int, height: int) -> Mask:
    return np.zeros((height, width), dtype=np.float32)


def _glow(rng: np.random.Generator, width: int, height: int) -> Mask:
    x = np.arange(width, dtype=np.float32)[np.newaxis, :] / width - np.float32(rng.uniform(0.2, 0.8))
    y = np.arange(height, dtype=np.float32)[:, np.newaxis] / height - np.float32(rng.uniform(0.2, 0.8))
    glow: Mask = np.clip(1.2 * np.sqrt(x * x + y * y), 0.0, 1.0)
    return glow


def _stripes(rng: np.random.Generator, width: int, height: int) -> Mask:
    count = rng.uniform(4.0, 22.0)
    steepness = rng.choice([1.5, 3.0, 20.0])  # soft waves .. crisp bands
    wave: Mask = np.sin(_ramp(rng, width, height) * np.float32(2 * math.pi * count)) * np.float32(steepness)
    bands: Mask = (np.clip(wave, -1.0, 1.0) + 1.0) / 2.0
    return bands


def _clouds(rng: np.random.Generator, width: int, height: int) -> Mask:
    """Several layers of smoothly enlarged noise, each finer and weaker than the one before."""
    total = np.zeros((height, width), dtype=np.float32)
    for octave in range(4):
        cells = 3 * 2**octave
        noise = rng.random((cells, cells), dtype=np.float32)
        total += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC) / np.float32(2**octave)
    stretched: Mask = (total - total.min()) / (total.max() - total.min())
    return stretched


def _contour_lines(rng: np.random.Generator, width: int, height: int) -> Mask:
    levels = _clouds(rng, width, height) * np.float32(rng.uniform(4.0, 9.0))
    lines: Mask = (np.sin(levels * np.float32(2 * math.pi)) + 1.0) / 2.0
    return lines


def _weave(rng: np.random.Generator, width: int, height: int) -> Mask:
    period = rng.uniform(5.0, 16.0)
    x = np.sin(np.arange(width, dtype=np.float32) * np.float32(2 * math.pi / period))
    y = np.sin(np.arange(height, dtype=np.float32) * np.float32(2 * math.pi / period))
    woven: Mask = (x[np.newaxis, :] * y[:, np.newaxis] + 1.0) / 2.0
    return woven


TEXTURES: tuple[Callable[[np.random.Generator, int, int], Mask], ...] = (
    _plain,
    _ramp,
    _glow,
    _stripes,
    _clouds,
    _contour_lines,
    _weave,
)


def _background(rng: np.random.Generator, width: int, height: int, palette: Palette) -> Pixels:
    low, high = (_rgb(palette.grounds[i]) for i in rng.permutation(len(palette.grounds))[:2])
    texture = TEXTURES[rng.integers(len(TEXTURES))]
    canvas = _blend(texture(rng, width, height), low, high)
    if rng.random() < 0.5:  # film grain
        grain = rng.standard_normal((height, width, 1), dtype=np.float32)
        canvas += grain * np.float32(rng.uniform(2.0, 9.0))
    return canvas


# -- shapes on the canvas


@dataclass(frozen=True, slots=True)
class PlacedShape:
    """A shape at its place. `mask` belongs to the pixels of `window`, a range of rows and one of columns."""

    box: TrueBox
    colour: Colour
    mask: Mask
    window: tuple[slice, slice]


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture before its JPEG is made. A later shape may cover an earlier one."""

    canvas: Pixels
    shapes: tuple[PlacedShape, ...]


def _rgb(value: int) -> Colour:
    return np.array((value >> 16 & 255, value >> 8 & 255, value & 255), dtype=np.float32)


def _mask_of(contours: Sequence[Contour], left: int, top: int, width: int, height: int) -> Mask:
    """Returns how much of each pixel of the window lies inside the contours (even-odd rule)."""
    fine = np.zeros((height * OVERSAMPLING, width * OVERSAMPLING), dtype=np.uint8)
    shift = 4  # fillPoly takes fixed-point numbers; a pixel's centre is its integer coordinate
    corners = [((c - (left, top)) * OVERSAMPLING - 0.5) * (1 << shift) for c in contours]
    cv2.fillPoly(fine, [np.rint(c).astype(np.int32) for c in corners], 255, shift=shift)
    small = cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA)
    mask: Mask = small.astype(np.float32) / np.float32(255.0)
    return mask


def _try_shape(rng: np.random.Generator, width: int, height: int, colour: Colour) -> PlacedShape | None:
    """Returns a random shape at a random place, or None if it does not fit into the picture."""
    class_id = int(rng.integers(len(LABELS)))
    label = LABELS[class_id]
    low, high = SIZE_RANGE
    radius = 0.5 * max(width, height) * low * (high / low) ** rng.random()  # as many small as large
    angle = rng.uniform(0.0, 2 * math.pi)
    turn = np.array([(math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle))])
    contours = [contour @ turn * radius for contour in OUTLINES[label](rng)]
    low_corner, high_corner = contours[0].min(axis=0), contours[0].max(axis=0)
    room = (width - 2 * MARGIN_PX, height - 2 * MARGIN_PX) - (high_corner - low_corner)
    if room.min() <= 0.0:
        return None
    move = MARGIN_PX - low_corner + rng.random(2) * room
    (x1, y1), (x2, y2) = (low_corner + move).tolist(), (high_corner + move).tolist()
    left, top = math.floor(x1), math.floor(y1)
    mask = _mask_of([c + move for c in contours], left, top, math.ceil(x2) - left, math.ceil(y2) - top)
    box = TrueBox(class_id=class_id, label=label, x1=x1, y1=y1, x2=x2, y2=y2)
    window = slice(top, top + mask.shape[0]), slice(left, left + mask.shape[1])
    return PlacedShape(box, colour, mask, window)


def _box_iou(a: TrueBox, b: TrueBox) -> float:
    wide, high = min(a.x2, b.x2) - max(a.x1, b.x1), min(a.y2, b.y2) - max(a.y1, b.y1)
    shared = max(wide, 0.0) * max(high, 0.0)
    return shared / ((a.x2 - a.x1) * (a.y2 - a.y1) + (b.x2 - b.x1) * (b.y2 - b.y1) - shared)


def _may_join(shape: PlacedShape, placed: Sequence[PlacedShape], owner: Owners, canvas: Pixels) -> bool:
    """Whether the shape stands out from what it lies on and leaves enough of every other shape in sight.

    placed: the shapes that are there already; `owner` holds indices into it.
    """
    inside = shape.mask > 0.5
    below = owner[shape.window][inside]
    ground = canvas[shape.window][inside].mean(axis=0)
    if np.linalg.norm(shape.colour - ground) < MIN_COLOUR_DISTANCE:
        return False
    for index, other in enumerate(placed):
        if _box_iou(shape.box, other.box) > MAX_BOX_IOU:
            return False
        covered = int(np.count_nonzero(below == index))
        if covered and np.linalg.norm(shape.colour - other.colour) < MIN_COLOUR_DISTANCE:
            return False
        in_sight = int(np.count_nonzero(owner[other.window] == index)) - covered
        if in_sight < (1.0 - MAX_OCCLUDED_FRACTION) * np.count_nonzero(other.mask > 0.5):
            return False
    return True


def _cast_shadow(canvas: Pixels, shape: PlacedShape) -> None:
    """Darkens the canvas softly, a little below and to the right of the shape."""
    size = max(shape.mask.shape)
    reach, right, down = math.ceil(0.15 * size) + 4, round(0.03 * size), round(0.05 * size)
    wide_mask = cv2.copyMakeBorder(shape.mask, reach, reach, reach, reach, cv2.BORDER_CONSTANT, value=0.0)
    soft = cv2.GaussianBlur(wide_mask, (0, 0), max(1.0, 0.035 * size))
    top, left = (side.start - reach for side in shape.window)
    top, left = top + down, left + right
    rows, columns = slice(max(top, 0), top + soft.shape[0]), slice(max(left, 0), left + soft.shape[1])
    under = canvas[rows, columns]
    seen = soft[rows.start - top :, columns.start - left :][: under.shape[0], : under.shape[1]]
    under *= 1.0 - np.float32(0.35) * seen[:, :, np.newaxis]


def _paint(rng: np.random.Generator, canvas: Pixels, shape: PlacedShape) -> None:
    """Paints the shape onto the canvas, with a soft light across it."""
    height, width = shape.mask.shape
    light = 1.0 + np.float32(rng.uniform(0.0, 0.22)) * (0.5 - _ramp(rng, width, height))
    fill = np.clip(shape.colour * light[:, :, np.newaxis], 0.0, 255.0)
    opacity = shape.mask[:, :, np.newaxis]
    under = canvas[shape.window]
    under += opacity * (fill - under)


def _picture_size(rng: np.random.Generator) -> tuple[int, int]:
    """Returns width and height in pixels, both within SIDE_RANGE_PX."""
    low, high = SIDE_RANGE_PX
    while True:
        longer = int(rng.integers(max(low, 320), high + 1))
        aspect = math.exp(rng.uniform(math.log(ASPECT_RANGE[0]), math.log(ASPECT_RANGE[1])))
        shorter = round(longer * min(aspect, 1.0 / aspect))
        if shorter >= low:
            return (longer, shorter) if aspect >= 1.0 else (shorter, longer)


def draw_scene(rng: np.random.Generator) -> Scene:
    """Draw 1..MAX_SHAPES shapes, each wholly inside the picture, on a random background."""
    width, height = _picture_size(rng)
    palette = PALETTES[rng.integers(len(PALETTES))]
    canvas = _background(rng, width, height, palette)
    casts_shadow = bool(rng.random() < 0.5)
    wanted = int(rng.integers(1, MAX_SHAPES + 1))
    owner: Owners = np.full((height, width), -1, dtype=np.int16)
    placed: list[PlacedShape] = []
    tries = 0
    while len(placed) < wanted and (tries < PLACING_TRIES or not placed):
        tries += 1
        colour = _rgb(palette.inks[rng.integers(len(palette.inks))])
        shape = _try_shape(rng, width, height, colour)
        if shape is None or not _may_join(shape, placed, owner, canvas):
            continue
        owner[shape.window][shape.mask > 0.5] = len(placed)
        if casts_shadow:
            _cast_shadow(canvas, shape)
        _paint(rng, canvas, shape)
        placed.append(shape)
    return Scene(canvas, tuple(placed))


def draw_picture(seed: int, index: int) -> Picture:
    """Draw the picture number `index` of the endless series `seed`.

    Both are >= 0. With the same OpenCV and numpy the same pair always gives the same picture, whatever was
    drawn before it.
    """
    rng = np.random.default_rng((seed, index))
    scene = draw_scene(rng)
    quality = int(rng.integers(JPEG_QUALITY_RANGE[0], JPEG_QUALITY_RANGE[1] + 1))
    bgr = np.clip(np.rint(scene.canvas), 0, 255).astype(np.uint8)[:, :, ::-1]
    _, encoded = cv2.imencode(".jpg", np.ascontiguousarray(bgr), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return Picture(
        file_name=f"shapes-{seed}-{index:05d}.jpg",
        jpeg=encoded.tobytes(),
        width=scene.canvas.shape[1],
        height=scene.canvas.shape[0],
        truth=tuple(shape.box for shape in scene.shapes),
    )


def draw_pictures(count: int, seed: int) -> Iterator[Picture]:
    """Yield the first `count` pictures of the series `seed`, each drawn only when it is asked for."""
    return (draw_picture(seed, index) for index in range(count))

"""What the daemon says about a model, parsed and checked. Standard library only: it is read before numpy is."""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass, field
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple

from .emulation import Emulation
from .errors import InvalidInput, ModelUnavailable

LAYOUTS = ("nchw", "nhwc")
DTYPES = ("float32", "float16", "uint8")
COLOUR_ORDERS = ("rgb", "bgr")
RESIZES = ("letterbox", "stretch")
MAX_PIXELS = 64_000_000  # of one picture: 192 MB when it is decoded
MAX_BATCH = 64  # pictures that wait in a worker are in its memory


@dataclass(frozen=True)
class BuildSpec:
    """How one backend runs the model, and what its input looks like.

    file: relative to the model's directory.
    scale, mean, std: input = (pixel * scale - mean) / std, with pixel 0..255; mean and std in `colour_order`.
    pad_value: 0..255, the grey of a letterbox's bars.
    options: what only this backend understands.
    plugin: module:class of a backend that another package brings; empty for the built-in ones.
    max_batch: so many pictures may one inference take; 1: batches are off.
    """

    backend: str
    file: str
    input_width: int
    input_height: int
    layout: str
    dtype: str
    colour_order: str
    scale: float
    mean: Tuple[float, ...]
    std: Tuple[float, ...]
    resize: str
    pad_value: int
    options: Mapping[str, Any] = field(default_factory=dict)
    plugin: str = ""
    max_batch: int = 1

    def __post_init__(self) -> None:
        _one_of("layout", self.layout, LAYOUTS)
        _one_of("dtype", self.dtype, DTYPES)
        _one_of("colour_order", self.colour_order, COLOUR_ORDERS)
        _one_of("resize", self.resize, RESIZES)
        if not (self.input_width > 0 and self.input_height > 0):
            raise InvalidInput(f"the input must have an area, got {self.input_width}x{self.input_height}")
        if not 0 <= self.pad_value <= 255:
            raise InvalidInput(f"pad_value must be 0..255, got {self.pad_value}")
        if not 1 <= self.max_batch <= MAX_BATCH:
            raise InvalidInput(f"max_batch must be 1..{MAX_BATCH}, got {self.max_batch}")
        if len(self.mean) != 3 or len(self.std) != 3:
            raise InvalidInput("mean and std must have three numbers each")
        if not all(map(math.isfinite, (self.scale, *self.mean, *self.std))) or 0 in self.std:
            raise InvalidInput("scale, mean and std must be finite, and std must not be 0")

    @property
    def input_shape(self) -> Tuple[int, int, int, int]:
        """The shape of one picture's input, batch of one."""
        return self.batch_shape(1)

    def batch_shape(self, size: int) -> Tuple[int, int, int, int]:
        """The shape of the input for so many pictures."""
        if self.layout == "nchw":
            return (size, 3, self.input_height, self.input_width)
        return (size, self.input_height, self.input_width, 3)


@dataclass(frozen=True)
class ModelSpec:
    """One model on one worker.

    directory: absolute. anchors: of YOLOv5, one row per scale, width and height in turn, in input pixels; empty for
    those it was published with. threads: CPU threads per inference. slot: 0-based number of this worker on its board
    (an NPU core, where a board has several). cache_dir: where engines that are built on this board are kept.
    """

    name: str
    version: str
    directory: str
    labels: Tuple[str, ...]
    decoder: str
    confidence_threshold: float
    iou_threshold: float
    max_detections: int
    build: BuildSpec
    anchors: Tuple[Tuple[float, ...], ...] = ()
    threads: int = 1
    slot: int = 0
    cache_dir: str = ""

    def __post_init__(self) -> None:
        for name in ("confidence_threshold", "iou_threshold"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InvalidInput(f"{name} must be 0..1, got {getattr(self, name)}")
        if self.max_detections < 1 or self.threads < 1:
            raise InvalidInput("max_detections and threads must be at least 1")
        if any(not row or len(row) % 2 for row in self.anchors):
            raise InvalidInput("each row of anchors must hold width and height in turn")

    def existing_file(self) -> str:
        """The absolute path of the build's file. Raises: ModelUnavailable if no file is there."""
        path = os.path.join(self.directory, self.build.file)
        if not os.path.isfile(path):
            raise ModelUnavailable(f"there is no file {path}: put it there, or correct `file` in model.toml")
        return path


@dataclass(frozen=True)
class Configure:
    """The daemon's first frame: everything that a worker does not decide for itself. emulation: None to be as fast as
    possible."""

    models: Tuple[ModelSpec, ...]
    python_path: Tuple[str, ...]
    heartbeat_interval_ms: int
    emulation: Optional[Emulation] = None


def parse_configure(header: Mapping[str, Any]) -> Configure:
    """Read a "configure" header.

    Keys that nobody here knows are left alone.
    Raises: InvalidInput naming the model and the key that is missing or wrong.
    """
    models = header.get("models")
    if not isinstance(models, list) or not models:
        raise InvalidInput("configure names no model: give this agent at least one model that its board can run")
    interval_ms = int(header.get("heartbeat_interval_ms", 1000))
    if interval_ms < 1:
        raise InvalidInput(f"heartbeat_interval_ms must be at least 1, got {interval_ms}")
    threads, slot = int(header.get("threads", 1)), int(header.get("slot", 0))
    cache_dir = str(header.get("cache_dir") or default_cache_dir())
    emulation = header.get("emulation")
    return Configure(
        models=tuple(parse_model(model, threads, slot, cache_dir) for model in models),
        python_path=tuple(header.get("python_path", ())),
        heartbeat_interval_ms=interval_ms,
        emulation=None if emulation is None else Emulation(**_known(Emulation, emulation)),
    )


def default_cache_dir() -> str:
    """Where engines are kept if the daemon does not say: as the XDG base directories have it."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "edgesched")


def parse_model(model: Mapping[str, Any], threads: int = 1, slot: int = 0, cache_dir: str = "") -> ModelSpec:
    """Read one model of a "configure" header. Raises: InvalidInput, as above."""
    name = model.get("name")
    given = {"threads": threads, "slot": slot, "cache_dir": cache_dir or default_cache_dir()}
    try:
        fields = _known(ModelSpec, model)
        build = _known(BuildSpec, fields["build"])
        for key in ("mean", "std"):
            build[key] = tuple(float(value) for value in build[key])
        fields["build"] = BuildSpec(**build)
        fields["labels"] = tuple(fields["labels"])
        fields["anchors"] = tuple(tuple(map(float, row)) for row in fields.get("anchors", ()))
        return ModelSpec(**{**fields, **given})
    except (TypeError, ValueError) as error:  # a string where a number should be
        raise InvalidInput(f"model {name!r} has a value of the wrong type: {error}") from error
    except InvalidInput as error:
        raise InvalidInput(f"model {name!r}: {error}") from error


def _known(kind: type, raw: Mapping[str, Any]) -> Dict[str, Any]:
    """The values of `raw` that the dataclass has fields for; InvalidInput if one without a default is missing."""
    found = {}
    for item in dataclasses.fields(kind):
        optional = item.default is not dataclasses.MISSING or item.default_factory is not dataclasses.MISSING
        if item.name in raw:
            found[item.name] = raw[item.name]
        elif not optional:
            raise InvalidInput(f"the key {item.name!r} is missing")
    return found


def _one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise InvalidInput(f"{name} must be one of {', '.join(allowed)}; got {value!r}")

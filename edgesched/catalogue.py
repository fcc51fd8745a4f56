"""Models are data: a directory with a `model.toml`, its weights, its labels and perhaps a decoder of its own.

The task manager needs the names, an agent also the build for its board. The agent sends the parsed model to its
workers, whose interpreter may be too old to read TOML.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, field_validator, model_validator

from edgesched.errors import InvalidInput, NotKnown, nearest, plain

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
DECODER_OF_ONES_OWN = re.compile(r"[A-Za-z_]\w*:[A-Za-z_]\w*")
DECODERS = ("yolov5", "yolov8", "classification", "none")
DEFAULT_BUILD = "default"
BACKEND_OF_ENDING = {".onnx": "onnx", ".rknn": "rknn", ".om": "acl", ".engine": "tensorrt", ".plan": "tensorrt"}

NO_INPUT: Mapping[str, Any] = {"file": "", "input_width": 1, "input_height": 1}
DEFAULTS_OF_BACKEND: Mapping[str, Mapping[str, Any]] = {  # where they differ from those of `Build`
    "echo": NO_INPUT,
    "exec": NO_INPUT,  # the program gets the picture's file as it came
    "rknn": {"layout": "nhwc", "dtype": "uint8"},  # it normalises the pixels itself
}

ONE_PICTURE_AT_A_TIME = ("acl", "exec", "rknn")
"""Backends that take no batches."""

MAX_BATCH = 64

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Channels = tuple[float, float, float]


class Build(BaseModel):
    """How one kind of board runs the model: its file, and what its input looks like.

    What is left out depends on what is there: the backend on the file's ending, the layout and dtype on the backend.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    backend: str = "onnx"
    file: str
    decoder: str | None = None  # if this build's outputs have another form than the model's other builds
    input_width: PositiveInt
    input_height: PositiveInt
    layout: Literal["nchw", "nhwc"] = "nchw"
    dtype: Literal["float32", "float16", "uint8"] = "float32"
    colour_order: Literal["rgb", "bgr"] = "rgb"
    scale: float = 1 / 255  # value = pixel * scale, then (value - mean) / std per channel, in colour_order; uint8: 1
    mean: Channels = (0.0, 0.0, 0.0)
    std: Channels = (1.0, 1.0, 1.0)
    resize: Literal["letterbox", "stretch"] = "letterbox"
    pad_value: Annotated[int, Field(ge=0, le=255)] = 114
    max_batch: Annotated[int, Field(ge=1, le=MAX_BATCH)] = 1  # pictures per inference, at most
    options: Mapping[str, Any] = {}  # passed to the backend as they are

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        ending = Path(str(given.get("file", ""))).suffix
        backend = given.get("backend") or BACKEND_OF_ENDING.get(ending, "onnx")
        filled = {**DEFAULTS_OF_BACKEND.get(backend, {}), **given, "backend": backend}
        if filled.get("dtype") == "uint8":
            filled.setdefault("scale", 1.0)
        return filled

    @model_validator(mode="after")
    def _keeps_pixels(self) -> Build:
        if self.dtype == "uint8" and self.scale != 1.0:
            raise ValueError(
                'scale must be 1 (leave it out) with dtype "uint8": the model normalises the pixels itself'
            )
        return self

    @model_validator(mode="after")
    def _can_batch(self) -> Build:
        if self.max_batch > 1 and self.backend in ONE_PICTURE_AT_A_TIME:
            raise ValueError(
                f"max_batch must be 1 (leave it out): backend {self.backend!r} takes one picture at a time"
            )
        return self

    @field_validator("decoder")
    @classmethod
    def _exists(cls, value: str | None) -> str | None:
        return None if value is None else known_decoder(value)

    @field_validator("file")
    @classmethod
    def _stays_inside(cls, value: str) -> str:
        if Path(value).is_absolute() or ".." in Path(value).parts:
            raise ValueError("must lie inside the model's directory")
        return value

    @field_validator("std")
    @classmethod
    def _divides(cls, value: Channels) -> Channels:
        if 0.0 in value:
            raise ValueError("must not contain 0")
        return value

    def lacks_file(self, directory: Path) -> bool:
        """Whether the file that this build names is not in the model's directory."""
        if self.backend == "echo" or (self.backend == "exec" and not self.file):
            return False
        return not (directory / self.file).is_file()


def known_decoder(value: str) -> str:
    """The value as it is. Raises: ValueError if no decoder can have this name."""
    if value not in DECODERS and not DECODER_OF_ONES_OWN.fullmatch(value):
        raise ValueError(f"use one of {', '.join(DECODERS)}, or module:function of your own")
    return value


class Model(BaseModel):
    """One `model.toml`. `directory` is where it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    directory: Path
    name: str
    version: str = "1"
    description: str = ""
    labels: tuple[str, ...] = Field(min_length=1)
    decoder: str
    confidence_threshold: Fraction = 0.25
    iou_threshold: Fraction = 0.45
    max_detections: PositiveInt = 300
    anchors: tuple[tuple[float, ...], ...] = ()  # YOLOv5's raw heads: a row per scale; empty: as published
    builds: Mapping[str, Build] = Field(min_length=1)

    @field_validator("name")
    @classmethod
    def _is_a_name(cls, value: str) -> str:
        if not MODEL_NAME.fullmatch(value):
            raise ValueError("use letters, digits, '.', '_' and '-', at most 64")
        return value

    @field_validator("decoder")
    @classmethod
    def _exists(cls, value: str) -> str:
        return known_decoder(value)

    def build_for(self, board_type: str) -> Build | None:
        """The board's own build, else the default one, else None: this board cannot run the model."""
        return self.builds.get(board_type) or self.builds.get(DEFAULT_BUILD)

    def worker_spec(self, build: Build) -> dict[str, Any]:
        """The JSON object that a worker is configured with (`agents/worker/model.py` reads it)."""
        return {
            **self.model_dump(mode="json", exclude={"builds", "description"}),
            "decoder": "none" if build.backend == "echo" else build.decoder or self.decoder,
            "directory": str(self.directory.resolve()),
            "build": build.model_dump(mode="json", exclude={"decoder"}),
        }


def read_model(directory: Path) -> Model:
    """Read `<directory>/model.toml`.

    Raises: InvalidInput with every problem in one message (a missing file, an unknown key, a bad value).
    """
    path = directory / "model.toml"
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        if isinstance(content.get("labels"), str):
            lines = (directory / content["labels"]).read_text(encoding="utf-8").splitlines()
            content["labels"] = [line.strip() for line in lines if line.strip()]
    except OSError as error:
        raise InvalidInput(f"{error.filename}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # of TOML and of UTF-8 as well
        raise InvalidInput(f"{path}: cannot be read: {error}") from error
    try:
        model = Model(directory=directory, **content)
    except ValidationError as error:
        raise InvalidInput(f"{path}: " + "; ".join(_complaint(dict(item)) for item in error.errors())) from error
    except TypeError as error:  # a key of the file that is `directory`
        raise InvalidInput(f"{path}: {error}") from error
    missing = [build.file for build in model.builds.values() if build.lacks_file(directory)]
    if missing and len(missing) == len(model.builds):
        raise InvalidInput(f"{path}: no build's file is there ({', '.join(filter(None, missing)) or 'none is named'})")
    return model


def _complaint(item: Mapping[str, Any]) -> str:
    place = ".".join(map(str, item["loc"]))
    if item["type"] != "extra_forbidden":
        return f"{place}: {plain(item['msg'])}"
    known = Model.model_fields if len(item["loc"]) == 1 else Build.model_fields
    return f"{place}: unknown key{nearest(str(item['loc'][-1]), known)}"


def builtin_models_dir() -> Path:
    """Where the demo model lies: inside the wheel, or beside the packages in a checkout."""
    installed = Path(__file__).parent / "builtin_models"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "models"


class Catalogue:
    """All models of one process, by name."""

    def __init__(self, models: Mapping[str, Model]) -> None:
        self._models = models

    @classmethod
    def read(cls, models_dir: Path) -> Catalogue:
        """Read every directory below `models_dir` that has a model.toml, and the built-in models.

        A model of the user's own hides a built-in one of the same name.
        Raises: InvalidInput with every problem, if one cannot be read or two have the same name.
        """
        catalogue, problems = cls.readable(models_dir)
        if problems:
            raise InvalidInput("; ".join(problems.values()))
        return catalogue

    @classmethod
    def readable(cls, models_dir: Path) -> tuple[Catalogue, Mapping[str, str]]:
        """As `read`, but without the models that have a problem; those come by name, or by the name of the directory
        if nobody knows it, each with the problem."""
        models: dict[str, Model] = {}
        problems: dict[str, str] = {}
        for root in (builtin_models_dir(), models_dir):
            found, wrong = _models_below(root)
            models |= found
            problems |= wrong
        # What was to hide a built-in model and cannot be read must not be that model in silence.
        return cls({name: model for name, model in models.items() if name not in problems}), problems

    def get(self, name: str) -> Model:
        """Raises: NotKnown, naming the models that there are."""
        try:
            return self._models[name]
        except KeyError:
            there_are = ", ".join(self) or "none"
            raise NotKnown(f"model {name!r} is not in the catalogue; there are: {there_are}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._models))

    def __len__(self) -> int:
        return len(self._models)


def _models_below(root: Path) -> tuple[dict[str, Model], dict[str, str]]:
    """Models by name; and by name of model or directory what is wrong with the others."""
    found: dict[str, Model] = {}
    wrong: dict[str, str] = {}
    try:
        directories = sorted(root.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return found, wrong
    except OSError as error:
        return found, {root.name: f"{root}: the models in it cannot be listed: {error.strerror}"}
    for directory in directories:
        try:
            (directory / "model.toml").lstat()
            model = read_model(directory)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            wrong[directory.name] = f"{directory / 'model.toml'}: cannot be read: {error.strerror}"
            continue
        except InvalidInput as error:
            wrong[directory.name] = str(error)
            continue
        if model.name in found:
            wrong[model.name] = (
                f"two directories hold a model named {model.name!r}: "
                f"{found[model.name].directory} and {directory}; rename one in its model.toml"
            )
        found[model.name] = model
    return {name: model for name, model in found.items() if name not in wrong}, wrong

"""One loaded model: the bytes of a picture in, detections out."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence

import cv2
import numpy as np

from .backends import make_backend
from .backends.base import Backend
from .decoders import DECODERS, Decoder, info_of, labels_from, make_decoder
from .errors import ModelUnavailable, WorkerError, current_traceback
from .spec import ModelSpec
from .vision import Preprocessor, decode_picture

Log = Callable[[str, str, Mapping[str, object]], None]  # level, event, fields


@dataclass(frozen=True)
class Answer:
    """What one picture gave. width, height: of the original, in pixels; None if nobody looked at it."""

    detections: List[Dict[str, Any]]
    width: Optional[int]
    height: Optional[int]
    decode_ms: float
    preprocess_ms: float
    infer_ms: float
    postprocess_ms: float


class Model:
    """A backend's session with what goes before and after it. One thread at a time."""

    def __init__(self, spec: ModelSpec, backend: Backend, decoder: Decoder, log: Log) -> None:
        self.spec = spec
        self.backend = backend
        self._decoder = decoder
        self._log = log
        self._info = info_of(spec)
        self._preprocessor = Preprocessor(spec.build)
        self._told_not_finite = False

    def warm_up(self) -> None:
        """Run an input of zeros through backend and decoder, so that the first task is as fast as the others.

        Raises: ValueError if the outputs do not fit the decoder; whatever the vendor's library raises.
        """
        if _takes_files(self.backend):
            self._run_file(bytearray(cv2.imencode(".png", np.zeros((64, 64, 3), np.uint8))[1]))
            return
        build = self.spec.build
        _, geometry = self._preprocessor.prepare(np.zeros((build.input_height, build.input_width, 3), np.uint8))
        outputs = self.backend.infer(np.zeros(build.input_shape, build.dtype))
        rows = self._decoder(outputs, self._info, geometry)
        labels_from(rows, self._info, build.input_width, build.input_height)

    def run(self, body: bytearray) -> Answer:
        """Find what is in one encoded picture.

        Raises: InvalidInput if it is no picture that this worker takes; MemoryError; ValueError if a decoder returns
            what it may not; whatever the vendor's library or a user's decoder raises.
        """
        if not self.backend.reads_pictures:
            self.backend.infer(np.zeros(0, np.uint8))
            return Answer([], None, None, 0.0, 0.0, 0.0, 0.0)
        if _takes_files(self.backend):
            return self._run_file(body)
        times = [time.perf_counter()]
        picture = decode_picture(body)
        height, width = picture.shape[:2]
        times.append(time.perf_counter())
        batch, geometry = self._preprocessor.prepare(picture)
        times.append(time.perf_counter())
        outputs = self.backend.infer(batch)
        times.append(time.perf_counter())
        self._watch_finite(outputs)
        rows = self._decoder(outputs, self._info, geometry)
        detections = labels_from(rows, self._info, width, height)
        times.append(time.perf_counter())
        steps = [1000 * (times[i + 1] - times[i]) for i in range(len(times) - 1)]
        return Answer(detections, width, height, *steps)

    def _run_file(self, body: bytearray) -> Answer:
        """The way of a backend that takes the picture's file and gives finished boxes. It is decoded here only to
        know its size, and to refuse what is no picture as every other backend does."""
        times = [time.perf_counter()]
        height, width = decode_picture(body).shape[:2]
        times.append(time.perf_counter())
        rows = self.backend.infer(np.frombuffer(body, np.uint8))[0]
        times.append(time.perf_counter())
        sure = [tuple(row) for row in rows.tolist() if row[1] >= self._info.confidence_threshold]
        detections = labels_from(sure, self._info, width, height)
        times.append(time.perf_counter())
        decode_ms, infer_ms, postprocess_ms = (1000 * (times[i + 1] - times[i]) for i in range(3))
        return Answer(detections, width, height, decode_ms, 0.0, infer_ms, postprocess_ms)

    def close(self) -> None:
        """Give the accelerator back."""
        self.backend.close()

    def _watch_finite(self, outputs: Sequence[np.ndarray]) -> None:
        """Tell once that a model gives NaN or infinity; decoders drop such boxes without a word."""
        if self._told_not_finite or all(_is_finite(output) for output in outputs):
            return
        self._told_not_finite = True
        self._log("warning", "boxes.dropped", {"model": self.spec.name, "reason": "outputs hold NaN or infinity"})


def open_model(spec: ModelSpec, log: Log) -> Model:
    """Load one model and warm it up.

    Raises: InvalidInput (unknown backend or decoder), BackendUnavailable, ModelUnavailable; each names the model.
    """
    try:
        with ExitStack() as undo:  # the worker lives on with its other models, so nothing of this one may stay
            model = _load(spec, log, undo)
            model.warm_up()
            undo.pop_all()
    except WorkerError as error:
        raise type(error)(f"model {spec.name!r}: {error}") from error
    except Exception as error:  # noqa: BLE001 - vendors' libraries and users' decoders raise anything
        log("error", "model.crashed", {"model": spec.name, "traceback": current_traceback()})
        raise ModelUnavailable(
            f"model {spec.name!r} cannot run on backend {spec.build.backend!r}: {type(error).__name__}: {error}"
        ) from error
    return model


def versions_of(models: Sequence[Model]) -> Dict[str, str]:
    """The versions of the libraries in use, by package."""
    versions = {"numpy": np.__version__, "cv2": cv2.__version__}
    for model in models:
        versions.update(model.backend.versions())
    return versions


def _load(spec: ModelSpec, log: Log, undo: ExitStack) -> Model:
    backend = make_backend(spec.build.backend, spec.build.plugin)
    undo.callback(backend.close)
    if not backend.reads_pictures and spec.decoder != "none":
        raise ModelUnavailable(f"backend {spec.build.backend!r} looks at no picture, so its decoder must be 'none'")
    decoder = DECODERS["none"] if _takes_files(backend) else make_decoder(spec)
    backend.load(spec)
    return Model(spec, backend, decoder, log)


def _takes_files(backend: Backend) -> bool:
    return getattr(backend, "takes_files", False)


def _is_finite(output: np.ndarray) -> bool:
    return output.dtype.kind != "f" or bool(np.isfinite(output).all())

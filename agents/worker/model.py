"""One loaded model: the bytes of pictures in, detections out."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Union

import cv2
import numpy as np

from . import batching
from .backends import make_backend
from .backends.base import Backend
from .decoders import DECODERS, Decoder, info_of, labels_from, make_decoder
from .emulation import Emulation
from .errors import InvalidInput, ModelUnavailable, WorkerError, traceback_of
from .spec import ModelSpec
from .vision import Geometry, Preprocessor, decode_picture

Log = Callable[[str, str, Mapping[str, object]], None]  # level, event, fields


@dataclass(frozen=True)
class Answer:
    """What one picture gave. width, height: of the original, in pixels; None if nobody looked at it.

    infer_ms: this picture's part of the inference, which it may have shared with others.
    """

    detections: List[Dict[str, Any]]
    width: Optional[int]
    height: Optional[int]
    decode_ms: float
    preprocess_ms: float
    infer_ms: float
    postprocess_ms: float

    @property
    def work_ms(self) -> float:
        """Its steps together."""
        return self.decode_ms + self.preprocess_ms + self.infer_ms + self.postprocess_ms


Outcome = Union[Answer, Exception]


@dataclass(frozen=True)
class Prepared:
    """A picture that lies in the model's input. width, height: of the original, in pixels."""

    width: int
    height: int
    geometry: Geometry
    decode_ms: float
    preprocess_ms: float


class Model:
    """A backend's session with what goes before and after it. One thread at a time."""

    def __init__(self, spec: ModelSpec, backend: Backend, decoder: Decoder, log: Log) -> None:
        self.spec = spec
        self.backend = backend
        self.batch_curve: Mapping[int, float] = {}
        """Size -> ms per picture; empty if the build allows no batches."""
        self.batch_sizes: Sequence[int] = (1,)
        """How many pictures to run together, rising."""
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
        geometry = self._preprocessor.prepare(np.zeros((build.input_height, build.input_width, 3), np.uint8))
        outputs = self.backend.infer(np.zeros(build.input_shape, build.dtype))
        rows = self._decoder(outputs, self._info, geometry)
        labels_from(rows, self._info, build.input_width, build.input_height)

    def learn_batches(self, emulation: Optional[Emulation] = None) -> None:
        """Measure how long batches take, and choose the sizes to use.

        Raises: ModelUnavailable if the model cannot run the largest batch that its build allows.
        """
        build = self.spec.build
        if build.max_batch == 1:
            return
        zeros = np.zeros(build.batch_shape(build.max_batch), build.dtype)

        def infer(size: int) -> None:
            began = time.perf_counter()
            self._check_rows(self.backend.infer(zeros[:size]), size)
            if emulation is not None:
                emulation.wait(size, began)

        try:
            self.batch_curve = batching.measured(infer, build.max_batch)
        except WorkerError as error:
            raise ModelUnavailable(f"{error}: correct the graph, or lower max_batch or leave it out") from error
        self.batch_sizes = batching.chosen(self.batch_curve)
        self._preprocessor = Preprocessor(build, max(self.batch_sizes))

    def run(self, body: bytearray) -> Answer:
        """Find what is in one encoded picture.

        Raises: InvalidInput if it is no picture that this worker takes; MemoryError; ValueError if a decoder returns
            what it may not; whatever the vendor's library or a user's decoder raises.
        """
        (outcome,) = self.run_batch([body])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def run_batch(self, bodies: Sequence[bytearray]) -> List[Outcome]:
        """Find what is in encoded pictures with one inference; they are as many as one of `batch_sizes` says.

        Returns: for each one what it gave, or why it alone has failed: what `run` raises.
        Raises: MemoryError, which may be any picture's.
        """
        if not self.backend.reads_pictures:
            self.backend.infer(np.zeros(0, np.uint8))
            return [Answer([], None, None, 0.0, 0.0, 0.0, 0.0) for _ in bodies]
        if _takes_files(self.backend):
            return [_outcome(self._run_file, body) for body in bodies]
        prepared = [_outcome(self._prepare, body, place) for place, body in enumerate(bodies)]
        good = [place for place, picture in enumerate(prepared) if isinstance(picture, Prepared)]
        if not good:
            return prepared
        began = time.perf_counter()
        outputs = self._infer(len(bodies), good)
        infer_ms = 1000 * (time.perf_counter() - began) / len(good)
        answers = list(prepared)
        for place in good:
            answers[place] = _outcome(self._answer, prepared[place], outputs[place], infer_ms)
        return answers

    def close(self) -> None:
        """Give the accelerator back."""
        self.backend.close()

    def _prepare(self, body: bytearray, place: int) -> Prepared:
        times = [time.perf_counter()]
        picture = decode_picture(body)
        times.append(time.perf_counter())
        geometry = self._preprocessor.prepare(picture, place)
        times.append(time.perf_counter())
        decode_ms, preprocess_ms = (1000 * (times[i + 1] - times[i]) for i in range(2))
        return Prepared(picture.shape[1], picture.shape[0], geometry, decode_ms, preprocess_ms)

    def _infer(self, size: int, good: Sequence[int]) -> Mapping[int, Union[List[np.ndarray], Exception]]:
        """The outputs by place in the batch. A batch that fails is run again one by one: one picture may be to blame.

        A place that holds no good picture runs along, so that only sizes run that were measured.
        """
        batch = self._preprocessor.batch(size)
        outputs = _outcome(self.backend.infer, batch)
        if size == 1:
            return {0: outputs}
        if isinstance(outputs, Exception):
            return {place: _outcome(self.backend.infer, batch[place : place + 1]) for place in good}
        return {place: [output[place : place + 1] for output in outputs] for place in good}

    def _answer(self, picture: Prepared, outputs: Union[List[np.ndarray], Exception], infer_ms: float) -> Answer:
        if isinstance(outputs, Exception):
            raise outputs
        began = time.perf_counter()
        self._watch_finite(outputs)
        rows = self._decoder(outputs, self._info, picture.geometry)
        detections = labels_from(rows, self._info, picture.width, picture.height)
        postprocess_ms = 1000 * (time.perf_counter() - began)
        steps_ms = (picture.decode_ms, picture.preprocess_ms, infer_ms, postprocess_ms)
        return Answer(detections, picture.width, picture.height, *steps_ms)

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

    def _check_rows(self, outputs: Sequence[np.ndarray], size: int) -> None:
        for output in outputs:
            if output.shape[:1] != (size,):
                raise ModelUnavailable(f"a batch of {size} pictures gives an output of shape {output.shape}")

    def _watch_finite(self, outputs: Sequence[np.ndarray]) -> None:
        """Tell once that a model gives NaN or infinity; decoders drop such boxes without a word."""
        if self._told_not_finite or all(_is_finite(output) for output in outputs):
            return
        self._told_not_finite = True
        self._log("warning", "boxes.dropped", {"model": self.spec.name, "reason": "outputs hold NaN or infinity"})


def open_model(spec: ModelSpec, log: Log, emulation: Optional[Emulation] = None) -> Model:
    """Load one model and warm it up.

    Raises: InvalidInput (unknown backend or decoder), BackendUnavailable, ModelUnavailable; each names the model.
    """
    try:
        with ExitStack() as undo:  # the worker lives on with its other models, so nothing of this one may stay
            model = _load(spec, log, undo)
            model.warm_up()
            model.learn_batches(emulation)
            undo.pop_all()
    except WorkerError as error:
        raise type(error)(f"model {spec.name!r}: {error}") from error
    except Exception as error:  # noqa: BLE001 - vendors' libraries and users' decoders raise anything
        log("error", "model.crashed", {"model": spec.name, "traceback": traceback_of(error)})
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
    if spec.build.max_batch > 1 and not getattr(backend, "takes_batches", False):
        raise InvalidInput(f"backend {spec.build.backend!r} takes one picture at a time: leave out max_batch")
    decoder = DECODERS["none"] if _takes_files(backend) else make_decoder(spec)
    backend.load(spec)
    return Model(spec, backend, decoder, log)


def _takes_files(backend: Backend) -> bool:
    return getattr(backend, "takes_files", False)


def _outcome(step: Callable[..., Any], *arguments: Any) -> Any:
    """What a step returns, or why it has failed."""
    try:
        return step(*arguments)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - vendors' libraries and users' decoders raise anything
        return error


def _is_finite(output: np.ndarray) -> bool:
    return output.dtype.kind != "f" or bool(np.isfinite(output).all())

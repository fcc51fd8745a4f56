"""Frames on the socket between daemon and worker, and what a worker may say.

A frame is two little-endian uint32 (header bytes, body bytes), then the header (a UTF-8 JSON object that has a
"type"), then the body (a picture, on the way to the worker). A worker is a fault boundary: whatever it sends is checked
here before anything else sees it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field

from edgesched.catalogue import MAX_BATCH
from edgesched.domain.detection import Detection
from edgesched.domain.task import Failure, FailureKind, Result, Timings
from edgesched.errors import InvalidInput
from edgesched.rest import Wire

PREFIX = struct.Struct("<II")
MAX_HEADER_BYTES = 1 << 20
MAX_BODY_BYTES = 256 << 20
"""Both bounds are the worker's as well: a larger frame would end it."""

MAX_MESSAGE_CHARS = 2_000
LARGEST_INT32 = 2**31 - 1

Duration = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PixelCount = Annotated[int, Field(gt=0, le=LARGEST_INT32)]
BatchSize = Annotated[int, Field(ge=1, le=MAX_BATCH)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loading:
    """It begins to load this model: if it dies now, the model is to blame."""

    type: Literal["loading"] = "loading"
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Batches:
    """How many pictures of a model a worker runs together, rising; and what it measured: size -> ms per picture."""

    sizes: tuple[BatchSize, ...]
    curve_ms: dict[BatchSize, Duration]

    @property
    def largest(self) -> int:
        return max(self.sizes, default=1)

    def __str__(self) -> str:
        curve = ", ".join(f"{size}: {ms:.1f}" for size, ms in self.curve_ms.items())
        chosen = f"batches of up to {self.largest}" if self.largest > 1 else "no batches"
        return f"{chosen} (ms per picture by size: {curve})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """These models are loaded and warm; each of the others has its reason.

    batches: of the models whose build allows them.
    """

    type: Literal["ready"] = "ready"
    pid: int
    python: str
    versions: dict[str, str]
    models: tuple[str, ...]
    unavailable_models: dict[str, str] = field(default_factory=dict)
    batches: dict[str, Batches] = field(default_factory=dict)

    @property
    def largest_batch(self) -> int:
        return max((batches.largest for batches in self.batches.values()), default=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unavailable:
    """No model can run here; the worker ends."""

    type: Literal["unavailable"] = "unavailable"
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    type: Literal["started"] = "started"
    attempt_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """The attempt was asked back and had not been begun. One that had been goes on as if nobody had asked."""

    type: Literal["dropped"] = "dropped"
    attempt_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    type: Literal["done"] = "done"
    attempt_id: str
    detections: tuple[Detection, ...]
    width: PixelCount | None
    height: PixelCount | None
    decode_ms: Duration | None
    preprocess_ms: Duration | None
    infer_ms: Duration | None
    postprocess_ms: Duration | None
    service_ms: Duration | None
    others_ms: Duration = 0.0  # of the others in its batch, besides service_ms
    overrun_ms: Duration = 0.0

    def __post_init__(self) -> None:
        for detection in self.detections:
            if detection.class_id > LARGEST_INT32:
                raise InvalidInput(f"class_id {detection.class_id} is too large")

    def result(self, *, queued_ms: float, transfer_ms: float | None) -> Result:
        """The worker's answer together with what the daemon measured.

        The time of the others in its batch counts as waiting: so waiting and service are the time on the board, and
        the service times of all pictures are the time that the worker worked.
        """
        return Result(
            detections=self.detections,
            width=self.width,
            height=self.height,
            timings=Timings(
                queued_ms=queued_ms + self.others_ms,
                decode_ms=self.decode_ms,
                preprocess_ms=self.preprocess_ms,
                infer_ms=self.infer_ms,
                postprocess_ms=self.postprocess_ms,
                service_ms=self.service_ms,
                transfer_ms=transfer_ms,
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    type: Literal["failed"] = "failed"
    attempt_id: str
    kind: Literal["invalid_input", "worker_error"]
    message: str

    def failure(self) -> Failure:
        return Failure(kind=FailureKind(self.kind), message=self.message[:MAX_MESSAGE_CHARS])


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulse:
    """The worker's heartbeat: its process lives, whatever its main thread does."""

    type: Literal["heartbeat"] = "heartbeat"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    type: Literal["log"] = "log"
    level: str
    event: str
    fields: dict[str, Any]


WorkerMessage = Loading | Ready | Unavailable | Started | Dropped | Done | Failed | Pulse | LogLine

_MESSAGE: Wire[WorkerMessage] = Wire(Annotated[WorkerMessage, Discriminator("type")])


_ENCODER = json.JSONEncoder(separators=(",", ":"))  # json.dumps would make one for each frame


def frame_start(header: Mapping[str, Any], body_size: int) -> bytes:
    """Prefix and header of a frame; `body_size` bytes of body have to follow."""
    encoded = _ENCODER.encode(header).encode()
    return PREFIX.pack(len(encoded), body_size) + encoded


class FrameReader:
    """Bytes as they come from a worker -> messages."""

    def __init__(self) -> None:
        self._rest = b""  # of a frame that is not whole

    def feed(self, data: bytes) -> Iterator[WorkerMessage]:
        """The messages that are whole now.

        Raises: InvalidInput for the first frame that breaks the protocol; those before it were yielded.
        """
        data, at = self._rest + data, 0
        while len(data) - at >= PREFIX.size:
            header_size, body_size = PREFIX.unpack_from(data, at)
            if header_size > MAX_HEADER_BYTES or body_size:
                raise InvalidInput(f"a frame of {header_size} header and {body_size} body bytes")
            start = at + PREFIX.size
            if len(data) < start + header_size:
                break
            at = start + header_size
            yield parse(data[start:at])
        self._rest = data[at:]


def parse(header: bytes) -> WorkerMessage:
    """Raises: InvalidInput naming what is wrong with it."""
    return _MESSAGE.parse(header)

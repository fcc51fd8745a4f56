"""What can go wrong in a worker, as a small tree."""

from __future__ import annotations

import traceback

MAX_TRACEBACK_CHARS = 20_000


class WorkerError(Exception):
    """Anything that the worker raises on purpose."""


class InvalidInput(WorkerError):
    """What came in is wrong (a picture, a name, a setting): trying again cannot help."""


class BackendUnavailable(WorkerError):
    """A package or driver is missing under this interpreter."""


class ModelUnavailable(WorkerError):
    """The model's files do not load, or do not fit its description."""


class InferenceFailed(WorkerError):
    """The vendor's library, or the user's program, could not label one picture; the next one may go well."""


class FrameError(WorkerError):
    """The bytes on the socket are no frame: a bound is violated, or the stream ended inside one."""


def traceback_of(error: BaseException) -> str:
    """The traceback of an exception; of a very long one the end."""
    return "".join(traceback.format_exception(type(error), error, error.__traceback__))[-MAX_TRACEBACK_CHARS:]

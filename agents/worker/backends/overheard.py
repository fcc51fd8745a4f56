"""Hear what a vendor's library prints, because its return code is only -1 and the reason is in the text."""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
from typing import Callable, Tuple, TypeVar

T = TypeVar("T")

MAX_HEARD_BYTES = 64 * 1024  # the end of it, where the reason stands


def overheard(call: Callable[[], T]) -> Tuple[T, str]:
    """Make a call and collect what this process writes to stdout and stderr meanwhile, from C as well.

    The text goes on to stderr afterwards, so nothing is lost for the log. A file takes it and not a pipe: with nobody
    reading, a full pipe would block the library for ever.
    Returns: what the call returned, and the text.
    """
    with tempfile.TemporaryFile() as heard:
        _flush()
        streams = [(number, os.dup(number)) for number in (1, 2)]
        try:
            for number, _ in streams:
                os.dup2(heard.fileno(), number)
            result = call()
        finally:
            _flush()
            for number, real in streams:
                os.dup2(real, number)
                os.close(real)
            heard.seek(max(0, heard.seek(0, os.SEEK_END) - MAX_HEARD_BYTES))
            text = heard.read()
            _pass_on(text)
    return result, text.decode(errors="replace")


def _pass_on(text: bytes) -> None:
    while text:
        text = text[os.write(2, text) :]


def _flush() -> None:
    """Python's buffers and those of the C library."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    ctypes.CDLL(None).fflush(None)

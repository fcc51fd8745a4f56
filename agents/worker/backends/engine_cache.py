"""Engines that were built on this board, kept so that only the first start takes minutes."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import time
from contextlib import contextmanager
from typing import Iterator, Optional

from ..errors import ModelUnavailable

WAIT_S = 1800.0  # for another worker that is building the same engine
LOOK_AGAIN_S = 0.2


class EngineCache:
    """One file per engine. Its name says everything that the engine depends on, so a stale one is never found."""

    def __init__(self, directory: str, model_file: str, *facts: str) -> None:
        """facts: what an engine is tied to besides the model: TensorRT's version, the GPU, precision and shape."""
        with open(model_file, "rb") as file:
            digest = hashlib.sha256(file.read()).hexdigest()[:16]
        stem = os.path.splitext(os.path.basename(model_file))[0]
        words = [re.sub(r"[^A-Za-z0-9.]+", "_", word) for word in (stem, digest, *facts)]
        self.path = os.path.join(directory, "-".join(words) + ".engine")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only process that reads or builds this engine: of several workers one builds, the others wait.

        Raises: ModelUnavailable if the directory cannot be written, or the other one takes longer than WAIT_S.
        """
        try:
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            lock = os.open(self.path + ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise ModelUnavailable(
                f"engines are kept in {os.path.dirname(self.path)}, which cannot be written ({error.strerror}): "
                "correct its permissions"
            ) from error
        try:
            self._take(lock)
            yield
        finally:
            os.close(lock)  # this unlocks it too

    def read(self) -> Optional[bytes]:
        """The engine; None if there is none yet."""
        try:
            with open(self.path, "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def write(self, engine: bytes) -> None:
        """Keep an engine; a power cut leaves either all of it or nothing."""
        part = f"{self.path}.part"
        with open(part, "wb") as file:
            file.write(engine)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, self.path)

    def _take(self, lock: int) -> None:
        give_up_at = time.monotonic() + WAIT_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > give_up_at:
                    raise ModelUnavailable(
                        f"another worker has been building {self.path} for {WAIT_S:g} s: stop it"
                    ) from None
                time.sleep(LOOK_AGAIN_S)

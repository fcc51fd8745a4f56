"""Readings that may take long, or for ever, taken where nobody waits for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from agents.boards.readings import SensorSilent

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample(Generic[T]):
    """value: None until there was one. trouble: why there is no newer one, if that went wrong."""

    value: T | None
    age_s: float
    trouble: str | None


class Sampler(Generic[T]):
    """Calls `read` in a thread of its own, one call at a time, and only when somebody asks and the last one is old.

    A driver that blocks for ever blocks that thread and nothing else; then no further call is begun. `read` may raise
    SensorSilent: the last value stays, and grows old. After any other error (a bug; the thread prints it whole) too.
    """

    def __init__(
        self, name: str, read: Callable[[], T], *, every_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """every_s: from the begin of one call to that of the next, at least."""
        self._name = name
        self._read = read
        self._every_s = every_s
        self._clock = clock
        self._lock = threading.Lock()
        self._ended: threading.Event | None = None  # of the last call
        self._begun_at = 0.0
        self._ended_calls = 0
        self._value: T | None = None
        self._value_at = 0.0
        self._trouble: str | None = None

    @property
    def is_on_first_call(self) -> bool:
        with self._lock:
            return self._ended is not None and self._ended_calls == 0

    def latest(self, wait_s: float) -> Sample[T]:
        """The newest value there is. Waits until the call that is under way is `wait_s` old: once for a stuck one."""
        with self._lock:
            if self._is_due():
                self._begin()
            ended, waited_s = self._ended, self._clock() - self._begun_at
        if ended is not None:
            ended.wait(max(0.0, wait_s - waited_s))
        with self._lock:
            return self._sample()

    def _is_due(self) -> bool:
        if self._ended is None:
            return True
        return self._ended.is_set() and self._clock() - self._begun_at >= self._every_s

    def _begin(self) -> None:
        self._begun_at = self._clock()
        self._ended = threading.Event()
        threading.Thread(target=self._run, args=(self._ended, self._begun_at), name=self._name, daemon=True).start()

    def _run(self, ended: threading.Event, begun_at: float) -> None:
        value: T | None = None
        trouble: str | None = f"{self._name}: reading it crashed, see the log"
        try:
            value, trouble = self._read(), None
        except SensorSilent as silent:
            trouble = str(silent)
        finally:
            with self._lock:
                self._trouble = trouble
                self._ended_calls += 1
                if value is not None:
                    self._value, self._value_at = value, begun_at
            ended.set()

    def _sample(self) -> Sample[T]:
        now, trouble = self._clock(), self._trouble
        if self._ended is not None and not self._ended.is_set():
            trouble = f"{self._name} has not answered for {now - self._begun_at:.1f} s"
        return Sample(
            value=self._value, age_s=now - self._value_at if self._value is not None else 0.0, trouble=trouble
        )

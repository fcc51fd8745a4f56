"""How the workers of this board are started, and what is done about those that fail."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Any

from agents.work import Job
from agents.worker_process import Pace

MIB = 1024 * 1024
MAX_REASON_CHARS = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What is done about a worker that fails. The settings say more about each."""

    memory_bytes: int = 2_000 * MIB
    zombie_after_s: float = 30.0
    max_restarts: int = 5
    restart_window_s: float = 60.0
    is_automatic: bool = True  # enable_auto_recovery
    stops_all: bool = False  # stop_all_on_failure


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPlan:
    """How every worker of this board is started."""

    command: tuple[str, ...]  # interpreter and script
    models: tuple[Mapping[str, Any], ...]  # catalogue.Model.worker_spec
    left_out: Mapping[str, str] = field(default_factory=dict)  # models that no worker is given, with the reason
    threads: int = 1
    python_path: tuple[str, ...] = ()
    cache_dir: str = ""  # where engines that are built on this board are kept; empty: the worker's own choice
    emulation: Mapping[str, float] | None = None  # of an emulated board: fields of the worker's Emulation
    rules: Rules = Rules()
    pace: Pace = Pace()  # noqa: RUF009 - it is frozen

    @property
    def max_batch(self) -> int:
        """The most pictures that an inference of any model may take; a worker may choose fewer."""
        return max((spec.get("build", {}).get("max_batch", 1) for spec in self.models), default=1)

    def configure(self, slot: int, without: Container[str] = ()) -> dict[str, Any]:
        return {
            "type": "configure",
            "models": [spec for spec in self.models if spec["name"] not in without],
            "threads": self.threads,
            "slot": slot,
            "python_path": list(self.python_path),
            "cache_dir": self.cache_dir,
            "heartbeat_interval_ms": 1000,
            "emulation": self.emulation,
        }

    def missing(self, loaded: Container[str], reasons: Mapping[str, str]) -> dict[str, str]:
        """The models that a worker does not run, and why."""
        names = (str(spec["name"]) for spec in self.models)
        silent = "its worker did not say why it is not loaded"
        return {name: reasons.get(name, silent)[:MAX_REASON_CHARS] for name in names if name not in loaded}

    def task(self, job: Job) -> dict[str, Any]:
        header: dict[str, Any] = {"type": "task", "attempt_id": job.attempt_id, "model": job.assignment.model}
        if job.is_alone:
            header["is_alone"] = True
        return header

"""Do the models run here? A worker is started as the agent starts it, and says what it could load."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agents.doctor.findings import Finding, ok, problem, warning
from agents.frames import Ready, Unavailable, WorkerMessage
from agents.models import brought_backends, worker_specs
from agents.worker_archive import pack_worker
from agents.worker_plan import WorkerPlan
from agents.worker_process import Pace, WorkerProcess, ending_of
from edgesched.catalogue import Catalogue, builtin_models_dir
from edgesched.errors import InvalidInput
from edgesched.settings import AgentSettings

Spec = Mapping[str, Any]


class Models:
    """What this board would offer: the specifications for its workers, and what is left out before a worker sees it."""

    def __init__(self, settings: AgentSettings, board: str) -> None:
        """Raises: InvalidInput if another package's backend cannot be used."""
        self.directory = settings.models_dir
        self._catalogue, unreadable = Catalogue.readable(settings.models_dir)
        self.brought = brought_backends()
        self.specs, unusable = worker_specs(self._catalogue, board, settings.backend, self.brought)
        self._wrong = {**unreadable, **unusable}
        self._board = board

    @property
    def backends(self) -> frozenset[str]:
        """What the person's own models use; the built-in one is only for a try."""
        return frozenset(spec["build"]["backend"] for spec in self.specs if not is_built_in(spec))

    def left_out(self) -> list[Finding]:
        remedy = "edgesched model check DIR says what is wrong"
        findings = [problem("models", f"{name}: {why}", remedy) for name, why in sorted(self._wrong.items())]
        known = {spec["name"] for spec in self.specs} | self._wrong.keys()
        for name in sorted(set(self._catalogue) - known):
            remedy = f"edgesched model check {self._catalogue.get(name).directory} says what to do"
            findings.append(warning("models", f"{name} has no build for {self._board}", remedy))
        return findings


def is_built_in(spec: Spec) -> bool:
    return Path(spec["directory"]).is_relative_to(builtin_models_dir().resolve())


async def look_at_models(settings: AgentSettings, models: Models, python: str, pace: Pace) -> list[Finding]:
    """Load every model in one worker. It may take minutes where an engine has to be built."""
    if not models.specs:
        remedy = f"put a model's directory there, with a build for this board (docs/models.md): {models.directory}"
        return [*models.left_out(), problem("models", "none can run on this board", remedy)]
    with tempfile.TemporaryDirectory(prefix="edgesched-doctor-") as scratch:
        archive = Path(scratch) / "worker.pyz"
        pack_worker(archive, models.brought.values())
        cache = settings.workspace_dir.absolute() / "cache"
        plan = WorkerPlan(
            command=(python, "-I", str(archive)),
            models=models.specs,
            threads=settings.threads_per_worker,
            python_path=settings.python_path,
            cache_dir=str(cache if cache.is_dir() else scratch),
            pace=pace,
        )
        said = await _first_word(plan)
    return [*models.left_out(), *_verdicts(models.specs, said)]


class _Said(Exception):
    """The worker has tried every model."""

    def __init__(self, word: Ready | str) -> None:
        super().__init__(word)
        self.word = word


def _hear(message: WorkerMessage) -> None:
    """Raises: _Said."""
    if isinstance(message, Ready):
        raise _Said(message)
    if isinstance(message, Unavailable):
        raise _Said(message.reason)


async def _first_word(plan: WorkerPlan) -> Ready | str:
    """What a worker says once it has tried every model; else why it says nothing."""
    try:
        async with WorkerProcess.started(plan.command, "doctor", plan.pace, lambda line: None) as worker:
            try:
                async with asyncio.timeout(plan.pace.start_timeout_s):
                    with contextlib.suppress(OSError):  # it is dying; its end says how
                        await worker.send(plan.configure(0))
                    await worker.listen(_hear)
            except _Said as said:
                return said.word
            except TimeoutError:
                worker.kill()
                return f"the models were not loaded within {plan.pace.start_timeout_s:.0f} s"
            except InvalidInput as error:
                worker.kill()
                return f"the worker broke the protocol: {error}"
            return f"the worker {ending_of(await worker.wait())} while it loaded the models"
    except OSError as error:
        return f"{plan.command[0]} cannot be started as a worker: {error.strerror or error}"


def _verdicts(specs: Sequence[Spec], said: Ready | str) -> list[Finding]:
    if isinstance(said, str):
        return [problem("models", said, None)]
    versions = ", ".join(f"{name} {version}" for name, version in sorted(said.versions.items()))
    findings = []
    for spec in specs:
        name, backend = spec["name"], spec["build"]["backend"]
        if name in said.models:
            findings.append(ok("models", f"{name} runs with backend {backend}"))
            continue
        reason = said.unavailable_models.get(name, f"{name} was not loaded, and no reason given")
        state = warning if is_built_in(spec) else problem
        findings.append(state("models", reason, None))
    return [*findings, ok("versions", versions)]

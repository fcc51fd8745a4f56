"""Which models this board can run, as its workers are told of them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from agents import plugins
from edgesched.catalogue import Build, Catalogue, Model
from edgesched.errors import StartupError

ECHO = "echo"

log = logging.getLogger(__name__)


def worker_specs(
    catalogue: Catalogue, board_type: str, backend: str | None, brought: Mapping[str, str] | None = None
) -> tuple[tuple[dict[str, Any], ...], dict[str, str]]:
    """One specification per model that has a build for this board; and what is wrong with a build that it cannot use.

    backend: instead of each build's own; "echo" looks at no picture, so it needs neither file nor decoder.
    brought: what `brought_backends` found.
    """
    specs = []
    wrong: dict[str, str] = {}
    for name in catalogue:
        model = catalogue.get(name)
        build = model.build_for(board_type) or (next(iter(model.builds.values())) if backend == ECHO else None)
        if build is None:
            log.info("model.left_out", extra={"model": name, "reason": f"no build for {board_type}"})
            continue
        if backend is not None:
            build = build.model_copy(update={"backend": backend})
        if build.backend == ECHO:
            model = model.model_copy(update={"decoder": "none"})
        elif not build.file and build.lacks_file(model.directory):
            wrong[name] = f"backend {build.backend!r} needs a file, and the build in {model.directory} names none"
            continue
        elif build.lacks_file(model.directory):
            wrong[name] = f"{build.file} is not in {model.directory}: put it there, or correct `file` in model.toml"
            continue
        specs.append(worker_spec(model, build, brought or {}))
    return tuple(specs), wrong


def worker_spec(model: Model, build: Build, brought: Mapping[str, str]) -> dict[str, Any]:
    """What a worker is told of one model: Model.worker_spec, and where another package's backend is."""
    spec = model.worker_spec(build)
    if build.backend in brought:
        spec["build"]["plugin"] = brought[build.backend]
    return spec


def check_backend(name: str, brought: Mapping[str, str]) -> None:
    """Raises: StartupError if nobody knows this backend: no model could run."""
    from agents.worker.backends import BACKENDS  # the table alone; the daemon else does without the worker's code

    known = sorted({*BACKENDS, *brought})
    if name not in known:
        raise StartupError(f"--backend {name!r} is no backend: use one of {', '.join(known)}")


def brought_backends() -> Mapping[str, str]:
    """Backends of other packages: name -> module:class. A worker takes a built-in one of the same name first."""
    return {name: point.value for name, point in plugins.brought(plugins.BACKENDS_GROUP).items()}

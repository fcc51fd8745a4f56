"""Which models this board can run, as its workers are told of them."""

from __future__ import annotations

import logging
from typing import Any

from edgesched.catalogue import Catalogue
from edgesched.domain.device import BoardType

ECHO = "echo"

log = logging.getLogger(__name__)


def worker_specs(
    catalogue: Catalogue, board_type: BoardType, backend: str | None
) -> tuple[tuple[dict[str, Any], ...], dict[str, str]]:
    """One specification per model that has a build for this board; and what is wrong with a build that it cannot use.

    backend: instead of each build's own; "echo" looks at no picture, so it needs neither file nor decoder.
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
        elif build.lacks_file(model.directory):
            wrong[name] = f"{build.file} is not in {model.directory}: put it there, or correct `file` in model.toml"
            continue
        specs.append(model.worker_spec(build))
    return tuple(specs), wrong

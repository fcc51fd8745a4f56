"""Pack `agents/worker` into one file that any interpreter can run: a zip archive with a `__main__.py`.

The vendor's interpreter need not have edgesched installed; it gets everything from this file.
"""

from __future__ import annotations

import io
import zipfile
from importlib.util import find_spec
from pathlib import Path

from agents.durable import write_atomically
from edgesched.errors import StartupError

ENTRY_POINT = "from worker.__main__ import main\n\nmain()\n"


def worker_sources() -> Path:
    """The directory of the worker package, found without importing it."""
    spec = find_spec("agents.worker")
    if spec is None or not spec.submodule_search_locations:
        raise StartupError("the package agents.worker is missing: install edgesched again")
    return Path(spec.submodule_search_locations[0])


def pack_worker(target: Path) -> None:
    """Write the archive.

    Packed anew at each start of the daemon, so that it never lags behind the installed code.
    Raises: StartupError if it cannot be written.
    """
    sources = worker_sources()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("__main__.py", ENTRY_POINT)
        for path in sorted(sources.rglob("*.py")):
            packed.write(path, Path("worker") / path.relative_to(sources))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, archive.getvalue())
    except OSError as error:
        raise StartupError(f"{target}: cannot be written ({error.strerror}): choose another --workspace") from error

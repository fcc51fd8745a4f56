"""Pack `agents/worker` into one file that any interpreter can run: a zip archive with a `__main__.py`.

The vendor's interpreter need not have edgesched installed; it gets everything from this file.
"""

from __future__ import annotations

import io
import logging
import zipfile
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

from agents.durable import write_atomically
from edgesched.errors import StartupError

ENTRY_POINT = """\
import sys

if sys.version_info < (3, 8):
    sys.exit("%s is Python %d.%d: the workers need 3.8 or newer" % ((sys.executable,) + tuple(sys.version_info[:2])))

from agents.worker.__main__ import main

main()
"""

log = logging.getLogger(__name__)


def worker_sources() -> Path:
    """The directory of the worker package, found without importing it."""
    spec = find_spec("agents.worker")
    if spec is None or not spec.submodule_search_locations:
        raise StartupError("the package agents.worker is missing: install edgesched again")
    return Path(spec.submodule_search_locations[0])


def pack_worker(target: Path, backends: Iterable[str] = ()) -> None:
    """Write the archive.

    Packed anew at each start of the daemon, so that it never lags behind the installed code.
    backends: module:class of other packages' backends; the Python files of these packages travel along.
    Raises: StartupError if it cannot be written.
    """
    sources = worker_sources()
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("__main__.py", ENTRY_POINT)
        packed.writestr("agents/__init__.py", "")
        for path in sorted(sources.rglob("*.py")):
            packed.write(path, Path("agents/worker") / path.relative_to(sources))
        for package in sorted({name.partition(":")[0].partition(".")[0] for name in backends} - {"agents"}):
            for path, name in _files_of(package):
                packed.write(path, name)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, archive.getvalue())
    except OSError as error:
        raise StartupError(f"{target}: cannot be written ({error.strerror}): choose another --workspace") from error


def _files_of(package: str) -> Iterator[tuple[Path, Path]]:
    """The Python files of a package, found without importing it, and their names in an archive."""
    spec = find_spec(package)
    if spec is None:  # the worker will say what it cannot import
        log.warning("plugin.not_found", extra={"package": package})
        return
    for place in map(Path, spec.submodule_search_locations or ()):
        for path in sorted(place.rglob("*.py")):
            yield path, Path(package) / path.relative_to(place)
    if not spec.submodule_search_locations and spec.origin is not None:
        yield Path(spec.origin), Path(Path(spec.origin).name)

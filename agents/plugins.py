"""Boards and backends that other packages bring. They say so with entry points: docs/adding-a-board.md."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType

from edgesched.errors import StartupError

BOARDS_GROUP = "edgesched.boards"
BACKENDS_GROUP = "edgesched.backends"

log = logging.getLogger(__name__)


def brought(group: str, built_in: Mapping[str, str] = MappingProxyType({})) -> Mapping[str, EntryPoint]:
    """The entry points of a group by their name, which nobody else may have; a built-in name stays what it is."""
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=group):
        if point.name in built_in:
            log.warning("plugin.ignored", extra={"plugin": describe(point), "reason": f"{point.name!r} is built in"})
        elif (other := found.setdefault(point.name, point)).value != point.value:
            reason = f"{describe(other)} has this name already: uninstall one of them"
            log.warning("plugin.ignored", extra={"plugin": describe(point), "reason": reason})
    return found


@contextmanager
def blamed_on(point: EntryPoint) -> Iterator[None]:
    """Code of another package runs inside. Raises: StartupError naming that package, whatever its code raised."""
    try:
        yield
    except Exception as error:  # it may raise anything, and is not ours to end the agent
        raise StartupError(
            f"{describe(point)} cannot be loaded ({type(error).__name__}: {error}): repair or uninstall that package"
        ) from error


def describe(point: EntryPoint) -> str:
    """`rock5 of acme-boards 1.0`."""
    return f"{point.name} of {point.dist.name} {point.dist.version}" if point.dist else f"{point.name} ({point.value})"

"""What really arrived, to be played again: a trace is one line per picture, with its instant and its size.

CSV with the header `at_ms,size_bytes`, or JSON lines with `at_ms` (or `created_at_ms`) and `size_bytes`; other columns
and keys are ignored. Instants may count from anywhere: the first picture arrives at 0.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from random import Random

from edgesched.errors import InvalidInput
from edgesched.simulation.workload import Picture, effort

MAX_PICTURES = 1_000_000
LATEST_MS = 1e15
LARGEST_BYTES = 1_000_000_000
LONGEST_MS = 31 * 24 * 3_600_000.0


def parse(text: str) -> Sequence[tuple[float, int]]:
    """(instant in ms, bytes), oldest first. Raises: InvalidInput naming the line that is wrong."""
    rows = _json_rows(text) if text.lstrip().startswith("{") else _csv_rows(text)
    return arranged(rows)


def arranged(rows: Iterable[tuple[float, int]]) -> Sequence[tuple[float, int]]:
    """Oldest first, the first one at 0. Raises: InvalidInput if there are none, or too many."""
    found = sorted(rows)
    if not 0 < len(found) <= MAX_PICTURES:
        raise InvalidInput(f"the trace must have 1 to {MAX_PICTURES:,} pictures, got {len(found):,}")
    first_ms = found[0][0]
    if found[-1][0] - first_ms > LONGEST_MS:
        raise InvalidInput("the trace must not be longer than 31 days; cut a part out of it")
    return [(at_ms - first_ms, size_bytes) for at_ms, size_bytes in found]


def pictures(trace: Sequence[tuple[float, int]], *, service_cv: float, random: Random) -> Sequence[Picture]:
    return [Picture(at_ms=at_ms, size_bytes=size, effort=effort(service_cv, random)) for at_ms, size in trace]


def _csv_rows(text: str) -> Iterable[tuple[float, int]]:
    reader = csv.DictReader(text.splitlines())
    if not {"at_ms", "size_bytes"} <= set(reader.fieldnames or ()):
        raise InvalidInput("a trace in CSV starts with the header at_ms,size_bytes")
    for row in reader:
        yield _checked(row["at_ms"], row["size_bytes"], reader.line_num)


def _json_rows(text: str) -> Iterable[tuple[float, int]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            at_ms = row["at_ms"] if "at_ms" in row else row["created_at_ms"]
            yield _checked(at_ms, row["size_bytes"], number)
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidInput(f"trace, line {number}: it needs at_ms and size_bytes ({error})") from error


def _checked(at_ms: object, size_bytes: object, line: int) -> tuple[float, int]:
    try:
        instant, size = float(str(at_ms)), int(str(size_bytes))
    except ValueError:
        raise InvalidInput(f"trace, line {line}: at_ms and size_bytes must be numbers") from None
    if not abs(instant) <= LATEST_MS or not 0 < size <= LARGEST_BYTES:
        raise InvalidInput(f"trace, line {line}: at_ms must be a time, and size_bytes 1 to {LARGEST_BYTES}")
    return instant, size

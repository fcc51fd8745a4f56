"""What somebody may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from itertools import islice

MOST_LOOKED_AT = 1_000
"""Comparing costs microseconds each: a request for nonsense must not keep the process busy."""

LONGEST_LOOKED_AT = 100


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'rk3588-1'?`, or nothing if none is near."""
    if len(name) > LONGEST_LOOKED_AT:
        return ""
    names = list(islice(known, MOST_LOOKED_AT))
    by_folded = {known_name.casefold(): known_name for known_name in names}
    close = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=0.6)
    begins = [known_name for known_name in names if len(name) >= 4 and known_name.startswith(name)]
    meant = begins[0] if begins else by_folded[close[0]] if close else None
    return f"; did you mean {meant!r}?" if meant is not None else ""

"""Whether more than one task manager asks this gateway: boards serve one at a time, so that they take them in turns."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from edgesched.clock import Clock
from edgesched.ports import Asker, PlacementPlan, PlacementRequest

RECENT_MS = 10_000.0
"""A task manager asks at least once a second."""
MOST_HEARD = 64

log = logging.getLogger(__name__)


class Rivals:
    """Told of each request. A restarted task manager is a new asker, but the one before it never speaks again."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heard: dict[Asker, float] = {}  # lately, in the order in which they spoke last
        self._rivals: Sequence[Asker] = ()
        self._contested_at_ms = 0.0

    def observe(self, request: PlacementRequest, plan: PlacementPlan) -> None:
        if request.asker is None:
            return
        now_ms = self._clock.monotonic_ms()
        heard = {asker: at_ms for asker, at_ms in self._heard.items() if now_ms - at_ms <= RECENT_MS}
        if request.asker in heard:
            order = list(heard)
            since = order[order.index(request.asker) :]
            if len(since) > 1:  # others have spoken, and now this one again
                self._contested(since, now_ms)
            del heard[request.asker]
        heard[request.asker] = now_ms
        if len(heard) > MOST_HEARD:
            del heard[next(iter(heard))]
        self._heard = heard

    def _contested(self, rivals: Sequence[Asker], now_ms: float) -> None:
        is_new = self.problem() is None
        self._rivals, self._contested_at_ms = rivals, now_ms
        if is_new:
            log.error("gateway.contested", extra={"cause": self.problem()})

    def problem(self) -> str | None:
        """One sentence, while it lasts."""
        if not self._rivals or self._clock.monotonic_ms() - self._contested_at_ms > RECENT_MS:
            return None
        ledgers = ", ".join(sorted(asker.ledger_id for asker in self._rivals))
        return (
            f"{len(self._rivals)} task managers ask this gateway (of the ledgers {ledgers}) and take the boards away "
            "from each other: stop all but one, or give each a gateway of its own"
        )

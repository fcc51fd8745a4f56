"""How the workers of one place have died lately, and what follows from that."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass

from agents.worker_plan import MAX_REASON_CHARS, Rules
from agents.worker_process import Pace

DEATHS_UNTIL_BLAMED = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """After a death. pause_s: until the next worker is started; None: somebody has to start it."""

    deaths: int
    is_down: bool
    pause_s: float | None
    blamed_model: str | None = None  # it is left out from now on


class LoadBlame:
    """Which models kill the worker that loads them. They are left out, so that the others can be served."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}
        """The models that are left out."""
        self._loading: str | None = None
        self._deaths: Counter[str] = Counter()

    def begins(self, model: str) -> None:
        self._loading = model

    def is_over(self) -> None:
        """All models are loaded, or the worker has said why not."""
        self._loading = None

    def died(self, how: str) -> str | None:
        """The worker is dead. Returns the model that is left out from now on because of this, if there is one."""
        model, self._loading = self._loading, None
        if model is None:
            return None
        self._deaths[model] += 1
        if self._deaths[model] < DEATHS_UNTIL_BLAMED:
            return None
        why = f"each worker that loaded it died, at last: {how}; replace the model's file or the vendor's library"
        self.reasons[model] = f"{why}, then restart the workers"[:MAX_REASON_CHARS]
        return model

    def forget(self) -> None:
        """Try all models again."""
        self.reasons.clear()
        self._deaths.clear()


class Recovery:
    """Counts deaths in a row: a task that was finished in between shows that the worker is not to blame."""

    def __init__(self, rules: Rules, pace: Pace) -> None:
        self.blame = LoadBlame()
        self._rules = rules
        self._pace = pace
        self._deaths: deque[float] = deque()

    def died(self, now: float, how: str) -> Verdict:
        """A death that nobody wanted. how: in words."""
        if (model := self.blame.died(how)) is not None:
            self._deaths.clear()  # without that model things may be better
            return Verdict(deaths=1, is_down=False, pause_s=self._pace.first_pause_s, blamed_model=model)
        self._deaths.append(now)
        while self._deaths[0] < now - self._rules.restart_window_s:
            self._deaths.popleft()
        count = len(self._deaths)
        if not self._rules.is_automatic or count > self._rules.max_restarts:
            self._deaths.clear()
            is_for_good = self._rules.stops_all or not self._rules.is_automatic
            return Verdict(deaths=count, is_down=True, pause_s=None if is_for_good else self._pace.down_pause_s)
        pause_s = min(self._pace.longest_pause_s, self._pace.first_pause_s * 2.0 ** min(count - 1, 20))
        return Verdict(deaths=count, is_down=False, pause_s=pause_s)

    def worked(self) -> None:
        """A task was finished."""
        self._deaths.clear()

    def begin_anew(self) -> None:
        """Somebody starts the worker and expects that it is tried with all models."""
        self._deaths.clear()
        self.blame.forget()

"""Whether anything stands in the way at present, and for how long nothing has."""

from collections import Counter
from typing import Final

from tests.simulation.weather import NEW_SECONDS

FOREVER: Final = float("inf")
GRACE: Final = 45.0
"""What was decided on what was true then may still arrive: a pass makes several calls, each of 12 s while they fail."""
CALM_GRACE: Final = 3.0
"""The same while nothing stands in the way."""


class Calm:
    """Counts the faults in force, by kind. Lagging reads stand in nobody's way who knows the ids of the rules."""

    def __init__(self) -> None:
        self._faults: Counter[str] = Counter()
        self._since = {"all": 0.0, "heard": 0.0}
        self._lagged_until = 0.0

    def begins(self, kind: str) -> None:
        """A fault begins."""
        self._faults[kind] += 1

    def ends(self, kind: str, after: float, after_heard: float, now: float) -> None:
        """It is over, and forgotten `after` seconds from now, or `after_heard` where ids are known."""
        self._faults[kind] -= 1
        if kind == "lag":
            self._lagged_until = now
        self._since["all"] = max(self._since["all"], now + after)
        self._since["heard"] = max(self._since["heard"], now + after_heard)

    def since(self, *, heard: bool = False) -> float:
        """Since when nothing stands in the way; in the future while it has an aftermath, never while it lasts."""
        if any(count for kind, count in self._faults.items() if not (heard and kind == "lag")):
            return FOREVER
        return self._since["heard" if heard else "all"]

    def known_from(self, born: float) -> float:
        """From when on EC2 knows the id of a rule that it has put then, wherever it is asked."""
        return min(born + NEW_SECONDS, FOREVER if self._faults["lag"] else self._lagged_until)

    def grace(self, now: float) -> float:
        """How long ago something may have been true on which what arrives now was decided."""
        return CALM_GRACE if self.since() < now - GRACE else GRACE

"""How fast sessions open, and how late they close."""

from collections.abc import Callable
from datetime import datetime
from typing import Final

from prometheus_client import CollectorRegistry, Histogram

from gatepass.core.types.session import FINAL, AccessSession, AccessSessionStatus, Phase

_OPENING_SECONDS: Final = (0.5, 1, 1.5, 2, 3, 5, 10, 20, 30, 60, 120, 300, 600, 1800)
"""A creation is known to the second, so that less says nothing; room may take as long as a session lasts."""
_CLOSING_SECONDS: Final = (0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)


class SessionTimes:
    """Hears of every status that is written. `lateness` answers how late a session's rules went, by Insight."""

    def __init__(
        self,
        registry: CollectorRegistry,
        now: Callable[[], datetime],
        lateness: Callable[[AccessSession], float | None],
    ) -> None:
        self._now = now
        self._lateness = lateness
        self._opening = Histogram(
            "gatepass_session_ready_seconds",
            "Seconds from the creation of a session, which is known to the second, to its first Ready. Sessions that "
            "were Failed or Partial before are not in it.",
            buckets=_OPENING_SECONDS,
            registry=registry,
        )
        self._closing = Histogram(
            "gatepass_session_closing_lateness_seconds",
            "Seconds from the deadline or end of a session to the acknowledgement of the last revocation of a rule of "
            "its own. Sessions whose rules were somebody else's, or went with another process, are not in it.",
            buckets=_CLOSING_SECONDS,
            registry=registry,
        )

    def written(self, before: AccessSession, status: AccessSessionStatus) -> None:
        """A session that was `before` has been given the status."""
        phase = before.status.phase
        if status.phase is phase:
            return
        if status.phase is Phase.ACTIVE and phase in (None, Phase.PENDING):
            self._opening.observe((self._now() - before.metadata.creation_timestamp).total_seconds())
        elif status.phase in FINAL:
            late = self._lateness(before)
            if late is not None:
                self._closing.observe(late)

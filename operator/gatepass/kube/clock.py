"""The operator's clock, corrected by the API server's, so that both agree when time is up."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

import structlog

log = structlog.get_logger(__name__)

_TOLERATED: Final = timedelta(seconds=2)
"""The Date header has whole seconds and an answer takes its time: less than this is no difference."""


class CorrectedClock:
    """UTC as the API server tells it in the Date header of its answers; seconds since boot for what must not jump.

    `corrected` is called when the difference has changed.
    """

    def __init__(self) -> None:
        self._ahead = timedelta()
        self.corrected: Callable[[], None] = lambda: None

    @property
    def ahead_seconds(self) -> float:
        """How far the operator's own clock is ahead of the API server's; 0 for a difference that is none."""
        return self._ahead.total_seconds()

    def now(self) -> datetime:
        """The present, in UTC."""
        return datetime.now(UTC) - self._ahead

    def monotonic(self) -> float:
        """Seconds that never go backwards."""
        return time.monotonic()

    def heard(self, date: str | None) -> None:
        """Take the Date header of an answer that has just come in; a missing or broken one says nothing."""
        try:
            theirs = parsedate_to_datetime(date or "")
        except ValueError:
            return
        ahead = datetime.now(UTC) - theirs
        if abs(ahead - self._ahead) > _TOLERATED:
            log.warning("clock differs from the API server's and is corrected", seconds_ahead=ahead.total_seconds())
            self._ahead = ahead
            self.corrected()
        elif abs(ahead) <= _TOLERATED:
            self._ahead = timedelta()

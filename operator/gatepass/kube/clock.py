"""The operator's clock, set by the API server's, so that both agree when time is up."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

import structlog

log = structlog.get_logger(__name__)

_TOLD_SECONDS: Final = 1.0
"""What was to be done at some time is looked at again when the clock has been set by more than this."""


class CorrectedClock:
    """UTC as the API server tells it in the Date header of its answers; seconds since boot for what must not jump.

    The machine's own time of day is asked once, and what is set or stepped there later changes nothing. `corrected`
    is called when the clock has been set by more than a second.
    """

    def __init__(self) -> None:
        self._boot = time.time() - time.monotonic()  # what the time of day was at second 0 of the monotonic clock
        self._told = self._boot
        self.corrected: Callable[[], None] = lambda: None

    def now(self) -> datetime:
        """The present, in UTC."""
        return datetime.fromtimestamp(self._boot + self.monotonic(), UTC)

    def monotonic(self) -> float:
        """Seconds that never go backwards."""
        return time.monotonic()

    def heard(self, date: str | None, asked: float) -> None:
        """Take the Date header of an answer that came in now, to a question of the monotonic second `asked`.

        The header, in whole seconds, was written at some moment in between: the clock is set only as far as that
        leaves no doubt, so that a slow answer says little. A missing or broken header says nothing.
        """
        try:
            theirs = parsedate_to_datetime(date or "").timestamp()
        except ValueError:
            return
        earliest, latest = theirs - self.monotonic(), theirs + 1.0 - asked
        if self._boot > latest + _TOLD_SECONDS:
            self._boot = earliest  # rather late by a second than early: later answers bring it nearer
        self._boot = min(max(self._boot, earliest), latest)
        moved = self._boot - self._told
        if abs(moved) > _TOLD_SECONDS:
            self._told = self._boot
            log.warning("clock differs from the API server's and is corrected", seconds=round(moved, 3))
            self.corrected()

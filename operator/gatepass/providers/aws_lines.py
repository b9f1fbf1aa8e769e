"""Is a service silent? Then few calls ask whether it answers again, and nobody else holds a thread.

Otherwise a Region out of reach would hold every thread, each for as long as a connection may take.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from gatepass.core.errors import Failure, ProviderError, UnknownOutcomeError
from gatepass.providers.aws_errors import UNANSWERED, UNSENT

_SILENT_AFTER: Final = 3
"""So many calls in a row had no answer."""
_ANOTHER_AFTER_SECONDS: Final = 1.0
"""What was sent into an outage hears nothing of its end, until its time is up; who asks later does."""


@dataclass(slots=True)
class _Line:
    under_way: int = 0
    unanswered: int = 0
    answers: int = 0
    asked_at: float = 0.0

    def answered(self) -> None:
        """A no is an answer too."""
        self.answers += 1
        self.unanswered = 0


class Lines:
    """What is known of each service in each place. All together, `spare` calls ask where another one asks already."""

    def __init__(self, spare: int) -> None:
        self._spare = spare
        self._lines: defaultdict[Hashable, _Line] = defaultdict(_Line)

    @contextmanager
    def call(self, place: Hashable, now: float) -> Iterator[None]:
        """One call, at the monotonic second `now`; raises ProviderError at once while enough others are asking.

        One that is not made after all tells nothing, and keeps nobody out.
        """
        line = self._lines[place]
        another = line.unanswered >= _SILENT_AFTER and line.under_way > 0
        if another and (now < line.asked_at + _ANOTHER_AFTER_SECONDS or not self._spare):
            raise ProviderError(Failure.RETRY, "NoConnection", "AWS does not answer in this Region, and is asked again")
        asked_before, line.asked_at, answers = line.asked_at, now, line.answers
        line.under_way += 1
        self._spare -= another
        try:
            yield
        except Exception as error:
            if not _was_made(error):
                if line.asked_at == now:  # else somebody has asked since
                    line.asked_at = asked_before
            elif not _was_lost(error):
                line.answered()
            elif line.answers == answers:  # else somebody who has asked later was answered meanwhile
                line.unanswered += 1
            raise
        else:
            line.answered()
        finally:
            line.under_way -= 1
            self._spare += another


def _was_made(error: Exception) -> bool:
    """What is of our own making was not: no token, not leading any more, nothing to sign with."""
    return isinstance(error, UnknownOutcomeError) or (isinstance(error, ProviderError) and error.reason not in UNSENT)


def _was_lost(error: Exception) -> bool:
    return not isinstance(error, ProviderError) or error.reason in UNANSWERED

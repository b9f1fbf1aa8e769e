"""How calls about one firewall object fare, by their kind and by the credentials that they are made with."""

from collections.abc import Collection, Container, Iterable
from dataclasses import dataclass, replace
from enum import Flag, auto
from typing import Final, Literal

from gatepass.core.errors import Failure, ProviderError
from gatepass.core.plan import Write
from gatepass.core.ports import Access, Duplicate, Unknown

Kind = Write | Literal["reads"]
Call = tuple[Access, Kind]
"""A kind of call with some credentials."""

_HIDDEN: Final = ProviderError(
    Failure.RETRY, "DuplicateNotSeen", "a rule that is to be put is there, and reads do not show it yet"
)
_NO_ANSWER: Final = ProviderError(Failure.RETRY, "NoAnswer", "the answer was lost")


class Left(Flag):
    """What a pass leaves undone: what there was no call for comes back with the next one, a failure after a pause.

    What was left TO_OTHERS, who need the calls more, comes back in a second.
    """

    NOTHING = 0
    PUT_OFF = auto()
    FAILED = auto()
    TO_OTHERS = auto()

    def to_others(self) -> "Left":
        """The same, of what yields to others."""
        return (self & ~Left.PUT_OFF) | Left.TO_OTHERS if Left.PUT_OFF in self else self


@dataclass(frozen=True, slots=True)
class Tried:
    """The last call of a kind was made `at`, and `error` was the matter with it.

    Another one is needed since `needed_since`, and since `scarce_since` there has been none to be had. Times are
    seconds of the event loop's clock.
    """

    at: float = float("-inf")
    error: ProviderError | None = None
    needed_since: float | None = None
    scarce_since: float | None = None

    def begin(self, at: float, *, needed: bool, scarce: bool) -> "Tried":
        """A pass begins."""
        if not needed:
            return replace(self, needed_since=None, scarce_since=None)
        scarce_since = at if scarce and self.scarce_since is None else self.scarce_since
        needed_since = at if self.needed_since is None else self.needed_since
        return replace(self, needed_since=needed_since, scarce_since=scarce_since)


class Tries:
    """The last call of each kind with each credentials."""

    def __init__(self) -> None:
        self._last: dict[Call, Tried] = {}

    def last(self, access: Access, kind: Kind) -> Tried:
        """What became of it."""
        return self._last.get((access, kind), Tried())

    def begin(self, accesses: Collection[Access], needed: Collection[Call], scarce: Container[Kind], at: float) -> None:
        """A pass begins: which calls are needed, and of which kinds there is none. Others than `accesses` go."""
        self._last = {
            call: self.last(*call).begin(at, needed=call in needed, scarce=call[1] in scarce)
            for call in self._last.keys() | needed
            if call[0] in accesses
        }

    def made(self, call: Call, at: float, error: ProviderError | None = None) -> bool:
        """It was made. Answers whether what was the matter with it is another thing than before."""
        before = self.error(call)
        self._last[call] = replace(self.last(*call), at=at, error=error, scarce_since=None)
        return error is not None and (before is None or before.reason != error.reason)

    def error(self, call: Call) -> ProviderError | None:
        """What is the matter with it: of what nobody has needed meanwhile, the last answer tells nothing."""
        tried = self.last(*call)
        if call[1] == "reads":  # which are always needed
            return tried.error
        return tried.error if tried.needed_since is not None and tried.at >= tried.needed_since else None

    def trouble(self, call: Call) -> ProviderError | None:
        """What is the matter with it that counts: a mark that is late for a moment is in nobody's way."""
        return self.error(call) if call[1] not in ("relabels", "retags") or self.refuses(call) else None

    def plenty(self, access: Access, kind: Write) -> bool:
        """Was there no need to wait for it?"""
        return self.last(access, kind).scarce_since is None

    def refuses(self, call: Call) -> bool:
        """Is it refused, for longer than a moment?"""
        error = self.error(call)
        return error is not None and error.failure is not Failure.RETRY

    def not_made(self, call: Call) -> Left:
        """It was not made, or not for all: of one with which something is the matter, that is no news."""
        return Left.FAILED if self.error(call) else Left.PUT_OFF

    def in_turn(self, accesses: Iterable[Access], kind: Write) -> list[Access]:
        """Those who can do the same: first whom nothing was the matter with, then who was asked longest ago."""
        tried = {access: self.last(access, kind) for access in accesses}
        return sorted(tried, key=lambda access: tried[access].at if tried[access].error else float("-inf"))

    def fails(self) -> bool:
        """Is something the matter with any write?"""
        return any(call[1] != "reads" and self.trouble(call) for call in self._last)


def matter(outcomes: Iterable[object]) -> ProviderError | None:
    """What was the matter with a call, if with some of its members only."""
    return next(filter(None, map(_error, outcomes)), None)


def _error(outcome: object) -> ProviderError | None:
    match outcome:
        case ProviderError():
            return outcome
        case Duplicate():
            return _HIDDEN
        case Unknown():
            return _NO_ANSWER
    return None

"""How calls about one firewall object fare, by their kind and by the credentials that they are made with."""

from collections.abc import Collection, Container, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Flag, auto
from typing import Literal

from gatepass.core.errors import Failure, ProviderError
from gatepass.core.plan import Write
from gatepass.core.ports import Access

Kind = Write | Literal["reads"]
Call = tuple[Access, Kind]
"""A kind of call with some credentials."""


class Left(Flag):
    """What a pass leaves undone: what there was no call for comes back with the next one, a failure after a pause."""

    NOTHING = 0
    PUT_OFF = auto()
    FAILED = auto()


@dataclass(frozen=True, slots=True)
class Tried:
    """The last call of a kind was made `at`, and `error` was the matter with it.

    Since `scarce_since` there has been none for who still wants one. Times are seconds of the event loop's clock.
    """

    at: float = float("-inf")
    error: ProviderError | None = None
    scarce_since: float | None = None


class Tries:
    """The last call of each kind with each credentials."""

    def __init__(self) -> None:
        self._last: dict[Call, Tried] = {}

    def last(self, access: Access, kind: Kind) -> Tried:
        """What became of it."""
        return self._last.get((access, kind), Tried())

    def made(self, call: Call, at: float, error: ProviderError | None = None) -> bool:
        """It was made. Answers whether what was the matter with it is another thing than before."""
        before, self._last[call] = self.last(*call).error, Tried(at, error)
        return error is not None and (before is None or before.reason != error.reason)

    def refuses(self, call: Call) -> bool:
        """Was it refused, for longer than a moment?"""
        error = self.last(*call).error
        return error is not None and error.failure is not Failure.RETRY

    def not_made(self, call: Call) -> Left:
        """It was not made, or not for all: of one with which something was the matter, that is no news."""
        return Left.FAILED if self.last(*call).error else Left.PUT_OFF

    def in_turn(self, accesses: Iterable[Access], kind: Write) -> list[Access]:
        """Those who can do the same: first whom nothing was the matter with, then who was asked longest ago."""
        tried = {access: self.last(access, kind) for access in accesses}
        return sorted(tried, key=lambda access: tried[access].at if tried[access].error else float("-inf"))

    def begin(
        self,
        accesses: Collection[Access],
        wanted: Mapping[Write, Iterable[Access]],
        scarce: Container[Write],
        at: float,
    ) -> None:
        """A pass begins to write: who wants to, and of what there is no call at present. Others than `accesses` go."""
        waiting = {(access, kind) for kind, wanting in wanted.items() for access in wanting}
        last = {call: self.last(*call) for call in self._last.keys() | waiting if call[0] in accesses}
        self._last = {
            call: replace(tried, scarce_since=_scarce_since(tried, at, call[1] in scarce) if call in waiting else None)
            for call, tried in last.items()
        }

    @property
    def calls(self) -> Collection[Call]:
        """All that were made, or are waited for."""
        return self._last.keys()


def _scarce_since(tried: Tried, at: float, scarce: bool) -> float | None:
    return at if scarce and tried.scarce_since is None else tried.scarce_since

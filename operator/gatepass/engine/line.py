"""Who is in line, and was not heard: his place is his until it is known again whether he is let in."""

import asyncio
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

from gatepass.core.desired import Claim
from gatepass.core.policy import UNANSWERED
from gatepass.core.rules import Rule, rules_for
from gatepass.core.status import addresses_of
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import AccessSession
from gatepass.engine.grants import Grants, was_granted
from gatepass.engine.state import NOT_ASKED, State, Unanswered

_KEPT_SECONDS: Final = 120.0
"""How long a place is kept for whom nobody has heard: others wait behind him."""


class Line:
    """Questions to the state, as `Grants` answers them; `now` is an argument."""

    def __init__(self, state: State, grants: Grants) -> None:
        self._state = state
        self._grants = grants

    def awaits(self, session: AccessSession, resource: ProtectedResource, now: datetime) -> bool:
        """Is it live, has not got the resource, and may be let in when all have answered, if that comes soon?

        Admission, which has no answer yet or was not asked since the start, and whoever looks for its address.
        """
        answer = self._state.admitted.get((session.uid, resource.key), NOT_ASKED)
        if isinstance(answer, Unanswered):
            since = answer.since
        elif session.metadata.creation_timestamp <= self._state.started_at and (
            answer is NOT_ASKED or (answer is None and not self._grants.ranges(session) and addresses_of(session))
        ):
            since = self._state.started
        else:
            return False
        kept = asyncio.get_running_loop().time() < since + _KEPT_SECONDS
        return (
            kept and not was_granted(session.resource_status(resource.key)) and self._grants.end(session, now) is None
        )

    def rules(self, resource: ProtectedResource, now: datetime) -> Iterator[Rule]:
        """What they want: an earlier process may have been told that they are let in, and have put it."""
        for session in self._awaited(resource, now):
            yield from rules_for(resource.spec.ports, self._ranges(session))

    def claims(self, resource: ProtectedResource, now: datetime) -> Iterator[Claim]:
        """What they will claim, before all who came after them and may have been let in already."""
        for session in self._awaited(resource, now):
            refused, ranges = self._grants.refusal(session, resource.key, now), self._ranges(session)
            if ranges and (refused is None or refused.reason == UNANSWERED):
                yield self._grants.wish(session, resource, ranges)

    def _awaited(self, resource: ProtectedResource, now: datetime) -> Iterator[AccessSession]:
        sessions = self._state.store.sessions_of(resource.key)
        return (session for session in sessions if self.awaits(session, resource, now))

    def _ranges(self, session: AccessSession) -> Sequence[str]:
        """By its record, while nobody has found where it comes from."""
        return self._grants.ranges(session) or [address.cidr for address in addresses_of(session)]

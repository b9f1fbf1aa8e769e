"""Who was in line before the start: his place is his until it is known again whether he is let in."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from gatepass.core.desired import Claim
from gatepass.core.policy import UNANSWERED
from gatepass.core.rules import Rule, rules_for
from gatepass.core.status import addresses_of
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import AccessSession
from gatepass.engine.grants import Grants, was_granted
from gatepass.engine.state import NOT_ASKED, State


class Line:
    """Questions to the state, as `Grants` answers them; `now` is an argument."""

    def __init__(self, state: State, grants: Grants) -> None:
        self._state = state
        self._grants = grants

    def awaits(self, session: AccessSession, resource: ProtectedResource, now: datetime) -> bool:
        """Is it live and from before the start, has not got the resource, and may be let in when all have answered?

        Whoever looks for its address, and admission.
        """
        if session.metadata.creation_timestamp > self._state.started_at:
            return False
        answer = self._state.admitted.get((session.uid, resource.key), NOT_ASKED)
        if answer is None and (self._grants.ranges(session) or not addresses_of(session)):
            return False
        if answer is not None and answer is not NOT_ASKED and answer.reason != UNANSWERED:
            return False
        return not was_granted(session.resource_status(resource.key)) and self._grants.end(session, now) is None

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

"""Who is granted what right now: lifecycle, policy and admission put together, recomputed from the whole state."""

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Final

from pydantic import ValidationError

from gatepass.core import lifecycle
from gatepass.core.desired import Claim, session_claim, static_claims
from gatepass.core.policy import KEY_UNKNOWN, NOT_FOUND, NOT_SEEN, WITHDRAWN, Refusal, Surroundings, refusal, withdrawal
from gatepass.core.rules import Rule, rules_for
from gatepass.core.types.binding import KEY_USER
from gatepass.core.types.common import MAX_RULES_PER_SESSION, REQUESTED_BY, Key, format_duration
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import AccessSession, EndedReason, Requester, SessionResourceStatus
from gatepass.engine.state import State

_NEWS_LAG: Final = timedelta(seconds=3)
"""How much older than other news the news of one kind may be; creation is told in whole seconds."""


def requester_of(session: AccessSession) -> Requester | None:
    """Who created the session, as admission stamped it; None when there is no stamp that can be read."""
    return _requester(session.metadata.annotations.get(REQUESTED_BY, ""))


@lru_cache(maxsize=4096)
def _requester(stamp: str) -> Requester | None:
    try:
        return Requester.model_validate(json.loads(stamp))
    except (ValueError, ValidationError):
        return None


def was_granted(entry: SessionResourceStatus | None) -> bool:
    """Had the session got this resource once?"""
    return entry is not None and (bool(entry.rules) or entry.reason == WITHDRAWN)


def key_of(requester: Requester | None) -> Key | None:
    """The ApiKeyBinding whose key started a session; None when a person or a controller did."""
    if requester is None or not requester.username.startswith(KEY_USER):
        return None
    namespace, _, name = requester.username.removeprefix(KEY_USER).partition("/")
    return Key(namespace, name)


class Grants:
    """Questions to the state; `now` is an argument, as in the core. Answers are kept while what they rest on stands."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._verdicts: dict[tuple[str, str], tuple[object, Refusal | None]] = {}
        self._claims: dict[tuple[str, str], tuple[object, Claim]] = {}

    def forget(self, session: AccessSession) -> None:
        """The session is no more."""
        for key in session.resource_keys():
            resource = self._state.store.resources.get(key)
            if resource is not None:
                self._verdicts.pop((session.uid, resource.uid), None)
                self._claims.pop((session.uid, resource.uid), None)

    def deadline(self, session: AccessSession) -> tuple[datetime, EndedReason]:
        """When the session's time is up."""
        resources = (self._state.store.resources.get(key) for key in session.resource_keys())
        at, reason = lifecycle.deadline(session, [r.spec.policy.max_duration for r in resources if r is not None])
        cutoff = self._state.cutoff
        if cutoff is not None and session.metadata.creation_timestamp < cutoff < at:
            return cutoff, EndedReason.NOT_AFTER
        return at, reason

    def end(self, session: AccessSession, now: datetime) -> lifecycle.End | None:
        """The end of the session, if it has come. Once its rules may go it stays ended, whatever its spec says then."""
        found = lifecycle.end(
            session,
            now,
            self.deadline(session),
            withdrawn=self._withdrawn(session, now),
            key_revoked=self._key_revoked(session, now),
        )
        if found is not None and found.latched:
            self._state.closed[session.uid] = found
            return found
        if session.uid in self._state.closed:
            return self._state.closed[session.uid]
        if found is None:
            self._state.ending.pop(session.uid, None)
            return None
        # The answer to the write of an end may be lost: what is written again is the same end.
        first = self._state.ending.setdefault(session.uid, found)
        if lifecycle.closed(found):
            self._state.closed[session.uid] = first
        return first

    def closed(self, session: AccessSession, now: datetime) -> bool:
        """May its rules go?"""
        end = self.end(session, now)
        return end is not None and (end.latched or session.uid in self._state.closed)

    def _key_revoked(self, session: AccessSession, now: datetime) -> bool:
        requester = requester_of(session)
        key = key_of(requester)
        if key is None or requester is None:
            return False
        binding = self._state.store.bindings.get(key)
        if binding is None:
            return now >= session.metadata.creation_timestamp + _NEWS_LAG
        return binding.uid != requester.uid or binding.spec.revoked or binding.deleting

    def _withdrawn(self, session: AccessSession, now: datetime) -> bool:
        keys = session.resource_keys()
        return any(was_granted(session.resource_status(key)) for key in keys) and all(
            self.refusal(session, key, now) is not None for key in keys
        )

    def refusal(self, session: AccessSession, key: Key, now: datetime) -> Refusal | None:
        """Why the session does not get the resource."""
        resource = self._state.store.resources.get(key)
        before = session.resource_status(key)
        granted = was_granted(before)
        if resource is None:
            return Refusal(NOT_FOUND, f"ProtectedResource {key} does not exist")
        if granted and before is not None and before.uid not in (None, resource.uid):
            return Refusal("ResourceReplaced", f"ProtectedResource {key} is another one than this session was granted")
        refused = self._by_policy(session, resource, granted=granted)
        if granted:
            return refused or self._outlasted(session, resource, now)
        return refused or self._too_many(session) or self._state.admitted.get((session.uid, key))

    def unseen(self, session: AccessSession, now: datetime) -> datetime | None:
        """Until when to wait for news of what the session names: events of several kinds come in any order."""
        until = session.metadata.creation_timestamp + _NEWS_LAG
        if now >= until:
            return None
        refusals = (self.refusal(session, key, now) for key in session.resource_keys())
        return (
            until if any(found and found.reason in (NOT_FOUND, NOT_SEEN, KEY_UNKNOWN) for found in refusals) else None
        )

    def _by_policy(self, session: AccessSession, resource: ProtectedResource, *, granted: bool) -> Refusal | None:
        """What policy says, asked again only when one of the objects, or what is around them, has changed."""
        around = self._surroundings(session, resource)
        asked = (session.metadata.generation, resource.metadata.generation, resource.deleting, granted, around)
        known = self._verdicts.get((session.uid, resource.uid))
        if known is not None and known[0] == asked:
            return known[1]
        answer = (withdrawal if granted else refusal)(session, resource, around)
        self._verdicts[session.uid, resource.uid] = asked, answer
        return answer

    def _surroundings(self, session: AccessSession, resource: ProtectedResource) -> Surroundings:
        namespaces = self._state.store.namespaces
        here = namespaces.get(session.metadata.namespace)
        there = namespaces.get(resource.metadata.namespace)
        return Surroundings(
            session_namespace_labels=here.labels if here else None,
            resource_namespace_deleting=there.deleting if there else False,
        )

    def _outlasted(self, session: AccessSession, resource: ProtectedResource, now: datetime) -> Refusal | None:
        longest = resource.spec.policy.max_duration
        if now < session.started_at + longest:
            return None
        return Refusal(
            WITHDRAWN, f"ProtectedResource {resource.key} allows {format_duration(longest)} now (policy.maxDuration)"
        )

    def _too_many(self, session: AccessSession) -> Refusal | None:
        found = (self._state.store.resources.get(key) for key in session.resource_keys())
        needs = len(session.spec.source.ranges) * sum(len(resource.spec.ports) for resource in found if resource)
        if needs <= MAX_RULES_PER_SESSION:
            return None
        return Refusal("TooManyRules", f"the session needs {needs} rules, and {MAX_RULES_PER_SESSION} are the most")

    def claim(self, session: AccessSession, resource: ProtectedResource, now: datetime) -> Claim | None:
        """What the session wants of the resource now; None when it may have nothing, or is not decided on yet."""
        key = resource.key
        if self.closed(session, now) or self.refusal(session, key, now) is not None:
            return None
        granted = was_granted(session.resource_status(key))
        admitted = resource.held and session.held and (session.uid, key) in self._state.admitted
        ending = self.end(session, now) is not None
        if not granted and (not admitted or ending):
            return None  # what has not begun does not begin any more, written down or not
        until = min(self.deadline(session)[0], session.started_at + resource.spec.policy.max_duration)
        asked = (session.metadata.generation, resource.metadata.generation, until, granted, ending)
        known = self._claims.get((session.uid, resource.uid))
        if known is None or known[0] != asked:
            known = asked, session_claim(session, resource, until, granted=granted, ending=ending)
            self._claims[session.uid, resource.uid] = known
        return known[1]

    def undecided(self, resource: ProtectedResource, now: datetime) -> Iterator[Rule]:
        """What live sessions want of the resource that admission has not been asked about: an earlier process may have
        been told yes, and have put it."""
        for session in self._state.store.sessions_of(resource.key):
            asked = (session.uid, resource.key) in self._state.admitted
            if not asked and not was_granted(session.resource_status(resource.key)) and self.end(session, now) is None:
                yield from rules_for(resource.spec.ports, session.spec.source.ranges)

    def claims(self, resource: ProtectedResource, now: datetime) -> Iterator[Claim]:
        """Everything that is wanted of the resource now."""
        if resource.held:
            yield from static_claims(resource)
        for session in self._state.store.sessions_of(resource.key):
            claim = self.claim(session, resource, now)
            if claim is not None:
                yield claim

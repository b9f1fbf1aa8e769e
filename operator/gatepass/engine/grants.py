"""Who is granted what right now: lifecycle, policy and admission put together, recomputed from the whole state."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from gatepass.core import lifecycle
from gatepass.core.desired import Claim, session_claim, static_claims
from gatepass.core.errors import TARGET_NOT_FOUND
from gatepass.core.policy import (
    KEY_UNKNOWN,
    NOT_FOUND,
    NOT_SEEN,
    UNDECIDED,
    WITHDRAWN,
    Refusal,
    Surroundings,
    refusal,
    withdrawal,
)
from gatepass.core.stamps import requester_of
from gatepass.core.status import addresses_of
from gatepass.core.types.binding import KEY_USER
from gatepass.core.types.common import MAX_RULES_PER_SESSION, Key, SourceKind, format_duration
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import (
    AccessSession,
    EndedReason,
    Requester,
    ResourceState,
    SessionResourceStatus,
    SourceAddress,
)
from gatepass.engine.state import NOT_ASKED, State

_NEWS_LAG: Final = timedelta(seconds=3)
"""How much older than other news the news of one kind may be; creation is told in whole seconds."""
_NEVER: Final = datetime.max.replace(tzinfo=UTC)


def was_granted(entry: SessionResourceStatus | None) -> bool:
    """Had the session got this resource once?"""
    return entry is not None and (bool(entry.rules) or entry.reason == WITHDRAWN)


def holds(entry: SessionResourceStatus) -> bool:
    """Is a rule of it there, by this record?"""
    return any(rule.removed_at is None for rule in entry.rules)


def is_over(entry: SessionResourceStatus) -> bool:
    """Is all of it closed, by policy or as its firewall is no more, though the session may live on elsewhere?"""
    taken_back = entry.state is ResourceState.FAILED and entry.reason in (WITHDRAWN, TARGET_NOT_FOUND)
    return was_granted(entry) and taken_back and not holds(entry)


def key_of(requester: Requester | None) -> Key | None:
    """The ApiKeyBinding whose key started a session; None when a person or a controller did."""
    if requester is None or not requester.username.startswith(KEY_USER):
        return None
    namespace, _, name = requester.username.removeprefix(KEY_USER).partition("/")
    return Key(namespace, name)


@dataclass(slots=True)
class _Live:
    """What holds for a session that has not ended, while it rests on the same, and before time changes it."""

    rests_on: tuple[object, ...]
    until: datetime
    refusals: dict[Key, Refusal | None]
    claims: dict[Key, Claim | None] = field(default_factory=dict)


class Grants:
    """Questions to the state; `now` is an argument, as in the core. Answers are kept while what they rest on stands."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._lives: dict[str, _Live] = {}

    def forget(self, session: AccessSession) -> None:
        """The session is no more."""
        self._lives.pop(session.uid, None)

    def _live(self, session: AccessSession, now: datetime) -> _Live | None:
        """What has been found of it, if that still holds."""
        known = self._lives.get(session.uid)
        if known is None or now >= known.until or known.rests_on != self._rests_on(session):
            return None
        return known

    def _rests_on(self, session: AccessSession) -> tuple[object, ...]:
        """All that decides about a session but the time. Its parts are replaced and never changed."""
        state, uid, keys = self._state, session.uid, session.resource_keys()
        namespaces, resources, admitted = state.store.namespaces, state.store.resources, state.admitted
        key = key_of(requester_of(session))
        return (
            session,
            namespaces.get(session.metadata.namespace),
            [(resources.get(key), namespaces.get(key.namespace), admitted.get((uid, key), NOT_ASKED)) for key in keys],
            state.whereabouts.get(uid),
            state.runners.get(uid),
            key and state.store.bindings.get(key),
            self.heard(session),
            state.telling.get(uid),
        )

    def _until(self, session: AccessSession, now: datetime) -> datetime:
        """When time alone may change what holds."""
        resources = self._state.store.resources_of(session)
        outlasted = (session.started_at + resource.spec.policy.max_duration for resource in resources)
        news_until = session.metadata.creation_timestamp + _NEWS_LAG
        return min(each for each in (self.deadline(session)[0], *outlasted, news_until, _NEVER) if each > now)

    def deadline(self, session: AccessSession) -> tuple[datetime, EndedReason]:
        """When the session's time is up."""
        resources = self._state.store.resources_of(session)
        at, reason = lifecycle.deadline(session, [resource.spec.policy.max_duration for resource in resources])
        cutoff = self._state.cutoff
        if cutoff is not None and session.metadata.creation_timestamp < cutoff < at:
            return cutoff, EndedReason.NOT_AFTER
        return at, reason

    def time_up(self, session: AccessSession, now: datetime) -> tuple[datetime, EndedReason]:
        """The same, but now where we have seen the deadline move into the past: until then there was more time."""
        at, reason = self.deadline(session)
        told = session.status.expires_at if session.uid in self._lives else None
        moved = told is not None and at < min(told, now) and at != self._state.cutoff
        return (now if moved else at), reason

    def end(self, session: AccessSession, now: datetime) -> lifecycle.End | None:
        """The end of the session, if it has come. Once its rules may go it stays ended, whatever its spec says then.

        By what is known of it now: a pass may have asked somebody meanwhile, for seconds.
        """
        session = self._latest(session)
        known, latched = self._state.closed.get(session.uid), session.status.ended_at is not None
        if known is not None and (known.latched or not latched):
            return known
        if self._live(session, now) is not None:
            return None
        refusals: dict[Key, Refusal | None] = {}
        found = lifecycle.end(
            session,
            now,
            self.time_up(session, now),
            withdrawn=not latched and self._withdrawn(session, now, refusals),
            key_revoked=not latched and self._key_revoked(session),
            runner=self._state.runners.get(session.uid),
        )
        if found is not None and found.latched:
            self._state.closed[session.uid] = found
            return found
        if found is None:
            self._state.ending.pop(session.uid, None)
            self._lives[session.uid] = _Live(self._rests_on(session), self._until(session, now), refusals)
            return None
        self._lives.pop(session.uid, None)
        # The answer to the write of an end may be lost: what is written again is the same end.
        first = self._state.ending.setdefault(session.uid, found)
        if lifecycle.closed(session, found):
            self._state.closed[session.uid] = first
        return first

    def _latest(self, session: AccessSession) -> AccessSession:
        return self._state.store.session(session.uid) or session

    def closed(self, session: AccessSession, now: datetime) -> bool:
        """May its rules go?"""
        return self._may_go(session, self.end(session, now))

    def _may_go(self, session: AccessSession, end: lifecycle.End | None) -> bool:
        return end is not None and (end.latched or session.uid in self._state.closed)

    def _key_revoked(self, session: AccessSession) -> bool:
        requester = requester_of(session)
        key = key_of(requester)
        if key is None or requester is None:
            return False
        binding = self._state.store.bindings.get(key)
        if binding is None:  # who was granted nothing may be older than our news of it: see KEY_UNKNOWN
            return self.has_been_granted(session) or self._state.store.is_gone(requester.uid or "")
        return binding.uid != requester.uid or binding.spec.revoked or binding.deleting

    def addresses(self, session: AccessSession) -> tuple[SourceAddress, ...]:
        """Where the session comes from; empty while nobody knows.

        What is on record stands while a grant rests on it: no rule goes because whoever looks is slow or down.
        """
        kind = session.spec.source.kind
        found = self._state.whereabouts.get(session.uid)
        used = found.addresses if found is not None else ()
        if kind is SourceKind.CLAIM:
            # What was claimed is on record, written by the REST API, and one more family may follow.
            families = {each.version for each in used}
            return (*used, *(each for each in addresses_of(session) if each.version not in families))
        if used:
            return used
        return addresses_of(session) if kind.declared or self.has_been_granted(session) else ()

    def ranges(self, session: AccessSession) -> tuple[str, ...]:
        """The same in CIDR form."""
        if session.spec.source.cidrs is not None:
            return session.spec.source.cidrs
        return tuple(address.cidr for address in self.addresses(session))

    def sourceless(self, session: AccessSession) -> Refusal | None:
        """Why nobody will know where the session comes from, as far as can be seen."""
        found = self._state.whereabouts.get(session.uid)
        if found is None or found.trouble is None or not found.trouble.refused or self.addresses(session):
            return None
        return Refusal(found.trouble.reason, found.trouble.message)

    def accepted(self, session: AccessSession, now: datetime) -> bool:
        """May the session have one of its resources, wherever it comes from, so that it is worth looking?"""
        return any(
            self.refusal(session, key, now) is None
            and ((session.uid, key) in self._state.admitted or was_granted(session.resource_status(key)))
            for key in session.resource_keys()
        )

    def _withdrawn(self, session: AccessSession, now: datetime, refusals: dict[Key, Refusal | None]) -> bool:
        """Has policy taken back everything? What is found of the resources on the way is kept in `refusals`."""
        keys = session.resource_keys()
        if not any(was_granted(session.resource_status(key)) for key in keys):
            return False
        for key in keys:
            found = refusals[key] = self._refusal(session, key, now)
            if found is None or found.reason in UNDECIDED:
                return False
        return True

    def refusal(self, session: AccessSession, key: Key, now: datetime) -> Refusal | None:
        """Why the session does not get the resource."""
        live = self._live(session, now)
        if live is None:
            return self._refusal(session, key, now)
        if key not in live.refusals:
            live.refusals[key] = self._refusal(session, key, now)
        return live.refusals[key]

    def _refusal(self, session: AccessSession, key: Key, now: datetime) -> Refusal | None:
        resource = self._state.store.resources.get(key)
        before = self._on_record(session, key)
        granted = was_granted(before)
        if resource is None:
            return Refusal(NOT_FOUND, f"ProtectedResource {key} does not exist")
        if granted and before is not None and before.uid not in (None, resource.uid):
            return Refusal("ResourceReplaced", f"ProtectedResource {key} is another one than this session was granted")
        if before is not None and is_over(before) and resource.deleting:  # nothing has to wait for it any more
            return Refusal(WITHDRAWN, f"ProtectedResource {key} is being deleted, and opens no more what has closed")
        refused = self._by_policy(session, resource, granted=granted)
        if granted:
            return refused or self._outlasted(session, resource, now)
        return (
            refused
            or self.too_many(session, self.ranges(session))
            or self._state.admitted.get((session.uid, key))
            or self.sourceless(session)
        )

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
        around = self._surroundings(session, resource, self.ranges(session))
        return (withdrawal if granted else refusal)(session, resource, around)

    def _surroundings(
        self, session: AccessSession, resource: ProtectedResource, ranges: tuple[str, ...]
    ) -> Surroundings:
        namespaces = self._state.store.namespaces
        here = namespaces.get(session.metadata.namespace)
        there = namespaces.get(resource.metadata.namespace)
        return Surroundings(
            ranges=ranges,
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

    def moved_refusal(
        self, session: AccessSession, resource: ProtectedResource, ranges: tuple[str, ...]
    ) -> Refusal | None:
        """Why the resource would not let the session in from these addresses."""
        return withdrawal(session, resource, self._surroundings(session, resource, ranges))

    def too_many(self, session: AccessSession, ranges: tuple[str, ...]) -> Refusal | None:
        """Why a session may not have so many addresses."""
        resources = self._state.store.resources_of(session)
        needs = len(ranges) * sum(len(resource.spec.ports) for resource in resources)
        if needs <= MAX_RULES_PER_SESSION:
            return None
        return Refusal("TooManyRules", f"the session needs {needs} rules, and {MAX_RULES_PER_SESSION} are the most")

    def claim(self, session: AccessSession, resource: ProtectedResource, now: datetime) -> Claim | None:
        """What the session wants of the resource now; None when it may have nothing, or is not decided on yet."""
        session = self._latest(session)  # what is kept is kept for this one
        end = self.end(session, now)
        if end is not None:
            return self._claim(session, resource, end, now)
        live, key = self._lives[session.uid], resource.key
        if key not in live.claims:
            live.claims[key] = self._claim(session, resource, end, now)
        return live.claims[key]

    def _claim(
        self, session: AccessSession, resource: ProtectedResource, end: lifecycle.End | None, now: datetime
    ) -> Claim | None:
        key = resource.key
        ranges = self.ranges(session)
        if not ranges or self._may_go(session, end) or self.refusal(session, key, now) is not None:
            return None
        granted = was_granted(self._on_record(session, key))
        admitted = resource.held and session.held and (session.uid, key) in self._state.admitted
        ending = end is not None or (granted and not self.heard(session))
        if not granted and (not admitted or ending):
            return None  # what has not begun does not begin any more, written down or not
        return self.wish(session, resource, ranges, granted=granted, ending=ending)

    def wish(
        self,
        session: AccessSession,
        resource: ProtectedResource,
        ranges: Iterable[str],
        *,
        granted: bool = False,
        ending: bool = False,
    ) -> Claim:
        """What the session would have of the resource from there, whoever has been asked."""
        until = min(self.deadline(session)[0], session.started_at + resource.spec.policy.max_duration)
        arrival = self._state.store.arrival(session)
        return session_claim(session, resource, ranges, until, arrival=arrival, granted=granted, ending=ending)

    def _on_record(self, session: AccessSession, key: Key) -> SessionResourceStatus | None:
        """What became of this resource of the session, as its status says or may say by now."""
        telling = self._state.telling.get(session.uid)
        if telling is not None and telling.version == session.metadata.resource_version and key in telling.granted:
            return telling.granted[key]
        return session.resource_status(key)

    def has_been_granted(self, session: AccessSession) -> bool:
        """Had it got anything, as its status says or may say by now?"""
        return any(was_granted(self._on_record(session, key)) for key in session.resource_keys())

    def heard(self, session: AccessSession) -> bool:
        """Is it known since the start what has become of its runner? Until then, no rule that has gone is put again."""
        return session.spec.bound_to is None or session.uid in self._state.heard

    def claims(self, resource: ProtectedResource, now: datetime) -> Iterator[Claim]:
        """Everything that is wanted of the resource now."""
        for static in static_claims(resource):
            yield static if resource.held else replace(static, ending=True)  # it keeps what it has
        for session in self._state.store.sessions_of(resource.key):
            claim = self.claim(session, resource, now)
            if claim is not None:
                yield claim

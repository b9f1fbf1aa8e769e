"""Everything the engine knows; the passes read it, and each part is written by one of them."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from gatepass.core.desired import ClaimKey, static_claims
from gatepass.core.errors import Failure, ProviderError, SourceError
from gatepass.core.leadership import Leadership
from gatepass.core.lifecycle import End
from gatepass.core.plan import is_ours
from gatepass.core.policy import Refusal
from gatepass.core.ports import Access, SecretSeen, TargetFacts
from gatepass.core.rules import ObservedRule, Rule, Stamp, Target
from gatepass.core.types.common import Key
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import EndedReason, SessionResourceStatus, SourceAddress
from gatepass.engine.queue import FIRST_RETRY, LAST_RETRY
from gatepass.engine.store import Store, target_ids
from gatepass.engine.targets import READS_LAG_SECONDS, TargetState


@dataclass(frozen=True, slots=True)
class Standing:
    """What verifying a resource brought to light.

    `targets` are its current firewall objects in their order, with their facts or why they cannot be used;
    `draining` those that were taken off its list and still hold rules of ours. `secret` is what the Secret was that
    its credentials are in; None when there was none, or when they are in no Secret. `rejected` credentials lead
    nowhere, so that they close nothing either.
    """

    access: Access
    account: str | None
    refusal: ProviderError | None
    targets: Mapping[Target, TargetFacts | ProviderError]
    draining: Mapping[Target, TargetFacts | ProviderError]
    verified_at: datetime
    secret: SecretSeen | None = None
    rejected: bool = False

    def says_the_same_as(self, other: "Standing") -> bool:
        """Do both tell the same, but for when it was looked?"""
        return replace(self, verified_at=other.verified_at) == other

    def usable(self) -> list[Target]:
        """The targets that new rules may go to; none when the credentials are refused, though they may still work."""
        if self.refusal is not None and self.refusal.failure is not Failure.RETRY:
            return []
        return [target for target, facts in self.targets.items() if isinstance(facts, TargetFacts)]

    @property
    def leads_nowhere(self) -> bool:
        """Have its credentials been refused for good before they have led to any account?"""
        return self.account is None and self.refusal is not None and self.refusal.failure is not Failure.RETRY

    @property
    def answered(self) -> bool:
        """Is it known where its rules may be? Else nobody has looked since the start."""
        return self.account is not None or self.leads_nowhere

    @property
    def complete(self) -> bool:
        """Can every target be read, as far as is known?"""
        return self.refusal is None and len(self.usable()) == len(self.everywhere())

    def everywhere(self) -> list[Target]:
        """The targets that may hold rules for it."""
        return [*self.targets, *self.draining]

    def _found(self, target: Target) -> TargetFacts | ProviderError | None:
        return self.targets.get(target, self.draining.get(target))

    def proves(self, target: Target) -> bool:
        """Has it shown that its credentials find this target?"""
        return isinstance(self._found(target), TargetFacts)

    def lost(self, target: Target) -> bool:
        """Is the firewall object no more?"""
        facts = self._found(target)
        return isinstance(facts, ProviderError) and facts.failure is Failure.NOT_FOUND

    def refuses(self, target: Target) -> bool:
        """Can its credentials not use it, for longer than a moment?"""
        facts = self._found(target)
        return isinstance(facts, ProviderError) and facts.failure is not Failure.RETRY

    def quota(self, target: Target) -> int:
        """Rules per IP family that the target takes; 0 when it cannot be used."""
        facts = self.targets.get(target)
        return facts.limit if isinstance(facts, TargetFacts) else 0


@dataclass(frozen=True, slots=True)
class Parked:
    """A claim that a firewall has refused: it holds no place and no rule, and tries again at `until`, after `pause`."""

    error: ProviderError
    until: float
    pause: float


@dataclass(frozen=True, slots=True)
class Wait:
    """What a claim waits for, in words, and if that is room; a hopeless one would not fit if nobody else were there."""

    text: str
    hopeless: bool = False
    for_room: bool = False


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """What has been found of where a session's traffic leaves from; all empty while it is looked for the first time.

    `addresses` are let in. While rules move, they are the old and the new ones, and `moving_to` are the new ones.
    `elsewhere` is where the traffic leaves from as was found last, and `unfollowed` why the rules do not follow.
    """

    addresses: tuple[SourceAddress, ...] = ()
    trouble: SourceError | None = None
    moving_to: tuple[SourceAddress, ...] = ()
    elsewhere: tuple[SourceAddress, ...] = ()
    unfollowed: str | None = None


class Placements:
    """Which target holds each rule of each claim."""

    def __init__(self) -> None:
        self._of: dict[ClaimKey, dict[Rule, Target]] = {}
        self._at: defaultdict[Target, defaultdict[Rule, set[ClaimKey]]] = defaultdict(lambda: defaultdict(set))

    def of(self, claim: ClaimKey) -> Mapping[Rule, Target]:
        """Where the rules of a claim are placed; empty when it is not placed."""
        return self._of.get(claim, {})

    def at(self, target: Target) -> Mapping[Rule, set[ClaimKey]]:
        """The rules placed in a target, and by whom."""
        return self._at[target]

    def claims(self) -> Collection[ClaimKey]:
        """All that are placed."""
        return self._of.keys()

    def put(self, claim: ClaimKey, placed: dict[Rule, Target]) -> None:
        """Place a claim, instead of where it was before."""
        self.drop(claim)
        if not placed:
            return
        self._of[claim] = placed
        for rule, target in placed.items():
            self._at[target][rule].add(claim)

    def drop(self, claim: ClaimKey) -> None:
        """The claim is no more."""
        for rule, target in self._of.pop(claim, {}).items():
            holders = self._at[target][rule]
            holders.discard(claim)
            if not holders:
                del self._at[target][rule]

    def forget(self, target: Target) -> None:
        """The target is no more; nothing may be placed there."""
        self._at.pop(target, None)

    def drop_at(self, target: Target, rules: Iterable[Rule]) -> None:
        """The target does not take these rules: everybody who placed one there looks for another place."""
        for claim in {claim for rule in rules for claim in self._at[target].get(rule, ())}:
            self.drop(claim)


NOT_ASKED: Final = Refusal("", "")
"""Stands for an admission that is still to be asked for, so that a refusal is asked about again and a yes is not."""


@dataclass(frozen=True, slots=True)
class Unanswered(Refusal):
    """Stands for an answer that has been awaited `since` then, by the event loop's clock."""

    since: float


@dataclass(frozen=True, slots=True)
class Telling:
    """What a status that rests on this `version` of its session says of the resources that the session has got.

    Until there is another version it may be on record: it is on its way, or its answer was lost.
    """

    version: str
    granted: Mapping[Key, SessionResourceStatus]


_UNTOLD_SECONDS: Final = 900.0
"""How long after a start AWS may be silent before a deleted resource goes that nobody has ever heard of."""


@dataclass(slots=True)
class State:
    """The state of the engine. Times called `*_at` of type float are seconds of the event loop's clock.

    `recorded` says, as of the start and by the ids of firewall objects, for which resources (and their uids) sessions
    record rules of ours there; `named` are those of each resource's uid by then, and `statics` its static ranges.
    `untold` are the uids of those whose status says nothing at all.
    `cutoff` ends every session that was created before it, as its time being up does.
    `whereabouts` are those of sessions, by uid, that do not declare where they come from.
    `strays` are targets with rules of ours that no resource names, with the credentials that reach them; `strangers`
    counts in such targets those with our marks that were not made by us. `unarmed` is what was the matter, where a dead
    man's switch is missing.
    `runners` says which sessions have lost their runner, by uid, and how; that is final. `heard` are
    those of which it is known since the start what has become of what they are bound to, or that nobody can tell.
    `reserved` are claims for which room is kept until it is known whether they are let in.
    `coming` are new ones that have not been told anything, and whose first pass is not over.
    `telling` is what statuses that may not be known here yet give sessions, by uid.
    """

    store: Store
    owner: str
    started: float
    started_at: datetime
    recorded: Mapping[str, Collection[tuple[Key, str]]] = field(default_factory=dict)
    untold: Collection[str] = ()
    named: Collection[tuple[str, str]] = ()
    statics: Collection[ClaimKey] = ()
    cutoff: datetime | None = None
    leadership: Leadership = field(default_factory=Leadership)
    standings: dict[Key, Standing] = field(default_factory=dict)
    targets: dict[Target, TargetState] = field(default_factory=dict)
    tenants: defaultdict[Target, set[Key]] = field(default_factory=lambda: defaultdict(set))
    strays: dict[Target, Sequence[Access]] = field(default_factory=dict)
    strangers: dict[Target, int] = field(default_factory=dict)
    unarmed: dict[Target, ProviderError] = field(default_factory=dict)
    placements: Placements = field(default_factory=Placements)
    waiting: dict[ClaimKey, Wait] = field(default_factory=dict)
    parked: dict[ClaimKey, Parked] = field(default_factory=dict)
    reserved: set[ClaimKey] = field(default_factory=set)
    admitted: dict[tuple[str, Key], Refusal | None] = field(default_factory=dict)
    whereabouts: dict[str, Whereabouts] = field(default_factory=dict)
    runners: dict[str, EndedReason] = field(default_factory=dict)
    heard: set[str] = field(default_factory=set)
    coming: set[str] = field(default_factory=set)
    telling: dict[str, Telling] = field(default_factory=dict)
    ending: dict[str, End] = field(default_factory=dict)
    closed: dict[str, End] = field(default_factory=dict)
    repaired: Counter[str] = field(default_factory=Counter)

    def begin(self, now: float, at: datetime) -> None:
        """The work starts: everything is listed. `now` is of the monotonic clock."""
        self.started, self.started_at = now, at
        self.recorded, resources = self.store.recorded_at(), self.store.resources.values()
        self.named = {(each.uid, id_) for each in resources for id_ in (*target_ids(each), *self.recorded_for(each))}
        self.statics = {claim.key for each in resources for claim in static_claims(each)}
        self.untold = {each.uid for each in resources if not each.status.conditions}

    def target(self, target: Target) -> TargetState:
        """What is known of a target, from the first time it is named."""
        known = self.targets.get(target)
        if known is None:
            known = self.targets[target] = TargetState(target)
        return known

    def naming(self, target: Target) -> Sequence[ProtectedResource]:
        """The resources that have, or had, it on their list: as their specs and statuses say, or were verified with it.

        Whoever has taken it off may have rules there that its status has not come to tell of. Until it is known where
        its rules may be, the records of its sessions do.
        """
        keys = {each.key for each in self.store.resources_naming(target.id)} | self.tenants.get(target, set())
        keys |= {key for key, uid in self.recorded.get(target.id, ()) if self._is_unanswered(key, uid)}
        return [self.store.resources[key] for key in sorted(keys) if key in self.store.resources]

    def recorded_for(self, resource: ProtectedResource) -> list[str]:
        """The ids of the firewall objects in which its sessions record rules of ours, as of the start."""
        return sorted(id_ for id_, known in self.recorded.items() if (resource.key, resource.uid) in known)

    def is_untold(self, resource: ProtectedResource) -> bool:
        """May an earlier process have opened something for it and not lived to tell? Nobody waits for that for ever."""
        young = asyncio.get_running_loop().time() < self.started + _UNTOLD_SECONDS
        return young and resource.uid in self.untold

    def _is_unanswered(self, key: Key, uid: str) -> bool:
        resource, standing = self.store.resources.get(key), self.standings.get(key)
        there = resource is not None and resource.uid == uid
        return there and (standing is None or not standing.answered)

    def set_standing(self, key: Key, standing: Standing | None) -> None:
        """Take the result of a verification, or forget the resource."""
        before = self.standings.pop(key, None)
        for target in before.everywhere() if before else ():
            self.tenants[target].discard(key)
        if standing is not None:
            self.standings[key] = standing
            for target in standing.everywhere():
                self.tenants[target].add(key)
                if before is not None and standing.quota(target) > before.quota(target):
                    self.target(target).stale = True  # what it has said itself of its limit may be over

    def forget_target(self, target: Target) -> None:
        """The target is not there any more, and neither is what it held."""
        self.targets.pop(target, None)
        self.placements.drop_at(target, list(self.placements.at(target)))
        self.placements.forget(target)

    def forget_unnamed(self) -> None:
        """What nobody names any more, and nobody has found as a stray, no pass can do anything about."""
        now = asyncio.get_running_loop().time()
        for target in [*self.targets.keys() | self.tenants.keys()]:
            if not self.tenants[target] and target not in self.strays and not self.target(target).remembers(now):
                del self.tenants[target]
                self.forget_target(target)
                self.unarmed.pop(target, None)

    def release(self, claim: ClaimKey) -> None:
        """A claim is no more."""
        self.placements.drop(claim)
        for known in self.targets.values():
            for claims in known.kept.values():
                claims.discard(claim)
        self.waiting.pop(claim, None)
        self.parked.pop(claim, None)

    def release_all(self, resource: str) -> None:
        """The resource of this uid is no more."""
        claims = {*self.placements.claims(), *self.waiting, *self.parked, *self.reserved}
        for claim in [claim for claim in claims if claim.resource == resource]:
            self.release(claim)
            self.reserved.discard(claim)

    def park(self, claim: ClaimKey, error: ProviderError, now: float) -> None:
        """A resource takes all its rules or none: refused one of them, the claim leaves all of its places."""
        before = self.parked.get(claim)
        pause = FIRST_RETRY if before is None else min(before.pause * 2, LAST_RETRY)
        self.release(claim)
        self.parked[claim] = Parked(error, now + pause, pause)

    def unpark(self, resource: str) -> None:
        """Something about the resource has changed: what was refused may be granted now."""
        for claim in [claim for claim in self.parked if claim.resource == resource]:
            del self.parked[claim]

    def is_ours(self, rule: ObservedRule, known: Collection[str] = ()) -> bool:
        """Has it both marks, or is it `known` from a record? Never one with another's id that was not made here.

        Of two that had one id by mistake, one has taken for its own what the other had put.
        """
        if rule.maker is not None and rule.owner not in (None, self.owner) and not self.leadership.made(rule.maker):
            return False
        return is_ours(rule, self.owner, known)

    @property
    def stamp(self) -> Stamp:
        """The tags of a rule that is put now."""
        return Stamp(self.owner, self.leadership.maker)

    @property
    def reads_settle_at(self) -> float:
        """From then on, a read shows everything that was written before this process began."""
        return self.started + READS_LAG_SECONDS

    def awaits(self, resource: ProtectedResource, target: Target) -> bool:
        """Has the resource not been heard since the start, which may have rules there by an earlier process?

        Who cannot be asked now may belong to any account. It is on record soon where its credentials have led, and
        nobody waits for longer: anybody may name any target.
        """
        standing, status = self.standings.get(resource.key), resource.status
        if standing is not None and standing.answered:
            return False
        if resource.spec.aws.region != target.region or status.account not in (None, target.account):
            return False
        if any(entry.id == target.id and entry.name is not None for entry in status.targets):
            return True
        young = resource.metadata.creation_timestamp > self.started_at
        return not young and asyncio.get_running_loop().time() < self.reads_settle_at

    def may_lag(self, known: TargetState) -> bool:
        """Is what is known of it from before, so that it may miss what an earlier process has written?"""
        return known.read_at is None or known.read_at < self.reads_settle_at

"""What the engine knows of one session or one resource, put into the words of the pure status functions."""

import asyncio
import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from gatepass.core.desired import ClaimKey, static_claims
from gatepass.core.errors import ClaimAwaitedError, Failure, ProviderError
from gatepass.core.lifecycle import End, deadline
from gatepass.core.plan import WRITES, Write
from gatepass.core.policy import Refusal
from gatepass.core.resource_status import Findings
from gatepass.core.rules import Rule, Target, canonical_cidr, rules_for
from gatepass.core.status import PresentRule, ResourceView, SourceView
from gatepass.core.types.common import Key, SourceKind
from gatepass.core.types.resource import ProtectedResource
from gatepass.core.types.session import (
    FINAL,
    AccessSession,
    EndedReason,
    ResourceState,
    RuleStatus,
    SessionResourceStatus,
)
from gatepass.engine.capacities import capacity
from gatepass.engine.grants import Grants, is_over, was_granted
from gatepass.engine.state import Standing, State
from gatepass.engine.targets import TargetState
from gatepass.engine.verifier import external_id

NOT_SEEN_YET = Refusal(
    "NotSeenYet",
    "no rule is known to be there; an earlier process may have put one in its last moment, "
    "which reads show two minutes after the start at the latest",
)
"""What holds up an end that nothing else holds up."""
_SCARCE_SECONDS: Final = 5.0
"""How long there has to have been no call until who waits for one is told: mostly it comes before."""
_SCARCE: Final = Refusal("CallsAreScarce", "AWS allows few calls; made again in a moment")


def rule_of(record: RuleStatus) -> Rule:
    """The identity of a rule that a status records."""
    return Rule(record.cidr, record.protocol, record.port, record.end_port)


class Views:
    """Pure questions to the state; `now` is an argument, as in the core."""

    def __init__(self, state: State, grants: Grants) -> None:
        self._state = state
        self._grants = grants

    # of a session

    def of_session(self, session: AccessSession, end: End | None, now: datetime) -> list[ResourceView]:
        """The session's resources, in the order of its spec."""
        return [self._resource(session, key, end, now) for key in session.resource_keys()]

    def _resource(self, session: AccessSession, key: Key, end: End | None, now: datetime) -> ResourceView:
        resource = self._state.store.resources.get(key)
        before = session.resource_status(key)
        granted = was_granted(before)
        current = None if resource is None else resource.uid
        uid = before.uid if before is not None and granted else current
        withdrawn = end is not None and end.reason is EndedReason.POLICY_WITHDRAWN and not end.latched
        refusal = self._grants.refusal(session, key, now) if end is None or withdrawn else None
        standing = self._state.standings.get(key)
        if resource is None or uid != resource.uid or session.status.phase in FINAL:
            return ResourceView(key, uid, refusal=refusal)
        if standing is None:
            over = end is not None and before is not None and before.state is ResourceState.REMOVED
            left = end is not None and not over and (granted or self._blind(session, resource))
            return ResourceView(key, uid, refusal=refusal, left=left, fresh=True, unread=granted and not over)
        if end is None and refusal is None:
            return self._wanted(session, resource, standing)
        unread = self._unread(before, standing)
        remaining, unsettled, unseen = self._remaining(session, resource, standing, over=end is not None)
        if standing.rejected and not granted:
            unseen = frozenset(self._awaited(unseen, standing))
        known = unread or bool(remaining) or unsettled
        trouble = None
        if known or unseen:
            everywhere: list[Target] = standing.everywhere()
            kinds: list[Write] = ["revokes", "grants"] if unsettled else ["revokes"]
            trouble = told(self._trouble(standing, everywhere, kinds))
            trouble = trouble or self._scarcity(standing, everywhere, "revokes")
        if unseen and not known:
            trouble = trouble or NOT_SEEN_YET
        left = known or bool(unseen)
        return ResourceView(key, uid, remaining, refusal=refusal, left=left, trouble=trouble, unread=unread)

    def _wanted(self, session: AccessSession, resource: ProtectedResource, standing: Standing) -> ResourceView:
        entry = session.resource_status(resource.key)
        if self._unread(entry, standing):
            return ResourceView(resource.key, resource.uid, unread=True)
        claim = ClaimKey(session.uid, resource.uid)
        ranges = self._grants.ranges(session)
        if not ranges:
            return self._unlocated(session, resource)
        rules = rules_for(resource.spec.ports, ranges)
        placed = list(dict.fromkeys(self._state.placements.of(claim).values()))
        # Who waits has nothing, also where a rule for the same address is there for somebody else.
        present = self._present(rules, claim, entry, standing) if placed or was_granted(entry) else ()
        complete = len(present) == len(rules)
        lingering = tuple(self._lingering(rules, entry, standing))
        view = ResourceView(resource.key, resource.uid, (*present, *lingering), complete=complete, left=bool(lingering))
        return view if complete else self._incomplete(view, claim, standing, placed, new=not was_granted(entry))

    def _incomplete(
        self, view: ResourceView, claim: ClaimKey, standing: Standing, placed: Sequence[Target], *, new: bool
    ) -> ResourceView:
        """Why not every rule is there."""
        parked, waiting = self._state.parked.get(claim), self._state.waiting.get(claim)
        if parked is not None and not placed:
            return replace(view, refusal=told(parked.error))
        taking = [target for target in placed if target in standing.targets]  # one that is drained gets nothing new
        trouble = self._trouble(standing, taking or standing.usable(), ["grants"])
        if trouble is not None and trouble.failure is Failure.TERMINAL and new and parked is None:
            # With a rule of somebody else, if with the calls: who is refused his own is parked.
            trouble = self._trouble(standing, taking or standing.usable(), ())
        if trouble is not None and trouble.failure is not Failure.RETRY:
            return replace(view, refusal=told(trouble))
        if waiting is not None and trouble is None:
            if waiting.hopeless:
                return replace(view, refusal=Refusal("NeverFits", waiting.text))
            return replace(view, waiting=waiting.text)
        words = told(trouble) or self._scarcity(standing, placed, "grants")
        return replace(view, trouble=words, fresh=words is None)

    def _unlocated(self, session: AccessSession, resource: ProtectedResource) -> ResourceView:
        found = self._state.whereabouts.get(session.uid)
        trouble = found.trouble if found is not None else None
        told_of = Refusal(trouble.reason, trouble.message) if trouble is not None else None
        return ResourceView(resource.key, resource.uid, trouble=told_of, fresh=trouble is None)

    def source(self, session: AccessSession) -> SourceView:
        """Where the session comes from."""
        found = self._state.whereabouts.get(session.uid)
        addresses = self._grants.addresses(session)
        if found is None:
            return SourceView(addresses)
        claim = found.trouble.claim if isinstance(found.trouble, ClaimAwaitedError) else None
        return SourceView(addresses, None if claim and addresses else found.trouble, found.unfollowed, claim)

    def _unread(self, entry: SessionResourceStatus | None, standing: Standing) -> bool:
        """Are there rules on record in a target that has not been read since the start?"""
        recorded = {record.target for record in (entry.rules if entry else ()) if record.removed_at is None}
        if recorded and not standing.answered:
            return True
        return any(
            target.id in recorded and self._state.target(target).read_at is None and not standing.lost(target)
            for target in standing.everywhere()
        )

    def _present(
        self, rules: frozenset[Rule], claim: ClaimKey, entry: SessionResourceStatus | None, standing: Standing
    ) -> tuple[PresentRule, ...]:
        """The rules that are there, each in the target that it is placed in, else where it is on record.

        Any other one is there for somebody else, and may go at any moment.
        """
        placed = self._state.placements.of(claim)
        records = [record for record in (entry.rules if entry else ()) if record.removed_at is None]
        known_ids = {record.id for record in records if not record.foreign}
        on_record = {(rule_of(record), record.target) for record in records}
        found = []
        for rule in sorted(rules):
            first = placed.get(rule)
            before = [target for target in standing.everywhere() if (rule, target.id) in on_record]
            for target in itertools.filterfalse(standing.lost, [*([first] if first else []), *before]):
                known = self._state.target(target)
                held = known.staying().get(rule)
                if held is not None and held.id not in known.unproven and held.id not in known.missed:
                    foreign = not self._state.is_ours(held, known_ids)
                    found.append(PresentRule(rule, target.id, held.id, foreign))
                    break
        return tuple(found)

    def _lingering(
        self, rules: frozenset[Rule], entry: SessionResourceStatus | None, standing: Standing
    ) -> Iterator[PresentRule]:
        """The rules on record that it does not want any more, for ports or addresses of before, while they are there.

        Also those that somebody else wants by now: who does cannot be told while nothing can be placed.
        """
        targets = {target.id: target for target in standing.everywhere()}
        for record in entry.rules if entry else ():
            rule, target = rule_of(record), targets.get(record.target)
            if record.foreign or record.removed_at is not None or rule in rules or target is None:
                continue
            held = self._state.target(target).holding().get(rule)
            if held is not None and held.id == record.id and self._state.is_ours(held, {record.id}):
                yield PresentRule(rule, target.id, held.id, foreign=False)

    def _remaining(
        self, session: AccessSession, resource: ProtectedResource, standing: Standing, *, over: bool
    ) -> tuple[tuple[PresentRule, ...], bool, frozenset[Target]]:
        """Rules of ours that are still there although nobody wants them.

        And whether one may be there by a write of ours of unknown outcome, and where one may be by an earlier process,
        unseen.
        When the session is `over`, none of its resources keeps a rule for another one.
        """
        entry = session.resource_status(resource.key)
        records = [r for r in (entry.rules if entry else ()) if not r.foreign and r.removed_at is None]
        recorded = {record.id for record in records}
        ranges = self._grants.ranges(session)
        wished = rules_for(resource.spec.ports, ranges) | {rule_of(record) for record in records}
        lost = not ranges and session.spec.source.kind in (SourceKind.POD, SourceKind.OPERATOR)
        own, sources = ClaimKey(session.uid, resource.uid), {canonical_cidr(each) for each in ranges}

        def others(claim: ClaimKey) -> bool:
            return claim.holder != session.uid if over else claim != own

        remaining: list[PresentRule] = []
        blind = self._blind(session, resource)
        unsettled, unseen = False, set[Target]()
        for target in standing.everywhere():
            if standing.lost(target):
                continue  # the rules went with the firewall object
            known = self._state.target(target)
            holding = known.holding()
            placed = self._state.placements.at(target)
            put = {rule for rule in holding.keys() | known.coming if rule.cidr in sources} if over else set()
            unwanted = {
                rule
                for rule in wished | put  # also for ports of before
                if not any(self._wants(claim, rule, target) for claim in filter(others, placed.get(rule, ())))
            }
            for rule in unwanted:
                held = holding.get(rule)
                if held is None or not self._state.is_ours(held, recorded):
                    continue
                if not self._kept(known, rule, others):
                    remaining.append(PresentRule(rule, target.id, held.id, foreign=False))
            unsettled = unsettled or bool(unwanted & known.coming)
            if blind and (lost or not (unwanted <= known.settled | holding.keys())) and self._state.may_lag(known):
                unseen.add(target)
        return tuple(remaining), unsettled, frozenset(unseen)

    def _kept(self, known: TargetState, rule: Rule, others: Callable[[ClaimKey], bool]) -> bool:
        """Does it stay for somebody else, who has no place there, and has it nowhere else yet?"""
        keeping = (claim for claim in known.kept.get(rule, ()) if self._wants(claim, rule, known.target))
        lasting = (claim for claim in filter(others, keeping) if claim.holder not in self._state.ending)
        places = (self._state.placements.of(claim).get(rule) for claim in lasting)
        return any(at is None or rule not in self._state.target(at).staying() for at in places if at != known.target)

    def _wants(self, claim: ClaimKey, rule: Rule, target: Target) -> bool:
        """Does a claim that is placed want the rule still? While no pass succeeds, nobody takes it out of its place."""
        resource = next((each for each in self._state.naming(target) if each.uid == claim.resource), None)
        if resource is None:
            return False
        if self._state.store.session(claim.holder) is None:  # a static range, or nobody
            return any(each.key == claim and rule in each.rules for each in static_claims(resource))
        return rule in rules_for(resource.spec.ports, [rule.cidr])

    def _blind(self, session: AccessSession, resource: ProtectedResource) -> bool:
        """May an earlier process have put a rule and not lived to record it, while reads still miss it?

        Where the session's address was found, and is not on record either, nobody knows which rule that would be; nor
        of one for an address or a port that is not wished any more: two minutes after the start, reads show it.
        """
        entry, created = session.resource_status(resource.key), session.metadata.creation_timestamp
        was_live = deadline(session)[0] > created or session.metadata.generation > 1  # before somebody edited it
        if created >= self._state.started_at or not was_live:
            return False
        if entry is not None and entry.state is ResourceState.REMOVED:
            return False
        started = self._state.started_at.replace(microsecond=0)  # as precise as records are
        there = (each for each in (entry.rules if entry else ()) if each.removed_at is None)
        records = [each for each in there if each.applied_at < started]
        recorded = {rule_of(each) for each in records if each.target in resource.spec.aws.security_groups}
        return not (recorded and recorded >= rules_for(resource.spec.ports, self._grants.ranges(session)))

    def _trouble(self, standing: Standing, targets: Sequence[Target], kinds: Collection[Write]) -> ProviderError | None:
        """What is in the way of such calls, when it is in the way everywhere."""
        errors = [self._target_trouble(standing, target, kinds) for target in targets]
        if errors:
            return None if None in errors else errors[0]
        return standing.refusal or next((e for e in standing.targets.values() if isinstance(e, ProviderError)), None)

    def _target_trouble(self, standing: Standing, target: Target, kinds: Collection[Write]) -> ProviderError | None:
        facts = standing.targets.get(target, standing.draining.get(target))
        if isinstance(facts, ProviderError):
            return facts
        return self._state.target(target).trouble_of(standing.access, kinds)

    def _scarcity(self, standing: Standing, targets: Sequence[Target], kind: Write) -> Refusal | None:
        """Has there been no call for a while? Whoever has nothing else in the way is told."""
        longest = asyncio.get_running_loop().time() - _SCARCE_SECONDS
        since = (self._state.target(target).tries.last(standing.access, kind).scarce_since for target in targets)
        return _SCARCE if any(each is not None and each <= longest for each in since) else None

    # of a resource

    def of_resource(self, resource: ProtectedResource, standing: Standing, now: datetime) -> Findings:
        """What its status is made from."""
        sessions = list(self._state.store.sessions_of(resource.key))
        live = [s for s in sessions if self._state.placements.of(ClaimKey(s.uid, resource.uid))]
        known = [self._state.target(target) for target in standing.everywhere()]
        troubles = (self._target_trouble(standing, target, WRITES) for target in standing.usable())
        return Findings(
            account=standing.account,
            external_id=external_id(resource, self._state.owner),
            refusal=standing.refusal,
            targets=standing.targets,
            draining=standing.draining,
            drained=frozenset(target for target in standing.draining if self.empty(target, resource, standing)),
            capacity=capacity(self._state, standing),
            active=sum(1 for s in live if not self._grants.closed(s, now)),
            users=sorted(str(s.key) for s in sessions if self._uses(s, resource)),
            shortages=sorted(
                wait.text for claim, wait in self._state.waiting.items() if claim.resource == resource.uid
            ),
            conflicts=[conflict for state in known for conflict in state.conflicts],
            trouble=next((error for error in troubles if error is not None), None),
            verified_at=standing.verified_at,
            unarmed=next((e for t in standing.everywhere() if (e := self._state.unarmed.get(t))), None),
        )

    def _uses(self, session: AccessSession, resource: ProtectedResource) -> bool:
        """Does the session hold the resource open, or has it rules there that are still to go?"""
        if session.status.phase in FINAL:
            return False
        entry = session.resource_status(resource.key)
        granted = entry is not None and entry.uid == resource.uid and was_granted(entry) and not is_over(entry)
        placed = self._state.placements.of(ClaimKey(session.uid, resource.uid))
        return bool(granted or placed or self._unseen(session, resource))

    def _unseen(self, session: AccessSession, resource: ProtectedResource) -> Collection[Target]:
        """Where an earlier process may have put a rule for it that reads will show in a moment, if anybody can read."""
        standing = self._state.standings.get(resource.key)
        everywhere = standing.everywhere() if standing is not None else ()
        lagging = [target for target in everywhere if self._state.may_lag(self._state.target(target))]
        if standing is None or not lagging or not self._blind(session, resource):
            return ()
        return self._awaited(self._remaining(session, resource, standing, over=True)[2], standing)

    def _awaited(self, unseen: Collection[Target], standing: Standing) -> Collection[Target]:
        """Those that reads will show: after two minutes, nobody waits for what cannot be read."""
        settle = asyncio.get_running_loop().time() < self._state.reads_settle_at
        return [target for target in unseen if settle or self._readable(target, standing)]

    def _readable(self, target: Target, standing: Standing) -> bool:
        """May it be read, be it in a moment?"""
        trouble = self._state.target(target).trouble
        return standing.proves(target) and (trouble is None or trouble.failure is Failure.RETRY)

    def in_use(self, resource: ProtectedResource) -> bool:
        """Does any session hold it open, or has it rules there that are still to go?"""
        return any(self._uses(session, resource) for session in self._state.store.sessions_of(resource.key))

    def empty(self, target: Target, resource: ProtectedResource, standing: Standing) -> bool:
        """Has a resource that leaves the target nothing there, and is every rule of ours wanted by somebody else?"""
        if standing.lost(target):
            return True
        known = self._state.target(target)  # read before, if it cannot be now: nobody but us puts rules of ours there
        if known.read_at is None or known.any_unsettled:
            return False
        sessions = self._state.store.sessions_of(resource.key)
        if self._state.may_lag(known) and any(target in self._unseen(session, resource) for session in sessions):
            return False
        placed = self._state.placements.at(target)
        if any(claim.resource == resource.uid for holders in placed.values() for claim in holders):
            return False

        def others(claim: ClaimKey) -> bool:
            return claim.resource != resource.uid

        return all(
            rule.rule is not None
            and (any(map(others, placed.get(rule.rule, ()))) or self._kept(known, rule.rule, others))
            for rule in known.rules.values()
            if self._state.is_ours(rule)
        )

    def finished(self, resource: ProtectedResource, standing: Standing | None) -> bool:
        """Is there nothing that a deleted resource has to wait for?"""
        if self.in_use(resource):
            return False
        # Nobody has looked yet since the start: rules of an earlier process may be there, which had no time to tell.
        if standing is None or (not standing.answered and self._state.is_untold(resource)):
            return False
        return all(self.empty(target, resource, standing) for target in standing.everywhere())


def told(error: ProviderError | None) -> Refusal | None:
    """An error in the words of a status."""
    return None if error is None else Refusal(error.reason, error.message)

"""What is known of one firewall object: the last read, corrected by the answers to our own writes."""

from collections.abc import Callable, Collection, Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache
from typing import Final

from gatepass.core.desired import Claim, ClaimKey
from gatepass.core.errors import Failure, ProviderError
from gatepass.core.placement import FAMILIES, Lasting, Room
from gatepass.core.plan import Write
from gatepass.core.ports import Access
from gatepass.core.rules import ObservedRule, Rule, Target, parse_mark
from gatepass.engine.queue import CLOSING_RETRY
from gatepass.engine.tries import Tries

READS_LAG_SECONDS: Final = 120.0
"""How long after a write a read may still miss it: EC2 is eventually consistent, and gives no bound of its own."""
NEW_IDS_SECONDS: Final = 15.0
"""How long after a grant EC2 may not know everywhere yet the id that it has given."""
FOREIGN_END_SECONDS: Final = 5.0
"""How long another installation may take to close its rule after the end that is written on it."""
OTHERS_LOOK_SECONDS: Final = 20.0
"""How old a read may be by which one of ours rests on another installation's rule, which that may close at any time."""
_UNREAD: Final = ProviderError(Failure.RETRY, "NotRead", "not read with these credentials yet")
Others = Callable[[ObservedRule], bool]
"""Is a rule another installation's?"""


@dataclass(frozen=True, slots=True)
class _Lost:
    """A grant of unknown outcome at `at`; EC2 says that the rule is there since `there_since`, if it has said so."""

    at: float
    there_since: float | None


@dataclass(slots=True)
class TargetState:
    """One firewall object as we know it. Times are seconds of the event loop's clock.

    `claims` are those that its last pass has heard, whatever became of them; the first one's time is up at `ends_at`.
    `placed` are the holders of those that have got a place, here or elsewhere, or wait for one from now on, and have
    not been told, and `kept` the claims that keep a rule here, having no place here, as its last pass has found them.
    `conflict` says why nothing is revoked. `revoked` is when a revocation was acknowledged, by id, and `settled` are
    rules that are gone by the answer to a write, while reads may lag. `doubtful` are rules that neither the last read
    nor a write since has shown, `unproven` those that only a write can prove. What is held back is written at
    `resumes_at`, and at `look_again_at` a read is due for another installation's rules. `unheard` are rules whose
    revocation had no answer, and since when; `unknown` are those whose ids EC2 did not know in the last call; `missed`
    are new ones that neither a read nor a write finds, which are put again for whoever wants them, and revoked by their
    ids for the others.
    """

    target: Target
    rules: dict[str, ObservedRule] = field(default_factory=dict)
    read_at: float | None = None
    stale: bool = True
    trouble: ProviderError | None = None
    tries: Tries = field(default_factory=Tries)
    conflict: ProviderError | None = None
    conflicts: tuple[ObservedRule, ...] = ()
    claims: Mapping[ClaimKey, Claim] = field(default_factory=dict)
    kept: Mapping[Rule, set[ClaimKey]] = field(default_factory=dict)
    ends_at: float = float("inf")
    placed: set[str] = field(default_factory=set)
    revoked: dict[str, float] = field(default_factory=dict)
    settled: set[Rule] = field(default_factory=set)
    doubtful: set[str] = field(default_factory=set)
    unproven: set[str] = field(default_factory=set)
    unheard: dict[str, float] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)
    missed: set[str] = field(default_factory=set)
    granting: set[Rule] = field(default_factory=set)
    revoking: set[str] = field(default_factory=set)
    resumes_at: float = 0.0
    look_again_at: float = float("inf")
    _waits_until: float | None = None
    _closes_at: float = 0.0
    _closes: bool = False
    _patience: float = 0.0
    _granted: dict[str, tuple[float, ObservedRule]] = field(default_factory=dict)
    _put_at: dict[str, float] = field(default_factory=dict)
    _first_seen: dict[str, float] = field(default_factory=dict)
    _lost: dict[Rule, _Lost] = field(default_factory=dict)
    _full_at: dict[int, int] = field(default_factory=dict)
    _holding: dict[Rule, ObservedRule] | None = None

    def wait(self, now: float, longest: float, patience: float, closing: float, *, closes: bool) -> None:
        """Hold writes back for company, `longest` seconds at most, or until nobody has come for `patience` seconds.

        Should something have to close meanwhile, if none of them `closes` yet, then for `closing` seconds at most.
        """
        self._waits_until = now + longest
        self._closes_at = now + closing
        self._patience, self._closes = patience, closes
        self.resumes_at = min(now + patience, self._waits_until)

    def joined(self, now: float) -> bool:
        """Does somebody who comes now join a wait?"""
        return self._waits_until is not None and now < self.resumes_at

    def goes_on(self, now: float, came: float) -> bool:
        """Does the wait go on, when somebody last came at `came`, here or to a neighbour that shares the calls?"""
        if self._waits_until is None:
            return False
        self.resumes_at = min(max(came + self._patience, self.resumes_at), self._waits_until)
        return now < self.resumes_at

    def hurry(self) -> None:
        """Something has to close: it waits for others that close, and not for who opens."""
        if self._waits_until is not None:
            self._closes = True
            self._waits_until = min(self._waits_until, self._closes_at)
            self.resumes_at = min(self.resumes_at, self._waits_until)

    def comes_back_at(self, now: float) -> float:
        """When a wait is over, or a claim's time is up before, which shortens it."""
        return min(self.resumes_at, self.ends_at) if now < self.ends_at else self.resumes_at

    @property
    def holds_back(self) -> bool:
        """Has a wait begun, and nothing been written since?"""
        return self._waits_until is not None

    def waits_to_close(self, now: float) -> bool:
        """Is something held back that has to close?"""
        return self._closes and self.joined(now)

    def write(self) -> None:
        """What was held back goes out."""
        self._waits_until = None

    def read(self, observed: Iterable[ObservedRule], started: float, others: Others) -> None:
        """Take a read that started at `started`; a write acknowledged less than two minutes before beats it.

        So does an earlier read that has shown a rule of ours, less than two minutes after it was first seen.
        """
        self._granted = {id_: ack for id_, ack in self._granted.items() if started < ack[0] + READS_LAG_SECONDS}
        self._put_at = {id_: at for id_, at in self._put_at.items() if started < at + READS_LAG_SECONDS}
        self.revoked = {id_: at for id_, at in self.revoked.items() if started < at + READS_LAG_SECONDS}
        seen = {rule.id: rule for rule in observed if rule.id not in self.revoked}
        young = {
            id_: rule
            for id_, rule in self.rules.items()
            if not others(rule) and started < self._first_seen.get(id_, started) + READS_LAG_SECONDS
        }
        self.rules = {**young, **seen, **{id_: rule for id_, (_, rule) in self._granted.items()}}
        self._first_seen = {id_: self._first_seen.get(id_, started) for id_ in self.rules}
        self._holding = None
        self.doubtful = set(self.rules) - set(seen)
        self.unheard = {
            id_: at for id_, at in self.unheard.items() if id_ in self.rules and started < at + READS_LAG_SECONDS
        }
        self.unproven = set(self.unheard)
        self.missed &= self.doubtful
        self.unknown &= self.rules.keys()
        held = {rule.rule: rule.id for rule in seen.values()}
        self._put_at = {held[rule]: lost.at for rule, lost in self._lost.items() if rule in held} | self._put_at
        self._lost = {
            rule: lost
            for rule, lost in self._lost.items()
            if rule not in held and started < lost.at + READS_LAG_SECONDS
        }
        self._full_at.clear()
        self.read_at = started
        self.trouble = None

    def remembers(self, now: float) -> bool:
        """Is a write under way, or so young that a read may not show it?"""
        lost = (lost.at for lost in self._lost.values())
        granted = (at for at, _ in self._granted.values())
        written = max((*self.revoked.values(), *self.unheard.values(), *granted, *lost), default=float("-inf"))
        return bool(self.granting or self.revoking) or now < written + READS_LAG_SECONDS

    def suppose(self, recorded: ObservedRule) -> None:
        """A rule that an earlier process has recorded, and the read, which may lag behind it, does not show."""
        if recorded.id not in self.revoked:
            self.rules[recorded.id] = recorded
            self.doubtful.add(recorded.id)
            self._holding = None

    def put_before(self, id_: str, seconds: float) -> None:
        """An earlier process has put it, so many seconds before the last read."""
        if self.read_at is not None and seconds < NEW_IDS_SECONDS:
            self._put_at.setdefault(id_, self.read_at - seconds)

    def question(self, ids: Iterable[str]) -> None:
        """The read may lag behind the revocation of these by an earlier process: only a write can tell."""
        self.unproven.update(id_ for id_ in ids if id_ in self.rules and id_ not in self._granted)

    def unheard_of(self, id_: str, at: float) -> None:
        """The answer to its revocation was lost: whoever wants it by now must not count on it."""
        if id_ in self.rules:
            self.unheard[id_] = at
            self.unproven.add(id_)

    def too_new(self, id_: str, at: float) -> bool:
        """Was it put so lately that EC2 may not know its id yet? For a while, a read has to have missed it too."""
        put_at = self._put_at.get(id_, float("-inf"))
        told_at = self._granted[id_][0] if id_ in self._granted else put_at
        return at < put_at + NEW_IDS_SECONDS or (at < told_at + READS_LAG_SECONDS and id_ not in self.doubtful)

    def take_known(self, ids: Iterable[str]) -> list[str]:
        """Those to be revoked in the next call: EC2 takes all or none, so what it did not know waits for one turn."""
        known = [id_ for id_ in ids if id_ not in self.unknown]
        self.unknown.clear()
        return known or list(ids)

    def vanished(self, id_: str, at: float) -> None:
        """A write was told that there is no such rule; of one that we have put ourselves a read has to tell too."""
        if self.too_new(id_, at):
            self.missed |= {id_} & self.doubtful
        elif id_ in self._granted:
            self._settle(id_)
        else:
            self.gone(id_, at)

    def granted(self, observed: ObservedRule, at: float) -> None:
        """A grant was acknowledged."""
        for id_ in [id_ for id_ in self.doubtful if self.rules[id_].rule == observed.rule]:
            self._forget(id_)
        self._keep(observed, at)
        self._put_at[observed.id] = at
        self.revoked.pop(observed.id, None)
        if observed.rule is not None:
            self._lost.pop(observed.rule, None)

    def gone(self, id_: str, at: float) -> None:
        """A revocation was acknowledged."""
        self._settle(id_)
        self.revoked[id_] = at

    def _settle(self, id_: str) -> None:
        before = self.rules.get(id_)
        if before is not None and before.rule is not None:
            self.settled.add(before.rule)
        self._forget(id_)

    def _keep(self, acknowledged: ObservedRule, at: float) -> None:
        self.rules[acknowledged.id] = acknowledged
        self._granted[acknowledged.id] = (at, acknowledged)
        self.unproven.discard(acknowledged.id)
        self.unheard.pop(acknowledged.id, None)
        self.missed.discard(acknowledged.id)
        self._holding = None

    def _forget(self, id_: str) -> None:
        self._holding = None
        self.rules.pop(id_, None)
        self._granted.pop(id_, None)
        self._put_at.pop(id_, None)
        self.doubtful.discard(id_)
        self.unproven.discard(id_)
        self.unheard.pop(id_, None)
        self.unknown.discard(id_)
        self.missed.discard(id_)

    def relabelled(self, id_: str, description: str, at: float) -> None:
        """A new description was acknowledged."""
        before = self.rules.get(id_)
        if before is not None:
            self._keep(replace(before, description=description), at)
            self.doubtful.discard(id_)

    def retagged(self, id_: str, owner: str, at: float) -> None:
        """A new owner tag was acknowledged."""
        before = self.rules.get(id_)
        if before is not None:
            self._keep(replace(before, owner=owner), at)

    def trouble_of(self, access: Access, kinds: Collection[Write]) -> ProviderError | None:
        """What is in the way of calls of these kinds."""
        if self.trouble is not None:
            return self.tries.error((access, "reads")) or _UNREAD
        errors = (self.tries.trouble((access, kind)) for kind in kinds)
        return next(filter(None, errors), self.conflict if "revokes" in kinds else None)

    @property
    def fails(self) -> bool:
        """Is something in the way of reading or writing, for anybody?"""
        return bool(self.trouble or self.conflict) or self.tries.fails()

    def lost(self, rule: Rule, at: float) -> None:
        """The answer to a grant was lost: the rule may be there until a read settles it."""
        self._lost[rule] = _Lost(at, None)

    def duplicate(self, rule: Rule, at: float) -> None:
        """A grant was answered that the rule is there, which a read does not show yet."""
        before = self._lost.get(rule)
        since = at if before is None or before.there_since is None else before.there_since
        self._lost[rule] = _Lost(at, since)

    def hidden(self, rule: Rule, now: float) -> bool:
        """Is it too early to ask once more for a rule that is there by EC2's word? Each pause is twice the last."""
        lost = self._lost.get(rule)
        if lost is None or lost.there_since is None:
            return False
        return now < lost.at + max(lost.at - lost.there_since, CLOSING_RETRY)

    def full(self, family: int) -> None:
        """The firewall said that it is full, whatever the quota says."""
        self._full_at[family] = self.used(family)

    @property
    def put_by_us(self) -> Set[str]:
        """The ids that we have been told of rules that we have put or labelled."""
        return self._granted.keys()

    @property
    def coming(self) -> Set[Rule]:
        """What may be there, or come, although no read shows it."""
        return self._lost.keys() | self.granting

    @property
    def any_unsettled(self) -> bool:
        """Is there a write of unknown outcome, or one under way?"""
        return bool(self.coming)

    def used(self, family: int) -> int:
        """Rules of the family that the firewall counts."""
        return sum(rule.weight[FAMILIES.index(family)] for rule in self.rules.values())

    def limit(self, family: int, quota: int) -> int:
        """Rules of the family that it takes: its own word wins over the quota."""
        return min(quota, self._full_at.get(family, quota))

    def holding(self) -> Mapping[Rule, ObservedRule]:
        """The rules that are there, by identity."""
        if self._holding is None:
            self._holding = {rule.rule: rule for rule in self.rules.values() if rule.rule is not None}
        return self._holding

    def next_look_at_others(
        self, wanted: Iterable[Rule], others: Others, present: datetime, now: float
    ) -> float | None:
        """Seconds until a rule of another installation that stands where we want one is to be read again.

        As soon as it should be gone by its own word, and every few seconds besides: the other may close it before.
        """
        held = (rule for rule in map(self.holding().get, wanted) if rule is not None and others(rule))
        marks = [mark for rule in held if (mark := parse_mark(rule.description)) is not None]
        if not marks or self.read_at is None:
            return None
        ends = (mark.until for mark in marks if mark.until is not None)
        left = ((end - present).total_seconds() + FOREIGN_END_SECONDS for end in ends)
        due = max(self.read_at + OTHERS_LOOK_SECONDS - now, 0.0)
        return min([due, *(seconds for seconds in left if seconds > 0)])

    def staying(self) -> Mapping[Rule, ObservedRule]:
        """The same, without those that are being revoked: who wants one of them has to wait, and gets another."""
        if not self.revoking:
            return self.holding()
        return {rule: held for rule, held in self.holding().items() if held.id not in self.revoking}

    def room(self, coming: Iterable[Rule], lasts: Callable[[ObservedRule], bool]) -> Room:
        """Room for more, when `coming` are on their way, and this is said of those that are there."""

        @cache  # for each who waits the same
        def lasting() -> Lasting:
            those = [rule for rule in self.rules.values() if lasts(rule)]
            weight = {family: sum(rule.weight[at] for rule in those) for at, family in enumerate(FAMILIES)}
            return Lasting({rule.rule for rule in those if rule.rule is not None}, weight)

        used = {family: self.used(family) for family in FAMILIES}
        room = Room(set(self.staying()), used, dict(self._full_at), lasting)
        for rule in coming:
            if rule not in room.holds:
                room.take(rule)
        return room

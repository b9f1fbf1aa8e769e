"""Whether the promise is kept: what is there, against who is entitled. Pure; the times come from the logs.

No rule of ours stays open for which nobody is entitled; no door is closed that a live session has been told is open;
no rule of anybody else is touched; nobody gets what policy refuses; and an end is final. What is seen in one log may
not have arrived in the other: a suspicion becomes a breach when a listing that began after it confirms it.
"""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.observer.book import NEVER, Book, Holder, Item
from tests.observer.ledger import OTHERS, Happening, Ledger, Rule
from tests.observer.promise import Claim, Door, Place, cause, name_of, ranges_of

LATENESS_SECONDS = 2.0
HEARING_SECONDS = 0.5
"""So long after a call the watches have told of what led to it, as a rule."""
TELLING_SECONDS = 1.0
"""So long after a rule for an address that was found the status of its session tells of it at the latest."""
_ROUNDING_SECONDS = 0.05


@dataclass
class Breach:
    """The promise was broken: how, where, since when (seconds since 1970), and for how long as far as was seen."""

    kind: str
    what: str
    since: float
    seconds: float = 0.0

    def __str__(self) -> str:
        lasted = f", for {self.seconds:.2f} s" if self.seconds else ""
        return f"{self.kind}: {self.what}{lasted}"


@dataclass
class Gap:
    """A door that a live session has been told is open, and that no rule holds open."""

    since: float
    noticed: float
    ended: float | None = None
    excused: bool = False


@dataclass
class Closing:
    """A rule of ours that was revoked then; whether in time shows when the end that it is about has been heard of."""

    rule: Rule
    at: float
    noticed: float
    ceased: float
    claims: dict[Holder, Claim]


@dataclass
class Lateness:
    """How long after its time a rule was revoked: by the clock, and counted while the operator could have done it."""

    by_clock: float
    counted: float


@dataclass
class Judge:
    """`resync_seconds`: how long a door may stay closed after somebody else has removed its rule.

    `read_lag_seconds`: how much later a rule may be closed whose id no status has recorded.
    """

    owner: str
    resync_seconds: float
    read_lag_seconds: float = 0.0
    book: Book = field(default_factory=Book)
    breaches: dict[tuple[str, object], Breach] = field(default_factory=dict)
    lateness: list[Lateness] = field(default_factory=list)
    stopped_at: dict[str, float] = field(default_factory=dict)
    needs_listing: bool = False
    _touched: set[str] = field(default_factory=set)
    _blind: set[str] = field(default_factory=set)
    _sees_since: dict[str, float] = field(default_factory=dict)
    _able: list[tuple[float, bool]] = field(default_factory=lambda: [(NEVER, False)])
    _reaches: list[tuple[float, bool]] = field(default_factory=lambda: [(NEVER, True)])
    _suspects: dict[str, float] = field(default_factory=dict)
    _gaps: dict[tuple[Holder, Door], Gap] = field(default_factory=dict)
    _closings: list[Closing] = field(default_factory=list)
    _recorded: set[str] = field(default_factory=set)
    _perhaps_found: set[str] = field(default_factory=set)
    _taken: dict[Place, float] = field(default_factory=dict)
    _ends: dict[str, tuple[str, str]] = field(default_factory=dict)
    _new_ends: dict[str, float] = field(default_factory=dict)
    _windows: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.owner)

    # what is told

    def able(self, now: float, *, able: bool) -> None:
        """Whether the operator runs and reaches both the API server and EC2: lateness counts only while it does."""
        if self._able[-1][1] != able:
            self._able.append((now, able))
            for uid, seconds in self._windows.items() if able else ():
                if seconds > 0 and "endedAt" not in self.book.sessions.get(uid, {}).get("status", {}):
                    self.book.lose_runner(uid, now + seconds, now)

    def loses(self, uid: str, seconds: float, now: float) -> None:
        """The runner of a session goes: it is over in so many seconds, counted anew when the operator is back.

        With infinitely many it may be gone: from now on its session may be closed, however long it may stay open.
        """
        self._windows[uid] = seconds
        self.book.lose_runner(uid, now + seconds, now)

    def reaches(self, now: float, *, reaches: bool) -> None:
        """Whether the operator can hear of what happens: what it cannot know is no reason to blame it for opening."""
        if self._reaches[-1][1] != reaches:
            self._reaches.append((now, reaches))

    def touching(self, ids: set[str]) -> None:
        """Somebody else is about to change or remove these rules."""
        self._touched |= ids

    def blind(self, group: str, now: float, *, blind: bool) -> None:
        """It has been made impossible to keep the promise in this group, or is possible again."""
        (self._blind.add if blind else self._blind.discard)(group)
        self._sees_since[group] = now

    def saw(self, kind: str, item: Item, now: float) -> None:
        """An object is there, or has changed."""
        before = self._told(kind, item)
        self.book.see(kind, item, now)
        if kind == "sessions":
            self._look_at_end(item, now)
            for entry in item.get("status", {}).get("resources", ()):
                self._recorded.update(rule["id"] for rule in entry.get("rules", ()))
        for holder in self._told(kind, item) - before:
            self._look_at_ceiling(holder, now)

    def _told(self, kind: str, item: Item) -> set[Holder]:
        """Who of those that an object may be about has been told that it is open."""
        about = self.book.holders(item) if kind == "sessions" else self.book.claims
        return {holder for holder in about if holder in self.book.told_at}

    def missed(self, kind: str, item: Item, now: float) -> None:
        """An object was there, and had gone before the last listing: until now at most it has entitled anybody.

        One that is known to have ended is only shown once more as it was before.
        """
        if item["metadata"]["uid"] in self._ends:
            return
        there = {"sessions": self.book.sessions, "resources": self.book.resources}.get(kind)
        if there is not None and not {item["metadata"]["uid"], name_of(item)} & there.keys():
            self.saw(kind, item, now)
            self.book.lose(kind, item, now)

    def happened(self, entry: dict[str, Any], now: float) -> None:
        """A call was made."""
        for happening in self.ledger.take(entry):
            if happening.what == "made":
                self._end_gaps(happening)
                if self._may_find():
                    self._perhaps_found.add(happening.rule.id)
                continue
            by_others = happening.by in OTHERS or happening.rule.id in self._touched or happening.what == "deleted"
            if not happening.rule.ours and not by_others:
                done = f"was {happening.what} by {happening.by}"
                what = f"{happening.rule.id} in {happening.rule.group}: {happening.rule.door} {done}"
                self._note("touched a foreign rule", happening.rule.id, what, happening.at)
            if happening.what == "changed":
                continue
            if by_others and happening.rule.place is not None:
                self._taken[happening.rule.place] = happening.at
            self._begin_gaps(happening, now, excused=by_others)
            if happening.rule.ours and happening.rule.place and not by_others:
                place = happening.rule.place
                gone, claims = self.book.left_at(place), dict(self.book.at(place))
                self._closings.append(Closing(happening.rule, happening.at, now, gone, claims))

    # judgement

    def look(self, now: float, listed: float) -> None:
        """Judge everything as of now; `listed` is when the last complete listing of all objects began."""
        self.needs_listing = False
        self._look_for_open_doors(now, listed)
        self._look_for_gaps(now, listed)
        self._look_at_new_ends(now, listed)
        self._closings = [closing for closing in self._closings if not self._judged(closing, now, listed)]

    def left(self, now: float) -> list[Rule]:
        """The rules of ours that are there and for which nobody is entitled."""
        return [rule for rule in self._ours() if self.book.ceased(rule.place) <= now]

    def _ours(self) -> Iterator[Rule]:
        return (
            rule for rule in self.ledger.rules.values() if rule.ours and rule.place and rule.group not in self._blind
        )

    def _look_for_open_doors(self, now: float, listed: float) -> None:
        suspects = {}
        for rule in self._ours():
            ceased = self.book.ceased(rule.place)
            if ceased > now:
                continue
            late = self._late(rule.group, ceased, now)
            if not self._nobody(rule) and late <= self._allowed(rule):
                continue
            suspects[rule.id] = self._suspects.get(rule.id, now)
            certain = suspects[rule.id] + (TELLING_SECONDS if self._nobody(rule) and self._untold(rule) else 0.0)
            if now < certain:
                continue
            if listed <= certain:
                self.needs_listing = True
            elif self._nobody(rule):
                self._note_nobody(rule, now)
            else:
                self._note_late(rule, now, late)
        self._suspects = suspects

    def _untold(self, rule: Rule) -> bool:
        """Could the rule be for an address that was found, and that the status of a session is still to tell of?"""
        return rule.id in self._perhaps_found or self._may_find()

    def _may_find(self) -> bool:
        return any(name_of(each) not in self.book.origins for each in self.book.finding.values())

    def _nobody(self, rule: Rule) -> bool:
        """Was the rule made for nobody: was the last who was entitled known to be long gone when it was asked for?"""
        assert rule.place is not None
        since, reaches = _at(self._reaches, rule.asked_at)
        return reaches and max(self.book.ceased(rule.place), since) < rule.asked_at - LATENESS_SECONDS

    def _note_nobody(self, rule: Rule, now: float) -> None:
        refused = [
            f"{name_of(self.book.sessions[holder.uid])} may not use {holder.resource}"
            for holder in self.book.refused
            if holder.uid in self.book.sessions and rule.door is not None
            if rule.door.cidr in ranges_of(self.book.sessions[holder.uid])
        ]
        what = f"{rule.id} in {rule.group}: {rule.door}{''.join(f', {each}' for each in refused)}"
        self._note("opened for nobody", rule.id, what, rule.made_at, now - rule.made_at)

    def _note_late(self, rule: Rule, now: float, late: float) -> None:
        self._note("left open", rule.id, f"{rule.id} in {rule.group}: {rule.door}", now - late, late)

    def _judged(self, closing: Closing, now: float, listed: float) -> bool:
        """Was a closing in time? False when that cannot be told yet."""
        rule, at = closing.rule, closing.at
        if now < closing.noticed + HEARING_SECONDS and listed <= closing.noticed:
            return False
        ends = (self.book.ended_at(holder, claim) for holder, claim in closing.claims.items())
        ceased = max(closing.ceased, *ends, NEVER)
        if rule.group in self._blind or ceased > at + HEARING_SECONDS:
            return True  # nobody's end: whether somebody still had to have it is a question of gaps
        late = self._late(rule.group, ceased, at)
        if (self._nobody(rule) or late > self._allowed(rule)) and listed <= closing.noticed:
            self.needs_listing = True
            return False
        if self._nobody(rule):
            if not self._untold(rule) or at - rule.made_at > TELLING_SECONDS:
                self._note_nobody(rule, at)
            return True
        if ceased > NEVER:
            self.lateness.append(Lateness(max(0.0, at - ceased), max(0.0, late)))
        if late > self._allowed(rule):
            self._note_late(rule, at, late)
        return True

    def _late(self, group: str, ceased: float, now: float) -> float:
        """Seconds since it should have been closed, counted from when the operator was back and EC2 answered."""
        since, able = _at(self._able, now)
        if not able:
            return 0.0
        return now - max(ceased, since, self.ledger.answers_since(group), self._sees_since.get(group, NEVER))

    def _allowed(self, rule: Rule) -> float:
        return LATENESS_SECONDS + (0.0 if rule.id in self._recorded else self.read_lag_seconds)

    # gaps

    def _held(self, holder: Holder, door: Door) -> bool:
        claim = self.book.claims[holder]
        return any(Place(group, door) in self.ledger.holding for group in claim.groups)

    def _begin_gaps(self, happening: Happening, now: float, *, excused: bool) -> None:
        rule = happening.rule
        if rule.place is None:
            return
        for holder, claim in self.book.at(rule.place).items():
            told = self.book.told_at.get(holder, now)
            begun = told < happening.at < self.book.promised_until(holder, claim) - _ROUNDING_SECONDS
            if begun and not self._held(holder, rule.place.door):
                gap = Gap(happening.at, now, excused=excused)
                self._gaps.setdefault((holder, rule.place.door), gap)

    def _end_gaps(self, happening: Happening) -> None:
        if happening.rule.place is None:
            return
        for holder in self.book.at(happening.rule.place):
            gap = self._gaps.get((holder, happening.rule.place.door))
            if gap is not None and gap.ended is None:
                gap.ended = happening.at

    def _look_for_gaps(self, now: float, listed: float) -> None:
        for holder, claim in self.book.told(now):
            for door in claim.doors if self.book.promised_until(holder, claim) > now else ():
                if (holder, door) not in self._gaps and not self._held(holder, door):
                    told = self.book.told_at[holder]
                    taken = max(self._taken.get(Place(group, door), NEVER) for group in claim.groups)
                    excused = taken > told - self.resync_seconds - LATENESS_SECONDS
                    self._gaps[holder, door] = Gap(told, now, excused=excused)
        for (holder, door), gap in list(self._gaps.items()):
            found = self.book.claims.get(holder)
            if found is not None and found.groups & self._blind:
                found = None
            if listed <= gap.noticed:
                self.needs_listing = True
                continue
            if found is None or found.until <= gap.since:
                del self._gaps[holder, door]  # it has ended: what came first cannot be told
                continue
            ended = gap.ended
            if ended is None and door not in found.doors:  # it has moved, of which the watches tell a little later
                ended = max(self.book.left_at(Place(group, door)) for group in found.groups) - HEARING_SECONDS
            elif ended is None and not found.told:
                ended = self.book.untold_at.get(holder, now)
            until = min(now if ended is None else ended, found.until)
            missing = until - gap.since
            if gap.excused:
                since, able = self._able[-1]
                missing = until - max(gap.since, since) - self.resync_seconds - LATENESS_SECONDS if able else 0.0
            if missing > 0:
                what = f"{door} in {', '.join(sorted(found.groups))}, promised to {found.holder}"
                self._note("closed too early", (holder, door), what, gap.since, until - gap.since)
            if ended is not None or found.until <= now:
                del self._gaps[holder, door]

    # sessions

    def _look_at_ceiling(self, holder: Holder, now: float) -> None:
        resource = self.book.resources.get(holder.resource, {})
        ceiling = resource.get("spec", {}).get("policy", {}).get("maxConcurrentSessions")
        if ceiling is None:
            return
        live = [claim.holder for other, claim in self.book.told(now) if other.resource == holder.resource]
        if len(live) > ceiling:
            what = f"{holder.resource}: {len(live)} of {ceiling}, the last for {self.book.claims[holder].holder}"
            self._note("more than the ceiling", holder, what, now)

    def _look_at_end(self, session: Item, now: float) -> None:
        uid, status = session["metadata"]["uid"], session.get("status", {})
        if session["spec"].get("stop", False):
            self.stopped_at.setdefault(uid, now)
        end = (status.get("endedAt", ""), status.get("endedReason", ""))
        before = self._ends.get(uid)
        if before is not None and before != end:
            what = f"{name_of(session)}: {before} became {end}"
            self._note("an end was taken back", uid, what, now)
        if "endedAt" in status:
            if before is None and not cause(session, self.book.resources, self.book.namespaces):
                self._new_ends[uid] = now  # it may not have been heard of yet; later it may be one no more
            self._ends[uid] = end

    def _look_at_new_ends(self, now: float, listed: float) -> None:
        """An end must have its cause; whether policy is one cannot be told before everything is known."""
        for uid, noticed in list(self._new_ends.items()):
            session = self.book.sessions.get(uid)
            if (
                session is None
                or self._has_lost_its_runner(session)
                or cause(session, self.book.resources, self.book.namespaces)
            ):
                del self._new_ends[uid]
            elif listed > noticed:
                del self._new_ends[uid]
                status = session["status"]
                told = f"{name_of(session)}: {status['endedReason']} at {status['endedAt']}"
                self._note("ended without cause", uid, told, now)
            else:
                self.needs_listing = True

    def _has_lost_its_runner(self, session: Item) -> bool:
        by_runner = session["status"]["endedReason"] in ("OwnerFinished", "HeartbeatLost")
        return by_runner and session["metadata"]["uid"] in self.book.lost

    def _note(self, kind: str, key: object, what: str, since: float, seconds: float = 0.0) -> None:
        breach = self.breaches.setdefault((kind, key), Breach(kind, what, since))
        breach.seconds = max(breach.seconds, seconds)


def _at(history: list[tuple[float, bool]], moment: float) -> tuple[float, bool]:
    """What held at a moment, and since when."""
    return history[bisect_right(history, moment, key=lambda entry: entry[0]) - 1]

"""The observer's laws, checked after each change of a rule, of an object, and of what time it is.

| fault                                  | a rule without a right may stay for, after the fault is over          |
|----------------------------------------|-----------------------------------------------------------------------|
| none                                   | 2 s                                                                   |
| the process was ended                  | 5 s from its first listing                                            |
| the cloud or the API server failed     | as long as they failed, at most 300 s: the longest pause of a retry   |
| answers were lost, or the process was ended before it heard the id | 125 s more: reads lag             |
| a watch was silent, events were late   | 7 s                                                                   |
| a deletion was lost with a watch       | 605 s: the next resync                                                |
| a mark was edited by hand              | for ever: it cannot be told from somebody else's                      |
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from gatepass.core.rules import ObservedRule, Target
from tests.observer.promise import Door
from tests.simulation.apiserver import RESOURCES, SESSIONS, Json
from tests.simulation.calm import CALM_GRACE, FOREVER, GRACE, Calm
from tests.simulation.ledger import Holder, Ledger, Name, Place, entry_of, groups_of, name_of

LATENESS: Final = 2.0
LAG: Final = 125.0
HEALED: Final = 600.0 + LAG + GRACE
_ENDED: Final = ("Expired", "Cancelled")
_WRITES_PER_HOUR: Final = 4000
_CALLS_PER_HOUR: Final = 4000


class BreachError(Exception):
    """A law was broken: `law` says which, the text how."""

    def __init__(self, law: str, how: str) -> None:
        super().__init__(f"{law}: {how}")
        self.law = law


@dataclass
class _Rule:
    """A rule that is there; `heard` in which process's life its id was acknowledged."""

    place: Place
    ours: bool
    heard: bool = False
    spoilt: bool = False


def place_of(target: Target, rule: ObservedRule) -> Place | None:
    """Where a rule is."""
    if rule.rule is None or rule.rule.port is None or rule.rule.end_port is None:
        return None
    return Place(target.id, Door(rule.rule.cidr, rule.rule.protocol, rule.rule.port, rule.rule.end_port))


class Laws:
    """Raises nothing itself: the first breach is handed to `broken`."""

    def __init__(
        self, big_bang: float, broken: Callable[[BreachError], None], tolerated: frozenset[str] = frozenset()
    ) -> None:
        self._broken = broken
        self.tolerated = tolerated
        self.truth = Ledger(big_bang)
        self.told = Ledger(big_bang)
        self.groups: set[str] = set()
        self.full: Callable[[str], bool] = lambda _group: False
        self._rules: dict[str, _Rule] = {}
        self._at: dict[Place, set[str]] = {}
        self._idle: dict[Place, float] = {}
        self._removed_by_others: dict[Place, float] = {}
        self.calm = Calm()
        self._asked: Counter[str] = Counter()
        self._answered_at: dict[str, float] = {}
        self._hours: Counter[tuple[str, int]] = Counter()
        self.calls: Counter[str] = Counter()

    def breach(self, law: str, how: str) -> None:
        """Note a breach."""
        self._broken(BreachError(law, f"{how} (at {self._now():.3f} s)"))

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    # faults

    def fault_begins(self, kind: str) -> None:
        """Lateness counts only while nothing stands in the way."""
        self.calm.begins(kind)

    def fault_ends(self, kind: str, after: float, after_heard: float) -> None:
        """It is over, and what it did is forgotten `after` seconds from now."""
        self.calm.ends(kind, after, after_heard, self._now())
        for place in sorted(self._idle):
            self._look(place)

    def process_ended(self) -> None:
        """Ids are known to nobody but the statuses any more."""
        self._asked.clear()
        for rule in self._rules.values():
            recorded = "ids forgotten at a restart" not in self.tolerated and self._is_recorded(rule)
            rule.heard = rule.heard and recorded

    def _is_recorded(self, rule: _Rule) -> bool:
        return any(rule.place in self._promises(session) for session in self.truth.sessions.values())

    # rules

    def called(self, verb: str) -> None:
        """Gatepass calls the cloud."""
        self.calls[verb] += 1
        self._count("calls of the cloud", _CALLS_PER_HOUR)

    def _count(self, what: str, most: int) -> None:
        key = what, int(self._now() // 3600)
        self._hours[key] += 1
        if self._hours[key] == most:
            self.breach("hot loop", f"{most} {what} in hour {key[1]}")

    def asked(self, target: Target) -> None:
        """A grant is on its way."""
        self._asked[target.id] += 1

    def answered(self, target: Target) -> None:
        """It has been answered."""
        self._asked[target.id] -= 1
        self._answered_at[target.id] = self._now()

    def _is_asked(self, group: str) -> bool:
        """Is a grant on its way, or was it when what arrives now was sent?"""
        return self._asked[group] > 0 or self._now() - self._answered_at.get(group, -1.0) < 1.0

    def acknowledged(self, rule_id: str) -> None:
        """The process knows the id."""
        if rule_id in self._rules:
            self._rules[rule_id].heard = True

    def rule_changed(
        self, target: Target, before: ObservedRule | None, after: ObservedRule | None, *, by_gatepass: bool
    ) -> None:
        """A rule came, went or was edited."""
        id_ = (before or after).id  # type: ignore[union-attr]
        known = self._rules.get(id_)
        if before is None and after is not None:
            place = place_of(target, after)
            assert place is not None
            self._rules[id_] = _Rule(place, ours=by_gatepass)
            self._at.setdefault(place, set()).add(id_)
            if by_gatepass:
                self._opened(id_, place)
        elif known is not None:
            if by_gatepass and not known.ours:
                self.breach("touched a foreign rule", f"{before} became {after}")
            if not by_gatepass:
                known.spoilt = True
            if after is None:
                del self._rules[id_]
                self._at[known.place].discard(id_)
                self._closed(id_, known.place, by_gatepass=by_gatepass)
        if known is not None:
            self._look(known.place)
        elif id_ in self._rules:
            self._look(self._rules[id_].place)

    def _grace(self) -> float:
        return self.calm.grace(self._now())

    def _opened(self, id_: str, place: Place) -> None:
        until = max(self.truth.open_until(place), self.told.open_until(place))
        if until < self._now() - self._grace():
            self.breach("opened what nobody was granted", f"{id_} at {place}, wanted until {until:.3f}")

    def _closed(self, id_: str, place: Place, *, by_gatepass: bool) -> None:
        if not by_gatepass:
            self._removed_by_others[place] = self._now()
            return
        for holder, name in self._promised(place):
            if self._may_count_on(holder) and not self._open_elsewhere(holder, place.door):
                self.breach("closed too early", f"{id_} at {place}, promised to {'/'.join(name)}")

    def _promised(self, place: Place) -> list[tuple[Holder, Name]]:
        """Who has been told that the place is open."""
        found = []
        for name, session in self.truth.sessions.items():
            for promised, holder in self._promises(session).items():
                if promised == place:
                    found.append((holder, name))
        return found

    def _promises(self, session: Json) -> dict[Place, Holder]:
        found = {}
        for entry in session.get("status", {}).get("resources", ()):
            for record in entry.get("rules", ()):
                if "removedAt" not in record and entry["state"] == "Applied":
                    door = Door(record["cidr"], record["protocol"], record["port"], record["endPort"])
                    found[Place(record["target"], door)] = Holder(session["metadata"]["uid"], entry.get("uid", ""))
        return found

    def _may_count_on(self, holder: Holder) -> bool:
        """Is the holder entitled, and knows the process it, without having thought otherwise lately?"""
        now = self._now()
        return all(
            (right := ledger.rights.get(holder)) is not None
            and right.until > now
            and holder not in ledger.disputed
            and now - ledger.lost_at.get(holder, -GRACE) >= self._grace()
            for ledger in (self.truth, self.told)
        )

    def _open_elsewhere(self, holder: Holder, door: Door) -> bool:
        right = self.truth.rights[holder]
        return door not in right.doors or any(self._at.get(Place(group, door)) for group in right.groups)

    def _look(self, place: Place) -> None:
        """Is it open although nobody is entitled? Comes back when time alone may change the answer."""
        ours = [rule for id_ in self._at.get(place, ()) if (rule := self._rules[id_]).ours and not rule.spoilt]
        loop, now = asyncio.get_running_loop(), self._now()
        until = self.truth.open_until(place)
        if not ours:
            self._idle.pop(place, None)
        elif until > now:
            self._idle.pop(place, None)
            if until < FOREVER:
                loop.call_at(until + 0.001, self._look, place)
        else:
            since = self._idle.setdefault(place, now)
            due = max(since, self.calm.since(heard=all(rule.heard for rule in ours))) + LATENESS
            if now >= due:
                self.breach("left open", f"{place}, nobody is entitled since {until:.3f}")
            elif due < FOREVER:
                loop.call_at(due + 0.001, self._look, place)

    # objects

    def object_changed(self, plural: str, before: Json | None, after: Json | None) -> None:
        """An object of the API server has changed."""
        now = self._now()
        if plural == SESSIONS:
            places = self.truth.put_session(after, now) if after else self.truth.drop_session(before or {}, now)
        elif plural == RESOURCES:
            places = self.truth.put_resource(after, now) if after else self.truth.drop_resource(before or {}, now)
        else:
            return
        for place in sorted(places):
            self._look(place)
        if plural == SESSIONS and before is not None and before.get("status") != (after or before).get("status"):
            self._status_written(before, after or before)

    def wrote(self) -> None:
        """Gatepass has changed an object."""
        self._count("writes to the API server", _WRITES_PER_HOUR)

    def process_told(self, plural: str, gone: Json | None, item: Json | None) -> None:
        """The running process has heard of an object."""
        now = self._now()
        if plural == SESSIONS:
            self.told.put_session(item, now) if item else self.told.drop_session(gone or {}, now)
        elif plural == RESOURCES:
            self.told.put_resource(item, now) if item else self.told.drop_resource(gone or {}, now)

    def _status_written(self, before: Json, after: Json) -> None:
        was, now = before.get("status", {}), after["status"]
        name = "/".join(name_of(after))
        for field in ("endedAt", "endedReason"):
            again = field == "endedAt" and "an end told twice" in self.tolerated and field in now
            if field in was and was[field] != now.get(field) and not again:
                self.breach("an end was taken back", f"{name}: {was[field]} became {now.get(field)}")
        if was.get("phase") in _ENDED and now.get("phase") not in _ENDED:
            self.breach("an end was taken back", f"{name}: {was['phase']} became {now.get('phase')}")
        if now.get("phase") == "Active" != was.get("phase"):
            self._says_active(name, after)
        if now.get("phase") in _ENDED and was.get("phase") not in _ENDED:
            self._says_gone(name, after)

    def _says_active(self, name: str, session: Json) -> None:
        for place in self._promises(session):
            if self._at.get(place) or place.group not in self.groups:
                continue
            if self._lately_removed({place.group}, place.door) or self.calm.since() > self._now():
                continue
            self.breach("says Active and is not open", f"{name}: {place}")

    def _lately_removed(self, groups: Iterable[str], door: Door) -> bool:
        """Has somebody else removed the rule, so that the next resync has to put it again?"""
        return any(self._now() - self._removed_by_others.get(Place(g, door), -HEALED) < HEALED for g in groups)

    def _says_gone(self, name: str, session: Json) -> None:
        """Every rule that we made for it is gone, unless somebody else wants it."""
        for place, uid in self._claimed(session):
            if not any(self._rules[id_].ours and not self._rules[id_].spoilt for id_ in self._at.get(place, ())):
                continue
            if "a grant in flight" in self.tolerated and self._is_asked(place.group):
                continue
            if "records dropped before anything is verified" in self.tolerated and self.calm.since() > self._now():
                continue
            if "a rule of two resources" in self.tolerated and self._twice(session, place):
                continue
            since = self._now() - (1.0 if self._grace() == CALM_GRACE else GRACE)
            session_uid = session["metadata"]["uid"]
            if not any(ledger.shared(place, session_uid, since) for ledger in (self.truth, self.told)):
                self.breach("says that it is closed, and is open", f"{name}: {place} of {uid}")

    def _twice(self, session: Json, place: Place) -> bool:
        """Has the session the same rule by two of its resources?"""
        return len({uid for claimed, uid in self._claimed(session) if claimed == place}) > 1

    def _claimed(self, session: Json) -> list[tuple[Place, str]]:
        found: list[tuple[Place, str]] = []
        for entry in session["status"].get("resources", ()):
            resource = self.truth.resources.get((entry["namespace"], entry["name"]))
            for record in entry.get("rules", ()):
                door = Door(record["cidr"], record["protocol"], record["port"], record["endPort"])
                found.append((Place(record["target"], door), entry.get("uid", "")))
            if resource is not None and resource["metadata"]["uid"] == entry.get("uid"):
                for port in resource["spec"]["ports"]:
                    for cidr in session["spec"]["source"]["cidrs"]:
                        door = Door(
                            cidr, port.get("protocol", "TCP").lower(), port["port"], port.get("endPort", port["port"])
                        )
                        found += [(Place(group, door), entry["uid"]) for group in sorted(groups_of(resource))]
        return found

    # once in a while, when nothing has stood in the way for long

    def inspect(self, quiet_for: float) -> None:
        """Everything is as it should be, when it has been calm for so long."""
        now = self._now()
        if self.calm.since() > now - quiet_for:
            return
        for name, session in self.truth.sessions.items():
            self._inspect(name, session, now, quiet_for)

    def _inspect(self, name: Name, session: Json, now: float, quiet_for: float) -> None:
        text, uid = "/".join(name), session["metadata"]["uid"]
        status = session.get("status", {})
        stored = {holder: right for holder, right in self.truth.rights.items() if holder.session == uid}
        rights = {holder: right for holder, right in stored.items() if right.until > now - quiet_for}
        since = max((self.truth.lost_at.get(holder, 0.0) for holder in rights), default=0.0)
        if not rights and status.get("phase") not in _ENDED and "deletionTimestamp" not in session["metadata"]:
            ended = "endedAt" in status or session["spec"].get("stop") or stored
            if ended and quiet_for > HEALED:
                self.breach("does not come to its end", f"{text} is {status.get('phase')}")
        for holder, right in rights.items():
            if not self._may_count_on(holder) or now - since < LAG or self._age(session, now) < LAG:
                continue
            self._inspect_right(text, session, holder, right)

    def _age(self, session: Json, now: float) -> float:
        return now - self.truth.created_at(session)

    def _inspect_right(self, text: str, session: Json, holder: Holder, right: Any) -> None:
        resource = next(r for r in self.truth.resources.values() if r["metadata"]["uid"] == holder.resource)
        entry = entry_of(session, name_of(resource)) or {}
        listed = resource["spec"]["aws"]["securityGroups"]
        match entry.get("state"):
            case "Applied":
                missing = [
                    door
                    for door in right.doors
                    if not self._open_elsewhere(holder, door) and not self._lately_removed(right.groups, door)
                ]
                if missing and set(listed) <= self.groups:
                    self.breach("says Applied and is not open", f"{text}: {missing[0]} in {sorted(right.groups)}")
            case "Waiting":
                ceiling = "maxConcurrentSessions" in resource["spec"].get("policy", {})
                if not ceiling and not any(self.full(group) for group in listed):
                    self.breach("waits although there is room", f"{text}: {entry.get('message')}")
            case "Failed":
                if set(listed) <= self.groups and entry.get("reason") not in _OWN_FAULT:
                    self.breach("failed without a reason", f"{text}: {entry.get('reason')} {entry.get('message')}")
            case state:
                if set(listed) <= self.groups:
                    self.breach("never opened", f"{text}: {state} {entry.get('reason')} {entry.get('message')}")

    def rest(self) -> None:
        """Everything has been deleted: nothing of ours may be left."""
        for rule_id, rule in self._rules.items():
            if rule.ours and not rule.spoilt:
                self.breach("left behind", f"{rule_id} at {rule.place}")
        for name in [*self.truth.sessions, *self.truth.resources]:
            self.breach("does not go", "/".join(name))


_OWN_FAULT: Final = (
    "DurationTooLong",
    "ReasonRequired",
    "ResourceDeleting",
    "PolicyWithdrawn",
    "TooManyRules",
    "NeverFits",
)

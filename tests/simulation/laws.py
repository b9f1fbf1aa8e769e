"""The observer's laws, checked after each change of a rule, of an object, and of what time it is.

| fault                                  | a rule without a right may stay for, after the fault is over          |
|----------------------------------------|-----------------------------------------------------------------------|
| none                                   | 2 s                                                                   |
| the process was ended                  | 5 s from its first listing                                            |
| the cloud refused                      | 4 s: those who are refused are tried in turn, each second or two      |
| the cloud or the API server failed     | 14 s: a call that hung when that ended fails after 12 s               |
| EC2 did not know a new id               | 2 s from when it does                                                 |
| answers were lost, or the process was ended before it heard the id | 125 s more: reads lag             |
| a deletion was lost with a watch       | 605 s: the next resync                                                |
| a mark was edited by hand              | for ever: it cannot be told from somebody else's                      |
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

from gatepass.core.rules import ObservedRule, Target
from tests.observer.promise import Door
from tests.simulation.apiserver import JOBS, RESOURCES, SESSIONS, Json
from tests.simulation.breaches import BreachError, RuleSeen, place_of
from tests.simulation.calm import CALM_GRACE, FOREVER, GRACE, Calm
from tests.simulation.ends import ceiling_of, last_phase, newly_opened, open_at, refused_anew, without_cause
from tests.simulation.ledger import (
    Holder,
    Ledger,
    Name,
    Place,
    cidrs_of,
    groups_of,
    name_of,
    references,
    wherever,
)
from tests.simulation.pods import Pods

LATENESS: Final = 2.0
LAG: Final = 125.0
OWNER_AWAITED: Final = 35.0
"""What a session is bound to may come later than it: for 30 s."""
HEALED: Final = 600.0 + LAG + GRACE
ENDED: Final = ("Expired", "Cancelled")
_WRITES_PER_HOUR: Final = 4000
_CALLS_PER_HOUR: Final = 15_000


class Laws:
    """Raises nothing itself: the first breach is handed to `broken`."""

    def __init__(self, big_bang: float, broken: Callable[[BreachError], None], pods: Pods | None = None) -> None:
        self._broken = broken
        self._pods = pods or Pods()
        self.truth = Ledger(big_bang)
        self.told = Ledger(big_bang)
        self.groups: set[str] = set()
        self.full: Callable[[str], bool] = lambda _group: False
        self.healthy: Callable[[Json], bool] = lambda _session: True
        self.missed_from: Callable[[Json], float] = lambda _session: FOREVER
        self._rules: dict[str, RuleSeen] = {}
        self._at: dict[Place, set[str]] = {}
        self._idle: dict[Place, float] = {}
        self._removed_by_others: dict[Place, float] = {}
        self.calm = Calm()
        self._over_since: dict[str, float] = {}
        self._granted: set[Holder] = set()
        self._edited: dict[Name, float] = {}
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
        for rule in self._rules.values():
            rule.heard = rule.heard and self._is_recorded(rule)

    def _is_recorded(self, rule: RuleSeen) -> bool:
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
            self._rules[id_] = RuleSeen(place, ours=by_gatepass, born=self._now())
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
            if self._wants(holder, place.door) and not self._open_elsewhere(holder, place.door):
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

    def _wants(self, holder: Holder, door: Door) -> bool:
        return self._may_count_on(holder) and door in self.truth.rights[holder].doors

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
            late = LATENESS + (OWNER_AWAITED if self.truth.owner_awaited else 0.0)
            known = max(self.calm.known_from(rule.born) for rule in ours)
            due = max(since, known, self.calm.since(heard=all(rule.heard for rule in ours))) + late
            if now >= due:
                self.breach("left open", f"{place}, nobody is entitled since {until:.3f}")
            elif due < FOREVER:
                loop.call_at(due + 0.001, self._look, place)

    # objects

    def object_changed(self, plural: str, before: Json | None, after: Json | None) -> None:
        """An object of the API server has changed."""
        now = self._now()
        counted = self._counted_on(before) if plural == SESSIONS and before and _ends(before, after) else []
        if plural == SESSIONS:
            places = self.truth.put_session(after, now) if after else self.truth.drop_session(before or {}, now)
        elif plural == JOBS:
            ended = after is None or after["spec"].get("finished")
            job = (before or after or {})["metadata"]["name"]
            self.truth.jobs.add(job)
            places = self.truth.end_job(job, now) if ended else set()
        elif plural == RESOURCES:
            places = self.truth.put_resource(after, now) if after else self.truth.drop_resource(before or {}, now)
        else:
            return
        if plural != JOBS and (before or {}).get("spec") != (after or {}).get("spec"):
            self._edited[name_of(after or before or {})] = now
        for place in sorted(places):
            self._look(place)
        if plural == SESSIONS and before is not None and before.get("status") != (after or before).get("status"):
            self._status_written(before, after or before, counted)

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

    def _counted_on(self, session: Json) -> list[Holder]:
        return [holder for holder in self._promises(session).values() if self._may_count_on(holder)]

    def _status_written(self, before: Json, after: Json, counted: list[Holder]) -> None:
        was, now = before.get("status", {}), after["status"]
        name = "/".join(name_of(after))
        for field in ("endedAt", "endedReason"):
            if field in was and was[field] != now.get(field):
                self.breach("an end was taken back", f"{name}: {was[field]} became {now.get(field)}")
        if _ends(before, after):
            self._ended(name, after, counted)
        for resource in newly_opened(before, after):
            self._look_at_ceiling(name, resource)
        for entry in now.get("resources", ()):
            holder = Holder(after["metadata"]["uid"], entry.get("uid", ""))
            if entry.get("rules"):
                self._granted.add(holder)
            if holder in self._granted and refused_anew(entry):
                self.breach("asked again", f"{name}: {entry['reason']}")
        if was.get("phase") in ENDED and now.get("phase") not in ENDED:
            self.breach("an end was taken back", f"{name}: {was['phase']} became {now.get('phase')}")
        if now.get("phase") == "Active" != was.get("phase"):
            self._says_active(name, after)
        if now.get("phase") in ENDED and was.get("phase") not in ENDED:
            self._says_gone(name, after)
            if now["phase"] != last_phase(after):
                self.breach("ended in another phase", f"{name}: {now['phase']} for {now['endedReason']}")

    def _lately_edited(self, name: Name) -> bool:
        """Was it otherwise when what happens now was decided?"""
        return self._now() - self._edited.get(name, -GRACE) < self._grace()

    def _look_at_ceiling(self, name: str, resource: Name) -> None:
        """By what the process knows of it too: while a watch is broken, it has not heard of an edit."""
        ceilings = [ceiling_of(ledger.resources.get(resource)) for ledger in (self.truth, self.told)]
        if None in ceilings or self._lately_edited(resource):
            return
        ceiling = max(each for each in ceilings if each is not None)
        live = [each for each in open_at(self.truth.sessions.values(), resource) if self._may_count_on(each)]
        if len(live) > ceiling:
            self.breach("more than the ceiling", f"{name}: {len(live)} of {ceiling} at {'/'.join(resource)}")

    def _ended(self, name: str, session: Json, counted: list[Holder]) -> None:
        edited = any(map(self._lately_edited, [name_of(session), *references(session)]))
        if not edited and without_cause(session, (self.truth, self.told), counted, self._now()):
            self.breach("ended without cause", f"{name}: {session['status']['endedReason']}")
        match session["status"]["endedReason"]:
            case "OwnerFinished" if self.truth.owner_goes_on(session):
                self.breach("ended with an owner that goes on", name)
            case "HeartbeatLost" if self.healthy(session):
                self.breach("ended with a healthy heart", name)

    def _says_active(self, name: str, session: Json) -> None:
        """Open is what it may count on: not an address that it has left, nor what has ended while it was written."""
        for place, holder in self._promises(session).items():
            if self._at.get(place) or place.group not in self.groups or not self._wants(holder, place.door):
                continue
            if self._lately_removed({place.group}, place.door) or self.calm.since() > self._now():
                continue
            self.breach("says Active and is not open", f"{name}: {place}")

    def _lately_removed(self, groups: Iterable[str], door: Door) -> bool:
        """Has somebody else removed the rule, so that the next resync has to put it again?"""
        return any(self._now() - self._removed_by_others.get(Place(g, door), -HEALED) < HEALED for g in groups)

    def _says_gone(self, name: str, session: Json) -> None:
        """Every rule that we made for it is gone, unless somebody else wants it."""
        created, recorded = self.truth.created_at(session), {place for place, _ in self._recorded(session)}
        closing = [each for each in self.truth.sessions.values() if each.get("status", {}).get("phase") == "Expiring"]
        theirs = {place for other in closing for place, _ in self._recorded(other)}
        for place, uid in self._claimed(session):
            ours = [rule for id_ in self._at.get(place, ()) if (rule := self._rules[id_]).ours and not rule.spoilt]
            # A rule that it has never told of is not its own if it is older, or on the record of who is being closed.
            if not any(place in recorded or (rule.born >= created and place not in theirs) for rule in ours):
                continue
            since = self._now() - (1.0 if self._grace() == CALM_GRACE else GRACE)
            session_uid = session["metadata"]["uid"]
            if not any(ledger.shared(place, session_uid, since) for ledger in (self.truth, self.told)):
                self.breach("says that it is closed, and is open", f"{name}: {place} of {uid}")

    def _recorded(self, session: Json) -> list[tuple[Place, str]]:
        entries = session["status"].get("resources", ())
        records = ((entry.get("uid", ""), record) for entry in entries for record in entry.get("rules", ()))
        return [
            (Place(r["target"], Door(r["cidr"], r["protocol"], r["port"], r["endPort"])), uid) for uid, r in records
        ]

    def _claimed(self, session: Json) -> list[tuple[Place, str]]:
        found = self._recorded(session)
        for entry in session["status"].get("resources", ()):
            resource = self.truth.resources.get((entry["namespace"], entry["name"]))
            if resource is not None and resource["metadata"]["uid"] == entry.get("uid"):
                for port in resource["spec"]["ports"]:
                    for cidr in {*cidrs_of(session), *wherever(session)}:
                        protocol, low = port.get("protocol", "TCP").lower(), port["port"]
                        door = Door(cidr, protocol, low, port.get("endPort", low))
                        found += [(Place(group, door), entry["uid"]) for group in sorted(groups_of(resource))]
        return found

    def rest(self) -> None:
        """Everything has been deleted: nothing of ours may be left."""
        for rule_id, rule in self._rules.items():
            if rule.ours and not rule.spoilt:
                self.breach("left behind", f"{rule_id} at {rule.place}")
        for name in [*self.truth.sessions, *self.truth.resources]:
            self.breach("does not go", "/".join(name))


def _ends(before: Json, after: Json | None) -> bool:
    """Is an end written down?"""
    return "endedAt" in (after or {}).get("status", {}) and "endedAt" not in before.get("status", {})

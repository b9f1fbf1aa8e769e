"""Who is entitled to what at this moment, indexed by place: the objects as they were last seen. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any, NamedTuple

from tests.observer.promise import Claim, Place, is_declared, name_of, names_of, session_claim, static_claim

NEVER = float("-inf")
Item = dict[str, Any]


class Holder(NamedTuple):
    """One session (or one resource, for its static ranges) and one resource."""

    uid: str
    resource: str


@dataclass
class Book:
    """Sessions, resources and namespaces; times are seconds since 1970, and `now` is when something was seen.

    `lost` says from when on sessions, by uid, are without a runner: only who ends it can tell. `origins` are the
    addresses that sessions, by namespace and name, come from, where somebody knows better than their statuses.
    `finding` are the sessions that have not ended and whose addresses have to be found.
    """

    sessions: dict[str, Item] = field(default_factory=dict)
    finding: dict[str, Item] = field(default_factory=dict)
    resources: dict[str, Item] = field(default_factory=dict)
    namespaces: dict[str, Item] = field(default_factory=dict)
    claims: dict[Holder, Claim] = field(default_factory=dict)
    lost: dict[str, float] = field(default_factory=dict)
    origins: dict[str, list[str]] = field(default_factory=dict)
    told_at: dict[Holder, float] = field(default_factory=dict)
    untold_at: dict[Holder, float] = field(default_factory=dict)
    _may_not: dict[Holder, float] = field(default_factory=dict)
    _perhaps_over: dict[str, float] = field(default_factory=dict)
    _at: dict[Place, dict[Holder, Claim]] = field(default_factory=dict)
    _of: dict[str, set[Holder]] = field(default_factory=dict)
    _users: dict[str, set[str]] = field(default_factory=dict)
    _left_at: dict[Place, float] = field(default_factory=dict)
    _ended_at: dict[Holder, float] = field(default_factory=dict)

    def see(self, kind: str, item: Item, now: float) -> None:
        """An object is there, or has changed."""
        uid = item["metadata"]["uid"]
        match kind:
            case "sessions":
                self.sessions[uid] = item
                self.finding.pop(uid, None)
                if not is_declared(item) and "endedAt" not in item.get("status", {}):
                    self.finding[uid] = item
                for name in names_of(item):
                    self._users.setdefault(name, set()).add(uid)
                self._recompute(uid, now)
            case "resources":
                self.resources[name_of(item)] = item
                self._recompute_resource(name_of(item), uid, now)
            case "namespaces":
                name = item["metadata"]["name"]
                before = self.namespaces.get(name)
                self.namespaces[name] = item
                if before is None or before["metadata"] != item["metadata"]:
                    for session in list(self.sessions):
                        self._recompute(session, now)

    def lose(self, kind: str, item: Item, now: float) -> None:
        """An object is gone."""
        uid = item["metadata"]["uid"]
        match kind:
            case "sessions":
                self.sessions.pop(uid, None)
                self.finding.pop(uid, None)
                for name in names_of(item):
                    self._users.get(name, set()).discard(uid)
                self._put(uid, {}, now)
                self._may_not = {holder: last for holder, last in self._may_not.items() if holder.uid != uid}
            case "resources":
                if self.resources.get(name_of(item), item)["metadata"]["uid"] == uid:
                    self.resources.pop(name_of(item), None)
                    self._recompute_resource(name_of(item), uid, now)
            case "namespaces":
                self.namespaces.pop(item["metadata"]["name"], None)

    def permit(self, holder: Holder, now: float, *, permitted: bool, until: float = NEVER) -> None:
        """The API server has said whether the requester of a session may `use` a resource, or until when."""
        if permitted == (holder not in self._may_not):
            return
        if permitted:
            del self._may_not[holder]
        else:
            self._may_not[holder] = until
        self._recompute(holder.uid, now)

    def lose_runner(self, uid: str, at: float, now: float) -> None:
        """What a session lives by is gone, or will be."""
        if at == inf:
            self._perhaps_over.setdefault(uid, now)
        self.lost[uid] = at
        self._recompute(uid, now)

    def promised_until(self, holder: Holder, claim: Claim) -> float:
        """Until when who was told that it is open may rely on that: no longer than its runner is sure to be there."""
        return min(claim.until, self._perhaps_over.get(holder.uid, inf))

    @property
    def refused(self) -> Iterable[Holder]:
        """Who may not use what they name."""
        return self._may_not.keys()

    def undecided(self) -> list[Holder]:
        """Who has not been told that it is open, so that whether they may `use` it still counts."""
        live = (holder for holder, claim in self.claims.items() if not claim.told and holder.uid in self.sessions)
        return [*live, *(holder for holder in self._may_not if holder.uid in self.sessions)]

    def ceased(self, place: Place) -> float:
        """Until when somebody is entitled to the place: in the past when nobody is any more, NEVER for nobody ever."""
        until = max((claim.until for claim in self._at.get(place, {}).values()), default=NEVER)
        return max(until, self._left_at.get(place, NEVER))

    def left_at(self, place: Place) -> float:
        """When the last of those who are no longer entitled to the place left it, NEVER for nobody."""
        return self._left_at.get(place, NEVER)

    def ended_at(self, holder: Holder, claim: Claim) -> float:
        """When a claim that once was ended, or will."""
        return self.claims[holder].until if holder in self.claims else self._ended_at.get(holder, claim.until)

    def at(self, place: Place) -> Mapping[Holder, Claim]:
        """The claims on a place."""
        return self._at.get(place, {})

    def holders(self, session: Item) -> list[Holder]:
        """A session with each resource that it names."""
        return [Holder(session["metadata"]["uid"], name) for name in names_of(session)]

    def live(self, now: float) -> list[tuple[Holder, Claim]]:
        """The claims of sessions that have not ended."""
        return [(holder, claim) for holder, claim in self.claims.items() if now < claim.until < float("inf")]

    def told(self, now: float) -> Iterator[tuple[Holder, Claim]]:
        """The claims of live sessions that have been told that they are open."""
        return ((holder, claim) for holder, claim in self.claims.items() if claim.told and claim.until > now)

    def _recompute_resource(self, name: str, uid: str, now: float) -> None:
        resource = self.resources.get(name)
        found = None if resource is None else static_claim(resource)
        self._put(uid, {} if found is None else {Holder(uid, name): found}, now)
        for session in list(self._users.get(name, ())):
            self._recompute(session, now)

    def _recompute(self, uid: str, now: float) -> None:
        session = self.sessions.get(uid)
        if session is None:
            return
        found = {}
        for name in names_of(session):
            holder, resource = Holder(uid, name), self.resources.get(name)
            if resource is None or holder in self._may_not:
                continue
            if (claim := session_claim(self._located(session), resource, self.namespaces)) is not None:
                found[holder] = replace(claim, until=min(claim.until, self.lost.get(uid, claim.until)))
        self._put(uid, found, now)

    def _located(self, session: Item) -> Item:
        known = self.origins.get(name_of(session))
        if known is None:
            return session
        found = {"addresses": [{"ip": ip} for ip in known]}
        return {**session, "status": {**session.get("status", {}), "source": found}}

    def _put(self, uid: str, claims: Mapping[Holder, Claim], now: float) -> None:
        for holder in self._of.pop(uid, set()):
            before = self.claims.pop(holder)
            left = min(now, before.until, self._may_not.get(holder, now))  # who was never permitted was never there
            self._ended_at[holder] = left
            after = claims.get(holder)
            stays = set(after.places) if after is not None and after.until >= left else set()
            for place in before.places:
                there = self._at[place]
                del there[holder]
                if not there:
                    del self._at[place]
                if place not in stays:
                    self._left_at[place] = max(self._left_at.get(place, NEVER), left)
            if not (holder in claims and claims[holder].told) and self.told_at.pop(holder, None) is not None:
                self.untold_at[holder] = now
        for holder, claim in claims.items():
            self.claims[holder] = claim
            self._of.setdefault(uid, set()).add(holder)
            if claim.told:
                self.told_at.setdefault(holder, now)
            for place in claim.places:
                self._at.setdefault(place, {})[holder] = claim

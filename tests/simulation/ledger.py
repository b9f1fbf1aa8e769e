"""Who is entitled to what, from the documentation of the fields alone. Shares no code with the product.

There are two ledgers: one of the truth, one of what the running process has been told. Who is entitled by the truth
may have a rule; who is entitled by both must not lose it.
"""

import ipaddress
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from tests.observer.promise import Door, duration, moment
from tests.simulation.calm import FOREVER
from tests.simulation.pods import POD_ADDRESSES

Json = dict[str, Any]
Name = tuple[str, str]


class Place(NamedTuple):
    """A door of a group."""

    group: str
    door: Door


class Holder(NamedTuple):
    """A session, or `static`, and the resource that it is entitled to, by uid."""

    session: str
    resource: str


@dataclass(frozen=True)
class Right:
    """The doors may be open in these groups until then, in seconds of the loop's clock.

    Those `beside` may be open too, and need not: where the session's pod has been or may come to be.
    """

    groups: frozenset[str]
    doors: frozenset[Door]
    until: float
    beside: frozenset[Door] = frozenset()

    def covers(self, place: Place) -> bool:
        return place.group in self.groups and (place.door in self.doors or place.door in self.beside)

    @property
    def places(self) -> Iterator[Place]:
        return (Place(group, door) for group in self.groups for door in self.doors | self.beside)


def name_of(item: Mapping[str, Any]) -> Name:
    """Namespace and name."""
    return item["metadata"].get("namespace", ""), item["metadata"]["name"]


def pod_of(session: Mapping[str, Any]) -> str | None:
    """The pod that a session comes from; None for one that declares its addresses."""
    name: str | None = session["spec"]["source"].get("pod", {}).get("name")
    return name


def cidrs_of(session: Mapping[str, Any]) -> list[str]:
    """What a session has been told that it comes from, or declares."""
    if pod_of(session) is None:
        return list(session["spec"]["source"]["cidrs"])
    return [f"{each['ip']}/32" for each in session.get("status", {}).get("source", {}).get("addresses", ())]


def wherever(session: Mapping[str, Any]) -> list[str]:
    """Where the pod of a session may ever be."""
    return [f"{ip}/32" for ip in POD_ADDRESSES.get(pod_of(session) or "", ())]


def doors_of(ports: Iterable[Mapping[str, Any]], cidrs: Iterable[str]) -> frozenset[Door]:
    """Every combination."""
    ranges = tuple(ports)
    return frozenset(
        Door(cidr, port.get("protocol", "TCP").lower(), port["port"], port.get("endPort", port["port"]))
        for cidr in cidrs
        for port in ranges
    )


def groups_of(resource: Mapping[str, Any]) -> frozenset[str]:
    """On its list, or still drained."""
    drained = (target["id"] for target in resource.get("status", {}).get("targets", ()))
    return frozenset({*resource["spec"]["aws"]["securityGroups"], *drained})


class Ledger:
    """The objects as far as they are known here, and the rights that follow. Times are the loop's seconds."""

    def __init__(self, big_bang: float) -> None:
        self._big_bang = big_bang
        self.sessions: dict[Name, Json] = {}
        self.resources: dict[Name, Json] = {}
        self._users: defaultdict[Name, set[Name]] = defaultdict(set)
        self.rights: dict[Holder, Right] = {}
        self._by_owner: defaultdict[tuple[str, Name], dict[Holder, Right]] = defaultdict(dict)
        self.wanted_until: dict[Place, float] = {}
        self.lost_at: dict[Holder, float] = {}
        self.disputed: set[Holder] = set()
        self.over: set[str] = set()
        self._timed_out: set[str] = set()
        self.jobs: set[str] = set()
        self._lost: deque[tuple[float, Holder, Right]] = deque(maxlen=500)

    # objects

    def put_session(self, session: Json, now: float) -> set[Place]:
        """Take a version of a session, if it is news; answers the places that it concerns."""
        name = name_of(session)
        known = self.sessions.get(name)
        if not _is_news(known, session):
            return set()
        if known is not None:
            self._note_time([known], now)
        for resource in references(known) if known is not None else ():
            self._users[resource].discard(name)
        self.sessions[name] = session
        for resource in references(session):
            self._users[resource].add(name)
        return self._replace(("session", name), self._session_rights(session), now)

    def drop_session(self, session: Json, now: float) -> set[Place]:
        """The session is gone."""
        name = name_of(session)
        if (known := self.sessions.get(name)) is None or known["metadata"]["uid"] != session["metadata"]["uid"]:
            return set()
        del self.sessions[name]
        for resource in references(session):
            self._users[resource].discard(name)
        return self._replace(("session", name), {}, now)

    def put_resource(self, resource: Json, now: float) -> set[Place]:
        """Take a version of a resource."""
        name = name_of(resource)
        known = self.resources.get(name)
        if not _is_news(known, resource):
            return set()
        self._note_time(map(self.sessions.__getitem__, self._users[name]), now)
        self.resources[name] = resource
        if known is not None and _decides(known) == _decides(resource):
            return set()
        return self._resource_changed(name, now)

    def drop_resource(self, resource: Json, now: float) -> set[Place]:
        """The resource is gone."""
        name = name_of(resource)
        if (known := self.resources.get(name)) is None or known["metadata"]["uid"] != resource["metadata"]["uid"]:
            return set()
        self._note_time(map(self.sessions.__getitem__, self._users[name]), now)
        del self.resources[name]
        return self._resource_changed(name, now)

    def _resource_changed(self, name: Name, now: float) -> set[Place]:
        resource = self.resources.get(name)
        touched = self._replace(("resource", name), self._static_rights(resource), now)
        for user in sorted(self._users[name]):
            touched |= self._replace(("session", user), self._session_rights(self.sessions[user]), now)
        return touched

    def end_job(self, name: str, now: float) -> set[Place]:
        """The Job has finished or is gone: so has every session that is bound to it. Each has a name of its own."""
        self.over.add(name)
        touched: set[Place] = set()
        for key, session in self.sessions.items():
            if self.owner_over(session):
                touched |= self._replace(("session", key), self._session_rights(session), now)
        return touched

    def owner_over(self, session: Json) -> bool:
        """Has what it is bound to finished?"""
        return _owner_of(session) in self.over

    def owner_goes_on(self, session: Json) -> bool:
        """Is what it is bound to there, and not finished?"""
        return _owner_of(session) in self.jobs - self.over

    @property
    def owner_awaited(self) -> bool:
        """Is a session bound to what has gone before Gatepass saw it, so that it may still be to come?"""
        return any(
            self.owner_over(session) and "endedAt" not in status and "uid" not in status.get("boundTo", {})
            for session in self.sessions.values()
            for status in [session.get("status", {})]
        )

    # rights

    def _replace(self, owner: tuple[str, Name], after: dict[Holder, Right], now: float) -> set[Place]:
        before = self._by_owner.pop(owner, {})
        if after:
            self._by_owner[owner] = after
        touched: set[Place] = set()
        for holder in {**before, **after}:
            old, new = before.get(holder), after.get(holder)
            if old == new:
                continue
            if old is not None:
                touched.update(old.places)
                for place in old.places:
                    self.wanted_until[place] = max(self.wanted_until.get(place, -FOREVER), min(old.until, now))
                self._lost.append((min(old.until, now), holder, old))
                if old.until <= now and new is not None and new.until > now:
                    self.disputed.add(holder)  # whoever saw the time run out may have closed it
                if new is None or not (old.doors <= new.doors and old.groups <= new.groups):
                    self.lost_at[holder] = now
                self.rights.pop(holder, None)
            if new is not None:
                touched.update(new.places)
                self.rights[holder] = new
        return touched

    def _static_rights(self, resource: Json | None) -> dict[Holder, Right]:
        if resource is None or "deletionTimestamp" in resource["metadata"]:
            return {}
        doors = doors_of(resource["spec"]["ports"], (each["cidr"] for each in resource["spec"].get("staticCIDRs", ())))
        holder = Holder("static", resource["metadata"]["uid"])
        return {holder: Right(groups_of(resource), doors, FOREVER)} if doors else {}

    def _session_rights(self, session: Json) -> dict[Holder, Right]:
        metadata, spec, status = session["metadata"], session["spec"], session.get("status", {})
        if "deletionTimestamp" in metadata or spec.get("stop") or "endedAt" in status or self.owner_over(session):
            return {}
        found = {}
        for name in references(session):
            resource = self.resources.get(name)
            if resource is None or not _allowed(session, resource):
                continue
            uid = resource["metadata"]["uid"]
            entry = entry_of(session, name)
            granted = entry is not None and (entry.get("rules") or entry.get("reason") == "PolicyWithdrawn")
            if granted and entry is not None and entry.get("uid", uid) != uid:
                continue
            doors = doors_of(resource["spec"]["ports"], cidrs_of(session))
            beside = doors_of(resource["spec"]["ports"], wherever(session))
            until = self._until(session, resource)
            found[Holder(metadata["uid"], uid)] = Right(groups_of(resource), doors, until, beside)
        return found

    def _until(self, session: Json, resource: Json | None = None) -> float:
        start, lasts = self.created_at(session), duration(session["spec"].get("duration", "1h"))
        if resource is not None:
            lasts = min(lasts, duration(resource["spec"].get("policy", {}).get("maxDuration", "24h")))
        end, not_after = start + lasts.total_seconds(), session["spec"].get("notAfter")
        return end if not_after is None else min(end, moment(not_after).timestamp() - self._big_bang)

    def _note_time(self, sessions: Iterable[Json], now: float) -> None:
        """What is changed now may give them more time: whoever saw it run out has ended them."""
        self._timed_out.update(each["metadata"]["uid"] for each in sessions if self.over_at(each) <= now)

    # questions

    def time_came(self, session: Json, now: float) -> bool:
        """Is the session's time up, or was it once: the longest that one of its resources lets it last?"""
        return session["metadata"]["uid"] in self._timed_out or self.over_at(session) <= now

    def over_at(self, session: Json) -> float:
        """When the session's time is up, as it is written now."""
        known = (self.resources[name] for name in references(session) if name in self.resources)
        return max((self._until(session, resource) for resource in known), default=self._until(session))

    def created_at(self, item: Json) -> float:
        """When the object was created."""
        return moment(item["metadata"]["creationTimestamp"]).timestamp() - self._big_bang

    def made_at(self, holder: Holder) -> float:
        """When the resource was created that the holder is entitled to."""
        return max(self.created_at(r) for r in self.resources.values() if r["metadata"]["uid"] == holder.resource)

    def located_at(self, session: Json) -> float:
        """When its pod was seen where it is, or FOREVER if it has not been."""
        seen = session.get("status", {}).get("source", {}).get("addresses")
        return moment(seen[0]["observedAt"]).timestamp() - self._big_bang if seen else FOREVER

    def open_until(self, place: Place) -> float:
        """Until when somebody is, or was, entitled to the place; long ago for never."""
        until = (right.until for right in self.rights.values() if right.covers(place))
        return max(self.wanted_until.get(place, -FOREVER), max(until, default=-FOREVER))

    def shared(self, place: Place, session: str, since: float) -> bool:
        """Is somebody else entitled to the place, or was since then?"""
        current = ((right.until, holder, right) for holder, right in self.rights.items())
        return any(
            until >= since and holder.session != session and right.covers(place)
            for until, holder, right in (*self._lost, *current)
        )


def entry_of(session: Mapping[str, Any], name: Name) -> Json | None:
    """What the status says of one resource."""
    entries = session.get("status", {}).get("resources", ())
    return next((entry for entry in entries if (entry["namespace"], entry["name"]) == name), None)


def references(session: Mapping[str, Any]) -> list[Name]:
    """The resources that it names."""
    here = session["metadata"]["namespace"]
    return [(ref.get("namespace", here), ref["name"]) for ref in session["spec"]["resources"]]


def _is_news(known: Json | None, seen: Json) -> bool:
    return known is None or int(seen["metadata"]["resourceVersion"]) > int(known["metadata"]["resourceVersion"])


def _decides(resource: Json) -> tuple[Any, ...]:
    metadata = resource["metadata"]
    return metadata["uid"], "deletionTimestamp" in metadata, resource["spec"], groups_of(resource)


def _allowed(session: Json, resource: Json) -> bool:
    policy = resource["spec"].get("policy", {})
    same_only = policy.get("allowedNamespaces", {}).get("from", "Same") == "Same"
    if same_only and session["metadata"]["namespace"] != resource["metadata"]["namespace"]:
        return False
    shortest = {4: 32, 6: 128, **{int(key[-1]): size for key, size in policy.get("minPrefixLength", {}).items()}}
    networks = [ipaddress.ip_network(cidr) for cidr in session["spec"]["source"].get("cidrs", ())]
    return all(network.prefixlen >= shortest[network.version] for network in networks)


def _owner_of(session: Json) -> str | None:
    return session["spec"].get("boundTo", {}).get("name")

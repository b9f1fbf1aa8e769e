"""What is granted, from first principles: the objects as the API server has them, and the clock. Pure.

Written from the documentation of the fields alone; it shares no code with the product, so that both do not share
a mistake.
"""

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_PRIVATE = [ipaddress.ip_network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")]
_PRIVATE6 = ipaddress.ip_network("fc00::/7")
_OUR_DESCRIPTION = re.compile(r"gatepass (until=|static )")


class Door(NamedTuple):
    """The identity of a rule as EC2 has it; ports are -1 where the protocol has none."""

    cidr: str
    protocol: str
    low: int
    high: int

    def __str__(self) -> str:
        return f"{self.cidr} {self.protocol} {self.low}-{self.high}"


def duration(text: str) -> timedelta:
    """A duration such as 1h30m."""
    parts = re.findall(r"([0-9.]+)(ms|h|m|s)", text)
    return timedelta(seconds=sum(float(number) * _UNITS[unit] for number, unit in parts))


def moment(text: str) -> datetime:
    """A time as Kubernetes writes it."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(UTC)


def door_of(rule: Mapping[str, Any]) -> Door | None:
    """The identity of a rule; None for one whose source is no address."""
    cidr = rule.get("cidrIpv4") or rule.get("cidrIpv6")
    if cidr is None:
        return None
    return Door(cidr, rule["ipProtocol"], int(rule.get("fromPort", -1)), int(rule.get("toPort", -1)))


def is_ours(rule: Mapping[str, Any], owner: str) -> bool:
    """Does it carry both marks?"""
    tags = {tag["key"]: tag["value"] for tag in rule.get("tagSet", ())}
    return tags.get("gatepass.dev/owner") == owner and bool(_OUR_DESCRIPTION.match(rule.get("description") or ""))


def _doors(ports: Iterable[Mapping[str, Any]], cidrs: Iterable[str]) -> Iterator[Door]:
    ranges = tuple(ports)
    for cidr in cidrs:
        for port in ranges:
            match port.get("protocol", "TCP"):
                case "All":
                    yield Door(cidr, "-1", -1, -1)
                case "ICMP":
                    yield Door(cidr, "icmpv6" if ":" in cidr else "icmp", -1, -1)
                case protocol:
                    yield Door(cidr, protocol.lower(), port["port"], port.get("endPort", port["port"]))


def groups_of(resource: Mapping[str, Any]) -> set[str]:
    """The groups that may hold rules for the resource: those on its list, and those that are still drained."""
    drained = (target["id"] for target in resource.get("status", {}).get("targets", ()))
    return {*resource["spec"]["aws"]["securityGroups"], *drained}


class Promised(NamedTuple):
    """A session has been told that this door is open, in one of these groups."""

    session: str
    uid: str
    door: Door
    groups: frozenset[str]


@dataclass(frozen=True)
class Objects:
    """The objects at one moment, as JSON."""

    sessions: list[dict[str, Any]] = field(default_factory=list)
    resources: list[dict[str, Any]] = field(default_factory=list)
    namespaces: dict[str, dict[str, Any]] = field(default_factory=dict)

    def granted(self, now: datetime) -> dict[tuple[str, Door], str]:
        """Every (group, door) that somebody is entitled to, and one of those who are."""
        found: dict[tuple[str, Door], str] = {}
        for resource in self.resources:
            spec, metadata = resource["spec"], resource["metadata"]
            if "deletionTimestamp" in metadata:
                continue
            for door in _doors(spec["ports"], (each["cidr"] for each in spec.get("staticCIDRs", ()))):
                found.update(dict.fromkeys(((group, door) for group in groups_of(resource)), f"{_name(resource)}"))
        for session, resource in self._entitled(now):
            for door in _doors(resource["spec"]["ports"], session["spec"]["source"]["cidrs"]):
                found.update(dict.fromkeys(((group, door) for group in groups_of(resource)), _name(session)))
        return found

    def promised(self, now: datetime) -> set[Promised]:
        """Every door that a live session has been told is open."""
        found = set()
        for session, resource in self._entitled(now):
            entry = _entry(session, resource)
            if entry is None or entry["state"] != "Applied":
                continue
            groups = frozenset(groups_of(resource))
            for door in _doors(resource["spec"]["ports"], session["spec"]["source"]["cidrs"]):
                found.add(Promised(_name(session), session["metadata"]["uid"], door, groups))
        return found

    def _entitled(self, now: datetime) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        by_name = {_name(resource): resource for resource in self.resources}
        for session in self.sessions:
            here = session["metadata"]["namespace"]
            for reference in session["spec"]["resources"]:
                resource = by_name.get(f"{reference.get('namespace', here)}/{reference['name']}")
                if resource is not None and self._is_entitled(session, resource, now):
                    yield session, resource

    def _is_entitled(self, session: Mapping[str, Any], resource: Mapping[str, Any], now: datetime) -> bool:
        metadata, status = session["metadata"], session.get("status", {})
        entry = _entry(session, resource)
        return (
            "deletionTimestamp" not in metadata
            and not session["spec"].get("stop", False)
            and "endedAt" not in status
            and now < _open_until(session, resource)
            and (entry is None or entry.get("uid", resource["metadata"]["uid"]) == resource["metadata"]["uid"])
            and self._allowed(session, resource)
        )

    def _allowed(self, session: Mapping[str, Any], resource: Mapping[str, Any]) -> bool:
        policy = resource["spec"].get("policy", {})
        here, there = session["metadata"]["namespace"], resource["metadata"]["namespace"]
        allowed = policy.get("allowedNamespaces", {})
        labels = self.namespaces.get(here, {}).get("metadata", {}).get("labels", {})
        wanted = allowed.get("selector", {}).get("matchLabels", {})
        match allowed.get("from", "Same"):
            case "Same" if here != there:
                return False
            case "Selector" if not wanted.items() <= labels.items():
                return False
        if "deletionTimestamp" in self.namespaces.get(there, {}).get("metadata", {}):
            return False
        shortest = {4: 32, 6: 128, **{int(name[-1]): size for name, size in policy.get("minPrefixLength", {}).items()}}
        networks = [ipaddress.ip_network(cidr) for cidr in session["spec"]["source"]["cidrs"]]
        return all(network.prefixlen >= shortest[network.version] for network in networks) and (
            policy.get("allowPrivateAddresses", False) or not any(map(_is_private, networks))
        )


def _is_private(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    if isinstance(network, ipaddress.IPv6Network):
        return network.overlaps(_PRIVATE6)
    return any(network.overlaps(private) for private in _PRIVATE)


def _open_until(session: Mapping[str, Any], resource: Mapping[str, Any]) -> datetime:
    start = moment(session.get("status", {}).get("startedAt") or session["metadata"]["creationTimestamp"])
    longest = resource["spec"].get("policy", {}).get("maxDuration", "24h")
    end = start + min(duration(session["spec"].get("duration", "1h")), duration(longest))
    not_after = session["spec"].get("notAfter")
    return end if not_after is None else min(end, moment(not_after))


def _entry(session: Mapping[str, Any], resource: Mapping[str, Any]) -> dict[str, Any] | None:
    where = (resource["metadata"]["namespace"], resource["metadata"]["name"])
    entries = session.get("status", {}).get("resources", ())
    return next((entry for entry in entries if (entry["namespace"], entry["name"]) == where), None)


def _name(item: Mapping[str, Any]) -> str:
    return f"{item['metadata']['namespace']}/{item['metadata']['name']}"

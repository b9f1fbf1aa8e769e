"""What is granted, from first principles: the objects as the API server has them. Pure.

Written from the documentation of the fields alone; it shares no code with the product, so that both do not share
a mistake.
"""

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_PRIVATE_TEXT = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
_NOWHERE_TEXT = ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "::/32", "fe80::/10", "ff00::/8")
_PRIVATE = tuple(ipaddress.ip_network(text) for text in _PRIVATE_TEXT)
_NOWHERE = tuple(ipaddress.ip_network(text) for text in _NOWHERE_TEXT)
_SOURCES = ("cidrs", "pod", "claim", "request")
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


class Place(NamedTuple):
    """A door in one group."""

    group: str
    door: Door


@dataclass(frozen=True)
class Claim:
    """Somebody is entitled to these doors, each in one of these groups, until then (seconds since 1970).

    `told`: a session whose status says that they are open.
    """

    holder: str
    resource: str
    doors: frozenset[Door]
    groups: frozenset[str]
    until: float
    told: bool = False

    @property
    def places(self) -> Iterator[Place]:
        """Where a rule of the claim may be."""
        return (Place(group, door) for group in self.groups for door in self.doors)


def name_of(item: Mapping[str, Any]) -> str:
    """Namespace and name."""
    return f"{item['metadata']['namespace']}/{item['metadata']['name']}"


def names_of(session: Mapping[str, Any]) -> list[str]:
    """The resources that a session names."""
    here = session["metadata"]["namespace"]
    return [f"{each.get('namespace', here)}/{each['name']}" for each in session["spec"]["resources"]]


def is_declared(session: Mapping[str, Any]) -> bool:
    """Does its spec say where it comes from, so that nobody has to find it?"""
    return bool(session["spec"]["source"].keys() & {"cidrs", "request"})


def ranges_of(session: Mapping[str, Any]) -> list[str]:
    """Where a session comes from: as it declares, else as its status says that it was found."""
    source = session["spec"]["source"]
    if "cidrs" in source:
        return list(source["cidrs"])
    found = session.get("status", {}).get("source", {}).get("addresses", ())
    ips = source["request"]["addresses"] if "request" in source else [each["ip"] for each in found]
    return [ip if "/" in ip else f"{ip}/{128 if ':' in ip else 32}" for ip in ips]


def static_claim(resource: Mapping[str, Any]) -> Claim | None:
    """What a resource itself wants open."""
    cidrs = [each["cidr"] for each in resource["spec"].get("staticCIDRs", ())]
    if not cidrs or "deletionTimestamp" in resource["metadata"]:
        return None
    doors = frozenset(_doors(resource["spec"]["ports"], cidrs))
    return Claim(name_of(resource), name_of(resource), doors, frozenset(groups_of(resource)), float("inf"))


def session_claim(
    session: Mapping[str, Any], resource: Mapping[str, Any], namespaces: Mapping[str, Mapping[str, Any]]
) -> Claim | None:
    """What a session is entitled to of a resource, whether its requester may use it left aside; None for nothing."""
    status, entry = session.get("status", {}), _entry(session, resource)
    granted = entry is not None and bool(entry.get("rules"))
    replaced = entry is not None and entry.get("uid", resource["metadata"]["uid"]) != resource["metadata"]["uid"]
    over = "deletionTimestamp" in session["metadata"] or session["spec"].get("stop", False) or "endedAt" in status
    if (
        over
        or replaced
        or not _allowed(session, resource, namespaces)
        or not (granted or _may_begin(session, resource))
    ):
        return None
    return Claim(
        name_of(session),
        name_of(resource),
        frozenset(_doors(resource["spec"]["ports"], ranges_of(session))),
        frozenset(groups_of(resource)),
        _open_until(session, resource).timestamp(),
        told=entry is not None and entry["state"] == "Applied",
    )


def _allowed(
    session: Mapping[str, Any], resource: Mapping[str, Any], namespaces: Mapping[str, Mapping[str, Any]]
) -> bool:
    """The bounds that bind as long as a session lives."""
    policy = resource["spec"].get("policy", {})
    here, there = session["metadata"]["namespace"], resource["metadata"]["namespace"]
    if not session["spec"]["source"].keys() <= set(policy.get("sources", _SOURCES)):
        return False
    allowed = policy.get("allowedNamespaces", {})
    match allowed.get("from", "Same"):
        case "Same" if here != there:
            return False
        case "Selector":
            labels = namespaces.get(here, {}).get("metadata", {}).get("labels", {})
            if not selects(allowed.get("selector", {}), labels):
                return False
    if "deletionTimestamp" in namespaces.get(there, {}).get("metadata", {}):
        return False
    shortest = {4: 32, 6: 128, **{int(name[-1]): size for name, size in policy.get("minPrefixLength", {}).items()}}
    never = _NOWHERE if policy.get("allowPrivateAddresses", False) else (*_NOWHERE, *_PRIVATE)
    networks = [ipaddress.ip_network(cidr) for cidr in ranges_of(session)]
    return all(network.prefixlen >= shortest[network.version] and not _touches(network, never) for network in networks)


def _may_begin(session: Mapping[str, Any], resource: Mapping[str, Any]) -> bool:
    """The bounds that bind new sessions only."""
    policy = resource["spec"].get("policy", {})
    longest = duration(policy.get("maxDuration", "24h"))
    reasoned = not policy.get("requireReason", False) or bool(session["spec"].get("reason", "").strip())
    short = duration(session["spec"].get("duration", "1h")) <= longest
    return reasoned and short and "deletionTimestamp" not in resource["metadata"]


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Does a label selector of Kubernetes match?"""
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for each in selector.get("matchExpressions", ()):
        value, values = labels.get(each["key"]), each.get("values", ())
        holds = {
            "In": value in values,
            "NotIn": value not in values,
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }
        if not holds[each["operator"]]:
            return False
    return True


def cause(
    session: Mapping[str, Any],
    resources: Mapping[str, Mapping[str, Any]],
    namespaces: Mapping[str, Mapping[str, Any]],
) -> bool:
    """Whether a session that has ended had a reason to: the one that its status gives, by its spec and the clock."""
    status, named = session["status"], [resources[name] for name in names_of(session) if name in resources]
    match status["endedReason"]:
        case "Expired" | "NotAfter":
            until = max((_open_until(session, resource) for resource in named), default=moment(status["endedAt"]))
            return moment(status["endedAt"]) >= until.replace(microsecond=0)
        case "Manual":
            return bool(session["spec"].get("stop", False))
        case "Deleted":
            return "deletionTimestamp" in session["metadata"]
        case "PolicyWithdrawn":
            live = {**session, "status": {name: value for name, value in status.items() if name != "endedAt"}}
            return all(session_claim(live, resource, namespaces) is None for resource in named)
        case "Unclaimed":
            ended = moment(status["endedAt"]) >= own_end(session)
            return "claim" in session["spec"]["source"] and _started(session) is None and ended
        case "OwnerFinished" | "HeartbeatLost":
            return False  # whoever has taken the runner away has to say so
    return True


def _touches(network: _Network, ranges: Iterable[_Network]) -> bool:
    return any(network.version == other.version and network.overlaps(other) for other in ranges)


def _open_until(session: Mapping[str, Any], resource: Mapping[str, Any]) -> datetime:
    return own_end(session, resource["spec"].get("policy", {}).get("maxDuration", "24h"))


def own_end(session: Mapping[str, Any], longest: str = "24h") -> datetime:
    """The end that its own spec gives it: as long as it waits to be claimed, that of the claim."""
    spec, made, started = session["spec"], session["metadata"]["creationTimestamp"], _started(session)
    if "claim" in spec["source"] and started is None:
        end = moment(made) + duration(spec["source"]["claim"].get("within", "5m"))
    else:
        end = moment(started or made) + min(duration(spec.get("duration", "1h")), duration(longest))
    return min(end, moment(spec["notAfter"])) if "notAfter" in spec else end


def _started(session: Mapping[str, Any]) -> str | None:
    return session.get("status", {}).get("startedAt")


def _entry(session: Mapping[str, Any], resource: Mapping[str, Any]) -> dict[str, Any] | None:
    where = (resource["metadata"]["namespace"], resource["metadata"]["name"])
    entries = session.get("status", {}).get("resources", ())
    return next((entry for entry in entries if (entry["namespace"], entry["name"]) == where), None)

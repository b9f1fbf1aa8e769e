"""Rules as EC2 spells them, and as we do."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from gatepass.core.ports import NewRule
from gatepass.core.rules import ObservedRule, Rule, Stamp, canonical_cidr

if TYPE_CHECKING:
    from mypy_boto3_ec2.type_defs import (
        IpPermissionTypeDef,
        ManagedPrefixListTypeDef,
        SecurityGroupRuleTypeDef,
        TagTypeDef,
    )

OWNER_TAG: Final = "gatepass.dev/owner"
MAKER_TAG: Final = "gatepass.dev/made-by"
ANY_PORT: Final = (0, 65535)
_NUMBERS: Final = {"1": "icmp", "6": "tcp", "17": "udp", "58": "icmpv6", "-1": "all"}
_CLOUDFRONT: Final = "com.amazonaws.global.cloudfront.origin-facing"
_CLOUDFRONT_WEIGHT: Final = 55
"""AWS's own lists have no maximum; of those for inbound rules only this one weighs more than 1 (VPC user guide)."""
_NAMED_DUPLICATE: Final = re.compile(
    r"peer: (?P<cidr>[0-9A-Fa-f.:]+/\d+), (?P<protocol>\w+)"
    r"(?:, from port: (?P<port>-?\d+), to port: (?P<end>-?\d+))?(?:, type: (?P<type>[-\w]+))?"
)


def rule_of(cidr: str, protocol: str, port: int | None, end: int | None) -> Rule | None:
    """The canonical rule; None for one that we never make, such as one ICMP type or the protocol GRE."""
    name, whole = _NUMBERS.get(protocol, protocol), port in (None, -1)
    match name:
        case "tcp" | "udp":
            return Rule(canonical_cidr(cidr), name, *(ANY_PORT if whole else (port, end)))
        case "all":
            return Rule(canonical_cidr(cidr), name)
        case "icmp" | "icmpv6" if whole:
            return Rule(canonical_cidr(cidr), name)
    return None


def identity(rule: "SecurityGroupRuleTypeDef") -> Rule | None:
    """What a rule of EC2's lets in; None when that is not addresses, or a protocol that we never open."""
    cidr = rule.get("CidrIpv4") or rule.get("CidrIpv6")
    if not cidr:
        return None
    return rule_of(cidr, rule.get("IpProtocol", ""), rule.get("FromPort"), rule.get("ToPort"))


def observed(rule: "SecurityGroupRuleTypeDef", entries: Mapping[str, int]) -> ObservedRule:
    """A rule as EC2 shows it; `entries` is the weight of the prefix lists, 1 where it is not known."""
    if rule.get("CidrIpv4"):
        weight = (1, 0)
    elif rule.get("CidrIpv6"):
        weight = (0, 1)
    else:
        most = entries.get(rule.get("PrefixListId", ""), 1)
        weight = (most, most)
    tagged = {tag.get("Key"): tag.get("Value") for tag in rule.get("Tags", [])}
    owner, maker = tagged.get(OWNER_TAG), tagged.get(MAKER_TAG)
    return ObservedRule(rule["SecurityGroupRuleId"], identity(rule), rule.get("Description", ""), owner, weight, maker)


def entries_of(lists: "Iterable[ManagedPrefixListTypeDef]") -> dict[str, int]:
    """What each prefix list weighs."""
    return {
        found["PrefixListId"]: found.get("MaxEntries")
        or (_CLOUDFRONT_WEIGHT if found.get("PrefixListName") == _CLOUDFRONT else 1)
        for found in lists
    }


def tags(stamp: Stamp) -> "list[TagTypeDef]":
    """The tags of a rule of ours."""
    return [{"Key": OWNER_TAG, "Value": stamp.owner}, {"Key": MAKER_TAG, "Value": stamp.maker}]


def permissions(batch: Sequence[NewRule]) -> "list[IpPermissionTypeDef]":
    """One IpPermission for each protocol and port range, with the addresses of both families."""
    grouped: defaultdict[tuple[str, int | None, int | None], list[NewRule]] = defaultdict(list)
    for new in batch:
        grouped[new.rule.protocol, new.rule.port, new.rule.end_port].append(new)
    return [_permission(*key, members) for key, members in grouped.items()]


def _permission(protocol: str, port: int | None, end: int | None, members: list[NewRule]) -> "IpPermissionTypeDef":
    permission: IpPermissionTypeDef = {"IpProtocol": "-1" if protocol == "all" else protocol}
    if protocol != "all":
        permission["FromPort"] = -1 if port is None else port
        permission["ToPort"] = -1 if end is None else end
    v4 = [new for new in members if new.rule.family == 4]
    v6 = [new for new in members if new.rule.family == 6]
    if v4:
        permission["IpRanges"] = [{"CidrIp": new.rule.cidr, "Description": new.description} for new in v4]
    if v6:
        permission["Ipv6Ranges"] = [{"CidrIpv6": new.rule.cidr, "Description": new.description} for new in v6]
    return permission


def named_duplicate(message: str) -> Rule | None:
    """The rule that EC2's words name, None when they name none.

    the specified rule "peer: 203.0.113.7/32, TCP, from port: 5432, to port: 5432, ALLOW" already exists
    """
    match = _NAMED_DUPLICATE.search(message)
    if match is None or match["type"] not in (None, "ALL", "-1"):
        return None
    try:
        ports = [None if match[name] is None else int(match[name]) for name in ("port", "end")]
        return rule_of(match["cidr"], match["protocol"].lower(), *ports)
    except ValueError:
        return None

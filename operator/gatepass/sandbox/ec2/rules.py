"""Security group rules as EC2 keeps them, over moto's state: strict where moto is kind.

Ingress is answered here: canonical CIDRs, checked descriptions, quotas by family, all or nothing, paged reads.
Sources: EC2's API reference of the four actions, "Security group rules" and "Amazon VPC quotas" in the VPC user guide.
"""

import ipaddress
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from moto.ec2.models.security_groups import SecurityGroup, SecurityGroupRule

from gatepass.sandbox.ec2.query import AwsError

DEFAULT_QUOTA = 60
DESCRIPTION = re.compile(r"[a-zA-Z0-9 ._\-:/()#,@\[\]+=&;{}!$*]{0,255}")
_GROUP_ID = re.compile(r"sg-[0-9a-f]{8,17}")
_RULE_ID = re.compile(r"sgr-[0-9a-f]{8,17}")
_PROTOCOLS = {"6": "tcp", "17": "udp", "1": "icmp", "58": "icmpv6", "all": "-1"}
_NAMED = {"tcp", "udp", "icmp", "icmpv6", "-1"}
_MAX_TAGS = 50


@dataclass(frozen=True)
class Permission:
    """What makes a rule the same rule: the description is not part of it.

    `source` is one of cidr4, cidr6, group, prefix-list; ports are -1 where the protocol has none.
    """

    protocol: str
    from_port: int
    to_port: int
    source: str
    value: str


def find_group(backend: Any, params: Mapping[str, Any]) -> SecurityGroup:
    """The group that a call names. Raises AwsError if there is none, or the id is malformed or missing."""
    if name := params.get("GroupName"):
        group: SecurityGroup | None = backend.get_security_group_from_name(name)
        if group is None:
            raise AwsError("InvalidGroup.NotFound", f"The security group '{name}' does not exist in default VPC")
        return group
    group_id = params.get("GroupId")
    if not group_id:
        raise AwsError("MissingParameter", "The request must contain the parameter groupName or groupId")
    if not _GROUP_ID.fullmatch(group_id):
        raise AwsError("InvalidGroupId.Malformed", f'Invalid id: "{group_id}"')
    for groups in backend.groups.values():
        if group_id in groups:
            found: SecurityGroup = groups[group_id]
            return found
    raise AwsError("InvalidGroup.NotFound", f"The security group '{group_id}' does not exist")


def permissions(params: Mapping[str, Any], account: str) -> list[tuple[Permission, str | None]]:
    """Every (permission, description) that a call names, canonical. Raises AwsError for what EC2 refuses."""
    given = params.get("IpPermissions")
    if given is None and "IpProtocol" in params:  # the old form: one rule in the call's own parameters
        given = [{**params, "IpRanges": [params] if "CidrIp" in params else []}]
    found = [entry for block in given or () for entry in _expand(block, account)]
    if not found:
        raise AwsError("MissingParameter", "The request must contain the parameter ipPermissions")
    if len({permission for permission, _ in found}) < len(found):
        raise AwsError("InvalidParameterValue", "The same permission must not appear multiple times")
    return found


def _expand(block: Mapping[str, Any], account: str) -> Iterator[tuple[Permission, str | None]]:
    protocol, low, high = _protocol_and_ports(block)
    for field, key, source in (
        ("IpRanges", "CidrIp", "cidr4"),
        ("Ipv6Ranges", "CidrIpv6", "cidr6"),
        ("Groups", "GroupId", "group"),
        ("PrefixListIds", "PrefixListId", "prefix-list"),
    ):
        for entry in block.get(field) or ():
            value = entry.get(key)
            if not value:
                raise AwsError("MissingParameter", f"The request must contain the parameter {key}")
            if source.startswith("cidr"):
                value = canonical_cidr(value, 4 if source == "cidr4" else 6)
            elif source == "group":
                value = f"{entry.get('UserId') or account}/{value}"
            yield Permission(protocol, low, high, source, value), checked_description(entry.get("Description"))


def _protocol_and_ports(block: Mapping[str, Any]) -> tuple[str, int, int]:
    given = block.get("IpProtocol")
    if not given:
        raise AwsError(
            "InvalidParameterValue",
            "Invalid value 'null' for protocol. VPC security group rules must specify protocols explicitly.",
        )
    protocol = _PROTOCOLS.get(given.lower(), given.lower())
    if protocol not in _NAMED and not (protocol.isdigit() and int(protocol) <= 255):
        raise AwsError("InvalidParameterValue", f"Invalid value '{given}' for IP protocol. Unknown protocol.")
    if protocol not in _NAMED or protocol == "-1":
        return protocol, -1, -1  # all ports, whatever was asked for
    try:
        low, high = int(block["FromPort"]), int(block["ToPort"])
    except (KeyError, ValueError) as error:
        if protocol in {"icmp", "icmpv6"}:
            return protocol, -1, -1
        message = "Invalid value 'Must specify both from and to ports with TCP/UDP.' for portRange."
        raise AwsError("InvalidParameterValue", message) from error
    bounds = range(-1, 256) if protocol.startswith("icmp") else range(65536)
    if low not in bounds or high not in bounds or (low > high and not protocol.startswith("icmp")):
        raise AwsError("InvalidParameterValue", f"Invalid {protocol.upper()} port range ({low}:{high})")
    return protocol, low, high


def canonical_cidr(text: str, version: int) -> str:
    """The form that EC2 stores: host bits gone, IPv6 by RFC 5952. Raises AwsError if it is no CIDR of that version."""
    try:
        network = (
            ipaddress.IPv4Network(text, strict=False) if version == 4 else ipaddress.IPv6Network(text, strict=False)
        )
    except ValueError:
        network = None
    if network is None or "/" not in text or not text.rpartition("/")[2].isdigit():
        raise AwsError("InvalidParameterValue", f"CIDR block {text} is malformed")
    return str(network)


def checked_description(text: str | None) -> str | None:
    """`text` itself. Raises AwsError for characters or a length that EC2 does not store."""
    if text is not None and not DESCRIPTION.fullmatch(text):
        raise AwsError(
            "InvalidParameterValue",
            "Invalid rule description. Valid descriptions are strings less than 256 characters from the following "
            "set:  a-zA-Z0-9. _-:/()#,@[]+=&;{}!$*",
        )
    return text


def checked_tags(params: Mapping[str, Any]) -> dict[str, str]:
    """The tags that a call puts on the rules it makes. Raises AwsError for what EC2 refuses as a tag."""
    tags: dict[str, str] = {}
    for specification in params.get("TagSpecification") or ():
        kind = specification.get("ResourceType")
        if kind != "security-group-rule":
            raise AwsError(
                "InvalidParameterValue", f"'{kind}' is not a valid taggable resource type for this operation."
            )
        for tag in specification.get("Tag") or ():
            key, value = tag.get("Key", ""), tag.get("Value", "")
            if key.lower().startswith("aws:"):
                raise AwsError("InvalidParameterValue", "Tag keys starting with 'aws:' are reserved for internal use")
            if not 1 <= len(key) <= 128 or len(value) > 256:
                raise AwsError("InvalidParameterValue", f"Tag '{key}' is too long or empty")
            tags[key] = value
    if len(tags) > _MAX_TAGS:
        raise AwsError("TagLimitExceeded", "The maximum number of Tags for a resource has been reached.")
    return tags


def identity(rule: SecurityGroupRule) -> Permission:
    """What a rule in moto's state permits, canonical even if somebody wrote it past this module."""
    low = -1 if rule.from_port is None else int(rule.from_port)
    high = -1 if rule.to_port is None else int(rule.to_port)
    protocol = str(rule.ip_protocol)
    if rule.cidr_ipv4:
        return Permission(protocol, low, high, "cidr4", canonical_cidr(rule.cidr_ipv4, 4))
    if rule.cidr_ipv6:
        return Permission(protocol, low, high, "cidr6", canonical_cidr(rule.cidr_ipv6, 6))
    if rule.prefix_list_id:
        return Permission(protocol, low, high, "prefix-list", str(rule.prefix_list_id))
    source = rule.source_group
    owner = source.get("UserId") or source.get("OwnerId") or rule.owner_id
    return Permission(protocol, low, high, "group", f"{owner}/{source.get('GroupId')}")


def authorize(
    backend: Any, group: SecurityGroup, wanted: list[tuple[Permission, str | None]], tags: Mapping[str, str], quota: int
) -> list[SecurityGroupRule]:
    """Add all of them or none. Raises AwsError InvalidPermission.Duplicate or RulesPerSecurityGroupLimitExceeded."""
    present = {identity(rule) for rule in group.ingress_rules}
    for permission, _ in wanted:
        if permission in present:
            raise AwsError("InvalidPermission.Duplicate", f'the specified rule "{_peer(permission)}" already exists')
        _check_reference(backend, permission)
    for family in (4, 6):
        weight = sum(_weight(backend, each, family) for each in (*present, *(permission for permission, _ in wanted)))
        if weight > quota:
            raise AwsError(
                "RulesPerSecurityGroupLimitExceeded", "The maximum number of rules per security group has been reached."
            )
    made = [_make(backend, group, permission, description, tags) for permission, description in wanted]
    group.ingress_rules.extend(made)
    return made


def _peer(permission: Permission) -> str:
    ports = "" if permission.from_port < 0 else f", from port: {permission.from_port}, to port: {permission.to_port}"
    protocol = "ALL" if permission.protocol == "-1" else permission.protocol.upper()
    return f"peer: {permission.value}, {protocol}{ports}, ALLOW"


def _check_reference(backend: Any, permission: Permission) -> None:
    if permission.source == "group" and permission.value.startswith(f"{backend.account_id}/"):
        find_group(backend, {"GroupId": permission.value.partition("/")[2]})
    if permission.source == "prefix-list" and permission.value not in backend.managed_prefix_lists:
        raise AwsError("InvalidPrefixListID.NotFound", f"The prefix list ID '{permission.value}' does not exist")


def _weight(backend: Any, permission: Permission, family: int) -> int:
    """What a rule costs of the quota of one family: a reference counts in both, a prefix list with its maximum."""
    if permission.source.startswith("cidr"):
        return int(permission.source == f"cidr{family}")
    if permission.source == "prefix-list" and (known := backend.managed_prefix_lists.get(permission.value)):
        return int(known.max_entries or 1)
    return 1


def _make(
    backend: Any, group: SecurityGroup, permission: Permission, description: str | None, tags: Mapping[str, str]
) -> SecurityGroupRule:
    told = {} if description is None else {"Description": description}
    ip_range = source_group = prefix_list = None
    if permission.source == "group":
        owner, _, group_id = permission.value.partition("/")
        source_group = {"GroupId": group_id, "UserId": owner, "OwnerId": owner, **told}
    elif permission.source == "prefix-list":
        prefix_list = {"PrefixListId": permission.value}
    else:
        ip_range = {"CidrIp" if permission.source == "cidr4" else "CidrIpv6": permission.value, **told}
    return SecurityGroupRule(
        backend,
        permission.protocol,
        group.id,
        str(permission.from_port),
        str(permission.to_port),
        ip_range,
        source_group,
        prefix_list,
        is_egress=False,
        tags=dict(tags),
    )


def rules_by_id(group: SecurityGroup, ids: list[str]) -> list[SecurityGroupRule]:
    """The ingress rules with these ids. Raises AwsError for the first that is malformed or not there."""
    known = {rule.id: rule for rule in group.ingress_rules}
    for rule_id in ids:
        if not _RULE_ID.fullmatch(rule_id):
            raise AwsError(
                "InvalidSecurityGroupRuleId.Malformed", f"The security group rule ID '{rule_id}' is malformed"
            )
        if rule_id not in known:
            message = f"The security group rule ID '{rule_id}' does not exist"
            raise AwsError("InvalidSecurityGroupRuleId.NotFound", message)
    return [known[rule_id] for rule_id in dict.fromkeys(ids)]


def view(rule: SecurityGroupRule) -> dict[str, Any]:
    """A rule as EC2 shows it, in the names of its XML."""
    permission = identity(rule)
    source: dict[str, Any] = {}
    if permission.source == "group":
        owner, _, group_id = permission.value.partition("/")
        source["referencedGroupInfo"] = {"groupId": group_id, "userId": owner}
    else:
        source[{"cidr4": "cidrIpv4", "cidr6": "cidrIpv6", "prefix-list": "prefixListId"}[permission.source]] = (
            permission.value
        )
    backend = rule.ec2_backend
    arn = f"arn:aws:ec2:{backend.region_name}:{backend.account_id}:security-group-rule/{rule.id}"
    return {
        "securityGroupRuleId": rule.id,
        "groupId": rule.group_id,
        "groupOwnerId": backend.account_id,
        "isEgress": rule.is_egress,
        "ipProtocol": permission.protocol,
        "fromPort": permission.from_port,
        "toPort": permission.to_port,
        **source,
        "description": rule.ip_range.get("Description") or rule.source_group.get("Description"),
        "tagSet": [{"key": key, "value": value} for key, value in backend.tags.get(rule.id, {}).items()],
        "securityGroupRuleArn": arn,
    }

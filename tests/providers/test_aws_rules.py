"""EC2's spelling of rules and ours."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.core.ports import NewRule
from gatepass.core.rules import Rule
from gatepass.providers.aws_rules import identity, named_duplicate, observed, permissions, rule_of

IP = "203.0.113.7/32"


def shown(**fields: Any) -> Any:
    return {"SecurityGroupRuleId": "sgr-1", "IsEgress": False, **fields}


@pytest.mark.parametrize(
    ("cidr", "protocol", "port", "end", "rule"),
    [
        (IP, "tcp", 22, 22, Rule(IP, "tcp", 22, 22)),
        (IP, "6", 22, 23, Rule(IP, "tcp", 22, 23)),
        (IP, "tcp", 0, 65535, Rule(IP, "tcp", 0, 65535)),
        (IP, "tcp", -1, -1, Rule(IP, "tcp", 0, 65535)),
        (IP, "17", 53, 53, Rule(IP, "udp", 53, 53)),
        (IP, "udp", None, None, Rule(IP, "udp", 0, 65535)),
        (IP, "icmp", -1, -1, Rule(IP, "icmp")),
        (IP, "1", -1, -1, Rule(IP, "icmp")),
        (IP, "icmp", 8, -1, None),
        (IP, "icmp", 3, 4, None),
        ("2001:db8::7/128", "58", -1, -1, Rule("2001:db8::7/128", "icmpv6")),
        ("2001:db8::7/128", "icmpv6", None, None, Rule("2001:db8::7/128", "icmpv6")),
        (IP, "-1", -1, -1, Rule(IP, "all")),
        (IP, "-1", None, None, Rule(IP, "all")),
        (IP, "47", -1, -1, None),
        ("203.0.113.9/24", "tcp", 1, 1, Rule("203.0.113.0/24", "tcp", 1, 1)),
        ("2001:DB8:0:0::7/128", "tcp", 1, 1, Rule("2001:db8::7/128", "tcp", 1, 1)),
    ],
)
def test_one_spelling(cidr: str, protocol: str, port: int | None, end: int | None, rule: Rule | None) -> None:
    assert rule_of(cidr, protocol, port, end) == rule


@pytest.mark.parametrize(
    ("fields", "weight"),
    [
        ({"CidrIpv4": IP, "IpProtocol": "47", "FromPort": -1, "ToPort": -1}, (1, 0)),
        ({"CidrIpv6": "::/0", "IpProtocol": "icmpv6", "FromPort": 128, "ToPort": -1}, (0, 1)),
        ({"ReferencedGroupInfo": {"GroupId": "sg-2"}, "IpProtocol": "-1"}, (1, 1)),
        ({"PrefixListId": "pl-1", "IpProtocol": "tcp", "FromPort": 1, "ToPort": 1}, (25, 25)),
        ({"PrefixListId": "pl-unknown", "IpProtocol": "tcp", "FromPort": 1, "ToPort": 1}, (1, 1)),
    ],
)
def test_what_we_never_make_still_takes_room(fields: dict[str, Any], weight: tuple[int, int]) -> None:
    found = observed(shown(**fields), {"pl-1": 25})
    assert found.rule is None
    assert found.weight == weight


def test_owner_and_maker_are_the_values_of_our_tags_alone() -> None:
    tags = [{"Key": "Name", "Value": "x"}, {"Key": "gatepass.dev/owner", "Value": "me"}]
    tags.append({"Key": "gatepass.dev/made-by", "Value": "this/then"})
    fields = {"CidrIpv4": IP, "IpProtocol": "tcp", "FromPort": 1, "ToPort": 1}
    shows = [observed(shown(**fields, Tags=tags[:number]), {}) for number in (3, 2, 1, 0)]
    assert [(each.owner, each.maker) for each in shows] == [
        ("me", "this/then"),
        ("me", None),
        (None, None),
        (None, None),
    ]
    assert observed(shown(**fields), {}).owner is None


_ports = st.tuples(st.integers(0, 65535), st.integers(0, 65535)).map(sorted)
_cidrs = st.ip_addresses(v=4).map(lambda ip: f"{ip}/32") | st.ip_addresses(v=6).map(lambda ip: f"{ip}/128")


@st.composite
def _rules(draw: st.DrawFn) -> Rule:
    cidr = draw(_cidrs)
    protocol = draw(st.sampled_from(["tcp", "udp", "all", "icmpv6" if ":" in cidr else "icmp"]))
    ports = draw(_ports) if protocol in ("tcp", "udp") else [None, None]
    rule = rule_of(cidr, protocol, *ports)
    assert rule is not None
    return rule


def _asked(permission: Any) -> list[tuple[Rule | None, str]]:
    """What EC2 would make of a permission, with the descriptions."""
    common = {key: value for key, value in permission.items() if not key.endswith("Ranges")}
    v4 = [({"CidrIpv4": entry["CidrIp"]}, entry["Description"]) for entry in permission.get("IpRanges", ())]
    v6 = [({"CidrIpv6": entry["CidrIpv6"]}, entry["Description"]) for entry in permission.get("Ipv6Ranges", ())]
    return [(identity(shown(**common, **source)), description) for source, description in v4 + v6]


@given(st.sets(_rules(), max_size=40))
def test_permissions_hold_each_rule_once_and_group_the_ports(rules: set[Rule]) -> None:
    asked = permissions([NewRule(rule, str(rule)) for rule in rules])
    found = [entry for permission in asked for entry in _asked(permission)]
    assert len(found) == len(rules)
    assert set(found) == {(rule, str(rule)) for rule in rules}
    assert len(asked) == len({(rule.protocol, rule.port, rule.end_port) for rule in rules})


@pytest.mark.parametrize(
    ("peer", "rule"),
    [
        ("203.0.113.7/32, TCP, from port: 5432, to port: 5432, ALLOW", Rule(IP, "tcp", 5432, 5432)),
        ("2001:db8::7/128, UDP, from port: 1, to port: 9, ALLOW", Rule("2001:db8::7/128", "udp", 1, 9)),
        ("203.0.113.7/32, ALL, ALLOW", Rule(IP, "all")),
        ("203.0.113.7/32, ICMP, type: ALL, code: ALL, ALLOW", Rule(IP, "icmp")),
        ("203.0.113.7/32, ICMP, ALLOW", Rule(IP, "icmp")),
        ("203.0.113.7/32, ICMP, type: 8, code: -1, ALLOW", None),
        ("sg-0aaa, TCP, from port: 1, to port: 2, ALLOW", None),
        ("999.1.1.1/32, TCP, from port: 1, to port: 2, ALLOW", None),
    ],
)
def test_the_duplicate_that_ec2_names(peer: str, rule: Rule | None) -> None:
    assert named_duplicate(f'the specified rule "peer: {peer}" already exists') == rule


def test_words_that_name_nothing() -> None:
    assert named_duplicate("The permission already exists") is None

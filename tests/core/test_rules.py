"""Identity of rules and the marks on them."""

from datetime import UTC, datetime
from ipaddress import IPv4Network, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.core.rules import Mark, Rule, canonical_cidr, clean_note, parse_mark, rules_for
from gatepass.core.types.resource import PortRange

UNTIL = datetime(2026, 11, 22, 16, 0, tzinfo=UTC)
EC2_CHARACTERS = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 ._-:/()#,@[]+=&;{}!$*")
names = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("203.0.113.7/32", "203.0.113.7/32"),
        ("203.0.113.7", "203.0.113.7/32"),
        ("100.68.0.18/18", "100.68.0.0/18"),
        ("2001:DB8:0:0::7/128", "2001:db8::7/128"),
        ("2001:0db8:85a3:0000:0000:8a2e:0370:7334", "2001:db8:85a3::8a2e:370:7334/128"),
    ],
)
def test_canonical_cidr(text: str, canonical: str) -> None:
    assert canonical_cidr(text) == canonical


@given(st.one_of(st.ip_addresses(v=4).map(IPv4Network), st.ip_addresses(v=6).map(IPv6Network)))
def test_canonical_form_is_stable(network: IPv4Network | IPv6Network) -> None:
    assert canonical_cidr(canonical_cidr(network.exploded)) == canonical_cidr(str(network))


@pytest.mark.parametrize(
    ("port", "cidr", "rule"),
    [
        ({"port": 5432}, "203.0.113.7/32", Rule("203.0.113.7/32", "tcp", 5432, 5432)),
        ({"port": 8000, "endPort": 8100}, "203.0.113.7/32", Rule("203.0.113.7/32", "tcp", 8000, 8100)),
        ({"protocol": "UDP", "port": 53}, "2001:db8::/48", Rule("2001:db8::/48", "udp", 53, 53)),
        ({"protocol": "ICMP"}, "203.0.113.7/32", Rule("203.0.113.7/32", "icmp")),
        ({"protocol": "ICMP"}, "2001:db8::7/128", Rule("2001:db8::7/128", "icmpv6")),
        ({"protocol": "All"}, "203.0.113.7/32", Rule("203.0.113.7/32", "all")),
    ],
)
def test_rules_for(port: dict[str, object], cidr: str, rule: Rule) -> None:
    assert rules_for([PortRange.model_validate(port)], [cidr]) == {rule}


def test_every_port_meets_every_address_once() -> None:
    ports = [PortRange(port=1), PortRange(port=2), PortRange(port=2, end_port=2)]
    assert len(rules_for(ports, ["203.0.113.7/32", "203.0.113.7", "2001:db8::7/128"])) == 4


@given(namespace=names, name=names, note=st.text(max_size=300), static=st.booleans())
def test_a_mark_reads_back(namespace: str, name: str, note: str, static: bool) -> None:
    mark = Mark(f"{namespace}/{name}", None if static else UNTIL, clean_note(note))
    description = str(mark)
    assert len(description) <= 255
    assert set(description) <= EC2_CHARACTERS
    back = parse_mark(description)
    assert back is not None
    assert (back.resource, back.until) == (mark.resource, mark.until)
    assert mark.note.startswith(back.note)


@pytest.mark.parametrize(
    "description",
    [
        "",
        "office",
        "gatepass",
        "gatepass until=soon for=ci/db",
        "gatepass until=2026-13-45T00:00:00Z for=ci/db",
        "gatepass until=2026-11-22T16:00:00Z",
        "gatepass until=2026-11-22T16:00:00Z for=db",
        "gatepass static",
        "my gatepass static for=ci/db",
        "gatepass static for=ci/db\nx",
        "Gatepass static for=ci/db",
    ],
)
def test_what_is_not_our_grammar_is_not_ours(description: str) -> None:
    assert parse_mark(description) is None


def test_the_examples_of_the_documentation() -> None:
    assert str(Mark("ci/staging-db", UNTIL)) == "gatepass until=2026-11-22T16:00:00Z for=ci/staging-db"
    assert str(Mark("ci/staging-db", None, "office")) == "gatepass static for=ci/staging-db office"

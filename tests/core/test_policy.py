"""The bounds of a resource, each with what passes and what does not, and words that a person can act on."""

from typing import Any

import pytest

from gatepass.core.policy import WITHDRAWN, Surroundings, cidr_refusal, refusal, withdrawal
from gatepass.core.types.common import format_time
from tests.core.builders import NOON, a_resource, a_session

LABELLED = Surroundings(session_namespace_labels={"team": "payments"})
OTHER = Surroundings(session_namespace_labels={"team": "web"})
SELECTOR = {"from": "Selector", "selector": {"matchLabels": {"team": "payments"}}}
EXPRESSIONS = {
    "from": "Selector",
    "selector": {"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["web"]}]},
}


@pytest.mark.parametrize(
    ("session", "policy", "around", "reason", "words"),
    [
        ({}, {}, Surroundings(), None, ()),
        ({"duration": "2h"}, {"maxDuration": "2h"}, Surroundings(), None, ()),
        (
            {"duration": "2h1s"},
            {"maxDuration": "2h"},
            Surroundings(),
            "DurationTooLong",
            ("spec.duration", "2h1s", "2h"),
        ),
        ({}, {"requireReason": True}, Surroundings(), "ReasonRequired", ("spec.reason",)),
        ({"reason": " "}, {"requireReason": True}, Surroundings(), "ReasonRequired", ("spec.reason",)),
        ({"reason": "run 42"}, {"requireReason": True}, Surroundings(), None, ()),
        ({"cidrs": ["203.0.113.0/24"]}, {}, Surroundings(), "AddressTooWide", ("203.0.113.0/24", "/32")),
        ({"cidrs": ["203.0.113.0/24"]}, {"minPrefixLength": {"ipv4": 24}}, Surroundings(), None, ()),
        ({"cidrs": ["2001:db8::/64"]}, {}, Surroundings(), "AddressTooWide", ("2001:db8::/64", "/128")),
        ({"cidrs": ["2001:db8::/64"]}, {"minPrefixLength": {"ipv6": 64}}, Surroundings(), None, ()),
        ({"cidrs": ["10.1.2.3/32"]}, {}, Surroundings(), "PrivateAddress", ("10.1.2.3/32", "allowPrivateAddresses")),
        ({"cidrs": ["100.64.0.1/32"]}, {}, Surroundings(), "PrivateAddress", ("100.64.0.1/32",)),
        ({"cidrs": ["fd00::1/128"]}, {}, Surroundings(), "PrivateAddress", ("fd00::1/128",)),
        ({"cidrs": ["10.1.2.3/32", "fd00::1/128"]}, {"allowPrivateAddresses": True}, Surroundings(), None, ()),
        ({"namespace": "web"}, {}, LABELLED, "NamespaceNotAllowed", ("web", "Same")),
        ({"namespace": "web"}, {"allowedNamespaces": {"from": "All"}}, Surroundings(), None, ()),
        ({"namespace": "web"}, {"allowedNamespaces": SELECTOR}, LABELLED, None, ()),
        ({"namespace": "web"}, {"allowedNamespaces": SELECTOR}, Surroundings(), "NamespaceNotSeen", ("web",)),
        ({"namespace": "web"}, {"allowedNamespaces": SELECTOR}, OTHER, "NamespaceNotAllowed", ("Selector",)),
        ({"namespace": "web"}, {"allowedNamespaces": EXPRESSIONS}, LABELLED, None, ()),
        ({}, {}, Surroundings(resource_namespace_deleting=True), "NamespaceDeleting", ("ci",)),
    ],
)
def test_new_sessions(
    session: dict[str, Any], policy: dict[str, Any], around: Surroundings, reason: str | None, words: tuple[str, ...]
) -> None:
    refused = refusal(a_session(**session), a_resource(policy=policy), around)
    assert (refused and refused.reason) == reason
    assert all(word in refused.message for word in words if refused)


def test_a_resource_under_deletion_takes_no_new_session() -> None:
    resource = a_resource(metadata={"deletionTimestamp": format_time(NOON)})
    refused = refusal(a_session(), resource, Surroundings())
    assert refused is not None
    assert refused.reason == "ResourceDeleting"
    assert withdrawal(a_session(), resource, Surroundings()) is None


@pytest.mark.parametrize(
    ("session", "policy", "lost"),
    [
        ({}, {}, False),
        ({"duration": "24h"}, {"maxDuration": "1h"}, False),
        ({}, {"requireReason": True}, False),
        ({"cidrs": ["203.0.113.0/24"]}, {}, True),
        ({"cidrs": ["10.0.0.1/32"]}, {}, True),
        ({"namespace": "web"}, {}, True),
    ],
)
def test_what_a_tightened_policy_takes_back(session: dict[str, Any], policy: dict[str, Any], lost: bool) -> None:
    taken = withdrawal(a_session(**session), a_resource(policy=policy), Surroundings())
    assert (taken is not None) == lost
    assert taken is None or taken.reason == WITHDRAWN


def test_a_namespace_that_has_not_been_seen_takes_nothing_back() -> None:
    selecting = a_resource(policy={"allowedNamespaces": SELECTOR})
    assert withdrawal(a_session(namespace="web"), selecting, Surroundings()) is None
    assert withdrawal(a_session(namespace="web"), selecting, OTHER) is not None


@pytest.mark.parametrize(
    "cidr",
    [
        "0.0.0.0/0",
        "::/0",
        "0.0.0.0/32",
        "127.0.0.1/32",
        "126.0.0.0/7",
        "169.254.169.254/32",
        "169.0.0.0/8",
        "224.0.0.1/32",
        "255.255.255.255/32",
        "::/128",
        "::1/128",
        "::ffff:203.0.113.7/128",
        "fe80::1/128",
        "ff02::1/128",
        "203.0.113.7",
        "203.0.113.7/24",
        "2001:DB8::7/128",
        "2001:0db8::7/128",
        "junk",
        "",
        "203.0.113.7/33",
    ],
)
def test_never_allowed(cidr: str) -> None:
    refused = cidr_refusal(cidr, "spec.source.cidrs")
    assert refused is not None
    assert "spec.source.cidrs" in refused.message
    assert cidr in refused.message


@pytest.mark.parametrize("cidr", ["203.0.113.7/32", "198.51.100.0/28", "2001:db8::7/128", "10.0.0.1/32", "11.0.0.0/8"])
def test_allowed_by_some_policy(cidr: str) -> None:
    assert cidr_refusal(cidr, "spec.source.cidrs") is None

"""Bad input is refused by the API server itself, with a message that names the field, the value and the bound."""

from typing import Any

import pytest

from tests.manifests.tenants import Cluster, Person, refusal, resource, says, session

ONE_OF = "exactly one of cidrs, pod, claim, request and operator"
NAMES = [{"name": f"db-{number}"} for number in range(33)]


@pytest.fixture(scope="module")
def admin(cluster: Cluster) -> Person:
    return cluster.admin(cluster.namespace())


@pytest.mark.parametrize("duration", ["1m", "60s", "90m", "1h30m", "24h", "86400s"])
def test_durations_that_pass(admin: Person, duration: str) -> None:
    assert admin.create(session(duration=duration), dry_run=True)["spec"]["duration"] == duration


@pytest.mark.parametrize("duration", ["0", "0s", "-1h", "59s", "24h1s", "25h", "90", "1d", "1h 30m", "1.5h", "hour"])
def test_durations_that_do_not(admin: Person, duration: str) -> None:
    says(
        refusal(admin.create, session(duration=duration), dry_run=True),
        "spec.duration",
        f"got {duration}",
        "from 1m to 24h",
    )


def test_an_empty_duration(admin: Person) -> None:
    says(refusal(admin.create, session(duration=""), dry_run=True), "spec.duration", "from 1m to 24h")


def test_a_session_lasts_an_hour_by_default(admin: Person) -> None:
    assert admin.create(session(), dry_run=True)["spec"]["duration"] == "1h"


@pytest.mark.parametrize(
    "cidr",
    [
        "203.0.113.7/32",
        "198.51.100.0/24",
        "12.0.0.0/8",
        "2001:db8::7/128",
        "2001:db8::/32",
        "10.1.2.3/32",  # a private address is for the policy of a resource to refuse
    ],
)
def test_addresses_that_pass(admin: Person, cidr: str) -> None:
    admin.create(session(source={"cidrs": [cidr]}), dry_run=True)
    admin.create(resource(staticCIDRs=[{"cidr": cidr}]), dry_run=True)


NEVER = "unspecified, loopback, link-local, multicast or reserved"


@pytest.mark.parametrize(
    ("cidr", "words"),
    [
        ("203.0.113.7/24", ("canonical form 203.0.113.0/24",)),
        ("2001:DB8::7/128", ("canonical form 2001:db8::7/128",)),
        ("2001:0db8:0:0:0:0:0:7/128", ("canonical form 2001:db8::7/128",)),
        ("0.0.0.0/0", ("at least 8 (IPv4)",)),
        ("::/0", ("at least", "32 (IPv6)")),
        ("12.0.0.0/7", ("at least 8 (IPv4)",)),
        ("2001::/31", ("at least", "32 (IPv6)")),
        ("::ffff:203.0.113.7/128", ("IPv4-mapped IPv6 is not accepted",)),
        ("127.0.0.1/32", (NEVER,)),
        ("169.254.169.254/32", (NEVER,)),
        ("0.0.0.0/32", (NEVER,)),
        ("224.0.0.1/32", (NEVER,)),
        ("255.255.255.255/32", (NEVER,)),
        ("::1/128", (NEVER,)),
        ("::/128", (NEVER,)),
        ("fe80::1/128", (NEVER,)),
        ("ff02::1/128", (NEVER,)),
        ("203.0.113.7", ("such as 203.0.113.7/32",)),
        ("203.0.113.7/33", ("such as 203.0.113.7/32",)),
        ("203.0.113.256/32", ("such as 203.0.113.7/32",)),
        ("banana", ("such as 203.0.113.7/32",)),
        ("203.0.113.7/32 ", ("such as 203.0.113.7/32",)),
    ],
)
def test_addresses_that_do_not(admin: Person, cidr: str, words: tuple[str, ...]) -> None:
    error = refusal(admin.create, session(source={"cidrs": [cidr]}), dry_run=True)
    says(error, "spec.source.cidrs[0]", f"got {cidr}".strip(), *words)
    error = refusal(admin.create, resource(staticCIDRs=[{"cidr": cidr}]), dry_run=True)
    says(error, "spec.staticCIDRs[0].cidr", f"got {cidr}".strip(), *words)


@pytest.mark.parametrize(
    "spec",
    [
        {"resources": NAMES[:1]},
        {"resources": NAMES[:32]},
        {"resources": [{"name": "db"}, {"name": "db", "namespace": "platform"}]},
        {"source": {"cidrs": [f"203.0.113.{number}/32" for number in range(16)]}},
        {"source": {"pod": {"name": "runner-7f.x"}}},
        {"source": {"claim": {}}},
        {"source": {"claim": {"within": "10s"}}},
        {"source": {"claim": {"within": "1h"}}},
        {"reason": "x" * 256},
        {"ttlAfterEnded": "Never"},
        {"ttlAfterEnded": "0s"},
        {"ttlAfterEnded": "8760h"},
        {"notAfter": "2036-11-22T18:00:00Z"},
        {"stop": True},
    ],
    ids=str,
)
def test_sessions_that_pass(admin: Person, spec: dict[str, Any]) -> None:
    admin.create(session(**spec), dry_run=True)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"resources": []}, ("spec.resources", "at least 1")),
        ({"resources": NAMES}, ("spec.resources", "33", "at most 32")),
        ({"resources": [{"name": "db"}, {"name": "db"}]}, ("spec.resources", "db", "twice")),
        ({"resources": [{"name": "DB"}]}, ("spec.resources[0].name", "DB")),
        ({"resources": [{"name": "x" * 64}]}, ("spec.resources[0].name", "63")),
        ({"resources": [{"name": "db", "namespace": ""}]}, ("spec.resources[0].namespace", "at least 1")),
        ({"source": {}}, ("spec.source", ONE_OF)),
        ({"source": {"cidrs": []}}, ("spec.source.cidrs", "at least 1")),
        (
            {"source": {"cidrs": [f"203.0.113.{number}/32" for number in range(17)]}},
            ("spec.source.cidrs", "17", "at most 16"),
        ),
        ({"source": {"cidrs": ["203.0.113.7/32"] * 2}}, ("spec.source.cidrs[1]", "203.0.113.7/32", "Duplicate")),
        ({"source": {"cidrs": ["203.0.113.7/32"], "pod": {"name": "runner"}}}, ("spec.source", ONE_OF)),
        ({"source": {"claim": {}, "operator": {}}}, ("spec.source", ONE_OF)),
        ({"source": {"pod": {}}}, ("spec.source.pod.name", "Required")),
        ({"source": {"pod": {"name": "Runner"}}}, ("spec.source.pod.name", "Runner")),
        ({"source": {"pod": {"name": "x" * 254}}}, ("spec.source.pod.name", "253")),
        ({"source": {"claim": {"within": "9s"}}}, ("spec.source.claim.within", "got 9s", "from 10s to 1h")),
        ({"source": {"claim": {"within": "61m"}}}, ("spec.source.claim.within", "got 61m", "from 10s to 1h")),
        ({"source": {"operator": {"url": "x"}}}, ("spec.source.operator.url", "unknown field")),
        ({"reason": "x" * 257}, ("spec.reason", "256")),
        ({"ttlAfterEnded": "1d"}, ("spec.ttlAfterEnded", "got 1d", "from 0s to 8760h", "or Never")),
        ({"ttlAfterEnded": "8761h"}, ("spec.ttlAfterEnded", "got 8761h", "from 0s to 8760h")),
        ({"notAfter": "tomorrow"}, ("spec.notAfter", "tomorrow", "date-time")),
        # What CEL, Python or time itself cannot take: an object with it could not be changed any more.
        ({"notAfter": "2026-11-23t23:00:00z"}, ("spec.notAfter", "2026-11-23t23:00:00z")),
        ({"notAfter": "0000-01-01T00:00:00Z"}, ("spec.notAfter", "0000-01-01T00:00:00Z")),
        ({"notAfter": "0001-01-01T00:00:00+12:00"}, ("spec.notAfter", "0001-01-01T00:00:00+12:00")),
    ],
    ids=str,
)
def test_sessions_that_do_not(admin: Person, spec: dict[str, Any], words: tuple[str, ...]) -> None:
    says(refusal(admin.create, session(**spec), dry_run=True), *words)


def test_a_resource_named_with_and_without_its_namespace_is_named_twice(admin: Person) -> None:
    here = {"name": "db", "namespace": admin.namespace}
    says(
        refusal(admin.create, session("db", "cache", here), dry_run=True),
        "spec.resources",
        f"{admin.namespace}/db",
        "twice",
    )


AWS = {"region": "eu-central-1", "securityGroups": ["sg-0aaa"]}
ROLE = {"roleARN": "arn:aws:iam::123456789012:role/gatepass"}
SECRET = {"secretRef": {"name": "aws"}}


@pytest.mark.parametrize(
    "spec",
    [
        {"ports": [{"port": 1}, {"port": 65535}]},
        {"ports": [{"protocol": "UDP", "port": 8000, "endPort": 8100}, {"port": 8000, "endPort": 8000}]},
        {"ports": [{"protocol": "ICMP"}]},
        {"ports": [{"protocol": "All"}]},
        {"ports": [{"port": 5000 + number} for number in range(16)]},
        {"aws": {**AWS, "credentials": ROLE}},
        {"aws": {**AWS, "credentials": SECRET}},
        {"aws": {**AWS, "securityGroups": [f"sg-{number:04x}" for number in range(16)]}},
        {"aws": {**AWS, "rulesPerSecurityGroup": 1000}},
        {"policy": {"minPrefixLength": {"ipv4": 8, "ipv6": 32}, "maxDuration": "1m", "maxConcurrentSessions": 1}},
        {"policy": {"allowedNamespaces": {"from": "All"}}},
        {"policy": {"allowedNamespaces": {"from": "Selector", "selector": {"matchLabels": {"team": "web"}}}}},
        {"staticCIDRs": [{"cidr": f"198.51.100.{number}/32"} for number in range(64)]},
    ],
    ids=str,
)
def test_resources_that_pass(admin: Person, spec: dict[str, Any]) -> None:
    admin.create(resource(**spec), dry_run=True)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"ports": []}, ("spec.ports", "at least 1")),
        ({"ports": [{"port": 5000 + number} for number in range(17)]}, ("spec.ports", "17", "at most 16")),
        ({"ports": [{"port": 0}]}, ("spec.ports[0].port", "Invalid value: 0", "greater than or equal to 1")),
        ({"ports": [{"port": 65536}]}, ("spec.ports[0].port", "65536", "less than or equal to 65535")),
        ({"ports": [{"port": 1, "endPort": 65536}]}, ("spec.ports[0].endPort", "65536", "65535")),
        (
            {"ports": [{"port": 80, "endPort": 79}]},
            ("spec.ports[0]", "endPort must not be below port", "79 is below 80"),
        ),
        ({"ports": [{}]}, ("spec.ports[0]", "port is required for TCP and UDP", "protocol is TCP")),
        ({"ports": [{"protocol": "ICMP", "port": 1}]}, ("spec.ports[0]", "must be absent", "protocol is ICMP")),
        ({"ports": [{"protocol": "All", "endPort": 1}]}, ("spec.ports[0]", "must be absent", "protocol is All")),
        ({"ports": [{"protocol": "SCTP", "port": 1}]}, ("spec.ports[0].protocol", "SCTP", "TCP", "UDP", "ICMP")),
        ({"aws": None}, ("spec.aws", "Required value")),
        ({"gcp": {"network": "default"}}, ("spec.gcp", "unknown field")),
        ({"aws": {**AWS, "vpc": "vpc-1"}}, ("spec.aws.vpc", "unknown field")),
        ({"aws": {**AWS, "region": "Frankfurt"}}, ("spec.aws.region", "a Region such as eu-central-1", "Frankfurt")),
        ({"aws": {**AWS, "securityGroups": []}}, ("spec.aws.securityGroups", "at least 1")),
        ({"aws": {**AWS, "securityGroups": ["sg-0aaa"] * 2}}, ("spec.aws.securityGroups[1]", "sg-0aaa", "Duplicate")),
        (
            {"aws": {**AWS, "securityGroups": ["vpc-0"]}},
            ("spec.aws.securityGroups[0]", "such as sg-0a1b2c3d4e5f60718", "vpc-0"),
        ),
        (
            {"aws": {**AWS, "securityGroups": [f"sg-{number:04x}" for number in range(17)]}},
            ("spec.aws.securityGroups", "17", "at most 16"),
        ),
        ({"aws": {**AWS, "rulesPerSecurityGroup": 0}}, ("spec.aws.rulesPerSecurityGroup", "0", "1")),
        ({"aws": {**AWS, "rulesPerSecurityGroup": 1001}}, ("spec.aws.rulesPerSecurityGroup", "1001", "1000")),
        ({"aws": {**AWS, "credentials": {}}}, ("spec.aws.credentials", "exactly one of roleARN and secretRef")),
        (
            {"aws": {**AWS, "credentials": {"secretRef": {"name": "../../victim/secrets/aws"}}}},
            ("spec.aws.credentials.secretRef.name", "../../victim/secrets/aws"),
        ),
        ({"aws": {**AWS, "credentials": {**ROLE, **SECRET}}}, ("spec.aws.credentials", "exactly one of")),
        (
            {"aws": {**AWS, "credentials": {"roleARN": "admin"}}},
            ("spec.aws.credentials.roleARN", "such as arn:aws:iam::", "admin"),
        ),
        ({"policy": {"maxDuration": "25h"}}, ("spec.policy.maxDuration", "got 25h", "from 1m to 24h")),
        ({"policy": {"maxConcurrentSessions": 0}}, ("spec.policy.maxConcurrentSessions", "0", "1")),
        ({"policy": {"minPrefixLength": {"ipv4": 7}}}, ("spec.policy.minPrefixLength.ipv4", "7", "8")),
        ({"policy": {"minPrefixLength": {"ipv4": 33}}}, ("spec.policy.minPrefixLength.ipv4", "33", "32")),
        ({"policy": {"minPrefixLength": {"ipv6": 31}}}, ("spec.policy.minPrefixLength.ipv6", "31", "32")),
        ({"policy": {"minPrefixLength": {"ipv6": 129}}}, ("spec.policy.minPrefixLength.ipv6", "129", "128")),
        (
            {"policy": {"allowedNamespaces": {"from": "Selector"}}},
            ("spec.policy.allowedNamespaces", "selector", "from is Selector"),
        ),
        (
            {"policy": {"allowedNamespaces": {"from": "All", "selector": {}}}},
            ("spec.policy.allowedNamespaces", "selector", "from is All"),
        ),
        ({"policy": {"allowedNamespaces": {"from": "Some"}}}, ("allowedNamespaces.from", "Some", "Same", "Selector")),
        ({"staticCIDRs": [{"cidr": "198.51.100.1/32"}] * 2}, ("spec.staticCIDRs[1]", "198.51.100.1/32", "Duplicate")),
        (
            {"staticCIDRs": [{"cidr": f"198.51.100.{number}/32"} for number in range(65)]},
            ("spec.staticCIDRs", "65", "at most 64"),
        ),
    ],
    ids=str,
)
def test_resources_that_do_not(admin: Person, spec: dict[str, Any], words: tuple[str, ...]) -> None:
    says(refusal(admin.create, resource(**spec), dry_run=True), *words)


def test_a_long_name(admin: Person) -> None:
    admin.create(resource("x" * 63), dry_run=True)
    says(refusal(admin.create, resource("x" * 64), dry_run=True), "metadata.name", "x" * 64, "63")


def test_an_unknown_provider_alone_is_refused_however_lenient_the_client(admin: Person) -> None:
    unknown = resource(gcp={"network": "default"})
    del unknown["spec"]["aws"]
    says(refusal(admin.create, unknown, dry_run=True, strict=False), "spec.aws", "Required value")

"""The policy of a resource, as the API server holds sessions of the resource's own namespace to it."""

from typing import Any

import pytest

from tests.manifests.tenants import (
    WRITES_SESSIONS,
    Cluster,
    Person,
    annotated,
    may,
    refusal,
    refusal_soon,
    resource,
    says,
    session,
)


@pytest.fixture(scope="module")
def admin(cluster: Cluster) -> Person:
    """At work in a namespace with a label, and with a resource for each case."""
    admin = cluster.admin(cluster.namespace(team="payments"))
    for name, policy in POLICIES.items():
        admin.create(resource(name, policy))
    # Admission learns of resources by a watch, in order: when it knows the last, it knows them all.
    refusal_soon(admin.create, session(list(POLICIES)[-1]), dry_run=True)
    return admin


def selector(**parts: Any) -> dict[str, Any]:
    return {"allowedNamespaces": {"from": "Selector", "selector": parts}}


def expression(key: str, operator: str, *values: str) -> dict[str, Any]:
    return selector(matchExpressions=[{"key": key, "operator": operator, "values": list(values)}])


POLICIES: dict[str, dict[str, Any]] = {
    "plain": {},
    "short": {"maxDuration": "30m"},
    "reasoned": {"requireReason": True},
    "wide": {"minPrefixLength": {"ipv4": 24, "ipv6": 64}},
    "wide4": {"minPrefixLength": {"ipv4": 24}},
    "private": {"allowPrivateAddresses": True},
    "same": {"allowedNamespaces": {"from": "Same"}},
    "all": {"allowedNamespaces": {"from": "All"}},
    "everybody": selector(),
    "label": selector(matchLabels={"team": "payments"}),
    "other-label": selector(matchLabels={"team": "payments", "tier": "gold"}),
    "other-value": selector(matchLabels={"team": "web"}),
    "in": expression("team", "In", "web", "payments"),
    "not-in": expression("tier", "NotIn", "gold"),
    "exists": expression("team", "Exists"),
    "exists-not": expression("tier", "DoesNotExist"),
    "out": expression("team", "In", "web"),
    "out-absent": expression("tier", "In", "gold"),
    "out-not-in": expression("team", "NotIn", "payments"),
    "out-exists": expression("tier", "Exists"),
    "out-exists-not": expression("team", "DoesNotExist"),
    "found": {"sources": ["operator"]},
    "last": {"maxDuration": "1m"},
}


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("not-there", {"duration": "24h"}),
        ("plain", {"duration": "24h"}),
        ("short", {"duration": "30m"}),
        ("short", {"duration": "1800s"}),
        ("reasoned", {"reason": "run 42"}),
        ("wide", {"source": {"cidrs": ["203.0.113.0/24", "2001:db8::/64"]}}),
        ("private", {"source": {"cidrs": ["10.1.2.3/32", "100.64.0.1/32", "fd00::1/128"]}}),
        ("same", {}),
        ("all", {}),
        ("everybody", {}),
        ("label", {}),
        ("in", {}),
        ("not-in", {}),
        ("exists", {}),
        ("exists-not", {}),
        ("plain", {"source": {"pod": {"name": "runner"}}}),
        ("plain", {"source": {"claim": {"within": "1m"}}}),
        ("found", {"source": {"operator": {}}}),
    ],
    ids=str,
)
def test_sessions_within_the_bounds(admin: Person, name: str, spec: dict[str, Any]) -> None:
    admin.create(session(name, **spec), dry_run=True)


OUT = ("policy.allowedNamespaces is from: Selector",)


@pytest.mark.parametrize(
    ("name", "spec", "words"),
    [
        ("short", {}, ("spec.duration", "1h is above the 30m", "policy.maxDuration")),
        ("short", {"duration": "30m1s"}, ("spec.duration", "30m1s is above the 30m")),
        ("reasoned", {}, ("spec.reason", "policy.requireReason")),
        ("reasoned", {"reason": " \t"}, ("spec.reason", "policy.requireReason")),
        (
            "plain",
            {"source": {"cidrs": ["203.0.113.7/32", "203.0.113.0/31"]}},
            ("spec.source.cidrs", "203.0.113.0/31 is wider than the /32", "policy.minPrefixLength.ipv4"),
        ),
        (
            "wide",
            {"source": {"cidrs": ["203.0.112.0/23"]}},
            ("spec.source.cidrs", "203.0.112.0/23 is wider than the /24", "policy.minPrefixLength.ipv4"),
        ),
        (
            "wide4",
            {"source": {"cidrs": ["2001:db8::/127"]}},
            ("spec.source.cidrs", "2001:db8::/127 is wider than the /128", "policy.minPrefixLength.ipv6"),
        ),
        *(
            (
                "plain",
                {"source": {"cidrs": ["203.0.113.7/32", private]}},
                ("spec.source.cidrs", f"{private} is a private address", "policy.allowPrivateAddresses is false"),
            )
            for private in ("10.1.2.3/32", "172.31.0.1/32", "192.168.1.1/32", "100.127.0.1/32", "fd00::1/128")
        ),
        ("plain", {"source": {"operator": {}}}, ("spec.source.operator", "accepts cidrs, pod, claim, request")),
        ("found", {}, ("spec.source.cidrs", "accepts operator (policy.sources)")),
        ("found", {"source": {"pod": {"name": "x"}}}, ("spec.source.pod", "accepts operator (policy.sources)")),
        ("found", {"source": {"claim": {}}}, ("spec.source.claim", "accepts operator (policy.sources)")),
        ("other-label", {}, OUT),
        ("other-value", {}, OUT),
        ("out", {}, OUT),
        ("out-absent", {}, OUT),
        ("out-not-in", {}, OUT),
        ("out-exists", {}, OUT),
        ("out-exists-not", {}, OUT),
    ],
    ids=str,
)
def test_sessions_beyond_them(admin: Person, name: str, spec: dict[str, Any], words: tuple[str, ...]) -> None:
    error = refusal(admin.create, session(name, **spec), dry_run=True)
    assert error.status == 422
    says(error, f"ProtectedResource {admin.namespace}/{name}", *words)


def test_each_of_many_resources_counts(admin: Person) -> None:
    doors = [f"door-{number}" for number in range(31)]
    addresses = [f"203.0.113.{number}/32" for number in range(16)]
    many = session(*doors, "short", source={"cidrs": addresses}, duration="30m")
    admin.create(many, dry_run=True)
    many["spec"]["duration"] = "31m"
    says(refusal(admin.create, many, dry_run=True), "spec.duration", f"{admin.namespace}/short")


def test_a_resource_of_that_name_elsewhere_is_another(cluster: Cluster, admin: Person) -> None:
    there = {"name": "short", "namespace": cluster.namespace()}
    admin.create(session(there, duration="24h"), dry_run=True)


def test_gatepass_is_held_to_them_too(cluster: Cluster, admin: Person) -> None:
    gatepass = cluster.gatepass(admin.namespace)
    cluster.grant(gatepass, WRITES_SESSIONS, namespace=admin.namespace)
    says(refusal(gatepass.create, session("short"), dry_run=True), "policy.maxDuration")


def test_a_resource_under_deletion_takes_no_session(admin: Person) -> None:
    admin.create(annotated(resource("going"), finalizers=["example.com/theirs"]))
    admin.create(session("going", name="before"))
    admin.api.request("DELETE", admin.path("ProtectedResource", "going"))
    says(
        refusal_soon(admin.create, session("going"), dry_run=True),
        f"ProtectedResource {admin.namespace}/going is being deleted",
    )
    says(refusal(longer, admin, "before", "2h"), "is being deleted")
    admin.patch("AccessSession", "before", {"spec": {"stop": True}}, dry_run=True)


def longer(person: Person, name: str, duration: str) -> None:
    person.patch("AccessSession", name, {"spec": {"duration": duration}}, dry_run=True)


def test_a_tightened_bound_stands_in_nobodys_way_out(cluster: Cluster) -> None:
    admin = cluster.admin(cluster.namespace())
    person = cluster.person(admin.namespace, WRITES_SESSIONS, may("use", "db"))
    admin.create(resource(policy={"maxDuration": "6h"}))
    person.create(session(name="running", duration="4h"))
    person.create(session(name="ended", duration="4h"))
    longer(person, "running", "6h")
    strict = {
        "maxDuration": "1h",
        "requireReason": True,
        "minPrefixLength": {"ipv4": 32, "ipv6": 128},
        **selector(matchLabels={"team": "web"}),
    }
    admin.patch("ProtectedResource", "db", {"spec": {"policy": strict}})
    refusal_soon(person.create, session(duration="4h"), dry_run=True)
    ended = {"status": {"endedAt": "2026-11-22T18:00:00Z", "endedReason": "Manual"}}
    cluster.gatepass(admin.namespace).patch("AccessSession", "ended", ended, subresource="status")

    says(refusal(longer, person, "running", "5h"), "spec.duration", "5h is above the 1h")
    for who in (person, cluster.gatepass(admin.namespace)):
        for spec in ({"stop": True}, {"duration": "2h"}, {"notAfter": "2036-11-22T18:00:00Z"}, {"reason": "tests"}):
            who.patch("AccessSession", "running", {"spec": spec}, dry_run=True)
        for name in ("running", "ended"):
            for metadata in ({"labels": {"team": "web"}}, {"annotations": {"note": "kept"}}):
                who.patch("AccessSession", name, {"metadata": metadata}, dry_run=True)
            who.patch("AccessSession", name, {"spec": {"stop": True}}, dry_run=True)
    cluster.gatepass(admin.namespace).patch("AccessSession", "ended", {"metadata": {"finalizers": []}})
    person.api.request("DELETE", person.path("AccessSession", "running"))

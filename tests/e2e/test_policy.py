"""A bound that is tightened takes back what it no longer allows, and a session ends when it has nothing left."""

from tests.e2e.firewall import Group
from tests.e2e.tenant import ADDRESS, RESOURCE, SESSION, Tenant, condition, wait_for

WIDE = {"minPrefixLength": {"ipv4": 24}}
NARROW = {"minPrefixLength": {"ipv4": 32}}
NETWORK = "203.0.113.0/24"


def test_withdrawn_from_one_resource_and_then_from_the_last(tenant: Tenant, group: Group, other_group: Group) -> None:
    tenant.resource(group.id, policy=WIDE)
    tenant.resource(other_group.id, name="cache", policy=WIDE, ports=(6379,))
    tenant.create_soon(tenant.session_body("db", "cache", cidrs=(NETWORK,)))
    tenant.until_phase("it-1", "Active")

    tenant.patch(RESOURCE, "db", spec={"policy": NARROW})
    tenant.until_phase("it-1", "Partial")
    lost = tenant.until_part("it-1", "db", "Failed", "policy.minPrefixLength.ipv4")
    assert lost["reason"] == "PolicyWithdrawn"
    wait_for(lambda: group.rules() == [])
    assert other_group.open_to() == {(NETWORK, 6379)}

    tenant.patch(RESOURCE, "cache", spec={"policy": NARROW})
    ended = tenant.until_phase("it-1", "Cancelled")
    assert ended["status"]["endedReason"] == "PolicyWithdrawn"
    assert other_group.rules() == []
    # Loosened again, nothing comes back: an end is final.
    tenant.patch(RESOURCE, "cache", spec={"policy": WIDE})
    tenant.until_condition(RESOURCE, "cache", "Ready")
    tenant.create_soon(tenant.session_body("cache", name="it-2", cidrs=(NETWORK,)))
    tenant.until_phase("it-2", "Active")
    assert tenant.get(SESSION, "it-1")["status"] == ended["status"]


def test_another_namespace_is_shut_out(tenant: Tenant, other_tenant: Tenant, group: Group) -> None:
    tenant.resource(group.id, policy={"allowedNamespaces": {"from": "All"}})
    tenant.until_phase(tenant.session(), "Active")
    other_tenant.session({"name": "db", "namespace": tenant.namespace}, cidrs=("203.0.113.8/32",))
    other_tenant.until_phase("it-1", "Active")
    tenant.patch(RESOURCE, "db", spec={"policy": {"allowedNamespaces": {"from": "Same"}}})
    assert other_tenant.until_phase("it-1", "Cancelled")["status"]["endedReason"] == "PolicyWithdrawn"
    assert group.open_to() == {(ADDRESS, 5432)}


def test_a_namespace_that_loses_the_label(tenant: Tenant, other_tenant: Tenant, group: Group) -> None:
    other_tenant.label(team="ci")
    selector = {"from": "Selector", "selector": {"matchLabels": {"team": "ci"}}}
    tenant.resource(group.id, policy={"allowedNamespaces": selector})
    other_tenant.session({"name": "db", "namespace": tenant.namespace})
    other_tenant.until_phase("it-1", "Active")
    other_tenant.label(team="marketing")
    assert other_tenant.until_phase("it-1", "Cancelled")["status"]["endedReason"] == "PolicyWithdrawn"
    assert group.rules() == []


def test_a_lower_longest_duration_moves_the_deadline(tenant: Tenant, group: Group) -> None:
    tenant.resource(group.id)
    first = tenant.until_phase(tenant.session(duration="2h"), "Active")["status"]["expiresAt"]
    tenant.patch(RESOURCE, "db", spec={"policy": {"maxDuration": "1h"}})
    session = tenant.until(SESSION, "it-1", lambda item: item["status"]["expiresAt"] < first, "with an earlier end")
    assert session["status"]["phase"] == "Active"
    assert len(group.rules()) == 1


def test_bounds_that_bind_new_sessions_only(tenant: Tenant, group: Group) -> None:
    tenant.resource(group.id)
    tenant.until_phase(tenant.session(), "Active")
    tenant.patch(RESOURCE, "db", spec={"policy": {"requireReason": True, "maxConcurrentSessions": 1}})
    tenant.until_condition(RESOURCE, "db", "Ready")
    tenant.create_soon(tenant.session_body(name="it-2", cidrs=("203.0.113.8/32",), reason="tests"))
    tenant.until_part("it-2", "db", "Waiting", "maxConcurrentSessions")
    session = tenant.get(SESSION, "it-1")
    assert session["status"]["phase"] == "Active"
    assert condition(session, "Ready")["status"] == "True"
    assert group.open_to() == {(ADDRESS, 5432)}


def test_another_resource_of_the_same_name_was_not_granted(tenant: Tenant, group: Group, other_group: Group) -> None:
    tenant.resource(group.id)
    tenant.resource(other_group.id, name="cache", ports=(6379,))
    tenant.until_phase(tenant.session("db", "cache"), "Active")
    # Torn out by an administrator, and made anew for something else.
    tenant.patch(RESOURCE, "db", metadata={"annotations": {"gatepass.dev/abandon": "true"}})
    tenant.delete(RESOURCE, "db")
    tenant.until_gone(RESOURCE, "db")
    tenant.resource(group.id, ports=(22,))
    tenant.until_part("it-1", "db", "Failed")
    wait_for(lambda: group.rules() == [], "the rule of the old one goes, and none for the new one comes")
    assert tenant.get(SESSION, "it-1")["status"]["phase"] == "Partial"

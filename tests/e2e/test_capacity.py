"""Groups have room for 60 rules; who does not fit in goes elsewhere, or waits and says for what."""

from tests.e2e.firewall import Group, addresses
from tests.e2e.tenant import RESOURCE, SESSION, Tenant, condition, wait_for

QUOTA = 60


def test_a_full_group_sends_rules_to_the_second(tenant: Tenant, group: Group, other_group: Group) -> None:
    theirs = group.add(*addresses(QUOTA))
    tenant.resource(group.id, other_group.id)
    tenant.until_phase(tenant.session(), "Active")
    assert other_group.open_to() == {("203.0.113.7/32", 5432)}
    # A placed rule stays where it is, also when there is room in the first group later.
    group.remove(theirs[0])
    tenant.until_phase(tenant.session(name="it-2", cidrs=("203.0.113.8/32",)), "Active")
    wait_for(lambda: group.open_to() | other_group.open_to() == {(f"203.0.113.{n}/32", 5432) for n in (7, 8)})
    assert ("203.0.113.7/32", 5432) in other_group.open_to()


def test_a_full_group_alone_makes_sessions_wait(tenant: Tenant, group: Group) -> None:
    theirs = group.add(*addresses(QUOTA - 2))
    tenant.resource(group.id, ports=(5432, 5433, 5434))
    tenant.until_part(tenant.session(), "db", "Waiting", "needs 3 rules, 2 free")
    session = tenant.until_phase("it-1", "Pending")
    assert condition(session, "Settled")["status"] == "False"
    told = tenant.until_condition(RESOURCE, "db", "CapacityAvailable", "False", "needs 3 rules, 2 free")["message"]
    assert f"{QUOTA - 2} of {QUOTA}" in told
    assert group.ours() == [], "all of its rules or none"
    group.remove(theirs[0])
    tenant.until_phase("it-1", "Active")
    assert len(group.ours()) == 3
    capacity = tenant.until(
        RESOURCE, "db", lambda item: item["status"]["capacity"]["ipv4"]["ours"] == 3, "its three rules counted"
    )["status"]["capacity"]["ipv4"]
    assert capacity == {"used": QUOTA, "limit": QUOTA, "ours": 3}


def test_room_that_a_session_leaves_goes_to_the_one_that_waits(tenant: Tenant, group: Group) -> None:
    tenant.resource(group.id, aws={"region": "eu-central-1", "securityGroups": [group.id], "rulesPerSecurityGroup": 1})
    tenant.until_phase(tenant.session(name="first"), "Active")
    tenant.until_part(tenant.session(name="second", cidrs=("203.0.113.8/32",)), "db", "Waiting", "needs 1 rule, 0 free")
    # Another session of the first one's address needs no room.
    tenant.until_phase(tenant.session(name="third"), "Active")
    tenant.until_stopped("first")
    assert tenant.part("second")["state"] == "Waiting"
    tenant.until_stopped("third")
    tenant.until_phase("second", "Active")
    assert group.open_to() == {("203.0.113.8/32", 5432)}


def test_ipv4_and_ipv6_are_counted_apart(tenant: Tenant, group: Group) -> None:
    group.add(*addresses(QUOTA))
    tenant.resource(group.id)
    tenant.until_phase(tenant.session(cidrs=("2001:db8::7/128",)), "Active")
    tenant.until_part(tenant.session(name="it-2"), "db", "Waiting", "needs 1 rule, 0 free (IPv4)")


def test_no_more_sessions_at_once_than_the_policy_allows(tenant: Tenant, group: Group) -> None:
    tenant.resource(group.id, policy={"maxConcurrentSessions": 1})
    tenant.until_phase(tenant.session(name="first"), "Active")
    tenant.until_part(tenant.session(name="second"), "db", "Waiting", "maxConcurrentSessions")
    tenant.delete(SESSION, "first")
    tenant.until_phase("second", "Active")
    tenant.until_gone(SESSION, "first")
    assert len(group.rules()) == 1

"""One door for everybody who needs it: a rule is shared, and goes with the last of its users."""

from tests.e2e.firewall import Group
from tests.e2e.tenant import SESSION, Tenant, in_seconds, wait_for


def test_two_sessions_one_address_one_rule(tenant: Tenant, group: Group) -> None:
    tenant.resource(group.id)
    first, second = tenant.session(name="first"), tenant.session(name="second", duration="2h")
    for name in (first, second):
        tenant.until_phase(name, "Active")
    (rule,) = group.rules()
    assert [tenant.part(name)["rules"][0]["id"] for name in (first, second)] == [rule["securityGroupRuleId"]] * 2

    tenant.until_stopped(first)
    assert [each["securityGroupRuleId"] for each in group.rules()] == [rule["securityGroupRuleId"]]

    tenant.until_stopped(second)
    assert group.rules() == []


def test_the_label_of_a_shared_rule_tells_the_last_deadline(tenant: Tenant, group: Group) -> None:
    tenant.resource(group.id)
    soon = tenant.until_phase(tenant.session(name="soon", duration="10m"), "Active")["status"]["expiresAt"]
    assert f"until={soon}" in group.rules()[0]["description"]
    late = tenant.until_phase(tenant.session(name="late", duration="20m"), "Active")["status"]["expiresAt"]
    wait_for(lambda: f"until={late}" in group.rules()[0]["description"])
    assert len(group.rules()) == 1
    tenant.until_stopped("late")
    assert f"until={late}" in group.rules()[0]["description"], "a label never moves back"


def test_two_resources_of_one_group_and_port_share_a_rule(tenant: Tenant, other_tenant: Tenant, group: Group) -> None:
    for who, name in ((tenant, "db"), (tenant, "same-db"), (other_tenant, "db")):
        who.resource(group.id, name=name)
    sessions = ((tenant, "one", "db"), (tenant, "two", "same-db"), (other_tenant, "three", "db"))
    for who, name, resource in sessions:
        who.session(resource, name=name)
    for who, name, _ in sessions:
        who.until_phase(name, "Active")
    assert len(group.rules()) == 1
    for who, name, _ in sessions:
        assert len(group.rules()) == 1
        who.delete(SESSION, name)
        who.until_gone(SESSION, name)
    assert group.rules() == []


def test_a_static_range_keeps_a_rule_that_a_session_shares(tenant: Tenant, group: Group) -> None:
    tenant.resource(group.id, staticCIDRs=[{"cidr": "203.0.113.7/32", "description": "the office"}])
    (rule,) = wait_for(group.ours)
    assert rule["description"] == f"gatepass static for={tenant.namespace}/db the office"
    tenant.until_phase(tenant.session(), "Active")
    tenant.until_stopped("it-1")
    assert group.rules() == [rule]


def test_a_session_of_several_resources_and_addresses(tenant: Tenant, group: Group, other_group: Group) -> None:
    tenant.resource(group.id)
    tenant.resource(other_group.id, name="cache", ports=(6379,))
    cidrs = ("203.0.113.7/32", "2001:db8::7/128")
    session = tenant.until_phase(tenant.session("db", "cache", cidrs=cidrs, notAfter=in_seconds(600)), "Active")
    assert session["status"]["readyResources"] == "2/2"
    assert group.open_to() == {(cidr, 5432) for cidr in cidrs}
    assert other_group.open_to() == {(cidr, 6379) for cidr in cidrs}
    tenant.until_stopped("it-1")
    assert group.rules() == other_group.rules() == []

"""Rules of other people, and what other people do to ours."""

from tests.e2e.firewall import Group
from tests.e2e.product import Product
from tests.e2e.tenant import ADDRESS, RESOURCE, SESSION, Tenant, wait_for


def test_a_foreign_rule_of_the_same_identity_is_used_and_left(tenant: Tenant, group: Group) -> None:
    (theirs,) = group.add(ADDRESS)
    tenant.resource(group.id)
    tenant.until_condition(SESSION, tenant.session(), "Ready")
    (record,) = tenant.part("it-1")["rules"]
    assert record["foreign"] is True
    assert record["id"] == theirs["securityGroupRuleId"]
    assert group.rules() == [theirs]
    tenant.until_stopped("it-1")
    assert group.rules() == [theirs]


def test_ours_is_put_when_the_foreign_rule_goes(tenant: Tenant, group: Group) -> None:
    (theirs,) = group.add(ADDRESS)
    tenant.resource(group.id)
    tenant.until_phase(tenant.session(), "Active")
    group.remove(theirs)
    (ours,) = wait_for(group.ours)

    def recorded() -> bool:
        records = tenant.part("it-1")["rules"]
        return [(record["id"], record.get("foreign", False)) for record in records] == [
            (ours["securityGroupRuleId"], False)
        ]

    wait_for(recorded, "the new rule in status")
    tenant.until_stopped("it-1")
    assert group.rules() == []


def test_other_peoples_rules_are_never_touched(tenant: Tenant, group: Group) -> None:
    theirs = [
        *group.add("203.0.113.0/24"),
        *group.add(ADDRESS, port=22, description="gatepass but not really"),
        *group.add("198.51.100.9/32", description=f"gatepass until=2020-01-01T00:00:00Z for={tenant.namespace}/db"),
    ]
    tenant.resource(group.id)
    tenant.until_phase(tenant.session(), "Active")
    # A rule with one of the two marks looks like ours, and is told to people instead of being touched.
    conflict = tenant.until_condition(RESOURCE, "db", "OwnerConflict")
    assert theirs[2]["securityGroupRuleId"] in conflict["message"]
    tenant.delete(SESSION, "it-1")
    tenant.delete(RESOURCE, "db")
    tenant.until_gone(RESOURCE, "db")
    assert sorted(map(str, group.rules())) == sorted(map(str, theirs))


def test_a_rule_deleted_by_hand_comes_back(tenant: Tenant, group: Group) -> None:
    tenant.resource(group.id)
    tenant.until_phase(tenant.session(), "Active")
    (before,) = group.ours()
    group.remove(before)
    (after,) = wait_for(group.ours)
    assert after["securityGroupRuleId"] != before["securityGroupRuleId"]
    wait_for(lambda: tenant.part("it-1")["rules"][0]["id"] == after["securityGroupRuleId"])
    tenant.until_stopped("it-1")
    assert group.rules() == []


def test_a_mark_removed_by_hand_comes_back(tenant: Tenant, product: Product, group: Group) -> None:
    tenant.resource(group.id)
    tenant.until_phase(tenant.session(), "Active")
    (before,) = group.ours()
    # While the operator runs, its own acknowledged write beats what it reads for two minutes: reads may lag.
    product.kill()
    group.untag(before)
    product.start()
    wait_for(lambda: group.rules() == [before], "the tag is back on the same rule")
    tenant.until_stopped("it-1")
    assert group.rules() == []

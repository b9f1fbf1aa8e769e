"""Resources and namespaces go when nothing of theirs is left in a firewall, and groups leave a list one by one."""

import pytest

from gatepass.sandbox.kubeapi import KubeApiError
from tests.e2e.credentials import Elsewhere
from tests.e2e.firewall import Group
from tests.e2e.tenant import ADDRESS, RESOURCE, SESSION, Tenant, wait_for
from tests.observer.observer import Observer

OFFICE = "198.51.100.0/28"


def test_a_resource_in_use_waits_and_says_for_whom(tenant: Tenant, group: Group) -> None:
    tenant.resource(group.id, staticCIDRs=[{"cidr": OFFICE}])
    tenant.until_phase(tenant.session(), "Active")
    assert group.open_to() == {(OFFICE, 5432), (ADDRESS, 5432)}
    tenant.delete(RESOURCE, "db")
    told = tenant.until_condition(RESOURCE, "db", "Ready", "False", "waits for")
    assert told["reason"] == "Deleting"
    assert f"waits for 1 session to end: {tenant.namespace}/it-1" in told["message"]
    wait_for(lambda: group.open_to() == {(ADDRESS, 5432)}, "its static range goes at once")
    # Nobody else gets in, and who is in stays in.
    with pytest.raises(KubeApiError, match=f"ProtectedResource {tenant.namespace}/db is being deleted"):
        tenant.session(name="it-2", cidrs=("203.0.113.8/32",))
    assert tenant.get(SESSION, "it-1")["status"]["phase"] == "Active"
    tenant.until_stopped("it-1")
    tenant.until_gone(RESOURCE, "db")
    assert group.rules() == []


def test_deleting_a_resource_that_nobody_uses(tenant: Tenant, group: Group) -> None:
    tenant.resource(group.id, staticCIDRs=[{"cidr": OFFICE}])
    wait_for(group.ours)
    tenant.delete(RESOURCE, "db")
    tenant.until_gone(RESOURCE, "db")
    assert group.rules() == []


def test_deleting_one_of_two_resources_of_a_group(tenant: Tenant, group: Group) -> None:
    for name in ("db", "same-db"):
        tenant.resource(group.id, name=name, staticCIDRs=[{"cidr": OFFICE}])
    (rule,) = wait_for(group.ours)
    tenant.delete(RESOURCE, "db")
    tenant.until_gone(RESOURCE, "db")
    assert [each["securityGroupRuleId"] for each in group.rules()] == [rule["securityGroupRuleId"]]


def test_deleting_the_namespace(tenant: Tenant, other_tenant: Tenant, group: Group, elsewhere: Elsewhere) -> None:
    """With credentials in a Secret of that namespace, which would be deleted first, and users in another one."""
    their_group = elsewhere.group()
    everybody = {"allowedNamespaces": {"from": "All"}}
    tenant.resource(group.id, policy=everybody, staticCIDRs=[{"cidr": OFFICE}])
    tenant.resource(their_group.id, name="cache", credentials=elsewhere.secret_of(tenant))
    tenant.until_phase(tenant.session("db", "cache"), "Active")
    other_tenant.session({"name": "db", "namespace": tenant.namespace}, cidrs=("203.0.113.8/32",))
    other_tenant.until_phase("it-1", "Active")
    assert len(group.rules()) == 3
    assert len(their_group.rules()) == 1

    tenant.delete_namespace()
    ended = other_tenant.until_phase("it-1", "Cancelled")
    assert ended["status"]["endedReason"] == "PolicyWithdrawn"
    wait_for(lambda: not tenant.namespace_exists(), "the end of the namespace")
    assert group.rules() == their_group.rules() == []


def test_a_resource_whose_rules_cannot_be_removed_is_given_up_when_told_to(
    tenant: Tenant, group: Group, elsewhere: Elsewhere, observer: Observer
) -> None:
    lost = elsewhere.group()
    tenant.resource(lost.id, credentials=elsewhere.secret_of(tenant))
    tenant.until_phase(tenant.session(), "Active")
    (rule,) = lost.rules()
    with observer.blind_for(lost.id):
        elsewhere.refuse()
        tenant.edit("it-1", stop=True)
        session = tenant.until_phase("it-1", "Expiring")
        assert session["status"]["endedReason"] == "Manual"
        tenant.until_part("it-1", "db", "Removing")
        tenant.delete(RESOURCE, "db")
        tenant.until_condition(RESOURCE, "db", "Ready", "False", "waits for")
        tenant.patch(RESOURCE, "db", metadata={"annotations": {"gatepass.dev/abandon": "true"}})
        tenant.until_gone(RESOURCE, "db")
        wait_for(lambda: any(rule["securityGroupRuleId"] in told for told in tenant.events("db")), "the rules are told")
        elsewhere.accept()
        lost.remove(rule)


def test_a_group_taken_off_the_list_is_drained_without_a_gap(tenant: Tenant, group: Group, other_group: Group) -> None:
    tenant.resource(group.id, staticCIDRs=[{"cidr": OFFICE}])
    tenant.until_phase(tenant.session(), "Active")
    everything = group.open_to()
    assert len(everything) == 2
    tenant.patch(RESOURCE, "db", spec={"aws": {"securityGroups": [other_group.id]}})
    wait_for(lambda: other_group.open_to() == everything, "the new group has the rules")
    wait_for(lambda: group.rules() == [], "the old group is empty")
    tenant.until(
        RESOURCE,
        "db",
        lambda item: [target["id"] for target in item["status"]["targets"]] == [other_group.id],
        "without the drained group",
    )
    wait_for(
        lambda: {rule["target"] for rule in tenant.part("it-1")["rules"] if "removedAt" not in rule} == {other_group.id}
    )
    assert tenant.get(SESSION, "it-1")["status"]["phase"] == "Active"
    tenant.until_stopped("it-1")
    assert other_group.open_to() == {(OFFICE, 5432)}


def test_a_group_is_not_drained_before_there_is_room_elsewhere(
    tenant: Tenant, group: Group, other_group: Group
) -> None:
    theirs = other_group.add(*(f"198.51.100.{index}/32" for index in range(60)))
    tenant.resource(group.id)
    tenant.until_phase(tenant.session(), "Active")
    before = group.rules()
    tenant.patch(RESOURCE, "db", spec={"aws": {"securityGroups": [other_group.id]}})
    tenant.until(
        RESOURCE,
        "db",
        lambda item: [target["id"] for target in item["status"]["targets"] if target.get("draining")] == [group.id],
        "draining",
    )
    tenant.until_condition(RESOURCE, "db", "CapacityAvailable", "False")
    assert group.rules() == before
    other_group.remove(theirs[0])
    wait_for(lambda: other_group.open_to() == {(ADDRESS, 5432)}, "the rule in the new group")
    wait_for(lambda: group.rules() == [], "the old group is empty")

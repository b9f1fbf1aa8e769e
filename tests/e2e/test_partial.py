"""Several resources, some of them broken: what works is open, what does not says why, and heals by itself."""

from typing import Any

from tests.e2e.firewall import Group
from tests.e2e.tenant import RESOURCE, SESSION, Tenant, condition

NO_SUCH_GROUP = "sg-0123456789abcdef0"


def settled(session: dict[str, Any]) -> str:
    """What a pipeline waits for."""
    return str(condition(session, "Settled")["status"])


def test_without_permission_on_one_of_two(tenant: Tenant, group: Group, other_group: Group) -> None:
    tenant.resource(group.id)
    tenant.resource(other_group.id, name="cache", ports=(6379,))
    with other_group.fault(kind="deny", action="AuthorizeSecurityGroupIngress"):
        session = tenant.until_phase(tenant.session("db", "cache"), "Partial")
        assert settled(session) == "True"
        assert session["status"]["readyResources"] == "1/2"
        broken = tenant.until_part("it-1", "cache", "Failed", "not authorized")
        assert broken["reason"]
        assert group.open_to() == {("203.0.113.7/32", 5432)}
        assert (
            tenant.until_condition(RESOURCE, "cache", "Ready", "False", "not authorized")["reason"] == broken["reason"]
        )
    assert tenant.until_phase("it-1", "Active")["status"]["readyResources"] == "2/2"
    tenant.until_condition(RESOURCE, "cache", "Ready")


def test_a_group_that_does_not_exist_until_the_resource_names_another(
    tenant: Tenant, group: Group, other_group: Group
) -> None:
    tenant.resource(group.id)
    tenant.resource(NO_SUCH_GROUP, name="cache", ports=(6379,))
    assert NO_SUCH_GROUP in tenant.until_condition(RESOURCE, "cache", "TargetFound", "False")["message"]
    assert settled(tenant.until_phase(tenant.session("db", "cache"), "Partial")) == "True"
    assert NO_SUCH_GROUP in tenant.until_part("it-1", "cache", "Failed")["message"]
    tenant.patch(RESOURCE, "cache", spec={"aws": {"securityGroups": [other_group.id]}})
    tenant.until_phase("it-1", "Active")
    assert other_group.open_to() == {("203.0.113.7/32", 6379)}


def test_one_group_of_two_does_not_exist(tenant: Tenant, group: Group) -> None:
    tenant.resource(NO_SUCH_GROUP, group.id)
    tenant.until_condition(RESOURCE, "db", "TargetFound", "False")
    tenant.until_phase(tenant.session(), "Active")
    assert len(group.ours()) == 1


def test_a_resource_that_comes_later(tenant: Tenant, group: Group, other_group: Group) -> None:
    tenant.resource(group.id)
    tenant.until_phase(tenant.session("db", "later"), "Partial")
    assert tenant.until_part("it-1", "later", "Failed")["reason"] == "ResourceNotFound"
    tenant.resource(other_group.id, name="later")
    tenant.until_phase("it-1", "Active")


def test_all_broken_is_failed_and_settled(tenant: Tenant, group: Group) -> None:
    tenant.resource(group.id)
    tenant.resource(NO_SUCH_GROUP, name="cache")
    with group.fault(kind="deny", action="AuthorizeSecurityGroupIngress"):
        session = tenant.until_phase(tenant.session("db", "cache"), "Failed")
        assert settled(session) == "True"
        assert condition(session, "Ready")["status"] == "False"
        assert NO_SUCH_GROUP in condition(session, "Stalled")["message"]
        assert group.rules() == []
    tenant.until_phase("it-1", "Partial")
    stopped = tenant.until_stopped("it-1")
    assert settled(stopped) == "True"
    assert group.rules() == []


def test_what_is_open_stays_open_while_the_cloud_refuses(tenant: Tenant, group: Group) -> None:
    tenant.resource(group.id)
    tenant.until_phase(tenant.session(), "Active")
    before = group.rules()
    with group.fault(kind="deny"):
        tenant.until_condition(RESOURCE, "db", "Ready", "False")
        assert group.rules() == before
        assert tenant.get(SESSION, "it-1")["status"]["phase"] == "Active"
    tenant.until_condition(RESOURCE, "db", "Ready")
    assert group.rules() == before


def test_errors_and_lost_answers_on_the_way(tenant: Tenant, group: Group) -> None:
    tenant.resource(group.id)
    before = group.last()
    with group.fault(kind="reset", when="after", action="AuthorizeSecurityGroupIngress", times=1):
        session = tenant.until_phase(tenant.session(), "Active")
    (rule,) = group.rules()
    assert [each["id"] for each in session["status"]["resources"][0]["rules"]] == [rule["securityGroupRuleId"]]
    assert sum(call["action"] == "AuthorizeSecurityGroupIngress" for call in group.calls(before)) <= 2
    with group.fault(kind="error", when="after", action="RevokeSecurityGroupIngress", times=1):
        tenant.until_stopped("it-1")
    assert group.rules() == []

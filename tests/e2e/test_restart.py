"""The operator is killed at the worst moments, and what it finds when it is started again."""

from typing import Any

from tests.e2e.firewall import Group
from tests.e2e.product import Product
from tests.e2e.tenant import RESOURCE, SESSION, Tenant, in_seconds, wait_for, wait_for_the_time


def kill_before_the_status_is_written(product: Product, group: Group) -> dict[str, Any]:
    """SIGKILL after a grant has had its effect and before anything could be written about it; answers the rule.

    The grant is held up, the operator is frozen meanwhile, and so never sees the answer.
    """
    wait_for(lambda: group.struck() == 1, "the grant is on its way")
    product.freeze()
    (rule,) = wait_for(group.ours, "the rule")
    product.kill()
    return rule


def test_killed_between_the_grant_and_the_status(tenant: Tenant, product: Product, group: Group) -> None:
    tenant.resource(group.id)
    with group.fault(kind="latency", action="AuthorizeSecurityGroupIngress", seconds=3.0):
        created = tenant.get(SESSION, tenant.session(duration="30m"))
        rule = kill_before_the_status_is_written(product, group)
    assert "phase" not in tenant.get(SESSION, "it-1").get("status", {})
    product.start()
    session = tenant.until_phase("it-1", "Active")
    assert group.rules() == [rule], "it adopts its own rule"
    assert tenant.part("it-1")["rules"][0]["id"] == rule["securityGroupRuleId"]
    assert "foreign" not in tenant.part("it-1")["rules"][0] or not tenant.part("it-1")["rules"][0]["foreign"]
    assert session["status"]["startedAt"] == created["metadata"]["creationTimestamp"]
    assert f"until={session['status']['expiresAt']}" in rule["description"], "it keeps the deadline"
    tenant.until_stopped("it-1")
    assert group.rules() == []


def test_killed_between_the_grant_and_the_status_until_after_the_deadline(
    tenant: Tenant, product: Product, group: Group
) -> None:
    tenant.resource(group.id)
    end = in_seconds(8)
    with group.fault(kind="latency", action="AuthorizeSecurityGroupIngress", seconds=3.0):
        tenant.session(notAfter=end)
        kill_before_the_status_is_written(product, group)
    wait_for_the_time(end)
    product.start()
    session = tenant.until_phase("it-1", "Expired")
    assert session["status"]["endedAt"] == end
    assert group.rules() == []


def test_down_while_sessions_end_in_every_way(tenant: Tenant, product: Product, group: Group) -> None:
    tenant.resource(group.id, staticCIDRs=[{"cidr": "198.51.100.0/28"}])
    end = in_seconds(15)
    for number, (name, spec) in enumerate(
        {"overdue": {"notAfter": end}, "stopped": {}, "deleted": {}, "live": {"duration": "30m"}}.items()
    ):
        tenant.session(name=name, cidrs=(f"203.0.113.{number}/32",), **spec)
    for name in ("overdue", "stopped", "deleted"):
        tenant.until_phase(name, "Active")
    live = tenant.until_phase("live", "Active")
    before = {rule["securityGroupRuleId"]: rule for rule in group.rules()}
    product.kill()

    tenant.edit("stopped", stop=True)
    tenant.delete(SESSION, "deleted")
    wait_for_the_time(end)
    assert len(group.rules()) == 5, "nobody is there to close anything"

    product.start()
    assert tenant.until_phase("overdue", "Expired")["status"]["endedAt"] == end
    tenant.until_phase("stopped", "Cancelled")
    tenant.until_gone(SESSION, "deleted")
    assert group.open_to() == {("203.0.113.3/32", 5432), ("198.51.100.0/28", 5432)}
    assert all(before[rule["securityGroupRuleId"]] == rule for rule in group.rules()), "the rest is as it was"
    now = tenant.get(SESSION, "live")
    assert now["status"] == live["status"], "the same deadline, the same rule, and nothing written"


def test_down_while_a_session_and_its_resource_are_torn_out(tenant: Tenant, product: Product, group: Group) -> None:
    """An administrator takes the finalizer off: nobody is left who could tell what was granted."""
    tenant.resource(group.id)
    tenant.until_phase(tenant.session(), "Active")
    product.kill()
    tenant.patch(SESSION, "it-1", metadata={"finalizers": None})
    tenant.delete(SESSION, "it-1")
    assert not tenant.exists(SESSION, "it-1")
    product.start()
    wait_for(lambda: group.rules() == [], "the rule that nobody needs goes")
    tenant.until_condition(RESOURCE, "db", "Ready")


def test_down_while_a_resource_is_torn_out(tenant: Tenant, product: Product, group: Group, other_group: Group) -> None:
    """Nobody names the group any more: it is found by the tag, with the credentials of another resource."""
    tenant.resource(other_group.id, name="other")
    tenant.resource(group.id, staticCIDRs=[{"cidr": "198.51.100.0/28"}])
    (theirs,) = group.add("198.51.100.9/32")
    tenant.until_phase(tenant.session(), "Active")
    product.kill()
    tenant.patch(RESOURCE, "db", metadata={"finalizers": None})
    tenant.delete(RESOURCE, "db")
    assert not tenant.exists(RESOURCE, "db")
    product.start()
    wait_for(lambda: group.rules() == [theirs], "the rules that nobody needs go")
    assert tenant.until_phase("it-1", "Cancelled")["status"]["endedReason"] == "PolicyWithdrawn"


def test_down_while_a_session_is_made(tenant: Tenant, product: Product, group: Group) -> None:
    tenant.resource(group.id)
    product.kill()
    tenant.session()
    product.start()
    tenant.until_phase("it-1", "Active")
    assert len(group.rules()) == 1


def test_ended_in_order_and_started_again(tenant: Tenant, product: Product, group: Group) -> None:
    tenant.resource(group.id)
    tenant.until_phase(tenant.session(), "Active")
    before = group.rules()
    product.stop()
    assert group.rules() == before, "an operator that is updated leaves the doors open"
    product.start()
    tenant.until_phase(tenant.session(name="it-2", cidrs=("203.0.113.8/32",)), "Active")
    assert before[0] in group.rules()

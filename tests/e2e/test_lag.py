"""EC2's reads lag behind its writes; answers get lost and calls fail. The promise holds through all of it."""

import pytest

from tests.e2e.firewall import Group
from tests.e2e.product import RESYNC_SECONDS, Product
from tests.e2e.tenant import ADDRESS, SESSION, Tenant, condition, wait_for

LAG_SECONDS = RESYNC_SECONDS + 1.0


def read_again(group: Group, since: int) -> int:
    """How often the group was read after call number `since`."""
    return sum(call["action"] == "DescribeSecurityGroupRules" for call in group.calls(since))


def test_reads_that_lag(tenant: Tenant, group: Group) -> None:
    tenant.resource(group.id)
    with group.fault(kind="lag", seconds=LAG_SECONDS):
        tenant.until_phase(tenant.session(name="first"), "Active")
        (rule,) = group.rules()
        # A resync does not see the rule yet; it is neither put twice nor given up.
        before = group.last()
        wait_for(lambda: read_again(group, before) >= 2, "two resyncs")
        assert group.rules() == [rule]
        assert condition(tenant.get(SESSION, "first"), "Ready")["status"] == "True"
        tenant.until_stopped("first")
        # The next one does not take the rule for open that a read still shows.
        tenant.until_phase(tenant.session(name="second"), "Active")
        (again,) = group.rules()
        assert again["securityGroupRuleId"] != rule["securityGroupRuleId"]
        tenant.until_stopped("second")
        before = group.last()
        wait_for(lambda: read_again(group, before) >= 2, "two resyncs")
        assert group.rules() == []


def test_a_lost_answer_while_reads_lag(tenant: Tenant, group: Group) -> None:
    tenant.resource(group.id)
    authorize = "AuthorizeSecurityGroupIngress"
    lost, before = {"kind": "reset", "when": "after", "action": authorize, "times": 1}, group.last()
    with group.faults(lost, {"kind": "lag", "seconds": 6.0}):
        session = tenant.until_phase(tenant.session(), "Active")
    (rule,) = group.rules()
    assert [each["id"] for each in session["status"]["resources"][0]["rules"]] == [rule["securityGroupRuleId"]]
    assert sum(call["action"] == authorize for call in group.calls(before)) <= 5, "each second would be seven"


def test_killed_while_reads_lag(tenant: Tenant, product: Product, group: Group) -> None:
    tenant.resource(group.id)
    with group.fault(kind="lag", seconds=LAG_SECONDS):
        tenant.until_phase(tenant.session(), "Active")
        before = group.rules()
        product.kill()
        product.start()
        tenant.until_phase(tenant.session(name="it-2", cidrs=("203.0.113.8/32",)), "Active")
        assert before[0] in group.rules()
        tenant.until_stopped("it-1")
        assert group.open_to() == {("203.0.113.8/32", 5432)}


@pytest.mark.parametrize("kind", ["error", "reset"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_every_third_call_fails(tenant: Tenant, group: Group, kind: str, when: str) -> None:
    tenant.resource(group.id, staticCIDRs=[{"cidr": "198.51.100.0/28"}])
    wait_for(group.ours)
    with group.fault(kind=kind, when=when, every=3, action="ec2:*"):
        for name, cidr in (("first", ADDRESS), ("second", ADDRESS), ("third", "203.0.113.8/32")):
            tenant.until_phase(tenant.session(name=name, cidrs=(cidr,)), "Active")
        for name in ("first", "second", "third"):
            tenant.until_stopped(name)
    wait_for(lambda: group.open_to() == {("198.51.100.0/28", 5432)}, "only the static range is left")

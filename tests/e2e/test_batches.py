"""One in a batch that fails holds up none of the others."""

from datetime import UTC, datetime, timedelta

from gatepass.sandbox.environment import Sandbox
from tests.e2e.firewall import Group
from tests.e2e.product import Product
from tests.e2e.tenant import PATIENCE_SECONDS, Tenant, in_seconds, wait_for
from tests.observer.promise import moment

NUMBER, ODD, LAG_SECONDS = 50, 17, 20.0
GRANT, REVOKE = "AuthorizeSecurityGroupIngress", "RevokeSecurityGroupIngress"


def address(number: int) -> str:
    return f"203.0.113.{number}/32"


def create(tenant: Tenant, **spec: object) -> None:
    for number in range(NUMBER):
        tenant.session(name=f"it-{number}", cidrs=(address(number),), **spec)


def until_all(tenant: Tenant, phase: str) -> None:
    wait_for(lambda: tenant.phases() == {phase}, phase, seconds=LAG_SECONDS + PATIENCE_SECONDS)


def calls(sandbox: Sandbox, group: Group, action: str, since: int) -> list[datetime]:
    """When they were made."""
    made = (each for each in sandbox.ec2.log(since) if each["action"] == action and group.id in str(each))
    return [datetime.fromisoformat(each["time"]) for each in made]


def test_one_of_fifty_that_is_there_already(tenant: Tenant, product: Product, group: Group, sandbox: Sandbox) -> None:
    """Somebody has put it, and reads do not show it yet."""
    tenant.resource(group.id)
    product.stop()
    create(tenant)
    with group.fault(kind="lag", action="DescribeSecurityGroupRules", seconds=LAG_SECONDS):
        (theirs,) = group.add(address(ODD))
        last = sandbox.ec2.last()
        product.start()
        wait_for(lambda: len(group.rules()) == NUMBER, "all the others are open")
        first, second, *_ = calls(sandbox, group, GRANT, last)
        assert (second - first).total_seconds() < 1.0, "all the others at once"
        until_all(tenant, "Active")
    (record,) = tenant.part(f"it-{ODD}")["rules"]
    assert (record["id"], record["foreign"]) == (theirs["securityGroupRuleId"], True)


def test_one_of_fifty_that_is_gone(tenant: Tenant, product: Product, group: Group, sandbox: Sandbox) -> None:
    """Somebody has taken it away, and reads show it still."""
    tenant.resource(group.id)
    end = in_seconds(30)
    create(tenant, notAfter=end)
    until_all(tenant, "Active")
    with group.fault(kind="lag", action="DescribeSecurityGroupRules", seconds=LAG_SECONDS):
        wait_for(lambda: datetime.now(UTC) > moment(end) - timedelta(seconds=1), "it is about to end")
        last = sandbox.ec2.last()
        group.remove(*(rule for rule in group.rules() if rule["cidrIpv4"] == address(ODD)))
        wait_for(lambda: group.rules() == [], "all are closed")
        theirs, first, second, *_ = calls(sandbox, group, REVOKE, last)
        assert theirs < moment(end) <= first
        assert (second - first).total_seconds() < 1.0, "all the others at once"
        until_all(tenant, "Expired")

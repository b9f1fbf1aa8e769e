"""Dead man's switches from end to end: a rule closes although nobody of ours is left."""

from collections.abc import Iterator

import pytest

from gatepass.providers.aws_switches import GRACE
from gatepass.sandbox.cloud import ACCOUNT
from tests.conftest import AwsAccount
from tests.e2e.firewall import Group
from tests.e2e.product import Product
from tests.e2e.tenant import ADDRESS, SESSION, Tenant, in_seconds, wait_for, wait_for_the_time
from tests.observer.promise import moment
from tests.providers.schedules import Schedules


@pytest.fixture
def switching(product: Product) -> Iterator[None]:
    """The operator with a role for its account."""
    with product.with_settings(GATEPASS_SWITCH_ROLES=f"arn:aws:iam::{ACCOUNT}:role/gatepass-switch"):
        yield


@pytest.fixture
def schedules(account: AwsAccount) -> Schedules:
    return Schedules(account)


def of(rule: dict[str, str]) -> str:
    return f"gatepass-{rule['securityGroupRuleId']}"


@pytest.mark.usefixtures("switching")
def test_a_switch_follows_its_session(tenant: Tenant, group: Group, schedules: Schedules) -> None:
    tenant.resource(group.id)
    before = len(schedules.calls())
    session = tenant.until_phase(tenant.session(duration="30m"), "Active")
    (rule,) = group.ours()
    wait_for(lambda: of(rule) in schedules.names(), "the switch")
    assert schedules.due(of(rule)) == moment(session["status"]["expiresAt"]) + GRACE
    tenant.edit("it-1", duration="2h")
    longer = wait_for(
        lambda: (now := tenant.get(SESSION, "it-1")["status"]["expiresAt"]) != session["status"]["expiresAt"] and now
    )
    assert schedules.due(of(rule)) == moment(longer) + GRACE, "it was moved before"
    tenant.until_stopped("it-1")
    wait_for(lambda: of(rule) not in schedules.names(), "the switch goes")
    asked = [call["action"] for call in schedules.calls()[before:] if call.get("access_key") != schedules.key]
    assert [action for action in asked if action != "ListSchedules"] == [
        "CreateSchedule",
        "UpdateSchedule",
        "DeleteSchedule",
    ]


@pytest.mark.usefixtures("switching")
def test_a_rule_closes_although_the_operator_is_gone(
    tenant: Tenant, product: Product, group: Group, schedules: Schedules
) -> None:
    tenant.resource(group.id)
    end = in_seconds(20)
    tenant.until_phase(tenant.session(notAfter=end, cidrs=(ADDRESS,)), "Active")
    (rule,) = group.ours()
    wait_for(lambda: of(rule) in schedules.names(), "the switch")
    product.kill()
    wait_for_the_time(end)
    assert group.ours() == [rule], "nobody is there to close it"
    assert of(rule) in schedules.run_due(moment(end) + GRACE)
    assert group.rules() == []
    product.start()
    tenant.until_phase("it-1", "Expired")

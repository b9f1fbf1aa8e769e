"""Dead man's switches on moto's Scheduler, whose due schedules the test executes as EventBridge would."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from gatepass.core.errors import Failure, ProviderError
from gatepass.core.ports import Granted, NewRule
from gatepass.core.rules import Rule
from gatepass.providers.aws_iam_policy import iam_policy
from gatepass.providers.aws_security_group import AwsSecurityGroups
from gatepass.providers.aws_switches import GRACE, AwsSwitches
from gatepass.sandbox.cloud import Cloud
from gatepass.sandbox.ec2.faults import Fault
from tests.conftest import AwsAccount
from tests.providers.schedules import Schedules
from tests.providers.test_aws_iam_policy import resource
from tests.providers.worlds import STAMP, AwsWorld, Vault, aws_provider

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
RULE = Rule("203.0.113.7/32", "tcp", 5432, 5432)


@pytest.fixture(scope="module")
def provider(cloud: Cloud, vault: Vault) -> Iterator[AwsSecurityGroups]:
    """One that calls Scheduler too."""
    with aws_provider(cloud, vault, scheduler=True) as made:
        yield made


@pytest.fixture
def switches(aws_world: AwsWorld, aws: AwsAccount) -> AwsSwitches:
    return AwsSwitches(aws_world.provider.clients, [f"arn:aws:iam::{aws.account}:role/gatepass-switch"])


@pytest.fixture
def schedules(aws: AwsAccount) -> Schedules:
    return Schedules(aws)


async def test_a_rule_closes_although_nobody_is_left(
    aws_world: AwsWorld, switches: AwsSwitches, schedules: Schedules
) -> None:
    target = aws_world.firewall()
    others = aws_world.put(target, Rule("198.51.100.1/32", "tcp", 22, 22))
    outcome = (await aws_world.provider.grant(aws_world.access, target, [NewRule(RULE, "gatepass")], STAMP))[RULE]
    assert isinstance(outcome, Granted)
    await switches.arm(aws_world.access, target, outcome.id, NOON, again=False)
    assert schedules.run_due(NOON + GRACE - timedelta(seconds=1)) == []
    assert len(aws_world.held(target)) == 2
    assert schedules.run_due(NOON + GRACE) == [f"gatepass-{outcome.id}"]
    assert set(aws_world.held(target)) == {others}
    assert schedules.names() == set(), "it has deleted itself"


async def test_a_switch_is_moved_by_one_call(aws_world: AwsWorld, switches: AwsSwitches, schedules: Schedules) -> None:
    target = aws_world.firewall()
    await switches.arm(aws_world.access, target, "sgr-0a", NOON, again=False)
    before = len(schedules.calls())
    await switches.arm(aws_world.access, target, "sgr-0a", NOON + HOUR, again=True)
    assert [call["action"] for call in schedules.calls()[before:]] == ["UpdateSchedule"]
    assert schedules.due("gatepass-sgr-0a") == NOON + HOUR + GRACE
    await switches.disarm(aws_world.access, target, "sgr-0a")
    await switches.disarm(aws_world.access, target, "sgr-0a")
    assert schedules.names() == set()


async def test_expectations_may_be_wrong(aws_world: AwsWorld, switches: AwsSwitches, schedules: Schedules) -> None:
    target = aws_world.firewall()
    assert await switches.arm(aws_world.access, target, "sgr-0a", NOON, again=True)
    assert schedules.due("gatepass-sgr-0a") == NOON + GRACE
    assert not await switches.arm(aws_world.access, target, "sgr-0a", NOON + HOUR, again=False)
    assert schedules.due("gatepass-sgr-0a") == NOON + GRACE, "nobody knows for when it was"


async def test_what_is_asked_of_scheduler(aws_world: AwsWorld, switches: AwsSwitches, schedules: Schedules) -> None:
    target = aws_world.firewall()
    for again in (False, True):
        await switches.arm(aws_world.access, target, "sgr-0a", NOON, again=again)
        found = schedules.get("gatepass-sgr-0a")
        assert found["ActionAfterCompletion"] == "DELETE"
        assert found["FlexibleTimeWindow"] == {"Mode": "OFF"}
        assert (found["ScheduleExpression"], found["ScheduleExpressionTimezone"]) == ("at(2026-11-22T12:05:00)", "UTC")
        assert found["Target"]["Arn"] == "arn:aws:scheduler:::aws-sdk:ec2:revokeSecurityGroupIngress"
        assert found["Target"]["RetryPolicy"]["MaximumEventAgeInSeconds"] == 300
        assert found["Target"]["RoleArn"].endswith(f":{target.account}:role/gatepass-switch")
        asked = json.loads(found["Target"]["Input"])
        assert asked == {"GroupId": target.id, "SecurityGroupRuleIds": ["sgr-0a"]}


async def test_every_page_is_listed(aws_world: AwsWorld, switches: AwsSwitches) -> None:
    target = aws_world.firewall()
    ids = {f"sgr-{number:017x}" for number in range(105)}
    for id_ in ids:
        await switches.arm(aws_world.access, target, id_, NOON, again=False)
    assert await switches.armed(aws_world.access) == ids


async def test_the_printed_policy_allows_these_calls_and_no_more(
    aws_world: AwsWorld, switches: AwsSwitches, schedules: Schedules, aws: AwsAccount
) -> None:
    target = aws_world.firewall()
    await switches.arm(aws_world.access, target, "sgr-0a", NOON, again=False)
    await switches.arm(aws_world.access, target, "sgr-0a", NOON, again=True)
    await switches.armed(aws_world.access)
    await switches.disarm(aws_world.access, target, "sgr-0a")
    role = f"arn:aws:iam::{aws.account}:role/gatepass-switch"
    policy = iam_policy([resource(target.id)], switch_roles=[role])
    allowed = {action for statement in policy["Statement"] for action in statement["Action"]}
    called = {f"scheduler:{call['action']}" for call in schedules.calls()}
    assert called == {action for action in allowed if action.startswith("scheduler:")}
    assert "iam:PassRole" in allowed


async def test_refusals_are_told(aws_world: AwsWorld, switches: AwsSwitches, aws: AwsAccount) -> None:
    aws.control.set_faults(Fault(kind="deny", action="scheduler:*", account=aws.account))
    with pytest.raises(ProviderError) as caught:
        await switches.arm(aws_world.access, aws_world.firewall(), "sgr-0a", NOON, again=False)
    assert caught.value.failure is Failure.FORBIDDEN
    assert "scheduler:CreateSchedule" in caught.value.message


async def test_only_accounts_with_a_role_are_covered(aws_world: AwsWorld, switches: AwsSwitches) -> None:
    target = aws_world.firewall()
    assert switches.covers(target)
    assert not AwsSwitches(aws_world.provider.clients, []).covers(target)

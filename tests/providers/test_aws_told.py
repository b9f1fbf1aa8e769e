"""Every call of AWS is told, with what came of it and AWS's name for it."""

from uuid import UUID

import pytest
import structlog

from gatepass.core.ports import NewRule
from gatepass.core.rules import Rule
from gatepass.providers.aws_clients import OUTCOMES
from gatepass.providers.aws_security_group import AwsSecurityGroups
from gatepass.sandbox.ec2.faults import Fault
from tests.providers.worlds import STAMP, AwsWorld, Vault

GRANT = "AuthorizeSecurityGroupIngress"
NEW = [NewRule(Rule("203.0.113.7/32", "tcp", 5432, 5432), "gatepass static for=ci/db")]


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        ({"kind": "latency"}, "ok"),
        ({"kind": "error", "code": "RequestLimitExceeded", "status": 503}, "throttled"),
        ({"kind": "error", "code": "InternalError", "status": 500}, "lost"),
        ({"kind": "reset", "when": "after"}, "lost"),
        ({"kind": "deny"}, "forbidden"),
        ({"kind": "error", "code": "InvalidGroup.NotFound", "status": 400}, "not-found"),
        ({"kind": "error", "code": "InvalidParameterValue", "status": 400}, "terminal"),
    ],
    ids=str,
)
async def test_the_outcome_of_a_call(aws_world: AwsWorld, vault: Vault, fault: dict[str, str], outcome: str) -> None:
    target = aws_world.firewall()
    told: list[tuple[str, str, float]] = []
    provider = AwsSecurityGroups(vault, told=lambda *call: told.append(call))
    aws_world.aws.control.set_faults(Fault(action=GRANT, account=aws_world.aws.account, **fault))
    with structlog.testing.capture_logs() as lines:
        try:
            await provider.grant(aws_world.access, target, NEW, STAMP)
        finally:
            provider.close()
    ((action, found, seconds),) = told
    assert (action, found) == (f"ec2:{GRANT}", outcome)
    assert found in OUTCOMES
    assert 0 < seconds < 10
    (line,) = [line for line in lines if line["event"] == "AWS call"]
    assert (line["action"], line["outcome"], line["log_level"]) == (f"ec2:{GRANT}", outcome, "info")
    if fault["kind"] != "reset":
        assert UUID(line["request_id"])
    assert len(line["rules"]) == (outcome == "ok")


async def test_reads_are_told_and_logged_for_who_debugs(aws_world: AwsWorld, vault: Vault) -> None:
    told: list[str] = []
    provider = AwsSecurityGroups(vault, told=lambda action, _outcome, _seconds: told.append(action))
    with structlog.testing.capture_logs() as lines:
        try:
            await provider.identify(aws_world.access)
            await provider.observe(aws_world.access, aws_world.firewall())
        finally:
            provider.close()
    assert told == ["sts:GetCallerIdentity", "ec2:DescribeSecurityGroupRules"]
    assert {line["log_level"] for line in lines} == {"debug"}


async def test_keys_that_aws_quotes_are_in_no_line(aws_world: AwsWorld, vault: Vault) -> None:
    target = aws_world.firewall()
    provider = AwsSecurityGroups(vault)
    quoted = f"The canonical string was {aws_world.aws.secret_key}"
    aws_world.aws.control.set_faults(
        Fault(kind="error", account=aws_world.aws.account, code="SignatureDoesNotMatch", status=403, message=quoted)
    )
    with structlog.testing.capture_logs() as lines:
        try:
            await provider.grant(aws_world.access, target, NEW, STAMP)
        finally:
            provider.close()
    assert [line["outcome"] for line in lines] == ["forbidden"]
    assert aws_world.aws.secret_key not in str(lines)

"""Faults on request: what the caller sees, and what is true."""

import pytest
from botocore.config import Config
from botocore.exceptions import ConnectionClosedError, HTTPClientError, ReadTimeoutError
from pydantic import ValidationError

from gatepass.sandbox.ec2.faults import Fault
from tests.conftest import AwsAccount
from tests.sandbox.aws import cidrs, new_group, refused, tcp

AUTHORIZE = "AuthorizeSecurityGroupIngress"


def truth(aws: AwsAccount, group: str) -> set[str]:
    rules = aws.control.rules(group, account=aws.account)[group]
    assert rules is not None
    return {rule["cidrIpv4"] for rule in rules}


@pytest.mark.parametrize(("when", "effect"), [("before", set()), ("after", {"203.0.113.7/32"})])
def test_an_error_strikes_before_or_after_the_effect(aws: AwsAccount, when: str, effect: set[str]) -> None:
    ec2 = aws.client("ec2")
    group = new_group(ec2)
    aws.control.set_faults(Fault(kind="error", action=AUTHORIZE, when=when, status=503, code="Unavailable"))
    with refused("Unavailable"):
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=tcp("203.0.113.7/32"))
    assert truth(aws, group) == effect == cidrs(ec2, group)


@pytest.mark.parametrize(("when", "effect"), [("before", set()), ("after", {"203.0.113.7/32"})])
def test_a_reset_loses_the_answer_and_not_always_the_effect(aws: AwsAccount, when: str, effect: set[str]) -> None:
    ec2 = aws.client("ec2")
    group = new_group(ec2)
    aws.control.set_faults(Fault(kind="reset", action=AUTHORIZE, when=when))
    with pytest.raises((ConnectionClosedError, HTTPClientError)):
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=tcp("203.0.113.7/32"))
    assert truth(aws, group) == effect


def test_a_denial_speaks_as_each_service_does(aws: AwsAccount) -> None:
    aws.control.set_faults(Fault(kind="deny"))
    with refused("UnauthorizedOperation"):
        aws.client("ec2").describe_vpcs()
    with refused("AccessDenied"):
        aws.client("sts").get_caller_identity()
    with refused("AccessDeniedException"):
        aws.client("service-quotas").get_service_quota(ServiceCode="vpc", QuotaCode="L-0EA8095F")


def test_tags_on_create_need_the_permission_to_create_tags(aws: AwsAccount) -> None:
    ec2 = aws.client("ec2")
    group = new_group(ec2)
    aws.control.set_faults(Fault(kind="deny", action="CreateTags"))
    tags = [{"ResourceType": "security-group-rule", "Tags": [{"Key": "a", "Value": "b"}]}]
    with refused("UnauthorizedOperation"):
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=tcp("203.0.113.7/32"), TagSpecifications=tags)
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=tcp("203.0.113.8/32"))
    assert truth(aws, group) == {"203.0.113.8/32"}


def test_a_fault_strikes_only_what_it_matches(aws: AwsAccount) -> None:
    ec2 = aws.client("ec2")
    group, other = new_group(ec2), new_group(ec2)
    aws.control.set_faults(Fault(kind="deny", action="ec2:Authorize*", account=aws.account, group=group))
    ec2.authorize_security_group_ingress(GroupId=other, IpPermissions=tcp("203.0.113.7/32"))
    with refused("UnauthorizedOperation"):
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=tcp("203.0.113.7/32"))
    assert cidrs(ec2, group) == set()
    aws.control.set_faults(Fault(kind="deny", account="999999999999"))
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=tcp("203.0.113.7/32"))


def test_a_fault_strikes_each_so_many_calls_and_so_often(aws: AwsAccount) -> None:
    ec2 = aws.client("ec2")
    aws.control.set_faults(Fault(kind="error", action="DescribeVpcs", every=2, times=2))
    told = []
    for _ in range(8):
        try:
            ec2.describe_vpcs()
            told.append("ok")
        except ec2.exceptions.ClientError as error:
            told.append(error.response["Error"]["Code"])
    assert told == ["ok", "InternalError", "ok", "InternalError", "ok", "ok", "ok", "ok"]
    (report,) = aws.control.faults()
    assert (report["matched"], report["struck"]) == (8, 2)


def test_latency_outlasts_a_short_patience(aws: AwsAccount) -> None:
    aws.control.set_faults(Fault(kind="latency", action="DescribeVpcs", seconds=30))
    hasty = aws.client("ec2", config=Config(read_timeout=0.2, retries={"total_max_attempts": 1}))
    with pytest.raises(ReadTimeoutError):
        hasty.describe_vpcs()
    aws.client("ec2").describe_subnets()  # only the call that was struck is held up


def test_reads_lag_behind_writes_and_the_truth_does_not(aws: AwsAccount) -> None:
    ec2 = aws.client("ec2")
    group = new_group(ec2)
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=tcp("203.0.113.1/32"))
    aws.control.set_faults(Fault(kind="lag", seconds=300))
    made = ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=tcp("203.0.113.2/32"))
    assert truth(aws, group) == {"203.0.113.1/32", "203.0.113.2/32"}
    assert cidrs(ec2, group) == {"203.0.113.1/32"}
    ids = [rule["SecurityGroupRuleId"] for rule in made["SecurityGroupRules"]]
    ec2.revoke_security_group_ingress(GroupId=group, SecurityGroupRuleIds=ids)  # writes do not lag
    with refused("InvalidPermission.Duplicate"):
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=tcp("203.0.113.1/32"))
    aws.control.set_faults()
    assert cidrs(ec2, group) == {"203.0.113.1/32"}


def test_a_misspelt_fault_is_refused() -> None:
    with pytest.raises(ValidationError):
        Fault.model_validate({"kind": "latency", "second": 1})
    with pytest.raises(ValidationError, match="needs seconds above 0"):
        Fault(kind="lag", seconds=5, up_to=2)

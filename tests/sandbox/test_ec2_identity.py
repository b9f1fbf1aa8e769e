"""Accounts, roles and refused credentials, and what the call log tells of them."""

import json
from typing import Any

import pytest

from gatepass.sandbox.cloud import Cloud
from tests.conftest import AwsAccount
from tests.sandbox.aws import cidrs, new_group, refused, tcp


def assumed(aws: AwsAccount, arn: str, service: str = "ec2", **conditions: str) -> Any:
    made = aws.client("sts").assume_role(RoleArn=arn, RoleSessionName="gatepass", **conditions)["Credentials"]
    return aws.client(
        service,
        aws_access_key_id=made["AccessKeyId"],
        aws_secret_access_key=made["SecretAccessKey"],
        aws_session_token=made["SessionToken"],
    )


def test_keys_belong_to_accounts_that_see_nothing_of_each_other(aws: AwsAccount, cloud: Cloud) -> None:
    other = AwsAccount(cloud.endpoint_url, cloud.control)
    try:
        group = new_group(aws.client("ec2"))
        assert aws.client("sts").get_caller_identity()["Account"] == aws.account
        assert other.client("sts").get_caller_identity()["Account"] == other.account
        with refused("InvalidGroup.NotFound", group):
            other.client("ec2").authorize_security_group_ingress(GroupId=group, IpPermissions=tcp("203.0.113.7/32"))
    finally:
        other.close()


def test_an_unregistered_key_is_of_the_default_account(aws: AwsAccount) -> None:
    sts = aws.client("sts", aws_access_key_id="AKIANOBODYKNOWSTHIS1")
    assert sts.get_caller_identity()["Account"] == "123456789012"


def test_a_role_acts_in_its_own_account(aws: AwsAccount) -> None:
    arn = "arn:aws:iam::222233334444:role/gatepass"
    identity = assumed(aws, arn, "sts").get_caller_identity()
    assert identity["Account"] == "222233334444"
    assert identity["Arn"] == "arn:aws:sts::222233334444:assumed-role/gatepass/gatepass"
    group = new_group(assumed(aws, arn))
    entry = aws.control.log()[-1]
    assert (entry["account"], entry["role"], entry["action"]) == ("222233334444", arn, "CreateSecurityGroup")
    assert aws.control.rules(group, account="222233334444") == {group: []}


def test_a_role_may_ask_for_an_external_id_or_trust_nobody(aws: AwsAccount) -> None:
    arn = f"arn:aws:iam::{aws.account}:role/guarded"
    aws.control.set_role(arn, external_id="install-1/ci")
    assumed(aws, arn, "sts", ExternalId="install-1/ci").get_caller_identity()
    for conditions in ({}, {"ExternalId": "install-1/other"}):
        with refused("AccessDenied", "sts:AssumeRole on resource"):
            assumed(aws, arn, **conditions)
    aws.control.set_role(arn, refused=True)
    with refused("AccessDenied"):
        assumed(aws, arn, ExternalId="install-1/ci")


@pytest.mark.parametrize(
    ("service", "operation", "arguments", "code"),
    [
        ("ec2", "describe_vpcs", {}, "AuthFailure"),
        ("sts", "get_caller_identity", {}, "InvalidClientTokenId"),
        (
            "service-quotas",
            "get_service_quota",
            {"ServiceCode": "vpc", "QuotaCode": "L-0EA8095F"},
            "UnrecognizedClientException",
        ),
    ],
)
def test_a_refused_key_is_refused_by_every_service_in_its_words(
    aws: AwsAccount, service: str, operation: str, arguments: dict[str, str], code: str
) -> None:
    aws.control.set_credential(aws.access_key, refused=True)
    with refused(code):
        getattr(aws.client(service), operation)(**arguments)


def test_the_log_tells_group_rules_ids_and_outcome_and_is_written_to_a_file(aws: AwsAccount, cloud: Cloud) -> None:
    ec2 = aws.client("ec2")
    group = new_group(ec2)
    before = aws.control.last()
    (rule,) = ec2.authorize_security_group_ingress(
        GroupId=group, IpPermissions=tcp("203.0.113.7/32", description="for a test")
    )["SecurityGroupRules"]
    with refused("InvalidPermission.Duplicate"):
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=tcp("203.0.113.7/32"))
    cidrs(ec2, group)
    ec2.revoke_security_group_ingress(GroupId=group, SecurityGroupRuleIds=[rule["SecurityGroupRuleId"]])
    made, duplicate, read, revoked = aws.control.log(before)
    assert made["rules"] == [
        {"protocol": "tcp", "from": 5432, "to": 5432, "source": "203.0.113.7/32", "description": "for a test"}
    ]
    assert (made["made"], made["effect"], made["status"]) == ([rule["SecurityGroupRuleId"]], "ok", 200)
    assert (duplicate["code"], duplicate["status"]) == ("InvalidPermission.Duplicate", 400)
    assert "effect" not in duplicate
    assert (read["action"], read["group"]) == ("DescribeSecurityGroupRules", group)
    assert revoked["ids"] == revoked["removed"] == [rule["SecurityGroupRuleId"]]
    assert {entry["account"] for entry in (made, duplicate, read, revoked)} == {aws.account}
    written = [json.loads(line) for line in cloud.call_log.read_text().splitlines()]
    assert written[before:] == [made, duplicate, read, revoked]


def test_the_control_endpoint_is_neither_throttled_nor_logged(aws: AwsAccount) -> None:
    group = new_group(aws.client("ec2"))
    before = aws.control.last()
    for _ in range(150):
        assert aws.control.rules(group, "sg-0123456789abcdef0", account=aws.account) == {
            group: [],
            "sg-0123456789abcdef0": None,
        }
    assert aws.control.last() == before

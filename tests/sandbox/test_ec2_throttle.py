"""AWS's token buckets."""

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from gatepass.sandbox.ec2.query import AwsError
from gatepass.sandbox.ec2.throttle import Throttle, rate_of
from tests.conftest import AwsAccount
from tests.sandbox.aws import new_group, tcp


@pytest.mark.parametrize(
    ("action", "capacity", "per_second"),
    [
        ("AuthorizeSecurityGroupIngress", 50, 5),
        ("RevokeSecurityGroupIngress", 50, 5),
        ("CreateSecurityGroup", 50, 5),
        ("CreateTags", 100, 10),
        ("DescribeSecurityGroupRules", 100, 20),
    ],
)
def test_a_bucket_holds_and_refills_as_aws_says(action: str, capacity: int, per_second: int) -> None:
    now = 1000.0
    throttle = Throttle(clock=lambda: now)
    refusals = []

    def takes() -> int:
        taken = 0
        while True:
            try:
                throttle.take("1", "eu-central-1", action)
            except AwsError as error:
                refusals.append((error.code, error.status))
                return taken
            taken += 1

    assert takes() == capacity
    now += 1.0
    assert takes() == per_second
    now += 3600.0
    assert takes() == capacity
    assert set(refusals) == {("RequestLimitExceeded", 503)}
    assert (rate_of(action).capacity, rate_of(action).per_second) == (capacity, per_second)


def test_buckets_are_apart_by_account_region_and_action() -> None:
    throttle = Throttle(clock=lambda: 0.0)
    for _ in range(50):
        throttle.take("1", "eu-central-1", "AuthorizeSecurityGroupIngress")
    throttle.take("2", "eu-central-1", "AuthorizeSecurityGroupIngress")
    throttle.take("1", "us-east-1", "AuthorizeSecurityGroupIngress")
    throttle.take("1", "eu-central-1", "RevokeSecurityGroupIngress")
    with pytest.raises(AwsError, match="Account 1 has been throttled on ec2:Authorize"):
        throttle.take("1", "eu-central-1", "AuthorizeSecurityGroupIngress")


def test_a_client_sees_the_throttle_and_its_retries_get_through(aws: AwsAccount) -> None:
    ec2 = aws.client("ec2")
    group = new_group(ec2)
    missing = "sg-0123456789abcdef0"  # refused calls cost a token too
    codes = []
    while "RequestLimitExceeded" not in codes:
        with pytest.raises(ClientError) as caught:
            ec2.authorize_security_group_ingress(GroupId=missing, IpPermissions=tcp("203.0.113.7/32"))
        codes.append(caught.value.response["Error"]["Code"])
    assert set(codes[:50]) == {"InvalidGroup.NotFound"}
    patient = aws.client("ec2", config=Config(retries={"mode": "standard", "total_max_attempts": 10}))
    answer = patient.authorize_security_group_ingress(GroupId=group, IpPermissions=tcp("203.0.113.7/32"))
    assert len(answer["SecurityGroupRules"]) == 1


def test_without_throttles_every_call_goes_through(aws: AwsAccount) -> None:
    ec2 = aws.client("ec2", config=Config(retries={"total_max_attempts": 1}))
    codes = set()

    def refused() -> str:
        with pytest.raises(ClientError) as caught:
            ec2.authorize_security_group_ingress(GroupId="sg-0123456789abcdef0", IpPermissions=tcp("203.0.113.7/32"))
        return str(caught.value.response["Error"]["Code"])

    while "RequestLimitExceeded" not in codes:
        codes.add(refused())
    aws.control.set_throttles(on=False)
    try:
        assert {refused() for _ in range(60)} == {"InvalidGroup.NotFound"}
    finally:
        aws.control.set_throttles(on=True)

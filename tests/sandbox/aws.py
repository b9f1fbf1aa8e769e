"""What the tests of the emulator say again and again."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import pytest
from botocore.exceptions import ClientError

_numbers = count()


def new_group(ec2: Any, **where: str) -> str:
    """A new security group, in the default VPC if no VpcId is given."""
    return str(ec2.create_security_group(GroupName=f"g{next(_numbers)}", Description="test", **where)["GroupId"])


def tcp(*cidrs: str, port: int = 5432, description: str | None = None) -> list[dict[str, Any]]:
    """IpPermissions for one TCP port."""
    told = {} if description is None else {"Description": description}
    return [
        {
            "IpProtocol": "tcp",
            "FromPort": port,
            "ToPort": port,
            "IpRanges": [{"CidrIp": cidr, **told} for cidr in cidrs if ":" not in cidr],
            "Ipv6Ranges": [{"CidrIpv6": cidr, **told} for cidr in cidrs if ":" in cidr],
        }
    ]


def addresses(number: int) -> list[str]:
    """So many different IPv4 CIDRs."""
    return [f"198.51.{index // 250}.{index % 250}/32" for index in range(number)]


def ingress(ec2: Any, group: str) -> list[dict[str, Any]]:
    """The ingress rules as EC2 tells them."""
    found = ec2.describe_security_group_rules(Filters=[{"Name": "group-id", "Values": [group]}])["SecurityGroupRules"]
    return [rule for rule in found if not rule["IsEgress"]]


def cidrs(ec2: Any, group: str) -> set[str]:
    """The sources of the ingress rules."""
    return {rule.get("CidrIpv4") or rule["CidrIpv6"] for rule in ingress(ec2, group)}


@contextmanager
def refused(code: str, message: str = "") -> Iterator[None]:
    """The body is refused by AWS with this code and a message that has this in it."""
    with pytest.raises(ClientError) as caught:
        yield
    assert caught.value.response["Error"]["Code"] == code, caught.value
    assert message in caught.value.response["Error"]["Message"]

"""Answers of EC2 that lack something, as no emulator gives them: refused in words, and never taken for a yes."""

import copy
from collections.abc import Mapping
from typing import Any

import pytest

from gatepass.core.egress import NodeFacts
from gatepass.core.errors import SourceError
from gatepass.egress.aws_topology import AwsTopology
from tests.egress.conftest import Clock
from tests.egress.topology import NODE_IP, NODE_PUBLIC, POD_IP, alone, pod

ID = "i-0123456789abcdef0"
PRIMARY = {
    "NetworkInterfaceId": "eni-1",
    "SubnetId": "subnet-1",
    "Attachment": {"DeviceIndex": 0},
    "PrivateIpAddresses": [
        {"PrivateIpAddress": NODE_IP, "Primary": True, "Association": {"PublicIp": NODE_PUBLIC}},
        {"PrivateIpAddress": POD_IP},
    ],
}
INSTANCE = {"InstanceId": ID, "State": {"Name": "running"}, "VpcId": "vpc-1", "NetworkInterfaces": [PRIMARY]}
INTERFACE = "DescribeInstances.Reservations.0.Instances.0.NetworkInterfaces.0"
WHOLE: dict[str, Any] = {
    "DescribeInstances": {"Reservations": [{"Instances": [INSTANCE]}]},
    "DescribeVpcs": {
        "Vpcs": [
            {
                "VpcId": "vpc-1",
                "CidrBlock": "10.0.0.0/16",
                "CidrBlockAssociationSet": [{"CidrBlock": "10.0.0.0/16", "CidrBlockState": {"State": "associated"}}],
            }
        ]
    },
    "DescribeRouteTables": {
        "RouteTables": [
            {
                "RouteTableId": "rtb-1",
                "VpcId": "vpc-1",
                "Associations": [{"SubnetId": "subnet-1"}],
                "Routes": [{"DestinationCidrBlock": "0.0.0.0/0", "GatewayId": "igw-1", "State": "active"}],
            }
        ]
    },
}


class Told:
    """What EC2 answers; a test changes it."""

    def __init__(self) -> None:
        self.answers = copy.deepcopy(WHOLE)
        self.region = ""

    async def __call__(self, region: str, action: str, _parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        self.region = region
        answer: Mapping[str, Any] = self.answers[action]
        return answer

    def at(self, path: str) -> Any:
        """The part at the end of a path, such as DescribeVpcs.Vpcs.0."""
        found: Any = self.answers
        for step in path.split("."):
            found = found[int(step) if step.isdigit() else step]
        return found


@pytest.fixture
def told() -> Told:
    return Told()


async def leaves_by(told: Told, *ips: str, zone: str = "eu-central-1a") -> list[str]:
    node = NodeFacts("n-1", f"aws:///{zone}/{ID}", (NODE_IP,))
    return [each.ip for each in await AwsTopology(told, Clock()).departures(pod(*ips), node, alone)]


async def refusal(told: Told, *ips: str) -> SourceError:
    with pytest.raises(SourceError) as caught:
        await leaves_by(told, *ips)
    return caught.value


async def test_the_whole_answer(told: Told) -> None:
    assert await leaves_by(told) == [NODE_PUBLIC]


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("DescribeInstances", "Reservations"),
        ("DescribeInstances.Reservations.0", "Instances"),
        ("DescribeInstances.Reservations.0.Instances.0", "State"),
        (INTERFACE, "NetworkInterfaceId"),
        (INTERFACE, "SubnetId"),
        ("DescribeVpcs.Vpcs.0", "VpcId"),
        ("DescribeRouteTables.RouteTables.0", "RouteTableId"),
    ],
)
async def test_what_cannot_be_understood_is_told_and_asked_again(told: Told, path: str, part: str) -> None:
    del told.at(path)[part]
    error = await refusal(told)
    assert (error.reason, error.retry) == ("AnswerNotUnderstood", True)
    assert f"ec2:{path.partition('.')[0]}: " in error.message
    assert part in error.message


async def test_a_range_that_is_none(told: Told) -> None:
    told.at("DescribeRouteTables.RouteTables.0.Routes.0")["DestinationCidrBlock"] = "everywhere"
    assert "everywhere" in (await refusal(told)).message


@pytest.mark.parametrize(
    ("path", "part", "reason"),
    [
        ("DescribeInstances.Reservations.0.Instances.0", "NetworkInterfaces", "HostAddressMismatch"),
        (INTERFACE, "PrivateIpAddresses", "HostAddressMismatch"),
        (INTERFACE, "Attachment", "InstanceGone"),
        ("DescribeRouteTables.RouteTables.0", "Routes", "NoWayOut"),
        ("DescribeRouteTables.RouteTables.0.Routes.0", "GatewayId", "WayNotResolvable"),
    ],
)
async def test_what_is_missing_opens_nothing(told: Told, path: str, part: str, reason: str) -> None:
    del told.at(path)[part]
    assert (await refusal(told)).reason == reason


async def test_an_address_is_of_no_overlay_because_the_vpc_is_not_seen(told: Told) -> None:
    """Without the ranges of the VPC, a pod with an interface of its own would be taken for one of an overlay."""
    assert (await refusal(told, "10.0.9.9")).reason == "AddressNotOnInstance"
    told.at("DescribeVpcs")["Vpcs"] = []
    error = await refusal(told, "10.0.9.9")
    assert (error.reason, error.retry) == ("VpcNotFound", True)
    assert "vpc-1" in error.message


async def test_a_range_that_was_taken_off_the_vpc_is_not_its_any_more(told: Told) -> None:
    ranges = told.at("DescribeVpcs.Vpcs.0.CidrBlockAssociationSet")
    ranges.append({"CidrBlock": "100.64.0.0/16", "CidrBlockState": {"State": "associated"}})
    assert (await refusal(told, "100.64.0.9")).reason == "AddressNotOnInstance"
    ranges[1]["CidrBlockState"]["State"] = "disassociated"
    assert await leaves_by(told, "100.64.0.9") == [NODE_PUBLIC]


@pytest.mark.parametrize(
    ("zone", "region"),
    [
        ("us-west-2-lax-1a", "us-west-2"),
        ("us-gov-west-1b", "us-gov-west-1"),
        ("eusc-de-east-1a", "eusc-de-east-1"),
        ("eu-isoe-west-1a", "eu-isoe-west-1"),
    ],
)
async def test_the_region_is_that_of_the_zone(told: Told, zone: str, region: str) -> None:
    assert await leaves_by(told, zone=zone) == [NODE_PUBLIC]
    assert told.region == region

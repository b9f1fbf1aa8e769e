"""Elastic IPs of secondary addresses, and delegated prefixes."""

from typing import Any

import pytest

from tests.conftest import AwsAccount
from tests.egress.vpc import Machine, Vpc
from tests.sandbox.aws import refused


@pytest.fixture
def vpc(aws: AwsAccount) -> Vpc:
    return Vpc(aws.client("ec2"))


def interface(vpc: Vpc, machine: Machine) -> dict[str, Any]:
    """The machine's primary interface, as DescribeInstances shows it."""
    (found,) = vpc.ec2.describe_instances(InstanceIds=[machine.id])["Reservations"][0]["Instances"]
    shown: dict[str, Any] = found["NetworkInterfaces"][0]
    return shown


def public(vpc: Vpc, machine: Machine) -> dict[str, str]:
    """Public addresses by the private ones that they stand for."""
    shown = interface(vpc, machine)["PrivateIpAddresses"]
    return {each["PrivateIpAddress"]: each["Association"]["PublicIp"] for each in shown if "Association" in each}


def test_each_private_address_may_have_an_elastic_ip(vpc: Vpc) -> None:
    machine = vpc.machine(vpc.subnet(v4=vpc.internet), public=True)
    private, elastic = vpc.pod_address(machine), vpc.address()
    given = {"AllocationId": elastic["AllocationId"], "NetworkInterfaceId": machine.interface}
    with refused("InvalidParameterValue", "10.99.0.1"):
        vpc.ec2.associate_address(**given, PrivateIpAddress="10.99.0.1")
    made = vpc.ec2.associate_address(**given, PrivateIpAddress=private)
    assert public(vpc, machine) == {machine.private: machine.public, private: elastic["PublicIp"]}
    vpc.ec2.disassociate_address(AssociationId=made["AssociationId"])
    assert public(vpc, machine) == {machine.private: machine.public}
    vpc.ec2.associate_address(**given, PrivateIpAddress=machine.private)
    assert public(vpc, machine) == {machine.private: elastic["PublicIp"]}


def test_a_prefix_is_a_part_of_the_subnet(vpc: Vpc) -> None:
    machine = vpc.machine(vpc.subnet(), ipv6=True)
    with refused("InvalidParameterValue", "is not a /80"):
        vpc.ec2.assign_ipv6_addresses(NetworkInterfaceId=machine.interface, Ipv6Prefixes=["2001:db8::/80"])
    vpc.pod_prefix(machine)
    (prefix,) = interface(vpc, machine)["Ipv6Prefixes"]
    assert prefix["Ipv6Prefix"].endswith("/80")

"""Elastic IPs and NAT gateways."""

import ipaddress
from typing import Any

from tests.conftest import AwsAccount
from tests.sandbox.aws import refused


def subnet(ec2: Any) -> str:
    vpc = ec2.create_vpc(CidrBlock="10.1.0.0/16")["Vpc"]["VpcId"]
    return str(ec2.create_subnet(VpcId=vpc, CidrBlock="10.1.1.0/24")["Subnet"]["SubnetId"])


def allocate(ec2: Any, number: int) -> dict[str, str]:
    made = [ec2.allocate_address(Domain="vpc") for _ in range(number)]
    return {each["AllocationId"]: each["PublicIp"] for each in made}


def gateway_addresses(ec2: Any, gateway: str) -> list[dict[str, Any]]:
    (found,) = ec2.describe_nat_gateways(NatGatewayIds=[gateway])["NatGateways"]
    return list(found["NatGatewayAddresses"])


def test_elastic_ips_are_public_and_each_its_own(aws: AwsAccount) -> None:
    ec2 = aws.client("ec2")
    given = set(allocate(ec2, 5).values())
    assert len(given) == 5
    assert all(ipaddress.ip_address(address).is_global for address in given)
    assert {each["PublicIp"] for each in ec2.describe_addresses()["Addresses"]} == given


def test_a_nat_gateway_takes_several_addresses_and_gives_them_back(aws: AwsAccount) -> None:
    ec2 = aws.client("ec2")
    pool = allocate(ec2, 3)
    first, second, third = pool
    gateway = ec2.create_nat_gateway(SubnetId=subnet(ec2), AllocationId=first)["NatGateway"]["NatGatewayId"]
    answer = ec2.associate_nat_gateway_address(NatGatewayId=gateway, AllocationIds=[second, third])
    assert {each["PublicIp"] for each in answer["NatGatewayAddresses"]} == set(pool.values())
    shown = gateway_addresses(ec2, gateway)
    assert {each["AllocationId"]: each["PublicIp"] for each in shown} == pool
    assert [each["IsPrimary"] for each in shown] == [True, False, False]
    assert all(each["Status"] == "succeeded" for each in shown)
    assert len({each["PrivateIp"] for each in shown}) == 3
    ec2.disassociate_nat_gateway_address(NatGatewayId=gateway, AssociationIds=[shown[1]["AssociationId"]])
    assert [each["AllocationId"] for each in gateway_addresses(ec2, gateway)] == [first, third]


def test_a_nat_gateway_is_created_with_secondary_addresses(aws: AwsAccount) -> None:
    ec2 = aws.client("ec2")
    pool = allocate(ec2, 2)
    first, second = pool
    gateway = ec2.create_nat_gateway(SubnetId=subnet(ec2), AllocationId=first, SecondaryAllocationIds=[second])
    shown = gateway_addresses(ec2, gateway["NatGateway"]["NatGatewayId"])
    assert {each["AllocationId"]: each["PublicIp"] for each in shown} == pool


def test_an_address_in_use_or_unknown_or_too_many_change_nothing(aws: AwsAccount) -> None:
    ec2 = aws.client("ec2")
    pool = list(allocate(ec2, 10))
    gateway = ec2.create_nat_gateway(SubnetId=subnet(ec2), AllocationId=pool[0])["NatGateway"]["NatGatewayId"]
    with refused("Resource.AlreadyAssociated", pool[0]):
        ec2.associate_nat_gateway_address(NatGatewayId=gateway, AllocationIds=[pool[1], pool[0]])
    with refused("InvalidAllocationID.NotFound"):
        ec2.associate_nat_gateway_address(NatGatewayId=gateway, AllocationIds=[pool[1], "eipalloc-0123456789abcdef0"])
    with refused("NatGatewayAddressLimitExceeded"):
        ec2.associate_nat_gateway_address(NatGatewayId=gateway, AllocationIds=pool[1:9])
    assert len(gateway_addresses(ec2, gateway)) == 1

"""Elastic IPs and NAT gateways where moto falls short: public addresses, and several on one gateway.

Source: "NAT gateways" in the VPC user guide; a public gateway has one primary and up to seven secondary addresses.
"""

import ipaddress
from collections.abc import Iterator, Mapping
from typing import Any

from gatepass.sandbox.ec2.query import AwsError

MAX_ADDRESSES = 8
# Part of AWS's own public range in Frankfurt; nothing is ever sent there.
_POOL = ipaddress.IPv4Network("18.184.0.0/15")


def public_addresses() -> Iterator[str]:
    """Elastic IPs, each once."""
    return (str(address) for address in _POOL.hosts())


def associate(backend: Any, params: Mapping[str, Any]) -> dict[str, Any]:
    """AssociateNatGatewayAddress: all of the allocations or none."""
    gateway = _gateway(backend, params)
    allocations = params.get("AllocationId") or []
    if not allocations:
        raise AwsError("MissingParameter", "The request must contain the parameter AllocationId")
    if len(gateway.address_set) + len(allocations) > MAX_ADDRESSES:
        raise AwsError("NatGatewayAddressLimitExceeded", f"A NAT gateway can have at most {MAX_ADDRESSES} addresses.")
    check_free(backend, allocations)
    add_addresses(backend, gateway, allocations)
    return _answer(gateway)


def check_free(backend: Any, allocations: list[str]) -> None:
    """Raises AwsError if one of these Elastic IPs does not exist or is in use."""
    found = {address.allocation_id: address for address in backend.addresses}
    for allocation in allocations:
        if allocation not in found:
            raise AwsError("InvalidAllocationID.NotFound", f"The allocation ID '{allocation}' does not exist")
        if found[allocation].association_id:
            raise AwsError("Resource.AlreadyAssociated", f"resource {allocation} is already associated")


def mark_primary(gateway: Any) -> None:
    """Mark the first address of a new gateway as EC2 marks it, which moto leaves out."""
    gateway.address_set[0].update(isPrimary=True, status="succeeded")


def add_addresses(backend: Any, gateway: Any, allocations: list[str]) -> None:
    """Give `gateway` these secondary addresses, checked before."""
    primary = gateway.address_set[0]
    subnet = ipaddress.ip_network(backend.get_subnet(gateway.subnet_id).cidr_block)
    for allocation in allocations:
        address = backend.associate_address(eni=gateway._eni, allocation_id=allocation)
        gateway.address_set.append(
            {
                "allocationId": allocation,
                "publicIp": address.public_ip,
                "associationId": address.association_id,
                "networkInterfaceId": primary["networkInterfaceId"],
                "privateIp": str(subnet[10 + len(gateway.address_set)]),
                "isPrimary": False,
                "status": "succeeded",
            }
        )


def disassociate(backend: Any, params: Mapping[str, Any]) -> dict[str, Any]:
    """DisassociateNatGatewayAddress; the primary address stays."""
    gateway = _gateway(backend, params)
    going = params.get("AssociationId") or []
    present = {address.get("associationId"): address for address in gateway.address_set[1:]}
    for association in going:
        if association not in present:
            raise AwsError("InvalidAssociationID.NotFound", f"The association ID '{association}' does not exist")
    for association in going:
        backend.disassociate_address(association_id=association)
        gateway.address_set.remove(present[association])
    return _answer(gateway)


def _gateway(backend: Any, params: Mapping[str, Any]) -> Any:
    gateway_id = params.get("NatGatewayId", "")
    gateway = backend.nat_gateways.get(gateway_id)
    if gateway is None:
        raise AwsError("NatGatewayNotFound", f"The Nat Gateway {gateway_id} was not found")
    return gateway


def _answer(gateway: Any) -> dict[str, Any]:
    return {"natGatewayId": gateway.id, "natGatewayAddressSet": gateway.address_set}

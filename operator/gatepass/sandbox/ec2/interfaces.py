"""Network interfaces where moto falls short: Elastic IPs of secondary addresses, and delegated IPv6 prefixes.

Sources: "Elastic network interfaces" and "Assign prefixes to network interfaces" in the EC2 user guide.
"""

import ipaddress
from collections.abc import Mapping
from typing import Any

from moto.ec2.models.elastic_network_interfaces import NetworkInterface
from moto.ec2.utils import generate_dns_from_ip

from gatepass.sandbox.ec2.query import AwsError

_DELEGATED_LENGTH = 80
_SHOWN = "instance_private_ip_address_list"
_MOTOS_OWN: Any = vars(NetworkInterface)[_SHOWN]


def is_secondary(backend: Any, params: Mapping[str, Any]) -> bool:
    """Does AssociateAddress name a private address that is not the first of its interface?"""
    interface = backend.enis.get(params.get("NetworkInterfaceId", ""))
    return interface is not None and params.get("PrivateIpAddress", "") not in ("", interface.private_ip_address)


def associate(backend: Any, params: Mapping[str, Any]) -> dict[str, Any]:
    """AssociateAddress for a secondary address. Raises AwsError unless the interface has it."""
    interface, private = backend.enis[params["NetworkInterfaceId"]], params["PrivateIpAddress"]
    if private not in [each["PrivateIpAddress"] for each in interface.private_ip_addresses]:
        message = f"Address {private} does not fall within the interface's addresses"
        raise AwsError("InvalidParameterValue", message)
    before = interface.public_ip
    address = backend.associate_address(eni=interface, allocation_id=params.get("AllocationId", ""))
    interface.public_ip = before  # moto takes every association for that of the first address
    _associated(interface)[private] = address
    return {"return": True, "associationId": address.association_id}


def is_associated(backend: Any, params: Mapping[str, Any]) -> bool:
    """Is it an association of a secondary address?"""
    return bool(_associations(backend, params))


def disassociate(backend: Any, params: Mapping[str, Any]) -> dict[str, Any]:
    """DisassociateAddress for a secondary address."""
    ((interface, private),) = _associations(backend, params)
    before = interface.public_ip
    backend.disassociate_address(association_id=params["AssociationId"])
    interface.public_ip = before
    del _associated(interface)[private]
    return {"return": True}


def _associations(backend: Any, params: Mapping[str, Any]) -> list[tuple[Any, str]]:
    return [
        (interface, private)
        for interface in backend.enis.values()
        for private, address in _associated(interface).items()
        if address.association_id == params.get("AssociationId")
    ]


def _associated(interface: Any) -> dict[str, Any]:
    """The Elastic IPs of an interface's secondary addresses."""
    found: dict[str, Any] = interface.__dict__.setdefault("secondary_associations", {})
    return found


def delegate(backend: Any, params: Mapping[str, Any]) -> dict[str, Any]:
    """AssignIpv6Addresses with prefixes. Raises AwsError unless each is a /80 of the interface's subnet."""
    interface = backend.get_network_interface(params.get("NetworkInterfaceId", ""))
    ranges = [
        ipaddress.IPv6Network(each["ipv6CidrBlock"]) for each in interface.subnet.ipv6_cidr_block_associations.values()
    ]
    for text in params["Ipv6Prefix"]:
        prefix = ipaddress.IPv6Network(text)
        if prefix.prefixlen != _DELEGATED_LENGTH or not any(prefix.subnet_of(each) for each in ranges):
            raise AwsError("InvalidParameterValue", f"{text} is not a /{_DELEGATED_LENGTH} of {interface.subnet.id}")
    given = interface.__dict__.setdefault("ipv6_prefixes", [])  # moto shows it in DescribeInstances, and never sets it
    given += [{"Ipv6Prefix": text} for text in params["Ipv6Prefix"]]
    return {"networkInterfaceId": interface.id, "assignedIpv6PrefixSet": list(params["Ipv6Prefix"])}


def _private_addresses(interface: Any) -> list[dict[str, Any]]:
    """What DescribeInstances shows of an interface's private addresses: each with its own Elastic IP."""
    shown: list[dict[str, Any]] = _MOTOS_OWN.fget(interface)
    for each in shown:
        if (address := _associated(interface).get(each["PrivateIpAddress"])) is not None:
            each["Association"] = {
                "publicIp": address.public_ip,
                "publicDnsName": generate_dns_from_ip(address.public_ip),
                "ipOwnerId": interface.owner_id,
            }
    return shown


setattr(NetworkInterface, _SHOWN, property(_private_addresses))

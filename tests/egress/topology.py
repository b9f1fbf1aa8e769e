"""Topologies in the terms of `egress.aws_routes`, for tables and laws."""

import ipaddress
from collections.abc import Mapping
from typing import Any

from gatepass.core.egress import NodeFacts, PodFacts
from gatepass.egress.aws_routes import Instance, Interface, NatGateway, Route, RouteTable, Surroundings

NODE_IP, POD_IP, POD_IPV6 = "10.0.1.4", "10.0.1.77", "2001:db8:1:1::7"
NODE_PUBLIC, POD_PUBLIC = "203.0.113.4", "203.0.113.77"
VPC = (ipaddress.ip_network("10.0.0.0/16"), ipaddress.ip_network("2001:db8:1::/56"))
GATEWAYS = {
    "nat-1": NatGateway("nat-1", "available", public=True, addresses=("198.51.100.1",)),
    "nat-3": NatGateway("nat-3", "available", public=True, addresses=("198.51.100.3", "198.51.100.4", "198.51.100.5")),
    "nat-private": NatGateway("nat-private", "available", public=False, addresses=()),
    "nat-deleted": NatGateway("nat-deleted", "deleted", public=True, addresses=("198.51.100.9",)),
    "nat-empty": NatGateway("nat-empty", "available", public=True, addresses=()),
}


def table(*routes: tuple[str, str] | Route, id_: str = "rtb-1", main: bool = False) -> RouteTable:
    """A route table with the VPC's own routes and these, as (destination, via)."""
    local = [Route(each, "local") for each in VPC]
    given = [each if isinstance(each, Route) else Route(ipaddress.ip_network(each[0]), each[1]) for each in routes]
    return RouteTable(id_, main, (*local, *given))


def primary(**changed: Any) -> Interface:
    """The instance's primary interface, which carries the pod's IPv4 address."""
    given = {"addresses": (NODE_IP, POD_IP), "public": {NODE_IP: NODE_PUBLIC}, **changed}
    return Interface(**{"id": "eni-1", "subnet": "subnet-1", "primary": True, **given})


def secondary(**changed: Any) -> Interface:
    """Another interface, in a subnet of its own unless said otherwise."""
    return Interface(**{"id": "eni-2", "subnet": "subnet-2", "primary": False, "addresses": ("10.0.2.9",), **changed})


def instance(*interfaces: Interface, state: str = "running") -> Instance:
    return Instance("i-1", state, "vpc-1", interfaces or (primary(),))


def around(*tables: RouteTable, **by_subnet: RouteTable) -> Surroundings:
    """The first table is of subnet-1, the second of subnet-2, and so on."""
    numbered: Mapping[str, RouteTable] = {f"subnet-{number}": each for number, each in enumerate(tables, 1)}
    return Surroundings(VPC, {**numbered, **by_subnet}, GATEWAYS)


def pod(*ips: str, **changed: Any) -> PodFacts:
    given = {"name": "runner", "uid": "u-1", "phase": "Running", "node": "n-1", "host_ips": (NODE_IP,)}
    return PodFacts(**{**given, "ips": ips or (POD_IP,), **changed})


NODE = NodeFacts("n-1", "aws:///eu-central-1a/i-1", (NODE_IP,))


async def alone() -> list[NodeFacts]:
    """The neighbours of a node where nothing else runs."""
    return []

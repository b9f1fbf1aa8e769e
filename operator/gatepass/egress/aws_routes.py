"""From an EC2 instance to public addresses: what a VPC's interfaces, route tables and gateways say.

Sources: the VPC user guide, "Route priority", "NAT gateways", "Egress-only internet gateways" and "DNS64 and NAT64";
the EKS user guide, "Enable outbound internet access for Pods" (translated to the node's primary address, unless there
is external SNAT) and "Learn about IPv6 addresses to clusters, Pods, and services" (not translated; IPv4 by the node).
"""

import ipaddress
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from gatepass.core.egress import Departure, NodeFacts, PodFacts, family
from gatepass.core.errors import SourceError
from gatepass.core.types.session import LONGEST_EVIDENCE

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

LOCAL: Final = "local"
_EVERYWHERE: Final[Mapping[int, Network]] = {4: ipaddress.ip_network("0.0.0.0/0"), 6: ipaddress.ip_network("2000::/3")}
_WIDE: Final = {4: 7, 6: 12}
"""Routes longer than this are for particular destinations, and not followed: which one a job calls is not known."""
_UNIQUE_LOCAL: Final = ipaddress.ip_network("fc00::/7")
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_KINDS: Final = {
    "igw": "internet gateway",
    "eigw": "egress-only internet gateway",
    "nat": "NAT gateway",
    "tgw": "transit gateway",
    "vpce": "firewall endpoint (Gateway Load Balancer)",
    "pcx": "VPC peering connection",
    "vgw": "virtual private gateway",
    "lgw": "local gateway",
    "cagw": "carrier gateway",
    "eni": "network interface (a NAT instance or an appliance)",
    "i": "instance (a NAT instance or an appliance)",
}


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface of an instance. `public` has the public addresses by the private ones they stand for."""

    id: str
    subnet: str
    primary: bool
    addresses: tuple[str, ...]
    ipv6: tuple[str, ...] = ()
    prefixes: tuple[Network, ...] = ()
    public: Mapping[str, str] = field(default_factory=dict)

    def carries(self, ip: str) -> bool:
        """Is the address on the interface, by itself or in a delegated prefix?"""
        address = ipaddress.ip_address(ip)
        return ip in self.addresses or ip in self.ipv6 or any(address in prefix for prefix in self.prefixes)


@dataclass(frozen=True, slots=True)
class Instance:
    """An EC2 instance, with the ranges of its VPC."""

    id: str
    state: str
    vpc: str
    interfaces: tuple[Interface, ...] = ()

    def carrying(self, ip: str) -> Interface | None:
        """Its interface that has the address."""
        return next((each for each in self.interfaces if each.carries(ip)), None)


@dataclass(frozen=True, slots=True)
class Route:
    """A route to a CIDR; `via` is the id of what it leads to, `propagated` says that a VPN gateway has put it."""

    destination: Network
    via: str
    active: bool = True
    propagated: bool = False


@dataclass(frozen=True, slots=True)
class RouteTable:
    """A route table, without its routes by prefix list."""

    id: str
    main: bool
    routes: tuple[Route, ...] = ()


@dataclass(frozen=True, slots=True)
class NatGateway:
    """A NAT gateway, with all of its public addresses."""

    id: str
    state: str
    public: bool
    addresses: tuple[str, ...]


def check_instance(pod: PodFacts, node: NodeFacts, instance: Instance) -> None:
    """Raises SourceError unless the instance runs and has the pod's host addresses."""
    if instance.state != "running":
        raise SourceError("InstanceGone", f"instance {instance.id} of node {node.name} is {instance.state}")
    strange = [ip for ip in pod.host_ips if instance.carrying(ip) is None]
    if strange:
        raise SourceError(
            "HostAddressMismatch",
            f"pod {pod.name} says that its host is {', '.join(strange)}, which is on no interface of {instance.id}, "
            f"the instance of node {node.name}",
            retry=True,
        )
    if not any(each.primary for each in instance.interfaces):
        raise SourceError("InstanceGone", f"instance {instance.id} of node {node.name} has no primary interface")


def effective(table: RouteTable, version: int) -> tuple[Route, ...]:
    """The routes that public addresses take, unless there is one of their own: those that no longer ones cover."""
    wide: dict[Network, Route] = {}
    for route in table.routes:
        there = route.destination
        if there.version != version or there.prefixlen > _WIDE[version] or route.via == LOCAL:
            continue
        if there not in wide or wide[there].propagated:  # one that somebody has put wins over one that is propagated
            wide[there] = route
    return tuple(route for there, route in wide.items() if _left(there, [each for each in wide if each != there]))


def _left(there: Network, others: Iterable[Network]) -> bool:
    """Does any public address take the route to `there`, beside routes to the others?"""
    everywhere = _EVERYWHERE[there.version]
    if not there.overlaps(everywhere):
        return False
    rest = [there if there.prefixlen >= everywhere.prefixlen else everywhere]
    for other in others:
        if other.prefixlen > there.prefixlen and other.overlaps(there):
            rest = [part for each in rest for part in _without(each, other)]
    return bool(rest)


def _without(network: Network, other: Network) -> list[Network]:
    if not network.overlaps(other):
        return [network]
    if network.prefixlen >= other.prefixlen:
        return []
    return list(network.address_exclude(other))  # type: ignore[arg-type]  # of one version, as they overlap


def gateways_named(tables: Iterable[RouteTable]) -> set[str]:
    """The NAT gateways that public addresses may be reached by."""
    routes = {route for table in tables for version in (4, 6) for route in (*effective(table, version), *_nat64(table))}
    return {route.via for route in routes if route.via.startswith("nat-") and route.active}


def _nat64(table: RouteTable) -> tuple[Route, ...]:
    return tuple(route for route in table.routes if route.destination == _NAT64)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What surrounds an instance: the ranges of its VPC, its subnets' route tables, and NAT gateways by id."""

    ranges: tuple[Network, ...]
    tables: Mapping[str, RouteTable]
    gateways: Mapping[str, NatGateway]


class _NoWayOutError(Exception):
    """It cannot leave by here, so that it leaves elsewhere or not at all."""


class _RefusedError(Exception):
    """It may leave by here, and the address cannot be known."""

    def __init__(self, reason: str, message: str, *, retry: bool = False) -> None:
        super().__init__(message)
        self.reason, self.retry = reason, retry


@dataclass(frozen=True, slots=True)
class _Start:
    """Traffic as it reaches a subnet's router: with this address, of this interface. `nat64` is for IPv4 by IPv6."""

    ip: str
    interface: Interface
    nat64: bool = False

    @property
    def version(self) -> int:
        return family(self.ip)


def departures(pod: PodFacts, node: NodeFacts, instance: Instance, around: Surroundings) -> list[Departure]:
    """Every public address that the pod's traffic may leave from; raises SourceError, with what was found.

    Both families of a pod that has both. A pod with IPv6 alone reaches IPv4 through its node or by NAT64, where
    there is such a way.
    """
    machine = f"node {node.name} is {instance.id}"
    found: dict[str, str] = {}
    dead: list[str] = []
    try:
        for start in _starts(pod, instance, around):
            try:
                found |= _leave(start, around)
            except _NoWayOutError as error:
                dead.append(str(error))
        for start in _ipv4_of_ipv6(pod, instance):
            with suppress(_NoWayOutError, _RefusedError):
                found |= _leave(start, around)
    except _RefusedError as error:
        raise SourceError(error.reason, f"{machine}; {error}; use source.claim", retry=error.retry) from None
    if not found:
        raise SourceError("NoWayOut", f"{machine}; {'; '.join(dead) or 'it has no address to leave from'}")
    ordered = sorted(found.items(), key=lambda each: (family(each[0]), int(ipaddress.ip_address(each[0]))))
    return [Departure(ip, f"{machine}; {how}"[:LONGEST_EVIDENCE]) for ip, how in ordered]


def _starts(pod: PodFacts, instance: Instance, around: Surroundings) -> list[_Start]:
    """As what the pod's traffic reaches the routers, for each of its addresses."""
    starts: list[_Start] = []
    for ip in pod.ips:
        carrier = instance.carrying(ip)
        if carrier is None and _is_of_the_vpc(ip, around):
            raise _RefusedError(
                "AddressNotOnInstance",
                f"none of its interfaces has the address {ip} of pod {pod.name}: an interface of its own (security "
                "groups for pods) is not followed",
                retry=True,  # EC2's reads lag, and it may just have been put there
            )
        if carrier is not None and (pod.host_network or family(ip) == 6):
            starts.append(_Start(ip, carrier))
            continue
        # The node translates it: always behind an overlay, and otherwise by a setting of the CNI plugin.
        primary = _primary(instance)
        starts += [_Start(own, primary) for own in (primary.addresses if family(ip) == 4 else primary.ipv6)[:1]]
        if carrier is not None and (carrier.subnet != primary.subnet or ip in carrier.public):
            starts.append(_Start(ip, carrier))
    return starts


def _is_of_the_vpc(ip: str, around: Surroundings) -> bool:
    """Or any IPv6 address that nobody has to translate; other ones are of an overlay, behind the node's."""
    address = ipaddress.ip_address(ip)
    return any(address in each for each in around.ranges) or (address.version == 6 and address not in _UNIQUE_LOCAL)


def _ipv4_of_ipv6(pod: PodFacts, instance: Instance) -> list[_Start]:
    """How a pod with IPv6 alone may reach IPv4."""
    if any(family(ip) == 4 for ip in pod.ips):
        return []
    primary = _primary(instance)
    carriers = ((ip, instance.carrying(ip)) for ip in pod.ips)
    by_nat64 = [_Start(ip, carrier, nat64=True) for ip, carrier in carriers if carrier is not None]
    return [*(_Start(ip, primary) for ip in primary.addresses[:1]), *by_nat64]


def _primary(instance: Instance) -> Interface:
    return next(each for each in instance.interfaces if each.primary)


def _table(interface: Interface, around: Surroundings) -> RouteTable:
    table = around.tables.get(interface.subnet)
    if table is None:
        raise _RefusedError(
            "RouteTableNotFound", f"no route table of {interface.subnet} can be seen: is the VPC shared?"
        )
    return table


def _leave(start: _Start, around: Surroundings) -> dict[str, str]:
    """The public addresses of one start, with the way in words; raises _NoWayOutError or _RefusedError."""
    table = _table(start.interface, around)
    where = f"route table {table.id}{' (main)' if table.main else ''} of {start.interface.subnet}"
    found: dict[str, str] = {}
    dead: list[str] = []
    for route in _nat64(table) if start.nat64 else effective(table, start.version):
        try:
            found |= _through(start, route, where, around)
        except _NoWayOutError as error:
            dead.append(str(error))
    if not found:
        raise _NoWayOutError("; ".join(dead) or f"{where} has no default route for IPv{start.version}")
    return found


def _through(start: _Start, route: Route, where: str, around: Surroundings) -> dict[str, str]:
    kind = route.via.partition("-")[0]
    way = f"{where} leads to {_KINDS.get(kind, 'target')} {route.via}"
    if not route.active:
        raise _NoWayOutError(f"{way}, which is gone (blackhole)")
    match kind, start.version:
        case "igw", 4:
            public = start.interface.public.get(start.ip)
            if public is None:
                raise _NoWayOutError(f"{way}, and {start.ip} has no public address")
            return {public: f"{public} is that of {start.ip} on {start.interface.id}; {way}"}
        case "igw" | "eigw", 6:
            return {start.ip: f"its own address on {start.interface.id}; {way}"}
        case "nat", version if version == 4 or start.nat64:
            return dict.fromkeys(_behind(route.via, way, around), way)
    raise _RefusedError("WayNotResolvable", f"{way}, behind which the IPv{start.version} address cannot be known")


def _behind(id_: str, way: str, around: Surroundings) -> tuple[str, ...]:
    gateway = around.gateways.get(id_)
    if gateway is None:
        raise _RefusedError("NatGatewayNotFound", f"{way}, which cannot be seen: is the VPC shared?")
    if not gateway.public:
        raise _RefusedError("WayNotResolvable", f"{way}, which is private, so that something else gives the address")
    if gateway.state != "available" or not gateway.addresses:
        raise _NoWayOutError(f"{way}, which is {gateway.state}, with {', '.join(gateway.addresses) or 'no address'}")
    return gateway.addresses

"""What EC2 says of instances and what surrounds them, in few calls for many pods.

Source: EC2's API reference of the four actions. By filters and not by ids, of which one that is gone would fail a call.
"""

import asyncio
import ipaddress
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

from gatepass.core.egress import Departure, NodeFacts, PodFacts, canonical_ip
from gatepass.core.errors import Failure, ProviderError, SourceError
from gatepass.egress.aws_routes import (
    Instance,
    Interface,
    NatGateway,
    Network,
    Route,
    RouteTable,
    Surroundings,
    check_instance,
    departures,
    gateways_named,
)
from gatepass.egress.lookup import NEVER, Lookup

Describe = Callable[[str, str, Mapping[str, Any]], Awaitable[Mapping[str, Any]]]
"""Asks EC2 in a Region, by an action and its parameters; raises ProviderError."""
Answer = Mapping[str, Any]
T = TypeVar("T")

KEPT_SECONDS: Final = 30.0
REFUSED_SECONDS: Final = 15.0
"""The age of an answer on the word of which somebody may be refused."""
_NO_WAY_OUT_SECONDS: Final = 3.0
"""The same for "no way out": a node that has just come gets its public address, or its route, in these seconds."""
_PER_FILTER: Final = 200
"""Values that EC2 takes in one filter."""
_PER_PAGE: Final = 100
_PROVIDER_ID: Final = re.compile(r"aws:///(?P<zone>(?P<region>[a-z]{2,4}(?:-[a-z]+)+-[0-9])[a-z0-9-]*)/(?P<id>[^/]+)")
_INSTANCE: Final = re.compile(r"i-[0-9a-f]{8,17}")
_ADDRESS_IN_USE: Final = ("succeeded", "assigning", "associating")
"""Of a NAT gateway; one on its way out may be somebody else's in a moment."""
_TARGETS: Final = (
    "NatGatewayId",
    "EgressOnlyInternetGatewayId",
    "TransitGatewayId",
    "VpcPeeringConnectionId",
    "LocalGatewayId",
    "CarrierGatewayId",
    "CoreNetworkArn",
    "OdbNetworkArn",
    "GatewayId",
    "InstanceId",
    "NetworkInterfaceId",
)


class AwsTopology:
    """The way from an EC2 instance to the Internet, as the operator's own identity sees it.

    `monotonic` is a clock in seconds. What is known is half a minute old at most, what refuses somebody a quarter, and
    what he is told to wait for was not known before he asked.
    """

    def __init__(self, describe: Describe, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._describe = describe
        self._monotonic = monotonic
        self._regions: dict[str, _Region] = {}

    def knows(self, provider_id: str) -> bool:
        """Is it AWS's?"""
        return provider_id.startswith("aws://")

    async def departures(
        self, pod: PodFacts, node: NodeFacts, neighbours: Callable[[], Awaitable[Sequence[NodeFacts]]]
    ) -> Sequence[Departure]:
        """Every address that the pod's traffic may leave from; raises SourceError.

        When EC2 has to be asked about the node, it is asked about its `neighbours` in the same calls.
        """
        named = _machine(node)
        if named is None:
            raise SourceError(
                "NotAnInstance",
                f"node {node.name} is {node.provider_id}, which is no EC2 instance (as on Fargate): use source.claim",
            )
        name, id_ = named
        region = self._regions.setdefault(name, _Region(partial(self._describe, name), self._monotonic))
        asked = self._monotonic()
        try:
            await self._look(region, named, neighbours, NEVER)
            try:
                return await region.departures(pod, node, id_, NEVER)
            except SourceError as error:
                age = _NO_WAY_OUT_SECONDS if error.reason == "NoWayOut" else REFUSED_SECONDS
                since = asked if error.retry else asked - age
            await self._look(region, named, neighbours, since)
            return await region.departures(pod, node, id_, since)
        except ProviderError as error:
            raise _told(error, name) from None

    async def _look(
        self,
        region: "_Region",
        named: tuple[str, str],
        neighbours: Callable[[], Awaitable[Sequence[NodeFacts]]],
        since: float,
    ) -> None:
        """Ask about an instance along with its neighbours, if what is known of it is older than that."""
        name, id_ = named
        if not region.knows(id_, since):
            others = filter(None, map(_machine, await neighbours()))
            region.look_at([id_, *(other for where, other in others if where == name)], since)


def _machine(node: NodeFacts) -> tuple[str, str] | None:
    """The Region and the id of the instance that the node is."""
    named = _PROVIDER_ID.fullmatch(node.provider_id)
    return (named["region"], named["id"]) if named and _INSTANCE.fullmatch(named["id"]) else None


def _is_denied(error: Exception) -> bool:
    return isinstance(error, ProviderError) and error.failure is Failure.FORBIDDEN


def _told(error: ProviderError, region: str) -> SourceError:
    if error.failure is Failure.FORBIDDEN:
        remedy = f"`gatepass iam-policy --pods-in {region}` prints what Gatepass's own identity needs"
        return SourceError("NotAuthorized", f"{error.message.partition(': allow it')[0]}: {remedy}")
    return SourceError(error.reason, error.message, retry=error.failure is Failure.RETRY)


class _Region:
    """What is known of one Region."""

    def __init__(
        self, describe: Callable[[str, Mapping[str, Any]], Awaitable[Answer]], monotonic: Callable[[], float]
    ) -> None:
        self._describe = describe
        self._monotonic = monotonic
        self._instances = self._lookup(self._load_instances)
        self._ranges = self._lookup(self._load_ranges)
        self._tables = self._lookup(self._load_tables)
        self._main_tables = self._lookup(self._load_main_tables)
        self._gateways = self._lookup(self._load_gateways)
        self._looks: set[asyncio.Task[None]] = set()

    def _lookup(self, load: Callable[[Sequence[str]], Awaitable[Mapping[str, T]]]) -> Lookup[str, T]:
        return Lookup(load, KEPT_SECONDS, self._monotonic, REFUSED_SECONDS, _is_denied)

    def knows(self, id_: str, since: float) -> bool:
        """Is the instance known, or asked about?"""
        return self._instances.has(id_, since)

    def look_at(self, ids: Sequence[str], since: float) -> None:
        """Ask about instances, as many as one answer has, and what surrounds them, for those who will want to know."""
        for id_ in list(dict.fromkeys(ids))[:_PER_PAGE]:
            task = asyncio.create_task(self._look_at(id_, since))
            self._looks.add(task)
            task.add_done_callback(self._looks.discard)

    async def _look_at(self, id_: str, since: float) -> None:
        with suppress(ProviderError):  # is told to whoever wants to know
            instance = await self._instances.get(id_, since)
            if instance is not None and instance.vpc:  # one that has been terminated has none
                await self._around(instance, since)

    async def departures(self, pod: PodFacts, node: NodeFacts, id_: str, since: float) -> Sequence[Departure]:
        instance = await self._instances.get(id_, since)
        if instance is None:
            raise SourceError(
                "InstanceGone",
                f"node {node.name} is {id_}, which is not there, or not in the account of Gatepass's own identity",
            )
        check_instance(pod, node, instance)
        around = await self._around(instance, since)
        if around is None:
            raise SourceError(
                "VpcNotFound",
                f"node {node.name} is {id_}; its VPC {instance.vpc or 'is not told and'} cannot be seen",
                retry=True,
            )
        return departures(pod, node, instance, around)

    async def _around(self, instance: Instance, since: float) -> Surroundings | None:
        """None when its VPC cannot be seen."""
        ranges, tables = await asyncio.gather(
            self._ranges.get(instance.vpc, since),
            self._tables_of({each.subnet for each in instance.interfaces}, instance.vpc, since),
        )
        if ranges is None:
            return None
        gateways = await self._gateways.gather(sorted(gateways_named(tables.values())), since)
        return Surroundings(ranges, tables, gateways)

    async def _tables_of(self, subnets: Iterable[str], vpc: str, since: float) -> Mapping[str, RouteTable]:
        """The route tables of subnets: their own, else the main one of the VPC."""
        named = sorted(subnets)
        own = await self._tables.gather(named, since)
        if len(own) == len(named):
            return own
        main = await self._main_tables.get(vpc, since)
        return own if main is None else {subnet: own.get(subnet, main) for subnet in named}

    # calls

    async def _load_instances(self, ids: Sequence[str]) -> Mapping[str, Instance]:
        found = await self._every(_reserved, "DescribeInstances", "Reservations", "Filters", "instance-id", ids)
        return {each.id: each for instances in found for each in instances}

    async def _load_ranges(self, vpcs: Sequence[str]) -> Mapping[str, tuple[Network, ...]]:
        return dict(await self._every(_ranges, "DescribeVpcs", "Vpcs", "Filters", "vpc-id", vpcs))

    async def _load_tables(self, subnets: Sequence[str]) -> Mapping[str, RouteTable]:
        which = "association.subnet-id"
        found = await self._every(_tables, "DescribeRouteTables", "RouteTables", "Filters", which, subnets)
        return {subnet: table for tables in found for subnet, table in tables}

    async def _load_main_tables(self, vpcs: Sequence[str]) -> Mapping[str, RouteTable]:
        main = {"Name": "association.main", "Values": ["true"]}
        found = await self._every(_main_table, "DescribeRouteTables", "RouteTables", "Filters", "vpc-id", vpcs, main)
        return dict(found)

    async def _load_gateways(self, ids: Sequence[str]) -> Mapping[str, NatGateway]:
        found = await self._every(_gateway, "DescribeNatGateways", "NatGateways", "Filter", "nat-gateway-id", ids)
        return {each.id: each for each in found}

    async def _every(
        self,
        read: Callable[[Answer], T],
        action: str,
        part: str,
        parameter: str,
        name: str,
        values: Sequence[str],
        *more: Answer,
    ) -> list[T]:
        """All that pass a filter, page by page; raises ProviderError, also for an answer without what `read` needs."""
        found: list[T] = []
        for first in range(0, len(values), _PER_FILTER):
            filters = [{"Name": name, "Values": list(values[first : first + _PER_FILTER])}, *more]
            following: dict[str, Any] = {}
            while True:
                page = await self._describe(action, {parameter: filters, "MaxResults": _PER_PAGE, **following})
                try:
                    found += map(read, page[part])
                except (KeyError, ValueError) as error:
                    told = f"ec2:{action}: the answer cannot be understood ({type(error).__name__}: {error})"
                    raise ProviderError(Failure.RETRY, "AnswerNotUnderstood", told) from error
                if not page.get("NextToken"):
                    break
                following = {"NextToken": page["NextToken"]}
        return found


def _reserved(told: Answer) -> list[Instance]:
    return [_instance(each) for each in told["Instances"]]


def _instance(told: Answer) -> Instance:
    return Instance(
        told["InstanceId"],
        told["State"]["Name"],
        told.get("VpcId", ""),
        tuple(_interface(each) for each in told.get("NetworkInterfaces", ())),
    )


def _interface(told: Answer) -> Interface:
    private = sorted(told.get("PrivateIpAddresses", ()), key=lambda each: not each.get("Primary"))
    attachment = told.get("Attachment", {})
    prefixes = [each["Ipv4Prefix"] for each in told.get("Ipv4Prefixes", ())]
    prefixes += [each["Ipv6Prefix"] for each in told.get("Ipv6Prefixes", ())]
    ipv6 = sorted(told.get("Ipv6Addresses", ()), key=lambda each: not each.get("IsPrimaryIpv6"))
    return Interface(
        id=told["NetworkInterfaceId"],
        subnet=told["SubnetId"],
        primary=attachment.get("DeviceIndex") == 0 and not attachment.get("NetworkCardIndex"),
        addresses=tuple(each["PrivateIpAddress"] for each in private),
        ipv6=tuple(filter(None, (canonical_ip(each["Ipv6Address"]) for each in ipv6))),
        prefixes=tuple(ipaddress.ip_network(each) for each in prefixes),
        public={
            each["PrivateIpAddress"]: each["Association"]["PublicIp"]
            for each in private
            if each.get("Association", {}).get("PublicIp")
        },
    )


def _ranges(told: Answer) -> tuple[str, tuple[Network, ...]]:
    v4 = [each["CidrBlock"] for each in told.get("CidrBlockAssociationSet", ()) if _stands(each, "CidrBlockState")]
    v6 = [
        each["Ipv6CidrBlock"]
        for each in told.get("Ipv6CidrBlockAssociationSet", ())
        if _stands(each, "Ipv6CidrBlockState")
    ]
    return told["VpcId"], tuple(ipaddress.ip_network(each) for each in (*(v4 or [told["CidrBlock"]]), *v6))


def _stands(told: Answer, state: str) -> bool:
    """EC2 tells of a range for a while after it has been taken off."""
    return told.get(state, {}).get("State") not in ("disassociated", "failed")


def _tables(told: Answer) -> list[tuple[str, RouteTable]]:
    """The table by each of its subnets."""
    table = _table(told, main=False)
    return [(each["SubnetId"], table) for each in told.get("Associations", ()) if each.get("SubnetId")]


def _main_table(told: Answer) -> tuple[str, RouteTable]:
    return told["VpcId"], _table(told, main=True)


def _table(told: Answer, *, main: bool) -> RouteTable:
    return RouteTable(told["RouteTableId"], main, tuple(filter(None, map(_route, told.get("Routes", ())))))


def _route(told: Answer) -> Route | None:
    """None for a route to a prefix list."""
    cidr = told.get("DestinationCidrBlock") or told.get("DestinationIpv6CidrBlock")
    if cidr is None:
        return None
    via = next((told[name] for name in _TARGETS if told.get(name)), "unknown")
    return Route(
        ipaddress.ip_network(cidr),
        via,
        active=told.get("State", "active") == "active",
        propagated=told.get("Origin") == "EnableVgwRoutePropagation",
    )


def _gateway(told: Answer) -> NatGateway:
    addresses = told.get("NatGatewayAddresses", ())
    in_use = [each for each in addresses if each.get("Status", "succeeded") in _ADDRESS_IN_USE]
    return NatGateway(
        told["NatGatewayId"],
        told["State"],
        public=told.get("ConnectivityType", "public") == "public",
        addresses=tuple(each["PublicIp"] for each in in_use if each.get("PublicIp")),
    )

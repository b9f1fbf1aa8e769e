"""From topology to addresses: a table of what there is, and laws of what there can be."""

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepass.core.egress import PodFacts
from gatepass.core.errors import SourceError
from gatepass.egress.aws_routes import (
    Instance,
    NatGateway,
    Route,
    RouteTable,
    Surroundings,
    check_instance,
    departures,
    effective,
    gateways_named,
)
from tests.egress.topology import (
    GATEWAYS,
    NODE,
    NODE_IP,
    NODE_PUBLIC,
    POD_IP,
    POD_IPV6,
    POD_PUBLIC,
    VPC,
    around,
    instance,
    pod,
    primary,
    secondary,
    table,
)

ALL, ALL6 = "0.0.0.0/0", "::/0"
INTERNET = table((ALL, "igw-1"), (ALL6, "igw-1"))
ONE, THREE = ["198.51.100.1"], ["198.51.100.3", "198.51.100.4", "198.51.100.5"]
PRIVATE = primary(public={})
DUAL = primary(ipv6=("2001:db8:1:1::4", POD_IPV6), public={})
BLACKHOLE = Route(ipaddress.ip_network(ALL), "nat-1", active=False)


def found(pod_: PodFacts, instance_: Instance, around_: Surroundings) -> dict[str, str]:
    return {each.ip: each.evidence for each in departures(pod_, NODE, instance_, around_)}


@pytest.mark.parametrize(
    ("pod_", "instance_", "around_", "addresses", "told"),
    [
        pytest.param(pod(), instance(), around(INTERNET), [NODE_PUBLIC], "internet gateway igw-1", id="public node"),
        pytest.param(pod(), instance(PRIVATE), around(table((ALL, "nat-1"))), ONE, "NAT gateway nat-1", id="NAT"),
        pytest.param(pod(), instance(PRIVATE), around(table((ALL, "nat-3"))), THREE, "nat-3", id="all of a NAT's"),
        pytest.param(
            pod(),
            instance(PRIVATE),
            around(table((ALL, "nat-1"), id_="rtb-main", main=True)),
            ONE,
            "route table rtb-main (main) of subnet-1",
            id="main table",
        ),
        pytest.param(
            pod(), instance(), around(table((ALL, "nat-1"))), ONE, "nat-1", id="the route and not the address decides"
        ),
        pytest.param(
            pod("10.0.2.77"),
            instance(
                primary(addresses=(NODE_IP,)),
                secondary(addresses=("10.0.2.9", "10.0.2.77"), public={"10.0.2.77": POD_PUBLIC}),
            ),
            around(INTERNET, INTERNET),
            [NODE_PUBLIC, POD_PUBLIC],
            "",
            id="an Elastic IP of the pod's own address, as the CNI translates or not",
        ),
        pytest.param(
            pod(),
            instance(primary(public={POD_IP: POD_PUBLIC})),
            around(INTERNET),
            [POD_PUBLIC],
            "203.0.113.77 is that of 10.0.1.77 on eni-1",
            id="an Elastic IP of the pod's own address on a node without one",
        ),
        pytest.param(
            pod("10.0.2.77"),
            instance(
                primary(addresses=(NODE_IP,)),
                secondary(
                    subnet="subnet-1", addresses=("10.0.2.9", "10.0.2.77"), public={"10.0.2.9": POD_PUBLIC}
                ),
            ),
            around(INTERNET),
            [NODE_PUBLIC],
            NODE_PUBLIC,
            id="an Elastic IP of another address of its interface is not the pod's",
        ),
        pytest.param(
            pod("10.0.2.77"),
            instance(PRIVATE, secondary(prefixes=(ipaddress.ip_network("10.0.2.64/28"),))),
            around(table((ALL, "nat-1")), table((ALL, "nat-3"))),
            ONE + THREE,
            "",
            id="by either subnet, as the CNI translates or not",
        ),
        pytest.param(
            pod("10.0.2.77"),
            instance(PRIVATE, secondary(prefixes=(ipaddress.ip_network("10.0.2.64/28"),))),
            around(table((ALL, "nat-1")), table()),
            ONE,
            "",
            id="a pod's subnet without a way out leaves the node's",
        ),
        pytest.param(pod("192.168.3.4"), instance(), around(INTERNET), [NODE_PUBLIC], "", id="overlay"),
        pytest.param(
            pod("192.168.3.4", "fd00::9"), instance(DUAL), around(table((ALL, "nat-1"), (ALL6, "eigw-1"))),
            [*ONE, "2001:db8:1:1::4"], "", id="dual-stack overlay",
        ),
        pytest.param(
            pod(NODE_IP, host_network=True), instance(), around(INTERNET), [NODE_PUBLIC], "", id="host network"
        ),
        pytest.param(
            pod(POD_IPV6, host_ips=("2001:db8:1:1::4",)),
            instance(DUAL),
            around(table((ALL6, "eigw-1"))),
            [POD_IPV6],
            "its own address on eni-1; route table rtb-1 of subnet-1 leads to egress-only internet gateway eigw-1",
            id="IPv6 alone",
        ),
        pytest.param(
            pod(POD_IPV6, host_ips=("2001:db8:1:1::4",)),
            instance(DUAL),
            around(table((ALL6, "eigw-1"), (ALL, "nat-1"))),
            [*ONE, POD_IPV6],
            "",
            id="IPv6 alone reaches IPv4 by its node",
        ),
        pytest.param(
            pod(POD_IPV6, host_ips=("2001:db8:1:1::4",)),
            instance(primary(addresses=(), ipv6=("2001:db8:1:1::4", POD_IPV6), public={})),
            around(table((ALL6, "eigw-1"), ("64:ff9b::/96", "nat-3"))),
            [*THREE, POD_IPV6],
            "",
            id="IPv6 alone reaches IPv4 by NAT64",
        ),
        pytest.param(
            pod(POD_IPV6, host_ips=("2001:db8:1:1::4",)),
            instance(DUAL),
            around(table((ALL6, "igw-1"), (ALL, "tgw-1"))),
            [POD_IPV6],
            "",
            id="IPv6 alone needs no IPv4",
        ),
        pytest.param(
            pod("2001:db8:1:1:a::3", host_ips=("2001:db8:1:1::4",)),
            instance(
                primary(
                    addresses=(), ipv6=("2001:db8:1:1::4",), prefixes=(ipaddress.ip_network("2001:db8:1:1:a::/80"),)
                )
            ),
            around(table(("2000::/3", "eigw-1"))),
            ["2001:db8:1:1:a::3"],
            "",
            id="in a delegated prefix",
        ),
        pytest.param(
            pod(POD_IP, POD_IPV6), instance(DUAL), around(table((ALL, "nat-3"), (ALL6, "eigw-1"))),
            [*THREE, POD_IPV6], "", id="dual-stack",
        ),
        pytest.param(
            pod(POD_IP, POD_IPV6), instance(DUAL), around(table((ALL, "nat-1"))), ONE, "", id="a family has no way out"
        ),
        pytest.param(
            pod(), instance(PRIVATE), around(table(("0.0.0.0/1", "nat-1"), ("128.0.0.0/1", "nat-3"), (ALL, "tgw-1"))),
            ONE + THREE, "", id="halves cover the default route",
        ),
        pytest.param(
            pod(), instance(PRIVATE), around(table((ALL, "nat-1"), ("52.0.0.0/8", "tgw-1"), ("10.0.0.0/8", "pcx-1"))),
            ONE, "", id="routes for particular destinations",
        ),
        pytest.param(
            pod(), instance(PRIVATE),
            around(table((ALL, "nat-1"), Route(ipaddress.ip_network(ALL), "vgw-1", propagated=True))),
            ONE, "", id="a static route wins over a propagated one",
        ),
        pytest.param(
            pod(), instance(PRIVATE),
            around(table(Route(ipaddress.ip_network(ALL), "vgw-1", propagated=True), (ALL, "nat-1"))),
            ONE, "", id="a static route wins in whatever order",
        ),
    ],
)  # fmt: skip
def test_what_is_found(
    pod_: PodFacts, instance_: Instance, around_: Surroundings, addresses: list[str], told: str
) -> None:
    check_instance(pod_, NODE, instance_)
    answer = found(pod_, instance_, around_)
    assert list(answer) == addresses
    assert all(each.startswith("node n-1 is i-1; ") for each in answer.values())
    assert all(told in each for each in answer.values())


@pytest.mark.parametrize(
    ("pod_", "instance_", "around_", "reason", "told"),
    [
        (pod(), instance(), around(table((ALL, "tgw-1"))), "WayNotResolvable", "transit gateway tgw-1"),
        (pod(), instance(), around(table((ALL, "vpce-1"))), "WayNotResolvable", "firewall endpoint"),
        (pod(), instance(), around(table((ALL, "pcx-1"))), "WayNotResolvable", "VPC peering connection pcx-1"),
        (pod(), instance(), around(table((ALL, "eni-9"))), "WayNotResolvable", "a NAT instance or an appliance) eni-9"),
        (pod(), instance(), around(table((ALL, "nat-private"))), "WayNotResolvable", "nat-private, which is private"),
        (pod(), instance(), around(table((ALL, "arn:aws:x"))), "WayNotResolvable", "target arn:aws:x"),
        (pod(), instance(), around(table((ALL, "nat-unseen"))), "NatGatewayNotFound", "nat-unseen, which cannot"),
        (pod(), instance(), around(table((ALL, "nat-deleted"))), "NoWayOut", "deleted, with 198.51.100.9"),
        (pod(), instance(), around(table((ALL, "nat-empty"))), "NoWayOut", "available, with no address"),
        (pod(), instance(), around(table(BLACKHOLE)), "NoWayOut", "nat-1, which is gone (blackhole)"),
        (pod(), instance(), around(table()), "NoWayOut", "rtb-1 of subnet-1 has no default route for IPv4"),
        (pod(), instance(PRIVATE), around(INTERNET), "NoWayOut", f"{NODE_IP} has no public address"),
        (pod(), instance(), around(), "RouteTableNotFound", "no route table of subnet-1"),
        (pod("10.0.9.9"), instance(), around(INTERNET), "AddressNotOnInstance", "10.0.9.9 of pod runner"),
        (pod("2001:db8:1:1::9"), instance(DUAL), around(INTERNET), "AddressNotOnInstance", "2001:db8:1:1::9"),
        (pod("2001:db8:ffff::9"), instance(DUAL), around(INTERNET), "AddressNotOnInstance", "2001:db8:ffff::9"),
        (pod(POD_IP, "2001:db8::9"), instance(DUAL), around(INTERNET), "AddressNotOnInstance", "2001:db8::9"),
        (
            pod(POD_IP, POD_IPV6),
            instance(DUAL),
            around(table((ALL, "tgw-1"), (ALL6, "eigw-1"))),
            "WayNotResolvable",
            "tgw-1, behind which the IPv4 address",
        ),
        (
            pod("10.0.2.77"),
            instance(PRIVATE, secondary(addresses=("10.0.2.77",))),
            around(table((ALL, "nat-1")), table((ALL, "tgw-1"))),
            "WayNotResolvable",
            "of subnet-2 leads to transit gateway tgw-1",
        ),
        (
            pod(),
            instance(PRIVATE),
            around(table(("0.0.0.0/1", "nat-1"), ("128.0.0.0/1", "tgw-1"))),
            "WayNotResolvable",
            "tgw-1",
        ),
        (pod(POD_IPV6), instance(DUAL), around(table((ALL6, "nat-1"))), "WayNotResolvable", "nat-1"),
    ],
)  # fmt: skip
def test_what_is_refused(pod_: PodFacts, instance_: Instance, around_: Surroundings, reason: str, told: str) -> None:
    with pytest.raises(SourceError) as caught:
        departures(pod_, NODE, instance_, around_)
    assert caught.value.reason == reason
    assert told in caught.value.message
    assert caught.value.message.startswith("node n-1 is i-1; ")
    assert not caught.value.awaited


@pytest.mark.parametrize(
    ("pod_", "instance_", "reason"),
    [
        (pod(), instance(state="terminated"), "InstanceGone"),
        (pod(), Instance("i-1", "running", "vpc-1"), "HostAddressMismatch"),
        (pod(host_ips=("10.0.1.5",)), instance(), "HostAddressMismatch"),
        (pod(host_ips=(NODE_IP, "2001:db8:1:1::5")), instance(DUAL), "HostAddressMismatch"),
        (pod(), instance(secondary(addresses=(NODE_IP,))), "InstanceGone"),
    ],
)
def test_an_instance_that_is_not_the_pods_host(pod_: PodFacts, instance_: Instance, reason: str) -> None:
    with pytest.raises(SourceError) as caught:
        check_instance(pod_, NODE, instance_)
    assert caught.value.reason == reason


TARGETS = st.sampled_from(["igw-1", "eigw-1", *GATEWAYS, "nat-unseen", "tgw-1", "vpce-1", "local"])
DESTINATIONS = st.sampled_from(
    [ALL, "0.0.0.0/1", "128.0.0.0/1", "64.0.0.0/2", "52.0.0.0/8", ALL6, "2000::/3", "2000::/4", "64:ff9b::/96"]
)
ROUTES = st.builds(
    Route, DESTINATIONS.map(ipaddress.ip_network), TARGETS, active=st.booleans(), propagated=st.booleans()
)
TABLES = st.lists(ROUTES, max_size=6).map(lambda routes: table(*routes))
IPS = st.lists(st.sampled_from([POD_IP, POD_IPV6, "10.0.2.77", "10.0.9.9", "192.168.3.4", "fd00::9"]), max_size=3)
PUBLIC = st.fixed_dictionaries({}, optional={NODE_IP: st.just(NODE_PUBLIC), "10.0.2.77": st.just(POD_PUBLIC)})


@st.composite
def scenes(draw: Any) -> tuple[PodFacts, Instance, Surroundings]:
    first = primary(ipv6=draw(st.sampled_from([(), ("2001:db8:1:1::4", POD_IPV6)])), public=draw(PUBLIC))
    other = secondary(addresses=("10.0.2.9", "10.0.2.77"), public=draw(PUBLIC))
    machine = instance(*((first, other) if draw(st.booleans()) else (first,)))
    return pod(*draw(IPS), host_network=draw(st.booleans())), machine, around(draw(TABLES), draw(TABLES))


def outcome(pod_: PodFacts, instance_: Instance, around_: Surroundings) -> list[str] | str:
    try:
        return list(found(pod_, instance_, around_))
    except SourceError as error:
        return error.reason


@given(scenes())
def test_nothing_is_opened_that_is_not_of_the_pod_its_instance_or_its_gateways(
    scene: tuple[PodFacts, Instance, Surroundings],
) -> None:
    pod_, instance_, around_ = scene
    answer = outcome(*scene)
    if isinstance(answer, str):
        return
    of_instance = {public for each in instance_.interfaces for public in each.public.values()}
    named = {route.via for each in around_.tables.values() for route in each.routes if route.active}
    of_gateways = {ip for id_, each in GATEWAYS.items() if id_ in named for ip in each.addresses}
    own = {ip for each in instance_.interfaces for ip in each.ipv6}
    assert answer
    assert set(answer) <= of_instance | of_gateways | own
    assert set(answer) & own <= set(pod_.ips) | {"2001:db8:1:1::4"}
    if not any(id_.startswith("igw") for id_ in named):
        assert not set(answer) & of_instance


@given(scenes(), st.randoms(use_true_random=False))
def test_the_order_of_routes_and_addresses_changes_nothing(
    scene: tuple[PodFacts, Instance, Surroundings], lot: Any
) -> None:
    pod_, instance_, around_ = scene
    # Of two routes to one destination the first stands, and EC2 has only one that somebody has put.
    tables = {subnet: _once(each) for subnet, each in around_.tables.items()}
    shuffled = {
        subnet: RouteTable(each.id, each.main, tuple(lot.sample(each.routes, len(each.routes))))
        for subnet, each in tables.items()
    }
    before = outcome(pod_, instance_, Surroundings(VPC, tables, GATEWAYS))
    after = outcome(pod_, instance_, Surroundings(VPC, shuffled, GATEWAYS))
    assert isinstance(before, str) == isinstance(after, str)
    assert isinstance(before, str) or before == after


def _once(table_: RouteTable) -> RouteTable:
    return RouteTable(table_.id, table_.main, tuple({each.destination: each for each in table_.routes}.values()))


@given(TABLES)
def test_every_gateway_that_a_way_may_lead_to_is_named(table_: RouteTable) -> None:
    named = gateways_named([table_])
    routes = [route for version in (4, 6) for route in effective(table_, version)]
    assert {route.via for route in routes if route.active and route.via in GATEWAYS} <= named
    assert all(name.startswith("nat-") for name in named)


@given(scenes(), st.sampled_from([*GATEWAYS]), st.ip_addresses(v=4).map(str))
def test_no_address_of_a_gateway_is_left_out(
    scene: tuple[PodFacts, Instance, Surroundings], id_: str, more: str
) -> None:
    """A gateway that gives one of its addresses gives the one that it has got in between as well."""
    pod_, instance_, around_ = scene
    before = outcome(*scene)
    gateway = GATEWAYS[id_]
    grown = {**GATEWAYS, id_: NatGateway(id_, gateway.state, gateway.public, (*gateway.addresses, more))}
    after = outcome(pod_, instance_, Surroundings(VPC, around_.tables, grown))
    if gateway.addresses and gateway.addresses[0] in before and not isinstance(before, str):
        assert more in after

"""The topology of real calls: what is found, what is refused, and how many calls that takes."""

import asyncio
from typing import Any

import pytest

from gatepass.core.egress import NodeFacts, PodFacts
from gatepass.core.errors import SourceError
from gatepass.egress.aws_topology import REFUSED_SECONDS, AwsTopology
from gatepass.sandbox.ec2.faults import Fault
from tests.conftest import AwsAccount
from tests.egress.conftest import Clock
from tests.egress.topology import NODE, alone
from tests.egress.vpc import Machine, Vpc


def node_of(machine: Machine) -> NodeFacts:
    internal = (machine.private,) if machine.ipv6 is None else (machine.private, machine.ipv6)
    return NodeFacts(f"n-{machine.id}", machine.provider_id, internal)


def pod_on(machine: Machine, *ips: str, **changed: Any) -> PodFacts:
    given = {"name": "runner", "uid": "u-1", "phase": "Running", "node": "n", "host_ips": (machine.private,)}
    return PodFacts(**{**given, "ips": ips or (machine.private,), **changed})


async def addresses(topology: AwsTopology, machine: Machine, *ips: str, **changed: Any) -> list[str]:
    found = await topology.departures(pod_on(machine, *ips, **changed), node_of(machine), alone)
    assert all(machine.id in each.evidence for each in found)
    return [each.ip for each in found]


async def refusal(topology: AwsTopology, machine: Machine, *ips: str) -> SourceError:
    with pytest.raises(SourceError) as caught:
        await addresses(topology, machine, *ips)
    return caught.value


def calls(aws: AwsAccount, since: int) -> list[str]:
    """The describes that the topology has asked for, and not the test."""
    found = [each for each in aws.control.log(since) if each["account"] == aws.account]
    return [each["action"] for each in found if each["action"].startswith("Describe")]


async def test_a_public_node(topology: AwsTopology, vpc: Vpc) -> None:
    machine = vpc.machine(vpc.subnet(v4=vpc.internet), public=True)
    assert machine.public is not None
    assert await addresses(topology, machine, vpc.pod_address(machine)) == [machine.public]


@pytest.mark.parametrize("number", [1, 3])
async def test_all_addresses_of_a_nat_gateway(topology: AwsTopology, vpc: Vpc, number: int) -> None:
    gateway, expected = vpc.nat(number)
    machine = vpc.machine(vpc.subnet(v4=gateway))
    assert await addresses(topology, machine, vpc.pod_address(machine)) == expected


async def test_each_zone_has_a_gateway_of_its_own(topology: AwsTopology, vpc: Vpc) -> None:
    for zone in "ab":
        gateway, expected = vpc.nat()
        machine = vpc.machine(vpc.subnet(zone, v4=gateway), zone)
        assert await addresses(topology, machine) == expected


async def test_the_main_route_table(topology: AwsTopology, vpc: Vpc) -> None:
    gateway, expected = vpc.nat(2)
    vpc.route(vpc.main, v4=gateway)
    machine = vpc.machine(vpc.subnet())
    found = await topology.departures(pod_on(machine), node_of(machine), alone)
    assert [each.ip for each in found] == expected
    assert f"route table {vpc.main} (main)" in found[0].evidence


async def test_ipv6_behind_an_egress_only_gateway(topology: AwsTopology, vpc: Vpc) -> None:
    gateway, of_gateway = vpc.nat()
    machine = vpc.machine(vpc.subnet(v4=gateway, v6=vpc.egress_only()), ipv6=True)
    own = vpc.pod_prefix(machine)
    assert await addresses(topology, machine, own, host_ips=(machine.ipv6,)) == [*of_gateway, own]


async def test_an_elastic_ip_of_the_pods_own_address(topology: AwsTopology, vpc: Vpc) -> None:
    machine = vpc.machine(vpc.subnet(v4=vpc.internet), public=True)
    ip, elastic = vpc.pod_address(machine), vpc.address()
    made = vpc.ec2.associate_address(
        AllocationId=elastic["AllocationId"], NetworkInterfaceId=machine.interface, PrivateIpAddress=ip
    )
    assert set(await addresses(topology, machine, ip)) == {machine.public, elastic["PublicIp"]}
    assert await addresses(topology, machine, vpc.pod_address(machine)) == [machine.public]
    vpc.ec2.disassociate_address(AssociationId=made["AssociationId"])


@pytest.mark.parametrize("what", ["transit", "firewall"])
async def test_what_hides_the_address_is_named(topology: AwsTopology, vpc: Vpc, what: str) -> None:
    hidden: str = getattr(vpc, what)()
    machine = vpc.machine(vpc.subnet(v4=hidden))
    error = await refusal(topology, machine)
    assert (error.reason, error.retry, error.awaited) == ("WayNotResolvable", False, False)
    assert hidden in error.message


async def test_an_instance_that_is_gone_or_never_was(topology: AwsTopology, vpc: Vpc) -> None:
    machine = vpc.machine(vpc.subnet(v4=vpc.internet), public=True)
    assert await addresses(topology, machine) == [machine.public]
    other = Machine("i-0123456789abcdef0", machine.zone, machine.private, "", None)
    assert (await refusal(topology, other)).reason == "InstanceGone"
    vpc.ec2.terminate_instances(InstanceIds=[machine.id])
    fresh = Machine(machine.id, machine.zone, machine.private, "", None)
    found = await refusal_after(topology, fresh)
    assert (found.reason, found.message) == (
        "InstanceGone",
        f"instance {machine.id} of node n-{machine.id} is terminated",
    )


async def refusal_after(topology: AwsTopology, machine: Machine) -> SourceError:
    """What is refused once nothing is known from before any more."""
    clock = topology._monotonic
    assert isinstance(clock, Clock)
    clock.now += 31
    return await refusal(topology, machine)


async def test_another_host_or_instance_than_the_node_says(topology: AwsTopology, vpc: Vpc) -> None:
    subnet = vpc.subnet(v4=vpc.internet)
    mine, theirs = vpc.machine(subnet, public=True), vpc.machine(subnet, public=True)
    forged = NodeFacts("n", theirs.provider_id, (mine.private,))
    with pytest.raises(SourceError) as caught:
        await topology.departures(pod_on(mine), forged, alone)
    assert caught.value.reason == "HostAddressMismatch"


@pytest.mark.parametrize(
    "id_",
    [
        "aws:///eu-central-1a/0a1b/fargate-ip-10-0-1-2.x",
        "aws:///eu-central-1a/fargate-ip-10-0-1-2",
        "aws://",
        "aws:///x/i-1",
    ],
)
async def test_what_is_no_instance(topology: AwsTopology, aws: AwsAccount, id_: str) -> None:
    last = aws.control.last()
    nowhere = Machine("", "", "10.0.0.1", "", None)
    with pytest.raises(SourceError) as caught:
        await topology.departures(pod_on(nowhere), NodeFacts("n", id_, ("10.0.0.1",)), alone)
    assert caught.value.reason == "NotAnInstance"
    assert id_ in caught.value.message
    assert calls(aws, last) == []


@pytest.mark.parametrize("action", ["DescribeInstances", "DescribeVpcs", "DescribeRouteTables", "DescribeNatGateways"])
async def test_a_call_that_is_not_allowed_is_named_with_the_remedy(
    topology: AwsTopology, vpc: Vpc, aws: AwsAccount, clock: Clock, action: str
) -> None:
    machine = vpc.machine(vpc.subnet(v4=vpc.nat()[0]))
    aws.control.set_faults(Fault(kind="deny", action=f"ec2:{action}", account=aws.account))
    error = await refusal(topology, machine)
    assert (error.reason, error.retry) == ("NotAuthorized", False)
    assert error.message.startswith(f"ec2:{action}: ")
    assert error.message.endswith(
        "`gatepass iam-policy --pods-in eu-central-1` prints what Gatepass's own identity needs"
    )
    aws.control.set_faults()
    clock.now += REFUSED_SECONDS + 1
    assert await addresses(topology, machine)


async def test_a_call_that_is_not_needed_need_not_be_allowed(topology: AwsTopology, vpc: Vpc, aws: AwsAccount) -> None:
    machine = vpc.machine(vpc.subnet(v4=vpc.internet), public=True)
    aws.control.set_faults(Fault(kind="deny", action="ec2:DescribeNatGateways", account=aws.account))
    assert await addresses(topology, machine) == [machine.public]


async def test_what_may_work_in_a_moment_is_tried_again(topology: AwsTopology, vpc: Vpc, aws: AwsAccount) -> None:
    machine = vpc.machine(vpc.subnet(v4=vpc.internet), public=True)
    aws.control.set_faults(Fault(kind="error", action="ec2:DescribeInstances", account=aws.account, status=503))
    assert (await refusal(topology, machine)).retry
    aws.control.set_faults()
    assert await addresses(topology, machine) == [machine.public]


async def test_two_hundred_pods_on_twenty_nodes_take_six_calls_at_most(
    topology: AwsTopology, vpc: Vpc, aws: AwsAccount
) -> None:
    """One after the other, as CI jobs come: the first one's calls ask for what the others will want to know."""
    gateways = {zone: vpc.nat(2) for zone in "ab"}
    vpc.route(vpc.main, v4=gateways["a"][0])
    subnets = {"a": vpc.subnet("a"), "b": vpc.subnet("b", v4=gateways["b"][0])}
    machines = [(zone, vpc.machine(subnets[zone], zone)) for zone in "ab" for _ in range(10)]
    nodes = [node_of(each) for _, each in machines]

    async def neighbours() -> list[NodeFacts]:
        return [*nodes, NODE, NodeFacts("n-far", "aws:///us-east-1a/i-0123456789abcdef0", ("10.0.0.9",))]

    last = aws.control.last()
    for zone, machine in machines:
        for _ in range(10):
            found = await topology.departures(pod_on(machine, "192.168.0.7"), node_of(machine), neighbours)
            assert [each.ip for each in found] == gateways[zone][1]
    asked = calls(aws, last)
    assert len(asked) <= 6
    assert asked.count("DescribeInstances") == 1


@pytest.mark.parametrize("why", ["WayNotResolvable", "InstanceGone", "NotAuthorized"])
async def test_so_do_two_hundred_that_are_refused(
    topology: AwsTopology, vpc: Vpc, aws: AwsAccount, clock: Clock, why: str
) -> None:
    """One after the other; EC2 is asked again a quarter of a minute later."""
    gateway, _ = vpc.nat()
    subnet = vpc.subnet(v4=vpc.transit() if why == "WayNotResolvable" else gateway)
    machines = [vpc.machine(subnet) for _ in range(20)]
    nodes = [node_of(each) for each in machines]

    async def neighbours() -> list[NodeFacts]:
        return nodes

    async def each_is_refused() -> None:
        for machine, node in zip(machines * 10, nodes * 10, strict=True):
            with pytest.raises(SourceError) as caught:
                await topology.departures(pod_on(machine, "192.168.0.7"), node, neighbours)
            assert caught.value.reason == why

    if why == "InstanceGone":
        vpc.ec2.terminate_instances(InstanceIds=[each.id for each in machines])
    if why == "NotAuthorized":
        aws.control.set_faults(Fault(kind="deny", action="ec2:DescribeNatGateways", account=aws.account))
    last = aws.control.last()
    await each_is_refused()
    assert len(calls(aws, last)) <= 6
    clock.now += REFUSED_SECONDS + 1
    last = aws.control.last()
    await each_is_refused()
    assert 1 <= len(calls(aws, last)) <= 6


async def test_a_way_out_that_comes_is_seen_within_seconds(topology: AwsTopology, vpc: Vpc, clock: Clock) -> None:
    """A node that has just come has no public address yet."""
    machine = vpc.machine(vpc.subnet(v4=vpc.internet))
    assert (await refusal(topology, machine)).reason == "NoWayOut"
    public = vpc.address()
    vpc.ec2.associate_address(InstanceId=machine.id, AllocationId=public["AllocationId"])
    clock.now += 2
    assert (await refusal(topology, machine)).reason == "NoWayOut"
    clock.now += 2
    assert await addresses(topology, machine) == [public["PublicIp"]]


async def test_those_who_ask_at_once_share_their_calls(topology: AwsTopology, vpc: Vpc, aws: AwsAccount) -> None:
    gateway, expected = vpc.nat()
    subnet = vpc.subnet(v4=gateway)
    machines = [vpc.machine(subnet) for _ in range(3)]
    last = aws.control.last()
    found = await asyncio.gather(*(addresses(topology, each, "192.168.0.7") for each in machines * 10))
    assert found == [expected] * 30
    assert len(calls(aws, last)) <= 4


async def test_a_neighbour_that_is_gone_is_nobodys_trouble(topology: AwsTopology, vpc: Vpc) -> None:
    machine = vpc.machine(vpc.subnet(v4=vpc.internet), public=True)

    async def neighbours() -> list[NodeFacts]:
        return [NodeFacts("n-gone", "aws:///eu-central-1a/i-0123456789abcdef0", ("10.0.0.9",))]

    found = await topology.departures(pod_on(machine), node_of(machine), neighbours)
    assert [each.ip for each in found] == [machine.public]


async def test_what_is_known_is_short_lived(topology: AwsTopology, vpc: Vpc, aws: AwsAccount, clock: Clock) -> None:
    gateway, expected = vpc.nat()
    machine = vpc.machine(vpc.subnet(v4=gateway))
    assert await addresses(topology, machine) == expected
    added = vpc.address()
    vpc.ec2.associate_nat_gateway_address(NatGatewayId=gateway, AllocationIds=[added["AllocationId"]])
    clock.now += 29
    assert await addresses(topology, machine) == expected
    clock.now += 2
    assert await addresses(topology, machine) == sorted(
        [*expected, added["PublicIp"]], key=lambda each: [int(part) for part in each.split(".")]
    )


async def test_nobody_waits_on_the_word_of_what_was_known_before(topology: AwsTopology, vpc: Vpc) -> None:
    """The CNI plugin puts an address on the machine for each new pod, and the next pod is asked about at once."""
    machine = vpc.machine(vpc.subnet(v4=vpc.internet, v6=vpc.internet), public=True, ipv6=True)
    assert await addresses(topology, machine, vpc.pod_address(machine)) == [machine.public]
    own = vpc.pod_prefix(machine)
    assert await addresses(topology, machine, vpc.pod_address(machine), own) == [machine.public, own]


def test_only_awss_machines_are_known(topology: AwsTopology) -> None:
    assert topology.knows(NODE.provider_id)
    assert not topology.knows("gce://project/zone/name")
    assert not topology.knows("")

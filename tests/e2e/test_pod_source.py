"""source.pod, from the pod's events to the rules: on topologies of EC2 that an administrator would build."""

import time
from collections.abc import Iterator

import pytest

from gatepass.egress.aws_topology import KEPT_SECONDS, REFUSED_SECONDS
from gatepass.sandbox.cloud import ACCESS_KEY
from gatepass.sandbox.ec2.faults import Fault
from gatepass.sandbox.environment import Sandbox
from tests.conftest import AwsAccount
from tests.e2e.firewall import Firewall, Group
from tests.e2e.pods import Pods, addresses, asked_for_pods, session
from tests.e2e.product import Product
from tests.e2e.tenant import SESSION, Tenant, condition, wait_for
from tests.egress.vpc import Machine, Vpc


@pytest.fixture
def vpc(account: AwsAccount) -> Vpc:
    """A new VPC in the operator's own account."""
    return Vpc(account.client("ec2"))


@pytest.fixture
def pods(tenant: Tenant) -> Iterator[Pods]:
    """Pods of the tenant."""
    made = Pods(tenant)
    yield made
    made.leave()


def until_open(tenant: Tenant, group: Group, *ips: str, name: str = "it-1") -> dict[str, str]:
    """Wait until a session is open to these addresses and no others; answers with the evidence."""
    tenant.until_phase(name, "Active")
    found = addresses(tenant, name)
    assert set(found) == set(ips)
    assert {cidr.split("/")[0] for cidr, _ in group.open_to()} == set(ips)
    return found


def until_refused(tenant: Tenant, reason: str, *told: str, name: str = "it-1") -> str:
    """Wait until a session is refused for a reason, in these words."""
    found = tenant.until_condition(SESSION, name, "SourceResolved", "False")
    assert found["reason"] == reason, found
    assert all(each in found["message"] for each in told), found
    tenant.until_phase(name, "Failed")
    return str(found["message"])


def test_a_public_node(tenant: Tenant, group: Group, vpc: Vpc, pods: Pods) -> None:
    tenant.resource(group.id)
    machine = vpc.machine(vpc.subnet(v4=vpc.internet), public=True)
    pods.run_on(machine, vpc.pod_address(machine))
    session(tenant)
    assert machine.public is not None
    evidence = until_open(tenant, group, machine.public)[machine.public]
    assert machine.id in evidence
    assert f"internet gateway {vpc.internet}" in evidence
    found = condition(tenant.get(SESSION, "it-1"), "SourceResolved")
    assert found["status"] == "True"


def test_an_elastic_ip_of_the_pods_own_on_a_secondary_interface(
    tenant: Tenant, group: Group, vpc: Vpc, pods: Pods
) -> None:
    tenant.resource(group.id)
    machine = vpc.machine(vpc.subnet(v4=vpc.internet), public=True)
    interface, ip = vpc.pod_interface(machine, vpc.subnet(v4=vpc.internet))
    elastic = vpc.address()
    vpc.ec2.associate_address(AllocationId=elastic["AllocationId"], NetworkInterfaceId=interface, PrivateIpAddress=ip)
    pods.run_on(machine, ip)
    session(tenant)
    # A CNI plugin may masquerade behind the primary interface: EC2 cannot tell, so both may be it.
    assert machine.public is not None
    found = until_open(tenant, group, machine.public, elastic["PublicIp"])
    assert interface in found[elastic["PublicIp"]]


@pytest.mark.parametrize("number", [1, 3])
def test_a_private_node_behind_a_nat_gateway(tenant: Tenant, group: Group, vpc: Vpc, pods: Pods, number: int) -> None:
    tenant.resource(group.id)
    gateway, expected = vpc.nat(number)
    machine = vpc.machine(vpc.subnet(v4=gateway))
    pods.run_on(machine, vpc.pod_address(machine))
    session(tenant)
    found = until_open(tenant, group, *expected)
    assert all(f"NAT gateway {gateway}" in each for each in found.values())


def test_two_zones_with_a_gateway_each(tenant: Tenant, firewall: Firewall, vpc: Vpc, pods: Pods) -> None:
    for zone in "ab":
        group = firewall.group()
        tenant.resource(group.id, name=f"db-{zone}")
        gateway, expected = vpc.nat()
        pods.run_on(vpc.machine(vpc.subnet(zone, v4=gateway), zone), name=f"runner-{zone}")
        body = tenant.session_body(f"db-{zone}", name=f"it-{zone}")
        body["spec"]["source"] = {"pod": {"name": f"runner-{zone}"}}
        tenant.create(body)
        until_open(tenant, group, *expected, name=f"it-{zone}")


def test_the_main_route_table(tenant: Tenant, group: Group, vpc: Vpc, pods: Pods) -> None:
    tenant.resource(group.id)
    gateway, expected = vpc.nat()
    vpc.route(vpc.main, v4=gateway)
    pods.run_on(vpc.machine(vpc.subnet()))
    session(tenant)
    (evidence,) = until_open(tenant, group, *expected).values()
    assert f"{vpc.main} (main)" in evidence


def test_ipv6_behind_an_egress_only_gateway(tenant: Tenant, group: Group, vpc: Vpc, pods: Pods) -> None:
    tenant.resource(group.id)
    gateway = vpc.egress_only()
    machine = vpc.machine(vpc.subnet(v6=gateway), ipv6=True)
    own = vpc.pod_prefix(machine)
    pods.run_on(machine, own)
    session(tenant)
    assert f"egress-only internet gateway {gateway}" in until_open(tenant, group, own)[own]


def test_ipv6_that_is_on_no_interface_of_the_instance(tenant: Tenant, group: Group, vpc: Vpc, pods: Pods) -> None:
    tenant.resource(group.id)
    machine = vpc.machine(vpc.subnet(v6=vpc.internet), ipv6=True)
    pods.run_on(machine, "2001:db8::bad")
    session(tenant)
    message = tenant.until_condition(SESSION, "it-1", "SourceResolved", "False", "2001:db8::bad")["message"]
    assert "none of its interfaces has the address" in message
    assert group.rules() == []


def test_elsewhere_the_nodes_external_address(tenant: Tenant, group: Group, pods: Pods) -> None:
    tenant.resource(group.id)
    pods.pending()
    pods.schedule(pods.node("kind://docker/kind/worker", "10.9.0.4", "203.0.113.4"))
    pods.start("10.9.0.4", "10.244.0.7")
    session(tenant)
    assert "ExternalIP of node" in until_open(tenant, group, "203.0.113.4")["203.0.113.4"]


def test_a_pod_whose_host_is_not_its_node(tenant: Tenant, group: Group, pods: Pods) -> None:
    tenant.resource(group.id)
    pods.pending()
    pods.schedule(pods.node("kind://docker/kind/worker", "10.9.0.4", "203.0.113.4"))
    pods.start("10.9.0.5", "10.244.0.7")
    session(tenant)
    message = tenant.until_condition(SESSION, "it-1", "SourceResolved", "False", "10.9.0.5")["message"]
    assert "InternalIP is 10.9.0.4" in message
    assert group.rules() == []


def test_an_instance_that_is_gone(tenant: Tenant, group: Group, vpc: Vpc, pods: Pods) -> None:
    tenant.resource(group.id)
    machine = vpc.machine(vpc.subnet(v4=vpc.internet), public=True)
    vpc.ec2.terminate_instances(InstanceIds=[machine.id])
    pods.run_on(machine)
    session(tenant)
    until_refused(tenant, "InstanceGone", machine.id, "terminated")


@pytest.mark.parametrize("what", ["transit", "firewall"])
def test_what_hides_the_address(tenant: Tenant, group: Group, vpc: Vpc, pods: Pods, what: str) -> None:
    tenant.resource(group.id)
    hidden: str = getattr(vpc, what)()
    pods.run_on(vpc.machine(vpc.subnet(v4=hidden)))
    session(tenant)
    until_refused(tenant, "WayNotResolvable", hidden, "source.claim")


def test_a_call_that_is_not_allowed_until_it_is(
    tenant: Tenant, group: Group, vpc: Vpc, pods: Pods, sandbox: Sandbox
) -> None:
    tenant.resource(group.id)
    gateway, expected = vpc.nat()
    pods.run_on(vpc.machine(vpc.subnet(v4=gateway)))
    sandbox.ec2.set_faults(Fault(kind="deny", action="ec2:DescribeNatGateways"))
    session(tenant)
    until_refused(tenant, "NotAuthorized", "ec2:DescribeNatGateways", "--pods-in eu-central-1")
    sandbox.ec2.set_faults()
    until_open(tenant, group, *expected)


def test_a_pod_that_comes_later_is_waited_for_and_not_asked_for(
    tenant: Tenant, group: Group, vpc: Vpc, pods: Pods, sandbox: Sandbox, product: Product
) -> None:
    tenant.resource(group.id)
    machine = vpc.machine(vpc.subnet(v4=vpc.internet), public=True)
    assert machine.public is not None
    session(tenant)
    tenant.until_condition(SESSION, "it-1", "SourceResolved", "False", "there is no pod runner yet")
    pods.pending()
    tenant.until_condition(SESSION, "it-1", "SourceResolved", "False", "has no node yet")
    pods.schedule(pods.node_of(machine))
    tenant.until_condition(SESSION, "it-1", "SourceResolved", "False", "does not run yet")
    assert group.rules() == []
    pods.start(machine.private, machine.private)
    until_open(tenant, group, machine.public)
    asked = asked_for_pods(sandbox.control_plane.audit_log.read_text(), tenant.namespace)
    assert sorted(asked) == ["list", "watch"]


def test_another_pod_of_the_same_name_is_not_it(tenant: Tenant, group: Group, vpc: Vpc, pods: Pods) -> None:
    tenant.resource(group.id, policy={"followAddressChanges": True})
    first, second = (vpc.machine(vpc.subnet(v4=vpc.internet), public=True) for _ in range(2))
    assert first.public is not None
    pods.run_on(first)
    session(tenant)
    until_open(tenant, group, first.public)
    pods.delete()
    tenant.until_condition(SESSION, "it-1", "SourceResolved", "True", "is gone")
    pods.run_on(second)
    tenant.until_condition(SESSION, "it-1", "SourceResolved", "True", "is another one now")
    assert {cidr for cidr, _ in group.open_to()} == {f"{first.public}/32"}


def test_an_address_that_changes_is_followed_where_that_is_allowed(
    tenant: Tenant, firewall: Firewall, vpc: Vpc, pods: Pods
) -> None:
    """A gateway that gets one more address: found at the next resync, when what is known is too old."""
    follows, stays = firewall.group(), firewall.group()
    tenant.resource(follows.id, name="follows", policy={"followAddressChanges": True})
    tenant.resource(stays.id, name="stays")
    gateway, expected = vpc.nat()
    pods.run_on(vpc.machine(vpc.subnet(v4=gateway)))
    for name, group in (("follows", follows), ("stays", stays)):
        body = tenant.session_body(name, name=name)
        body["spec"]["source"] = {"pod": {"name": "runner"}}
        tenant.create(body)
        until_open(tenant, group, *expected, name=name)
    added = vpc.address()
    vpc.ec2.associate_nat_gateway_address(NatGatewayId=gateway, AllocationIds=[added["AllocationId"]])
    both = {f"{each}/32" for each in (*expected, added["PublicIp"])}
    wait_for(lambda: {cidr for cidr, _ in follows.open_to()} == both, "both addresses", 60.0)
    wait_for(lambda: condition(tenant.get(SESSION, "stays"), "SourceChanged"), "it is told of", 60.0)
    told = condition(tenant.get(SESSION, "stays"), "SourceChanged")
    assert (told["status"], told["reason"]) == ("True", "NotFollowed")
    assert added["PublicIp"] in told["message"]
    assert {cidr for cidr, _ in stays.open_to()} == {f"{each}/32" for each in expected}
    assert condition(tenant.get(SESSION, "stays"), "Ready")["status"] == "True"
    assert condition(tenant.get(SESSION, "follows"), "SourceChanged") == {}


def test_after_a_restart_it_is_still_that_pod(
    tenant: Tenant, group: Group, vpc: Vpc, pods: Pods, product: Product
) -> None:
    tenant.resource(group.id, policy={"followAddressChanges": True})
    first, second = (vpc.machine(vpc.subnet(v4=vpc.internet), public=True) for _ in range(2))
    assert first.public is not None
    pods.run_on(first)
    session(tenant)
    until_open(tenant, group, first.public)
    product.stop()
    pods.delete()
    pods.run_on(second)
    product.start()
    tenant.until_condition(SESSION, "it-1", "SourceResolved", "True", "is another one now")
    assert {cidr for cidr, _ in group.open_to()} == {f"{first.public}/32"}


def two_hundred(tenant: Tenant, pods: Pods, machines: list[Machine]) -> None:
    """One after the other on the machines in turn, each with its session as it starts."""
    nodes = [pods.node_of(each) for each in machines]
    for number in range(200):
        machine, node = machines[number % len(machines)], nodes[number % len(machines)]
        pods.pending(f"runner-{number}")
        pods.schedule(node, f"runner-{number}")
        pods.start(machine.private, "192.168.0.7", name=f"runner-{number}")
        session(tenant, f"it-{number}", f"runner-{number}")


def test_two_hundred_pods_on_twenty_nodes_take_six_calls_at_most(
    tenant: Tenant, group: Group, vpc: Vpc, pods: Pods, product: Product, sandbox: Sandbox
) -> None:
    """However they come: each with its session as it starts, and all at once to an operator that has just started."""
    tenant.resource(group.id)
    gateways = {zone: vpc.nat(2) for zone in "ab"}
    subnets = {zone: vpc.subnet(zone, v4=gateways[zone][0]) for zone in "ab"}
    machines = [vpc.machine(subnets[zone], zone) for zone in "ab" for _ in range(10)]
    last, began = sandbox.ec2.last(), time.monotonic()
    two_hundred(tenant, pods, machines)
    for number in range(200):
        tenant.until_phase(f"it-{number}", "Active")
    assert len(_topology_calls(sandbox, last)) <= 6 * _rounds(began, KEPT_SECONDS)
    product.stop()
    last, began = sandbox.ec2.last(), time.monotonic()
    product.start()
    wait_for(lambda: "DescribeNatGateways" in _topology_calls(sandbox, last), "the look after the start")
    pods.delete("runner-199")
    pods.run_on(machines[0], name="runner-199")
    tenant.until_condition(SESSION, "it-199", "SourceResolved", "True", "is another one now")
    assert len(_topology_calls(sandbox, last)) <= 6 * _rounds(began, KEPT_SECONDS)


@pytest.mark.parametrize("why", ["WayNotResolvable", "InstanceGone", "NotAuthorized"])
def test_so_do_two_hundred_that_are_refused(
    tenant: Tenant, group: Group, vpc: Vpc, pods: Pods, sandbox: Sandbox, why: str
) -> None:
    tenant.resource(group.id)
    subnet = vpc.subnet(v4=vpc.transit() if why == "WayNotResolvable" else vpc.nat()[0])
    machines = [vpc.machine(subnet) for _ in range(20)]
    if why == "InstanceGone":
        vpc.ec2.terminate_instances(InstanceIds=[each.id for each in machines])
    if why == "NotAuthorized":
        sandbox.ec2.set_faults(Fault(kind="deny", action="ec2:DescribeNatGateways"))
    last, began = sandbox.ec2.last(), time.monotonic()
    two_hundred(tenant, pods, machines)
    for number in range(200):
        tenant.until_phase(f"it-{number}", "Failed")
    found = {condition(each, "SourceResolved")["reason"] for each in tenant.listed(SESSION)}
    assert found == {why}
    assert group.rules() == []
    assert len(_topology_calls(sandbox, last)) <= 6 * _rounds(began, REFUSED_SECONDS)


def _rounds(began: float, kept_seconds: float) -> int:
    """How often what is kept for so long may have been asked for since; on a slow machine more than once."""
    return 1 + int((time.monotonic() - began) // kept_seconds)


def _topology_calls(sandbox: Sandbox, since: int) -> list[str]:
    """The operator's calls about instances and what surrounds them."""
    own = [each["action"] for each in sandbox.ec2.log(since) if each.get("access_key") == ACCESS_KEY]
    topology = ("DescribeInstances", "DescribeVpcs", "DescribeRouteTables", "DescribeNatGateways")
    return [action for action in own if action in topology]

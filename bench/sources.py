"""`python -m bench.sources`: what finding a pod's address adds to declaring it; written to bench/sources.json."""

import asyncio
import json
import sys
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.api import Watch
from bench.figures import Figure, conclude, percentile
from bench.load import Opening, open_and_close
from bench.observed import breaches, figure, observed
from bench.records import AuditLog, by_action, most_until_ready
from bench.rounds import PAUSE_SECONDS, WARM_UPS
from bench.scene import ACCOUNT, Scene, admin, build, ec2_client
from gatepass.sandbox.environment import Sandbox
from gatepass.sandbox.kubeapi import KubeApi, KubeApiError

RESULTS = Path(__file__).with_name("sources.json")
EACH, PODS = 30, 5
REGION = "eu-north-1"
_MERGE = "application/merge-patch+json"


@dataclass(frozen=True)
class PodScene(Scene):
    """Sessions that name pods, all behind one NAT gateway."""

    def session(self, number: int) -> dict[str, Any]:
        """Session `number`, for one of the pods."""
        body = super().session(number)
        body["spec"]["source"] = {"pod": {"name": f"runner-{number % PODS}"}}
        return body


def node_behind_nat(ec2: Any) -> tuple[str, str]:
    """An instance in a private subnet: its providerID and its address."""
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.1.0/24", AvailabilityZone=f"{REGION}a")["Subnet"]["SubnetId"]
    elastic = ec2.allocate_address(Domain="vpc")["AllocationId"]
    gateway = ec2.create_nat_gateway(SubnetId=subnet, AllocationId=elastic)["NatGateway"]["NatGatewayId"]
    table = ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
    ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", NatGatewayId=gateway)
    ec2.associate_route_table(RouteTableId=table, SubnetId=subnet)
    placed = {"ImageId": "ami-12c6146b", "MinCount": 1, "MaxCount": 1, "SubnetId": subnet}
    (made,) = ec2.run_instances(**placed)["Instances"]
    return f"aws:///{REGION}a/{made['InstanceId']}", made["PrivateIpAddress"]


def run_pods(api: KubeApi, namespace: str, provider_id: str, host: str) -> None:
    """The node, and pods that run on it."""
    api.request("POST", "/api/v1/nodes", {"metadata": {"name": "worker"}, "spec": {"providerID": provider_id}})
    addresses = {"addresses": [{"type": "InternalIP", "address": host}]}
    api.request("PATCH", "/api/v1/nodes/worker/status", {"status": addresses}, _MERGE)
    here = f"/api/v1/namespaces/{namespace}"
    try:
        api.request("POST", f"{here}/serviceaccounts", {"metadata": {"name": "default"}})
    except KubeApiError as error:
        if error.status != 409:  # the controller was faster
            raise
    status = {"phase": "Running", "hostIP": host, "podIP": host}
    for number in range(PODS):
        spec = {"nodeName": "worker", "containers": [{"name": "job", "image": "job"}]}
        api.request("POST", f"{here}/pods", {"metadata": {"name": f"runner-{number}"}, "spec": spec})
        api.request("PATCH", f"{here}/pods/runner-{number}/status", {"status": status}, _MERGE)


async def measure(sandbox: Sandbox, declared: Scene, found: Scene) -> list[Figure]:
    """Sessions one at a time, one that declares and one that is found in turn."""
    scenes: dict[str, Scene] = {"cidrs": declared, "pod": found}
    openings: dict[str, list[Opening]] = {kind: [] for kind in scenes}
    async with admin(sandbox) as api, AsyncExitStack() as stack:
        watches = {kind: await stack.enter_async_context(Watch(api, scene.namespace)) for kind, scene in scenes.items()}
        for kind, scene in scenes.items():
            for number in range(WARM_UPS):
                await open_and_close(api, watches[kind], scene, number)
        last, audit = sandbox.ec2.last(), AuditLog(sandbox.control_plane.audit_log)
        for number in range(WARM_UPS, WARM_UPS + EACH):
            for kind, scene in scenes.items():
                openings[kind].append(await open_and_close(api, watches[kind], scene, number))
                await asyncio.sleep(PAUSE_SECONDS)
        written = audit.writes_by(ACCOUNT)
    audits = {
        kind: [each for each in written if each["objectRef"].get("namespace") == scene.namespace]
        for kind, scene in scenes.items()
    }
    p50 = {kind: percentile([each.seconds for each in took], 50) for kind, took in openings.items()}
    writes = {kind: most_until_ready(openings[kind], audits[kind]) for kind in scenes}
    calls = by_action(sandbox.ec2.log(last))
    describes = sum(number for action, number in calls.items() if action in _TOPOLOGY)
    ratio = round(p50["pod"] / p50["cidrs"], 2)
    return [
        Figure(
            "source.pod: create to Ready, p50, to source.cidrs", _ms(p50["pod"]), "ms", _ms(p50["cidrs"]), ratio, 1.3
        ),
        Figure("source.pod: writes to a session until Ready", writes["pod"], "", bar=writes["cidrs"] + 1),
        Figure(f"source.pod: calls about the topology for {EACH} sessions", describes, ""),
    ]


_TOPOLOGY = {"DescribeInstances", "DescribeVpcs", "DescribeRouteTables", "DescribeNatGateways"}


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)


def main() -> int:
    """Take the figures; the exit code is 1 for a missed bar."""
    with Sandbox(audit=False) as sandbox, observed(sandbox) as observer:
        declared = build(sandbox, "declared", "eu-west-1", 1, verified=True)
        named = build(sandbox, "found", REGION, 1, verified=True)
        ec2 = ec2_client(sandbox, REGION)
        provider_id, host = node_behind_nat(ec2)
        ec2.close()
        with sandbox.control_plane.api() as api:
            run_pods(api, named.namespace, provider_id, host)
        found = asyncio.run(measure(sandbox, declared, PodScene(named.namespace, named.region, named.groups)))
        broken = breaches(observer)
    found.append(figure(broken))
    RESULTS.write_text(json.dumps([asdict(each) for each in found], indent=1) + "\n")
    return conclude("a session whose address is found", found, broken, Console(width=140))


if __name__ == "__main__":
    sys.exit(main())

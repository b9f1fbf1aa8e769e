"""What the figures are taken on: a namespace, security groups, and a ProtectedResource for each of them."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import boto3
from botocore.config import Config

from bench.api import Api, is_ready
from gatepass.sandbox.environment import NAMESPACE, SERVICE_ACCOUNT, Sandbox

PORT = 5432
VERSION = "gatepass.dev/v1alpha1"
PATIENCE_SECONDS = 60.0
OTHER_TOOL = "AKIAANOTHERTOOL00001"
"""The access key of the bare calls: who reads EC2's call log knows them from Gatepass's."""
ACCOUNT = f"system:serviceaccount:{NAMESPACE}:{SERVICE_ACCOUNT}"


@dataclass(frozen=True)
class Scene:
    """Where sessions are opened, and when they end.

    Each scene has a Region of its own, so that its token buckets are full.
    """

    namespace: str
    region: str
    groups: tuple[str, ...]
    ends: Mapping[str, str] = field(default_factory=lambda: {"duration": "1h"})

    def session(self, number: int) -> dict[str, Any]:
        """Session `number`, with an address that no other has."""
        return {
            "apiVersion": VERSION,
            "kind": "AccessSession",
            "metadata": {"name": session_name(number)},
            "spec": {
                "resources": [{"name": f"db-{number % len(self.groups)}"}],
                "source": {"cidrs": [address(number)]},
                **self.ends,
            },
        }


def session_name(number: int) -> str:
    """What session `number` is called."""
    return f"it-{number}"


def address(number: int) -> str:
    """One of the addresses that are set aside for benchmarks (RFC 2544)."""
    return f"198.18.{number // 250}.{number % 250 + 1}/32"


def ec2_client(sandbox: Sandbox, region: str) -> Any:
    """Bare boto3, which does not try again by itself, in Gatepass's account."""
    return boto3.client(
        "ec2",
        region_name=region,
        endpoint_url=sandbox.endpoint_url,
        aws_access_key_id=OTHER_TOOL,
        aws_secret_access_key=sandbox.env["AWS_SECRET_ACCESS_KEY"],
        config=Config(retries={"total_max_attempts": 1}),
    )


def new_group(ec2: Any, name: str) -> str:
    """An empty security group."""
    return str(ec2.create_security_group(GroupName=name, Description="bench")["GroupId"])


def build(sandbox: Sandbox, namespace: str, region: str, groups: int, *, verified: bool) -> Scene:
    """Make the scene; `verified` waits until the operator calls every resource Ready."""
    ec2 = ec2_client(sandbox, region)
    scene = Scene(namespace, region, tuple(new_group(ec2, f"{namespace}-{number}") for number in range(groups)))
    collection = f"/apis/{VERSION}/namespaces/{namespace}/protectedresources"
    with sandbox.control_plane.api() as api:
        api.request("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
        for number, group in enumerate(scene.groups):
            api.request("POST", collection, _resource(f"db-{number}", region, group))
        deadline = time.monotonic() + PATIENCE_SECONDS
        while verified and not all(is_ready(item) for item in api.request("GET", collection)["items"]):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the resources of {namespace} are not Ready: see {sandbox.operator_log}")
            time.sleep(0.1)
    return scene


def _resource(name: str, region: str, group: str) -> Mapping[str, Any]:
    return {
        "apiVersion": VERSION,
        "kind": "ProtectedResource",
        "metadata": {"name": name},
        "spec": {"aws": {"region": region, "securityGroups": [group]}, "ports": [{"protocol": "TCP", "port": PORT}]},
    }


def admin(sandbox: Sandbox) -> Api:
    """The API server as its admin has it."""
    plane = sandbox.control_plane
    return Api(plane.server, plane.ca, plane.admin_token)


def gatepass_account(sandbox: Sandbox) -> Api:
    """The API server as Gatepass's own account has it, who alone may write status."""
    plane = sandbox.control_plane
    return Api(plane.server, plane.ca, plane.account_token(NAMESPACE, SERVICE_ACCOUNT))

"""Least privilege: what the roles give to Gatepass's own account is what it uses, no less and no more."""

import base64
from collections.abc import Iterator
from typing import Any

import boto3
import pytest

from gatepass.manifests import manifests
from gatepass.sandbox.cloud import REGION
from gatepass.sandbox.environment import Sandbox
from tests.chart.audit import granted, requests, used
from tests.manifests.tenants import Cluster, Person, resource, session, wait_until

ACCOUNT = "system:serviceaccount:gatepass-system:gatepass"
ROLES = {"gatepass-cluster", "gatepass-served", "gatepass-leader"}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """One with the operator, whose audit log tells of this test only."""
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def admin(sandbox: Sandbox) -> Iterator[Person]:
    cluster = Cluster(sandbox.control_plane)
    cluster.wait_for_policies()
    yield cluster.admin(cluster.namespace())
    cluster.close()


def security_group(sandbox: Sandbox) -> str:
    client = boto3.client(
        "ec2",
        region_name=REGION,
        endpoint_url=sandbox.endpoint_url,
        aws_access_key_id=sandbox.env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=sandbox.env["AWS_SECRET_ACCESS_KEY"],
    )
    try:
        return str(client.create_security_group(GroupName="door", Description="a door")["GroupId"])
    finally:
        client.close()


def a_life(sandbox: Sandbox, admin: Person) -> None:
    """Everything that the operator has a right for: a session from its creation to its deletion, with a Secret."""
    group = security_group(sandbox)
    data = {name.lower(): sandbox.env[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    encoded = {name: base64.b64encode(value.encode()).decode() for name, value in data.items()}
    secret = f"/api/v1/namespaces/{admin.namespace}/secrets/keys"
    admin.api.request("POST", secret.removesuffix("/keys"), {"metadata": {"name": "keys"}, "data": encoded})
    aws = {"region": REGION, "securityGroups": [group]}
    admin.create(resource("own", aws=aws))
    admin.create(resource("keyed", aws={**aws, "credentials": {"secretRef": {"name": "keys"}}}, ports=[{"port": 443}]))
    admin.create(session("own", "keyed", name="brief", ttlAfterEnded="0s"))
    wait_until(lambda: admin.get("AccessSession", "brief").get("status", {}).get("phase") == "Active")
    admin.patch("AccessSession", "brief", {"spec": {"stop": True}})
    wait_until(lambda: not exists(admin, admin.path("AccessSession", "brief")))
    for name in ("own", "keyed"):
        admin.api.request("DELETE", admin.path("ProtectedResource", name))
    wait_until(lambda: not any(exists(admin, admin.path("ProtectedResource", name)) for name in ("own", "keyed")))
    wait_until(lambda: not admin.api.request("GET", secret)["metadata"].get("finalizers"))


def exists(person: Person, path: str) -> bool:
    collection, name = path.rsplit("/", 1)
    return name in {each["metadata"]["name"] for each in person.api.request("GET", collection)["items"]}


def test_the_operator_uses_every_right_that_it_has_and_needs_no_other(sandbox: Sandbox, admin: Person) -> None:
    a_life(sandbox, admin)
    sandbox.stop_operator()
    roles = [each for each in manifests() if each["kind"].endswith("Role") and each["metadata"]["name"] in ROLES]
    done: list[dict[str, Any]] = requests(sandbox.control_plane.audit_log, ACCOUNT)
    refused = [each for each in done if each["responseStatus"]["code"] == 403]
    assert not used(refused), "missing in operator/gatepass/manifests/rbac.yaml"
    assert used(done) == granted(roles)

"""Least privilege: what the roles give to Gatepass's own account is what it uses, no less and no more."""

import base64
import time
from collections.abc import Iterator
from typing import Any

import boto3
import httpx
import pytest

from gatepass.manifests import manifests
from gatepass.sandbox.cloud import REGION
from gatepass.sandbox.environment import Sandbox
from tests.chart.audit import granted, requests, used
from tests.manifests.tenants import MERGE, Cluster, Person, binding, resource, session, wait_until

ACCOUNT = "system:serviceaccount:gatepass-system:gatepass"
HOST, OUT = "10.9.0.4", "203.0.113.4"
ROLES = {"gatepass-cluster", "gatepass-served", "gatepass-leader", "gatepass-pods", "gatepass-nodes"}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """One with the operator, whose audit log tells of this test only.

    A session of the second in which the operator started counts as one from before: creation is told in whole seconds.
    """
    with Sandbox() as sandbox:
        started = int(time.time())
        wait_until(lambda: int(time.time()) > started)
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
    """Everything that it has a right for: a session from its creation to its deletion, by kubectl and by HTTP."""
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
    by_pod(admin)
    by_http(sandbox, admin)
    by_claim(admin)
    for name in ("own", "keyed"):
        admin.api.request("DELETE", admin.path("ProtectedResource", name))
    wait_until(lambda: not any(exists(admin, admin.path("ProtectedResource", name)) for name in ("own", "keyed")))
    wait_until(lambda: not admin.api.request("GET", secret)["metadata"].get("finalizers"))


def by_pod(admin: Person) -> None:
    """Sessions for where pods' traffic leaves from; one of them on a machine of AWS, which is not there."""
    pods = f"/api/v1/namespaces/{admin.namespace}/pods"
    wait_until(lambda: exists(admin, f"/api/v1/namespaces/{admin.namespace}/serviceaccounts/default"))
    told = {"addresses": [{"type": kind, "address": ip} for kind, ip in (("InternalIP", HOST), ("ExternalIP", OUT))]}
    for name, machine, phase in (
        ("found", {}, "Active"),
        ("gone", {"providerID": "aws:///eu-central-1a/i-0123456789abcdef0"}, "Failed"),
    ):
        admin.api.request("POST", "/api/v1/nodes", {"metadata": {"name": name}, "spec": machine})
        admin.api.request("PATCH", f"/api/v1/nodes/{name}/status", {"status": told}, MERGE)
        spec = {"nodeName": name, "containers": [{"name": "job", "image": "job"}]}
        admin.api.request("POST", pods, {"metadata": {"name": name}, "spec": spec})
        running = {"phase": "Running", "hostIP": HOST, "podIP": HOST}
        admin.api.request("PATCH", f"{pods}/{name}/status", {"status": running}, MERGE)
        admin.create(session("own", name=name, ttlAfterEnded="0s", source={"pod": {"name": name}}))
        wait_until(lambda: admin.get("AccessSession", name).get("status", {}).get("phase") == phase)  # noqa: B023
        admin.patch("AccessSession", name, {"spec": {"stop": True}})
        wait_until(lambda: not exists(admin, admin.path("AccessSession", name)))  # noqa: B023


def by_http(sandbox: Sandbox, admin: Person) -> None:
    """A key in a Secret, which somebody edits, starts and stops a session; a token is asked about."""
    admin.create(binding("own"))
    secret = f"/api/v1/namespaces/{admin.namespace}/secrets/ci-key"
    first = key_in(admin, secret, "")
    admin.api.request("PATCH", secret, {"data": {"api-key": "eA=="}}, MERGE)
    admin.patch("ApiKeyBinding", "ci", {"metadata": {"labels": {"touched": "yes"}}})
    key = key_in(admin, secret, first)
    with httpx.Client(base_url=f"{sandbox.api_url}/api/v1", timeout=60, trust_env=False) as client:
        shown = {"X-API-Key": key}
        wait_until(lambda: client.get("/auth/me", headers=shown).status_code == 200)
        made = client.post("/sessions", json={"heartbeatSeconds": 30}, headers={**shown, "Prefer": "wait=30"})
        assert made.status_code == 200, made.text
        assert client.post(f"/sessions/{made.json()['id']}/heartbeat", headers=shown).status_code == 200
        # The Leases of hearts are followed as long as one beats: their watch is told of in the log when it has begun.
        wait_until(lambda: '"resource":"leases"' in watched(sandbox))
        assert client.post(f"/sessions/{made.json()['id']}/stop", headers=shown).status_code == 200
        admin.api.request("DELETE", admin.path("ApiKeyBinding", "ci"))
        token = {"Authorization": f"Bearer {sandbox.control_plane.admin_token}"}
        assert client.get("/auth/me", headers={**token, "X-Gatepass-Namespace": admin.namespace}).status_code == 200


def by_claim(admin: Person) -> None:
    """The runner says with a token where it is."""
    admin.create(session("own", name="claimed", ttlAfterEnded="0s", source={"claim": {}}))
    wait_until(lambda: "claim" in admin.get("AccessSession", "claimed").get("status", {}))
    offer = admin.get("AccessSession", "claimed")["status"]["claim"]
    data = admin.api.request("GET", f"/api/v1/namespaces/{admin.namespace}/secrets/{offer['secretName']}")["data"]
    token = base64.b64decode(data["token"]).decode()
    with httpx.Client(timeout=60, trust_env=False) as client:
        assert client.post(offer["url"], headers={"Authorization": f"Bearer {token}"}).status_code == 200
    wait_until(lambda: admin.get("AccessSession", "claimed").get("status", {}).get("phase") == "Active")
    admin.patch("AccessSession", "claimed", {"spec": {"stop": True}})
    wait_until(lambda: not exists(admin, admin.path("AccessSession", "claimed")))


def watched(sandbox: Sandbox) -> str:
    """The watches in the audit log."""
    lines = sandbox.control_plane.audit_log.read_text().splitlines()
    return "\n".join(line for line in lines if '"verb":"watch"' in line and ACCOUNT in line)


def key_in(admin: Person, secret: str, before: str) -> str:
    """The key in a Secret once it is another one than before."""
    found = [before]

    def another() -> bool:
        if exists(admin, secret):
            found[0] = base64.b64decode(admin.api.request("GET", secret)["data"]["api-key"]).decode()
        return found[0] not in ("", "x", before)

    wait_until(another)
    return found[0]


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
